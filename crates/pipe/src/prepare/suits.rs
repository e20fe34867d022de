//! Whether a request suits the model: fields that it cannot use are errors.

use tweedie_hub::Sampling;
use tweedie_models::IoSpec;

use crate::{
    Inputs, Pipeline, PipelineError, Request,
    file::{LoraFile, RecordedFile},
    guidance::{UNGUIDED, check_unused, checked_scale},
};

/// Loudness that can be asked for, in LUFS.
const LOUDNESS: std::ops::RangeInclusive<f64> = -70.0..=0.0;

/// The guidance of a request.
pub(super) struct AskedGuidance {
    /// The scale of the request or the model.
    pub guidance: f64,
    /// Whether predictions are guided.
    pub guided: bool,
    /// Whether there are unconditional predictions.
    pub null: bool,
}

impl Pipeline {
    /// Checks the fields of a request that only some models can use; `varies` says whether it makes variations of an image.
    pub(super) fn check_suits(
        &self,
        request: &Request,
        inputs: &Inputs,
        varies: bool,
    ) -> Result<(), PipelineError> {
        let fail = |field, reason: &str| PipelineError::request(field, reason);
        if !inputs.frames.is_empty() && self.axes() != 3 {
            return Err(fail("continue", "this model does not make clips"));
        }
        self.check_loras(request)?;
        if request.enlarge.is_some() {
            return Err(fail("enlarge", "another model enlarges the results; a job of this model does not"));
        }
        if request.refiner.is_some() || request.refine_from.is_some() {
            let field = if request.refiner.is_some() { "refiner" } else { "refine_from" };
            return Err(fail(field, "another model makes the last steps; a job of this model does not"));
        }
        if request.continued.is_some() || request.keep.is_some() {
            let reason = "the program that runs the request continues the clip; a job makes one window of it";
            return Err(fail("continue", reason));
        }
        if self.model.unclip.is_none() || varies {
            let prior = [
                ("prior_steps", request.prior_steps.is_some()),
                ("prior_guidance", request.prior_guidance.is_some()),
            ];
            let reason = match self.model.unclip.as_ref().and_then(|unclip| unclip.prior.as_ref()) {
                Some(_) => "variations of an image need no prior",
                None => "this model has no prior",
            };
            check_unused(reason, &prior)?;
        }
        if varies && self.reads_texts() && !request.prompts.is_empty() {
            return Err(fail(
                "prompt",
                "this model makes images for a text or variations of an image; expected one of both",
            ));
        }
        if inputs.embeddings.is_some() && self.model.unclip.is_none() {
            return Err(fail("image", "this model does not make variations of an image"));
        }
        if let (Some(_), Some(_)) = (&self.model.small, &request.known) {
            return Err(fail("known", "this model enlarges images; it does not edit them"));
        }
        if let (Some(_), Some(_)) = (&self.model.unclip, &request.known) {
            return Err(fail("known", "this model enlarges what it makes; it does not edit images"));
        }
        self.check_clips(request, inputs)?;
        if let Some(lufs) = request.loudness {
            if self.axes() != 1 || request.known.is_some() {
                let reason = "is for sounds that the model makes from noise; remove it";
                return Err(fail("loudness", reason));
            }
            if !(LOUDNESS.contains(&lufs)) {
                let [from, to] = [LOUDNESS.start(), LOUDNESS.end()];
                return Err(fail("loudness", &format!("{lufs} LUFS: expected a value from {from} to {to}")));
            }
        }
        Ok(())
    }

