//! Runs tests on a Vulkan device, which can be a program: Mesa's lavapipe computes on the CPU.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The build: what only this device needs is not optimized. The kernels' tests, one of which has such a name, use no device.
const BUILD: &str = "--config xtask/gpu.toml test --release --workspace --exclude tweedie-kernels --features tweedie-cli/wgpu";

/// What runs on the device: all operations and their gradients, and whole runs of a pipeline.
const TESTS: &[&str] = &["engine", "fused", "dimensions", "failure", "device"];

/// Whether a driver for Vulkan is there.
pub fn is_there() -> bool {
    let ran =
        Command::new("vulkaninfo").arg("--summary").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// Builds with the feature `wgpu`, and runs the tests.
pub fn run() -> Result<()> {
    ensure!(is_there(), "no driver for Vulkan was found (Debian: mesa-vulkan-drivers, vulkan-tools)");
    let tests = TESTS.iter().flat_map(|test| ["--test", test]);
    let mut command = Command::new(env!("CARGO"));
    command.args(BUILD.split(' ')).args(tests).args(["--", "--test-threads=2"]);
    // The second keeps a layer of Mesa, which asks for a display, out of the output.
    command.envs([("TWEEDIE_TEST_DEVICE", "wgpu"), ("NODEVICE_SELECT", "1")]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    ensure!(output.status.success(), "tests failed on the Vulkan device: {}", output.status);
    let passed = text.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    ensure!(passed > 0, "no test ran");
    println!("gpu: {passed} tests passed on the Vulkan device");
    Ok(())
}
