//! ControlNets and T2I-Adapters of a request: their images, and when and how strongly they act.

use serde::{Deserialize, Serialize};
use tweedie_core::{Level, Move, Plan};
use tweedie_models::{Conditions, Entry, Guide, conditions::STRENGTHS};

use crate::{PipelineError, Request, file::RecordedFile};

/// What one ControlNet or T2I-Adapter of a request does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The image that it follows, such as edges, depth or a pose. It is cropped and resized to the size of the result; for an
    /// existing image that is changed it must have the size of that.
    pub image: RecordedFile,
    /// It follows the edges of the image instead, found with these thresholds: [`Image::edges`](crate::Image::edges)
    /// after it is resized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canny: Option<[f64; 2]>,
    /// The factor of its outputs, 1 by default.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scale: f64,
    /// The part of the steps in which it acts, `[from, to]` with 0 ≤ from < to ≤ 1; by default all.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub range: [f64; 2],
    /// The folder of the ControlNet or adapter, if it is not part of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<RecordedFile>,
}

fn one() -> f64 {
    1.0
}

fn is_one(scale: &f64) -> bool {
    *scale == 1.0
}

fn all() -> [f64; 2] {
    [0.0, 1.0]
}

fn is_all(range: &[f64; 2]) -> bool {
    *range == all()
}

impl Control {
    /// One that acts fully in all steps.
    pub fn new(image: RecordedFile) -> Self {
        Self { image, canny: None, scale: one(), range: all(), net: None }
    }
}

/// When and how strongly ControlNets and adapters act.
#[derive(Clone, Debug)]
pub(crate) struct Strengths {
    nets: Vec<Strength>,
}

#[derive(Clone, Debug)]
struct Strength {
    /// The factor of each output.
    factors: Vec<f32>,
    /// The noise levels `sigma/alpha` in which it acts: more than the first, and up to the second.
    levels: [f64; 2],
    /// Whether it does not act on unconditional predictions.
    guesses: bool,
}

impl Strengths {
    /// Those of a request, whose controls are as many as `nets`; `plan` says which noise levels the steps have.
    ///
    /// # Errors
    /// If a scale or a range is invalid, or no step is in it.
    pub(crate) fn of(request: &Request, guides: &[Guide], plan: &Plan) -> Result<Self, PipelineError> {
        // A network whose outputs are averaged over the image is always used so in diffusers.
        let pools =
            |guide: &Guide| matches!(guide, Guide::ControlNet(net) if net.config().global_pool_conditions);
        let guess = request.guess || guides.first().is_some_and(pools);
        if request.guess && guides.iter().all(|guide| matches!(guide, Guide::Adapter(_))) {
            return Err(PipelineError::request("guess", "has no effect on T2I-Adapters; remove it"));
        }
        let one = |(control, guide): (&Control, &Guide)| {
            if !control.scale.is_finite() {
                let reason = format!("`scale` {}: expected a finite value", control.scale);
                return Err(PipelineError::request("controls", reason));
            }
            let guesses = guess && matches!(guide, Guide::ControlNet(_));
            let outputs = guide.outputs();
            let factor =
                |i| control.scale as f32 * if guesses && !pools(guide) { log_scale(i, outputs) } else { 1.0 };
            let factors = (0..outputs).map(factor).collect();
            Ok(Strength { factors, levels: levels(control.range, plan)?, guesses })
        };
        let nets = request.controls.iter().zip(guides).map(one).collect::<Result<_, _>>()?;
        Ok(Self { nets })
    }

    /// `conditions` with the factors at this noise level; `null`: they are those of unconditional predictions.
    pub(crate) fn add(&self, conditions: &Conditions, rows: usize, at: Level, null: bool) -> Conditions {
        let factors = self.nets.iter().flat_map(|net| {
            let [above, up_to] = net.levels;
            let acts = at.nsr() > above && at.nsr() <= up_to && !(null && net.guesses);
            net.factors.iter().map(move |factor| if acts { *factor } else { 0.0 })
        });
        let factors: Vec<f32> = factors.collect();
        conditions.clone().with(STRENGTHS, Entry::Numbers(vec![factors; rows]))
    }
}