    /// Checks the fields that depend on how clips are encoded and decoded.
    fn check_clips(&self, request: &Request, inputs: &Inputs) -> Result<(), PipelineError> {
        let fail = |field, reason: &str| Err(PipelineError::request(field, reason));
        if self.model.picture.is_some() && request.strength.is_some() {
            return fail("strength", "has no effect: this model makes a clip of the image; remove it");
        }
        let codec = self.codec().filter(|codec| codec.spec().axes == 3);
        let parts = codec.is_some_and(|codec| codec.decodes_parts());
        if request.vae_frames.is_some() && !parts {
            return fail("vae_frames", "this model's autoencoder does not decode clips in parts; remove it");
        }
        if codec.is_none() {
            return Ok(());
        }
        if request.vae_tile.is_some() {
            let instead = if parts { "use `vae_frames` instead" } else { "remove it" };
            return fail("vae_tile", &format!("this model's autoencoder has no tiles; {instead}"));
        }
        if request.known.is_some() || !inputs.frames.is_empty() {
            let field = if request.known.is_some() { "known" } else { "continue" };
            return fail(
                field,
                "this model's autoencoder sees frames together, so it changes no existing clips",
            );
        }
        Ok(())
    }

    /// The LoRAs, learned tokens and ControlNets of a request must be those with which the model was loaded.
    fn check_loras(&self, request: &Request) -> Result<(), PipelineError> {
        if !request.embeddings.is_empty() && request.embeddings != self.embeddings {
            let reason = "the model was loaded with other learned tokens; load it with these";
            return Err(PipelineError::request("embeddings", reason));
        }
        let nets: Vec<_> = request.controls.iter().filter_map(|control| control.net.as_ref()).collect();
        let same = |(a, b): (&&RecordedFile, &RecordedFile)| a.sha256 == b.sha256;
        let as_loaded = nets.len() == self.controls.len() && nets.iter().zip(&self.controls).all(same);
        if !nets.is_empty() && !as_loaded {
            let reason = "the model was loaded with other ControlNets; load it with those of the request";
            return Err(PipelineError::request("controls", reason));
        }
        let same = |(a, b): (&LoraFile, &LoraFile)| a.scale == b.scale && a.file.sha256 == b.file.sha256;
        let loaded =
            request.loras.len() == self.loras.len() && request.loras.iter().zip(&self.loras).all(same);
        if request.loras.is_empty() || loaded {
            return Ok(());
        }
        Err(PipelineError::request("loras", "the model was loaded with other LoRAs; load it with these"))
    }

    /// The guidance of a request, or the model's, and whether the model can be guided.
    pub(super) fn asked_guidance(
        &self,
        request: &Request,
        spec: &IoSpec,
        sampling: &Sampling,
    ) -> Result<AskedGuidance, PipelineError> {
        let fail = |reason: &str| PipelineError::request("guidance", reason);
        let null = self.reads_texts()
            || self.model.unclip.is_some()
            || self.model.picture.is_some()
            || spec.classes.count.is_some() && self.model.null_class().is_some();
        let conditional = null || spec.classes.count.is_some() || spec.takes_guidance;
        let own = self.model.extras.sampling.guidance.filter(|_| conditional);
        let guidance = request.guidance.or(own).unwrap_or(self.model.kind.guidance);
        let solver = sampling.solver.as_deref().unwrap_or_default();
        let scale = checked_scale(solver, guidance, request.guidance.is_none())?;
        if scale != 1.0 && !null && !spec.takes_guidance {
            return Err(fail(
                "needs a model with prompts, or with classes and a null class; this model has neither",
            ));
        }
        request.check_guidance()?;
        let guided = scale != 1.0 && !spec.takes_guidance;
        if !guided {
            let taken = "has no effect: this network takes the guidance scale as an input";
            let negative = request.negative_prompt.as_deref().is_some_and(|text| !text.is_empty());
            let fields = [
                ("negative_prompt", negative),
                ("min_guidance", request.min_guidance.is_some()),
                ("guidance_interval", request.guidance_interval.is_some()),
                ("guidance_rescale", request.guidance_rescale.is_some_and(|rescale| rescale > 0.0)),
                ("dynamic_threshold", request.dynamic_threshold.is_some()),
            ];
            check_unused(if spec.takes_guidance { taken } else { UNGUIDED }, &fields)?;
        }
        Ok(AskedGuidance { guidance, guided, null })
    }
}
