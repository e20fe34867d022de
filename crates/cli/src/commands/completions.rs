//! `tweedie completions`.

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use crate::ui;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The shell.
    shell: Shell,
}

pub fn run(args: Args) {
    // Write to memory first, because the generator panics if a write fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "tweedie", &mut script);
    ui::out(String::from_utf8_lossy(&script).trim_end());
}
