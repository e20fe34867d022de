//! `tweedie compare`.

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    core::spacing::Spacing,
    data::{Image, Rgb, Video, grid},
    pipe::{
        ClassSelector, Media, PipelineError, Request,
        comparison::{Contender, Outcome, compare, contenders},
        media::{enlarge, write_png, write_video},
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
    /// File to write: one row per solver, one column per number of evaluations. Of clips, an image shows some frames of each, and
    /// a name that ends in .webp, .gif, .y4m, .mp4, .webm or .mkv plays them.
    #[arg(short, long, value_name = "FILE", default_value = "compare.png")]
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
    let plays = pipeline.axes() == 3
        && !args.output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    if plays {
        Video::check(&args.output)?;
    }
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
    let drawn = |frame: Option<usize>| {
        let sheet = args.sheet(&entries, &converged, &outcomes, frame);
        sheet.draw().map_err(|e| anyhow!("{}: {e}", args.output.display()))
    };
    match &converged.media {
        Media::Clips(clips) if plays => {
            let first = clips.first().context("the model made nothing")?;
            let frames =
                (0..first.frames.len()).map(|frame| drawn(Some(frame))).collect::<Result<Vec<_>>>()?;
            write_video(&args.output, &Video { frames, delay: first.delay }, None)?;
        }
        Media::Images(_) | Media::Clips(_) => write_png(&args.output, &drawn(None)?, None)?,
        _ => bail!("the model's samples are neither images nor clips"),
    }

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
    /// The images of one sampler, in one picture; of clips one frame, or some of each in a row.
    fn picture(&self, outcome: &Outcome, frame: Option<usize>) -> Image {
        /// Frames in a row.
        const SHOWN: usize = 4;
        let square = |images: &[Image]| (images.len() as f64).sqrt().ceil() as usize;
        let (images, columns) = match (&outcome.media, frame) {
            (Media::Images(images), _) => (images.clone(), square(images)),
            (Media::Clips(clips), Some(at)) => {
                let images: Vec<Image> =
                    clips.iter().filter_map(|clip| clip.frames.get(at).cloned()).collect();
                let columns = square(&images);
                (images, columns)
            }
            (Media::Clips(clips), None) => {
                let row = |clip: &Video| {
                    let (count, shown) = (clip.frames.len(), clip.frames.len().min(SHOWN));
                    (0..shown).map(|i| clip.frames[i * count / shown].clone()).collect::<Vec<_>>()
                };
                (clips.iter().flat_map(row).collect(), SHOWN)
            }
            _ => (Vec::new(), 1),
        };
        enlarge(&grid(&images, columns, 1, Rgb([255; 3])), self.zoom)
    }

    fn sheet(
        &self,
        entries: &[Contender],
        converged: &Outcome,
        outcomes: &[Outcome],
        frame: Option<usize>,
    ) -> Sheet {
        let mut columns: Vec<String> = self.evals.iter().map(|n| format!("{n} evaluations")).collect();
        columns.push(format!("converged ({} steps)", self.reference_steps));
        let last = Cell { image: self.picture(converged, frame), caption: String::new() };
        let row = |name: &String| {
            let cell = |budget: usize| {
                let at = entries.iter().position(|e| e.solver == *name && e.budget == budget)?;
                let outcome = &outcomes[at];
                let caption = outcome.error.map_or("other noise".into(), |e| format!("RMS {:.4}", e.rms));
                Some(Cell { image: self.picture(outcome, frame), caption })
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
