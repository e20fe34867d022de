//! The flags of `tweedie sample`, and the request that they make.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use tweedie::{
    core::{
        solver::SOLVERS,
        spacing::{SPACINGS, Spacing},
    },
    library,
    models::Precision,
    ops::Device,
    pipe::{
        ClassSelector, LoadOptions, Pipeline, RecordedFile, Request, Weighting,
        a1111::Parsed,
        media::{read_parameters, read_request},
    },
};

use crate::{
    control::{self, ControlArgs},
    model,
    stored::located,
    ui::Ui,
};

#[derive(ClapArgs, Debug)]
#[command(after_help = menus())]
pub struct Args {
    /// Model folder of `tweedie train` or diffusers, a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL, or a name of
    /// `tweedie models` [default: emoji-32, or emoji-text-64 with --prompt].
    #[arg(short, long, value_name = "PATH")]
    pub(super) model: Option<PathBuf>,
    /// Folder of CLIP's tokenizer, for a single-file checkpoint [default: the checkpoint's folder].
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(super) tokenizer: Option<PathBuf>,
    /// What the network of a single-file checkpoint predicts [default: `eps`, or `v` for Stable Diffusion 2.x].
    #[arg(long, value_name = "KIND", requires = "model")]
    pub(super) prediction: Option<model::Prediction>,
    /// Variant of the weights in a folder, for example `fp16` [default: no variant, or else fp32, fp16 or bf16].
    #[arg(long, value_name = "NAME", requires = "model")]
    pub(super) variant: Option<String>,
    /// Number of images, audio signals or clips [default: 36, or one per prompt for latent models, or 1 for audio, clips and enlarged images].
    #[arg(short = 'n', long, value_name = "N", help_heading = "Images")]
    pub(super) count: Option<NonZeroUsize>,
    /// Prompt, for text-to-image models; repeat to use several in turn. `(word:1.3)` weights a word.
    #[arg(short, long, value_name = "TEXT", help_heading = "Images")]
    pub(super) prompt: Vec<String>,
    /// Negative prompt.
    #[arg(long, value_name = "TEXT", requires = "prompt", help_heading = "Images")]
    pub(super) negative_prompt: Option<String>,
    /// Voice of a model that speaks [default: its first].
    #[arg(long, value_name = "NAME", requires = "prompt", help_heading = "Images")]
    pub(super) voice: Option<String>,
    /// Length of sounds in seconds, for example 2.5 [default: as the model was made for].
    #[arg(long, value_name = "S", conflicts_with = "size", help_heading = "Images")]
    pub(super) seconds: Option<f64>,
    /// Second at which the sound begins, within a longer one of which it is a part; for Stable Audio [default: 0].
    #[arg(long, value_name = "S", conflicts_with = "size", help_heading = "Images")]
    pub(super) start: Option<f64>,
    /// Bring sounds to this integrated loudness, in LUFS (EBU R 128), for example -16 [default: as the model makes them].
    #[arg(long, value_name = "LUFS", allow_negative_numbers = true, help_heading = "Images")]
    pub(super) loudness: Option<f64>,
    /// Start from this image, or this sound for a model of sounds, or make a clip of it. Without --size the result has its aspect
    /// ratio or length.
    #[arg(long, visible_alias = "init", value_name = "FILE", help_heading = "Images")]
    pub(super) image: Option<PathBuf>,
    /// How much of the initial image or sound is replaced, > 0 and ≤ 1 [default: 0.8].
    #[arg(long, value_name = "S", requires = "image", help_heading = "Images")]
    pub(super) strength: Option<f64>,
    /// Enlarge the images with this model, a folder or a name of `tweedie models` [default without MODEL: emoji-x4]. Filmstrip and
    /// animation show the small ones.
    #[arg(long, value_name = "MODEL", num_args = 0..=1, default_missing_value = library::ENLARGER, help_heading = "Images")]
    pub(super) enlarge: Option<PathBuf>,
    /// Let this model make the last steps, such as SDXL's refiner: a folder or a name of `tweedie models`.
    #[arg(long, value_name = "MODEL", help_heading = "Images")]
    pub(super) refiner: Option<PathBuf>,
    /// The part of the noise levels after which the refiner takes over, > 0 and < 1 [default: 0.8].
    #[arg(long, value_name = "PART", requires = "refiner", help_heading = "Images")]
    pub(super) refine_from: Option<f64>,
    /// How beautiful the result should be, from 1 to 10, for SDXL's refiner [default: 6].
    #[arg(long, value_name = "SCORE", help_heading = "Images")]
    pub(super) aesthetic_score: Option<f64>,
    /// The same for the unconditional prediction [default: 2.5].
    #[arg(long, value_name = "SCORE", help_heading = "Images")]
    pub(super) negative_aesthetic_score: Option<f64>,
    /// With a model that enlarges: noise on the small image, in thousandths of its standard deviation; more invents more
    /// [default: the model's]. With one that makes clips of an image: noise on the image; more moves more [default: 20].
    #[arg(long, value_name = "LEVEL", help_heading = "Images")]
    pub(super) noise_level: Option<usize>,
    /// Class by name or number; repeat to use several in turn [default: all in turn].
    #[arg(short, long, value_name = "CLASS", help_heading = "Images")]
    pub(super) class: Vec<ClassSelector>,
    /// Random seed. The same seed gives the same images.
    #[arg(short, long, value_name = "N", default_value_t = 0, help_heading = "Images")]
    pub(super) seed: u64,
    /// Width and height in pixels, or one number for squares; for audio the number of values per channel [default: the
    /// model's training size].
    #[arg(long, value_name = "WxH", value_parser = size, help_heading = "Images")]
    pub(super) size: Option<Size>,
    /// Number of frames of clips [default: the model's, or 16].
    #[arg(long, value_name = "N", help_heading = "Images")]
    pub(super) frames: Option<NonZeroUsize>,
    /// Frames of clips per second [default: the model's].
    #[arg(long, value_name = "N", help_heading = "Images")]
    pub(super) fps: Option<NonZeroU32>,
    /// How much moves in a clip of an image, for Stable Video Diffusion: 0 to 255 in its training [default: 127].
    #[arg(long, value_name = "N", requires = "image", help_heading = "Images")]
    pub(super) motion: Option<u32>,
    /// Continue this clip: GIF, APNG, WebP, Y4M, or what an installed ffmpeg reads. The result begins
    /// with its frames; with --frames, the length of the whole, as often as needed [default: one window].
    #[arg(long, value_name = "CLIP", help_heading = "Images")]
    pub(super) r#continue: Option<PathBuf>,
    /// With --continue: number of last frames that the next ones are made to follow [default: half of the model's frames].
    #[arg(long, value_name = "N", help_heading = "Images")]
    pub(super) keep: Option<NonZeroUsize>,
    /// Repeat the request that is stored in this PNG, GIF, WebP, WAV or FLAC file, or in the text `parameters` of a PNG of AUTOMATIC1111's web UI;
    /// other flags of this group are ignored.
    #[arg(long, value_name = "FILE", help_heading = "Images")]
    pub(super) like: Option<PathBuf>,

