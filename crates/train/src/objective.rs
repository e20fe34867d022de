//! The loss of a batch, and its gradient.
//!
//! - *Simple*: the weighted squared error of the output (see [`crate::loss`]).
//! - *VLB*: `T·L_t` in bits per dimension, whose mean over uniform times is the variational bound without its constant
//!   `L_T` (Ho et al. 2020, arXiv:2006.11239, eq. 5).
//! - *Hybrid*: the simple loss plus `λ` times the bound, whose gradient does not reach the predicted mean, so that it only
//!   trains the variance (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16).
//!
//! The bound is computed on the host in double precision, with its derivatives with respect to the network's output in closed
//! form. The backward pass starts from `Σ derivative·output`, whose gradient is that of the bound.

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use tweedie_core::{
    Parameterization,
    bound::{Bound, ReverseVariance, bits_per_dim},
};
use tweedie_ops::{Batch, SampleShape, from_host, to_host};

use crate::{batches::HostBatch, config::RunConfig, error::TrainError};

/// The loss function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// The weighted squared error of the output.
    #[default]
    Simple,
    /// The variational bound, in bits per dimension.
    Vlb,
    /// The squared error for the mean, and the bound for a learned variance.
    Hybrid,
}

/// The loss function with its parameters.
#[derive(Clone, Debug)]
pub(crate) struct Objective {
    kind: ObjectiveKind,
    bound: Option<Bound>,
    vlb_weight: f64,
    parameterization: Parameterization,
    /// Whether the loss of every row is needed.
    pub each_row: bool,
}

/// The contribution of a batch to a step's loss.
pub(crate) struct BatchLoss {
    pub value: f64,
    /// The loss of each row without its importance weight; empty unless needed.
    pub rows: Vec<f64>,
    /// A tensor with the gradient of the loss.
    pub graph: Tensor<1>,
}

/// The bound's terms of a batch.
struct Terms {
    /// `T·L_t` of each row, in bits per dimension.
    bits: Vec<f64>,
    /// Derivatives of each row's term with respect to the raw output.
    gradient: Vec<f64>,
}

impl Objective {
    pub fn new(config: &RunConfig) -> Result<Self, TrainError> {
        let kind = config.loss.objective;
        Ok(Self {
            kind,
            bound: (kind != ObjectiveKind::Simple).then(|| config.diffusion.bound()).transpose()?,
            vlb_weight: if kind == ObjectiveKind::Hybrid { config.loss.vlb_weight } else { 1.0 },
            parameterization: config.parameterization(),
            each_row: config.loss.times.adapts(),
        })
    }

    /// The contribution of `batch`, of samples of `shape`, to the mean over a step's `rows`. `forward` is the network: it gets
    /// the batch's input.
    ///
    /// # Errors
    /// Those of `forward`.
    pub fn of(
        &self,
        batch: &HostBatch,
        shape: &SampleShape,
        rows: usize,
        device: &Device,
        forward: &dyn Fn(Batch) -> Result<Batch, TrainError>,
    ) -> Result<BatchLoss, TrainError> {
        let (b, values) = (batch.len(), shape.len());
        let output = forward(Batch::from_host(batch.input.clone(), b, shape, device))?;
        let mut loss = BatchLoss { value: 0.0, rows: vec![0.0; b], graph: Tensor::zeros([1], device) };
        let mut graph = None;
        if self.kind != ObjectiveKind::Vlb {
            let mean = output.channels(0..shape.channels());
            let error = mean.rows().clone() - constant(batch.target.clone(), [b, values], &output);
            let square = error.clone() * error;
            let share = 1.0 / (values as f64 * rows as f64);
            let weights = batch.weights.iter().map(|&w| (f64::from(w) * share) as f32).collect();
            if self.each_row {
                let means = to_host(square.clone().mean_dim(1));
                let weights = batch.weights.iter().zip(&batch.importance).map(|(w, i)| f64::from(w / i));
                loss.rows = means.iter().zip(weights).map(|(m, w)| f64::from(*m) * w).collect();
            }
            let sum = (square * constant(weights, [b, 1], &output)).sum();
            loss.value = to_host(sum.clone()).iter().copied().map(f64::from).sum();
            graph = Some(sum);
        }
        if let Some(bound) = &self.bound {
            let terms = self.terms(bound, batch, &output.to_host());
            let share: Vec<f64> =
                batch.importance.iter().map(|i| f64::from(*i) * self.vlb_weight / rows as f64).collect();
            for ((row, bits), share) in loss.rows.iter_mut().zip(&terms.bits).zip(&share) {
                *row += self.vlb_weight * bits;
                loss.value += share * bits;
            }
            let each = terms.gradient.len() / b.max(1);
            let scaled = terms.gradient.chunks(each.max(1)).zip(&share);
            let gradient = scaled.flat_map(|(g, s)| g.iter().map(move |g| (g * s) as f32)).collect();
            let sum = (output.rows().clone() * constant(gradient, [b, each], &output)).sum();
            graph = Some(match graph {
                Some(simple) => simple + sum,
                None => sum,
            });
        }
        loss.graph = graph.unwrap_or(loss.graph);
        Ok(loss)
    }

