//! Tables of betas and spacings against diffusers (tests/golden/make.py).

#![allow(clippy::unwrap_used)]

mod common;

use common::{ddpm, distance, table};
use tweedie_core::{
    NoiseSchedule,
    schedule::{Axis, EdmSchedule, FlowSchedule, Interpolation, TableSchedule},
    spacing::{self, Spacing},
};

fn latent() -> TableSchedule {
    TableSchedule::scaled_linear(1000, 0.00085, 0.012).unwrap().with_interpolation(Interpolation::Nsr)
}

#[test]
fn betas_agree_with_diffusers_in_single_precision() {
    let golden = table(include_str!("golden/betas.txt"));
    for (name, schedule) in [
        ("linear", TableSchedule::linear(1000, 1e-4, 0.02)),
        ("scaled_linear", TableSchedule::scaled_linear(1000, 0.00085, 0.012)),
        ("squared_cosine", TableSchedule::squared_cosine(1000)),
        ("sigmoid", TableSchedule::sigmoid(1000, 1e-4, 0.02)),
    ] {
        let schedule = schedule.unwrap();
        let betas = &golden[format!("betas/{name}").as_str()];
        assert_eq!(betas.len(), 1000);
        for (t, (ours, theirs)) in schedule.betas().iter().zip(betas).enumerate() {
            assert!((ours / theirs - 1.0).abs() < 4e-7, "{name} beta[{t}]: {ours} against {theirs}");
        }
        let products = &golden[format!("alphas_cumprod/{name}").as_str()];
        for (ours, theirs) in schedule.alphas_cumprod().iter().step_by(37).zip(products) {
            // A thousand float32 roundings on their side.
            assert!((ours / theirs - 1.0).abs() < 3e-5, "{name}: {ours} against {theirs}");
        }
    }
}

#[test]
fn zero_terminal_snr_agrees_with_diffusers() {
    let golden = table(include_str!("golden/betas.txt"));
    let schedule = latent().rescale_zero_terminal_snr().unwrap();
    let theirs = &golden["alphas_cumprod/zero_snr"];
    let ours: Vec<f64> = schedule
        .alphas_cumprod()
        .iter()
        .step_by(37)
        .chain(&schedule.alphas_cumprod()[999..])
        .copied()
        .collect();
    assert!(distance(&ours, theirs) < 2e-6);
    assert_eq!((schedule.level(999.0).alpha, schedule.level(999.0).sigma), (0.0, 1.0));
}

#[test]
fn integer_spacings_are_diffusers_exactly() {
    let golden = table(include_str!("golden/spacings.txt"));
    let mut seen = 0;
    for (key, times) in &golden {
        let (kind, n) = key.rsplit_once('/').unwrap();
        let n: usize = n.parse().unwrap();
        let ours = match kind {
            "leading" => spacing::leading(1000, n, 0),
            "leading_offset" => spacing::leading(1000, n, 1),
            "trailing" => spacing::trailing(1000, n),
            "linspace" => spacing::linspace(1000, n),
            "leading_without_cleanest" => spacing::leading_without_cleanest(1000, n, 0),
            "linspace_without_cleanest" => spacing::linspace_without_cleanest(1000, n),
            _ => continue,
        };
        assert_eq!(&ours.unwrap(), times, "{key}");
        seen += 1;
    }
    assert_eq!(seen, 20 + 12 + 5);
}

#[test]
fn trailing_keeps_its_count_where_numpy_has_one_more() {
    let times = spacing::trailing(1000, 61).unwrap();
    assert_eq!((times.len(), times[0], times[60]), (61, 999.0, 15.0));
}

