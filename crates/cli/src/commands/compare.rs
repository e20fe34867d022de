//! `tweedie compare`.

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    core::{
        solver::{SolverEntry, find},
        spacing::Spacing,
    },
    data::{Image, Rgb, grid},
    hub::{Recipe, Sampling, scheduler_config::TUNED},
    pipe::{
        ClassSelector, Pipeline, PipelineError, Request,
        media::{enlarge, write_png},
        study::{CONVERGED_STEPS, Spread, Study, distances, evaluations},
    },
};

use super::sample::check_place;
use crate::{
    interrupt, model,
    sheet::{Cell, Sheet},
    ui::Ui,
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder or file, or a name of `tweedie models` [default: emoji-32, or emoji-text-64 with --prompt].
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Prompt, for text-to-image models; repeat to use several in turn.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Number of images per solver. All solvers start from the same noise.
    #[arg(short = 'n', long, value_name = "N", default_value = "4")]
    count: NonZeroUsize,
    /// Random seed. The same seed gives the same images.
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Class by name or number; repeat to use several in turn [default: all in turn].
    #[arg(short, long, value_name = "CLASS")]
    class: Vec<ClassSelector>,
    /// Solvers, separated by commas: names or aliases as in `tweedie sample --solvers`, or `tuned`.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "tuned,ddim,dpmpp-2m,dpmpp-3m,unipc,ipndm,heun,ddpm"
    )]
    solvers: Vec<String>,
    /// Values of network evaluations, separated by commas. Solvers with several evaluations per step take as many steps
    /// as fit.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "5,6,8,10,20")]
    evals: Vec<NonZeroUsize>,
    /// Spacing of the noise levels, for all solvers except `tuned`.
    #[arg(long, value_name = "NAME", default_value = "trailing")]
    spacing: Spacing,
    /// Guidance scale; 1 means no guidance [default: the model's].
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Number of steps of the reference solution.
    #[arg(long, value_name = "N", default_value_t = CONVERGED_STEPS)]
    reference_steps: usize,
    /// Image file to write: one row per solver, one column per number of evaluations.
    #[arg(short, long, value_name = "FILE.png", default_value = "compare.png")]
    output: PathBuf,
    /// Enlarge pixels by this factor.
    #[arg(long, value_name = "TIMES", default_value_t = 2)]
    zoom: usize,
}

/// Limit for the pixels in the grid.
const MOST_PIXELS: usize = 1 << 26;

/// A solver with a number of evaluations.
struct Entry {
    solver: String,
    recipe: Recipe,
    budget: usize,
    evaluations: usize,
    stochastic: bool,
}

/// Its result.
struct Outcome {
    error: Option<Spread>,
    seconds: f64,
    image: Image,
}

