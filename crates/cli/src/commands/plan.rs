//! `tweedie plan`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    core::{Level, Move, spacing::Spacing},
    hub::Extras,
    pipe::Request,
};

use crate::{model, process, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder, or a name of `tweedie models` [default: emoji-32].
    #[arg(short, long, value_name = "MODEL", conflicts_with = "schedule")]
    model: Option<PathBuf>,
    /// Use this forward process instead of a model's.
    #[arg(long, value_name = "NAME", value_parser = process::names())]
    schedule: Option<String>,
    /// Number of solver steps.
    #[arg(long, value_name = "N", default_value = "10")]
    steps: std::num::NonZeroUsize,
    /// Solver [default: the model's].
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Spacing of the noise levels [default: the model's].
    #[arg(long, value_name = "NAME")]
    spacing: Option<Spacing>,
    /// Amount of fresh noise, from 0 (none) to 1 (as in the reversed diffusion).
    #[arg(long)]
    eta: Option<f64>,
    /// Ignore a sampler that `tweedie tune-steps` has learned for this number of steps.
    #[arg(long)]
    untuned: bool,
    /// Shift of a model whose noise levels depend on the image size [default: that of its own size].
    #[arg(long, conflicts_with = "schedule", allow_hyphen_values = true)]
    mu: Option<f64>,
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let (scheduler, extras) = match &args.schedule {
        Some(name) => (process::scheduler(name)?, Extras::default()),
        None => model::scheduler(args.model.as_deref(), args.mu, ui)?,
    };
    let open = args.solver.is_none() && args.spacing.is_none() && args.eta.is_none();
    let request = Request {
        steps: Some(args.steps),
        solver: args.solver,
        spacing: args.spacing,
        eta: args.eta,
        ..Request::default()
    };
    let own = &extras.sampling;
    let tuned = extras
        .tuned(args.steps.get(), own.guidance.unwrap_or(1.0).max(1.0))
        .filter(|_| open && !args.untuned);
    let recipe = match tuned {
        Some(tuned) => scheduler.resolve_bespoke(&tuned.sampler)?,
        None => scheduler.resolve_with(&request.sampling(own))?,
    };
    let row = |name: &str, level: Level, scale: Option<f64>| {
        let noise = scale.map_or(String::new(), |s| format!("  noise ×{s:.4}"));
        let Level { alpha, sigma, t } = level;
        format!("{name:<9} {t:>10.3} {alpha:>9.6} {sigma:>10.6} {:>9.3}{noise}", 2.0 * level.lambda())
    };
    let mut lines = vec![
        format!(
            "{} · {} steps, at most {} network evaluations",
            recipe.solver.name(),
            recipe.plan.solves(),
            recipe.plan.solves() * recipe.solver.evaluations()
        ),
        format!("{:<9} {:>10} {:>9} {:>10} {:>9}", "move", "t", "alpha", "sigma", "log-SNR"),
        row("start", recipe.plan.start, None),
    ];
    let mut moves = Vec::new();
    for step in &recipe.plan.moves {
        let (name, scale) = match step {
            Move::Solve(_) => ("solve", None),
            Move::Renoise { scale, .. } => ("renoise", Some(*scale)),
            Move::Relabel(_) => ("relabel", None),
        };
        lines.push(row(name, step.to(), scale));
        let Level { alpha, sigma, t } = step.to();
        moves.push(json!({ "move": name, "t": t, "alpha": alpha, "sigma": sigma, "scale": scale }));
    }
    let Level { alpha, sigma, t } = recipe.plan.start;
    ui.result(
        &json!({ "solver": recipe.solver.name(), "start": { "t": t, "alpha": alpha, "sigma": sigma },
            "start_std": recipe.plan.start_std, "moves": moves }),
        lines.join("\n"),
    );
    Ok(())
}