#[test]
fn noise_spacings_agree_with_diffusers() {
    let golden = table(include_str!("golden/spacings.txt"));
    let schedule = latent();
    let flow = FlowSchedule::new();
    for n in [1, 2, 3, 10] {
        let ours = Spacing::LinspaceFractional.times(&schedule, n).unwrap();
        assert!(distance(&ours, &golden[format!("linspace_fractional/{n}").as_str()]) < 1e-4);
    }
    for n in [2, 3, 10] {
        for (name, spacing) in [
            ("karras", Spacing::Karras { rho: 7.0 }),
            ("exponential", Spacing::Exponential),
            ("beta", Spacing::Beta { a: 0.6, b: 0.6 }),
        ] {
            let levels = spacing.levels(&schedule, n).unwrap();
            let sigmas = &golden[format!("{name}/{n}").as_str()];
            let times = &golden[format!("{name}_times/{n}").as_str()];
            assert_eq!((levels.len(), times.len()), (n, n));
            for ((level, sigma), t) in levels.iter().zip(sigmas).zip(times) {
                // diffusers rounds the ends of the range to float32.
                assert!(
                    (level.nsr() / sigma - 1.0).abs() < 3e-5,
                    "{name}/{n}: {} against {sigma}",
                    level.nsr()
                );
                assert!((level.t - t).abs() < 0.01, "{name}/{n}: {} against {t}", level.t);
            }
            let levels = spacing.levels(&flow, n).unwrap();
            let ours: Vec<f64> = levels.iter().map(|&l| Axis::Flow.coordinate(l)).collect();
            assert!(distance(&ours, &golden[format!("flow_{name}/{n}").as_str()]) < 1e-6, "{name}/{n}");
        }
    }
}

#[test]
fn spacings_are_read_with_their_parameters() {
    for (text, expected) in [
        ("karras", Spacing::Karras { rho: 7.0 }),
        ("karras=5", Spacing::Karras { rho: 5.0 }),
        ("polyexponential=2.5", Spacing::Polyexponential { rho: 2.5 }),
        ("shifted=3", Spacing::Shifted { shift: 3.0 }),
        ("leading=1", Spacing::Leading { offset: 1 }),
        ("beta=0.5, 0.7", Spacing::Beta { a: 0.5, b: 0.7 }),
    ] {
        assert_eq!(text.parse(), Ok(expected));
    }
    for text in ["karras=", "karras=0", "karras=nan", "shifted=-1", "leading=0.5", "beta=1", "cosine=1", "=1"]
    {
        assert!(text.parse::<Spacing>().is_err(), "{text}");
    }
}

#[test]
fn impossible_spacings_are_errors() {
    use spacing::SpacingError;
    let table = ddpm();
    assert_eq!(spacing::leading(1000, 0, 0), Err(SpacingError::NoSteps));
    assert_eq!(spacing::trailing(1000, 1001), Err(SpacingError::TooMany { steps: 1001, most: 1000 }));
    assert_eq!(spacing::linspace(0, 1), Err(SpacingError::TooMany { steps: 1, most: 0 }));
    assert!(matches!(spacing::leading(1000, 1000, 1), Err(SpacingError::Offset { time: 1000, .. })));
    assert!(spacing::leading_without_cleanest(1000, 1000, 0).is_err());
    for spacing in [
        Spacing::Karras { rho: 0.0 },
        Spacing::Beta { a: f64::NAN, b: 1.0 },
        Spacing::Shifted { shift: -1.0 },
    ] {
        assert!(matches!(spacing.levels(&*table, 10), Err(SpacingError::Parameter { .. })), "{spacing:?}");
        assert_eq!(spacing.levels(&*table, 0), Err(SpacingError::NoSteps));
    }
    let pure = table.rescale_zero_terminal_snr().unwrap();
    assert!(matches!(Spacing::Karras { rho: 7.0 }.levels(&pure, 10), Err(SpacingError::Range { .. })));
}

