//! Everything that CI checks, in the order that fails soonest.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One command of the check: its arguments to cargo, and its environment.
struct Job(&'static str, &'static [(&'static str, &'static str)]);

const JOBS: &[Job] = &[
    Job("fmt --all --check", &[]),
    Job("xtask layers", &[]),
    Job("xtask asm", &[]),
    // The README's test command.
    Job("test --release --workspace", &[]),
    // Once more with narrower instruction sets than the machine's best, which the kernels' own tests run through.
    Job("test --release --workspace --test engine --test determinism", &[("TWEEDIE_ISA", "avx2")]),
    Job("test --release --workspace --test engine --test determinism", &[("TWEEDIE_ISA", "scalar")]),
    // Changed seeds of every format, for a minute.
    Job("test --release --workspace --test fuzz", &[("TWEEDIE_FUZZ_SECONDS", "60")]),
    Job("clippy --release --workspace --all-targets -- -D warnings", &[]),
    Job("doc --release --workspace --no-deps", &[("RUSTDOCFLAGS", "-D warnings")]),
    // The CUDA compiler bundle is not fetched; the types are still checked.
    Job("check --release -p tweedie-cli --features wgpu,cuda", &[("DOCS_RS", "1")]),
];

pub fn run() -> Result<()> {
    for Job(arguments, environment) in JOBS {
        println!("── cargo {arguments}");
        let status = Command::new(env!("CARGO"))
            .args(arguments.split(' '))
            .envs(environment.iter().copied())
            .status()
            .with_context(|| format!("cannot run cargo {arguments}"))?;
        ensure!(status.success(), "cargo {arguments}: {status}");
    }
    Ok(())
}
