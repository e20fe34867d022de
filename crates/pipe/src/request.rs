//! Requests for images.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use tweedie_core::spacing::Spacing;
use tweedie_hub::{Extras, Sampling, SamplingDefaults};
use tweedie_models::{Precision, UNet2DConfig, unet::ClassEmbedType};

use crate::{ClassSelector, PipelineError, class::Classes, guidance, latent::prompt::Weighting};

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
    /// The range of noise levels `sigma/alpha` with guidance; by default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<[f64; 2]>,
    /// How much the guided prediction is rescaled to the standard deviation of the conditional one, from 0 (not) to 1 (fully):
    /// Lin et al. 2023, arXiv:2305.08891. Latent models only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<f64>,
    /// The quantile of the magnitudes of each guided prediction that is reduced to that of the unguided one, > 0 and ≤ 1.
    /// Prevents saturated colours with strong guidance. Latent models only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_threshold: Option<f64>,
    /// Prompts: image `i` has prompt `i mod n` of these `n`. Text-to-image models only. In JSON `prompt`, a text or a list of
    /// texts.
    #[serde(rename = "prompt", with = "crate::one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
    /// The negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Convention for word weights; ComfyUI's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_weights: Option<Weighting>,
    /// Number of the text encoder's last layers to skip for the prompt but, as in diffusers, not for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// How much of the initial image is replaced, > 0 and ≤ 1 (all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Latents are decoded, and an initial image is encoded, in tiles of this many pixels, which limits memory for large
    /// images. By default images of more than 1024×1024 pixels use tiles of 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<NonZeroUsize>,
    /// Height and width of the images; by default those the model was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
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
            guidance_interval: None,
            guidance_rescale: None,
            dynamic_threshold: None,
            prompts: Vec::new(),
            negative_prompt: None,
            prompt_weights: None,
            clip_skip: None,
            strength: None,
            vae_tile: None,
            size: None,
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

/// A request with all defaults filled in, checked against the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Number of images.
    pub count: usize,
    /// The class of each image, if the network has classes.
    pub classes: Option<Vec<usize>>,
    /// As in the request.
    pub seed: u64,
    /// The sampler.
    pub sampling: Sampling,
    /// Guidance scale of the request or the model; the effective scale depends on the solver: [`Self::scale_for`].
    pub guidance: f64,
    /// Range of noise levels with guidance.
    pub guidance_interval: Option<[f64; 2]>,
    /// The null class, if the request uses guidance.
    pub null_class: Option<usize>,
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// Maximum batch size in one call of the network, including the unconditional rows of guidance.
    pub chunk: usize,
    /// Precision of the network.
    pub precision: Precision,
}

impl Resolved {
    /// The effective guidance scale with this solver; 1 means no guidance.
    pub fn scale_for(&self, solver: &str) -> f64 {
        guidance::scale_for(solver, self.guidance)
    }
}

impl Request {
    /// Fills in the model's defaults, and checks the request against the model.
    ///
    /// # Errors
    /// [`PipelineError::Request`] naming the field, what was found and what was expected.
    pub fn resolve(&self, network: &UNet2DConfig, extras: &Extras) -> Result<Resolved, PipelineError> {
        let fail = PipelineError::request;
        let (count, own) = (self.checked_count()?, &extras.sampling);
        if let Some(field) = self.latent_field() {
            return Err(fail(field, "only supported for latent models; this model works on pixels"));
        }
        let classes = self.classes_of(network, extras)?;
        let guidance = self.guidance.or(own.guidance.filter(|_| classes.is_some())).unwrap_or(1.0);
        let sampling = self.sampling(own);
        let solver = sampling.solver.as_deref().unwrap_or_default();
        let scale = guidance::checked_scale(solver, guidance, self.guidance.is_none())?;
        if scale != 1.0 && (classes.is_none() || extras.null_class.is_none()) {
            let reason = "needs a model with classes and a null class, which this model does not have";
            return Err(fail("guidance", reason));
        }
        self.check_interval()?;
        if scale == 1.0 {
            let fields = [("guidance_interval", self.guidance_interval.is_some())];
            guidance::check_unused(guidance::UNGUIDED, &fields)?;
        }
        let [height, width] = match (self.size, network.sample_size) {
            (Some(size), _) => size,
            (None, Some(size)) => size.dims(),
            (None, None) => {
                return Err(fail("size", "the model has no default size, so the request needs one"));
            }
        };
        self.check_size([height, width])?;
        Ok(Resolved {
            count,
            classes,
            seed: self.seed,
            sampling,
            guidance,
            guidance_interval: self.guidance_interval,
            null_class: extras.null_class,
            shape: [network.in_channels, height, width],
            chunk: self.chunk.map_or(CHUNK, NonZeroUsize::get),
            precision: self.precision.unwrap_or_default(),
        })
    }

    pub(crate) fn checked_count(&self) -> Result<usize, PipelineError> {
        match self.count.get() {
            count if count > MOST => {
                let reason = format!("{count}: expected at most {MOST}");
                Err(PipelineError::request("count", reason))
            }
            count => Ok(count),
        }
    }

