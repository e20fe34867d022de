//! The size of the result.

use std::{num::NonZeroUsize, ops::Range};

use tweedie_data::{ImageFacts, image_facts};

use crate::{
    Inputs, Pipeline, PipelineError, Request, conditions,
    file::RecordedFile,
    known::{Work, length},
};

/// The size at which the result is made.
pub(super) struct Size {
    /// Positions along each axis.
    pub size: Vec<usize>,
    /// The part that is the result, if it is not all of it.
    pub crop: Option<Vec<Range<usize>>>,
}

impl Pipeline {
    /// The size of the result, which depends on what it is made of: the image that is enlarged, changed or guides it, or the
    /// duration of a sound; otherwise it is the request's or the model's.
    pub(super) fn size_made(
        &self,
        request: &Request,
        inputs: &Inputs,
        varies: bool,
        work: Option<&Work>,
        speaks: bool,
    ) -> Result<Size, PipelineError> {
        if request.seconds.is_some() || request.start.is_some() {
            let (size, part) = self.lasting(request, speaks)?;
            return Ok(Size { size, crop: part.map(|part| vec![part]) });
        }
        if let Some(small) = &self.model.small {
            let result = conditions::small_size(request, inputs.small.as_ref())?;
            let result = result.map(|n| n.saturating_mul(small.factor));
            let multiple = self.network().spec().multiple;
            let size = enlarged_size(request, result, small.unit(multiple, self.stride()))?;
            let crop = (*size != result).then(|| result.map(|n| 0..n).to_vec());
            return Ok(Size { size, crop });
        }
        let image = request.image.as_ref().filter(|_| !varies).map(|file| ("image", file));
        let control = request.controls.first().map(|control| ("controls", &control.image));
        let size = self.size(request, image.or(control), work.map(Work::size))?;
        Ok(Size { size, crop: None })
    }

    /// The length of sounds of these seconds, as the model makes them, and the part of them that is the result.
    fn lasting(
        &self,
        request: &Request,
        speaks: bool,
    ) -> Result<(Vec<usize>, Option<Range<usize>>), PipelineError> {
        let field = if request.seconds.is_some() { "seconds" } else { "start" };
        let fail = |reason: &str| Err(PipelineError::request(field, reason));
        if self.axes() != 1 {
            return fail("is for models of sounds; this model does not make sounds");
        }
        if speaks {
            return fail("has no effect: speech is as long as its text; remove it");
        }
        if request.size.is_some() {
            return fail("`size` also says how long the sound is; expected one of both");
        }
        let fixed = self.network().spec().fixed;
        if request.known.is_some() || request.image.is_some() && !fixed {
            return fail("has no effect: the result is as long as the sound at which it begins; remove it");
        }
        let Some(rate) = self.rate().map(f64::from) else {
            return fail(
                "the model does not say how many values per second its sounds have; use `size` instead",
            );
        };
        if request.start.is_some() && !conditions::reads_start(&self.model) {
            let reason = "this model does not make parts of longer sounds; remove it";
            return Err(PipelineError::request("start", reason));
        }
        let start = request.start.unwrap_or(0.0);
        if !(start >= 0.0 && start.is_finite()) {
            return Err(PipelineError::request("start", format!("{start}: expected 0 or more seconds")));
        }
        // Casts saturate; too large numbers are errors of `check_size`.
        let values = |seconds: f64| (seconds * rate).round() as usize;
        let first = values(start);
        let length = match request.seconds {
            Some(seconds) if seconds.is_finite() && seconds > 0.0 && values(seconds) > 0 => {
                Some(values(seconds))
            }
            Some(seconds) => return fail(&format!("{seconds}: expected a positive number of seconds")),
            None => None,
        };
        let native = self.native_size().and_then(|native| native.first().copied());
        let whole = match (native.filter(|_| fixed || length.is_none()), length) {
            (Some(whole), _) => whole,
            (None, Some(length)) => {
                request.check_size(&[length])?;
                let unit = match self.codec() {
                    Some(codec) => codec.spec().stride,
                    None => self.network().spec().multiple,
                };
                length.next_multiple_of(unit.max(1))
            }
            (None, None) => return fail("the model has no default length, so the request needs `seconds`"),
        };
        let end = length.map_or(whole, |length| first.saturating_add(length));
        if first >= end || end > whole {
            let (found, most) = (end.max(first) as f64 / rate, whole as f64 / rate);
            return fail(&format!(
                "the sound would last until second {found:.2}, but this model's last until {most:.2}"
            ));
        }
        Ok((vec![whole], ([first, end] != [0, whole]).then_some(first..end)))
    }

