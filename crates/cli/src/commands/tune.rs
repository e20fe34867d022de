//! `tweedie tune-steps`.

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::{Value, json};
use tweedie::{
    hub::model_dir::{extras_in, save_extras},
    pipe::{
        ClassSelector, PipelineError, Request,
        study::{CONVERGED_STEPS, Spread},
        tune::{Learned, TuneEvent, TuneOptions, tune},
    },
};

use super::sample::check_place;
use crate::{
    interrupt::{self, INTERRUPTED},
    model,
    ui::Ui,
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder, or a name of `tweedie models`.
    model: PathBuf,
    /// Prompt, for text-to-image models; repeat to use several in turn.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Number of network evaluations; `tweedie sample --steps N` then uses the sampler.
    #[arg(long, value_name = "N", default_value = "6")]
    evals: NonZeroUsize,
    /// Number of starting points for learning.
    #[arg(long, value_name = "N", default_value = "64")]
    seeds: NonZeroUsize,
    /// Number of further starting points for the evaluation.
    #[arg(long, value_name = "N", default_value = "64")]
    held_out: NonZeroUsize,
    /// Random seed. The same seed learns the same sampler.
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Class by name or number; repeat to use several in turn [default: all in turn].
    #[arg(short, long, value_name = "CLASS")]
    class: Vec<ClassSelector>,
    /// Guidance scale to learn for; 1 means no guidance [default: the model's].
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Number of steps of the reference solution.
    #[arg(long, value_name = "N", default_value_t = CONVERGED_STEPS)]
    reference_steps: usize,
    /// Maximum number of sweeps of the search; each moves every level back and forth.
    #[arg(long, value_name = "N", default_value_t = 16)]
    sweeps: usize,
    /// Maximum number of iterations of the refinement; each takes as long as several sweeps.
    #[arg(long, value_name = "N", default_value_t = 2)]
    iterations: usize,
    /// Only report how good the sampler would be, and do not store it.
    #[arg(long)]
    dry_run: bool,
}

/// Number of registered samplers listed for comparison.
const LISTED: usize = 5;

