//! The image of which Stable Video Diffusion makes clips: CLIP's embedding of it, its latents with some noise beside each
//! frame, and numbers that say how fast and how much things move.

use tweedie_data::{image_facts, open_sized};
use tweedie_hub::{ImageEncoder, Maps, Model, clip::IMAGE_ENCODER};
use tweedie_models::{
    Codec, Conditions, Entry,
    conditions::{ADDED, PICTURE, TEXT},
    params::non_finite,
};
use tweedie_ops::{Batch, SampleShape, Tensor, from_host, to_host};

use super::{Asked, Conditioner, Part, control::resized};
use crate::{Image, PipelineError, Request, enlarging::noised, error::broken, squashed::squashed};

/// The draw for the noise on the image.
const PICTURE_DRAW: u64 = u64::MAX - 2;
/// How much moves, and the noise on the image in thousandths of its standard deviation, in diffusers.
const MOTION: u32 = 127;
const NOISE: usize = 20;
/// The largest of both.
const MOST_MOTION: u32 = 1023;
const MOST_NOISE: usize = 10_000;
/// Frames per second, if neither the request nor the model says it.
const FPS: u32 = 7;

/// The image of which a clip is made.
pub(super) struct ByPicture;

/// Whether the model makes clips of an image.
pub(crate) fn reads_picture(model: &Model) -> bool {
    model.picture.is_some()
}

/// Whether the guidance scale rises over the frames.
pub(crate) fn guidance_rises(model: &Model) -> bool {
    model.kind.maps == Maps::Picture
}

/// What happens to the image for a clip of this size, unless it has the size.
pub(crate) fn remark_on_picture(request: &Request, size: &[usize]) -> Option<String> {
    request.image.as_ref().and_then(|file| resized(&file.path, "image", size))
}

impl Conditioner for ByPicture {
    fn fields(&self, request: &Request) -> Vec<(&'static str, bool)> {
        vec![
            ("motion", request.motion.is_some()),
            ("min_guidance", request.min_guidance.is_some()),
            ("noise_level", request.noise_level.is_some()),
        ]
    }

    fn unsupported(&self) -> &'static str {
        "is for models like Stable Video Diffusion; this model does not read it"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        asked.model.kind.maps == Maps::Picture
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let (Some(reader), Some(codec)) = (&asked.model.picture, asked.model.codec.as_deref()) else {
            return Err(fail(self.unsupported().into()));
        };
        let (&[_, height, width], &[frames, ..]) = (asked.size, asked.shape.axes()) else {
            return Err(fail(self.unsupported().into()));
        };
        let numbers = numbers(asked)?;
        let Pictured { whole, sized } = Pictured::open(asked, [height, width])?;
        let embedding = embedding(reader, &whole, asked)?;
        let planes = sized.to_planes();
        let shape = SampleShape::from([3, height, width]);
        let sigma = f64::from(numbers[2]);
        let count = if sigma == 0.0 { 1 } else { asked.request.count.get() };
        let given = (0..count).map(|row| {
            let planes = match sigma {
                0.0 => planes.clone(),
                _ => {
                    let eps = asked.draws.normal(row..row + 1, &shape, PICTURE_DRAW, asked.device);
                    noised(&planes, [1.0, sigma], &eps.to_host())
                }
            };
            let latents = latents(codec, planes, [height, width], frames, asked)?;
            Ok(conditions(&embedding, latents, &numbers))
        });
        let given = given.collect::<Result<Vec<Conditions>, PipelineError>>()?;
        let null = asked.guided.then(|| {
            let axes = asked.shape.dims();
            let zeros = Tensor::<2>::zeros([1, axes.iter().product()], asked.device);
            let map = Batch::of(zeros).shaped(asked.shape);
            vec![conditions(&embedding.zeros_like(), map, &numbers)]
        });
        Ok(Part { given, null })
    }
}

/// An image of which a clip is made.
pub(super) struct Pictured {
    /// All of it, in its own size.
    pub whole: Image,
    /// Cropped about its centre and resized to the size of the frames.
    pub sized: Image,
}

