//! What several of the tests need.
#![allow(dead_code)]

use std::{collections::BTreeMap, sync::Arc};

use tweedie_core::{
    Denoiser, Halt, Level, Parameterization, Plan, Prediction, Solver, Vector, noise::Noise, sample,
    schedule::TableSchedule,
};

pub type Sample = Vec<f64>;

/// Lines of `key value value …`.
pub fn numbers(line: &str) -> (&str, Sample) {
    let (key, values) = line.split_once(' ').unwrap();
    (key, values.split(' ').map(|v| v.parse().unwrap()).collect())
}

/// A golden file without cases.
pub fn table(text: &'static str) -> BTreeMap<&'static str, Sample> {
    text.lines().map(numbers).collect()
}

/// One golden trajectory.
#[derive(Default)]
pub struct Case {
    pub name: &'static str,
    pub start: Sample,
    pub states: Vec<Sample>,
    pub noise: Vec<Sample>,
}

/// A golden file of cases.
pub fn cases(text: &'static str) -> Vec<Case> {
    let mut out: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("case ") {
            out.push(Case { name, ..Case::default() });
            continue;
        }
        let (key, values) = numbers(line);
        let case = out.last_mut().unwrap();
        match key {
            "start" => case.start = values,
            "x" => case.states.push(values),
            "noise" => case.noise.push(values),
            _ => panic!("unknown key {key}"),
        }
    }
    out
}

/// Noise that was recorded.
pub struct Fed(pub Vec<Sample>);

impl Noise<Sample> for Fed {
    fn normal(&mut self, _: &Sample, draw: u64) -> Sample {
        self.0[draw as usize].clone()
    }
}

/// No noise can be drawn.
pub fn no_noise() -> impl Noise<Sample> {
    |_: &Sample, _: u64| -> Sample { panic!("a deterministic plan drew noise") }
}

/// The stand-in network `x·t/(t+1)`, read by a parameterization.
pub struct StandIn(pub Parameterization);

impl Denoiser<Sample> for StandIn {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let raw = Vector::lin(&[(at.t / (at.t + 1.0), x)]);
        Ok(self.0.read(x, &raw, at))
    }
}

/// The end of a deterministic plan.
pub fn end(plan: &Plan, solver: &dyn Solver<Sample>, model: &dyn Denoiser<Sample>, x: &Sample) -> Sample {
    sample(plan, solver, model, x.clone(), &mut no_noise()).finish().unwrap()
}

pub fn ddpm() -> Arc<TableSchedule> {
    Arc::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap())
}

/// The largest difference of two vectors.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The slope of the errors of `n = sizes` against `1/n`, fitted on logarithms.
pub fn slope(sizes: &[usize], errors: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> =
        sizes.iter().zip(errors).map(|(&n, e)| (-(n as f64).ln(), e.ln())).collect();
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / points.len() as f64;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let (mut cov, mut var) = (0.0, 0.0);
    for (x, y) in &points {
        cov += (x - mx) * (y - my);
        var += (x - mx).powi(2);
    }
    cov / var
}
