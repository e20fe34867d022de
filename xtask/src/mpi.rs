//! Trains and samples under `mpirun` and compares every file with those of one process.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// A few steps of a very small network, with a checkpoint in between.
const TRAIN: &[&str] = &[
    "train",
    "--preset=tiny",
    "--steps=6",
    "--batch=2",
    "--set=run.accumulation=4",
    "--set=run.checkpoint_every=3",
    "--set=run.preview_every=0",
    "--set=data.size=8",
    "--set=data.emoji.groups=[\"Food & Drink\"]",
    "--set=model.base_channels=8",
    "--set=model.norm_groups=4",
    "--set=model.dropout=0.1",
];
const SAMPLE: &[&str] = &["sample", "-n5", "--steps=2", "--chunk=2"];

/// Whether the programs are there that build with MPI and start ranks.
pub fn is_there() -> bool {
    let runs = |program: &str| {
        let ran = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    runs("mpicc") && runs("mpirun")
}

/// Builds with the feature `mpi` and runs the comparison.
pub fn run() -> Result<()> {
    ensure!(is_there(), "mpicc and mpirun are missing (Debian: libopenmpi-dev, openmpi-bin, libclang-dev)");
    // The same selection of packages as the tests, so that their dependencies are not compiled again.
    let build = "build --release --workspace --features tweedie-cli/mpi --bin tweedie";
    let status = Command::new(env!("CARGO")).args(build.split(' ')).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo {build}: {status}");
    let folder = env::current_dir()?.join("target/mpi");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let binary = env::current_dir()?.join("target/release/tweedie");
    let outs = [1, 2].map(|ranks| folder.join(format!("ranks-{ranks}")));
    for (out, ranks) in outs.iter().zip([1, 2]) {
        let image = out.with_extension("png");
        let text = |path: &Path| path.to_str().map(str::to_owned).context("the path is not valid Unicode");
        for (arguments, output) in [(TRAIN, text(out)?), (SAMPLE, text(&image)?)] {
            let output = ["-o", &output];
            let arguments: Vec<&str> = arguments.iter().copied().chain(output).collect();
            start(&binary, ranks, &arguments)?;
        }
    }
    let [alone, shared] = outs.each_ref().map(|out| files(out));
    let (alone, shared) = (alone?, shared?);
    ensure!(alone.len() >= 4, "the run wrote only {:?}", alone.keys());
    if alone.keys().ne(shared.keys()) {
        bail!("one process wrote {:?}, two ranks {:?}", alone.keys(), shared.keys());
    }
    if let Some((name, _)) = alone.iter().find(|(name, bytes)| shared.get(*name) != Some(bytes)) {
        bail!("{}: two ranks wrote other bytes than one process", name.display());
    }
    println!("mpi: {} files of two ranks are those of one process", alone.len());
    Ok(())
}

/// Runs the binary with one thread: alone, or as several ranks.
fn start(binary: &Path, ranks: usize, arguments: &[&str]) -> Result<()> {
    let mut command = match ranks {
        1 => Command::new(binary),
        _ => {
            let mut command = Command::new("mpirun");
            command.args(["-n", &ranks.to_string(), "--oversubscribe"]).arg(binary);
            command
        }
    };
    // Containers of CI run as root.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    let status = command.args(["--threads=1", "--quiet"]).args(arguments).status();
    let status = status.with_context(|| format!("cannot run {}", binary.display()))?;
    ensure!(status.success(), "{ranks} ranks of `tweedie {}`: {status}", arguments.join(" "));
    Ok(())
}

/// The tensors below a run's folder and the image beside it.
fn files(out: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::from([("image".into(), fs::read(out.with_extension("png"))?)]);
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "safetensors") {
                found.insert(path.strip_prefix(out)?.into(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}
