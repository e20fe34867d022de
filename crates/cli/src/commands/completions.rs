//! `tweedie completions`.

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Which shell.
    shell: Shell,
}

pub fn run(args: Args) {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "tweedie", &mut std::io::stdout());
}
