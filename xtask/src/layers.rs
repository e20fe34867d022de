//! Imports point down only: who edits a floor need only know those below it.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The floors from the ground up. A crate may depend on crates of lower floors only.
const FLOORS: &[&[&str]] = &[
    &["tweedie-core", "tweedie-system", "tweedie-kernels"],
    &["tweedie-ops", "tweedie-media"],
    &["tweedie-models", "tweedie-data"],
    &["tweedie-hub"],
    &["tweedie-pipe"],
    &["tweedie-train"],
    &["tweedie-eval", "tweedie-serve"],
    &["tweedie"],
    &["tweedie-cli"],
];

/// Crates that must build without the tensor framework.
const WITHOUT_BURN: &[&str] =
    &["tweedie-core", "tweedie-system", "tweedie-kernels", "tweedie-media", "tweedie-data"];

pub fn run() -> Result<()> {
    let faults = faults(&metadata()?)?;
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("layers: every import points down");
    Ok(())
}

/// What cargo says about the workspace.
pub fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

fn faults(metadata: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().context("metadata without packages")? {
        let name = package["name"].as_str().context("package without name")?;
        if name == "xtask" {
            continue;
        }
        let Some(here) = floor(name) else {
            faults.push(format!("{name} stands on no floor; add it to FLOORS in xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("package without dependencies")? {
            let below = dependency["name"].as_str().context("dependency without name")?;
            if below == "burn" && WITHOUT_BURN.contains(&name) {
                faults.push(format!("{name} must build without burn"));
            }
            if floor(below).is_some_and(|there| there >= here) {
                faults.push(format!("{name} imports {below}, which is not below it"));
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[&str]) -> Value {
        let dependencies: Vec<_> = dependencies.iter().map(|d| json!({ "name": d })).collect();
        json!({ "name": name, "dependencies": dependencies })
    }

    #[test]
    fn only_upward_sideways_and_unknown_imports_are_faults() {
        let metadata = json!({ "packages": [
            package("tweedie-ops", &["tweedie-core", "burn"]),
            package("tweedie-core", &["burn", "tweedie-models"]),
            package("tweedie-kernels", &["tweedie-core"]),
            package("tweedie-new", &[]),
        ]});
        let faults = faults(&metadata).unwrap();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[0].contains("without burn"));
        assert!(faults[1].contains("tweedie-core imports tweedie-models"));
        assert!(faults[2].contains("tweedie-kernels imports tweedie-core"));
        assert!(faults[3].contains("tweedie-new stands on no floor"));
    }
}
