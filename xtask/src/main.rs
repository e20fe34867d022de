//! The project's chores: `cargo xtask check` is what CI runs.

mod check;
mod layers;
mod solvers;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  check    everything CI checks: format, layers, tests, lints, docs, device features
  layers   fails on a crate that imports one above it
  solvers  measures every solver; writes docs/solvers.md and docs/solvers.png
";

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("check") => check::run(),
        Some("layers") => layers::run(),
        Some("solvers") => solvers::run(),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => bail!("unknown command `{other}`\n\n{HELP}"),
    }
}
