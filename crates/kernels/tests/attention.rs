//! Attention and its gradients compared with `f64`, over odd shapes and several blocks of keys and queries.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    attention::{Attention, Heads, backward, forward},
};

/// A view with positions before heads, or heads before positions.
fn view<'a>(a: &Attention, data: &'a [f32], positions: usize, heads_first: bool) -> Heads<'a> {
    let strides = if heads_first {
        [a.heads * positions * a.width, positions * a.width, a.width]
    } else {
        [positions * a.heads * a.width, a.width, a.heads * a.width]
    };
    Heads { data, strides }
}

/// `out, dq, dk, dv` of `[q, k, v, dy]`, all `[batch, positions, heads, width]`.
fn run(isa: Isa, a: &Attention, [q, k, v, dy]: [&[f32]; 4]) -> [Vec<f32>; 4] {
    let [q_of, dy_of] = [q, dy].map(|x| view(a, x, a.queries, false));
    let [k_of, v_of] = [k, v].map(|x| view(a, x, a.keys, false));
    let mut all = [q.len(), q.len(), k.len(), k.len()].map(|n| vec![f32::NAN; n]);
    let [y, dq, dk, dv] = &mut all;
    forward(isa, a, q_of, k_of, v_of, y);
    backward(isa, a, [q_of, k_of, v_of, dy_of], [dq, dk, dv]);
    all
}

fn reference(a: &Attention, [q, k, v, dy]: [&[f32]; 4]) -> [Vec<f64>; 4] {
    let (d, row) = (a.width, a.heads * a.width);
    let mut all = [q.len(), q.len(), k.len(), k.len()].map(|n| vec![0.0f64; n]);
    let [y, dq, dk, dv] = &mut all;
    let dot = |x: &[f32], i: usize, y: &[f32], j: usize| -> f64 {
        (0..d).map(|l| f64::from(x[i + l]) * f64::from(y[j + l])).sum()
    };
    for (b, h, t) in (0..a.batch * a.heads * a.queries)
        .map(|i| (i / a.queries / a.heads, i / a.queries % a.heads, i % a.queries))
    {
        let i = (b * a.queries + t) * row + h * d;
        let key = |s: usize| (b * a.keys + s) * row + h * d;
        let scores: Vec<f64> = (0..a.keys).map(|s| dot(q, i, k, key(s)) * f64::from(a.scale)).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|s| (s - top).exp() / sum).collect();
        let dp: Vec<f64> = (0..a.keys).map(|s| dot(dy, i, v, key(s))).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
        for s in 0..a.keys {
            let ds = p[s] * (dp[s] - mean) * f64::from(a.scale);
            for l in 0..d {
                let j = key(s) + l;
                y[i + l] += p[s] * f64::from(v[j]);
                dv[j] += p[s] * f64::from(dy[i + l]);
                dq[i + l] += ds * f64::from(k[j]);
                dk[j] += ds * f64::from(q[i + l]);
            }
        }
    }
    all
}

fn inputs(a: &Attention, size: f32) -> [Vec<f32>; 4] {
    let [queries, keys] = [a.queries, a.keys].map(|n| a.batch * n * a.heads * a.width);
    [(queries, 1, size), (keys, 2, size), (keys, 3, 1.0), (queries, 4, 1.0)]
        .map(|(n, seed, size)| numbers(n, seed).iter().map(|v| v * size).collect())
}