    #[command(flatten)]
    pub(super) control: ControlArgs,

    /// Number of solver steps [default: the model's].
    #[arg(long, value_name = "N", help_heading = "Sampler")]
    pub(super) steps: Option<NonZeroUsize>,
    /// Solver, see below [default: the model's].
    #[arg(long, value_name = "NAME", help_heading = "Sampler")]
    pub(super) solver: Option<String>,
    /// List the solvers with their aliases, orders and papers, and exit.
    #[arg(long, help_heading = "Sampler")]
    pub(super) solvers: bool,
    /// Ignore a sampler that `tweedie tune-steps` has learned for this number of steps.
    #[arg(long, help_heading = "Sampler")]
    pub(super) untuned: bool,
    /// Spacing of the noise levels, see below; with parameters like `karras=5`, `shifted=3`, `beta=0.5,0.5` [default: the
    /// model's].
    #[arg(long, value_name = "NAME", help_heading = "Sampler")]
    pub(super) spacing: Option<Spacing>,
    /// Amount of fresh noise in every step, from 0 (none) to 1 (as in the reversed diffusion).
    #[arg(long, value_name = "ETA", help_heading = "Sampler")]
    pub(super) eta: Option<f64>,
    /// Shift of a model whose noise levels depend on the image size [default: computed as in diffusers].
    #[arg(long, value_name = "MU", help_heading = "Sampler")]
    pub(super) mu: Option<f64>,
    /// Guidance scale; 1 or less means no guidance, except that CFG++ solvers use 0 to 1 [default: the model's].
    #[arg(long, value_name = "SCALE", help_heading = "Sampler")]
    pub(super) guidance: Option<f64>,
    /// Guidance scale of the first frame of a clip of an image; it rises to --guidance at the last frame [default: 1].
    #[arg(long, value_name = "SCALE", requires = "image", help_heading = "Sampler")]
    pub(super) min_guidance: Option<f64>,
    /// How much the guided prediction is rescaled to the standard deviation of the conditional one, from 0 to 1.
    #[arg(long, value_name = "R", help_heading = "Sampler")]
    pub(super) guidance_rescale: Option<f64>,
    /// Range of noise levels sigma/alpha with guidance, for example `0.2,5` [default: all].
    #[arg(long, value_name = "FROM,TO", value_parser = interval, help_heading = "Sampler")]
    pub(super) guidance_interval: Option<Interval>,
    /// Quantile of the guided prediction's magnitudes that is reduced to that of the unguided one, for example 0.995.
    /// Prevents saturated colours.
    #[arg(long, value_name = "QUANTILE", help_heading = "Sampler")]
    pub(super) dynamic_threshold: Option<f64>,
    /// Convention for word weights like `(word:1.3)`: `comfyui`, `a1111` or `a1111-no-norm` [default: comfyui].
    #[arg(long, value_name = "KIND", requires = "prompt", help_heading = "Sampler")]
    pub(super) prompt_weights: Option<Weighting>,
    /// Skip this many of the text encoder's last layers.
    #[arg(long, value_name = "LAYERS", help_heading = "Sampler")]
    pub(super) clip_skip: Option<usize>,
    /// Steps of the prior of a DALL·E 2 model, which samples an embedding of the image for the prompt [default: 25].
    #[arg(long, value_name = "STEPS", help_heading = "Sampler")]
    pub(super) prior_steps: Option<NonZeroUsize>,
    /// Guidance scale of the prior [default: 4].
    #[arg(long, value_name = "SCALE", help_heading = "Sampler")]
    pub(super) prior_guidance: Option<f64>,
    /// LoRA to merge into the weights, with an optional scale, in the format of diffusers, PEFT or kohya's scripts; may be
    /// repeated. Latent models only.
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Sampler")]
    pub(super) lora: Vec<String>,
    /// Learned token (textual inversion) in a safetensors file, and the word that stands for it in prompts [default: as the file
    /// says, or its name]; may be repeated.
    #[arg(long, value_name = "FILE[:TOKEN]", help_heading = "Sampler")]
    pub(super) embedding: Vec<String>,
    /// Decode latents, and encode --image, in tiles of this many pixels, which limits memory for large images [default: 512
    /// above 1024x1024 pixels, otherwise no tiles].
    #[arg(long, value_name = "PIXELS", help_heading = "Sampler")]
    pub(super) vae_tile: Option<NonZeroUsize>,
    /// For Stable Video Diffusion: decode this many frames together, which limits memory; clips can flicker where the parts meet
    /// [default: all].
    #[arg(long, value_name = "FRAMES", help_heading = "Sampler")]
    pub(super) vae_frames: Option<NonZeroUsize>,
    /// Maximum batch size in one call of the network. Changes memory and speed, but not the images.
    #[arg(long, value_name = "ROWS", help_heading = "Sampler")]
    pub(super) chunk: Option<NonZeroUsize>,
    /// Precision: f32; bf16 activations, which need less time and memory; or int8 weights, which need a quarter of the memory
    /// and less time in linear layers.
    #[arg(long, value_name = "TYPE", help_heading = "Sampler")]
    pub(super) precision: Option<Precision>,
    /// Measure which convolution algorithm is the fastest on this machine and for this batch size. The last bits of images
    /// then vary from run to run.
    #[arg(long, help_heading = "Sampler")]
    pub(super) fastest_kernels: bool,
    /// Use the initial noise in this safetensors file: `noise`, [count, channels, height, width].
    #[arg(long, value_name = "FILE", help_heading = "Sampler")]
    pub(super) noise: Option<PathBuf>,

