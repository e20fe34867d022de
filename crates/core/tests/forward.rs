//! Schedules, the forward process, its posterior and the parameterizations.

#![allow(clippy::unwrap_used)]

mod common;

use common::{ddpm, distance};
use tweedie_core::{
    Level, NoiseSchedule, Parameterization, Vector,
    forward::{noised, posterior, posterior_eps, renoised, transition},
    schedule::{
        CosineSchedule, EdmSchedule, FlowSchedule, Interpolation, ScheduleError, TableSchedule, VeSchedule,
    },
};

fn schedules() -> Vec<Box<dyn NoiseSchedule>> {
    let table = TableSchedule::scaled_linear(1000, 0.00085, 0.012).unwrap();
    vec![
        Box::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap()),
        Box::new(TableSchedule::squared_cosine(100).unwrap()),
        Box::new(TableSchedule::sigmoid(1000, 1e-4, 0.02).unwrap()),
        Box::new(table.rescale_zero_terminal_snr().unwrap()),
        Box::new(table),
        Box::new(VeSchedule::default()),
        Box::new(EdmSchedule::default()),
        Box::new(FlowSchedule::new()),
        Box::new(FlowSchedule::new().with_shift(3.0).unwrap().with_time_scale(1000.0).unwrap()),
        Box::new(CosineSchedule::new()),
        Box::new(CosineSchedule::new().with_scale(2.0).unwrap().with_time_scale(1000.0).unwrap()),
    ]
}

/// Times across a schedule, its ends among them.
fn times(schedule: &dyn NoiseSchedule) -> Vec<f64> {
    let times = schedule.times();
    (0..=40).map(|i| times.min() + (times.max() - times.min()) * f64::from(i) / 40.0).collect()
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1e-3)
}

#[test]
fn levels_invert_and_grow_noisier() {
    for schedule in schedules() {
        let mut before = -1.0;
        for t in times(&*schedule) {
            let level = schedule.level(t);
            assert!(level.nsr() > before, "{schedule:?} at {t}");
            before = level.nsr();
            assert_eq!(schedule.level(level.t), level, "{schedule:?} at {t}");
            for back in [schedule.at_nsr(level.nsr()), schedule.at_lambda(level.lambda())] {
                assert!(close(back.alpha, level.alpha, 1e-9), "{schedule:?} at {t}: {back:?}");
                assert!(close(back.sigma, level.sigma, 1e-9), "{schedule:?} at {t}: {back:?}");
                let span = schedule.times().max();
                assert!(close(back.t / span, level.t / span, 1e-9), "{schedule:?} at {t}: {back:?}");
            }
        }
        for t in [f64::NEG_INFINITY, -1.0, f64::INFINITY] {
            let level = schedule.level(t);
            assert!(level.alpha.is_finite() && level.sigma.is_finite() && level.t.is_finite());
        }
        assert!(schedule.at_nsr(0.0).is_clean());
        let _ = schedule.level(f64::NAN);
    }
}

#[test]
fn every_process_keeps_its_form() {
    for (schedule, form) in schedules().iter().zip([0, 0, 0, 0, 0, 1, 1, 2, 2, 0, 0]) {
        for t in times(&**schedule) {
            let l = schedule.level(t);
            for l in [l, schedule.at_nsr(1.3 * l.nsr())] {
                let invariant = match form {
                    0 => l.alpha.hypot(l.sigma),
                    1 => l.alpha,
                    _ => l.alpha + l.sigma,
                };
                assert!((invariant - 1.0).abs() < 1e-14, "{schedule:?} at {t}: {l:?}");
            }
        }
    }
}

#[test]
fn tables_interpolate_as_told() {
    let table = TableSchedule::linear(1000, 1e-4, 0.02).unwrap();
    let bar = table.alphas_cumprod();
    let half = table.level(300.5);
    assert!(close(half.alpha.powi(2), (bar[300] * bar[301]).sqrt(), 1e-13));
    let table = table.clone().with_interpolation(Interpolation::Nsr);
    let nsr = |t: f64| table.level(t).nsr();
    assert!(close(nsr(300.25), 0.75 * nsr(300.0) + 0.25 * nsr(301.0), 1e-13));
    let between = table.at_nsr((nsr(300.0) * nsr(301.0)).sqrt());
    assert!(close(between.t, 300.5, 1e-10));
    let pure = table.rescale_zero_terminal_snr().unwrap();
    assert!(close(pure.level(998.25).alpha, 0.75 * pure.level(998.0).alpha, 1e-13));
}