#[test]
fn attention_matches() {
    let shapes = [
        (1, 1, 1, 5, 3),
        (2, 3, 5, 64, 8),
        (1, 2, 64, 5, 40),
        (2, 1, 77, 77, 64),
        (1, 2, 77, 300, 40),
        (1, 1, 5, 1030, 8),
        (1, 1, 130, 520, 20),
        (1, 1, 20, 2100, 16),
        (1, 1, 16, 16, 300),
        (1, 1, 33, 1, 7),
    ];
    for (batch, heads, queries, keys, width) in shapes {
        // The second makes some softmax nearly one-hot, with scores of hundreds.
        for (size, tolerance) in [(1.0, 1e-5), (12.0, 2e-4)] {
            let a = Attention { batch, heads, queries, keys, width, scale: 1.7 / (width as f32).sqrt() };
            let [q, k, v, dy] = inputs(&a, size);
            let want = reference(&a, [&q, &k, &v, &dy]);
            every_isa(|isa| {
                let got = run(isa, &a, [&q, &k, &v, &dy]);
                for (i, name) in ["output", "dq", "dk", "dv"].iter().enumerate() {
                    // With one key, or one that outweighs the others, the gradient is mostly rounding errors.
                    if (keys > 1 && size == 1.0) || i == 0 || i == 3 {
                        // Differences of sums over the width lose precision.
                        let tolerance = if i == 0 || i == 3 { tolerance } else { 1e-4 };
                        close(&got[i], &want[i], tolerance, &format!("{name} of {a:?}, {}", isa.name()));
                    }
                }
            });
        }
    }
}

#[test]
fn rows_ignore_batch_neighbours_and_threads() {
    let a = Attention { batch: 3, heads: 2, queries: 100, keys: 300, width: 40, scale: 0.2 };
    let [q, k, v, dy] = inputs(&a, 2.0);
    every_isa(|isa| {
        let all = run(isa, &a, [&q, &k, &v, &dy]);
        let lens = [q.len(), q.len(), k.len(), k.len()].map(|n| n / a.batch);
        for b in 0..a.batch {
            let part = |x: &'_ [f32], len: usize| x[b * len..(b + 1) * len].to_vec();
            let [q, k, v, dy] = [part(&q, lens[0]), part(&k, lens[2]), part(&v, lens[2]), part(&dy, lens[0])];
            let one = run(isa, &Attention { batch: 1, ..a }, [&q, &k, &v, &dy]);
            for i in 0..4 {
                assert!(bits(&one[i]) == bits(&part(&all[i], lens[i])), "result {i} of sample {b}");
            }
            // The last queries alone, at another position in their block.
            let last = q[q.len() - 7 * a.heads * a.width..].to_vec();
            let few = Attention { batch: 1, queries: 7, ..a };
            let mut y = vec![f32::NAN; last.len()];
            let keys = [&k, &v].map(|x| view(&few, x, a.keys, false));
            forward(isa, &few, view(&few, &last, 7, false), keys[0], keys[1], &mut y);
            assert!(bits(&y) == bits(&one[0][one[0].len() - y.len()..]), "queries of sample {b}");
        }
        same_on_any_threads("attention", || run(isa, &a, [&q, &k, &v, &dy]).concat());
    });
}

#[test]
fn heads_may_lie_apart() {
    let a = Attention { batch: 2, heads: 3, queries: 9, keys: 11, width: 5, scale: 0.5 };
    let [q, k, v, dy] = inputs(&a, 1.0);
    // From [batch, positions, heads, width] to [batch, heads, positions, width].
    let swap = |x: &[f32], positions: usize| -> Vec<f32> {
        let row = a.heads * a.width;
        (0..x.len())
            .map(|i| {
                let (l, t, h) = (i % a.width, i / a.width % positions, i / a.width / positions % a.heads);
                x[(i / (positions * row) * positions + t) * row + h * a.width + l]
            })
            .collect()
    };
    every_isa(|isa| {
        let want = &run(isa, &a, [&q, &k, &v, &dy])[0];
        let [q, k, v] = [swap(&q, a.queries), swap(&k, a.keys), swap(&v, a.keys)];
        let mut y = vec![f32::NAN; q.len()];
        let [k, v] = [&k, &v].map(|x| view(&a, x, a.keys, true));
        forward(isa, &a, view(&a, &q, a.queries, true), k, v, &mut y);
        assert!(bits(&y) == bits(want), "{}", isa.name());
    });
}
