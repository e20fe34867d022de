//! What a training run on many machines takes: the table of docs/scale.md, from measured compute and a model of the network.

use anyhow::{Context, Result, bail, ensure};

/// What a run is, and what its machines are.
struct Case {
    /// Trainable values.
    parameters: f64,
    /// Core-seconds of forward and backward pass per image.
    core_seconds: f64,
    /// Images per step.
    batch: f64,
    /// Images of the whole run.
    images: f64,
    /// Cores per machine.
    cores: f64,
    /// Gbit/s of a machine's link, in each direction.
    gbit: f64,
}

/// Stable Diffusion 1.5 at 512×512: 859.5 M parameters; two images forward take 6.1 s on two cores (docs/benchmarks.md), and a
/// training step takes 3.3 times as long as its forward pass.
const STABLE_DIFFUSION: Case = Case {
    parameters: 859.5e6,
    core_seconds: 3.3 * 6.1,
    batch: 2048.0,
    images: 2048.0 * 400_000.0,
    cores: 64.0,
    gbit: 25.0,
};

const MACHINES: [u32; 6] = [8, 16, 32, 64, 128, 256];
/// Bytes of a value.
const FLOAT: f64 = 4.0;
/// Seconds until a message of any size arrives: Ethernet and the stack of the system.
const LATENCY: f64 = 30e-6;
/// The part of a link that TCP fills.
const FILLED: f64 = 0.9;
/// Bytes per second at which one core copies and sums memory that is new to it, and how many cores' worth of that the memory
/// of a machine allows.
const MEMORY: f64 = 4e9;
const MOST_CORES: f64 = 8.0;
/// The largest parameter's part of all: it has one owner, who collects its gradient, updates it and sends it on.
const LARGEST: f64 = 29.5e6 / 859.5e6;

/// A step on so many machines.
struct Step {
    compute: f64,
    network: f64,
    /// Sums, the optimizer, copies.
    host: f64,
    /// Bytes that each machine sends, and receives.
    traffic: f64,
    /// Bytes of memory for weights, gradients, optimizer and messages on each machine.
    memory: f64,
}

impl Case {
    fn step(&self, machines: u32) -> Step {
        let n = f64::from(machines);
        let weights = FLOAT * self.parameters;
        let sent = weights * (n - 1.0) / n;
        // The busiest machine owns parameters that begin in its slice, the largest one among them.
        let owned = 1.0 / n + if n * LARGEST > 1.0 { LARGEST } else { 0.0 };
        let collected = weights * (owned - 1.0 / n);
        // All gradients go to the slices, the sums to the owners, the new values to the slices and to all, one after another.
        let rate = self.gbit * 1e9 / 8.0 * FILLED;
        let network = 2.0 * (sent + collected) / rate + 4.0 * n * LATENCY;
        // A copy into messages, the sum, a copy out of messages, and the update and the copies of what is owned, on all cores.
        // Most of it takes place while the network is busy with other segments, but how much is not modelled.
        let host = weights * (3.0 + 9.0 * owned) / (MEMORY * self.cores.min(MOST_CORES));
        Step {
            compute: self.batch * self.core_seconds / (n * self.cores),
            network,
            host,
            traffic: 2.0 * sent,
            // Weights, gradients, two means, and messages on their way in and out.
            memory: weights * (1.0 + 1.0 + 2.0 * owned + 4.0),
        }
    }
}

impl Step {
    fn seconds(&self) -> f64 {
        self.compute + self.network + self.host
    }
}

/// Prints the table; `arguments` change the case, as `cores=128`.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut case = STABLE_DIFFUSION;
    for argument in arguments {
        let (key, value) =
            argument.split_once('=').with_context(|| format!("{argument}: expected KEY=VALUE"))?;
        let number: f64 = value.parse().with_context(|| format!("{argument}: expected a number"))?;
        ensure!(number > 0.0 && number.is_finite(), "{argument}: expected a number above 0");
        *match key {
            "parameters" => &mut case.parameters,
            "core_seconds" => &mut case.core_seconds,
            "batch" => &mut case.batch,
            "images" => &mut case.images,
            "cores" => &mut case.cores,
            "gbit" => &mut case.gbit,
            _ => bail!("{key}: expected parameters, core_seconds, batch, images, cores or gbit"),
        } = number;
    }
    println!(
        "| machines | compute | network | sums and update | a step | efficiency | the run | each sends per step | memory each |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for machines in MACHINES {
        let step = case.step(machines);
        let seconds = step.seconds();
        println!(
            "| {machines} | {:.1} s | {:.1} s | {:.1} s | {seconds:.1} s | {:.0} % | {:.0} days | {:.1} GB | {:.0} GB |",
            step.compute,
            step.network,
            step.host,
            100.0 * step.compute / seconds,
            case.images / case.batch * seconds / 86_400.0,
            step.traffic / 1e9,
            step.memory / 1e9
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_nears_twice_the_weights_and_compute_divides() {
        let [few, many] = [8, 256].map(|machines| STABLE_DIFFUSION.step(machines));
        let weights = 4.0 * 859.5e6;
        assert!((few.traffic / weights - 1.75).abs() < 1e-9 && many.traffic < 2.0 * weights);
        assert!((few.compute / many.compute - 32.0).abs() < 1e-9);
        // A larger batch hides the network.
        let large = Case { batch: 2.0 * STABLE_DIFFUSION.batch, ..STABLE_DIFFUSION }.step(64);
        assert!(
            large.compute / large.seconds()
                > STABLE_DIFFUSION.step(64).compute / STABLE_DIFFUSION.step(64).seconds()
        );
    }
}
