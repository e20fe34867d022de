//! `tweedie sample` with a latent model.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tweedie::{
    data::{Image, ImageFacts, image_facts, open_sized},
    hub::{Component, ComponentDir, Recipe},
    models::Autoencoder,
    ops::Device,
    pipe::{
        Event, LatentPipeline, PipelineError, Preview, Request,
        film::{Film, Show},
        media::AnimationFormat,
    },
};

use super::{Args, FRAMES, MOMENTS};
use crate::{
    builtin, interrupt, model, tensors,
    ui::{Ui, counted},
};

pub fn run(args: &Args, animation: Option<AnimationFormat>, ui: Ui, device: &str) -> Result<ExitCode> {
    let mut request = args.request(args.prompt.len())?;
    let device = tweedie::ops::device(device)?;
    let loras = args.lora.iter().map(|text| model::lora(text)).collect::<Result<Vec<_>>>()?;
    let model = match &args.model {
        Some(path) => {
            let (tokenizer, variant) = (args.tokenizer.as_deref(), args.variant.as_deref());
            model::latent(path, tokenizer, args.prediction, variant, &loras, &device, ui)?
        }
        None => {
            ensure!(loras.is_empty(), "--lora needs --model");
            builtin::text_model(&device)?
        }
    };
    let pipeline = LatentPipeline::of(model, &device);
    if let Some(path) = args.image.as_deref().filter(|_| request.size.is_none()) {
        let ImageFacts { width, height, .. } = image_facts(path).with_context(|| cannot_read(path))?;
        request.size = pipeline.size_like([height, width]);
    }
    let plan = pipeline.resolve(&request, args.image.is_some())?;
    model::tell_classes(pipeline.classes(), request.classes.as_deref().unwrap_or_default(), ui);
    args.check_memory(request.count.get(), plan.size, plan.recipe.plan.solves())?;
    let image = args.image.as_deref().map(|path| picture(path, plan.size)).transpose()?;
    let noise = args.noise.as_deref().map(|path| tensors::read_one(path, "noise")).transpose()?;
    let mut films = Films::new(args, animation.is_some(), &pipeline, &device)?;

    let cancelled = interrupt::flag(ui);
    let steps = plan.recipe.plan.solves();
    let start = Instant::now();
    let bar = ui.bar(0, "steps");
    let mut failed = None;
    let mut see = |event: Event<'_>| {
        let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        bar.set_message(format!("{:.2} s/step", start.elapsed().as_secs_f64() / index as f64));
        ui.event(&json!({ "event": "step", "index": index, "of": of }));
        match films.see(&event, steps) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let run = pipeline.run_from(&request, noise.as_ref(), image.as_ref(), &cancelled, &mut see);
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error.into());
    }
    let output = match run {
        Err(PipelineError::Cancelled) => {
            return Ok(interrupt::nothing_written(ui));
        }
        other => other?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let written = args.write(&request, &output, &films.strip, &films.frames, animation)?;
    report(&request, &plan.recipe, output.evals, seconds, &written, ui);
    Ok(ExitCode::SUCCESS)
}

/// Filmstrip and animation with decoded frames.
struct Films<'a> {
    pipeline: &'a LatentPipeline,
    small: Option<Autoencoder>,
    strip: Film,
    frames: Film,
    wants: [bool; 2],
}

impl<'a> Films<'a> {
    fn new(args: &Args, animated: bool, pipeline: &'a LatentPipeline, device: &Device) -> Result<Self> {
        let wants = [args.filmstrip.is_some(), animated];
        ensure!(
            args.preview_vae.is_none() || wants != [false; 2],
            "--preview-vae needs --filmstrip or --animation"
        );
        let open = |path: &PathBuf| match ComponentDir::open(path)?.load(device)? {
            Component::Autoencoder(vae) => Ok(vae),
            _ => bail!("--preview-vae {}: expected an AutoencoderTiny or AutoencoderKL", path.display()),
        };
        let small = args.preview_vae.as_ref().map(open).transpose()?;
        if let Some(vae) = &small {
            let (found, expected) = (vae.latent_channels(), pipeline.model().autoencoder.latent_channels());
            ensure!(
                found == expected,
                "--preview-vae: the autoencoder has {found} latent channels, but the model has {expected}"
            );
        }
        let show = if args.noisy { Show::Noisy } else { Show::Clean };
        Ok(Self { pipeline, small, strip: Film::new(MOMENTS, show), frames: Film::new(FRAMES, show), wants })
    }

    fn see(&mut self, event: &Event<'_>, steps: usize) -> Result<(), PipelineError> {
        let (pipeline, small) = (self.pipeline, self.small.as_ref());
        // Both may need the same frame.
        let mut decoded: Option<Vec<Image>> = None;
        let mut pictures = |preview: &Preview<'_>, show: Show| {
            if decoded.is_none() {
                let latents = if show == Show::Noisy { preview.x_in_range() } else { preview.x0() };
                decoded = Some(pipeline.pictures(&latents, small)?);
            }
            Ok::<_, PipelineError>(decoded.clone().unwrap_or_default())
        };
        for (film, wanted) in [&mut self.strip, &mut self.frames].into_iter().zip(self.wants) {
            if wanted {
                film.see_by(event, steps, &mut pictures)?;
            }
        }
        Ok(())
    }
}

fn report(request: &Request, recipe: &Recipe, evals: usize, seconds: f64, written: &[PathBuf], ui: Ui) {
    let places: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
    let (count, steps, solver) = (request.count, recipe.plan.solves(), recipe.solver.name());
    ui.result(
        &json!({ "event": "finished", "request": request, "count": count, "solver": solver,
            "steps": steps, "evaluations": evals, "seconds": seconds, "files": places }),
        format!(
            "{}, {} of {solver}, in {seconds:.1} s\n{}",
            counted(count.get(), "image"),
            counted(steps, "step"),
            places.join("\n")
        ),
    );
}

/// The initial image, cropped and resized to the requested size.
fn picture(path: &Path, size: [usize; 2]) -> Result<Image> {
    open_sized(path, size).with_context(|| cannot_read(path))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}
