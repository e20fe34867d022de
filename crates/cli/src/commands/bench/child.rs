//! Measurements that need a separate process: start-up and peak memory.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    Piece,
    measure::{Bench, Work},
    network::{Named, PROMPT, write_random},
};

/// Number of steps of the run; only the first one is awaited.
const STEPS: &str = "50";

/// A child process that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program with `args` and JSON output.
fn program(bench: &Bench<'_>, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program's executable")?);
    command.args(args).args(["--json", "--device", bench.device_name]);
    command.args(["--threads", &bench.threads.to_string()]);
    command.args(["--precision", &bench.args.precision.to_string()]);
    if let Some(size) = bench.args.size {
        command.args(["--size", &size.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

/// Starts `command` and reads its lines until `wanted` finds something in one.
fn until<T>(mut command: Command, wanted: impl Fn(&Value) -> Option<T>) -> Result<T> {
    let mut child = Running(command.spawn().context("cannot start a child process")?);
    let output = child.0.stdout.take().context("the child process has no output")?;
    for line in BufReader::new(output).lines() {
        let line: Value = serde_json::from_str(&line?).context("invalid output of a child process")?;
        if let Some(found) = wanted(&line) {
            return Ok(found);
        }
        if let Some(error) = line["error"].as_str() {
            bail!("a child process failed: {error}");
        }
    }
    bail!("a child process exited early ({})", child.0.wait()?)
}

pub fn startup(bench: &Bench<'_>) -> Result<()> {
    let name = "process start to first step";
    if !bench.wants(Piece::Startup, name) {
        return Ok(());
    }
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let _removed_when_interrupted = tweedie_system::files::Made::new(scratch.path());
    let written = scratch.path().join("model");
    let folder: Option<&Path> = match (&bench.args.model, bench.args.network) {
        (Some(folder), _) => Some(folder),
        (None, Named::BuiltIn) => None,
        (None, Named::DdpmCifar10) => {
            write_random(&written, &bench.device)?;
            Some(&written)
        }
    };
    let reads = bench.reads_texts()?;
    let first_step = || -> Result<f64> {
        let mut command = program(bench, &["sample", "--count", "1", "--steps", STEPS])?;
        if reads {
            command.args(["--prompt", PROMPT]);
        }
        command.arg("--output").arg(scratch.path().join("tweedie.png"));
        if let Some(folder) = folder {
            command.arg("--model").arg(folder);
        }
        let start = Instant::now();
        until(command, |line| (line["event"] == "step").then_some(()))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let bar = bench.ui.spinner(name);
    for _ in 0..bench.args.warm_up {
        first_step()?;
    }
    let times: Vec<f64> = (0..bench.args.runs.get()).map(|_| first_step()).collect::<Result<_>>()?;
    bar.finish_and_clear();
    bench.times(Piece::Startup, name, Work::Whole, &times);
    Ok(())
}

pub fn memory(bench: &Bench<'_>) -> Result<()> {
    let trains = bench.untrained()?.is_none();
    for piece in [Piece::Forward, Piece::Sample, Piece::Train] {
        if !trains && piece == Piece::Train {
            continue;
        }
        for batch in &bench.args.batch {
            let name = format!("{}, batch {batch}", piece.name());
            if !bench.wants(Piece::Memory, &name) {
                continue;
            }
            let bar = bench.ui.spinner(format!("memory {name}"));
            let mut command = program(bench, &["bench", piece.name(), "--runs", "2", "--warm-up", "1"])?;
            command.args(["--batch", &batch.to_string(), "--steps", "2"]).args(bench.subject());
            let found = until(command, |line| {
                (line["bench"] == "process").then(|| line["bytes"].as_u64().unwrap_or_default())
            });
            bar.finish_and_clear();
            match found {
                Ok(bytes) => bench.bytes(Piece::Memory, &name, bytes),
                Err(e) => {
                    return Err(e.context(format!("cannot measure the peak memory of {name}")));
                }
            }
        }
    }
    Ok(())
}

impl Bench<'_> {
    /// The flags that select the network.
    fn subject(&self) -> Vec<OsString> {
        match (&self.args.model, self.args.network) {
            (Some(folder), _) => vec!["--model".into(), folder.into()],
            (None, Named::BuiltIn) => vec!["--network".into(), "built-in".into()],
            (None, Named::DdpmCifar10) => vec!["--network".into(), "ddpm-cifar10".into()],
        }
    }
}
