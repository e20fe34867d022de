//! How many rows a call of the network should have: as few as reach nearly the best time per row.
//!
//! The time of a call is measured by the number of its rows, in classes 1, 2, 3-4, 5-8 and so on. More rows cost every job in
//! the call a longer step, so they must be worth it: the limit is the smallest class whose time per row is within
//! [`GAIN`] of the best. While all calls are full, the next larger class is tried, and again from time to time.

use std::collections::BTreeMap;

/// How much slower per row a smaller class may be.
const GAIN: f64 = 1.05;
/// Weight of a new measurement that is faster than the estimate, and of one that is slower. Other programs only make calls
/// slower, so the estimate is near the time of an undisturbed call.
const NEW: [f64; 2] = [0.3, 0.03];
/// Number of measurements after which a class is known.
const KNOWN: u32 = 5;
/// Number of full calls after which a larger class is tried again.
const AGAIN: u32 = 400;

/// Measured times.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Seconds per row, and number of measurements, by class: the exponent of its largest size.
    per_row: BTreeMap<u32, (f64, u32)>,
    most: usize,
    full: u32,
}

fn class(rows: usize) -> u32 {
    rows.max(1).next_power_of_two().trailing_zeros()
}

impl Pace {
    /// Without measurements. Calls have at most `most` rows.
    pub fn new(most: usize) -> Self {
        Self { per_row: BTreeMap::new(), most: most.max(1), full: 0 }
    }

    /// Takes in that a call with `rows` rows took `seconds`.
    pub fn note(&mut self, rows: usize, seconds: f64) {
        let value = seconds / rows.max(1) as f64;
        self.full = if rows >= self.chosen() { self.full.saturating_add(1) } else { self.full };
        let (mean, count) = self.per_row.entry(class(rows)).or_insert((value, 0));
        *count = count.saturating_add(1);
        *mean += NEW[usize::from(value > *mean)] * (value - *mean);
    }

    /// The maximum number of rows of the next call.
    pub fn rows(&self) -> usize {
        let chosen = self.chosen();
        if self.per_row.is_empty() {
            return chosen;
        }
        let next = (2 * chosen).min(self.most);
        let unknown = self.per_row.get(&class(next)).is_none_or(|(_, count)| *count < KNOWN);
        if unknown || self.full % AGAIN == AGAIN - 1 { next } else { chosen }
    }

    /// The smallest class that is nearly the best.
    fn chosen(&self) -> usize {
        let best = self.per_row.values().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
        let good = self.per_row.iter().find(|(_, (seconds, _))| *seconds <= GAIN * best);
        good.map_or(1, |(class, _)| 1 << class).min(self.most)
    }

    /// Seconds per row in calls of the present size, if known.
    pub fn seconds_per_row(&self) -> Option<f64> {
        self.per_row.values().map(|(seconds, _)| *seconds).min_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs full calls whose time is `time(rows)`, and returns the sizes that were chosen in the end.
    fn settled(most: usize, time: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut pace = Pace::new(most);
        let mut last = Vec::new();
        for i in 0..1000 {
            let rows = pace.rows();
            pace.note(rows, time(rows));
            if i >= 900 {
                last.push(rows);
            }
        }
        last.dedup();
        last
    }

    #[test]
    fn calls_grow_only_if_rows_get_cheaper() {
        // A row costs the same in any call.
        assert_eq!(settled(32, |rows| rows as f64), [1]);
        // The weights are read once per call: 1 + 0.1·rows has 0.1625 per row at 16 and 0.13125 at 32.
        assert_eq!(settled(32, |rows| 1.0 + 0.1 * rows as f64), [32]);
        // Rows are free up to 4.
        assert_eq!(settled(32, |rows| rows.max(4) as f64), [4]);
        assert_eq!(settled(6, |rows| 1.0 + 0.1 * rows as f64), [6]);
    }

    #[test]
    fn other_programs_do_not_matter() {
        // Rows get cheaper up to 8; every third call takes three times as long.
        let calls = std::cell::Cell::new(0);
        let time = |rows: usize| {
            calls.set(calls.get() + 1);
            let slow = if calls.get() % 3 == 0 { 3.0 } else { 1.0 };
            slow * 0.25 * rows.max(8) as f64
        };
        assert_eq!(settled(32, time), [8]);
    }
}
