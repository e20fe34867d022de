//! Whole trajectories against diffusers (tests/golden/make.py): every element after every step.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Case, Fed, Sample, StandIn, cases, distance, table};
use tweedie_core::{
    Level, Move, Parameterization, Plan, Solver, Vector,
    plan::Final,
    sample,
    schedule::{FlowSchedule, Interpolation, NoiseSchedule, TableSchedule},
    solver::{Ddim, Dpmpp2m, HEUN},
    spacing::{self, Spacing},
};

/// A table of diffusers' float32 betas, as make.py uses them.
fn golden(name: &str) -> TableSchedule {
    let betas = &table(include_str!("golden/betas.txt"))[format!("betas/{name}").as_str()];
    let betas: Vec<f64> = betas.iter().map(|&b| f64::from(b as f32)).collect();
    TableSchedule::from_betas(&betas).unwrap()
}

fn latent() -> TableSchedule {
    golden("scaled_linear").with_interpolation(Interpolation::Nsr)
}

/// Runs a plan and compares the sample, times `scale(level)`, after every step that ends at a level of
/// the original plan.
fn compare(
    case: &Case,
    plan: &Plan,
    solver: &dyn Solver<Sample>,
    kind: Parameterization,
    scale: fn(Level) -> f64,
    tolerance: f64,
) {
    let start = Sample::lin(&[(1.0 / scale(plan.start), &case.start)]);
    let mut noise = Fed(case.noise.clone());
    let model = StandIn(kind);
    let mut states = case.states.iter();
    let moments: Vec<_> = sample(plan, solver, &model, start, &mut noise).map(Result::unwrap).collect();
    for (i, moment) in moments.iter().enumerate() {
        let next = plan.moves.get(i + 1);
        let intermediate = matches!(next, Some(Move::Renoise { .. }));
        if intermediate || matches!(plan.moves[i], Move::Relabel(_)) {
            continue;
        }
        let theirs = states.next().unwrap();
        let ours = Sample::lin(&[(scale(moment.level), &moment.x)]);
        let error = distance(&ours, theirs) / theirs.rms().max(1.0);
        assert!(error < tolerance, "{} after move {i}: off by {error:e}", case.name);
    }
    assert!(states.next().is_none(), "{}: fewer steps than diffusers", case.name);
}

#[test]
fn ddpm_and_ddim_in_double_precision() {
    let linear = Arc::new(golden("linear"));
    let latent = Arc::new(latent());
    let pure = {
        // The rescaling happened in float32 there.
        let schedule = TableSchedule::scaled_linear(1000, 0.00085, 0.012).unwrap();
        Arc::new(schedule.rescale_zero_terminal_snr().unwrap())
    };
    let mut seen = 0;
    for case in cases(include_str!("golden/trajectories_f64.txt")) {
        let parts: Vec<&str> = case.name.split('/').collect();
        let n: usize = parts[parts.len() - 1].parse().unwrap();
        let leading =
            || Plan::descend(linear.clone(), &spacing::leading(1000, n, 0).unwrap(), Final::Clean).unwrap();
        let mut kind = Parameterization::Eps;
        let mut tolerance = 1e-13;
        let plan = match parts[0] {
            "ddpm" if parts[1] == "fixed_small" => leading().ancestral(1.0),
            "ddpm" => leading().fixed_large(),
            "ddim" => leading().ancestral(parts[1].parse().unwrap()),
            "ddim_latent" => {
                let times = spacing::leading(1000, n, 1).unwrap();
                Plan::descend(latent.clone(), &times, Final::Level(latent.level(0.0))).unwrap()
            }
            "ddim_strided" => {
                let times = spacing::trailing(1000, n).unwrap();
                Plan::strided(latent.clone(), &times, (1000 / n) as f64, Level::CLEAN).unwrap().ancestral(0.5)
            }
            "ddim_zero_snr" => {
                kind = if parts[1] == "sample" { Parameterization::X0 } else { Parameterization::V };
                tolerance = 1e-6;
                let times = spacing::trailing(1000, n).unwrap();
                Plan::descend(pure.clone(), &times, Final::Clean)
                    .unwrap()
                    .ancestral(parts[2].parse().unwrap())
            }
            other => panic!("unknown case {other}"),
        };
        compare(&case, &plan, &Ddim, kind, |_| 1.0, tolerance);
        seen += 1;
    }
    assert_eq!(seen, 26);
}

/// diffusers' Euler, Heun and ancestral samplers keep `x/alpha`.
fn unscale(level: Level) -> f64 {
    1.0 / level.alpha
}

#[test]
fn euler_heun_and_dpmpp_2m() {
    let schedule = Arc::new(latent());
    let mut seen = 0;
    for case in cases(include_str!("golden/trajectories_f32.txt")) {
        let parts: Vec<&str> = case.name.split('/').collect();
        let n: usize = parts[2].parse().unwrap();
        let spacing = match parts[1] {
            "leading" => Spacing::Leading { offset: 0 },
            "trailing" => Spacing::Trailing,
            "linspace" => Spacing::LinspaceFractional,
            "karras" => Spacing::Karras { rho: 7.0 },
            _ => Spacing::Linspace,
        };
        let spaced = |spacing: Spacing| {
            let mut levels = spacing.levels(&*schedule, n).unwrap();
            levels.push(Level::CLEAN);
            Plan::through(schedule.clone(), &levels).unwrap()
        };
        let eps = Parameterization::Eps;
        match parts[0] {
            "euler" => compare(&case, &spaced(spacing), &Ddim, eps, unscale, 5e-6),
            // diffusers answers twice for each step but the last: first Euler's, then Heun's.
            "heun" => compare(&halves(&case), &spaced(spacing), &HEUN, eps, unscale, 5e-6),
            "euler_ancestral" => {
                compare(&case, &spaced(spacing).ancestral(1.0), &Ddim, eps, unscale, 5e-6);
            }
            "dpmpp_2m" => {
                let times = spacing::linspace_without_cleanest(1000, n).unwrap();
                let end = match parts[1] {
                    "zero" => Final::Clean,
                    _ => Final::Level(schedule.level(0.0)),
                };
                let plan = Plan::descend(schedule.clone(), &times, end).unwrap();
                compare(&case, &plan, &Dpmpp2m::default(), eps, |_| 1.0, 5e-6);
            }
            "flow_euler" | "flow_heun" => {
                let shift: f64 = parts[1].parse().unwrap();
                let flow = Arc::new(FlowSchedule::new().with_time_scale(1000.0).unwrap());
                let last = spacing::shift(0.001, shift);
                let ramp = (0..n).map(|i| 1.0 + (last - 1.0) * i as f64 / (n - 1) as f64);
                let times: Vec<f64> = ramp.map(|s| 1000.0 * spacing::shift(s, shift)).collect();
                let plan = Plan::descend(flow, &times, Final::Clean).unwrap();
                let kind = Parameterization::Flow;
                if parts[0] == "flow_heun" {
                    compare(&halves(&case), &plan, &HEUN, kind, |_| 1.0, 5e-6);
                } else {
                    compare(&case, &plan, &Ddim, kind, |_| 1.0, 5e-6);
                }
            }
            other => panic!("unknown case {other}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 30 + 6 + 10 + 4);
}

/// Only the states after a whole step of Heun's method.
fn halves(case: &Case) -> Case {
    let last = case.states.len() - 1;
    let states = case.states.iter().enumerate().filter(|(i, _)| i % 2 == 1 || *i == last);
    Case {
        name: case.name,
        start: case.start.clone(),
        states: states.map(|(_, s)| s.clone()).collect(),
        noise: Vec::new(),
    }
}
