//! Averages of any length after training (Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C).
//!
//! The power-function average of relative length `std` at the time `T` has the profile `p(t) = (γ + 1)·t^γ/T^(γ+1)`, where `γ`
//! follows from `std`. Snapshots of two such averages, taken throughout training, span most other profiles: the coefficients
//! of the snapshots minimize `∫ (p - Σ x_i·p_i)² dt`, a linear system whose entries are integrals of products of two power
//! functions. Unlike in the paper, `Σ x_i = 1` is required, so that few snapshots do not shrink the network.

use std::{collections::BTreeMap, path::Path};

use tweedie_models::params::{HostTensor, TensorSource, import};

use crate::{
    checkpoint::{self, Checkpoint},
    ema::{EmaKind, power_gamma},
    error::TrainError,
    event::Summary,
    export,
    model::TrainModel,
    task::ema_name,
};

/// The folder of snapshots within a run.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// A power-function average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Its relative standard deviation, `0.001..0.28`.
    pub std: f64,
    /// Images seen when it was taken, > 0.
    pub images: f64,
}

/// A combination of snapshots for another profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The coefficient of each snapshot.
    pub weights: Vec<f64>,
    /// The remaining error relative to the profile, in root mean square: 0 is exact.
    pub error: f64,
}

/// `∫ p·q dt` of two profiles `(γ, T)`.
fn overlap(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (earlier, later) = if a.1 <= b.1 { (a, b) } else { (b, a) };
    let ((g, t), (h, u)) = (earlier, later);
    (g + 1.0) * (h + 1.0) / (g + h + 1.0) * (t / u).powf(h) / u
}

/// The coefficients, which sum to 1, with which `snapshots` come closest to `target`. Costs are cubic in their number.
pub fn fit(snapshots: &[Profile], target: Profile) -> Fit {
    let law = |p: &Profile| (power_gamma(p.std), p.images);
    let norm = |p: (f64, f64)| overlap(p, p).sqrt();
    let (laws, goal) = (snapshots.iter().map(law).collect::<Vec<_>>(), law(&target));
    let norms: Vec<f64> = laws.iter().map(|p| norm(*p)).collect();
    // Normalized, so that early and late ones count equally.
    let n = laws.len();
    let matrix: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| overlap(laws[i], laws[j]) / (norms[i] * norms[j])).collect()).collect();
    let right: Vec<f64> = (0..n).map(|i| overlap(laws[i], goal) / (norms[i] * norm(goal))).collect();
    let ones: Vec<f64> = norms.iter().map(|n| norm(goal) / n).collect();
    let residual = |x: &[f64], right: &[f64]| -> Vec<f64> {
        let row = |(row, b): (&Vec<f64>, &f64)| b - row.iter().zip(x).map(|(a, x)| a * x).sum::<f64>();
        matrix.iter().zip(right).map(row).collect()
    };
    // Neighbours are nearly parallel, so solutions are refined once.
    let refined = |right: &[f64]| -> Vec<f64> {
        let x = solve(&matrix, right);
        let correction = solve(&matrix, &residual(&x, right));
        x.iter().zip(correction).map(|(x, c)| x + c).collect()
    };
    let total = |x: &[f64]| x.iter().zip(&ones).map(|(x, o)| x * o).sum::<f64>();
    let (mut unit, shift) = (refined(&right), refined(&ones));
    let missing = (1.0 - total(&unit)) / total(&shift);
    unit.iter_mut().zip(shift).for_each(|(x, s)| *x += missing * s);
    let left = residual(&unit, &right);
    // |p - Σ x·p_i|² = 1 - x·b - x·(b - A·x).
    let square = 1.0 - unit.iter().zip(right.iter().zip(left)).map(|(x, (b, r))| x * (b + r)).sum::<f64>();
    let scale = norm(goal);
    Fit {
        weights: unit.iter().zip(norms).map(|(x, n)| x * scale / n).collect(),
        error: square.max(0.0).sqrt(),
    }
}

