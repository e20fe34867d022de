//! Repeats, times and reports measurements.

use std::{cell::Cell, time::Instant};

use anyhow::Result;
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};
use tweedie::ops::Device;

use super::{Args, Piece};
use crate::ui::Ui;

/// Shorter calls are repeated within a run until this many seconds have passed.
const SHORTEST: f64 = 0.01;

/// Settings and output that all measurements share.
pub struct Bench<'a> {
    pub args: &'a Args,
    pub ui: Ui,
    pub device: Device,
    pub device_name: &'a str,
    pub threads: usize,
    reported: Cell<bool>,
}

/// The work of one call, for rates.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Number of images.
    Images(usize),
    /// Operations in 10⁹, and the machine's peak per second.
    Flops { giga: f64, peak: f64 },
    /// Bytes read and written in 10⁹, and the machine's peak per second.
    Bytes { giga: f64, peak: f64 },
    /// No rate.
    Whole,
}

impl<'a> Bench<'a> {
    pub fn new(args: &'a Args, ui: Ui, device: Device, device_name: &'a str) -> Self {
        let threads = rayon::current_num_threads();
        Self { args, ui, device, device_name, threads, reported: Cell::new(false) }
    }

    /// Whether `--only` selects this measurement.
    pub fn wants(&self, piece: Piece, name: &str) -> bool {
        let full = format!("{} {name}", piece.name());
        self.args.only.as_ref().is_none_or(|only| full.contains(only.as_str()))
    }

    /// The selected batch sizes, each with the name of its measurement.
    pub fn batches(&self, piece: Piece) -> Vec<(usize, String)> {
        let more = match piece {
            Piece::Sample => format!(", {} steps", self.args.steps),
            _ => String::new(),
        };
        let all = self.args.batch.iter().map(|b| (b.get(), format!("batch {b}{more}")));
        all.filter(|(_, name)| self.wants(piece, name)).collect()
    }

    /// Whether anything was measured.
    pub fn reported(&self) -> bool {
        self.reported.get()
    }

    /// Times `call`, after warming up.
    pub fn time(
        &self,
        piece: Piece,
        name: &str,
        work: Work,
        mut call: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let runs = self.args.runs.get();
        let bar = self.ui.spinner(format!("{} {name}: warming up", piece.name()));
        let mut last = f64::INFINITY;
        for _ in 0..self.args.warm_up {
            last = seconds(&mut call)?;
        }
        let calls = (SHORTEST / last).ceil().clamp(1.0, 1e6) as usize;
        let mut times = Vec::with_capacity(runs);
        for run in 1..=runs {
            bar.set_message(format!("{} {name}: {run} of {runs}", piece.name()));
            let total = seconds(&mut || (0..calls).try_for_each(|_| call()))?;
            times.push(total / calls as f64);
        }
        bar.finish_and_clear();
        self.times(piece, name, work, &times);
        Ok(())
    }

    /// Reports the seconds of each run.
    pub fn times(&self, piece: Piece, name: &str, work: Work, times: &[f64]) {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return };
        let median = median(sorted);
        let (rates, rate) = work.rates(median);
        let mut fields = json!({
            "median_ms": 1e3 * median, "min_ms": 1e3 * min, "max_ms": 1e3 * max,
            "ms": times.iter().map(|t| 1e3 * t).collect::<Vec<_>>(),
        });
        if let Value::Object(fields) = &mut fields {
            fields.extend(rates);
        }
        let spread = format!("({} - {})", duration(min), duration(max));
        self.report(piece, name, fields, &format!("{:>10}  {spread:<23}  {rate}", duration(median)));
    }

    /// Reports a number of bytes.
    pub fn bytes(&self, piece: Piece, name: &str, bytes: u64) {
        self.report(
            piece,
            name,
            json!({ "bytes": bytes }),
            &format!("{:>10}", HumanBytes(bytes).to_string()),
        );
    }

    /// Reports one measurement: `fields` for JSON, `text` for people.
    pub fn report(&self, piece: Piece, name: &str, fields: Value, text: &str) {
        self.reported.set(true);
        let mut row = Map::from_iter([
            ("bench".to_owned(), Value::from(piece.name())),
            ("name".to_owned(), Value::from(name)),
        ]);
        if let Value::Object(fields) = fields {
            row.extend(fields);
        }
        self.ui.result(&row, format!("{:<8} {name:<44} {text}", piece.name()).trim_end());
    }
}

impl Work {
    /// The rates for `seconds` per call, for JSON and for people.
    fn rates(self, seconds: f64) -> (Map<String, Value>, String) {
        let (fields, text) = match self {
            Self::Images(n) => {
                let rate = n as f64 / seconds;
                (json!({ "images_per_s": rate }), format!("{rate:.2} images/s"))
            }
            Self::Flops { giga, peak } => {
                let rate = giga / seconds;
                (
                    json!({ "gflops": rate, "of_peak": rate / peak }),
                    format!("{rate:.0} GFLOP/s, {:.0} % of peak", 100.0 * rate / peak),
                )
            }
            Self::Bytes { giga, peak } => {
                let rate = giga / seconds;
                (
                    json!({ "gb_per_s": rate, "of_peak": rate / peak }),
                    format!("{rate:.1} GB/s, {:.0} % of the memory's peak peak", 100.0 * rate / peak),
                )
            }
            Self::Whole => (json!({}), String::new()),
        };
        let Value::Object(fields) = fields else { return (Map::new(), text) };
        (fields, text)
    }
}

/// The median; 0 for an empty list.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// Duration of `call` in seconds.
pub fn seconds(call: &mut impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64().max(1e-9))
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 0.1 => format!("{:.0} ms", 1e3 * s),
        s if s >= 1e-3 => format!("{:.2} ms", 1e3 * s),
        s => format!("{:.1} µs", 1e6 * s),
    }
}

/// Name of the processor.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Peak memory of this process so far in bytes, if the system reports it (Linux).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let shown = [12.34, 1.5, 0.0421, 3.21e-5].map(duration);
        assert_eq!(shown, ["12.3 s", "1500 ms", "42.10 ms", "32.1 µs"]);
    }

    #[test]
    fn rates_follow_from_the_time() {
        let (fields, text) = Work::Flops { giga: 3.0, peak: 200.0 }.rates(0.02);
        assert_eq!(fields["gflops"], 150.0);
        assert_eq!(text, "150 GFLOP/s, 75 % of peak");
        assert_eq!(Work::Images(8).rates(0.5).0["images_per_s"], 16.0);
    }
}
