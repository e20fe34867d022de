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
Every measurement is repeated; the table shows the median and, in brackets, the fastest and the slowest. \
With --json each is one line with all its times. Other programs at work on the machine distort everything.")]
pub struct Args {
    /// What to measure, in this order [default: everything].
    #[arg(value_name = "PIECE")]
    pieces: Vec<Piece>,
    /// Only measurements whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,

    /// The network of a model folder, in pixels or in latents.
    #[arg(short, long, value_name = "DIR", conflicts_with = "network", help_heading = "Which network")]
    model: Option<PathBuf>,
    /// A network by name.
    #[arg(long, value_name = "NAME", value_enum, default_value_t, help_heading = "Which network")]
    network: Named,
    /// Height and width of the pictures in pixels [default: what the network was made for].
    #[arg(long, value_name = "PIXELS", help_heading = "Which network")]
    size: Option<usize>,
    /// Images in one call; each number is measured.
    #[arg(
        short,
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,8",
        help_heading = "Which network"
    )]
    batch: Vec<NonZeroUsize>,
    /// What the network computes with: f32, bf16 or int8.
    #[arg(long, value_name = "TYPE", default_value_t, help_heading = "Which network")]
    precision: Precision,
    /// Convolutions take the algorithm that is measured to be the fastest, not the one that the rule says.
    #[arg(long, help_heading = "Which network")]
    fastest_kernels: bool,
    /// Steps of the sampling run.
    #[arg(long, value_name = "N", default_value = "10", help_heading = "Which network")]
    steps: NonZeroUsize,

    /// Repetitions that count.
    #[arg(long, value_name = "N", default_value = "7", help_heading = "How often")]
    runs: NonZeroUsize,
    /// Repetitions before these.
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "How often")]
    warm_up: usize,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Piece {
    /// Convolutions, linear maps, normalization, attention and the optimizer by themselves.
    Kernels,
    /// One pass of the network, per batch size.
    Forward,
    /// Where the time of a pass goes: each kind of layer, what takes longest, and how much of the machine's
    /// multiply-adds they reach.
    Layers,
    /// A training step, per batch size: forward, backward, AdamW and the average of the weights. Of models in
    /// pixels only, and not in int8.
    Train,
    /// A whole sampling run, per batch size.
    Sample,
    /// From the start of the process to the end of the first denoising step, one image.
    Startup,
    /// The most memory that a process holds which does one of the above and nothing else.
    Memory,
}

impl Piece {
    /// As on the command line.
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

/// Bounds beyond which nobody has the memory or the time.
const MOST_BATCH: usize = 4096;
/// In one call.
const MOST_PIXELS: usize = 1 << 24;
const MOST_STEPS: usize = 10_000;
const MOST_RUNS: usize = 1_000_000;

pub fn run(args: Args, ui: Ui, device_name: &str) -> Result<()> {
    let device = ops::device(device_name)?;
    args.precision.check(&device).map_err(|e| anyhow!("--precision {e}"))?;
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
        ops::measuring(args.fastest_kernels, || match piece {
            Piece::Kernels => kernels::run(&bench),
            Piece::Forward => network::forward(&bench),
            Piece::Layers => network::layers(&bench),
            Piece::Train => network::train(&bench),
            Piece::Sample => network::sample(&bench),
            Piece::Startup => child::startup(&bench),
            Piece::Memory => child::memory(&bench),
        })?;
    }
    ensure!(bench.reported(), "--only {}: no measurement has this name", args.only.unwrap_or_default());
    if let Some(bytes) = measure::peak_memory() {
        ui.event(&json!({ "bench": "process", "name": "peak memory", "bytes": bytes }));
    }
    Ok(())
}
