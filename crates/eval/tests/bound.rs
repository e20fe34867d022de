//! The bound of a small network compared with a computation one image and level at a time.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use tweedie_core::{
    Denoiser,
    bound::{Bound, ReverseVariance, bits_per_dim},
    noise::fill_normal,
};
use tweedie_data::Image;
use tweedie_eval::bound::{BoundError, Options, Report, Row, evaluate, ode, plot};
use tweedie_hub::{
    Extras, SchedulerConfig,
    scheduler_config::{BetaCurve, TableProcess},
};
use tweedie_models::{Conditions, NetworkDenoiser, UNet2DConfig, UNet2DModel};
use tweedie_ops::{Batch, Device, from_host};
use tweedie_pipe::{Pipeline, row_seed};

const STEPS: usize = 12;

fn device() -> Device {
    tweedie_ops::device("cpu").unwrap()
}

fn pipeline(change: impl Fn(&mut UNet2DConfig)) -> Pipeline {
    let mut config = UNet2DConfig::from_json(
        r#"{"sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "num_class_embeds": 3}"#,
    )
    .unwrap();
    change(&mut config);
    let unet = UNet2DModel::new(&config, 1, &device()).unwrap();
    let process = TableProcess {
        steps: STEPS,
        curve: BetaCurve::Linear { start: 1e-3, end: 0.5 },
        zero_terminal_snr: false,
    };
    let scheduler = SchedulerConfig::ddpm(&process, tweedie_core::Parameterization::V).unwrap();
    let extras = Extras { null_class: Some(2), ..Extras::default() };
    Pipeline::of_network(unet, scheduler, extras, &device())
}

fn rows(n: usize) -> Vec<Row> {
    let pixel = |i: usize, k: usize| ((i * 7919 + k * 104_729) % 251 + (k % 5)) as u8;
    let image = |i| Image { width: 8, height: 8, pixels: (0..192).map(|k| pixel(i, k)).collect() };
    (0..n).map(|i| Row { image: image(i), class: (i % 3 < 2).then_some(i % 2) }).collect()
}

fn run(pipeline: &Pipeline, rows: &[Row], options: &Options) -> Result<Report, BoundError> {
    evaluate(pipeline, &device(), rows, options, &mut |_, _| ControlFlow::Continue(()))
}

fn same(a: &Report, b: &Report) -> bool {
    Report { seconds: 0.0, ..a.clone() } == Report { seconds: 0.0, ..b.clone() }
}

#[test]
fn the_report_is_the_sum_of_its_terms() {
    let pipeline = pipeline(|_| ());
    let rows = rows(3);
    for clamp in [false, true] {
        let report = run(&pipeline, &rows, &Options { clamp, seed: 5, ..Options::default() }).unwrap();
        assert_eq!(report.clamp, clamp.then_some(1.0));
        let process = pipeline.scheduler().process();
        let bound = Bound::of(&*process.schedule, STEPS, ReverseVariance::FixedSmall).unwrap();
        let mut expected = [0.0; 3];
        let mut levels = [0.0; STEPS];
        for (i, row) in rows.iter().enumerate() {
            let condition = Conditions::of_classes(vec![row.class.unwrap_or(2)]);
            let network = NetworkDenoiser::new(pipeline.network(), process.parameterization, condition);
            let x0 = row.image.to_planes();
            let prior: f64 = x0.iter().map(|x| bound.prior(f64::from(*x))).sum();
            expected[0] += bits_per_dim(prior, 192) / 3.0;
            for (index, level) in bound.levels().iter().enumerate() {
                let mut eps = vec![0.0f32; 192];
                fill_normal(row_seed(5, i as u64), index as u64, &mut eps);
                let noisy =
                    |(x, e): (&f32, &f32)| (level.alpha * f64::from(*x) + level.sigma * f64::from(*e)) as f32;
                let x = from_host(x0.iter().zip(&eps).map(noisy).collect(), [1, 3, 8, 8], &device());
                let found = network.denoise(&Batch::of(x), *level).unwrap().x0.to_host();
                let term = |(x0, x0_hat): (&f32, &f32)| {
                    let hat = if clamp { x0_hat.clamp(-1.0, 1.0) } else { *x0_hat };
                    bound.term(index, f64::from(*x0), f64::from(hat), 0.0).nats
                };
                let bits = bits_per_dim(x0.iter().zip(&found).map(term).sum(), 192) / 3.0;
                expected[if index == 0 { 2 } else { 1 }] += bits;
                levels[index] += bits;
            }
        }
        let close = |a: f64, b: f64| (a - b).abs() < 1e-4 * b.abs() + 1e-12;
        assert!(close(report.prior.mean, expected[0]), "{report:?} {expected:?}");
        assert!(close(report.denoising.mean, expected[1]), "{report:?} {expected:?}");
        assert!(close(report.reconstruction.mean, expected[2]), "{report:?} {expected:?}");
        assert!(close(report.total.mean, expected.iter().sum()));
        assert_eq!(report.per_level.len(), STEPS);
        for (term, expected) in report.per_level.iter().zip(levels) {
            assert!(term.first == term.last && close(term.bits, expected), "{term:?} {expected}");
        }
    }
}

