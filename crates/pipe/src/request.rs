//! Requests: everything that determines a result, apart from the model.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use tweedie_core::spacing::Spacing;
use tweedie_hub::{Sampling, SamplingDefaults};
use tweedie_models::Precision;

use crate::{
    ClassSelector, PipelineError,
    control::Control,
    file::{EmbeddingFile, LoraFile, RecordedFile},
    known::Known,
    weighting::Weighting,
};

/// What to make. Fields that are left out use the model's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Number of images.
    pub count: NonZeroUsize,
    /// Image `i` has class `i mod n` of these `n`. By default the model's classes are used in turn, without the null class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<ClassSelector>>,
    /// Image `i` is a function of this seed, `i`, and the other settings.
    pub seed: u64,
    /// Number of solver steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<NonZeroUsize>,
    /// Name of the solver: one of `tweedie_core::solver::SOLVERS`, or `tuned` for the sampler that was learned for the model
    /// with this number of steps. That is also the default if solver, spacing and eta are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver: Option<String>,
    /// Ignore learned samplers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub untuned: bool,
    /// Which noise levels to visit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spacing: Option<Spacing>,
    /// Amount of fresh noise, from 0 (none) to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// The shift of models whose noise levels depend on the image size (`use_dynamic_shifting`); by default computed as in
    /// diffusers' pipelines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mu: Option<f64>,
    /// Guidance scale; 1 or less means no guidance, as in diffusers, except that CFG++ solvers use 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// Guidance scale of the first frame, from which it rises evenly to `guidance` at the last frame; by default 1. For models that
    /// make clips of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_guidance: Option<f64>,
    /// The range of noise levels `sigma/alpha` with guidance; by default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<[f64; 2]>,
    /// How much the guided prediction is rescaled to the standard deviation of the conditional one, from 0 (not) to 1 (fully):
    /// Lin et al. 2023, arXiv:2305.08891.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<f64>,
    /// The quantile of the magnitudes of each guided prediction that is reduced to that of the unguided one, > 0 and ≤ 1.
    /// Prevents saturated colours with strong guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_threshold: Option<f64>,
    /// Prompts: image `i` has prompt `i mod n` of these `n`. Text-to-image models only. In JSON `prompt`, a text or a list of
    /// texts.
    #[serde(rename = "prompt", with = "crate::one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
    /// The negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The voice that speaks, by name; by default the first of the model. For models that speak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice: Option<String>,
    /// Convention for word weights; ComfyUI's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_weights: Option<Weighting>,
    /// Number of the text encoder's last layers to skip for the prompt but, as in diffusers, not for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// Number of solver steps of the prior, which samples an embedding of the image for the prompt: DALL·E 2 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior_steps: Option<NonZeroUsize>,
    /// Guidance scale of the prior.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior_guidance: Option<f64>,
    /// The initial image or sound, or the image that is enlarged. Without `size`, the result has about its aspect ratio, or its
    /// length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<RecordedFile>,
    /// The level of the noise on the image that is enlarged or of which a clip is made, in thousandths of the noise's standard
    /// deviation: more noise invents more, or moves more. For models that enlarge images or make clips of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_level: Option<usize>,
    /// The model that makes the last steps, such as SDXL's refiner, a folder or a name. It is up to the program that runs the
    /// request to do so: see [`Refinement`](crate::Refinement).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refiner: Option<PathBuf>,
    /// The part of the noise levels after which the refiner takes over, > 0 and < 1; by default 0.8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refine_from: Option<f64>,
    /// How beautiful the result should be, from 1 to 10; by default 6. For SDXL's refiner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f64>,
    /// The same for unconditional predictions, by default 2.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f64>,
    /// The model that enlarges the results, a folder or a name. It is up to the program that runs the request to do so: see
    /// [`Inputs::small`](crate::Inputs::small).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enlarge: Option<PathBuf>,
    /// How much of the initial image is replaced, > 0 and ≤ 1 (all). By default 0.8, or 1 for the part of a known image that
    /// is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// An existing image or sound of which a part is changed. The result has its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
    /// An image for each ControlNet of the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<Control>,
    /// ControlNets only act on the prediction for the prompt, and less on details than on the whole: they recognize what to draw
    /// even without a prompt. A guidance scale between 3 and 5 is recommended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub guess: bool,
    /// The initial noise: the tensor `noise` in a safetensors file, `[count, channels, …]` with a standard deviation of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<RecordedFile>,
    /// The LoRAs that are merged into the model's weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraFile>,
    /// Learned tokens that prompts contain: textual inversions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingFile>,
    /// Latents are decoded, and an initial image is encoded, in tiles of this many pixels, which limits memory for large
    /// images. By default images of more than 1024×1024 pixels use tiles of 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<NonZeroUsize>,
    /// Height and width of the images, by default those the model was made for. For other media their axes: the length of a
    /// signal, or height and width of a clip, with the number of frames before them if it is not `frames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Vec<usize>>,
    /// Length of sounds in seconds, instead of `size`. The sound is made in whole steps of the model and cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The second at which the sound begins, within a longer one of which it is a part; by default 0. For Stable Audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Number of frames of clips, by default as in `size`, or as the model was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<NonZeroUsize>,
    /// Frames of clips per second, by default the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<NonZeroU32>,
    /// How much moves, 0 to 1023, by default 127; networks were trained with 0 to 255. For models that make clips of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub motion: Option<u32>,
    /// Number of frames that the autoencoder decodes together, by default all; fewer need less memory, but can flicker where the
    /// parts meet. For autoencoders whose decoder sees the frames of clips together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_frames: Option<NonZeroUsize>,
    /// A clip that is continued: the result begins with it. It is up to the program that runs the request to do so, window after
    /// window: see [`Inputs::frames`](crate::Inputs::frames).
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continued: Option<RecordedFile>,
    /// Number of frames at the end of the clip so far that each window sees; by default half of a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<NonZeroUsize>,
    /// Integrated loudness of the sounds that are made, in LUFS (EBU R 128), such as -16; by default as the model makes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loudness: Option<f64>,
    /// Maximum batch size in one call of the network; smaller values need less memory and do not change the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<NonZeroUsize>,
    /// Precision of the network; by default `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            count: NonZeroUsize::MIN,
            classes: None,
            seed: 0,
            steps: None,
            solver: None,
            untuned: false,
            spacing: None,
            eta: None,
            mu: None,
            guidance: None,
            min_guidance: None,
            guidance_interval: None,
            guidance_rescale: None,
            dynamic_threshold: None,
            prompts: Vec::new(),
            negative_prompt: None,
            voice: None,
            prompt_weights: None,
            clip_skip: None,
            prior_steps: None,
            prior_guidance: None,
            image: None,
            noise_level: None,
            refiner: None,
            refine_from: None,
            aesthetic_score: None,
            negative_aesthetic_score: None,
            enlarge: None,
            strength: None,
            known: None,
            controls: Vec::new(),
            guess: false,
            noise: None,
            loras: Vec::new(),
            embeddings: Vec::new(),
            vae_tile: None,
            size: None,
            seconds: None,
            start: None,
            frames: None,
            fps: None,
            motion: None,
            vae_frames: None,
            continued: None,
            keep: None,
            loudness: None,
            chunk: None,
            precision: None,
        }
    }
}

