//! The density of a model's deterministic sampler, and the bits per dimension that follow from it.
//!
//! The probability-flow ODE `dy/du = f(y, u)` transports the density of the prior to that of the cleanest noise level:
//! `ln p(y_1) = ln p(y_T) + ∫ tr ∂f/∂y du` along the path through `y_1` (Song et al. 2021, arXiv:2011.13456, section D.2).
//! The trace is estimated by `vᵀ·(∂f/∂y)·v` with a random vector of signs (Hutchinson). The decoder of the variational
//! bound leads from there to 8-bit values:
//!
//! ```text
//! -ln P(x0) ≤ E[ ln q(x_1 | x0) - ln p(x_1) ] + L_0,   x_1 ~ q(x_1 | x0)
//! ```
//!
//! The path is that of the network without clamping, and uses a finite number of steps, which gives too few bits if there
//! are too few steps.
//!
//! This bound differs from [`super::evaluate`]'s only in that the exact density replaces `L_T` and the denoising terms.
//! Their difference is the loss of the Gaussian reverse chain.

use std::{ops::ControlFlow, time::Instant};

use serde::Serialize;
use tweedie_core::{
    Level, NoiseSchedule, Parameterization,
    bound::bits_per_dim,
    noise::{fill_normal, generator},
    schedule::Axis,
};
use tweedie_models::{Conditions, Mode, Network};
use tweedie_ops::{Batch, Device, SampleShape, from_host, to_host};
use tweedie_pipe::{Pipeline, row_seed};

use super::{BoundError, Estimate, Model, Options, Row, check_rows, values};

/// Bits per dimension by the density of the ODE.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The sum of both terms.
    pub total: Estimate,
    /// `ln q(x_1 | x0) - ln p(x_1)`: the cost of the cleanest noise level.
    pub density: Estimate,
    /// `L_0`: the cost of decoding 8-bit values, as in the variational bound.
    pub reconstruction: Estimate,
    /// Number of images.
    pub images: usize,
    /// Number of values in an image.
    pub dims: usize,
    /// Number of Runge–Kutta steps.
    pub steps: usize,
    /// Network evaluations per image, all but one with their gradient.
    pub evaluations: usize,
    /// The seed.
    pub seed: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// The density of `pipeline`'s model at `rows`, with `steps` steps of the classical Runge–Kutta method, each with four
