//! The bound's terms and their derivatives against 40-digit arithmetic (tests/golden/bound.py).

#![allow(clippy::unwrap_used)]

use tweedie_core::{
    bound::{Bound, ReverseVariance, decoder},
    schedule::TableSchedule,
};

const GOLDEN: &str = include_str!("golden/bound.txt");

/// The lines of `kind`: words, then numbers.
fn lines(kind: &str, words: usize) -> Vec<(Vec<&'static str>, Vec<f64>)> {
    let rows = GOLDEN.lines().filter_map(|l| l.strip_prefix(kind)?.strip_prefix(' '));
    rows.map(|row| {
        let all: Vec<_> = row.split(' ').collect();
        let (names, numbers) = all.split_at(words);
        (names.to_vec(), numbers.iter().map(|v| v.parse().unwrap()).collect())
    })
    .collect()
}

/// Relative to the expected value, or to 1e-9 of `scale` where that is larger.
fn close(found: f64, expected: f64, scale: f64, tolerance: f64) -> bool {
    (found - expected).abs() <= tolerance * expected.abs().max(1e-9 * scale.abs())
}

fn bound(schedule: &str, variance: ReverseVariance) -> Bound {
    let table = match schedule {
        "linear" => TableSchedule::linear(1000, 1e-4, 0.02),
        _ => TableSchedule::squared_cosine(1000),
    };
    Bound::of(&table.unwrap(), 1000, variance).unwrap()
}

#[test]
fn the_decoder() {
    let all = lines("decoder", 0);
    assert_eq!(all.len(), 100);
    for (_, v) in all {
        let found = decoder(v[0], v[1], v[2]);
        assert!(close(found.nats, v[3], 1e-3, 1e-11), "{v:?}: {found:?}");
        assert!(close(found.d_mean, v[4], 1e-3, 1e-10), "{v:?}: {found:?}");
        assert!(close(found.d_log_variance, v[5], v[3], 1e-9), "{v:?}: {found:?}");
    }
}

#[test]
fn the_prior() {
    for (name, v) in lines("prior", 1) {
        let found = bound(name[0], ReverseVariance::FixedSmall).prior(v[0]);
        // The table's last alpha_bar is a product of a thousand factors.
        assert!(close(found, v[1], 0.0, 1e-9), "{name:?} {v:?}: {found}");
    }
}

#[test]
fn the_terms() {
    let all = lines("term", 3);
    assert_eq!(all.len(), 126);
    for (name, v) in all {
        let variance = match name[1] {
            "fixed-small" => ReverseVariance::FixedSmall,
            "fixed-large" => ReverseVariance::FixedLarge,
            _ => ReverseVariance::LearnedRange,
        };
        let found = bound(name[0], variance).term(name[2].parse().unwrap(), v[0], v[1], v[2]);
        assert!(close(found.nats, v[3], 1.0, 1e-8), "{name:?} {v:?}: {found:?}");
        assert!(close(found.d_x0, v[4], v[3], 1e-8), "{name:?} {v:?}: {found:?}");
        assert!(close(found.d_v, v[5], 1.0, 1e-7), "{name:?} {v:?}: {found:?}");
    }
}
