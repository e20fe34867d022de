//! Scores compared with scikit-learn, pytorch-fid, prdc and torch-fidelity. `goldens/make_metrics.py` made the file.

#![allow(clippy::unwrap_used)]

mod formula;

use formula::uniform;
use serde_json::Value;
use tweedie_eval::metrics::{
    Features, MetricError, Moments, frechet, inception, kernel,
    manifold::{nearest, shares},
};

fn goldens() -> Value {
    serde_json::from_str(include_str!("goldens/metrics.json")).unwrap()
}

/// Each feature adds half of the previous value.
fn raw(name: &str, n: usize, dim: usize, scale: f64, shift: f64) -> Vec<f32> {
    let x: Vec<f64> = uniform(name, n * dim).collect();
    let value = |(i, x0): (usize, &f64)| {
        let before = if i % dim == 0 { 0.0 } else { x[i - 1] };
        (scale * (x0 + 0.5 * before) + shift) as f32
    };
    x.iter().enumerate().map(value).collect()
}

fn features(name: &str, n: usize, dim: usize, scale: f64, shift: f64) -> Features {
    Features::new(dim, raw(name, n, dim, scale, shift)).unwrap()
}

fn close(found: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance * expected.abs(), "{what}: {found}, expected {expected}");
}

#[test]
fn sets_score_as_the_peers_say() {
    for set in goldens()["sets"].as_array().unwrap() {
        let name = set["name"].as_str().unwrap();
        let number = |key: &str| set[key].as_u64().unwrap() as usize;
        let (n, m, dim) = (number("n"), number("m"), number("dim"));
        let a = features(&format!("{name}.a"), n, dim, 1.0, 0.0);
        let b = features(
            &format!("{name}.b"),
            m,
            dim,
            set["scale"].as_f64().unwrap(),
            set["shift"].as_f64().unwrap(),
        );
        let fid = frechet::fid(&a, &Moments::of(&b)).unwrap();
        close(fid.value, &set["fid"], 1e-9, name);
        assert!(fid.standard_error.unwrap() > 0.0);
        let back = frechet::distance(&Moments::of(&b), &Moments::of(&a)).unwrap();
        close(back, &set["fid"], 1e-9, "the other way round");
        // The products of pairs are those of the engine, in f32.
        let discrepancy = kernel::squared_discrepancy(&a, &b).unwrap();
        assert!((discrepancy - set["discrepancy"].as_f64().unwrap()).abs() < 1e-6, "{name}: {discrepancy}");
        for k in [3, 5] {
            let expected = &set[format!("prdc{k}")];
            let found = shares(&a, &b, k).unwrap();
            for (key, score) in [
                ("precision", found.precision),
                ("recall", found.recall),
                ("density", found.density),
                ("coverage", found.coverage),
            ] {
                close(score.value, &expected[key], 1e-12, key);
                assert!(score.standard_error.unwrap() > 0.0);
            }
        }
        let found = nearest(&a, &b).unwrap();
        for (found, expected) in found.iter().zip(set["nearest"].as_array().unwrap()) {
            assert_eq!(found.index as u64, expected[0].as_u64().unwrap());
            close(found.distance, &expected[1], 1e-9, "distance");
        }
    }
}

#[test]
fn inception_scores() {
    for set in goldens()["probabilities"].as_array().unwrap() {
        let (n, classes) = (set["n"].as_u64().unwrap() as usize, set["classes"].as_u64().unwrap() as usize);
        let logits = raw(set["name"].as_str().unwrap(), n, classes, 1.0, 0.0);
        let rows = logits.chunks_exact(classes).flat_map(|row| {
            let e: Vec<f64> = row.iter().map(|v| (4.0 * f64::from(*v)).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |v| (v / sum) as f32)
        });
        let p = Features::new(classes, rows.collect()).unwrap();
        close(inception::inception_score_in(&p, 1).unwrap().value, &set["score"], 1e-6, "one part");
        let parts = inception::inception_score(&p).unwrap();
        assert!(parts.value > 1.0 && parts.standard_error.unwrap() > 0.0);
    }
}

/// Far from zero, in pieces of any size.
#[test]
fn moments_add_up_without_cancelling() {
    let (n, dim) = (1300, 5);
    let (near, far) = (features("m", n, dim, 1.0, 0.0), features("m", n, dim, 1.0, 4096.0));
    let whole = Moments::of(&near);
    let mut pieces = Moments::new(dim);
    for piece in near.values().chunks(7 * dim) {
        pieces.push(&Features::new(dim, piece.to_vec()).unwrap()).unwrap();
    }
    assert_eq!(pieces.count(), n);
    for (a, b) in pieces.covariance().iter().zip(whole.covariance()) {
        assert!((a - b).abs() < 1e-14, "{a} {b}");
    }
    // f32 has 12 fractional bits there.
    for (a, b) in Moments::of(&far).covariance().iter().zip(whole.covariance()) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    assert!(frechet::distance(&whole, &pieces).unwrap() < 1e-9);
}