    /// The bound's terms for the raw output `[B, C, H, W]`, with `C` = 6 for learned variances. In the hybrid objective the
    /// derivatives with respect to the mean are zero.
    fn terms(&self, bound: &Bound, batch: &HostBatch, output: &[f32]) -> Terms {
        let b = batch.len();
        let pixels = batch.input.len() / b.max(1);
        let each = output.len() / b.max(1);
        let learned = bound.variance() == ReverseVariance::LearnedRange;
        let stopped = self.kind == ObjectiveKind::Hybrid;
        let steps = bound.levels().len() as f64;
        let unit = steps * bits_per_dim(1.0, pixels);
        let mut terms = Terms { bits: Vec::with_capacity(b), gradient: vec![0.0; output.len()] };
        for row in 0..b {
            let index = batch.levels[row];
            let scalings = self.parameterization.scalings(bound.levels()[index]);
            let (raw, v) = output[row * each..(row + 1) * each].split_at(pixels);
            let (d_raw, d_v) = terms.gradient[row * each..(row + 1) * each].split_at_mut(pixels);
            let x0 = &batch.x0[row * pixels..(row + 1) * pixels];
            let x = &batch.input[row * pixels..(row + 1) * pixels];
            let mut nats = 0.0;
            for i in 0..pixels {
                let x0_hat =
                    scalings.c_skip * f64::from(x[i]) / scalings.c_in + scalings.c_out * f64::from(raw[i]);
                let v = if learned { f64::from(v[i]) } else { 0.0 };
                let term = bound.term(index, f64::from(x0[i]), x0_hat, v);
                nats += term.nats;
                if !stopped {
                    d_raw[i] = unit * term.d_x0 * scalings.c_out;
                }
                if learned {
                    d_v[i] = unit * term.d_v;
                }
            }
            terms.bits.push(unit * nats);
        }
        terms
    }
}

/// A constant tensor in the autodiff graph of `like`.
fn constant(values: Vec<f32>, shape: [usize; 2], like: &Batch) -> Tensor<2> {
    let tensor = from_host(values, shape, &like.device().inner());
    if like.rows().is_autodiff() { tensor.autodiff() } else { tensor }
}

#[cfg(test)]
mod tests {
    use tweedie_data::Dataset;
    use tweedie_models::Mode;

    use super::*;
    use crate::{
        ConfigBuilder,
        batches::{BatchMaker, Batches},
        model::TrainModel,
        optim::GradientMap,
    };

    struct Case {
        config: RunConfig,
        model: TrainModel,
        batch: HostBatch,
        device: Device,
    }

    fn case(rows: usize, set: &[&str]) -> Case {
        let fixed = ["data.size=8", "augment.edm.p=1", "model.norm_groups=4"];
        let builder = ConfigBuilder::preset("tiny").unwrap().set(&format!("run.batch={rows}"));
        let config = fixed.iter().chain(set).fold(builder, |b, a| b?.set(a)).unwrap().build().unwrap();
        let data = Dataset::open(&config.data).unwrap();
        let batch = BatchMaker::new(&config, &data).unwrap().step(0, 0..1).unwrap().remove(0);
        let device = tweedie_ops::device("cpu").unwrap();
        let learned = config.diffusion.learned_range();
        let unet = config.model.unet(8, 3, Some(data.class_names().len()), learned).unwrap();
        Case { model: TrainModel::new(&unet, true, 0, &device).unwrap(), batch, device, config }
    }