    /// Image file with the grid of images. The request is stored in it. Audio models write a WAV or FLAC file, several signals to
    /// `x-0.wav`, `x-1.wav` and so on for `-o x.wav`; clip models an animation with the grid of clips, whose extension selects
    /// .gif, .png (APNG), .webp, .y4m or, with an installed ffmpeg, .mp4, .webm or .mkv in AV1. `-` sends the sound of a spoken text
    /// to standard output as WAV while it is made, for example to `| aplay` [default: tweedie.png, tweedie.wav or tweedie.gif].
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(super) output: Option<PathBuf>,
    /// Also write one file per image or clip to this folder.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(super) singles: Option<PathBuf>,
    /// Also write a filmstrip: one row per image, from noise to result. Images only.
    #[arg(long, value_name = "FILE.png", help_heading = "Output")]
    pub(super) filmstrip: Option<PathBuf>,
    /// Also write an animation of the denoising; the extension selects .gif, .png (APNG) or .webp. Images only.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) animation: Option<PathBuf>,
    /// Show the noisy samples in filmstrip and animation instead of the predicted clean ones.
    #[arg(long, help_heading = "Output")]
    pub(super) noisy: bool,
    /// For latent models, an AutoencoderTiny that decodes the frames of filmstrip and animation [default: the model's
    /// autoencoder, which is slower].
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(super) preview_vae: Option<PathBuf>,
    /// Also write the samples as tensors: `samples`, [count, channels, height, width] or with other axes, in -1..1.
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Output")]
    pub(super) save_tensors: Option<PathBuf>,
    /// Enlarge pixels in grids, filmstrip and animation by this factor.
    #[arg(long, value_name = "TIMES", default_value_t = 2, help_heading = "Output")]
    pub(super) zoom: usize,
}

