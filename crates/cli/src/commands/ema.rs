//! `tweedie ema`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::train::post_hoc::reconstruct;

use crate::ui::Ui;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The folder of a run that kept snapshots (ema.kind = power, two or more ema.stds, ema.snapshot_every).
    run: PathBuf,
    /// Length of the average: its standard deviation as a share of the run, 0.001 to 0.28.
    #[arg(long, value_name = "SHARE")]
    std: f64,
    /// The step at which the average ends, of which there is a snapshot [default: the last].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// The model's folder.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
}

/// Above this share of the profile's own size, what the snapshots cannot give matters.
const POOR: f64 = 0.2;

pub fn run(args: Args, ui: Ui) -> Result<()> {
    ensure!(args.run.is_dir(), "{}: there is no such folder", args.run.display());
    let made = reconstruct(&args.run, args.std, args.step)?;
    if made.fit.error > POOR {
        ui.warn(format!(
            "the snapshots do not give an average of this length well: {:.0} % of its profile is missing; \
             more of them, or a length nearer to theirs, would",
            100.0 * made.fit.error
        ));
    }
    made.export(&args.out)?;
    ui.result(
        &json!({ "model": args.out, "std": args.std, "step": made.step, "images": made.images,
            "snapshots": made.snapshots, "weights": made.fit.weights, "error": made.fit.error }),
        format!(
            "average of relative length {} at step {}, from {} snapshots; profile met to {:.2} %\nmodel: {}",
            args.std,
            made.step,
            made.snapshots,
            100.0 * made.fit.error,
            args.out.display()
        ),
    );
    Ok(())
}