#[test]
fn bad_tables_are_refused() {
    assert_eq!(TableSchedule::from_betas(&[]), Err(ScheduleError::Empty));
    assert_eq!(TableSchedule::linear(0, 1e-4, 0.02), Err(ScheduleError::Empty));
    assert_eq!(TableSchedule::squared_cosine(0), Err(ScheduleError::Empty));
    for (betas, index) in [([0.0, 0.5], 0), ([0.1, 1.5], 1), ([1.0, 0.5], 0)] {
        assert!(
            matches!(TableSchedule::from_betas(&betas), Err(ScheduleError::Beta { index: i, .. }) if i == index)
        );
    }
    assert!(TableSchedule::from_betas(&[f64::NAN]).is_err());
    assert!(TableSchedule::linear(10, 0.02, f64::INFINITY).is_err());
    assert!(TableSchedule::scaled_linear(10, -1.0, 0.02).is_err());
    assert!(TableSchedule::from_betas(&[0.1]).unwrap().rescale_zero_terminal_snr().is_err());
    assert!(matches!(
        TableSchedule::from_alphas_cumprod(&[0.9, 0.9]),
        Err(ScheduleError::AlphaBar { index: 1, .. })
    ));
    let one = TableSchedule::from_betas(&[0.1]).unwrap();
    assert_eq!(one.level(7.0).t, 0.0);
    assert!(EdmSchedule::new(1.0, 1.0).is_err() && VeSchedule::new(0.0, 1.0).is_err());
    assert!(FlowSchedule::new().with_shift(0.0).is_err());
    let table = TableSchedule::linear(50, 1e-3, 0.2).unwrap();
    let again = TableSchedule::from_alphas_cumprod(table.alphas_cumprod()).unwrap();
    assert!(distance(again.betas(), table.betas()) < 1e-14);
}

#[test]
fn step_by_step_is_the_closed_form() {
    // x_t = Π √(1 − beta_s)·x0 + noise, one table entry at a time.
    let table = ddpm();
    let (mut keep, mut variance) = (1.0, 0.0);
    for (t, beta) in table.betas().iter().enumerate() {
        keep *= (1.0 - beta).sqrt();
        variance = (1.0 - beta) * variance + beta;
        let level = table.level(t as f64);
        assert!(close(keep, level.alpha, 1e-12) && close(variance.sqrt(), level.sigma, 1e-12));
        if t > 0 {
            let step = transition(table.level(t as f64 - 1.0), level);
            assert!((step.keep - (1.0 - beta).sqrt()).abs() < 1e-13);
            assert!((step.variance - beta).abs() < 1e-13);
        }
    }
    // Any stops on the way lead to the same marginal, in every process.
    for schedule in schedules() {
        let levels: Vec<Level> = times(&*schedule).into_iter().map(|t| schedule.level(t)).collect();
        for (i, &u) in levels.iter().enumerate() {
            let first = transition(Level::CLEAN, u);
            assert!(close(first.keep, u.alpha, 1e-13) && close(first.variance.sqrt(), u.sigma, 1e-13));
            for (j, &s) in levels.iter().enumerate().skip(i) {
                for &t in &levels[j..] {
                    let (a, b, whole) = (transition(u, s), transition(s, t), transition(u, t));
                    assert!(close(a.keep * b.keep, whole.keep, 1e-12) || s.alpha == 0.0);
                    let variance = b.keep * b.keep * a.variance + b.variance;
                    assert!(close(variance.sqrt(), whole.variance.sqrt(), 1e-12), "{schedule:?}");
                }
            }
        }
    }
}