pub fn run(args: Args, ui: Ui, device: &str) -> Result<ExitCode> {
    ensure!((1..=64).contains(&args.zoom), "--zoom {}: expected a value from 1 to 64", args.zoom);
    ensure!(args.count.get() <= 256, "--count {}: expected at most 256", args.count);
    ensure!(args.evals.iter().all(|n| n.get() <= 10_000), "--evals: expected at most 10000 each");
    check_place(&args.output)?;
    let device = tweedie::ops::device(device)?;
    let pipeline = model::pipeline_for(args.model.as_deref(), &args.prompt, &device, ui)?;
    let request = Request {
        count: args.count,
        seed: args.seed,
        classes: (!args.class.is_empty()).then(|| args.class.clone()),
        guidance: args.guidance,
        prompts: args.prompt.clone(),
        untuned: true,
        ..Request::default()
    };
    let cancelled = interrupt::flag(ui);
    let study = Study::new(&pipeline, &request, &cancelled)?;
    model::tell_classes(pipeline.classes(), &args.class, ui);
    let entries = args.entries(&pipeline, &study)?;
    let size: usize = study.job().size().iter().product();
    let pixels = size * args.count.get() * args.zoom.pow(2) * (entries.len() + 1);
    ensure!(
        pixels <= MOST_PIXELS,
        "the grid would have {pixels} pixels, expected at most {MOST_PIXELS}; reduce --count, --zoom or --evals"
    );
    let reference = study.converged(args.reference_steps)?;

    let bar = ui.bar(entries.len() as u64 + 1, "samplers");
    let outcomes = compare(&study, &reference, &entries, args.zoom, &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (converged, outcomes) = match outcomes {
        Err(PipelineError::Cancelled) => {
            return Ok(interrupt::nothing_written(ui));
        }
        other => other?,
    };
    ensure!(converged.image.width > 0, "the model's samples are not images");
    let sheet = args.sheet(&entries, &converged, &outcomes);
    let sheet = sheet.draw().map_err(|e| anyhow!("{}: {e}", args.output.display()))?;
    write_png(&args.output, &sheet, None)?;

    let count = args.count.get() as f64;
    let rows: Vec<_> = (entries.iter().zip(&outcomes))
        .map(|(e, o)| {
            json!({ "solver": e.solver, "budget": e.budget, "evaluations": e.evaluations,
                "steps": e.recipe.plan.solves(), "error": o.error.map(|e| e.rms),
                "median": o.error.map(|e| e.median), "seconds_per_image": o.seconds / count })
        })
        .collect();
    ui.result(
        &json!({ "event": "finished", "output": args.output, "count": args.count, "seed": args.seed,
            "guidance": study.job().guidance(), "rows": rows,
            "converged": { "steps": args.reference_steps, "seconds_per_image": converged.seconds / count } }),
        args.table(&entries, &outcomes, &converged, pipeline.model().autoencoder.is_some()),
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs the reference and all entries from the same noise.
fn compare(
    study: &Study<'_>,
    reference: &Recipe,
    entries: &[Entry],
    zoom: usize,
    on: &mut dyn FnMut(usize),
) -> Result<(Outcome, Vec<Outcome>), PipelineError> {
    let batches = study.job().chunks();
    let run = |recipe: &Recipe| {
        let start = Instant::now();
        let ends = batches.iter().map(|rows| study.end(recipe, rows, &study.noise(rows)));
        let ends = ends.collect::<Result<Vec<_>, _>>()?;
        let seconds = start.elapsed().as_secs_f64();
        let images = ends.iter().map(|end| study.job().pictures(end));
        let images = images.collect::<Result<Vec<_>, _>>()?.concat();
        let columns = (images.len() as f64).sqrt().ceil() as usize;
        let image = match images.is_empty() {
            true => Image::filled(0, 0, Rgb([255; 3])),
            false => enlarge(&grid(&images, columns, 1, Rgb([255; 3])), zoom),
        };
        Ok::<_, PipelineError>((ends, Outcome { error: None, seconds, image }))
    };
    let (targets, converged) = run(reference)?;
    on(1);
    let outcomes = entries.iter().enumerate().map(|(index, entry)| {
        let (ends, outcome) = run(&entry.recipe)?;
        let found: Vec<f64> = ends.iter().zip(&targets).flat_map(|(a, b)| distances(a, b)).collect();
        let error = Spread::of(&found);
        on(index + 2);
        Ok(Outcome { error: (!entry.stochastic).then_some(error), ..outcome })
    });
    let outcomes = outcomes.collect::<Result<Vec<_>, PipelineError>>()?;
    Ok((converged, outcomes))
}

impl Args {
    fn entries(&self, pipeline: &Pipeline, study: &Study<'_>) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for name in &self.solvers {
            if name == TUNED {
                for budget in self.evals.iter().map(|n| n.get()) {
                    let Some(tuned) = pipeline.extras().tuned(budget, study.job().scale_for(TUNED)) else {
                        continue;
                    };
                    let recipe = study.job().bespoke(&tuned.sampler)?;
                    let (solver, evaluations) = (name.clone(), budget);
                    entries.push(Entry { solver, recipe, budget, evaluations, stochastic: false });
                }
                continue;
            }
            let known = find(name).with_context(|| {
                format!("--solvers: unknown solver `{name}`; run `tweedie sample --solvers` for the list")
            })?;
            ensure!(
                !known.adaptive,
                "--solvers: `{name}` is adaptive and cannot run with a fixed number of evaluations"
            );
            ensure!(
                !known.is_cfgpp() || study.job().guidance() <= 1.0,
                "--solvers: `{name}` needs a guidance from 0 to 1, got {}",
                study.job().guidance()
            );
            let guided = study.job().scale_for(name) != 1.0;
            ensure!(
                !guided || study.job().can_be_guided(),
                "--guidance: needs a model with prompts, or with classes and a null class; this model has neither"
            );
            for budget in self.evals.iter().map(|n| n.get()) {
                entries.extend(self.fitting(study, name, known, budget)?);
            }
        }
        ensure!(!entries.is_empty(), "none of --solvers can run with the numbers of evaluations in --evals");
        Ok(entries)
    }

    /// The largest number of steps within the budget of evaluations.
    fn fitting(
        &self,
        study: &Study<'_>,
        name: &str,
        known: &SolverEntry,
        budget: usize,
    ) -> Result<Option<Entry>> {
        // The last step may take fewer evaluations than the others.
        for steps in (1..=budget.div_ceil(known.evaluations)).rev() {
            let ask = Sampling { steps, solver: Some(name.into()), spacing: Some(self.spacing), eta: None };
            let recipe = study.job().recipe_with(&ask)?;
            let evaluations = evaluations(&recipe)?;
            if evaluations <= budget {
                let stochastic = !known.is_deterministic();
                return Ok(Some(Entry { solver: name.into(), recipe, budget, evaluations, stochastic }));
            }
        }
        Ok(None)
    }

    fn sheet(&self, entries: &[Entry], converged: &Outcome, outcomes: &[Outcome]) -> Sheet {
        let mut columns: Vec<String> = self.evals.iter().map(|n| format!("{n} evaluations")).collect();
        columns.push(format!("converged ({} steps)", self.reference_steps));
        let last = Cell { image: converged.image.clone(), caption: String::new() };
        let row = |name: &String| {
            let cell = |budget: usize| {
                let at = entries.iter().position(|e| e.solver == *name && e.budget == budget)?;
                let outcome = &outcomes[at];
                let caption = outcome.error.map_or("other noise".into(), |e| format!("RMS {:.4}", e.rms));
                Some(Cell { image: outcome.image.clone(), caption })
            };
            let cells = self.evals.iter().map(|n| cell(n.get())).chain([Some(last.clone())]).collect();
            (name.clone(), cells)
        };
        let present = |name: &&String| entries.iter().any(|e| e.solver == **name);
        Sheet { columns, rows: self.solvers.iter().filter(present).map(row).collect() }
    }

    fn table(&self, entries: &[Entry], outcomes: &[Outcome], converged: &Outcome, latents: bool) -> String {
        let count = self.count.get() as f64;
        let mut lines = vec![
            format!(
                "RMS distance of {} {} to the reference solution from the same noise",
                self.count,
                if latents { "latents" } else { "images (samples in -1..1)" }
            ),
            format!(
                "{:<24} {:>12} {:>10} {:>10} {:>14}",
                "solver", "evaluations", "RMS", "median", "ms per image"
            ),
        ];
        for (entry, outcome) in entries.iter().zip(outcomes) {
            let error = outcome
                .error
                .map_or(["-".into(), "-".into()], |e| [e.rms, e.median].map(|value| format!("{value:.5}")));
            let [rms, median] = error;
            let ms = 1e3 * outcome.seconds / count;
            let (solver, evaluations) = (&entry.solver, entry.evaluations);
            lines.push(format!("{solver:<24} {evaluations:>12} {rms:>10} {median:>10} {ms:>14.1}"));
        }
        let (steps, ms) = (self.reference_steps, 1e3 * converged.seconds / count);
        lines.push(format!("{:<24} {steps:>12} {:>10} {:>10} {ms:>14.1}", "converged", "0", "0"));
        if entries.iter().any(|e| e.stochastic) {
            lines.push("-: stochastic, so it ends at another image by design".into());
        }
        lines.push(self.output.display().to_string());
        lines.join("\n")
    }
}