/// Factors from 0.1 for the first output, which is the finest, to 1 for the last, evenly spaced in their logarithm.
fn log_scale(i: usize, outputs: usize) -> f32 {
    10f32.powf(i as f32 / outputs.saturating_sub(1).max(1) as f32 - 1.0)
}

/// The noise levels of the steps in `range`, as in diffusers: step `i` of `n` is, if `i/n ≥ from` and `(i + 1)/n ≤ to`.
fn levels([from, to]: [f64; 2], plan: &Plan) -> Result<[f64; 2], PipelineError> {
    let fail = |reason: String| Err(PipelineError::request("controls", reason));
    if !(from >= 0.0 && from < to && to <= 1.0) {
        return fail(format!("`range` [{from}, {to}]: expected 0 ≤ from < to ≤ 1"));
    }
    if is_all(&[from, to]) {
        return Ok([f64::NEG_INFINITY, f64::INFINITY]);
    }
    let solves = plan.steps().filter(|(_, step)| matches!(step, Move::Solve(_)));
    let mut starts: Vec<f64> = solves.map(|(level, _)| level.nsr()).collect();
    // Steps may be repeated.
    starts.sort_by(|a, b| b.total_cmp(a));
    starts.dedup();
    let count = starts.len() as f64;
    let acts = |i: &usize| *i as f64 / count >= from && (i + 1) as f64 / count <= to;
    let inside: Vec<usize> = (0..starts.len()).filter(acts).collect();
    let (Some(&first), Some(&last)) = (inside.first(), inside.last()) else {
        return fail(format!("`range` [{from}, {to}]: contains none of the {count} steps"));
    };
    let up_to = if first == 0 { f64::INFINITY } else { starts[first] };
    Ok([starts.get(last + 1).copied().unwrap_or(f64::NEG_INFINITY), up_to])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tweedie_core::schedule::TableSchedule;

    use super::*;

    /// The steps of diffusers' pipelines, by their formula.
    #[test]
    fn steps_are_those_of_diffusers() {
        let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap());
        for n in [1usize, 2, 5, 20] {
            let times: Vec<f64> = (0..n).map(|i| (n - i) as f64 * 900.0 / n as f64).collect();
            let levels_of: Vec<Level> = times
                .iter()
                .map(|t| tweedie_core::NoiseSchedule::level(&*schedule, *t))
                .chain([Level { alpha: 1.0, sigma: 0.0, t: 0.0 }])
                .collect();
            let plan = Plan::through(schedule.clone(), &levels_of).unwrap();
            assert_eq!(plan.solves(), n);
            for range in [[0.0, 1.0], [0.0, 0.5], [0.2, 0.8], [0.5, 1.0], [0.31, 0.66]] {
                let kept =
                    |i: usize| !((i as f64 / n as f64) < range[0] || (i + 1) as f64 / n as f64 > range[1]);
                let Ok([above, up_to]) = levels(range, &plan) else {
                    assert!((0..n).all(|i| !kept(i)), "{range:?} of {n}");
                    continue;
                };
                for (i, level) in levels_of.iter().take(n).enumerate() {
                    let acts = level.nsr() > above && level.nsr() <= up_to;
                    assert_eq!(acts, kept(i), "step {i} of {n} in {range:?}");
                }
            }
        }
    }

    /// The values of `torch.logspace(-1, 0, 13)`.
    #[test]
    fn factors_of_guesses() {
        let found: Vec<f32> = (0..13).map(|i| log_scale(i, 13)).collect();
        for (i, expected) in [(0, 0.1), (1, 0.121_152_77), (6, 0.316_227_76), (12, 1.0)] {
            assert!((found[i] - expected).abs() < 1e-6, "{}", found[i]);
        }
    }
}
