//! Plans with fresh noise: exact marginals, published formulas, whole distributions.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Fed, Sample, StandIn, ddpm, distance, end};
use tweedie_core::{
    Denoiser, Level, Move, NoiseSchedule, Parameterization, Plan, Vector,
    forward::{posterior, transition},
    lin,
    noise::{INITIAL, Noise, SeededNoise},
    oracle::{Gaussian, GaussianMixture},
    plan::{Churn, Final, NoiseRule, PlanError},
    sample,
    schedule::{CosineSchedule, EdmSchedule, FlowSchedule, TableSchedule, VeSchedule},
    solver::{Ddim, Dpmpp2m, HEUN, SOLVERS},
    spacing::Spacing,
};

fn schedules() -> Vec<Arc<dyn NoiseSchedule>> {
    let pure = ddpm().rescale_zero_terminal_snr().unwrap();
    vec![
        ddpm(),
        Arc::new(pure),
        Arc::new(VeSchedule::new(0.01, 50.0).unwrap()),
        Arc::new(EdmSchedule::default()),
        Arc::new(FlowSchedule::new()),
        Arc::new(CosineSchedule::new()),
    ]
}

/// The variance of the end of a plan that is linear in its samples and draws, given that of its start.
fn end_variance(plan: &Plan, model: &dyn Denoiser<Sample>, start: f64) -> f64 {
    let draws = plan.moves.iter().filter(|m| matches!(m, Move::Renoise { .. })).count();
    let run = |x: f64, hot: Option<usize>| {
        let noise = (0..draws).map(|i| vec![f64::from(u8::from(hot == Some(i)))]).collect();
        sample(plan, &Ddim, model, vec![x], &mut Fed(noise)).finish().unwrap()[0]
    };
    let rest = run(0.0, None);
    let by_noise: f64 = (0..draws).map(|i| (run(0.0, Some(i)) - rest).powi(2)).sum();
    (run(1.0, None) - rest).powi(2) * start + by_noise
}

#[test]
fn ancestral_marginals_are_exact_for_known_data() {
    // If x0 is known, every eta has the exact marginal after every step (DDIM, lemma 1).
    let point = Gaussian::new(vec![0.8], vec![0.0]).unwrap();
    for schedule in schedules() {
        let times = Spacing::Trailing.times(&*schedule, 6).unwrap();
        for eta in [0.0, 0.3, 1.0] {
            for stop in 2..=6 {
                let plan =
                    Plan::descend(schedule.clone(), &times[..stop], Final::LastTime).unwrap().ancestral(eta);
                let last = schedule.level(times[stop - 1]);
                let variance = end_variance(&plan, &point, plan.start.sigma.powi(2));
                let error = variance / last.sigma.powi(2) - 1.0;
                assert!(error.abs() < 1e-10, "eta {eta} after {stop} on {schedule:?}: {error:e}");
            }
        }
    }
}

