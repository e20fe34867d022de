//! The mask of a network that fills masks, such as Stable Diffusion's for inpainting.

use tweedie_hub::{Maps, Model};
use tweedie_models::{
    Conditions, Entry,
    conditions::{MASK, MASKED},
};
use tweedie_ops::Batch;

use super::{Asked, Conditioner, Part};
use crate::{PipelineError, Request};

/// The part of the existing image to fill, and the latents of the image without it: the mean of their distribution.
pub(super) struct ByMask;

/// Pixels that are changed by at least this much are filled.
const CHANGED: f32 = 0.5;

/// Whether the network reads a mask: one for inpainting may have the inputs of others.
pub(crate) fn fills(model: &Model) -> bool {
    let spec = model.network.spec();
    model.kind.maps == Maps::Mask && spec.inputs > spec.outputs
}

impl Conditioner for ByMask {
    fn fields(&self, _: &Request) -> Vec<(&'static str, bool)> {
        // Every model changes existing images; others do so by replacing what is known.
        Vec::new()
    }

    fn unsupported(&self) -> &'static str {
        "this model does not fill masks"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        fills(asked.model)
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let fail = |reason: &str| PipelineError::request("known", reason);
        let (Some(canvas), Some(codec)) = (asked.canvas, asked.model.codec.as_deref()) else {
            return Err(fail("this model fills a part of an existing image; expected one with a mask"));
        };
        let &[height, width] = asked.size else { return Err(fail(self.unsupported())) };
        let filled: Vec<bool> = canvas.change().into_iter().map(|change| change >= CHANGED).collect();
        let planes = canvas.planes();
        let kept = planes.iter().enumerate().map(|(i, v)| if filled[i % filled.len()] { 0.0 } else { *v });
        let kept = Batch::from_host(kept.collect(), 1, &[3, height, width].into(), asked.device);
        let encoded = codec.encode(kept).map_err(|e| PipelineError::request("known", e.to_string()))?;
        let axes = asked.shape.axes();
        // Nearest, as in PyTorch: the upper left pixel of each square.
        let [down, across] = [height / axes[0].max(1), width / axes[1].max(1)];
        let at = |i: usize| filled[(i / axes[1]) * down * width + (i % axes[1]) * across];
        let mask = (0..axes.iter().product()).map(|i| f32::from(u8::from(at(i)))).collect();
        let mask = Batch::from_host(mask, 1, &asked.shape.with_channels(1), asked.device);
        let given = Conditions::none()
            .with(MASK, Entry::Map(mask))
            .with(MASKED, Entry::Map(codec.scaled(&encoded.mean)));
        Ok(Part { given: vec![given], null: None })
    }
}