impl Pictured {
    /// That of a request, for frames of this size.
    pub(super) fn open(asked: &Asked<'_>, [height, width]: [usize; 2]) -> Result<Self, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        match (asked.image, &asked.request.image) {
            (Some(image), _) if [image.height, image.width] == [height, width] => {
                Ok(Self { whole: image.clone(), sized: image.clone() })
            }
            (Some(image), _) => {
                let found = format!("{}×{} pixels", image.width, image.height);
                Err(fail(format!("{found}, expected {width}×{height}")))
            }
            (None, Some(file)) => {
                file.check()?;
                let facts = image_facts(&file.path).map_err(|e| fail(e.to_string()))?;
                let open = |size| open_sized(&file.path, size).map_err(|e| fail(e.to_string()));
                Ok(Self { whole: open([facts.height, facts.width])?, sized: open([height, width])? })
            }
            (None, None) => Err(fail("this model makes clips of an image; expected one".into())),
        }
    }
}

/// What the network reads of an image.
fn conditions(embedding: &Tensor<3>, latents: Batch, numbers: &[f32; 3]) -> Conditions {
    Conditions::none()
        .with(TEXT, Entry::Tokens(embedding.clone()))
        .with(PICTURE, Entry::Map(latents))
        .with(ADDED, Entry::Numbers(vec![numbers.to_vec()]))
}

/// The frame rate that the network is told, which is one less; how much moves; the standard deviation of the noise.
fn numbers(asked: &Asked<'_>) -> Result<[f32; 3], PipelineError> {
    let request = asked.request;
    let fps = request.fps.map(u32::from).or(asked.model.extras.sampling.fps).unwrap_or(FPS);
    let (motion, noise) = (request.motion.unwrap_or(MOTION), request.noise_level.unwrap_or(NOISE));
    if motion > MOST_MOTION {
        let reason = format!("{motion}: expected at most {MOST_MOTION}");
        return Err(PipelineError::request("motion", reason));
    }
    if noise > MOST_NOISE {
        let reason = format!("{noise}: expected at most {MOST_NOISE}");
        return Err(PipelineError::request("noise_level", reason));
    }
    Ok([fps.saturating_sub(1) as f32, motion as f32, (noise as f64 / 1000.0) as f32])
}

/// CLIP's embedding of an image, squashed to the size that the encoder reads, as one token `[1, 1, width]`.
fn embedding(reader: &ImageEncoder, image: &Image, asked: &Asked<'_>) -> Result<Tensor<3>, PipelineError> {
    let ImageEncoder { processor, encoder } = reader;
    let side = encoder.config().image_size;
    let mut values = squashed(&image.to_planes(), [3, image.height, image.width], [side; 2]);
    for (channel, plane) in values.chunks_exact_mut(side * side).enumerate() {
        let (mean, std) = (processor.mean[channel], processor.std[channel]);
        plane.iter_mut().for_each(|v| *v = (((f64::from(*v) + 1.0) / 2.0 - mean) / std) as f32);
    }
    let pixels = from_host::<4>(values, [1, 3, side, side], asked.device);
    let made = encoder.encode(pixels).map_err(|e| PipelineError::request("image", e.to_string()))?;
    if !to_host(made.clone()).iter().all(|v| v.is_finite()) {
        return Err(broken(IMAGE_ENCODER, non_finite(encoder)));
    }
    Ok(made.unsqueeze_dim(1))
}

/// The unscaled latents of an image, `[3, H, W]`, for each frame: the mean of their distribution.
fn latents(
    codec: &dyn Codec,
    planes: Vec<f32>,
    [height, width]: [usize; 2],
    frames: usize,
    asked: &Asked<'_>,
) -> Result<Batch, PipelineError> {
    let picture = Batch::from_host(planes, 1, &[3, 1, height, width].into(), asked.device);
    let encoded = codec.encode(picture).map_err(|e| PipelineError::request("image", e.to_string()))?;
    if !encoded.mean.is_finite() {
        let name = asked.model.kind.autoencoder.unwrap_or("autoencoder");
        return Err(broken(name, codec.non_finite()));
    }
    let mean = encoded.mean.tensor::<5>();
    Ok(Batch::of(Tensor::cat(vec![mean; frames], 2)))
}
