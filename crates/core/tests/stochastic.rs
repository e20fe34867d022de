//! Samplers that add noise: the distribution they reach, the path their noise follows, and which of them are
//! others in disguise.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::sync::Arc;

use common::{Fed, Sample, ddpm, distance, no_noise};
use tweedie_core::{
    Denoiser, Halt, Level, Move, Plan, Prediction, Solver, Vector, lin,
    noise::{INITIAL, Noise, SeededNoise},
    oracle::{Gaussian, GaussianMixture},
    plan::{Final, NoiseRule, Restart},
    sample,
    schedule::{NoiseSchedule, TableSchedule},
    solver::{
        Adaptive, Ddim, DpmMultistep, DpmSinglestep, Form, HEUN, LearnedVariance, Rule, SOLVERS, SaSolver,
        find,
    },
    spacing::{self, Spacing},
    trajectory::Tolerance,
};

const ROWS: usize = 3000;

/// Many samples of a two-dimensional mixture in one vector.
struct Rows(GaussianMixture);

impl Denoiser<Sample> for Rows {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let mut out = Prediction::new(Vec::new(), Vec::new());
        for row in x.chunks(2) {
            let p = self.0.denoise(&row.to_vec(), at)?;
            out.x0.extend(p.x0);
            out.eps.extend(p.eps);
        }
        Ok(out)
    }
}

fn data() -> Rows {
    let one = Gaussian::new(vec![1.0, 0.8], vec![0.2, 0.3]).unwrap();
    let two = Gaussian::new(vec![-0.5, -1.0], vec![0.1, 0.2]).unwrap();
    Rows(GaussianMixture::new(vec![(2.0, one), (1.0, two)]).unwrap())
}

/// Of [`data`]: means; variances and covariance.
const MEAN: [f64; 2] = [0.5, 0.2];
const COVARIANCE: [f64; 3] = [0.5 + 1.0 / 6.0, 0.72 + 0.8 / 3.0, 0.6];

fn moments(x: &[f64]) -> ([f64; 2], [f64; 3]) {
    let n = (x.len() / 2) as f64;
    let mean = [0, 1].map(|i| x.chunks(2).map(|r| r[i]).sum::<f64>() / n);
    let covariance = [(0, 0), (1, 1), (0, 1)]
        .map(|(i, j)| x.chunks(2).map(|r| (r[i] - mean[i]) * (r[j] - mean[j])).sum::<f64>() / n);
    (mean, covariance)
}

fn descend(steps: usize) -> Plan {
    let schedule = ddpm();
    let mut levels = Spacing::UniformLambda.levels(&*schedule, steps).unwrap();
    levels.push(Level::CLEAN);
    Plan::through(schedule, &levels).unwrap()
}

fn run(
    plan: &Plan,
    solver: &dyn Solver<Sample>,
    model: &dyn Denoiser<Sample>,
    rows: usize,
    seed: u64,
) -> Sample {
    let mut noise = SeededNoise(seed);
    let start: Sample = noise.normal(&vec![0.0; 2 * rows], INITIAL);
    sample(plan, solver, model, start, &mut noise).finish().unwrap()
}

#[test]
fn means_and_covariances_are_right() {
    let model = data();
    // Only a consistency model's answers lead these two to the data.
    for entry in SOLVERS.iter().filter(|e| !e.is_deterministic() && !["lcm", "tcd"].contains(&e.name)) {
        let steps = match entry.name {
            "ddpm" | "ddpm-large" | "ddpm-learned" | "euler-ancestral-cfgpp" | "euler-churn" => 200,
            _ => 40,
        };
        let plan = descend(steps).with_noise(entry.noise);
        let (mean, covariance) = moments(&run(&plan, &*entry.build(), &model, ROWS, 11));
        let off = distance(&mean, &MEAN).max(distance(&covariance, &COVARIANCE));
        println!("{:22} off by {off:.3}: {mean:.3?} {covariance:.3?}", entry.name);
        assert!(off < 0.1, "{}: {mean:.3?} {covariance:.3?}", entry.name);
    }
}