/// Solves a symmetric positive definite system by elimination with diagonal pivoting; unknowns that depend on others within
/// rounding are zero.
fn solve(matrix: &[Vec<f64>], right: &[f64]) -> Vec<f64> {
    let n = right.len();
    let mut rows: Vec<Vec<f64>> = matrix.iter().zip(right).map(|(r, b)| [&r[..], &[*b]].concat()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    let mut rank = n;
    for k in 0..n {
        let best = (k..n).max_by(|&a, &b| rows[order[a]][order[a]].total_cmp(&rows[order[b]][order[b]]));
        order.swap(k, best.unwrap_or(k));
        let pivot = rows[order[k]].clone();
        let p = pivot[order[k]];
        if p < 1e-13 {
            rank = k;
            break;
        }
        for &i in &order[k + 1..] {
            let factor = rows[i][order[k]] / p;
            rows[i].iter_mut().zip(&pivot).for_each(|(a, b)| *a -= factor * b);
        }
    }
    let mut x = vec![0.0; n];
    for k in (0..rank).rev() {
        let (i, row) = (order[k], &rows[order[k]]);
        let known: f64 = order[k + 1..rank].iter().map(|&j| row[j] * x[j]).sum();
        x[i] = (row[n] - known) / row[i];
    }
    x
}

/// An average computed from snapshots.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// The step at which the average ends.
    pub step: u64,
    /// The images seen at that step.
    pub images: u64,
    /// Number of snapshots used.
    pub snapshots: usize,
    /// The combination of their profiles.
    pub fit: Fit,
    /// The tensors, as in a checkpoint.
    pub tensors: BTreeMap<String, HostTensor>,
    last: Checkpoint,
}