/// The axes of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Height and width of images.
    Image([usize; 2]),
    /// The side of square images, or the length of audio.
    One(usize),
}

impl Size {
    /// The size for a model whose samples have this number of axes.
    pub(super) fn of(self, axes: usize) -> Vec<usize> {
        match self {
            Self::Image(size) => size.to_vec(),
            Self::One(length) if axes == 1 => vec![length],
            Self::One(side) => vec![side, side],
        }
    }
}

/// Parses `SIDE`, `LENGTH` or `WIDTHxHEIGHT`.
fn size(text: &str) -> Result<Size, String> {
    let number = |text: &str| {
        let wrong = || {
            "expected one number of pixels, or width and height like 768x512, or the length of audio"
                .to_owned()
        };
        text.trim().parse().map_err(|_| wrong())
    };
    match text.split_once(['x', 'X', '×']) {
        Some((width, height)) => Ok(Size::Image([number(height)?, number(width)?])),
        None => number(text).map(Size::One),
    }
}

/// A lower and an upper bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval([f64; 2]);

fn interval(text: &str) -> Result<Interval, String> {
    let wrong = || "expected two numbers separated by a comma, for example 0.2,5".to_owned();
    let (from, to) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    Ok(Interval([number(from)?, number(to)?]))
}

pub(super) fn menus() -> String {
    let mut text = String::from("Solvers (aliases):\n");
    for s in SOLVERS {
        let aliases =
            if s.aliases.is_empty() { String::new() } else { format!(" ({})", s.aliases.join(", ")) };
        text.push_str(&format!(
            "  {}{aliases}\n      {}; order {}, {} evaluation{} per step. {}\n",
            s.name,
            s.summary,
            s.order,
            s.evaluations,
            if s.evaluations == 1 { "" } else { "s" },
            s.paper
        ));
    }
    let names: Vec<_> = SPACINGS.iter().map(|(name, _)| *name).collect();
    text.push_str(&format!("\nSpacings: {}", names.join(", ")));
    text.push_str(
        "\nSpacings with parameters: leading=1, karras=5, polyexponential=2, beta=0.5,0.5, shifted=3",
    );
    text
}

/// The request in a file: ours, or in the text of AUTOMATIC1111's web UI.
fn like(path: &Path, ui: Ui) -> Result<Request> {
    if let Some(request) = read_request(path)? {
        return Ok(request);
    }
    let read = read_parameters(path)?;
    let Parsed { request, others } =
        read.with_context(|| format!("{}: no request of tweedie is stored in this file", path.display()))?;
    let others: Vec<String> = others.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    ui.note(format!("{}: made by AUTOMATIC1111's web UI or a similar program", path.display()));
    if !others.is_empty() {
        ui.warn(format!("{}: ignoring {}", path.display(), others.join(", ")));
    }
    Ok(request)
}