#[test]
fn finer_grids_follow_the_same_path() {
    let model = data();
    for name in ["dpmpp-2m-sde", "dpmpp-3m-sde", "dpmpp-sde", "sa-solver", "er-sde"] {
        let solver = find(name).unwrap().build();
        let ends = [20, 40, 80, 160].map(|n| run(&descend(n), &*solver, &model, 50, 3));
        let error = |a: &Sample, b: &Sample| lin![1.0 => a, -1.0 => b].rms();
        let apart: Vec<f64> = ends.windows(2).map(|w| error(&w[0], &w[1])).collect();
        println!("{name:14} {apart:.3?}");
        assert!(apart[2] < 0.15 && apart[2] < 0.7 * apart[0], "{name}: {apart:?}");
    }
}

/// What a consistency model answers for Gaussian data: the end of the ODE's trajectory.
struct ConsistencyModel(Gaussian);

impl Denoiser<Sample> for ConsistencyModel {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let x0 = self.0.flow(x, at, Level::CLEAN);
        let eps = lin![1.0 / at.sigma => x, -at.alpha / at.sigma => &x0];
        Ok(Prediction::new(x0, eps))
    }
}

#[test]
fn consistency_sampling_needs_few_steps() {
    let tiled = |pair: [f64; 2]| (0..2 * ROWS).map(|i| pair[i % 2]).collect::<Vec<f64>>();
    let model = ConsistencyModel(Gaussian::new(tiled([0.5, -0.2]), tiled([0.3, 0.6])).unwrap());
    for steps in [1, 2, 4] {
        let plan = descend(steps).consistency();
        assert_eq!(plan.solves(), steps);
        let (mean, covariance) = moments(&run(&plan, &Ddim, &model, ROWS, 5));
        assert!(distance(&mean, &[0.5, -0.2]) < 0.05, "{steps}: {mean:?}");
        assert!(distance(&covariance, &[0.3, 0.6, 0.0]) < 0.05, "{steps}: {covariance:?}");
    }
    let same = |a: Plan, b: Plan| a.moves == b.moves;
    assert!(same(descend(4).strategic(0.0), descend(4)));
    let times = spacing::trailing(1000, 4).unwrap();
    let plan = Plan::descend(ddpm(), &times, Final::Clean).unwrap();
    let half = plan.clone().strategic(0.5);
    assert_eq!(half.moves[0], Move::Solve(ddpm().level(374.0)));
    assert_eq!(half.moves[1], Move::Renoise { to: ddpm().level(749.0), scale: 1.0 });
    assert_eq!(half.moves.last(), Some(&Move::Solve(Level::CLEAN)));
}

#[test]
fn restarts_run_through_an_interval_again() {
    let schedule = ddpm();
    let levels: Vec<Level> = [8.0, 3.0, 2.0, 1.0, 0.5, 0.1].map(|nsr| schedule.at_nsr(nsr)).to_vec();
    let mut all = levels.clone();
    all.push(Level::CLEAN);
    let plan = Plan::through(schedule, &all).unwrap();
    let twice = plan.clone().restart(Restart { s_min: 0.4, s_max: 2.5, times: 2 });
    let again = [Move::Renoise { to: levels[2], scale: 1.0 }, Move::Solve(levels[3]), Move::Solve(levels[4])];
    let expected: Vec<Move> = [&plan.moves[..4], &again, &again, &plan.moves[4..]].concat();
    assert_eq!(twice.moves, expected);
    let outside = Restart { s_min: 10.0, s_max: 20.0, times: 2 };
    assert_eq!(plan.clone().restart(outside).moves, plan.moves);
    let noisy = plan.clone().ancestral(1.0);
    assert_eq!(noisy.clone().restart(Restart { s_min: 0.4, s_max: 2.5, times: 2 }).moves, noisy.moves);
    assert!(noisy.inverted().is_err());
}

