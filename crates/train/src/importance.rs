//! Importance sampling of times by the second moment of their losses: `p_t ∝ √E[L_t²]`, which minimizes the variance of
//! `L_t/p_t`. The moment of each time is estimated from its last ten losses. Nichol & Dhariwal 2021, arXiv:2102.09672,
//! section 3.3.

use std::collections::BTreeMap;

use tweedie_models::params::{HostTensor, TensorSource};

/// Number of losses stored for each time. Until all times have that many, they are equally likely.
const REMEMBERED: usize = 10;
/// Fraction of draws that are always uniform, so that no time is neglected.
const UNIFORM: f64 = 1e-3;

/// The last losses of every time of a table. Part of a run's state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LossHistory {
    /// `REMEMBERED` losses of each time, oldest first.
    losses: Vec<f32>,
    /// Number of valid losses of each time.
    counts: Vec<usize>,
}

/// A time, and the factor of its loss that keeps the expectation of uniform times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub index: usize,
    pub weight: f64,
}

impl LossHistory {
    pub fn new(times: usize) -> Self {
        Self { losses: vec![0.0; times * REMEMBERED], counts: vec![0; times] }
    }

    /// Records the loss of a row at time `index`.
    pub fn record(&mut self, index: usize, loss: f64) {
        let Some(count) = self.counts.get_mut(index) else { return };
        let slots = &mut self.losses[index * REMEMBERED..][..REMEMBERED];
        if *count == REMEMBERED {
            slots.rotate_left(1);
            *count -= 1;
        }
        slots[*count] = loss as f32;
        *count += 1;
    }

    /// The probability of each time.
    pub fn probabilities(&self) -> Vec<f64> {
        let times = self.counts.len();
        let even = 1.0 / times as f64;
        if self.counts.iter().any(|&n| n < REMEMBERED) {
            return vec![even; times];
        }
        let square = |l: &f32| f64::from(*l).powi(2);
        let roots: Vec<f64> = self
            .losses
            .chunks_exact(REMEMBERED)
            .map(|c| (c.iter().map(square).sum::<f64>() / REMEMBERED as f64).sqrt())
            .collect();
        let total: f64 = roots.iter().sum();
        if total <= 0.0 {
            return vec![even; times];
        }
        roots.iter().map(|r| (1.0 - UNIFORM) * r / total + UNIFORM * even).collect()
    }

    pub fn export(&self) -> BTreeMap<String, HostTensor> {
        let times = self.counts.len();
        let counts = self.counts.iter().map(|&n| n as f32).collect();
        BTreeMap::from([
            ("losses".to_owned(), HostTensor { shape: vec![times, REMEMBERED], values: self.losses.clone() }),
            ("counts".to_owned(), HostTensor { shape: vec![times], values: counts }),
        ])
    }

    /// Restores [`LossHistory::export`], for a table of `times`.
    pub fn import(source: &dyn TensorSource, times: usize) -> Result<Self, String> {
        let read = |name: &str, shape: &[usize]| {
            let tensor = source.read(name)?;
            if tensor.shape == shape {
                Ok(tensor.values)
            } else {
                Err(format!("{name} has shape {:?}, expected {shape:?}", tensor.shape))
            }
        };
        let losses = read("losses", &[times, REMEMBERED])?;
        let counts = read("counts", &[times])?;
        Ok(Self { losses, counts: counts.into_iter().map(|n| (n as usize).min(REMEMBERED)).collect() })
    }
}

/// Draws from probabilities by their cumulative sum.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    probabilities: Vec<f64>,
    sums: Vec<f64>,
}

impl Table {
    pub fn new(probabilities: Vec<f64>) -> Self {
        let sums = probabilities.iter().scan(0.0, |sum, p| {
            *sum += p;
            Some(*sum)
        });
        Self { sums: sums.collect(), probabilities }
    }

    /// The time for `u` in `[0, 1)`.
    pub fn at(&self, u: f64) -> Drawn {
        let last = self.sums.len().saturating_sub(1);
        let total = self.sums.last().copied().unwrap_or(1.0);
        let index = self.sums.partition_point(|&sum| sum <= u * total).min(last);
        let probability = self.probabilities.get(index).copied().unwrap_or(1.0);
        Drawn { index, weight: 1.0 / (probability * self.sums.len() as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_even_until_all_are_known_and_then_follow_their_losses() {
        let mut history = LossHistory::new(4);
        for round in 0..12 {
            for index in 0..4 {
                assert_eq!(history.probabilities()[index], 0.25, "{round}");
                if round < 9 || index > 0 {
                    history.record(index, 100.0);
                }
            }
        }
        // Older losses are dropped: ten of each remain, 1, 2, 3 and 4.
        for _ in 0..10 {
            (0..4).for_each(|index| history.record(index, (index + 1) as f64));
        }
        let p = history.probabilities();
        for (index, p) in p.iter().enumerate() {
            assert!((p - (0.999 * (index + 1) as f64 / 10.0 + 0.001 / 4.0)).abs() < 1e-12, "{p}");
        }
        let restored = LossHistory::import(&history.export(), 4).unwrap();
        assert_eq!(restored, history);
        assert!(LossHistory::import(&history.export(), 5).unwrap_err().contains("losses has shape [4, 10]"));
    }

    #[test]
    fn weights_keep_the_expectation() {
        let losses = [0.1, 3.0, 0.7, 12.0, 0.0];
        let mut history = LossHistory::new(5);
        (0..10).for_each(|_| (0..5).for_each(|i| history.record(i, losses[i])));
        let table = Table::new(history.probabilities());
        let n = 100_000;
        let (mut mean, mut square, mut uniform) = (0.0, 0.0, 0.0);
        for i in 0..n {
            let u = (f64::from(i) + 0.5) / f64::from(n);
            let Drawn { index, weight } = table.at(u);
            let value = weight * losses[index];
            mean += value / f64::from(n);
            square += value * value / f64::from(n);
            uniform += losses[(u * 5.0) as usize].powi(2) / f64::from(n);
        }
        let expected = losses.iter().sum::<f64>() / 5.0;
        assert!((mean / expected - 1.0).abs() < 1e-3, "{mean} {expected}");
        // The only variance left between times comes from the uniform draws.
        assert!(square - mean * mean < 0.01 * (uniform - mean * mean));
        assert_eq!((table.at(0.0).index, table.at(1.0 - 1e-16).index), (0, 4));
    }
}
