//! `tweedie ema`.

use std::{
    cell::OnceCell,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    eval::{
        compare::{features, features_of_data},
        extract::{Encoder, Extracted},
        metrics::Reference,
        quality::{Outcome, Quality},
        sweep::{Point, plot},
    },
    pipe::{Pipeline, Request},
    train::post_hoc::reconstruct,
};

use tweedie_system::files::Made;

use super::{
    eval::scores::{Cache, generate, images, tell_not_kept, watch},
    sample::{check_folder, check_place},
};
use crate::{source, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Folder of a run with snapshots (ema.kind = power, two or more ema.stds, ema.snapshot_every).
    run: PathBuf,
    /// Length of the average: its standard deviation as a fraction of the run, 0.001 to 0.28.
    #[arg(long, value_name = "SHARE", required_unless_present = "sweep", requires = "out")]
    std: Option<f64>,
    /// Step at which the average ends; must have a snapshot [default: the last].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Folder to write the model to.
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Instead of writing a model, compare the quality for several lengths.
    #[arg(
        long,
        value_name = "SHARE,SHARE,…",
        conflicts_with_all = ["std", "out"],
        value_delimiter = ',',
        num_args = 0..,
        default_missing_values = ["0.01", "0.02", "0.03", "0.05", "0.07", "0.1", "0.14", "0.2"],
        help_heading = "Sweep"
    )]
    sweep: Option<Vec<f64>>,
    /// Number of images generated for each length.
    #[arg(short = 'n', long, default_value = "256", value_name = "N", help_heading = "Sweep")]
    count: NonZeroUsize,
    /// Random seed, the same for all lengths.
    #[arg(short, long, default_value_t = 0, value_name = "N", help_heading = "Sweep")]
    seed: u64,
    /// Number of solver steps [default: the model's].
    #[arg(long, value_name = "N", help_heading = "Sweep")]
    steps: Option<NonZeroUsize>,
    #[command(flatten)]
    cache: Cache,
    /// Image file with the plot of the scores.
    #[arg(long, value_name = "FILE.png", default_value = "sweep.png", help_heading = "Sweep")]
    picture: PathBuf,
}

/// Fraction of the profile that may be missing before a warning.
const POOR: f64 = 0.2;

pub fn run(args: Args, ui: Ui, device: &str) -> Result<()> {
    ensure!(args.run.is_dir(), "{}: no such folder", args.run.display());
    match (&args.sweep, args.std, &args.out) {
        (Some(stds), ..) => sweep(&args, stds, ui, device),
        (None, Some(std), Some(out)) => one(&args, std, out, ui),
        _ => anyhow::bail!("expected --std with --out, or --sweep"),
    }
}

fn one(args: &Args, std: f64, out: &Path, ui: Ui) -> Result<()> {
    check_folder(out)?;
    let made = reconstruct(&args.run, std, args.step)?;
    if made.fit.error > POOR {
        ui.warn(format!(
            "the snapshots only approximate an average of this length: {:.0} % of its profile is missing; \
             use more snapshots, or a length closer to theirs",
            100.0 * made.fit.error
        ));
    }
    made.export(out)?;
    ui.result(
        &json!({ "model": out, "std": std, "step": made.step, "images": made.images,
            "snapshots": made.snapshots, "weights": made.fit.weights, "error": made.fit.error }),
        format!(
            "average of relative length {std} at step {}, from {} snapshots; profile error {:.2} %\nmodel: {}",
            made.step,
            made.snapshots,
            100.0 * made.fit.error,
            out.display()
        ),
    );
    Ok(())
}

fn sweep(args: &Args, stds: &[f64], ui: Ui, device: &str) -> Result<()> {
    check_place(&args.picture)?;
    let device = tweedie::ops::device(device)?;
    let encoder = Encoder::embedded(&device)?;
    // Finds lengths out of range before the first one is scored.
    let models =
        stds.iter().map(|std| reconstruct(&args.run, *std, args.step)).collect::<Result<Vec<_>, _>>()?;
    let request = Request { count: args.count, seed: args.seed, steps: args.steps, ..Request::default() };
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let _removed_when_interrupted = Made::new(scratch.path());
    let (mut points, data, reference) = (Vec::new(), OnceCell::<Extracted>::new(), OnceCell::new());
    for (std, made) in stds.iter().zip(models) {
        let folder = scratch.path().join(format!("std-{std}"));
        made.export(&folder)?;
        let pipeline = Pipeline::load(&folder, &device)?;
        if data.get().is_none() {
            let size = pipeline.prepare(&request)?.size().first().copied().unwrap_or(1);
            let config = source::of_model(pipeline.extras(), None, size, None)?;
            let (train, _) = source::open(&config, ui)?.split();
            let (bar, mut not_kept) = (ui.bar(0, ""), Vec::new());
            let (train, cache) = (images(&train, ui)?, args.cache.folder());
            let found = features_of_data(&encoder, &train, cache.as_deref(), &watch(&bar), &mut not_kept)?;
            bar.finish_and_clear();
            tell_not_kept(&not_kept, ui);
            let _ = data.set(found);
        }
        let data = data.get().context("no data")?;
        let reference = reference.get_or_init(|| Reference::new(&data.features));
        ui.note(format!("std {std}"));
        let generated = generate(pipeline.prepare(&request)?, ui)?;
        let bar = ui.bar(0, "");
        let watch = watch(&bar);
        let pictures = features(&encoder, &generated, &watch)?;
        let quality =
            Quality::of(&encoder, &pictures, reference, &|done, of| watch("pairs of features", done, of));
        bar.finish_and_clear();
        points.push(Point { std: *std, missing: made.fit.error, quality });
    }
    plot(&points, &args.picture)?;
    let text = table(&points, args);
    ui.result(&json!({ "sweep": points, "seed": args.seed, "picture": args.picture }), text);
    Ok(())
}

fn table(points: &[Point], args: &Args) -> String {
    let cell = |outcome: &Outcome| match outcome {
        Outcome::Scored { value, standard_error: Some(e), .. } => format!("{value:.4} ± {:.4}", 1.96 * e),
        Outcome::Scored { value, .. } => format!("{value:.4}"),
        Outcome::Refused { .. } => "refused".into(),
    };
    let mut lines = Vec::new();
    if let Some(first) = points.first().map(|p| &p.quality) {
        lines.push(format!("{}\n{}", first.extractor, first.comparable));
        lines.push(format!(
            "{} images per length, seed {}, compared with {} training images",
            first.generated, args.seed, first.data
        ));
    }
    lines.push(format!("{:<8} {:<9} {:<20} {:<20} {}", "std", "missing", "KID", "FID", "coverage"));
    for p in points {
        let missing = format!("{:.1} %", 100.0 * p.missing);
        let q = &p.quality;
        let [kid, fid, coverage] = [&q.kid, &q.fid, &q.coverage].map(cell);
        lines.push(format!("{:<8} {missing:<9} {kid:<20} {fid:<20} {coverage}", p.std));
    }
    lines.push(format!("plot: {}", args.picture.display()));
    lines.join("\n")
}