#[test]
fn fixed_large_is_exact_for_unit_gaussian_data() {
    // Ho et al., section 3.2: beta is optimal for x0 ~ N(0, I), and every marginal is N(0, 1).
    let unit = Gaussian::new(vec![0.0], vec![1.0]).unwrap();
    let times = Spacing::Trailing.times(&*ddpm(), 6).unwrap();
    for stop in 2..=6 {
        let plan = Plan::descend(ddpm(), &times[..stop], Final::LastTime).unwrap().fixed_large();
        assert!((end_variance(&plan, &unit, 1.0) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn ancestral_steps_are_ddpms_posterior() {
    let x = vec![0.4, -1.2, 2.0];
    let z = vec![1.1, 0.2, -0.6];
    let data = Gaussian::new(vec![0.5, -1.0, 0.2], vec![0.3, 1.0, 0.02]).unwrap();
    for schedule in schedules() {
        let times = Spacing::Trailing.times(&*schedule, 50).unwrap();
        for pair in times.windows(2) {
            let plan = Plan::descend(schedule.clone(), pair, Final::LastTime).unwrap();
            let (from, to) = (schedule.level(pair[0]), schedule.level(pair[1]));
            let q = posterior(from, to);
            let p = data.denoise(&x, from).unwrap();
            let mean = q.mean(&x, &p.x0);
            let size = to.sigma.max(1.0);
            for (plan, variance) in [
                (plan.clone().ancestral(1.0), q.variance),
                (plan.clone().fixed_large(), transition(to, from).variance),
            ] {
                let ours =
                    sample(&plan, &Ddim, &data, x.clone(), &mut Fed(vec![z.clone()])).finish().unwrap();
                let theirs = lin![1.0 => &mean, variance.sqrt() => &z];
                assert!(distance(&ours, &theirs) < 1e-14 * size, "{from:?} to {to:?}");
            }
            // DDIM, eq. 16, for any eta.
            let eta = 0.6;
            let std = eta * q.variance.sqrt();
            let theirs = lin![to.alpha => &p.x0, (to.sigma.powi(2) - std * std).sqrt() => &p.eps, std => &z];
            let plan = plan.ancestral(eta);
            let ours = sample(&plan, &Ddim, &data, x.clone(), &mut Fed(vec![z.clone()])).finish().unwrap();
            assert!(distance(&ours, &theirs) < 1e-14 * size, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn ddpm_draws_from_the_data() {
    // Mean and covariance of a mixture in two dimensions, over many seeds.
    let component = |m: [f64; 2]| Gaussian::new(m.to_vec(), vec![0.04, 0.09]).unwrap();
    let data =
        GaussianMixture::new(vec![(1.0, component([-0.8, -0.5])), (3.0, component([0.6, 0.7]))]).unwrap();
    let (mean, spread) = ([0.25, 0.4], [0.36, 0.285]);
    let covariance = [0.1875 * 1.4 * 1.4 + 0.04, 0.1875 * 1.2 * 1.2 + 0.09, 0.1875 * 1.4 * 1.2];
    assert!(spread[0] < covariance[0] && spread[1] < covariance[1]);
    let times = Spacing::Trailing.times(&*ddpm(), 100).unwrap();
    for rule in [NoiseRule::Ancestral { eta: 1.0 }, NoiseRule::FixedLarge, NoiseRule::Ancestral { eta: 0.5 }]
    {
        let plan = Plan::descend(ddpm(), &times, Final::Clean).unwrap().with_noise(rule);
        let seeds = 4000;
        let mut sums = [0.0; 5];
        for seed in 0..seeds {
            let mut noise = SeededNoise(seed);
            let x = noise.normal(&vec![0.0; 2], INITIAL);
            let x = sample(&plan, &Ddim, &data, x, &mut noise).finish().unwrap();
            for (sum, term) in sums.iter_mut().zip([x[0], x[1], x[0] * x[0], x[1] * x[1], x[0] * x[1]]) {
                *sum += term / seeds as f64;
            }
        }
        let [a, b, aa, bb, ab] = sums;
        // Three standard errors are about 0.03.
        assert!((a - mean[0]).abs() < 0.03 && (b - mean[1]).abs() < 0.03, "{rule:?}: mean {a}, {b}");
        let found = [aa - a * a, bb - b * b, ab - a * b];
        assert!(distance(&found, &covariance) < 0.03, "{rule:?}: {found:?} against {covariance:?}");
    }
}

#[test]
fn churn_is_edms_algorithm_2() {
    let data = Gaussian::new(vec![0.5, -1.0], vec![0.3, 1.0]).unwrap();
    let schedule = Arc::new(EdmSchedule::default());
    let sigmas = Spacing::Karras { rho: 7.0 }.times(&*schedule, 12).unwrap();
    let churn = Churn { s_churn: 3.0, s_min: 0.05, s_max: 50.0, s_noise: 1.007 };
    let plan = Plan::descend(schedule, &sigmas, Final::Clean).unwrap().churn(churn);
    let draws: Vec<Sample> = (0..12).map(|i| SeededNoise(3).normal(&vec![0.0; 2], i)).collect();
    let mut x = vec![60.0, -20.0];
    let ours = sample(&plan, &HEUN, &data, x.clone(), &mut Fed(draws.clone())).finish().unwrap();

    let at = |sigma: f64| Level { alpha: 1.0, sigma, t: sigma };
    let slope = |x: &Sample, sigma: f64| {
        let x0 = data.denoise(x, at(sigma)).unwrap().x0;
        lin![1.0 / sigma => x, -1.0 / sigma => &x0]
    };
    let mut used = 0;
    for (i, &sigma) in sigmas.iter().enumerate() {
        let next = sigmas.get(i + 1).copied().unwrap_or(0.0);
        let mut hat = sigma;
        if (0.05..=50.0).contains(&sigma) {
            hat = sigma * (1.0 + 3.0 / 12.0);
            x = lin![1.0 => &x, 1.007 * (hat * hat - sigma * sigma).sqrt() => &draws[used]];
            used += 1;
        }
        let d = slope(&x, hat);
        let mut y = lin![1.0 => &x, next - hat => &d];
        if next > 0.0 {
            y = lin![1.0 => &x, 0.5 * (next - hat) => &d, 0.5 * (next - hat) => &slope(&y, next)];
        }
        x = y;
    }
    assert!(used > 5 && used < 12);
    assert!(distance(&ours, &x) < 1e-12, "{ours:?} against {x:?}");
}

#[test]
fn plans_begin_later() {
    let times = [999.0, 799.0, 599.0];
    let strided = Plan::strided(ddpm(), &times, 150.0, Level::CLEAN).unwrap();
    for (step, time) in times.into_iter().enumerate() {
        let plan = strided.clone().begun_at(step).unwrap();
        assert_eq!((plan.solves(), plan.start), (3 - step, ddpm().level(time)));
        assert!(matches!(plan.moves[0], Move::Solve(_)));
    }
    assert!(strided.begun_at(3).is_none());
}

#[test]
fn bad_plans_are_refused() {
    for times in [vec![10.0, 10.0], vec![1.0, f64::NAN], vec![f64::INFINITY, 1.0], vec![1.0, 2.0]] {
        let error = Plan::descend(ddpm(), &times, Final::Clean).unwrap_err();
        assert!(matches!(error, PlanError::NotDescending { .. }), "{times:?}: {error}");
    }
    assert!(matches!(Plan::descend(ddpm(), &[], Final::Clean), Err(PlanError::TooShort { levels: 1 })));
    assert!(Plan::descend(ddpm(), &[5.0], Final::LastTime).is_err());
}

#[test]
fn no_path_through_pure_noise_is_nan() {
    let kinds = [
        Parameterization::X0,
        Parameterization::V,
        Parameterization::Flow,
        Parameterization::Edm { sigma_data: 0.5 },
    ];
    let churn = Churn { s_churn: 5.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 };
    for schedule in schedules() {
        let times = Spacing::Trailing.times(&*schedule, 5).unwrap();
        let plain = Plan::descend(schedule.clone(), &times, Final::Clean).unwrap();
        let up = Move::Renoise { to: plain.start, scale: 1.0 };
        let moves = [&[up], &plain.moves[..]].concat();
        let mut plans = vec![
            plain.clone().churn(churn),
            Plan { start: Level::CLEAN, start_std: 0.0, moves, ..plain.clone() },
            plain.clone().churn(churn).ancestral(0.5),
        ];
        for rule in [
            NoiseRule::None,
            NoiseRule::Ancestral { eta: 0.5 },
            NoiseRule::Ancestral { eta: 1.0 },
            NoiseRule::FixedLarge,
        ] {
            plans.push(plain.clone().with_noise(rule));
        }
        for plan in &plans {
            for kind in kinds {
                for entry in SOLVERS {
                    let solver = entry.build::<Sample>();
                    let model = StandIn(kind);
                    let x = vec![0.3, -1.2];
                    for moment in sample(plan, &*solver, &model, x, &mut SeededNoise(0)) {
                        let x = moment.unwrap().x;
                        assert!(x.iter().all(|v| v.is_finite()), "{} {kind:?} {plan:?}", entry.name);
                    }
                }
            }
        }
    }
}

#[test]
fn noise_forgets_the_history() {
    // After fresh noise a multistep solver starts anew: the same as starting there.
    let data = Gaussian::new(vec![0.5], vec![0.3]).unwrap();
    let plan = Plan::descend(ddpm(), &[900.0, 700.0, 500.0], Final::LastTime).unwrap().ancestral(1.0);
    let moments: Vec<_> = sample(&plan, &Dpmpp2m::default(), &data, vec![1.0], &mut SeededNoise(5))
        .map(Result::unwrap)
        .collect();
    let rest = Plan::through(ddpm(), &[moments[1].level, moments[2].level]).unwrap();
    assert_eq!(end(&rest, &Dpmpp2m::default(), &data, &moments[1].x), moments[2].x);
}

#[test]
fn seeds_and_draws_are_independent() {
    let like = vec![0.0; 4];
    assert_eq!(SeededNoise(1).normal(&like, 7), SeededNoise(1).normal(&like, 7));
    assert_ne!(SeededNoise(1).normal(&like, 7), SeededNoise(1).normal(&like, 8));
    assert_ne!(SeededNoise(1).normal(&like, 0), SeededNoise(1).normal(&like, INITIAL));
    // A longer sample begins as a shorter one.
    assert_eq!(SeededNoise(1).normal(&vec![0.0; 9], 7)[..4], SeededNoise(1).normal(&like, 7));
    assert!(SeededNoise(2).normal(&vec![0.0; 10_000], 0).rms() - 1.0 < 0.05);
    assert_eq!(TableSchedule::linear(1, 0.1, 0.2).unwrap().betas(), [0.1]);
}
