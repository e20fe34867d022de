//! Solvers as weights, and weights that are learned, on exact denoisers.

#![allow(clippy::unwrap_used)]

use std::{ops::ControlFlow, sync::Arc};

use tweedie_core::{
    Denoiser, Level, Plan,
    noise::{INITIAL, Noise, SeededNoise},
    oracle::{Gaussian, GaussianMixture},
    plan::Final,
    sample,
    schedule::{NoiseSchedule, TableSchedule},
    solver::{Bespoke, SOLVERS, solver},
    spacing::Spacing,
    tune::{self, Case, Options},
};

fn schedule() -> Arc<TableSchedule> {
    Arc::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap())
}

fn plan(steps: usize) -> Plan {
    let schedule = schedule();
    let mut levels = Spacing::Karras { rho: 7.0 }.levels(&*schedule, steps).unwrap();
    levels.push(Level::CLEAN);
    Plan::through(schedule, &levels).unwrap()
}

fn mixture() -> GaussianMixture {
    let part = |x: f64, y: f64, v: f64| (1.0, Gaussian::new(vec![x, y], vec![v, 2.0 * v]).unwrap());
    GaussianMixture::new(vec![part(1.0, 0.3, 0.1), part(-0.7, 0.8, 0.2), part(-0.2, -1.0, 0.15)]).unwrap()
}

fn starts(seeds: std::ops::Range<u64>) -> Vec<Vec<f64>> {
    seeds.map(|seed| SeededNoise(seed).normal(&vec![0.0; 2], INITIAL)).collect()
}

fn end(plan: &Plan, name: &str, start: &[f64]) -> Vec<f64> {
    let solver = solver::<Vec<f64>>(name).unwrap();
    sample(plan, &*solver, &mixture(), start.to_vec(), &mut SeededNoise(0)).finish().unwrap()
}

fn cases<'a>(model: &'a dyn Denoiser<Vec<f64>>, starts: &[Vec<f64>]) -> Vec<Case<'a, Vec<f64>>> {
    let fine = Plan::descend(schedule(), &(0..1000).rev().map(f64::from).collect::<Vec<_>>(), Final::Clean);
    let fine = fine.unwrap();
    let solver = solver::<Vec<f64>>("dpmpp-3m").unwrap();
    let case = |noise: &Vec<f64>| {
        let mut seed = SeededNoise(0);
        let way = sample(&fine, &*solver, model, noise.clone(), &mut seed);
        let way: Vec<_> = way.map(|moment| moment.unwrap().x).collect();
        let (target, path) = way.split_last().unwrap();
        let path = std::iter::once(noise).chain(path).cloned().collect();
        Case { noise: noise.clone(), model, path, target: target.clone() }
    };
    starts.iter().map(case).collect()
}

/// Where [`cases`] know their paths.
fn levels() -> Vec<Level> {
    (0..1000).rev().map(|t| schedule().level(f64::from(t))).collect()
}

#[test]
fn weights_read_off_make_the_same_trajectory() {
    let plan = plan(7);
    let start = &starts(3..4)[0];
    let mut read = 0;
    for entry in SOLVERS.iter().filter(|s| s.is_deterministic() && !s.is_cfgpp() && !s.adaptive) {
        let Ok(bespoke) = Bespoke::of(&plan, &*entry.build()) else {
            assert!(entry.evaluations > 1 || entry.name == "pndm" || entry.name == "plms", "{}", entry.name);
            continue;
        };
        read += 1;
        let own = bespoke.plan(schedule()).unwrap();
        assert_eq!(own.moves, plan.moves);
        let found = sample(&own, &bespoke, &mixture(), start.clone(), &mut SeededNoise(0)).finish().unwrap();
        for (a, b) in found.iter().zip(end(&plan, entry.name, start)) {
            assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{}: {a} {b}", entry.name);
        }
    }
    assert!(read > 15, "{read}");
}

#[test]
fn what_is_no_sum_of_answers_is_refused() {
    let reason =
        |plan: &Plan, name: &str| Bespoke::of(plan, &*solver(name).unwrap()).unwrap_err().to_string();
    assert!(reason(&plan(5), "heun").contains("9 evaluations in 5 steps"));
    assert!(reason(&plan(5), "dpmpp-2m-sde").contains("noise"));
    assert!(reason(&plan(5).ancestral(1.0), "ddim").contains("step down"));
    let good = Bespoke::of(&plan(3), &*solver("ddim").unwrap()).unwrap();
    let bad = |change: fn(&mut Bespoke)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.check().unwrap_err().to_string()
    };
    assert_eq!(bad(|b| b.weights[1].clear()), "weights[1]: found 0, expected 3");
    assert!(bad(|b| b.weights[2][0] = f64::NAN).contains("weights[2]: expected finite"));
    assert!(bad(|b| b.levels.swap(0, 2)).contains("levels[1]"));
    assert!(bad(|b| b.levels.clear()).contains("expected at least one"));
    assert!(bad(|b| b.start_std = 0.0).contains("start_std = 0"));
}

