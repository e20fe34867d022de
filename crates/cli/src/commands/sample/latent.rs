//! `tweedie sample` with a model that diffuses in latents.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tweedie::{
    data::{DataConfig, Image, open_image},
    hub::{LatentModel, Lora, OriginalCheckpoint, Prediction, Recipe},
    pipe::{
        Event, LatentPipeline, PipelineError, Request,
        film::{Film, Show},
    },
};

use super::Args;
use crate::{
    interrupt::{self, INTERRUPTED},
    tensors,
    ui::Ui,
};

pub fn run(args: &Args, path: &Path, ui: Ui, device: &str) -> Result<ExitCode> {
    let request = args.request(1)?;
    ensure!(
        args.filmstrip.is_none() && args.animation.is_none(),
        "--filmstrip and --animation show samples, and those of this model are latents, not pictures"
    );
    let device = tweedie::ops::device(device)?;
    let loras = args.lora.iter().map(|text| lora(text)).collect::<Result<Vec<_>>>()?;
    let model = match path.is_file() {
        true => {
            let prediction = args.prediction.map(|kind| match kind {
                super::Prediction::Eps => Prediction::Eps,
                super::Prediction::V => Prediction::V,
            });
            let checkpoint = OriginalCheckpoint::open(path, prediction)?;
            LatentModel::load_original(&checkpoint, args.tokenizer.as_deref(), &loras, &device)?
        }
        false => {
            ensure!(args.tokenizer.is_none(), "--tokenizer: for models in one file; a folder has its own");
            ensure!(
                args.prediction.is_none(),
                "--prediction: for models in one file; a folder says it itself"
            );
            LatentModel::load_with(path, &loras, &device)?
        }
    };
    let pipeline = LatentPipeline::of(model, &device);
    let plan = pipeline.resolve(&request, args.image.is_some())?;
    let image = args.image.as_deref().map(|path| picture(path, plan.size)).transpose()?;
    let noise = args.noise.as_deref().map(|path| tensors::read_one(path, "noise")).transpose()?;

    let cancelled = interrupt::flag()?;
    let start = Instant::now();
    let bar = ui.bar(0, "steps");
    let mut see = |event: Event<'_>| {
        let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        bar.set_message(format!("{:.2} s/step", start.elapsed().as_secs_f64() / index as f64));
        ui.event(&json!({ "event": "step", "index": index, "of": of }));
        ControlFlow::Continue(())
    };
    let run = pipeline.run_from(&request, noise.as_ref(), image.as_ref(), &cancelled, &mut see);
    bar.finish_and_clear();
    let output = match run {
        Err(PipelineError::Cancelled) => {
            ui.note("cancelled; nothing was written");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        other => other?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let no_film = Film::new(1, Show::Clean);
    let written = args.write(&request, &output, &no_film, &no_film, None)?;
    report(&request, &plan.recipe, output.evals, seconds, &written, ui);
    Ok(ExitCode::SUCCESS)
}

fn report(request: &Request, recipe: &Recipe, evals: usize, seconds: f64, written: &[PathBuf], ui: Ui) {
    let places: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
    let (count, steps, solver) = (request.count, recipe.plan.solves(), recipe.solver.name());
    ui.result(
        &json!({ "event": "finished", "request": request, "count": count, "solver": solver,
            "steps": steps, "evaluations": evals, "seconds": seconds, "files": places }),
        format!("{count} pictures, {steps} steps of {solver}, in {seconds:.1} s\n{}", places.join("\n")),
    );
}

/// `FILE` or `FILE:SCALE`.
fn lora(text: &str) -> Result<Lora> {
    let (path, scale) = match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f64>())) {
        Some((path, Ok(scale))) => (path, scale),
        _ => (text, 1.0),
    };
    ensure!(scale.is_finite(), "--lora {text}: expected a number after the colon");
    Ok(Lora::open(Path::new(path), scale)?)
}

/// The picture to begin with, cut and resized to what is asked for.
fn picture(path: &Path, [height, width]: [usize; 2]) -> Result<Image> {
    ensure!(height == width, "--image: begins square pictures; {height}×{width} pixels are asked for");
    open_image(path, &DataConfig { size: height, ..DataConfig::default() })
        .with_context(|| format!("cannot read {}", path.display()))
}
