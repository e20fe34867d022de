//! Whole trajectories compared with diffusers' schedulers, with a formula as the network. `golden/make.py` wrote the
//! expected values.

#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, collections::BTreeMap, path::Path};

use burn::tensor::Device;
use serde::Deserialize;
use serde_json::Value;
use tweedie_core::{Denoiser, Level, Move, Parameterization, Prediction, lin, sample};
use tweedie_hub::{Sampling, SchedulerConfig};
use tweedie_ops::Batch;
use tweedie_pipe::clamp::clamped;

const ELEMENTS: usize = 6;

#[derive(Deserialize)]
struct Case {
    config: Value,
    steps: usize,
    eta: Option<f64>,
    times: Vec<f64>,
    samples: BTreeMap<usize, Vec<f64>>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/schedulers.json")).unwrap()
}

/// The larger; a number that is not one wins.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

fn device() -> Device {
    tweedie_ops::device("cpu").unwrap()
}

fn batch(values: Vec<f64>) -> Batch {
    let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
    Batch::from_host(values, 1, &[1, 2, 3].into(), &device())
}

fn values(x: &Batch) -> Vec<f64> {
    x.to_host().into_iter().map(f64::from).collect()
}

fn wave(draw: i64) -> Batch {
    batch(
        (0..ELEMENTS).map(|i| 1.3 * (12.9898 * (i + 1) as f64 + 78.233 * (draw + 1) as f64).sin()).collect(),
    )
}

fn network(x: &Batch, t: f64) -> Batch {
    let f = |(i, x): (usize, f64)| 0.7 * x + 0.3 * (2.0 * x).tanh() + 0.2 * (t / 37.0 + i as f64).sin();
    batch(values(x).into_iter().enumerate().map(f).collect())
}

/// The timesteps of all evaluations, and the sample after each step.
fn run(case: &Case) -> (Vec<f64>, Vec<Vec<f64>>) {
    let config = SchedulerConfig::from_json(&case.config.to_string(), Path::new("case")).unwrap();
    let ask = Sampling { eta: case.eta, ..Sampling::steps(case.steps) };
    let recipe = config.resolve_with(&ask).unwrap();
    let times = RefCell::new(Vec::new());
    let parameterization: Parameterization = recipe.parameterization;
    let answer = |x: &Batch, at: Level| -> Prediction<Batch> {
        let s = parameterization.scalings(at);
        times.borrow_mut().push(s.c_noise);
        let read = parameterization.read(x, &network(&lin![s.c_in => x], s.c_noise), at);
        match recipe.clamp {
            Some(clamp) => clamped(read, x, at, clamp),
            None => read,
        }
    };
    let denoiser: &dyn Denoiser<Batch> = &answer;
    let mut noise = |_: &Batch, draw: u64| wave(draw as i64);
    let solver = recipe.solver.build();
    let start = lin![recipe.plan.start_std => &wave(-1)];
    let mut samples = Vec::new();
    for (i, moment) in sample(&recipe.plan, &*solver, denoiser, start, &mut noise).enumerate() {
        if matches!(recipe.plan.moves.get(i + 1), None | Some(Move::Solve(_))) {
            samples.push(values(&moment.unwrap().x));
        }
    }
    (times.into_inner(), samples)
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let mut faults = Vec::new();
    for case in cases() {
        let label = format!("{} in {} steps: {}", case.config["_class_name"], case.steps, case.config);
        let (times, samples) = run(&case);
        assert_eq!(samples.len(), case.steps, "{label}");
        let times = match times.len() {
            0..=20 => times,
            n => [&times[..3], &times[n - 3..]].concat(),
        };
        assert_eq!(times.len(), case.times.len(), "{label}");
        for (found, expected) in times.iter().zip(&case.times) {
            if (found - expected).abs() > 2e-3 * expected.abs().max(0.1) {
                faults.push(format!("{label}: time {found}, expected {expected}"));
            }
        }
        for (step, expected) in &case.samples {
            let found = &samples[step - 1];
            let rms = (expected.iter().map(|v| v * v).sum::<f64>() / ELEMENTS as f64).sqrt();
            let error = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, larger) / rms;
            if error.is_nan() || error >= 1e-3 {
                faults.push(format!("{label}: step {step}: {found:?}, expected {expected:?}"));
                break;
            }
        }
    }
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}
