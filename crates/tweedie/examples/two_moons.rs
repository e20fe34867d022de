//! A diffusion model from scratch in seventy lines: a rectified flow from noise to two moons, drawn to `two_moons.png`.
use std::{error::Error, f32::consts::PI, sync::Arc};

use burn::{module::Module, tensor::Tensor};
use plotters::prelude::*;
use tweedie::core::{Denoiser, Halt, Level, Parameterization, Plan, Prediction, noise, plan::Final};
use tweedie::core::{sample, schedule::FlowSchedule, solver::HEUN};
use tweedie::models::layers::{Init, Linear};
use tweedie::ops::{Batch, RowNoise, from_host, silu};
use tweedie::train::{OptimizerConfig, optim::GradientMap, optim::Optimizer};

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// The flow at points `x: [B, 2]` and times `t: [B, 1]`.
    fn forward(&self, x: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let waves = [1.0, 2.0, 3.0, 4.0].map(|k| t.clone() * (k * PI)).map(|a| [a.clone().sin(), a.cos()]);
        let mut h = Tensor::cat([vec![x], waves.concat()].concat(), 1);
        for layer in &self.layers[..3] {
            h = silu(layer.forward(h));
        }
        self.layers[3].forward(h)
    }
}

impl Denoiser<Batch> for Mlp {
    fn denoise(&self, x: &Batch, at: Level) -> Result<Prediction<Batch>, Halt> {
        let t = Tensor::full([x.len(), 1], at.t as f32, &x.device());
        Ok(Parameterization::Flow.read(x, &Batch::of(self.forward(x.rows().clone(), t)), at))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (device, rows, steps, widths) = (tweedie::ops::device("cpu")?, 512, 8000, [10, 192, 192, 192, 2]);
    let init = Init::new(0, &device.clone().autodiff());
    let layer = |i: usize| Linear::new(&init.at(i), widths[i], widths[i + 1], true);
    let mut model = Mlp { layers: (0..4).map(layer).collect() };
    let mut optimizer = Optimizer::new(&OptimizerConfig::default());
    for step in 0..steps {
        let angle: Vec<f32> =
            (0..rows).map(|i| PI * (((step * rows + i) as f64 * 0.618_034) % 1.0) as f32).collect();
        let moons = angle.iter().enumerate().flat_map(|(i, a)| match i % 2 {
            0 => [a.cos() - 0.5, a.sin() - 0.25],
            _ => [0.5 - a.cos(), 0.25 - a.sin()],
        });
        let normal =
            |salt| RowNoise((0..rows as u64).collect()).tensor([rows, 2], 2 * step as u64 + salt, &device);
        let (x0, eps) = (from_host(moons.collect(), [rows, 2], &device) + normal(0) * 0.06, normal(1));
        let t = from_host((0..rows).map(|i| (i as f32 + 0.5) / rows as f32).collect(), [rows, 1], &device);
        let x = x0.clone() * (1.0 - t.clone()) + eps.clone() * t.clone();
        let error = model.forward(x, t) - (eps - x0);
        let gradients = GradientMap::take(&model, &mut (error.clone() * error).mean().backward());
        model = optimizer.step(model, gradients, 4e-3 * (1.0 - step as f64 / steps as f64));
    }
    let times: Vec<f64> = (1..=20).rev().map(|i| f64::from(i) / 20.0).collect();
    let plan = Plan::descend(Arc::new(FlowSchedule::new()), &times, Final::Clean)?;
    let mut noise = RowNoise((0..1000).collect());
    let start = noise.batch(&[2].into(), noise::INITIAL, &device);
    let points = sample(&plan, &HEUN, &model.valid(), start, &mut noise).finish()?.to_host();
    let mut pixels = vec![255; 400 * 400 * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, (400, 400)).into_drawing_area();
    let chart = ChartBuilder::on(&area).build_cartesian_2d(-2f32..2.0, -2f32..2.0)?;
    let dots = points.chunks_exact(2).map(|p| Circle::new((p[0], p[1]), 2, BLUE.mix(0.5).filled()));
    { chart }.draw_series(dots)?;
    drop(area);
    Ok(tweedie::data::Image { width: 400, height: 400, pixels }.save_png("two_moons.png")?)
}