#[test]
fn stochastic_solvers_without_noise_are_deterministic_ones() {
    let model = data();
    let plan = descend(8);
    let x: Sample = SeededNoise(2).normal(&vec![0.0; 4], 0);
    let end = |solver: &dyn Solver<Sample>| {
        sample(&plan, solver, &model, x.clone(), &mut no_noise()).finish().unwrap()
    };
    // SA-Solver(1, 0) is DDIM.
    assert!(distance(&end(&SaSolver::new(1, 0, 0.0)), &end(&Ddim)) < 1e-13);
    // One step of DPM-Solver++ of the reversed diffusion is an ancestral step.
    let mut fed = SeededNoise(9);
    let plan = Plan::through(ddpm(), &[ddpm().level(700.0), ddpm().level(400.0)]).unwrap();
    let sde = DpmMultistep { tau: 1.0, ..DpmMultistep::new(Form::Data, 1) };
    let path = sample(&plan, &sde, &model, x.clone(), &mut fed).finish().unwrap();
    let drawn = fed.increment(&x, ddpm().level(700.0), ddpm().level(400.0));
    let ancestral = plan.ancestral(1.0);
    let steps = sample(&ancestral, &Ddim, &model, x.clone(), &mut Fed(vec![drawn])).finish().unwrap();
    assert!(distance(&path, &steps) < 1e-13);
}

/// A denoiser whose network also tells its variance, the same everywhere.
struct Telling(Rows, f64);

impl Denoiser<Sample> for Telling {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let p = self.0.denoise(x, at)?;
        Ok(Prediction { variance: Some(vec![self.1; x.len()]), ..p })
    }
}

#[test]
fn learned_variances_lie_between_the_fixed_ones() {
    let times = spacing::leading(1000, 10, 0).unwrap();
    let plan = Plan::descend(ddpm(), &times, Final::Clean).unwrap();
    let x: Sample = SeededNoise(4).normal(&vec![0.0; 6], INITIAL);
    let end = |plan: &Plan, solver: &dyn Solver<Sample>, model: &dyn Denoiser<Sample>| {
        sample(plan, solver, model, x.clone(), &mut SeededNoise(4)).finish().unwrap()
    };
    for (v, fixed) in [(-1.0, NoiseRule::Ancestral { eta: 1.0 }), (1.0, NoiseRule::FixedLarge)] {
        let learned = end(&plan, &LearnedVariance, &Telling(data(), v));
        let fixed = end(&plan.clone().with_noise(fixed), &Ddim, &data());
        assert!(distance(&learned, &fixed) < 1e-12, "v = {v}");
    }
    let untold = end(&plan, &LearnedVariance, &data());
    assert!(distance(&untold, &end(&plan, &LearnedVariance, &Telling(data(), -1.0))) < 1e-12);
}

/// A denoiser that was guided.
struct Guided(Rows);

impl Denoiser<Sample> for Guided {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let p = self.0.denoise(x, at)?;
        Ok(Prediction { null_eps: Some(lin![0.5 => &p.eps, 0.1 => x]), ..p })
    }
}

#[test]
fn cfg_plus_plus_adds_the_unconditional_noise_back() {
    let to = ddpm().level(300.0);
    let plan = Plan::through(ddpm(), &[ddpm().level(600.0), to]).unwrap();
    let x = vec![0.3, -0.8];
    let p = Guided(data()).denoise(&x, plan.start).unwrap();
    let expected = lin![to.alpha => &p.x0, to.sigma => p.null_eps.as_ref().unwrap()];
    for name in ["ddim-cfgpp", "dpmpp-2m-cfgpp"] {
        let solver = find(name).unwrap().build();
        let found = sample(&plan, &*solver, &Guided(data()), x.clone(), &mut no_noise()).finish().unwrap();
        assert!(distance(&found, &expected) < 1e-14, "{name}");
    }
}

