//! `tweedie compare`.

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode};

use anyhow::{Result, anyhow, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    core::spacing::Spacing,
    data::{Image, Rgb, grid},
    pipe::{
        ClassSelector, PipelineError, Request,
        comparison::{Contender, Outcome, compare, contenders},
        media::{enlarge, write_png},
        study::{CONVERGED_STEPS, Study},
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
    let budgets: Vec<usize> = args.evals.iter().map(|n| n.get()).collect();
    let entries = contenders(&pipeline, &study, &args.solvers, &budgets, args.spacing)?;
    let size: usize = study.job().result_size().iter().product();
    let pixels = size * args.count.get() * args.zoom.pow(2) * (entries.len() + 1);
    ensure!(
        pixels <= MOST_PIXELS,
        "the grid would have {pixels} pixels, expected at most {MOST_PIXELS}; reduce --count, --zoom or --evals"
    );
    let reference = study.converged(args.reference_steps)?;

    let bar = ui.bar(entries.len() as u64 + 1, "samplers");
    let outcomes = compare(&study, &reference, &entries, &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (converged, outcomes) = match outcomes {
        Err(PipelineError::Cancelled) => {
            return Ok(interrupt::nothing_written(ui));
        }
        other => other?,
    };
    ensure!(!converged.images.is_empty(), "the model's samples are not images");
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
        args.table(&entries, &outcomes, &converged, pipeline.model().codec.is_some()),
    );
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// The images of one sampler, in one picture.
    fn picture(&self, outcome: &Outcome) -> Image {
        let columns = (outcome.images.len() as f64).sqrt().ceil() as usize;
        enlarge(&grid(&outcome.images, columns, 1, Rgb([255; 3])), self.zoom)
    }

    fn sheet(&self, entries: &[Contender], converged: &Outcome, outcomes: &[Outcome]) -> Sheet {
        let mut columns: Vec<String> = self.evals.iter().map(|n| format!("{n} evaluations")).collect();
        columns.push(format!("converged ({} steps)", self.reference_steps));
        let last = Cell { image: self.picture(converged), caption: String::new() };
        let row = |name: &String| {
            let cell = |budget: usize| {
                let at = entries.iter().position(|e| e.solver == *name && e.budget == budget)?;
                let outcome = &outcomes[at];
                let caption = outcome.error.map_or("other noise".into(), |e| format!("RMS {:.4}", e.rms));
                Some(Cell { image: self.picture(outcome), caption })
            };
            let cells = self.evals.iter().map(|n| cell(n.get())).chain([Some(last.clone())]).collect();
            (name.clone(), cells)
        };
        let present = |name: &&String| entries.iter().any(|e| e.solver == **name);
        Sheet { columns, rows: self.solvers.iter().filter(present).map(row).collect() }
    }

    fn table(
        &self,
        entries: &[Contender],
        outcomes: &[Outcome],
        converged: &Outcome,
        latents: bool,
    ) -> String {
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
