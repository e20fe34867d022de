//! Everything that CI checks, in the order that fails soonest.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{cost, gpu, mpi};

/// One command of the check: its arguments to cargo, and its environment.
struct Job(&'static str, &'static [(&'static str, &'static str)]);

const JOBS: &[Job] = &[
    Job("fmt --all --check", &[]),
    Job("xtask layers", &[]),
    Job(FIRST, &[]),
    Job("xtask asm", &[]),
    // The README's test command.
    Job("test --release --workspace", &[]),
    // Once more with narrower instruction sets than the machine's best, which the kernels' own tests run through.
    Job("test --release --workspace --test engine --test cpu --test determinism", &[("TWEEDIE_ISA", "avx2")]),
    Job(
        "test --release --workspace --test engine --test cpu --test determinism",
        &[("TWEEDIE_ISA", "scalar")],
    ),
    // Changed seeds of every format, for a minute.
    Job("test --release --workspace --test fuzz", &[("TWEEDIE_FUZZ_SECONDS", "60")]),
    Job(MPI, &[]),
    Job("clippy --release --workspace --all-targets -- -D warnings", &[]),
    Job("doc --release --workspace --no-deps", &[("RUSTDOCFLAGS", "-D warnings")]),
    // The CUDA compiler bundle is not fetched; the types are still checked.
    Job("check --release -p tweedie-cli --features wgpu,cuda", &[("DOCS_RS", "1")]),
    Job(GPU, &[]),
];

/// The README's first command.
const FIRST: &str = "run --release -- sample --output target/first.png";

/// Needs the programs of an MPI.
const MPI: &str = "xtask mpi";

/// Needs a driver for Vulkan, and compiles almost everything again.
const GPU: &str = "xtask gpu";

/// After this time nothing is compiled for a Vulkan device, so that the check takes less than an hour on slow machines.
const TIME_BEFORE_GPU: Duration = Duration::from_secs(40 * 60);

pub fn run() -> Result<()> {
    let from_scratch = cost::from_scratch()?;
    let mut report = Vec::new();
    let begun = Instant::now();
    for Job(arguments, environment) in JOBS {
        if *arguments == MPI && !mpi::is_there() {
            println!("── ranks under mpirun are not checked: mpicc or mpirun is missing");
            continue;
        }
        if *arguments == GPU && !gpu::is_there() {
            println!("── nothing is checked on a Vulkan device: vulkaninfo finds no driver");
            continue;
        }
        if *arguments == GPU && begun.elapsed() > TIME_BEFORE_GPU {
            let minutes = begun.elapsed().as_secs() / 60;
            println!(
                "── nothing is checked on a Vulkan device, after {minutes} minutes: `cargo xtask gpu` does it"
            );
            continue;
        }
        println!("── cargo {arguments}");
        let (start, cpu) = (Instant::now(), cost::cpu_of_children());
        let status = Command::new(env!("CARGO"))
            .args(arguments.split(' '))
            .envs(environment.iter().copied())
            .status()
            .with_context(|| format!("cannot run cargo {arguments}"))?;
        ensure!(status.success(), "cargo {arguments}: {status}");
        let cpu = cost::cpu_of_children().zip(cpu).map(|(after, before)| after - before);
        report.push(line(start.elapsed(), cpu, environment, arguments));
        if *arguments == FIRST {
            report.extend(cost::of_first_command(from_scratch)?);
        }
    }
    println!("── time of each job");
    report.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn line(wall: Duration, cpu: Option<Duration>, environment: &[(&str, &str)], arguments: &str) -> String {
    let cpu = cpu.map_or("      ?".into(), |cpu| format!("{:7.1}", cpu.as_secs_f64()));
    let environment: String = environment.iter().map(|(key, value)| format!("{key}={value} ")).collect();
    format!("{:7.1} s {cpu} CPU-s  {environment}cargo {arguments}", wall.as_secs_f64())
}
