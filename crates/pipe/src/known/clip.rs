//! A clip of which frames, or a part of all frames, are changed: what the network sees of it, and how the result gets back into
//! it.

use std::ops::Range;

use tweedie_data::clip::{Clip, Part, read};
use tweedie_media::{Image, Picture, Rgb, Video};

use super::{
    Canvas, Known, MaskSpec, Seam, Sizes,
    canvas::{Shape, extended},
    change::change,
    window::start,
};
use crate::{Pipeline, PipelineError, Request};

/// Known frames on each side of new ones that the network sees at least, if the clip has them.
const CONTEXT: usize = 2;
/// Maximum number of new frames between two, and after the last.
const MOST_NEW: usize = 1 << 10;
/// Most pixels of all frames.
const MOST_PIXELS: usize = 1 << 28;

/// A clip with new frames where they are to be made.
#[derive(Clone, Debug)]
pub(crate) struct Footage {
    /// All frames of the result. Those to be made show the one before them.
    video: Video,
    /// The frames that the network sees, in this order, and the part to change of each.
    seen: Vec<(usize, Canvas)>,
    notes: Vec<String>,
}

/// The frames of the result before anything is made, and which of them are new.
struct Frames {
    all: Vec<Image>,
    new: Vec<bool>,
    delay: u16,
}

impl Pipeline {
    /// What a request about an existing clip works on.
    ///
    /// # Errors
    /// If the file cannot be read or has changed, or the clip or the mask do not suit the model.
    pub(super) fn clip_work(
        &self,
        request: &Request,
        known: &Known,
        sizes: Sizes,
        size: Option<[usize; 2]>,
        channels: usize,
    ) -> Result<Footage, PipelineError> {
        if !known.degradations.is_empty() {
            let reason =
                "clips can have missing frames and masks; other degradations are of images and sounds";
            return Err(PipelineError::request("degradations", reason));
        }
        if request.frames.is_some() {
            let reason = "has no effect: the result is as long as the clip and its new frames; remove it";
            return Err(PipelineError::request("frames", reason));
        }
        let native = self.native_size().and_then(|native| native.first().copied());
        let mut footage = Footage::open(known, sizes, size, native, channels)?;
        let all = footage.seen.iter().all(|(_, canvas)| canvas.is_all_changed());
        if all && request.strength.is_none_or(|strength| strength >= 1.0) {
            let reason = "nothing of the clip is known: expected a mask or frames that keep a part, or a `strength` below 1";
            return Err(PipelineError::request("mask", reason));
        }
        if let Some(native) = native.filter(|native| footage.seen.len() > 2 * native) {
            footage.notes.push(format!(
                "the network sees {} frames at once, but was made for {native}: motions may not be plausible",
                footage.seen.len()
            ));
        }
        Ok(footage)
    }
}

impl Footage {
    /// Reads the files of a request for a network with these sizes of frames, which was made for clips of `native` frames.
    fn open(
        known: &Known,
        sizes: Sizes,
        size: Option<[usize; 2]>,
        native: Option<usize>,
        channels: usize,
    ) -> Result<Self, PipelineError> {
        let (path, file) = (&known.image.path, known.image.path.display());
        known.image.check()?;
        let clip = read(path, Part::All).map_err(|e| PipelineError::request("image", e.to_string()))?;
        let Clip { video, remarks } = clip;
        let mut notes: Vec<String> = remarks.iter().map(|remark| format!("{file}: {remark}")).collect();
        if channels == 1
            && video.frames.iter().any(|f| f.pixels.chunks_exact(3).any(|p| p[0] != p[1] || p[1] != p[2]))
        {
            let reason = format!("{file}: the clip has colours, but this model makes grey clips");
            return Err(PipelineError::request("image", reason));
        }
        let mask = known.mask.clone().unwrap_or_default();
        let Frames { all: mut frames, new, delay } = missing(&mask, video, &mut notes)?;
        let shapes = MaskSpec { gaps: Vec::new(), between: 0, close: 0, ..mask.clone() };
        let first = frames.first().map(Picture::from);
        let first =
            first.ok_or_else(|| PipelineError::request("image", format!("{file}: there are no frames")))?;
        let area = first.width() * first.height();
        let own = match (&known.mask, new.contains(&true)) {
            (None, _) => vec![1.0; area],
            (Some(_), true) if shapes == MaskSpec::default() => vec![0.0; area],
            (Some(_), _) => change(&shapes, &first)?,
        };
        let any = own.iter().any(|m| *m > 0.0);
        let changed: Vec<bool> = new.iter().map(|new| *new || any).collect();
        let order = order(&changed, mask.close, native, sizes.fixed)?;
        let shape = Shape { sizes, size, channels, feather: mask.feather, opaque: false };
        let mut seen = Vec::new();
        let marks = if new.contains(&true) { vec![1.0; own.len()] } else { own.clone() };
        for index in order {
            let picture = extended(Picture::from(&frames[index]), mask.extend)?;
            let change = if new[index] { vec![1.0; own.len()] } else { own.clone() };
            seen.push((index, Canvas::of(picture, change, &marks, &shape)?));
        }
        if mask.extend != [0; 4] {
            // All of them are seen; their size is the new one.
            for (index, canvas) in &seen {
                frames[*index] = canvas.picture().to_image(Rgb([255; 3]));
            }
        }
        Ok(Self { video: Video { frames, delay }, seen, notes })
    }