#[test]
fn many_pictures_are_scored_in_blocks() {
    let (a, b) = (features("u", 10_100, 3, 1.0, 0.0), features("v", 11_000, 3, 1.1, 0.1));
    let blocks = kernel::kid(&a, &b).unwrap();
    assert_eq!(blocks.blocks, Some([10, 1000]));
    let [low, high] = blocks.score.interval().unwrap();
    assert!(low > 0.0, "{low} {high}");
    let some = |set: &Features| Features::new(3, set.values()[..3 * 3000].to_vec()).unwrap();
    let [least, most] = kernel::kid(&some(&a), &some(&b)).unwrap().score.interval().unwrap();
    assert!(least < high && low < most, "{low} {high}, of some {least} {most}");
}

/// Intervals are correct: over many pairs of sets from one distribution, KID is 0 on average and its interval nearly always
/// contains 0; FID varies by its standard error.
#[test]
fn errors_are_as_large_as_they_claim() {
    let sets: Vec<Features> = (0..60).map(|i| features(&format!("s{i}"), 200, 4, 1.0, 0.0)).collect();
    let held = sets.chunks_exact(2).filter(|pair| {
        let kid = kernel::kid(&pair[0], &pair[1]).unwrap();
        assert_eq!(kid.blocks, None);
        kid.score.interval().is_some_and(|[low, high]| low < 0.0 && 0.0 < high)
    });
    assert!((24..=30).contains(&held.count()));

    let data = Moments::of(&features("data", 3000, 4, 1.5, 0.3));
    let scores: Vec<_> = sets.iter().map(|s| frechet::fid(s, &data).unwrap()).collect();
    let mean = scores.iter().map(|s| s.value).sum::<f64>() / 60.0;
    let spread = (scores.iter().map(|s| (s.value - mean).powi(2)).sum::<f64>() / 59.0).sqrt();
    let claimed = scores.iter().map(|s| s.standard_error.unwrap()).sum::<f64>() / 60.0;
    assert!((0.7..1.4).contains(&(claimed / spread)), "{claimed} claimed, {spread} found");
}

#[test]
fn the_order_of_rows_and_the_threads_matter_little_or_nothing() {
    let (a, b) = (features("o", 300, 12, 1.0, 0.0), features("p", 260, 12, 1.2, 0.1));
    let all = || {
        let fid = frechet::fid(&a, &Moments::of(&b)).unwrap();
        (fid, kernel::kid(&a, &b).unwrap(), shares(&a, &b, 3).unwrap())
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(all);
    let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap().install(all);
    assert_eq!(one, three);
    let turned: Vec<f32> = a.values().chunks_exact(12).rev().flatten().copied().collect();
    let turned = frechet::fid(&Features::new(12, turned).unwrap(), &Moments::of(&b)).unwrap();
    assert!((turned.value - one.0.value).abs() < 1e-12);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let (a, b) = (features("a", 30, 8, 1.0, 0.0), features("b", 40, 9, 1.0, 0.0));
    let dimension = MetricError::Dimension { found: 8, expected: 9 };
    assert_eq!(frechet::fid(&a, &Moments::of(&b)), Err(dimension.clone()));
    assert!(matches!(kernel::kid(&a, &b), Err(MetricError::Dimension { .. })));
    assert_eq!(nearest(&a, &b), Err(dimension));
    let few = features("c", 8, 8, 1.0, 0.0);
    let refused = frechet::fid(&few, &Moments::of(&a)).unwrap_err();
    assert_eq!(refused, MetricError::Singular { found: 8, dim: 8 });
    assert!(refused.to_string().contains("8 images for 8"), "{refused}");
    assert_eq!(frechet::fid(&a, &Moments::of(&few)).unwrap_err(), refused);
    assert!(kernel::kid(&few, &a).unwrap_err().to_string().contains("KID needs at least 20"));
    assert!(matches!(shares(&few, &a, 8), Err(MetricError::TooFew { least: 9, .. })));
    assert!(matches!(Features::new(3, vec![0.0; 4]), Err(MetricError::Ragged { .. })));
    assert_eq!(
        Features::new(2, vec![0.0, 1.0, f32::NAN, 0.0]),
        Err(MetricError::NotFinite { row: 1, feature: 0 })
    );
    assert_eq!(inception::inception_score(&a), Err(MetricError::Probabilities { row: 0 }));
}
