//! A diffusion model from scratch: two moons in the plane, as a rectified flow. Draws `two_moons.png`.
//!
//! `cargo run --release --example two_moons`
#![allow(clippy::print_stderr)]

use std::{error::Error, f64::consts::PI, sync::Arc};

use burn::{module::Module, tensor::Tensor};
use plotters::prelude::*;
use tweedie::core::{
    Denoiser, Halt, Level, NoiseSchedule, Parameterization, Plan, Prediction, noise, plan::Final,
};
use tweedie::core::{sample, schedule::FlowSchedule, solver::HEUN};
use tweedie::data::Image;
use tweedie::models::layers::{Init, Linear};
use tweedie::ops::{Batch, Device, RowNoise, from_host, silu, to_host};
use tweedie::train::{
    OptimizerConfig,
    optim::{GradientMap, Optimizer},
};

const STEPS: u64 = 8000;

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        let widths = [10, 192, 192, 192, 2];
        let init = Init::new(0, device);
        let layer = |i: usize| Linear::new(&init.at(i), widths[i], widths[i + 1], true);
        Self { layers: (0..widths.len() - 1).map(layer).collect() }
    }

    /// The flow at points `x: [B, 2]` and times `t`, one each.
    fn forward(&self, x: Tensor<2>, t: &[f64]) -> Tensor<2> {
        let waves = |t: &f64| {
            (1..=4)
                .flat_map(|k| [(PI * k as f64 * t).sin() as f32, (PI * k as f64 * t).cos() as f32])
                .collect::<Vec<_>>()
        };
        let time = from_host(t.iter().flat_map(waves).collect(), [t.len(), 8], &x.device());
        let last = self.layers.len() - 1;
        let enter = Tensor::cat(vec![x, time], 1);
        self.layers.iter().enumerate().fold(enter, |h, (i, layer)| {
            let h = layer.forward(h);
            if i < last { silu(h) } else { h }
        })
    }
}

impl Denoiser<Batch<2>> for Mlp {
    fn denoise(&self, x: &Batch<2>, at: Level) -> Result<Prediction<Batch<2>>, Halt> {
        let raw = Batch(self.forward(x.0.clone(), &vec![at.t; x.0.dims()[0]]));
        Ok(Parameterization::Flow.read(x, &raw, at))
    }
}

/// Point `i` of the two moons, with its noise.
fn moon(i: usize, jitter: &[f32]) -> [f32; 2] {
    let (angle, upper) = (PI as f32 * ((i as f32 * 0.618_034) % 1.0), i.is_multiple_of(2));
    let (x, y) = if upper { (angle.cos(), angle.sin()) } else { (1.0 - angle.cos(), 0.5 - angle.sin()) };
    [x - 0.5 + 0.06 * jitter[0], y - 0.25 + 0.06 * jitter[1]]
}

fn main() -> Result<(), Box<dyn Error>> {
    let (device, rows) = (tweedie::ops::device("cpu")?, 512);
    let schedule = Arc::new(FlowSchedule::new());
    let mut model = Mlp::new(&device.clone().autodiff());
    let mut optimizer = Optimizer::new(&OptimizerConfig::default());
    for step in 0..STEPS {
        let mut normal = vec![0.0; 4 * rows];
        noise::fill_normal(1, step, &mut normal);
        let (eps, jitter) = normal.split_at(2 * rows);
        let times: Vec<f64> = (0..rows).map(|i| (i as f64 + 0.5) / rows as f64).collect();
        let (mut x, mut target) = (Vec::new(), Vec::new());
        for (i, &t) in times.iter().enumerate() {
            let x0 = moon((step as usize * rows + i) % 65_537, &jitter[2 * i..]);
            let at = schedule.level(t);
            for (x0, eps) in x0.into_iter().zip(&eps[2 * i..2 * i + 2]) {
                x.push((at.alpha as f32) * x0 + (at.sigma as f32) * eps);
                target.push(Parameterization::Flow.target(&f64::from(x0), &f64::from(*eps), at) as f32);
            }
        }
        let error =
            model.forward(from_host(x, [rows, 2], &device), &times) - from_host(target, [rows, 2], &device);
        let loss = (error.clone() * error).mean();
        if step % 1000 == 0 {
            eprintln!("step {step:>5}  loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let gradients = GradientMap::take(&model, &mut loss.backward());
        model = optimizer.step(model, gradients, 4e-3 * (1.0 - step as f64 / STEPS as f64));
    }

    let model = model.valid();
    let times: Vec<f64> = (1..=20).rev().map(|i| f64::from(i) / 20.0).collect();
    let plan = Plan::descend(schedule, &times, Final::Clean)?;
    let mut rows = RowNoise((0..1000).collect());
    let start = rows.tensor([1000, 2], noise::INITIAL, &device);
    let mut panels = vec![to_host(start.clone())];
    for moment in sample(&plan, &HEUN, &model, Batch(start), &mut rows) {
        let moment = moment?;
        if [8, 14, 20].contains(&moment.index) {
            panels.push(to_host(moment.x.0));
        }
    }

    let (width, height) = (1200, 300);
    let mut pixels = vec![255; width * height * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, (width as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    for (points, part) in panels.iter().zip(area.split_evenly((1, 4))) {
        let mut chart = ChartBuilder::on(&part).margin(8).build_cartesian_2d(-2.4f32..2.4, -2.4f32..2.4)?;
        chart.draw_series(
            points
                .chunks_exact(2)
                .map(|p| Circle::new((p[0], p[1]), 2, RGBColor(60, 90, 200).mix(0.5).filled())),
        )?;
    }
    area.present()?;
    drop(area);
    Image { width, height, pixels }.save_png("two_moons.png")?;
    eprintln!("two_moons.png: 1000 points from noise to moons in {} steps of Heun", plan.solves());
    Ok(())
}