#[test]
fn a_batch_changes_nothing_and_strata_leave_the_expectation() {
    let pipeline = pipeline(|_| ());
    let rows = rows(40);
    let options = |levels, batch, seed| Options { levels, batch, seed, ..Options::default() };
    let all = run(&pipeline, &rows, &options(None, 32, 0)).unwrap();
    assert!(same(&all, &run(&pipeline, &rows, &options(None, 7, 0)).unwrap()));
    // Averaged over seeds, the error of the strata vanishes.
    let (mut mean, mut error) = (0.0, 0.0);
    for seed in 0..8 {
        let some = run(&pipeline, &rows, &options(Some(4), 64, seed)).unwrap();
        assert_eq!((some.visited, some.levels, some.per_level.len()), (4, STEPS, 4));
        mean += some.total.mean / 8.0;
        error += some.total.standard_error.unwrap() / 8.0 / 8f64.sqrt();
    }
    let error = error.hypot(all.total.standard_error.unwrap());
    assert!((mean - all.total.mean).abs() < 4.0 * error, "{mean} ± {error}, {}", all.total.mean);
}

#[test]
fn a_learned_variance_is_read_from_the_other_channels() {
    let learned = pipeline(|c| c.out_channels = 6);
    let rows = rows(4);
    let report = run(&learned, &rows, &Options::default()).unwrap();
    assert_eq!(report.variance, ReverseVariance::LearnedRange);
    let variance = Some(ReverseVariance::FixedLarge);
    let fixed = run(&learned, &rows, &Options { variance, ..Options::default() }).unwrap();
    assert_ne!(fixed.denoising, report.denoising);
    assert_eq!(fixed.prior, report.prior);
}

#[test]
fn the_ode_has_a_density_too() {
    let pipeline = pipeline(|c| c.out_channels = 6);
    let rows = rows(3);
    let run = |batch, steps| {
        let options = Options { batch, ..Options::default() };
        let on = &mut |_, _| ControlFlow::Continue(());
        ode::evaluate(&pipeline, &device(), &rows, steps, &options, on).unwrap()
    };
    let found = run(32, 4);
    assert_eq!(ode::Report { seconds: 0.0, ..found.clone() }, ode::Report { seconds: 0.0, ..run(2, 4) });
    assert_eq!((found.images, found.evaluations), (3, 17));
    assert!((found.total.mean - found.density.mean - found.reconstruction.mean).abs() < 1e-9);
    let bound = self::run(&pipeline, &rows, &Options::default()).unwrap();
    assert_eq!(found.reconstruction, bound.reconstruction, "the same decoder and the same noise");
    let fine = run(32, 24);
    assert!((run(32, 12).density.mean - fine.density.mean).abs() < 0.05, "{found:?} {fine:?}");
}

#[test]
fn the_plot_is_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bound.png");
    let report =
        run(&pipeline(|_| ()), &rows(2), &Options { levels: Some(5), ..Options::default() }).unwrap();
    plot(&report, &path).unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[1..4], b"PNG");
    let error = plot(&report, &dir.path().join("no/bound.png")).unwrap_err().to_string();
    assert!(error.contains("no/bound.png"), "{error}");
}

#[test]
fn what_does_not_fit_is_said() {
    let small = pipeline(|_| ());
    let error = |p: &Pipeline, rows: &[Row], o: &Options| run(p, rows, o).unwrap_err().to_string();
    let options = Options::default();
    assert!(error(&small, &[], &options).contains("no images"));
    let mut odd = rows(3);
    odd[2].image = Image { width: 4, height: 8, pixels: vec![0; 96] };
    assert!(error(&small, &odd, &options).contains("image 2 has 4×8 pixels, expected 8×8"));
    for levels in [Some(1), Some(13)] {
        let found = error(&small, &rows(1), &Options { levels, ..options.clone() });
        assert!(found.contains("expected 2 to 12"), "{found}");
    }
    let learned = Some(ReverseVariance::LearnedRange);
    let found = error(&small, &rows(1), &Options { variance: learned, ..options.clone() });
    assert!(found.contains("has 3 output channels") && found.contains("needs 6"), "{found}");
    let other = pipeline(|c| (c.in_channels, c.out_channels) = (2, 2));
    assert!(error(&other, &rows(1), &options).contains("has 2 input channels"));
    let mut wrong = rows(1);
    wrong[0].class = Some(7);
    assert!(error(&small, &wrong, &options).contains('7'));
    let stop = evaluate(&small, &device(), &rows(2), &options, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stop, Err(BoundError::Cancelled)));
}