#[test]
fn posterior_is_bayes_rule() {
    let (x0, x) = (0.7, -1.3);
    for schedule in schedules() {
        let levels: Vec<Level> = times(&*schedule).into_iter().map(|t| schedule.level(t)).collect();
        for (i, &to) in levels.iter().enumerate().filter(|(_, l)| !l.is_clean()) {
            for &from in &levels[i + 1..] {
                let q = transition(to, from);
                let precision = 1.0 / to.sigma.powi(2) + q.keep.powi(2) / q.variance;
                let mean = (to.alpha * x0 / to.sigma.powi(2) + q.keep * x / q.variance) / precision;
                let p = posterior(from, to);
                assert!(close(p.variance, 1.0 / precision, 1e-11), "{schedule:?}: {from:?} to {to:?}");
                assert!(close(p.mean(&x, &x0), mean, 1e-11), "{schedule:?}: {from:?} to {to:?}");
                if from.alpha > 0.0 {
                    let (cx, ceps) = posterior_eps(from, to);
                    let eps = (x - from.alpha * x0) / from.sigma;
                    assert!((cx * x + ceps * eps - mean).abs() < 1e-12 * cx);
                }
            }
        }
    }
    let done = posterior(schedules()[0].level(500.0), Level::CLEAN);
    assert_eq!((done.x0, done.x, done.variance), (1.0, 0.0, 0.0));
}

#[test]
fn samples_are_noised_in_closed_form() {
    let (x0, eps) = (vec![1.0, -2.0, 0.5], vec![0.3, 0.1, -0.7]);
    let level = ddpm().level(123.4);
    let x = noised(&x0, &eps, level);
    assert!(distance(&x, &renoised(&x0, &eps, Level::CLEAN, level, 1.0)) < 1e-15);
    assert!((x[1] - (level.alpha * -2.0 + level.sigma * 0.1)).abs() < 1e-15);
}

#[test]
fn what_is_trained_is_what_is_read() {
    let kinds = [
        Parameterization::Eps,
        Parameterization::X0,
        Parameterization::V,
        Parameterization::Flow,
        Parameterization::Edm { sigma_data: 0.5 },
    ];
    let (x0, eps) = (vec![1.0, -0.4, 0.02], vec![-0.8, 1.7, 0.3]);
    for schedule in schedules() {
        for t in times(&*schedule) {
            let at = schedule.level(t);
            let x = noised(&x0, &eps, at);
            for kind in kinds {
                let target = kind.target(&x0, &eps, at);
                assert!(target.iter().all(|v| v.is_finite()), "{kind:?} at {at:?}");
                let p = kind.read(&x, &target, at);
                let again = noised(&p.x0, &p.eps, at);
                if at.alpha == 0.0 && kind == Parameterization::Eps {
                    continue;
                }
                assert!(distance(&again, &x) < 1e-12 * x.rms().max(1.0), "{kind:?} at {at:?}");
                let answers = p.x0.iter().chain(&p.eps);
                assert!(answers.clone().all(|v| v.is_finite()), "{kind:?} at {at:?}");
                // Rounding grows where one of the two hardly shows in x.
                let (a, b) = (1e-14 * (1.0 + at.nsr()), 1e-14 * (1.0 + 1.0 / at.nsr()));
                assert!(distance(&p.x0, &x0) < 100.0 * a || at.alpha == 0.0, "{kind:?} at {at:?}");
                assert!(distance(&p.eps, &eps) < 100.0 * b || at.is_clean(), "{kind:?} at {at:?}");
                // x0 = c_skip·x + c_out·F.
                let s = kind.scalings(at);
                let x0 = Vec::lin(&[(s.c_skip, &x), (s.c_out, &target)]);
                assert!(distance(&x0, &p.x0) < 1e-12, "{kind:?} at {at:?}");
            }
        }
    }
}

#[test]
fn edm_scalings_are_the_papers() {
    let (sigma, data): (f64, f64) = (3.0, 0.5);
    let at = Level { alpha: 1.0, sigma, t: sigma };
    let s = Parameterization::Edm { sigma_data: data }.scalings(at);
    let root = (sigma * sigma + data * data).sqrt();
    assert!((s.c_skip - data * data / (sigma * sigma + data * data)).abs() < 1e-15);
    assert!((s.c_out - sigma * data / root).abs() < 1e-15);
    assert!((s.c_in - 1.0 / root).abs() < 1e-15);
    assert!((s.c_noise - sigma.ln() / 4.0).abs() < 1e-15);
    // The same network on a variance-preserving sample is shown the same input.
    let vp = Level::variance_preserving(sigma, 0.0);
    let t = Parameterization::Edm { sigma_data: data }.scalings(vp);
    assert!((t.c_in * vp.alpha - s.c_in).abs() < 1e-15 && (t.c_out - s.c_out).abs() < 1e-15);
}