impl Args {
    /// The model, with the request's LoRAs.
    pub(super) fn pipeline(&self, request: &Request, device: &Device, ui: Ui) -> Result<Pipeline> {
        let controls = control::folders(request);
        let options = LoadOptions {
            controls: &controls,
            motion_adapter: None,
            variant: self.variant.as_deref(),
            loras: &request.loras,
            embeddings: &request.embeddings,
            tokenizer: self.tokenizer.as_deref(),
            prediction: self.prediction.map(Into::into),
        };
        // Without --model, prompts select the project's text-to-image model.
        let texts = (!request.prompts.is_empty()).then_some(Path::new(library::TEXTS));
        model::pipeline_with(self.model.as_deref().or(texts), &options, device, ui)
    }

    /// The request.
    pub(super) fn request(&self, ui: Ui) -> Result<Request> {
        let recorded = |path: &Option<PathBuf>| path.as_deref().map(RecordedFile::of).transpose();
        let mut request = match &self.like {
            Some(path) => like(path, ui)?,
            None => Request {
                count: self.count.unwrap_or(NonZeroUsize::MIN),
                prompts: self.prompt.clone(),
                negative_prompt: self.negative_prompt.clone(),
                voice: self.voice.clone(),
                image: recorded(&self.image)?,
                strength: self.strength,
                enlarge: self.enlarge.clone(),
                refiner: self.refiner.clone(),
                refine_from: self.refine_from,
                aesthetic_score: self.aesthetic_score,
                negative_aesthetic_score: self.negative_aesthetic_score,
                noise_level: self.noise_level,
                classes: (!self.class.is_empty()).then(|| self.class.clone()),
                seed: self.seed,
                frames: self.frames,
                fps: self.fps,
                motion: self.motion,
                continued: recorded(&self.r#continue)?,
                keep: self.keep,
                loudness: self.loudness,
                seconds: self.seconds,
                start: self.start,
                ..Request::default()
            },
        };
        request.steps = self.steps.or(request.steps);
        request.solver = self.solver.clone().or(request.solver);
        request.untuned |= self.untuned;
        request.spacing = self.spacing.or(request.spacing);
        request.eta = self.eta.or(request.eta);
        request.mu = self.mu.or(request.mu);
        request.guidance = self.guidance.or(request.guidance);
        request.min_guidance = self.min_guidance.or(request.min_guidance);
        request.guidance_rescale = self.guidance_rescale.or(request.guidance_rescale);
        request.guidance_interval = self.guidance_interval.map(|i| i.0).or(request.guidance_interval);
        request.dynamic_threshold = self.dynamic_threshold.or(request.dynamic_threshold);
        request.prompt_weights = self.prompt_weights.or(request.prompt_weights);
        request.clip_skip = self.clip_skip.or(request.clip_skip);
        request.prior_steps = self.prior_steps.or(request.prior_steps);
        request.prior_guidance = self.prior_guidance.or(request.prior_guidance);
        request.vae_tile = self.vae_tile.or(request.vae_tile);
        request.vae_frames = self.vae_frames.or(request.vae_frames);
        request.chunk = self.chunk.or(request.chunk);
        request.precision = self.precision.or(request.precision);
        request.noise = recorded(&self.noise)?.or(request.noise);
        self.control.put_into(&mut request)?;
        if !self.embedding.is_empty() {
            request.embeddings =
                self.embedding.iter().map(|text| model::embedding(text)).collect::<Result<_>>()?;
        }
        if !self.lora.is_empty() {
            let stored = &request.loras;
            request.loras = self.lora.iter().map(|text| model::lora(text, stored)).collect::<Result<_>>()?;
        }
        match &self.like {
            Some(path) => located(&request, path, true),
            None => Ok(request),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_lengths_or_squares_or_width_and_height() {
        assert_eq!(size("512").unwrap().of(2), [512, 512]);
        assert_eq!(size("512").unwrap().of(1), [512]);
        assert_eq!(size("768x512").unwrap().of(2), [512, 768]);
        assert_eq!(size("768x512").unwrap().of(1), [512, 768]);
        for text in ["", "x", "12x", "1x2x3", "-4", "12.5"] {
            assert!(size(text).unwrap_err().contains("768x512"), "{text}");
        }
    }
}