    /// Frames, height and width of what the network sees.
    pub fn size(&self) -> Vec<usize> {
        let [height, width] = self.seen.first().map_or([0; 2], |(_, canvas)| canvas.size());
        vec![self.seen.len(), height, width]
    }

    /// What was done to the file, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How much each pixel of each frame is changed, 0 to 1.
    pub fn change(&self) -> Vec<f32> {
        self.seen.iter().flat_map(|(_, canvas)| canvas.change()).collect()
    }

    /// What the network sees: `[channels, frames, height, width]` in `-1..=1`.
    pub fn planes(&self) -> Vec<f32> {
        let frames: Vec<Vec<f32>> = self.seen.iter().map(|(_, canvas)| canvas.planes()).collect();
        let area: usize = self.size()[1..].iter().product();
        let channels = frames.first().map_or(0, |planes| planes.len() / area.max(1));
        let plane = |c: usize| frames.iter().flat_map(move |planes| &planes[c * area..(c + 1) * area]);
        (0..channels).flat_map(plane).copied().collect()
    }

    /// The whole clip with a result, `[channels, frames, height, width]`, in its place. With `solve`, new pixels are moved such
    /// that they meet the known ones of their frame. And how visible the border of the mask is in the frame where it is most.
    pub fn compose(&self, made: &[f32], solve: bool) -> (Video, Option<Seam>) {
        let (mut video, mut seam): (Video, Option<Seam>) = (self.video.clone(), None);
        let area: usize = self.size()[1..].iter().product();
        let count = self.seen.len();
        let channels = made.len() / (count * area).max(1);
        // Frames that are seen twice, before and after new ones, take what was made for the first place.
        for (slot, (index, canvas)) in self.seen.iter().enumerate().rev() {
            if !canvas.changes() {
                continue;
            }
            let plane = |c: usize| &made[(c * count + slot) * area..][..area];
            let edited = canvas.compose(&(0..channels).map(plane).collect::<Vec<_>>().concat(), solve);
            video.frames[*index] = edited.picture.to_image(Rgb([255; 3]));
            let worse = |own: &Seam| seam.is_none_or(|seam| own.across > seam.across);
            seam = edited.seam.filter(worse).or(seam);
        }
        (video, seam)
    }
}

/// The frames of the result, with new ones where the mask asks for them.
fn missing(mask: &MaskSpec, video: Video, notes: &mut Vec<String>) -> Result<Frames, PipelineError> {
    let fail = |reason: String| Err(PipelineError::request("mask", reason));
    let Video { frames, mut delay } = video;
    for (name, count) in [("between", mask.between), ("close", mask.close)] {
        if count > MOST_NEW {
            return fail(format!("`{name}` {count}: expected at most {MOST_NEW} new frames"));
        }
    }
    let each = f64::from(delay) / 1000.0;
    let end = each * frames.len() as f64;
    let mut in_gap = vec![false; frames.len()];
    for &[from, to] in &mask.gaps {
        if !(from >= 0.0 && from < to && to <= end + 1e-9) {
            return fail(format!(
                "gap {from}..{to}: expected a beginning and an end in seconds, within the clip's {end:.3} s"
            ));
        }
        // Times are sums of rounded durations.
        let frame = |time: f64| ((time / each) - 1e-6).ceil().max(0.0) as usize;
        let gap: Range<usize> = frame(from)..frame(to).min(frames.len());
        if gap.is_empty() {
            return fail(format!("gap {from}..{to}: no frame begins in it; each lasts {each:.3} s"));
        }
        in_gap[gap].fill(true);
    }
    if mask.between > 0 {
        if frames.len() < 2 {
            return fail("`between`: the clip has one frame; expected at least two".into());
        }
        let exact = f64::from(delay) / (mask.between + 1) as f64;
        delay = exact.round().clamp(1.0, 65535.0) as u16;
        if f64::from(delay) != exact {
            notes.push(format!(
                "frames last {delay} ms instead of {exact:.2} ms, because files store whole milliseconds"
            ));
        }
    }
    let (last, count) = (frames.len().saturating_sub(1), frames.len() * (mask.between + 1) + mask.close);
    let area = frames.first().map_or(0, |frame| frame.width * frame.height);
    if count.saturating_mul(area) > MOST_PIXELS {
        return fail(format!(
            "the clip would have {count} frames, more than the {} that fit in the limit of {} MiB",
            MOST_PIXELS / area.max(1),
            (3 * MOST_PIXELS) >> 20
        ));
    }
    let (mut all, mut new) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (i, (frame, gap)) in frames.into_iter().zip(in_gap).enumerate() {
        let after = if i == last { mask.close } else { mask.between };
        all.extend(vec![frame; after + 1]);
        new.push(gap);
        new.extend(vec![true; after]);
    }
    Ok(Frames { all, new, delay })
}

