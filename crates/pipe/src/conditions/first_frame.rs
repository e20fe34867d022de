//! The image that is the first frame of Wan's clips: CLIP's features of it, and its latents, with a mask that says which frames
//! are known.

use tweedie_hub::{Maps, clip::IMAGE_ENCODER};
use tweedie_models::{
    Conditions, Entry,
    conditions::{IMAGE, MASK, MASKED},
    params::non_finite,
};
use tweedie_ops::{Batch, SampleShape, from_host, to_host};

use super::{Asked, Conditioner, Part, picture::Pictured, variation::processed};
use crate::{PipelineError, Request, error::broken};

/// The layer of CLIP whose features are read, counted from the last.
const SKIPPED: usize = 1;

/// The first frame of a clip.
pub(super) struct ByFirstFrame;

impl Conditioner for ByFirstFrame {
    fn fields(&self, _: &Request) -> Vec<(&'static str, bool)> {
        Vec::new()
    }

    fn unsupported(&self) -> &'static str {
        "this model does not make clips of an image"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        asked.model.kind.maps == Maps::FirstFrame
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let (Some(reader), Some(codec)) = (&asked.model.picture, asked.model.codec.as_deref()) else {
            return Err(fail(self.unsupported().into()));
        };
        let &[frames, height, width] = asked.size else { return Err(fail(self.unsupported().into())) };
        let Pictured { whole, sized } = Pictured::open(asked, [height, width])?;

        let [h, w] = reader.processor.crop;
        let pixels = from_host::<4>(processed(&whole, &reader.processor), [1, 3, h, w], asked.device);
        let tokens = reader.encoder.tokens(pixels, SKIPPED).map_err(|e| fail(e.to_string()))?;
        if !to_host(tokens.clone()).iter().all(|v| v.is_finite()) {
            return Err(broken(IMAGE_ENCODER, non_finite(&reader.encoder)));
        }

        // The other frames are grey.
        let (planes, area) = (sized.to_planes(), height * width);
        let channel = |plane: &[f32]| [plane, &vec![0.0; (frames - 1) * area]].concat();
        let clip: Vec<f32> = planes.chunks_exact(area).flat_map(channel).collect();
        let clip = Batch::from_host(clip, 1, &SampleShape::from([3, frames, height, width]), asked.device);
        let encoded = codec.encode(clip).map_err(|e| fail(e.to_string()))?;
        if !encoded.mean.is_finite() {
            let name = asked.model.kind.autoencoder.unwrap_or("autoencoder");
            return Err(broken(name, codec.non_finite()));
        }

        // A channel for each frame of a latent; the first latent is one frame.
        let mask =
            asked.shape.with_channels(codec.media_axes(&[2, 1, 1])[0] - codec.media_axes(&[1, 1, 1])[0]);
        let (each, first) = (mask.axes().iter().product::<usize>(), mask.axes().iter().skip(1).product());
        let known = (0..mask.len()).map(|i| if i % each < first { 1.0 } else { 0.0 });
        let mask = Batch::from_host(known.collect(), 1, &mask, asked.device);
        let given = Conditions::none()
            .with(IMAGE, Entry::Tokens(tokens))
            .with(MASK, Entry::Map(mask))
            .with(MASKED, Entry::Map(codec.scaled(&encoded.mean)));
        Ok(Part { given: vec![given], null: None })
    }
}