    /// The result is like the `image` in this field; `window` is that of an existing image.
    fn size(
        &self,
        request: &Request,
        image: Option<(&'static str, &RecordedFile)>,
        window: Option<Vec<usize>>,
    ) -> Result<Vec<usize>, PipelineError> {
        let fail = |reason: String| PipelineError::request("size", reason);
        let like = match (image, &request.size) {
            (Some((_, file)), None) if self.axes() == 1 => Some(vec![length(file, self)?]),
            (Some((field, file)), None) => {
                let ImageFacts { width, height, .. } =
                    image_facts(&file.path).map_err(|e| PipelineError::request(field, e.to_string()))?;
                self.size_like([height, width])
            }
            _ => None,
        };
        let axes = self.axes();
        let native = self.native_size();
        let size = window.or_else(|| request.size.clone()).or(like).or_else(|| native.clone());
        let mut size =
            size.ok_or_else(|| fail("the model has no default size, so the request needs one".into()))?;
        if axes == 3 {
            let own = native.as_ref().and_then(|native| native.first().copied());
            match (request.frames.map(NonZeroUsize::get), size.len()) {
                (Some(frames), 3) => size[0] = frames,
                (frames, 2) => {
                    let frames = frames.or(own);
                    let missing =
                        || fail("the model has no default length, so the request needs `frames`".into());
                    size.insert(0, frames.ok_or_else(missing)?);
                }
                _ => {}
            }
        } else if request.frames.is_some() || request.fps.is_some() {
            return Err(PipelineError::request("frames", "this model does not make clips"));
        }
        if size.len() != axes {
            let numbers = if axes == 1 { "number" } else { "numbers" };
            return Err(fail(format!("{size:?}: expected {axes} {numbers}, one for each axis of a sample")));
        }
        request.check_size(&size)?;
        self.check_frames(&size)?;
        if let (Some(&[native]), &[found], true) = (native.as_deref(), &*size, self.network().spec().fixed)
            && found != native
        {
            return Err(fail(format!(
                "{found} values: this model only makes sounds of {native}; `seconds` cuts them"
            )));
        }
        let stride = self.stride();
        // The number of frames may be any.
        let sides = if axes == 3 { size.get(1..).unwrap_or_default() } else { &size };
        if sides.iter().any(|n| !n.is_multiple_of(stride)) {
            let sides: Vec<_> = size.iter().map(usize::to_string).collect();
            let unit = if axes == 1 { "values" } else { "pixels" };
            return Err(fail(format!(
                "{} {unit}: expected multiples of {stride}, the downsampling factor of the model",
                sides.join("×")
            )));
        }
        Ok(size)
    }
}

impl Pipeline {
    /// Checks that the autoencoder can make clips with this number of frames.
    fn check_frames(&self, size: &[usize]) -> Result<(), PipelineError> {
        let (Some(codec), &[frames, ..]) = (self.codec().filter(|codec| codec.spec().axes == 3), size) else {
            return Ok(());
        };
        let made = codec.media_axes(&codec.latent_axes(size)).first().copied();
        match made {
            Some(made) if made != frames => Err(PipelineError::request(
                "frames",
                format!(
                    "{frames}: this model does not make clips of as many frames, but for example of {made}"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// The size at which an enlarged image is made: that of the `result`, or the next multiples that the network supports.
fn enlarged_size(
    request: &Request,
    result: [usize; 2],
    multiple: usize,
) -> Result<Vec<usize>, PipelineError> {
    if let Some(size) = request.size.as_ref().filter(|size| **size != result) {
        let reason =
            format!("{size:?}: expected {result:?}, the size of the image times the factor of the model");
        return Err(PipelineError::request("size", reason));
    }
    let size: Vec<usize> = result.iter().map(|n| n.next_multiple_of(multiple.max(1))).collect();
    request.check_size(&size)?;
    Ok(size)
}