/// The frames that a network sees which was made for `native`: those that are changed and known ones beside them, all in order. If
/// the last `close` ones lead back to the first, so do the frames.
fn order(
    changed: &[bool],
    close: usize,
    native: Option<usize>,
    fixed: bool,
) -> Result<Vec<usize>, PipelineError> {
    let count = changed.len();
    let from = changed.iter().position(|changed| *changed).unwrap_or(0);
    let to = changed.iter().rposition(|changed| *changed).map_or(count, |last| last + 1);
    let least = native.unwrap_or(0);
    let (first, length) = match close {
        0 => {
            let length = (to - from + 2 * CONTEXT).max(least).min(count);
            let length =
                if fixed && native.is_some_and(|n| n < length && to - from <= n) { least } else { length };
            (start((from, to), length, count).max(0) as usize, length)
        }
        // From known frames at the end over the new ones to known ones at the beginning.
        _ if from == count - close => {
            let beside = (least.saturating_sub(close) / 2).max(CONTEXT).min(count - close);
            (from - beside, close + 2 * beside)
        }
        _ => (0, count + CONTEXT.min(count - close)),
    };
    match native.filter(|native| fixed && *native != length) {
        Some(native) => Err(PipelineError::request(
            "known",
            format!("this model only makes clips of {native} frames, but the part to change needs {length}"),
        )),
        None => Ok((first..first + length).map(|i| i % count).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(changed: &[usize], count: usize, close: usize) -> Vec<usize> {
        let changed: Vec<bool> = (0..count).map(|i| changed.contains(&i)).collect();
        order(&changed, close, Some(8), false).unwrap()
    }

    #[test]
    fn the_network_sees_what_is_beside_new_frames() {
        assert_eq!(seen(&[10, 11], 20, 0), (7..15).collect::<Vec<_>>());
        assert_eq!(seen(&[0], 20, 0), (0..8).collect::<Vec<_>>());
        assert_eq!(seen(&[3], 5, 0), (0..5).collect::<Vec<_>>());
        assert_eq!(seen(&[4, 5, 6, 7, 8, 9, 10, 11, 12], 20, 0), (2..15).collect::<Vec<_>>());
        // A loop: over the end to the beginning.
        assert_eq!(seen(&[18, 19], 20, 2), [15, 16, 17, 18, 19, 0, 1, 2]);
        assert_eq!(seen(&[3, 18, 19], 20, 2), (0..20).chain(0..2).collect::<Vec<_>>());
        assert_eq!(seen(&[1, 2], 3, 2), [0, 1, 2, 0]);
        assert!(order(&[true; 9], 0, Some(8), true).is_err());
    }

    #[test]
    fn new_frames_are_where_they_are_asked_for() {
        let frame = |v: u8| Image { width: 1, height: 1, pixels: vec![v; 3] };
        let video = Video { frames: (0..4).map(frame).collect(), delay: 100 };
        let of = |mask: MaskSpec| {
            let mut notes = Vec::new();
            let found = missing(&mask, video.clone(), &mut notes).map_err(|e| e.to_string())?;
            let shown: Vec<u8> = found.all.iter().map(|frame| frame.pixels[0]).collect();
            Ok::<_, String>((shown, found.new, found.delay, notes.len()))
        };
        let gap = MaskSpec { gaps: vec![[0.1, 0.3]], ..MaskSpec::default() };
        assert_eq!(of(gap).unwrap(), (vec![0, 1, 2, 3], vec![false, true, true, false], 100, 0));
        let between = MaskSpec { between: 2, close: 1, ..MaskSpec::default() };
        let (shown, new, delay, notes) = of(between).unwrap();
        assert_eq!(shown, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]);
        assert_eq!(new.iter().filter(|new| !**new).count(), 4);
        assert_eq!((new[0], new[3], new[9], new[10], delay, notes), (false, false, false, true, 33, 1));
        for gaps in [[0.2, 0.5], [0.3, 0.2], [-0.1, 0.1], [f64::NAN, 0.1]] {
            let error = of(MaskSpec { gaps: vec![gaps], ..MaskSpec::default() }).unwrap_err();
            assert!(error.contains("within the clip's 0.400 s"), "{error}");
        }
        let error = of(MaskSpec { gaps: vec![[0.11, 0.19]], ..MaskSpec::default() }).unwrap_err();
        assert!(error.contains("no frame begins in it"), "{error}");
    }
}