/// The average of relative length `std` for the run in the folder `run` at `step`, which must have a snapshot; by default at
/// the last one.
///
/// # Errors
/// [`TrainError::Config`] for a length out of range or a step without snapshot; [`TrainError::Checkpoint`] if the run has no
/// snapshots or one is damaged.
pub fn reconstruct(run: &Path, std: f64, step: Option<u64>) -> Result<Reconstruction, TrainError> {
    crate::ema::check_std("std", std)?;
    let folder = run.join(SNAPSHOTS);
    let found = checkpoint::list(&folder)?;
    let steps: Vec<u64> = found.iter().map(|(step, _)| *step).collect();
    let Some(&last) = steps.last() else {
        let reason = "the run has no snapshots; train with ema.kind = power and ema.snapshot_every";
        return Err(TrainError::checkpoint(&folder, reason));
    };
    let step = step.unwrap_or(last);
    if !steps.contains(&step) {
        let expected = format!("a step with a snapshot: {}", ranges(&steps));
        return Err(TrainError::config("step", step, expected));
    }
    let mut profiles = Vec::new();
    let mut sources = Vec::new();
    let mut open = None;
    for (_, path) in found.iter().filter(|(s, _)| *s <= step) {
        let snapshot = Checkpoint::open(path)?;
        let config = &snapshot.state.config.ema;
        if config.kind != EmaKind::Power {
            return Err(TrainError::checkpoint(path, "the averages are not power functions"));
        }
        for (index, &std) in config.stds.iter().enumerate() {
            profiles.push(Profile { std, images: snapshot.state.images as f64 });
            sources.push(snapshot.tensors(&ema_name(index))?);
        }
        open = Some(snapshot);
    }
    let last = open.ok_or_else(|| TrainError::checkpoint(&folder, "there are no snapshots"))?;
    let images = last.state.images;
    let fit = fit(&profiles, Profile { std, images: images as f64 });
    let mut tensors = BTreeMap::new();
    for name in sources.first().map(TensorSource::names).unwrap_or_default() {
        let mut sum: Option<(Vec<usize>, Vec<f64>)> = None;
        for (source, &weight) in sources.iter().zip(&fit.weights) {
            let wrong = |reason: String| TrainError::checkpoint(source.path(), reason);
            let tensor = source.read(&name).map_err(wrong)?;
            let (shape, values) =
                sum.get_or_insert_with(|| (tensor.shape.clone(), vec![0.0; tensor.values.len()]));
            if tensor.shape != *shape {
                return Err(wrong(format!("{name} has shape {:?}, expected {shape:?}", tensor.shape)));
            }
            values.iter_mut().zip(&tensor.values).for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        if let Some((shape, values)) = sum {
            let values = values.into_iter().map(|v| v as f32).collect();
            tensors.insert(name, HostTensor { shape, values });
        }
    }
    Ok(Reconstruction { step, images, snapshots: profiles.len(), fit, tensors, last })
}

impl Reconstruction {
    /// Writes the average as a model to the folder `out`, as at the end of training.
    ///
    /// # Errors
    /// If the tensors do not match the run's network, or the folder cannot be written.
    pub fn export(&self, out: &Path) -> Result<(), TrainError> {
        let state = &self.last.state;
        let (config, classes) = (&state.config, &state.class_names);
        let device = tweedie_ops::device("cpu").map_err(|e| TrainError::Device(e.to_string()))?;
        let unet = config.unet(classes.len())?;
        let model = TrainModel::new(&unet, config.augment.has_labels(), 0, &device)?;
        let model = import(model, &self.tensors).map_err(|e| TrainError::checkpoint(&self.last.path, e))?;
        let summary = Summary {
            step: self.step,
            images: self.images,
            elapsed_s: state.elapsed_s,
            loss: state.pending.0 / state.pending.1 as f64,
            stopped: false,
            model: out.into(),
        };
        export::model(&model.unet, config, classes, &summary)
    }
}

/// Formats `1, 2, 3` or `1, 2, … 9`.
fn ranges(steps: &[u64]) -> String {
    let all: Vec<String> = steps.iter().map(u64::to_string).collect();
    match &all[..] {
        [first, second, .., last] if all.len() > 8 => format!("{first}, {second}, … {last}"),
        _ => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ema::Average;

    /// A trajectory of three values that falls, turns and oscillates.
    fn weights(step: u64) -> [f64; 3] {
        let t = step as f64 / 500.0;
        let tremble = f64::from((step.wrapping_mul(2_654_435_761) >> 7) as u16) / 65536.0 - 0.5;
        [(-t).exp() + 0.3 * tremble, (2.0 * t).sin(), t + tremble]
    }

    /// The average updated step by step, at every multiple of `every`.
    fn tracked(std: f64, steps: u64, every: u64) -> Vec<(u64, [f64; 3])> {
        let law = Average::Power { gamma: power_gamma(std) };
        let (mut average, mut out) = ([0.0; 3], Vec::new());
        for step in 1..=steps {
            let share = law.weight(8 * step, 8);
            average.iter_mut().zip(weights(step)).for_each(|(a, w)| *a += share * (w - *a));
            if step % every == 0 {
                out.push((step, average));
            }
        }
        out
    }

    #[test]
    fn any_length_is_what_tracking_would_have_given() {
        let (steps, every) = (2000, 50);
        let kept: Vec<_> = [0.05, 0.1]
            .map(|std| tracked(std, steps, every).into_iter().map(move |s| (std, s)))
            .into_iter()
            .flatten()
            .collect();
        let profiles: Vec<_> =
            kept.iter().map(|(std, (step, _))| Profile { std: *std, images: (8 * step) as f64 }).collect();
        for (std, tolerance) in
            [(0.04, 2e-3), (0.06, 1e-3), (0.08, 1e-3), (0.1, 1e-9), (0.15, 1e-3), (0.2, 1e-3), (0.25, 5e-3)]
        {
            let fit = fit(&profiles, Profile { std, images: (8 * steps) as f64 });
            let direct = tracked(std, steps, steps)[0].1;
            for (i, direct) in direct.iter().enumerate() {
                let made: f64 = fit.weights.iter().zip(&kept).map(|(w, (_, (_, a)))| w * a[i]).sum();
                assert!(
                    (made - direct).abs() < tolerance * (1.0 + direct.abs()),
                    "{std}: {made} {direct}, {}",
                    fit.error
                );
            }
            assert!((fit.weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{std}");
            assert!(fit.error < 0.1, "{std}: {}", fit.error);
        }
        // A much shorter average cannot be represented, and the error shows it.
        assert!(fit(&profiles, Profile { std: 0.005, images: (8 * steps) as f64 }).error > 0.3);
    }

    #[test]
    fn the_weights_are_those_of_numpy() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../tests/goldens/post_hoc.json")).unwrap();
        let numbers = |v: &serde_json::Value| -> Vec<f64> {
            v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let (stds, images) = (numbers(&golden["stds"]), numbers(&golden["images"]));
        let profiles: Vec<_> =
            stds.iter().zip(&images).map(|(&std, &images)| Profile { std, images }).collect();
        for case in golden["cases"].as_array().unwrap() {
            let target =
                Profile { std: case["std"].as_f64().unwrap(), images: case["images"].as_f64().unwrap() };
            let found = fit(&profiles, target);
            for (a, b) in found.weights.iter().zip(numbers(&case["weights"])) {
                assert!((a - b).abs() < 1e-6, "{target:?}: {found:?}");
            }
            assert!((found.error - case["error"].as_f64().unwrap()).abs() < 1e-6, "{found:?}");
        }
    }
}