/// A tenth of the error, on starts that were not learned from.
#[test]
fn learning_beats_what_it_begins_from() {
    let model = mixture();
    let (seen, unseen) = (cases(&model, &starts(0..128)), cases(&model, &starts(1000..1128)));
    let first = Bespoke::of(&plan(5), &*solver("dpmpp-2m").unwrap()).unwrap();
    let learn = |iterations: usize| {
        let options = Options { iterations, ..Options::default() };
        tune::refine(&first, &*schedule(), &seen, &options, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let (learned, train) = learn(8);
    let [before, after] = [&first, &learned].map(|s| tune::error(s, &unseen).unwrap());
    assert!(after < 0.1 * before && train < after * 1.3, "{before} {after} {train}");
    assert_eq!(learn(8).0, learned, "the same again");
    assert_eq!(learn(0).0.levels.len(), 5);
    learned.check().unwrap();
}

/// A tenth of the error of the best solvers that are not learned, on starts that were not learned from, and the less
/// the more evaluations there are.
#[test]
fn a_search_beats_solvers_that_are_not_learned() {
    let model = mixture();
    let (seen, unseen) = (cases(&model, &starts(0..64)), cases(&model, &starts(1000..1128)));
    let find = |evaluations: usize| {
        tune::search(&levels(), evaluations, &seen, 8, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let mut before = f64::INFINITY;
    for evaluations in [3, 5, 7] {
        let (found, train) = find(evaluations);
        found.check().unwrap();
        let reached = tune::error(&found, &unseen).unwrap();
        let untuned = ["dpmpp-2m", "dpmpp-3m", "unipc", "ipndm", "deis"].map(|name| {
            let untuned = Bespoke::of(&plan(evaluations), &*solver(name).unwrap()).unwrap();
            tune::error(&untuned, &unseen).unwrap()
        });
        let untuned = untuned.into_iter().fold(f64::INFINITY, f64::min);
        assert!(reached < 0.15 * untuned && reached < 0.5 * before, "{evaluations}: {reached} {untuned}");
        assert!((train / tune::error(&found, &seen).unwrap() - 1.0).abs() < 1e-9);
        assert!(train < 1.5 * reached && reached < 1.5 * train, "{train} {reached}");
        before = reached;
    }
    assert_eq!(find(3), find(3), "the same again");
    let failed = tune::search(&levels()[..2], 3, &seen, 8, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(failed.to_string().contains("3 evaluations"), "{failed}");
}

/// Where nothing is to be gained, the weights are the exact solution's: that of one Gaussian is linear in the start.
#[test]
fn one_gaussian_is_solved_by_one_evaluation() {
    let model = Gaussian::new(vec![0.0, 0.0], vec![0.3, 0.3]).unwrap();
    let fine = Plan::through(schedule(), &[levels(), vec![Level::CLEAN]].concat()).unwrap();
    let solver = solver::<Vec<f64>>("dpmpp-3m").unwrap();
    let case = |noise: &Vec<f64>| {
        let target = sample(&fine, &*solver, &model, noise.clone(), &mut SeededNoise(0)).finish().unwrap();
        Case { noise: noise.clone(), model: &model as &dyn Denoiser<_>, path: vec![noise.clone()], target }
    };
    let seen: Vec<_> = starts(0..8).iter().map(case).collect();
    let (_, error) = tune::search(&levels()[..1], 1, &seen, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(error < 1e-4, "{error}");
}

#[test]
fn stopping_keeps_what_was_reached() {
    let model = mixture();
    let seen = cases(&model, &starts(0..32));
    let first = Bespoke::of(&plan(4), &*solver("ddim").unwrap()).unwrap();
    let before = tune::error(&first, &seen).unwrap();
    let mut told = 0;
    let (_, error) = tune::refine(&first, &*schedule(), &seen, &Options::default(), &mut |progress| {
        told += 1;
        if progress.iterations > 2.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert!(error < before && told > 3, "{error} {before} {told}");
    let stop = |at: f64| {
        tune::search(&levels(), 4, &seen, 8, &mut |progress| match progress.iterations >= at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    };
    let [early, late] = [1.0, 3.0].map(|at| stop(at).unwrap().1);
    assert!(late < early, "{late} {early}");
    // Before there are as many levels as asked for, there is nothing to keep.
    assert!(matches!(stop(0.5), Err(tweedie_core::Halt::Cancelled)));
}
