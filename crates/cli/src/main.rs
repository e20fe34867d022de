//! The binary `tweedie`: parses flags, calls the library, prints results.

mod commands;
mod control;
mod help;
mod interrupt;
mod memory;
mod model;
mod process;
mod sheet;
mod source;
mod stored;
mod team;
mod tensors;
mod ui;

use std::process::ExitCode;

use anyhow::Context;
use clap::{FromArgMatches, Parser, error::ErrorKind};

use commands::Command;
use team::Team;
use ui::Ui;

/// Reports a failed allocation instead of aborting.
#[global_allocator]
static ALLOCATOR: tweedie_system::memory::Allocator = tweedie_system::memory::Allocator;

/// Train, sample and evaluate diffusion models.
#[derive(Parser, Debug)]
#[command(name = "tweedie", version, about, max_term_width = 110)]
struct Cli {
    /// Device to compute on (see `tweedie devices`) [default: cpu, or as in a run's configuration].
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    device: Option<String>,
    /// CPU threads, at most 1024 [default: one per core, shared by the ranks of this machine under mpirun].
    #[arg(
        long,
        global = true,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1024),
        help_heading = "Global options"
    )]
    threads: Option<u16>,
    /// Memory in MiB for copies of weights in the layout of the kernels, which make sampling faster [default: a sixteenth of
    /// the available memory, from 256 to 4096].
    #[arg(long, global = true, value_name = "MIB", help_heading = "Global options")]
    packed_weights: Option<u32>,
    /// Only print results and errors.
    #[arg(short, long, global = true, conflicts_with = "json", help_heading = "Global options")]
    quiet: bool,
    /// Print one JSON object per line.
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // A panic in a decoder is reported as a corrupt file.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !tweedie::data::is_guarded() {
            hook(panic);
        }
    }));
    let matches = match help::grouped::<Cli>().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            let _ = e.print();
            let asked = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    let json = cli.json;
    let team = match Team::join() {
        Ok(team) => team,
        Err(e) => {
            if !team::is_silent() {
                ui::error(&e, json);
            }
            return ExitCode::FAILURE;
        }
    };
    let ran = run(cli, &team);
    let recorded = tweedie_system::record::end().context("TWEEDIE_TRACE");
    match ran.and_then(|code| recorded.map(|()| code)) {
        Ok(code) => {
            team.finish();
            if ui::output_failed() { ExitCode::FAILURE } else { code }
        }
        Err(e) => {
            team.fail(|| ui::error(&e, json));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, team: &Team) -> anyhow::Result<ExitCode> {
    interrupt::listen()?;
    team::record()?;
    tweedie::ops::check_instruction_set()?;
    if let Some(threads) = cli.threads.map(usize::from).or_else(team::threads) {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("cannot start the threads")?;
    }
    tweedie::ops::init();
    if let Some(mib) = cli.packed_weights {
        tweedie::ops::set_packed_weights((mib as usize) << 20);
    }
    let ui = if team.is_first() { Ui::new(cli.quiet, cli.json) } else { Ui::silent() };
    tweedie::ops::guarded(|| cli.command.run(ui, cli.device.as_deref(), team))?
}
