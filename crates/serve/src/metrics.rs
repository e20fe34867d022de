//! Figures for Prometheus, in its text format.

use std::{
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Upper bounds of the classes of a histogram, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The distribution of durations.
#[derive(Debug, Default)]
pub struct Histogram(Mutex<([u64; BOUNDS.len()], u64, f64)>);

impl Histogram {
    /// Takes in a duration in seconds.
    pub fn note(&self, seconds: f64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (count, bound) in all.0.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        all.1 += 1;
        all.2 += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let (counts, count, sum) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (n, bound) in counts.iter().zip(BOUNDS) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {n}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

/// What happens in the server.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Jobs that were accepted.
    pub accepted: Counter,
    /// Requests that were rejected with status 429.
    pub rejected: Counter,
    /// Jobs that finished.
    pub finished: Counter,
    /// Jobs that failed.
    pub failed: Counter,
    /// Jobs that were cancelled.
    pub cancelled: Counter,
    /// Results.
    pub images: Counter,
    /// Steps of images.
    pub steps: Counter,
    /// Calls of networks.
    pub calls: Counter,
    /// Rows in them.
    pub rows: Counter,
    /// Rows that they could have had.
    pub room: Counter,
    /// From acceptance to the first step.
    pub waiting: Histogram,
    /// A call of a network with its solvers' steps.
    pub turn: Histogram,
    /// From the cancellation of a job to the end of its rows.
    pub freeing: Histogram,
    /// Decoding and storing a result.
    pub storing: Histogram,
    /// From acceptance to the end.
    pub whole: Histogram,
}

impl Metrics {
    /// All of it as text. `gauges` are further values with their help.
    pub fn text(&self, gauges: &[(&str, &str, f64)]) -> String {
        let mut out = String::new();
        let counters = [
            ("jobs_accepted", "Jobs that were accepted.", &self.accepted),
            ("requests_rejected", "Requests that were rejected with status 429.", &self.rejected),
            ("jobs_finished", "Jobs that finished.", &self.finished),
            ("jobs_failed", "Jobs that failed.", &self.failed),
            ("jobs_cancelled", "Jobs that were cancelled.", &self.cancelled),
            ("results", "Results that were stored.", &self.images),
            ("steps", "Solver steps, counted per image.", &self.steps),
            ("network_calls", "Calls of networks.", &self.calls),
            ("network_rows", "Rows in calls of networks.", &self.rows),
            ("network_room", "Rows that the calls of networks could have had.", &self.room),
        ];
        for (name, help, counter) in counters {
            let name = format!("tweedie_{name}_total");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", counter.get());
        }
        for (name, help, value) in gauges {
            let _ = writeln!(
                out,
                "# HELP tweedie_{name} {help}\n# TYPE tweedie_{name} gauge\ntweedie_{name} {value}"
            );
        }
        let histograms = [
            ("waiting_seconds", "From acceptance to the first step of a job.", &self.waiting),
            ("turn_seconds", "A call of a network with the steps of its solvers.", &self.turn),
            ("freeing_seconds", "From the cancellation of a job to the end of its rows.", &self.freeing),
            ("storing_seconds", "Decoding and storing results.", &self.storing),
            ("job_seconds", "From acceptance to the end of a job.", &self.whole),
        ];
        for (name, help, histogram) in histograms {
            histogram.write(&mut out, &format!("tweedie_{name}"), help);
        }
        out
    }
}

/// Resident memory of this process in bytes; Linux only.
pub fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let metrics = Metrics::default();
        metrics.steps.add(3);
        [0.001, 0.04, 1000.0].into_iter().for_each(|seconds| metrics.turn.note(seconds));
        let text = metrics.text(&[("queue", "Jobs.", 2.0)]);
        for line in [
            "tweedie_steps_total 3",
            "tweedie_queue 2",
            "tweedie_turn_seconds_bucket{le=\"0.02\"} 1",
            "tweedie_turn_seconds_bucket{le=\"300\"} 2",
            "tweedie_turn_seconds_bucket{le=\"+Inf\"} 3",
            "tweedie_turn_seconds_count 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
