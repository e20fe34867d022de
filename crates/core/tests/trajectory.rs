//! Trajectories that are held: interleaved, stored and resumed, they end in the same bits.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Sample, ddpm};
use tweedie_core::{
    Denoiser, Level, Plan, Poll, Trajectory,
    noise::{INITIAL, Noise, SeededNoise},
    oracle::Gaussian,
    plan::Final,
    sample,
    solver::{SOLVERS, SolverEntry},
    spacing::trailing,
    trajectory::State,
};

const STEPS: usize = 6;

fn model() -> Gaussian {
    Gaussian::new(vec![0.5, -1.0, 0.2], vec![0.3, 1.0, 0.02]).unwrap()
}

fn plan(entry: &SolverEntry) -> Arc<Plan> {
    let plan = Plan::descend(ddpm(), &trailing(1000, STEPS).unwrap(), Final::Clean).unwrap();
    Arc::new(plan.with_noise(entry.noise))
}

fn start(seed: u64) -> Sample {
    SeededNoise(seed).normal(&vec![0.0; 3], INITIAL)
}

fn held(entry: &SolverEntry, seed: u64) -> Trajectory<Sample> {
    Trajectory::new(plan(entry), entry.build().into(), start(seed), Box::new(SeededNoise(seed)))
}

/// What one denoiser and the loop over one trajectory give.
fn alone(entry: &SolverEntry, seed: u64) -> (Sample, usize) {
    let (plan, solver, model) = (plan(entry), entry.build(), model());
    let last = sample(&plan, &*solver, &model, start(seed), &mut SeededNoise(seed)).last().unwrap().unwrap();
    (last.x, last.evals)
}

#[test]
fn interleaved_trajectories_are_those_run_alone() {
    let model = model();
    let mut held: Vec<_> =
        SOLVERS.iter().enumerate().map(|(i, entry)| (entry, i as u64, held(entry, i as u64), None)).collect();
    while held.iter().any(|(.., end)| end.is_none()) {
        // As a server would: all questions first, then all predictions.
        let mut asked: Vec<(usize, Sample, Level)> = Vec::new();
        for (i, (_, _, trajectory, end)) in held.iter_mut().enumerate() {
            match trajectory.poll().unwrap() {
                Poll::Ask { x, at } => asked.push((i, x, at)),
                Poll::Moved(_) => {}
                Poll::Done(x) => *end = Some(x),
            }
        }
        for (i, x, at) in asked {
            held[i].2.answer(model.denoise(&x, at).unwrap());
        }
    }
    for (entry, seed, trajectory, end) in held {
        assert_eq!((end.unwrap(), trajectory.state().evals()), alone(entry, seed), "{}", entry.name);
    }
}

#[test]
fn a_stored_trajectory_goes_on_in_the_same_bits() {
    let model = model();
    for entry in SOLVERS {
        let (expected, evals) = alone(entry, 5);
        let mut trajectory = held(entry, 5);
        let mut turns = 0;
        let end = loop {
            match trajectory.poll().unwrap() {
                Poll::Ask { x, at } => trajectory.answer(model.denoise(&x, at).unwrap()),
                Poll::Moved(_) => {}
                Poll::Done(x) => break x,
            }
            // Stored and read back after every turn, once with a question open.
            if turns == 2 {
                trajectory.poll().unwrap();
            }
            turns += 1;
            let text = serde_json::to_string(trajectory.state()).unwrap();
            let state: State<Sample> = serde_json::from_str(&text).unwrap();
            let noise = Box::new(SeededNoise(5));
            trajectory = Trajectory::resume(plan(entry), entry.build().into(), noise, state).unwrap();
        };
        assert_eq!((end, trajectory.state().evals()), (expected, evals), "{}", entry.name);
    }
}

#[test]
fn a_state_of_another_plan_is_refused() {
    let entry = &SOLVERS[0];
    let mut trajectory = held(entry, 0);
    let model = model();
    while trajectory.state().index() < 2 {
        if let Poll::Ask { x, at } = trajectory.poll().unwrap() {
            trajectory.answer(model.denoise(&x, at).unwrap());
        }
    }
    let state = trajectory.state().clone();
    let resumed = |plan: Plan| {
        let noise = Box::new(SeededNoise(0));
        Trajectory::resume(Arc::new(plan), entry.build().into(), noise, state.clone())
            .err()
            .map(|e| e.to_string())
    };
    let plan = |steps| Plan::descend(ddpm(), &trailing(1000, steps).unwrap(), Final::Clean).unwrap();
    assert_eq!(resumed(plan(STEPS)), None);
    assert!(resumed(plan(STEPS + 1)).unwrap().contains("after 2 moves"));
    assert!(resumed(plan(1)).unwrap().contains("2 moves, but its plan has 1"));
}