#[test]
fn adaptive_steps_keep_to_their_tolerance() {
    let model = data();
    let schedule = ddpm();
    let levels = [schedule.at_nsr(20.0), schedule.at_nsr(0.05)];
    let plan = Plan::through(schedule.clone(), &levels).unwrap();
    let x = vec![0.9, -1.2];
    let mut fine = levels.to_vec();
    fine.splice(
        1..1,
        spacing::exponential(0.05, 20.0, 2000).unwrap()[1..1999].iter().map(|&u| schedule.at_nsr(u)),
    );
    let fine = Plan::through(schedule.clone(), &fine).unwrap();
    let exact = sample(&fine, &HEUN, &model, x.clone(), &mut no_noise()).finish().unwrap();
    for form in [Form::Noise, Form::Data] {
        for order in [2, 3] {
            let solver = DpmSinglestep { form, order, rule: Rule::Midpoint };
            let mut before = (f64::INFINITY, 0);
            for tolerance in [0.05, 1e-3, 2e-5] {
                let absolute = 0.1 * tolerance;
                let tolerance_of = Tolerance { relative: tolerance, absolute, ..Tolerance::K_DIFFUSION };
                let adaptive = Adaptive { solver, tolerance: tolerance_of };
                let last =
                    sample(&plan, &adaptive, &model, x.clone(), &mut no_noise()).last().unwrap().unwrap();
                let error = distance(&last.x, &exact);
                println!("{form:?} {order} {tolerance:e}: error {error:.1e}, {} evaluations", last.evals);
                assert!(
                    error < before.0 && error < 4.0 * tolerance,
                    "{form:?} {order} {tolerance}: {error:e}"
                );
                assert!(last.evals > before.1 && last.evals < 2000);
                before = (error, last.evals);
            }
        }
    }
    // A denoiser that breaks down is an error, not an endless loop.
    let broken = |x: &Sample, _: Level| Prediction::new(lin![f64::NAN => x], lin![f64::NAN => x]);
    let adaptive = find("dpm-adaptive").unwrap().build();
    assert!(sample(&plan, &*adaptive, &broken, x, &mut no_noise()).finish().is_err());
}

/// The timesteps that `get_schedule_jump` of RePaint's code (github.com/andreas128/RePaint, `guided_diffusion/scheduler.py`)
/// returns for `t_T = 7, n_sample = 1, jump_length = 2, jump_n_sample = 2`; it goes up one step at a time, which in law is
/// one jump.
#[test]
fn resampling_makes_the_steps_of_repaint() {
    let times = [6, 5, 4, 5, 6, 5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1];
    let schedule = Arc::new(TableSchedule::linear(7, 1e-3, 0.3).unwrap());
    let steps: Vec<f64> = (0..7).rev().map(f64::from).collect();
    let plan = Plan::descend(schedule.clone(), &steps, Final::Clean).unwrap();
    let again = plan.clone().resampled(2, 2).unwrap();
    let mut found = vec![6];
    for step in &again.moves {
        match step {
            Move::Solve(to) => found.push(if to.is_clean() { -1 } else { to.t as i32 }),
            Move::Renoise { to, scale } => {
                assert_eq!(*scale, 1.0);
                let before = *found.last().unwrap();
                found.extend(before + 1..=to.t as i32);
            }
            Move::Relabel(_) => panic!("no step is relabelled"),
        }
    }
    assert_eq!(found, times);
    assert_eq!(plan.clone().resampled(7, 3).unwrap().moves, plan.moves);
    assert!(plan.clone().ancestral(1.0).resampled(2, 2).is_err());
    // Relabelling belongs to the step before it.
    let strided = Plan::strided(schedule, &[6.0, 4.0, 1.0], 2.0, Level::CLEAN).unwrap();
    let again = strided.resampled(1, 2).unwrap();
    let kinds: String = (again.moves.iter())
        .map(|step| match step {
            Move::Solve(_) => 's',
            Move::Renoise { .. } => 'n',
            Move::Relabel(_) => 'r',
        })
        .collect();
    assert_eq!(kinds, "snssrnsrs");
}