#[test]
fn intervals_are_spaced_from_their_noisiest_time() {
    let flow = FlowSchedule::new();
    let times = |spacing: Spacing| spacing.times(&flow, 4).unwrap();
    assert!(distance(&times(Spacing::Trailing), &[1.0, 0.75, 0.5, 0.25]) < 1e-15);
    assert!(distance(&times(Spacing::Leading { offset: 0 }), &[0.75, 0.5, 0.25, 0.001]) < 1e-15);
    assert!(distance(&times(Spacing::Linspace), &[1.0, 0.667, 0.334, 0.001]) < 1e-15);
    assert!(distance(&times(Spacing::Shifted { shift: 3.0 }), &[1.0, 0.9, 0.75, 0.5]) < 1e-15);
    let edm = EdmSchedule::default();
    let lambda: Vec<f64> =
        Spacing::UniformLambda.levels(&edm, 5).unwrap().into_iter().map(|l| l.lambda()).collect();
    for step in lambda.windows(2) {
        assert!((step[1] - step[0] - (80.0f64 / 0.002).ln() / 4.0).abs() < 1e-12);
    }
    // Karras et al., eq. 5, at its ends and in the middle; and with other ends.
    let karras = Spacing::Karras { rho: 7.0 };
    let sigmas = karras.times(&edm, 3).unwrap();
    let middle = (0.5 * (80f64.powf(1.0 / 7.0) + 0.002f64.powf(1.0 / 7.0))).powi(7);
    assert!(distance(&sigmas, &[80.0, middle, 0.002]) < 1e-12);
    let narrow = karras.levels_between(&edm, 2, Some(0.1), Some(10.0)).unwrap();
    assert!((narrow[0].sigma - 10.0).abs() < 1e-12 && (narrow[1].sigma - 0.1).abs() < 1e-12);
}

#[test]
fn spacings_of_papers() {
    use tweedie_core::spacing::AlignedFor;

    let schedule = latent();
    let nsrs = |spacing: Spacing, n| -> Vec<f64> {
        spacing.levels(&schedule, n).unwrap().into_iter().map(|l| l.nsr()).collect()
    };
    let (min, max) = (schedule.level(0.0).nsr(), schedule.level(999.0).nsr());
    // diffusers tells the same levels as times, rounded.
    let ten = Spacing::AlignYourSteps { model: AlignedFor::StableDiffusion };
    let times = ten.times(&schedule, 10).unwrap();
    let theirs = [999.0, 850.0, 736.0, 645.0, 545.0, 455.0, 343.0, 233.0, 124.0, 24.0];
    assert!(distance(&times, &theirs) < 2.5, "{times:?}");
    let xl = Spacing::AlignYourSteps { model: AlignedFor::StableDiffusionXl };
    let theirs = [999.0, 845.0, 730.0, 587.0, 443.0, 310.0, 193.0, 116.0, 53.0, 13.0];
    assert!(distance(&xl.times(&schedule, 10).unwrap(), &theirs) < 2.5);
    // Every second of twenty levels is one of ten; a sixth of sixty as well.
    let (ten_levels, twenty) = (nsrs(ten, 10), nsrs(ten, 20));
    for (i, level) in ten_levels.iter().enumerate() {
        assert!((twenty[2 * i] / level - 1.0).abs() < 1e-12);
    }
    let angles: Vec<f64> = nsrs(Spacing::KlOptimal, 9).iter().map(|u| u.atan()).collect();
    for pair in angles.windows(2) {
        assert!((pair[0] - pair[1] - (max.atan() - min.atan()) / 8.0).abs() < 1e-12);
    }
    let (poly, plain) = (Spacing::Polyexponential { rho: 1.0 }, Spacing::Exponential);
    assert!(distance(&nsrs(poly, 12), &nsrs(plain, 12)) < 1e-12);
    let squares = nsrs(Spacing::Polyexponential { rho: 2.0 }, 3);
    assert!(((squares[1] / min).ln() / (max / min).ln() - 0.25).abs() < 1e-12);
    assert_eq!(Spacing::SgmUniform.times(&schedule, 4).unwrap(), [999.0, 749.25, 499.5, 249.75]);
    // A flow ends in pure noise, whose angle is a right one.
    let flow = Spacing::KlOptimal.levels(&FlowSchedule::new(), 5).unwrap();
    assert_eq!((flow[0].alpha, flow[0].sigma), (0.0, 1.0));
    assert!((spacing::dynamic_shift(4096.0, (256.0, 0.5), (4096.0, 1.15)) - 1.15f64.exp()).abs() < 1e-12);
    for (name, spacing) in spacing::SPACINGS {
        assert_eq!(name.parse::<Spacing>().unwrap(), *spacing);
        for n in [1, 2, 7] {
            let levels = spacing.levels(&schedule, n).unwrap();
            assert_eq!(levels.len(), n, "{name}");
            assert!(levels.windows(2).all(|w| w[1].nsr() < w[0].nsr()), "{name}: {levels:?}");
        }
    }
}
