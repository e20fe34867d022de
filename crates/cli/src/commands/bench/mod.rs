//! `tweedie bench`.

mod child;
mod kernels;
mod layers;
mod measure;
mod network;

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Result, anyhow, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;
use tweedie::{models::Precision, ops};

use crate::ui::Ui;
use measure::Bench;
use network::Named;

#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Every measurement is repeated. The table shows the median and, in brackets, the fastest and the slowest run. \
With --json each measurement is one line with all its times. Other running programs distort the results.")]
pub struct Args {
    /// What to measure [default: everything].
    #[arg(value_name = "PIECE")]
    pieces: Vec<Piece>,
    /// Only run measurements whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// Benchmark the network of this model folder.
    #[arg(short, long, value_name = "DIR", conflicts_with = "network", help_heading = "Network")]
    model: Option<PathBuf>,
    /// Benchmark a built-in network.
    #[arg(long, value_name = "NAME", value_enum, default_value_t, help_heading = "Network")]
    network: Named,
    /// Width and height of the images in pixels [default: the network's training size].
    #[arg(long, value_name = "PIXELS", help_heading = "Network")]
    size: Option<usize>,
    /// Batch sizes to measure, separated by commas.
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,8",
        help_heading = "Network"
    )]
    batch: Vec<NonZeroUsize>,
    /// Precision of the network: f32, bf16 or int8.
    #[arg(long, value_name = "TYPE", default_value_t, help_heading = "Network")]
    precision: Precision,
    /// Measure which convolution algorithm is the fastest, instead of using the fixed rule.
    #[arg(long, help_heading = "Network")]
    fastest_kernels: bool,
    /// Number of steps of the sampling run.
    #[arg(long, value_name = "N", default_value = "10", help_heading = "Network")]
    steps: NonZeroUsize,

    /// Number of measured runs.
    #[arg(long, value_name = "N", default_value = "7", help_heading = "Repetitions")]
    runs: NonZeroUsize,
    /// Number of runs before the measured ones.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Repetitions")]
    warm_up: usize,
}

/// A kind of benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Piece {
    /// Single kernels: convolutions, linear layers, normalization, attention and the optimizer.
    Kernels,
    /// A forward pass of the network, for each batch size.
    Forward,
    /// The time of each kind of layer in a forward pass, the slowest layers, and their speed compared with the machine's
    /// peak.
    Layers,
    /// A training step for each batch size: forward, backward, AdamW and the weight average. Not for latent models, and
    /// not with int8.
    Train,
    /// A whole sampling run, for each batch size.
    Sample,
    /// The time from process start to the end of the first denoising step, for one image.
    Startup,
    /// Peak memory of a process that does one of the above.
    Memory,
}

impl Piece {
    /// The name on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Kernels => "kernels",
            Self::Forward => "forward",
            Self::Layers => "layers",
            Self::Train => "train",
            Self::Sample => "sample",
            Self::Startup => "startup",
            Self::Memory => "memory",
        }
    }
}

/// Limits that exceed any machine's memory or time.
const MOST_BATCH: usize = 4096;
/// Limit for the pixels in one call.
const MOST_PIXELS: usize = 1 << 24;
const MOST_STEPS: usize = 10_000;
const MOST_RUNS: usize = 1_000_000;

pub fn run(args: Args, ui: Ui, device_name: &str) -> Result<()> {
    let device = ops::device(device_name)?;
    args.precision.check(&device).map_err(|e| anyhow!("--precision: {e}"))?;
    let most = |name: &str, value: usize, most: usize| {
        ensure!(value <= most, "--{name} {value}: expected at most {most}");
        Ok(())
    };
    for batch in &args.batch {
        most("batch", batch.get(), MOST_BATCH)?;
    }
    most("steps", args.steps.get(), MOST_STEPS)?;
    most("runs", args.runs.get(), MOST_RUNS)?;
    most("warm-up", args.warm_up, MOST_RUNS)?;
    let bench = Bench::new(&args, ui, device, device_name);
    let trains = bench.untrained()?.is_none();
    let all = Piece::value_variants().iter().copied().filter(|piece| trains || *piece != Piece::Train);
    let pieces = if args.pieces.is_empty() { all.collect() } else { args.pieces.clone() };
    let machine = json!({
        "bench": "machine",
        "cpu": measure::cpu(),
        "threads": bench.threads,
        "instruction_set": ops::instruction_set(),
        "device": device_name,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let line = format!(
        "{}, {} threads, {}, tweedie {}",
        measure::cpu(),
        bench.threads,
        ops::instruction_set(),
        env!("CARGO_PKG_VERSION")
    );
    ui.result(&machine, line);
    for piece in pieces {
        match piece {
            Piece::Kernels => bench.context().with_precision(Precision::F32).run(|| kernels::run(&bench)),
            Piece::Forward => network::forward(&bench),
            Piece::Layers => network::layers(&bench),
            Piece::Train => network::train(&bench),
            Piece::Sample => network::sample(&bench),
            Piece::Startup => child::startup(&bench),
            Piece::Memory => child::memory(&bench),
        }?;
    }
    ensure!(
        bench.reported(),
        "--only {}: no measurement contains this text in its name",
        args.only.unwrap_or_default()
    );
    if let Some(bytes) = measure::peak_memory() {
        ui.event(&json!({ "bench": "process", "name": "peak memory", "bytes": bytes }));
    }
    Ok(())
}