pub fn run(args: Args, ui: Ui, device: &str) -> Result<ExitCode> {
    let evaluations = args.evals.get();
    ensure!((2..=64).contains(&evaluations), "--evals {evaluations}: expected a value from 2 to 64");
    ensure!(args.seeds.get() <= 4096, "--seeds {}: expected at most 4096", args.seeds);
    ensure!(args.held_out.get() <= 4096, "--held-out {}: expected at most 4096", args.held_out);
    ensure!(
        (4 * evaluations..=10_000).contains(&args.reference_steps),
        "--reference-steps {}: expected {} to 10000 (at least four times --evals)",
        args.reference_steps,
        4 * evaluations
    );
    let device = tweedie::ops::device(device)?;
    let pipeline = model::pipeline(Some(&args.model), &device, ui)?;
    let folder = if args.dry_run { None } else { Some(model::path(&args.model)?) };
    if let Some(folder) = &folder {
        ensure!(
            folder.is_dir(),
            "{}: a learned sampler is stored in a model folder, not in a single file",
            folder.display()
        );
        check_place(&folder.join("tweedie.json"))?;
    }
    let request = Request {
        seed: args.seed,
        steps: Some(args.evals),
        classes: (!args.class.is_empty()).then(|| args.class.clone()),
        guidance: args.guidance,
        prompts: args.prompt.clone(),
        untuned: true,
        ..Request::default()
    };
    model::tell_classes(pipeline.classes(), &args.class, ui);
    let options = TuneOptions {
        evaluations,
        seeds: args.seeds.get(),
        held_out: args.held_out.get(),
        reference_steps: args.reference_steps,
        sweeps: args.sweeps,
        iterations: args.iterations,
    };
    let stop = interrupt::flag(ui);
    let start = Instant::now();
    let bar = ui.bar(0, "");
    let learned = tune(&pipeline, &request, &options, &stop, &mut |event| {
        let (done, of, what) = match event {
            TuneEvent::Converging { done, of } => (done, of, "reference solutions".into()),
            TuneEvent::Trying { done, of } => (done, of, "registered solvers".into()),
            TuneEvent::Searching { done, of, error } => {
                ui.event(&json!({ "event": "searching", "sweeps": done, "error": error }));
                ((100.0 * done) as usize, 100 * of, format!("search · RMS {error:.4} (Ctrl-C keeps it)"))
            }
            TuneEvent::Learning { done, of, error } => {
                ui.event(&json!({ "event": "learning", "iterations": done, "error": error }));
                ((100.0 * done) as usize, 100 * of, format!("refinement · RMS {error:.4} (Ctrl-C keeps it)"))
            }
        };
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(what);
    });
    bar.finish_and_clear();
    let mut learned = match learned {
        Err(PipelineError::Cancelled) => {
            ui.note("cancelled before a sampler was found; nothing was written");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        other => other?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let report = report(&args, &learned, seconds);
    if let Value::Object(entries) = &report {
        learned.tuned.report = entries.clone();
    }
    let samples = if pipeline.model().codec.is_some() { "latents" } else { "samples in -1..1" };
    let mut text = table(&learned, &options, samples, seconds);
    if let Some(folder) = &folder {
        let mut extras = extras_in(folder)?;
        let guidance = learned.tuned.guidance;
        extras.tuned.retain(|t| t.sampler.evaluations() != evaluations || t.guidance != guidance);
        extras.tuned.push(learned.tuned.clone());
        extras.tuned.sort_by_key(|t| t.sampler.evaluations());
        save_extras(folder, &extras)?;
        text.push_str(&format!(
            "\nstored in {}: `tweedie sample --model {} --steps {evaluations}` uses it (unless --untuned)",
            folder.join("tweedie.json").display(),
            args.model.display()
        ));
    }
    ui.result(
        &json!({ "event": "finished", "model": args.model, "saved": !args.dry_run, "report": report,
            "levels": learned.tuned.sampler.levels, "weights": learned.tuned.sampler.weights }),
        text,
    );
    Ok(if learned.cancelled && args.dry_run { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

fn report(args: &Args, learned: &Learned, seconds: f64) -> Value {
    let untuned: Vec<_> = learned.untuned.iter().take(LISTED).collect();
    let untuned: Vec<_> = untuned
        .iter()
        .map(|u| {
            json!({ "solver": u.solver.name, "spacing": u.spacing, "error": u.error.rms,
                "mean": u.error.mean, "median": u.error.median })
        })
        .collect();
    let Spread { rms, mean, median } = learned.held_out;
    json!({ "error": rms, "mean": mean, "median": median, "error_train": learned.train.rms, "untuned": untuned,
        "seeds": args.seeds, "held_out": args.held_out, "seed": args.seed,
        "reference_steps": args.reference_steps, "reference_error": learned.converged.rms, "own": learned.own.rms,
        "as_registered": learned.as_registered, "seconds": seconds, "stopped_early": learned.cancelled })
}

fn table(learned: &Learned, options: &TuneOptions, samples: &str, seconds: f64) -> String {
    let row = |name: &str, held_out: Spread, train: Option<Spread>| {
        let Spread { rms, mean, median } = held_out;
        let train = train.map_or(String::new(), |train| format!("{:>12.5}", train.rms));
        format!("{name:<34} {rms:>10.5} {mean:>10.5} {median:>10.5}{train}")
    };
    let mut lines = vec![
        format!(
            "distance to the reference solution ({samples}), {} evaluations, guidance {}",
            options.evaluations, learned.tuned.guidance
        ),
        format!(
            "reference: {} steps, {:.5} from half as many; {} + {} starting points",
            options.reference_steps, learned.converged.rms, options.seeds, options.held_out
        ),
        format!("{:<34} {:^32}{:>12}", "", "held-out starting points", "training"),
        format!("{:<34} {:>10} {:>10} {:>10}{:>12}", "", "RMS", "mean", "median", "RMS"),
        row("tuned", learned.held_out, Some(learned.train)),
    ];
    for u in learned.untuned.iter().take(LISTED) {
        lines.push(row(&format!("{}, {}", u.solver.name, u.spacing), u.error, Some(u.train)));
    }
    lines.push(row("the model's default sampler", learned.own, None));
    if learned.as_registered {
        lines.push(
            "no learned sampler was closer on the held-out starting points; storing the best registered one"
                .into(),
        );
    }
    if let Some(best) = learned.untuned.first() {
        let (tuned, best) = (learned.held_out, best.error);
        lines.push(format!(
            "{:.2} times closer than the best registered solver and spacing ({:.2} in the median), in {seconds:.0} s",
            best.rms / tuned.rms,
            best.median / tuned.median
        ));
    }
    lines.join("\n")
}