    /// A field that is set but only supported for latent models, if any.
    fn latent_field(&self) -> Option<&'static str> {
        [
            ("prompt", !self.prompts.is_empty()),
            ("negative_prompt", self.negative_prompt.is_some()),
            ("prompt_weights", self.prompt_weights.is_some()),
            ("clip_skip", self.clip_skip.is_some()),
            ("strength", self.strength.is_some()),
            ("vae_tile", self.vae_tile.is_some()),
            ("guidance_rescale", self.guidance_rescale.is_some()),
            ("dynamic_threshold", self.dynamic_threshold.is_some()),
        ]
        .into_iter()
        .find_map(|(field, set)| set.then_some(field))
    }

    pub(crate) fn check_interval(&self) -> Result<(), PipelineError> {
        match self.guidance_interval {
            Some([from, to]) if !(from >= 0.0 && from < to) => {
                let reason = format!("[{from}, {to}]: expected 0 ≤ from < to");
                Err(PipelineError::request("guidance_interval", reason))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_size(&self, [height, width]: [usize; 2]) -> Result<(), PipelineError> {
        let (fail, count) = (PipelineError::request, self.count.get());
        let pixels = height.checked_mul(width).and_then(|n| n.checked_mul(count));
        if pixels.is_none_or(|n| n > MOST_PIXELS) {
            let reason = format!(
                "{count} images of {height}×{width} pixels: expected at most {MOST_PIXELS} pixels in all"
            );
            return Err(fail("size", reason));
        }
        if !(1..=MOST_SIDE).contains(&height) || !(1..=MOST_SIDE).contains(&width) {
            return Err(fail("size", format!("[{height}, {width}]: expected sides from 1 to {MOST_SIDE}")));
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

    fn classes_of(
        &self,
        network: &UNet2DConfig,
        extras: &Extras,
    ) -> Result<Option<Vec<usize>>, PipelineError> {
        let fail = |reason: String| PipelineError::request("classes", reason);
        let known = match (network.class_embed_type, network.num_class_embeds) {
            (None, Some(n)) => n,
            (None, None) if self.classes.is_none() => return Ok(None),
            (None, None) => return Err(fail("this model has no classes".into())),
            (Some(kind), _) => {
                let kind = match kind {
                    ClassEmbedType::Timestep => "times",
                    ClassEmbedType::Identity => "vectors",
                };
                return Err(fail(format!("this model's classes are {kind}, which requests do not support")));
            }
        };
        let chosen = match &self.classes {
            None => (0..known).filter(|c| Some(*c) != extras.null_class).collect(),
            Some(list) => {
                let classes = Classes { count: known, names: &extras.class_names, listed: false };
                list.iter().map(|class| classes.find(class).map_err(fail)).collect::<Result<Vec<_>, _>>()?
            }
        };
        if chosen.is_empty() {
            return Err(fail("the list is empty; expected at least one class".into()));
        }
        Ok(Some(chosen.iter().copied().cycle().take(self.count.get()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> (UNet2DConfig, Extras) {
        let sample_size = Some(tweedie_models::unet::SampleSize::Square(8));
        let network = UNet2DConfig { num_class_embeds: Some(4), sample_size, ..Default::default() };
        let class_names = ["Cat", "Dog", "Bird"].map(String::from).to_vec();
        (network, Extras { class_names, null_class: Some(3), ..Default::default() })
    }

    fn resolve(json: &str) -> Result<Resolved, String> {
        let (network, extras) = model();
        let request: Request = serde_json::from_str(json).map_err(|e| e.to_string())?;
        request.resolve(&network, &extras).map_err(|e| e.to_string())
    }

    #[test]
    fn classes_are_cycled_and_named() {
        let classes = |json| resolve(json).unwrap().classes.unwrap();
        assert_eq!(classes(r#"{"count": 4}"#), [0, 1, 2, 0]);
        assert_eq!(classes(r#"{"count": 3, "classes": ["dog", 3]}"#), [1, 3, 1]);
    }

    #[test]
    fn errors_name_the_field() {
        for (json, words) in [
            (r#"{"classes": ["cow"]}"#, ["`classes`", "Cat, Dog, Bird"]),
            (r#"{"classes": [9]}"#, ["`classes`", "0 to 3"]),
            (r#"{"classes": []}"#, ["`classes`", "at least one"]),
            (r#"{"guidance": -1}"#, ["`guidance`", "≥ 0"]),
            (r#"{"guidance_interval": [2, 1]}"#, ["`guidance_interval`", "from < to"]),
            (r#"{"count": 1000000}"#, ["`count`", "at most"]),
            (r#"{"count": 0}"#, ["0", "nonzero"]),
            (r#"{"size": [1000000, 1000000]}"#, ["`size`", "at most"]),
            (r#"{"stepps": 3}"#, ["stepps", "steps"]),
            (r#"{"prompt": 3}"#, ["a text or", "a list of texts"]),
        ] {
            let error = resolve(json).unwrap_err();
            assert!(words.iter().all(|w| error.contains(w)), "{json}: {error}");
        }
    }

    #[test]
    fn guidance_needs_a_class_for_none() {
        let (network, mut extras) = model();
        extras.null_class = None;
        let with = |guidance: f64, solver: Option<&str>| {
            let solver = solver.map(String::from);
            let request = Request { guidance: Some(guidance), solver, ..Default::default() };
            request.resolve(&network, &extras).map_err(|e| e.to_string())
        };
        for (guidance, solver) in [(2.0, None), (0.5, Some("ddim-cfgpp"))] {
            let error = with(guidance, solver).unwrap_err();
            assert!(error.contains("`guidance`"), "{error}");
        }
        assert_eq!(with(0.5, None).unwrap().scale_for("ddim"), 1.0);
    }

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