/// Maximum number of images in one request.
const MOST: usize = 1 << 16;
/// Maximum number of pixels in one request: 3 GiB of samples in colour.
const MOST_PIXELS: usize = 1 << 28;
/// Maximum width and height of an image.
const MOST_SIDE: usize = 1 << 14;
/// Default batch size in one call of the network.
pub(crate) const CHUNK: usize = 16;
/// Steps if neither the request nor the model sets them.
const STEPS: usize = 50;

impl Request {
    pub(crate) fn checked_count(&self) -> Result<usize, PipelineError> {
        match self.count.get() {
            count if count > MOST => {
                let reason = format!("{count}: expected at most {MOST}");
                Err(PipelineError::request("count", reason))
            }
            count => Ok(count),
        }
    }

    pub(crate) fn check_guidance(&self) -> Result<(), PipelineError> {
        let fail = PipelineError::request;
        if let Some(first) = self.min_guidance.filter(|first| !(*first >= 0.0 && first.is_finite())) {
            return Err(fail("min_guidance", format!("{first}: expected a finite value ≥ 0")));
        }
        if let Some([from, to]) = self.guidance_interval
            && !(from >= 0.0 && from < to)
        {
            return Err(fail("guidance_interval", format!("[{from}, {to}]: expected 0 ≤ from < to")));
        }
        if let Some(rescale) = self.guidance_rescale
            && !(0.0..=1.0).contains(&rescale)
        {
            return Err(fail("guidance_rescale", format!("{rescale}: expected a value in 0..=1")));
        }
        match self.dynamic_threshold {
            Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
                Err(fail("dynamic_threshold", format!("{ratio}: expected a value > 0 and ≤ 1")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_size(&self, size: &[usize]) -> Result<(), PipelineError> {
        let (fail, count) = (PipelineError::request, self.count.get());
        let pixels = size.iter().try_fold(count, |all, n| all.checked_mul(*n));
        if pixels.is_none_or(|n| n > MOST_PIXELS) {
            let sides: Vec<_> = size.iter().map(usize::to_string).collect();
            let reason = format!(
                "{count} images of {} pixels: expected at most {MOST_PIXELS} pixels in all",
                sides.join("×")
            );
            return Err(fail("size", reason));
        }
        // The length of a signal is not a side.
        let most = if size.len() == 1 { MOST_PIXELS } else { MOST_SIDE };
        if size.iter().any(|n| !(1..=most).contains(n)) {
            return Err(fail("size", format!("{size:?}: expected sides from 1 to {most}")));
        }
        Ok(())
    }

    /// The sampler settings for a model with the defaults `own`.
    pub fn sampling(&self, own: &SamplingDefaults) -> Sampling {
        Sampling {
            steps: self.steps.map(NonZeroUsize::get).or(own.steps).unwrap_or(STEPS),
            solver: self.solver.clone().or_else(|| own.solver.clone()),
            spacing: self.spacing.or(own.spacing),
            // The model's default eta belongs to its default solver.
            eta: self.eta.or(own.eta.filter(|_| self.solver.is_none())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_what_was_asked_for_and_no_more() {
        let request = Request { seed: 7, steps: NonZeroUsize::new(20), ..Default::default() };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"count":1,"seed":7,"steps":20}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn a_prompt_is_a_text_and_several_are_a_list() {
        for (json, prompts) in [
            (r#"{"count":1,"seed":0,"prompt":"a cat"}"#, &["a cat"][..]),
            (r#"{"count":1,"seed":0,"prompt":["a cat","a dog"]}"#, &["a cat", "a dog"]),
        ] {
            let request: Request = serde_json::from_str(json).unwrap();
            assert_eq!(request.prompts, prompts);
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
        }
    }
}
