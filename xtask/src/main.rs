//! The project's chores: `cargo xtask check` is what CI runs.

mod asm;
mod check;
mod cost;
mod gpu;
mod layers;
mod mpi;
mod scale;
mod solvers;
mod timeline;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  asm      fails on a hot loop of the kernels that keeps its sums in memory; --list prints every loop
  check    everything CI checks: format, layers, machine code, tests, lints, docs, device features
  gpu      runs tests of the operations and of a pipeline on a Vulkan device
  layers   fails on a crate that imports one above it
  mpi      compares two ranks under mpirun with one process, bit for bit
  scale    prints what a run of Stable Diffusion's size takes on many machines; KEY=VALUE changes the case
  solvers  measures every solver; writes docs/solvers.md and docs/solvers.png
  timeline draws what ranks do when, from their records (TWEEDIE_TRACE)
";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("asm") => match arguments.next().as_deref() {
            None => asm::run(false),
            Some("--list") => asm::run(true),
            Some(other) => {
                bail!("unknown argument `{other}` of `cargo xtask asm`; expected `--list` or none")
            }
        },
        Some("check") => check::run(),
        Some("gpu") => gpu::run(),
        Some("layers") => layers::run(),
        Some("mpi") => mpi::run(),
        Some("scale") => scale::run(arguments),
        Some("solvers") => solvers::run(),
        Some("timeline") => timeline::run(arguments),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => bail!("unknown command `{other}`\n\n{HELP}"),
    }
}
