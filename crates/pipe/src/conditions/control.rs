//! The images that ControlNets and T2I-Adapters follow.

use std::path::Path;

use tweedie_data::{ImageFacts, image_facts, open_picture, open_sized};
use tweedie_models::{Conditions, Entry, Guide, conditions::CONTROL};
use tweedie_ops::Batch;

use super::{Asked, Conditioner, Part};
use crate::{Image, PipelineError, Request, control::Control};

/// An image for each ControlNet or adapter.
pub(super) struct ByControl;

impl Conditioner for ByControl {
    fn fields(&self, request: &Request) -> Vec<(&'static str, bool)> {
        vec![("controls", !request.controls.is_empty()), ("guess", request.guess)]
    }

    fn unsupported(&self) -> &'static str {
        "this model was loaded without a ControlNet or T2I-Adapter"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        !asked.model.controls.is_empty()
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let (controls, nets) = (&asked.request.controls, &asked.model.controls);
        check_count(controls.len(), nets.len())?;
        let mut hints: Vec<Batch> = Vec::new();
        for (control, guide) in controls.iter().zip(nets) {
            hints.extend(maps_of(asked, control, guide)?);
        }
        Ok(Part { given: vec![Conditions::none().with(CONTROL, Entry::Features(hints))], null: None })
    }
}

/// Checks that there are as many images as ControlNets and adapters.
pub(crate) fn check_count(images: usize, nets: usize) -> Result<(), PipelineError> {
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match images == nets {
        true => Ok(()),
        false => Err(PipelineError::request(
            "controls",
            format!(
                "the model has {}, so expected {}; found {images}",
                match nets {
                    1 => "1 ControlNet or T2I-Adapter".to_owned(),
                    n => format!("{n} ControlNets or T2I-Adapters"),
                },
                counted(nets, "control image")
            ),
        )),
    }
}

/// An image as a ControlNet or adapter embeds it.
fn maps_of(asked: &Asked<'_>, control: &Control, guide: &Guide) -> Result<Vec<Batch>, PipelineError> {
    let fail = |reason: String| PipelineError::request("controls", reason);
    let &[height, width] = asked.size else { return Err(fail("this model does not make images".into())) };
    let multiple = guide.multiple();
    if !height.is_multiple_of(multiple) || !width.is_multiple_of(multiple) {
        let reason = format!("{width}×{height}: this {} needs multiples of {multiple}", guide.name());
        return Err(PipelineError::request("size", reason));
    }
    let path = &control.image.path;
    control.image.check()?;
    let image = match asked.canvas {
        None => open_sized(path, [height, width]).map_err(|e| fail(e.to_string()))?,
        Some(canvas) => {
            let picture = open_picture(path).map_err(|e| fail(e.to_string()))?;
            let [high, wide] = canvas.whole();
            if [picture.height(), picture.width()] != [high, wide] {
                return Err(fail(format!(
                    "{}: has {}×{} pixels, expected {wide}×{high}, the size of the image that is changed",
                    path.display(),
                    picture.width(),
                    picture.height()
                )));
            }
            canvas.seen(&picture)
        }
    };
    let image = match control.canny {
        None => image,
        Some([low, high]) if 0.0 <= low && low <= high && high.is_finite() => image.edges(low, high),
        Some([low, high]) => return Err(fail(format!("`canny` [{low}, {high}]: expected 0 ≤ low ≤ high"))),
    };
    let channels = guide.channels();
    let values = values(&image, channels)?;
    Ok(guide.embed(tweedie_ops::from_host(values, [1, channels, height, width], asked.device)))
}

/// The channels of an image, in `0..=1`.
fn values(image: &Image, channels: usize) -> Result<Vec<f32>, PipelineError> {
    let planes = image.planes_of(channels).ok_or_else(|| {
        PipelineError::request(
            "controls",
            format!("expected a ControlNet or adapter for 1 or 3 channels, not {channels}"),
        )
    })?;
    Ok(planes.into_iter().map(|v| (v + 1.0) / 2.0).collect())
}

/// What happens to a control image for a result of this size, unless it has the size.
pub(crate) fn remark(control: &Control, size: &[usize]) -> Option<String> {
    resized(&control.image.path, "control image", size)
}

/// What happens to an image that is cropped and resized for a result of this size, unless it has the size.
pub(super) fn resized(path: &Path, what: &str, size: &[usize]) -> Option<String> {
    let &[.., height, width] = size else { return None };
    let ImageFacts { width: w, height: h, .. } = image_facts(path).ok()?;
    if [h, w] == [height, width] {
        return None;
    }
    let path = path.display();
    let resized = format!("{path}: the {what} of {w}×{h} pixels was resized to {width}×{height}");
    Some(match h * width == w * height {
        true => resized,
        false => format!("{resized} after it was cropped to that aspect ratio"),
    })
}