/// network evaluations and their gradients. Uses the seed, the batch size, and (for the decoder) the variance and the
/// clamp of `options`. `on` receives the number of finished and of all images.
///
/// # Errors
/// Those of [`super::evaluate`].
pub fn evaluate(
    pipeline: &Pipeline,
    device: &Device,
    rows: &[Row],
    steps: usize,
    options: &Options,
    on: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Report, BoundError> {
    let started = Instant::now();
    let shape = check_rows(pipeline, rows)?;
    if steps == 0 {
        return Err(BoundError::Input("steps = 0: expected at least 1".into()));
    }
    let model = Model::new(pipeline, device, shape, options)?;
    model.check(&rows[0])?;
    let process = pipeline.scheduler().process();
    let levels = model.bound.levels();
    let (first, last) = (levels[0], levels[levels.len() - 1]);
    // At pure noise sigma/alpha is infinite.
    let axis = if last.alpha == 0.0 { Axis::Flow } else { process.schedule.axis() };
    let differentiable = pipeline.network().differentiable();
    let dims: usize = shape.iter().product();
    let (mut density, mut reconstruction) = (Vec::new(), Vec::new());
    let tasks: Vec<usize> = (0..rows.len()).collect();
    for chunk in tasks.chunks(options.batch.max(1)) {
        let pairs: Vec<_> = chunk.iter().map(|&image| (image, 0)).collect();
        reconstruction.extend(model.terms(rows, &pairs, options.seed)?);

        let (mut x, mut probes, mut log_q) = (Vec::new(), Vec::new(), Vec::new());
        let mut eps = vec![0.0f32; dims];
        for &image in chunk {
            fill_normal(row_seed(options.seed, image as u64), 0, &mut eps);
            let noisy = values(&rows[image].image, shape[0]).zip(&eps);
            x.extend(noisy.map(|(x0, e)| first.alpha * x0 + first.sigma * f64::from(*e)));
            log_q.push(log_normal(eps.iter().map(|e| f64::from(*e)), 1.0) - dims as f64 * first.sigma.ln());
            probes.extend(signs(options.seed, image, dims));
        }
        let images: Vec<&Row> = chunk.iter().map(|&image| &rows[image]).collect();
        let field = NetworkField {
            network: &*differentiable,
            parameterization: process.parameterization,
            schedule: &*process.schedule,
            axis,
            conditions: model.conditions(&images),
            shape: shape.into(),
            probes,
            device: device.clone().autodiff(),
        };
        let answers = |y: &[f64], u: f64| field.at(y, u);
        let found = log_density(&answers, axis, x, dims, [first, last], model.bound.prior_std(), steps);
        for (row, (log_p, log_q)) in found.into_iter().zip(log_q).enumerate() {
            if !log_p.is_finite() {
                return Err(BoundError::NotFinite { image: chunk[row], t: first.t });
            }
            density.push(bits_per_dim(log_q - log_p, dims));
        }
        if on(density.len(), rows.len()).is_break() {
            return Err(BoundError::Cancelled);
        }
    }
    let reconstruction: Vec<f64> = reconstruction.into_iter().map(|n| bits_per_dim(n, dims)).collect();
    Ok(Report {
        total: Estimate::of(density.iter().zip(&reconstruction).map(|(d, r)| d + r)),
        density: Estimate::of(density.iter().copied()),
        reconstruction: Estimate::of(reconstruction.iter().copied()),
        images: rows.len(),
        dims,
        steps,
        evaluations: 4 * steps + 1,
        seed: options.seed,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// `ln N(x; 0, std²)` summed over elements.
fn log_normal(x: impl Iterator<Item = f64>, std: f64) -> f64 {
    let constant = (std::f64::consts::TAU * std * std).ln();
    x.map(|x| -0.5 * ((x / std).powi(2) + constant)).sum()
}

/// A random vector of signs, the probe of an image.
fn signs(seed: u64, image: usize, dims: usize) -> impl Iterator<Item = f64> {
    use rand::Rng;
    let mut rng = generator(seed ^ 0x0070_726f_6265, image as u64);
    (0..dims).map(move |_| if rng.next_u64() >> 63 == 0 { 1.0 } else { -1.0 })
}

/// The right-hand side at `(y, u)` for all images, and the trace of its Jacobian for each.
type Answer = (Vec<f64>, Vec<f64>);

/// `ln p(x)` of each row of `x`, which are samples at the first of two levels; the prior is that of the last.
fn log_density(
    field: &dyn Fn(&[f64], f64) -> Answer,
    axis: Axis,
    x: Vec<f64>,
    dims: usize,
    [first, last]: [Level; 2],
    prior_std: f64,
    steps: usize,
) -> Vec<f64> {
    let (start, end) = (axis.coordinate(first), axis.coordinate(last));
    let mut y: Vec<f64> = x.iter().map(|x| x / axis.scale(first)).collect();
    let mut traces = vec![0.0; y.len() / dims];
    // Closer at clean levels, where the density is steep (Karras et al. 2022, eq. 5).
    let root = |u: f64| u.powf(1.0 / 7.0);
    let at = |i: usize| {
        let share = i as f64 / steps as f64;
        if i == steps { end } else { (root(start) + share * (root(end) - root(start))).powi(7) }
    };
    for i in 0..steps {
        let (u, h) = (at(i), at(i + 1) - at(i));
        let moved = |k: &[f64], by: f64| -> Vec<f64> { y.iter().zip(k).map(|(y, k)| y + by * k).collect() };
        let (k1, t1) = field(&y, u);
        let (k2, t2) = field(&moved(&k1, 0.5 * h), u + 0.5 * h);
        let (k3, t3) = field(&moved(&k2, 0.5 * h), u + 0.5 * h);
        let (k4, t4) = field(&moved(&k3, h), u + h);
        let mean = |a: &[f64], b: &[f64], c: &[f64], d: &[f64], j: usize| {
            h / 6.0 * (a[j] + 2.0 * b[j] + 2.0 * c[j] + d[j])
        };
        y.iter_mut().enumerate().for_each(|(j, y)| *y += mean(&k1, &k2, &k3, &k4, j));
        traces.iter_mut().enumerate().for_each(|(j, t)| *t += mean(&t1, &t2, &t3, &t4, j));
    }
    // The change of volume from y to x and back.
    let volume = dims as f64 * (axis.scale(last) / axis.scale(first)).ln();
    let prior = |y: &[f64]| log_normal(y.iter().map(|y| y * axis.scale(last)), prior_std);
    y.chunks(dims).zip(traces).map(|(y, trace)| prior(y) + volume + trace).collect()
}

/// The ODE of a network.
struct NetworkField<'a> {
    /// On an autodiff device, with constant parameters.
    network: &'a dyn Network,
    parameterization: Parameterization,
    schedule: &'a dyn NoiseSchedule,
    axis: Axis,
    conditions: Conditions,
    shape: SampleShape,
    probes: Vec<f64>,
    device: Device,
}

impl NetworkField<'_> {
    fn at(&self, y: &[f64], u: f64) -> Answer {
        let at = self.schedule.at_nsr(self.axis.nsr(u));
        let scalings = self.parameterization.scalings(at);
        let scale = self.axis.scale(at);
        // The slope is a·x + b·raw.
        let slope = |x: f64, raw: f64| self.axis.slope(&self.parameterization.read(&x, &raw, at));
        let (a, b) = (slope(1.0, 0.0), slope(0.0, 1.0));
        let dims = self.shape.len();
        let rows = y.len() / dims;
        let single = |values: &[f64], by: f64| values.iter().map(|v| (by * v) as f32).collect::<Vec<_>>();
        let input = from_host(single(y, scale * scalings.c_in), [rows, dims], &self.device).require_grad();
        let batch = Batch::of(input.clone()).shaped(&self.shape);
        let times = vec![scalings.c_noise as f32; rows];
        let output = self.network.forward(batch, &times, &self.conditions, Mode::Eval);
        let raw = output.channels(0..self.shape.channels()).rows().clone();
        let probes = from_host(single(&self.probes, 1.0), [rows, dims], &self.device);
        let gradients = (raw.clone() * probes).sum().backward();
        let pulled = input.grad(&gradients).map(to_host).unwrap_or_default();
        let raw = to_host(raw);
        let slopes = y.iter().zip(&raw).map(|(y, raw)| a * scale * y + b * f64::from(*raw)).collect();
        let traces = self.probes.chunks(dims).zip(pulled.chunks(dims)).map(|(v, g)| {
            let through: f64 = v.iter().zip(g).map(|(v, g)| v * f64::from(*g)).sum();
            scale * (a * dims as f64 + b * scalings.c_in * through)
        });
        (slopes, traces.collect())
    }
}

#[cfg(test)]
mod tests {
    use tweedie_core::{
        Denoiser,
        oracle::Gaussian,
        schedule::{FlowSchedule, TableSchedule},
    };

    use burn::module::Module;
    use tweedie_models::{UNet2DConfig, UNet2DModel};

    use super::*;

    /// The trace from the backward pass matches finite differences along the probe.
    #[test]
    fn the_trace_is_that_of_the_network() {
        let device = tweedie_ops::device("cpu").unwrap();
        let config = UNet2DConfig::from_json(
            r#"{"sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "attention_head_dim": 8,
                "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "out_channels": 6}"#,
        );
        let unet = UNet2DModel::new(&config.unwrap(), 1, &device).unwrap().train().no_grad();
        let schedule = TableSchedule::squared_cosine(1000).unwrap();
        for (axis, u) in [(Axis::Nsr, 0.7), (Axis::Flow, 0.6)] {
            let field = NetworkField {
                network: &unet,
                parameterization: Parameterization::V,
                schedule: &schedule,
                axis,
                conditions: Conditions::none(),
                shape: [3, 8, 8].into(),
                probes: signs(3, 0, 192).chain(signs(3, 1, 192)).collect(),
                device: device.clone().autodiff(),
            };
            let y: Vec<f64> = (0..384).map(|i| (f64::from(i) * 0.37).sin()).collect();
            let step = 1e-2;
            let moved =
                |by: f64| -> Vec<f64> { y.iter().zip(&field.probes).map(|(y, v)| y + by * v).collect() };
            let (high, low) = (field.at(&moved(step), u).0, field.at(&moved(-step), u).0);
            let (_, traces) = field.at(&y, u);
            for (row, trace) in traces.iter().enumerate() {
                let range = row * 192..(row + 1) * 192;
                let slope: f64 = range.map(|i| field.probes[i] * (high[i] - low[i]) / (2.0 * step)).sum();
                assert!((trace - slope).abs() < 1e-2 * trace.abs() + 0.05, "{axis:?} {row}: {trace} {slope}");
            }
        }
    }

    /// The density of Gaussian data is known at every level.
    #[test]
    fn gaussian_data_has_its_density() {
        let data = Gaussian::new(vec![0.3, -0.5], vec![0.2, 0.05]).unwrap();
        let table = TableSchedule::linear(1000, 1e-4, 0.02).unwrap();
        let flow = FlowSchedule::new();
        let cases: [(&dyn NoiseSchedule, Axis, Level); 3] = [
            (&table, Axis::Nsr, table.level(0.0)),
            (&table, Axis::Flow, table.level(0.0)),
            (&flow, Axis::Flow, flow.level(0.01)),
        ];
        for (schedule, axis, first) in cases {
            let last = schedule.level(schedule.times().max());
            let field = |y: &[f64], u: f64| -> Answer {
                let at = schedule.at_nsr(axis.nsr(u));
                let scale = axis.scale(at);
                let mut slopes = Vec::new();
                let mut traces = Vec::new();
                for y in y.chunks(2) {
                    let slope = |x: &Vec<f64>| axis.slope(&data.denoise(x, at).unwrap());
                    let x: Vec<f64> = y.iter().map(|y| y * scale).collect();
                    // The field is linear in each element.
                    let moved: Vec<f64> = x.iter().map(|x| x + 1.0).collect();
                    let (here, there) = (slope(&x), slope(&moved));
                    traces.push(here.iter().zip(&there).map(|(a, b)| scale * (b - a)).sum());
                    slopes.extend(here);
                }
                (slopes, traces)
            };
            let x = vec![0.1, -0.4, 0.9, 0.2];
            let run = |steps| log_density(&field, axis, x.clone(), 2, [first, last], 1.0, steps);
            let (coarse, fine) = (run(32), run(64));
            for (row, x) in x.chunks(2).enumerate() {
                // A table leaves some signal at its last level, which the prior ignores.
                let end = data.flow(x, first, last);
                let prior = log_normal(end.iter().copied(), 1.0) - data.log_density(&end, last);
                let exact = data.log_density(x, first) + prior;
                assert!((fine[row] - exact).abs() < 2e-3, "{axis:?}: {} {exact}", fine[row]);
                assert!((coarse[row] - exact).abs() < 2e-2, "{axis:?}: {} {exact}", coarse[row]);
            }
        }
    }
}