    fn value(case: &Case, rows: usize) -> f64 {
        let objective = Objective::new(&case.config).unwrap();
        let forward = |x: Batch| Ok(case.model.of_batch(x, &case.batch, Mode::Eval));
        objective.of(&case.batch, &SHAPE.into(), rows, &case.device, &forward).unwrap().value
    }

    const SHAPE: [usize; 3] = [3, 8, 8];

    fn output(model: &TrainModel, batch: &HostBatch, labels: Option<&[f32]>, device: &Device) -> Vec<f32> {
        let x = from_host(batch.input.clone(), [batch.len(), 3, 8, 8], device);
        to_host(model.forward(x, &batch.times, Some(batch.classes.clone()), labels, Mode::Eval))
    }

    #[test]
    fn the_loss_is_the_weighted_mean_square() {
        let case = case(5, &[]);
        let Case { model, batch, device, .. } = &case;
        let output = output(model, batch, Some(&batch.labels), device);
        let rows = output.chunks(192).zip(batch.target.chunks(192)).zip(&batch.weights);
        let expected: f64 = rows
            .map(|((y, t), w)| {
                let square = |(y, t): (&f32, &f32)| f64::from(y - t).powi(2);
                f64::from(*w) * y.iter().zip(t).map(square).sum::<f64>() / 192.0
            })
            .sum();
        let loss = value(&case, 10);
        assert!((loss / (expected / 10.0) - 1.0).abs() < 1e-5, "{loss} {expected}");
    }

    #[test]
    fn a_zero_label_changes_nothing_and_another_does() {
        let Case { mut model, batch, device, .. } = case(2, &[]);
        // As after some training: the weights are not zero.
        let weight = model.augment[0].weight.clone();
        model.augment[0].weight = weight.map(|w| w + 1.0);
        let none = output(&model, &batch, None, &device);
        assert_eq!(none, output(&model, &batch, Some(&[0.0; 18]), &device));
        assert_ne!(none, output(&model, &batch, Some(&batch.labels), &device));
    }

    #[test]
    fn what_is_not_finite_in_the_data_stops_the_run() {
        for set in [&[][..], &["loss.objective=vlb"]] {
            let mut case = case(2, set);
            case.batch.input[7] = f32::NAN;
            assert!(value(&case, 2).is_nan());
        }
    }

    const LEARNED: [&str; 3] =
        ["diffusion.variance=learned-range", "loss.objective=hybrid", "diffusion.schedule=linear"];

    /// The case with other times, including the decoder's.
    fn at(case: &mut Case, levels: &[usize]) {
        let schedule = case.config.diffusion.schedule().unwrap();
        case.batch.levels = levels.to_vec();
        let pixels = case.batch.input.len() / levels.len();
        for (row, &index) in levels.iter().enumerate() {
            let at = schedule.level(index as f64);
            case.batch.times[row] = index as f32;
            for i in row * pixels..(row + 1) * pixels {
                let eps = f64::from((i % 7) as f32 - 3.0) / 2.0;
                case.batch.input[i] = (at.alpha * f64::from(case.batch.x0[i]) + at.sigma * eps) as f32;
            }
        }
    }

