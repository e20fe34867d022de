//! A Brownian path over `lambda` that can be evaluated anywhere, in any order, without storing it: Lévy's
//! construction, `W(t) = t·z + Σ hat_jk(t)·z_jk`, whose normals `z_jk` are streams of the seed. (A Brownian
//! tree, Li et al. 2020, arXiv:2001.01328, gives the same guarantee by splitting seeds.)
//!
//! The path is piecewise linear below about 0.0005 in `lambda`; increments are scaled by their exact
//! standard deviation.

use crate::vector::Vector;

/// First stream of the path's normals, far above the counted draws.
const STREAMS: u64 = 1 << 32;
/// How often intervals are halved.
const DEPTH: u32 = 16;
/// The path covers `-SPAN..=SPAN` in `lambda` and is constant outside.
const SPAN: f64 = 16.0;

/// `(W(to) − W(from))/√Var`, a standard normal; `draw` returns the normal of a stream.
pub fn increment<V: Vector>(draw: &mut dyn FnMut(u64) -> V, from: f64, to: f64) -> V {
    let clock = |lambda: f64| (lambda.clamp(-SPAN, SPAN) + SPAN) / (2.0 * SPAN);
    let (a, b) = (clock(from), clock(to));
    let mut terms = vec![(b - a, STREAMS)];
    for level in 0..DEPTH {
        let intervals = f64::from(1 << level);
        let hat = |t: f64| {
            let k = (t * intervals).floor().min(intervals - 1.0);
            let height = 0.5 / intervals.sqrt() * (1.0 - (2.0 * (t * intervals - k) - 1.0).abs());
            (height, STREAMS + (1 << level) + k as u64)
        };
        let ((left, i), (right, j)) = (hat(a), hat(b));
        if i == j {
            terms.push((right - left, i));
        } else {
            terms.extend([(-left, i), (right, j)]);
        }
    }
    let deviation = terms.iter().map(|(c, _)| c * c).sum::<f64>().sqrt();
    if deviation == 0.0 {
        return draw(STREAMS);
    }
    let normals: Vec<(f64, V)> =
        terms.into_iter().filter(|(c, _)| *c != 0.0).map(|(c, id)| (c / deviation, draw(id))).collect();
    let terms: Vec<(f64, &V)> = normals.iter().map(|(c, v)| (*c, v)).collect();
    V::lin(&terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, SeededNoise};

    fn between(seed: u64, from: f64, to: f64) -> f64 {
        increment(&mut |draw| SeededNoise(seed).normal(&0.0, draw), from, to)
    }

    #[test]
    fn a_step_is_the_sum_of_its_parts() {
        let parts: [f64; 4] = [-2.0, -1.3, 0.1, 0.9];
        for seed in 0..20 {
            let sum: f64 = parts.windows(2).map(|w| (w[1] - w[0]).sqrt() * between(seed, w[0], w[1])).sum();
            let whole = 2.9f64.sqrt() * between(seed, -2.0, 0.9);
            assert!((sum - whole).abs() < 0.01, "{sum} {whole}");
            assert!((between(seed, -1.0, 1.0) + between(seed, 1.0, -1.0)).abs() < 1e-12);
        }
    }

    #[test]
    fn increments_are_independent_standard_normals() {
        let n = 4000;
        let (mut squares, mut product) = (0.0, 0.0);
        for seed in 0..n {
            let (a, b) = (between(seed, 0.3, 0.34), between(seed, 0.34, 0.39));
            squares += a * a;
            product += a * b;
        }
        assert!((squares / n as f64 - 1.0).abs() < 0.1);
        assert!((product / n as f64).abs() < 0.06);
    }
}