    #[test]
    fn the_bound_has_the_derivatives_of_finite_differences() {
        for (objective, parameterization, learned) in
            [("vlb", "eps", true), ("vlb", "v", true), ("vlb", "x0", false), ("hybrid", "v", true)]
        {
            let set = [
                format!("loss.objective={objective}"),
                format!("diffusion.parameterization={parameterization}"),
                format!("diffusion.variance={}", if learned { "learned-range" } else { "fixed-large" }),
                "diffusion.schedule=linear".into(),
            ];
            let mut case = case(5, &set.each_ref().map(String::as_str));
            at(&mut case, &[0, 1, 30, 500, 999]);
            let objective = Objective::new(&case.config).unwrap();
            let bound = objective.bound.clone().unwrap();
            let channels = if learned { 6 } else { 3 };
            let each = channels * 64;
            // The exact prediction, and a perturbed one.
            let schedule = case.config.diffusion.schedule().unwrap();
            let mut output = vec![0.0f32; 5 * each];
            for row in 0..5 {
                let level = schedule.level(case.batch.levels[row] as f64);
                for i in 0..192 {
                    let (x0, x) = (case.batch.x0[row * 192 + i], case.batch.input[row * 192 + i]);
                    let eps = (f64::from(x) - level.alpha * f64::from(x0)) / level.sigma;
                    let target = objective.parameterization.target(&f64::from(x0), &eps, level);
                    output[row * each + i] = target as f32 + 0.01 * (i % 5) as f32;
                }
                (192..each).for_each(|i| output[row * each + i] = (i % 9) as f32 / 4.0 - 1.0);
            }
            let found = objective.terms(&bound, &case.batch, &output);
            for row in 0..5 {
                let own = &found.gradient[row * each..(row + 1) * each];
                let largest = own.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
                for i in (0..each).step_by(11) {
                    let moved = |step: f32| {
                        let mut other = output.clone();
                        other[row * each + i] += step;
                        let exact = f64::from(other[row * each + i]);
                        (objective.terms(&bound, &case.batch, &other).bits[row], exact)
                    };
                    let ((high, b), (low, a)) = (moved(2e-4), moved(-2e-4));
                    let slope = (high - low) / (b - a);
                    let gradient = found.gradient[row * each + i];
                    if objective.kind == ObjectiveKind::Hybrid && i < 192 {
                        assert_eq!(gradient, 0.0);
                    } else {
                        let error = (slope - gradient).abs();
                        assert!(
                            error < 5e-3 * gradient.abs() + 1e-5 * largest,
                            "{set:?} {row} {i}: {slope} {gradient}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_variance_learns_from_the_bound_and_the_mean_from_the_squares() {
        let gradient = |weight: f64| {
            let weight = format!("loss.vlb_weight={weight}");
            let set: Vec<_> = LEARNED.iter().copied().chain([weight.as_str()]).collect();
            let case = case(3, &set);
            let device = case.device.clone().autodiff();
            let data = Dataset::open(&case.config.data).unwrap();
            let unet = case.config.model.unet(8, 3, Some(data.class_names().len()), true).unwrap();
            let model = TrainModel::new(&unet, true, 0, &device).unwrap();
            let objective = Objective::new(&case.config).unwrap();
            let forward = |x: Batch| Ok(model.of_batch(x, &case.batch, Mode::Eval));
            let loss = objective.of(&case.batch, &SHAPE.into(), 3, &case.device, &forward).unwrap();
            let mut gradients = loss.graph.backward();
            let gradients = GradientMap::take(&model, &mut gradients).0;
            to_host(gradients["unet.conv_out.bias"].clone())
        };
        let (one, two) = (gradient(0.001), gradient(0.002));
        assert_eq!(one[..3], two[..3]);
        for (one, two) in one[3..].iter().zip(&two[3..]) {
            assert!(*one != 0.0 && (two / one - 2.0).abs() < 1e-4, "{one} {two}");
        }
    }

    #[test]
    fn the_bound_of_a_batch_is_its_terms_in_bits() {
        let mut case = case(2, &["loss.objective=vlb", "diffusion.schedule=linear"]);
        at(&mut case, &[0, 40]);
        let output = output(&case.model, &case.batch, Some(&case.batch.labels), &case.device);
        let bound = case.config.diffusion.bound().unwrap();
        let schedule = case.config.diffusion.schedule().unwrap();
        let mut nats = 0.0;
        for (row, level) in [(0usize, 0usize), (1, 40)] {
            let at = schedule.level(level as f64);
            let of_row = |values: &[f32]| values[row * 192..(row + 1) * 192].to_vec();
            let (input, raw, x0) = (of_row(&case.batch.input), of_row(&output), of_row(&case.batch.x0));
            for ((x, raw), x0) in input.into_iter().zip(raw).zip(x0) {
                let x0_hat = case.config.parameterization().read(&f64::from(x), &f64::from(raw), at).x0;
                nats += bound.term(level, f64::from(x0), x0_hat, 0.0).nats;
            }
        }
        let expected = 1000.0 * bits_per_dim(nats, 192) / 8.0;
        assert!((value(&case, 8) / expected - 1.0).abs() < 1e-5, "{} {expected}", value(&case, 8));
    }
}
