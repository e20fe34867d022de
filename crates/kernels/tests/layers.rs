//! Normalization, attention, elementwise and resampling kernels compared with `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    adamw::{Coefficients, adamw},
    attention::{self, Attention, Heads},
    elementwise,
    group_norm::{self as norm, GroupNorm},
    linear_combination, resample,
};

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn elementwise_functions() {
    for len in [1, 15, 16, 17, 1000, 40_001] {
        let (x, y) = (numbers(len, 1), numbers(len, 2));
        let x: Vec<f32> = x.iter().map(|v| v * 30.0).collect();
        every_isa(|isa| {
            let mut out = vec![f32::NAN; len];
            let each = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
                x.iter().zip(&y).map(|(&a, &b)| f(f64::from(a), f64::from(b))).collect()
            };
            elementwise::silu(isa, &x, &mut out);
            close(&out, &each(&|a, _| a * sigmoid(a)), 5e-6, "silu");
            elementwise::silu_gradient(isa, &x, &y, &mut out);
            let slope = |a: f64| sigmoid(a) * (1.0 + a * (1.0 - sigmoid(a)));
            close(&out, &each(&|a, b| b * slope(a)), 5e-6, "silu's gradient");
            elementwise::add(isa, &x, &y, &mut out);
            close(&out, &each(&|a, b| a + b), 1e-6, "add");
            let mut lerped = x.clone();
            elementwise::lerp_assign(isa, &mut lerped, &y, 0.25);
            close(&lerped, &each(&|a, b| a + 0.25 * (b - a)), 1e-6, "lerp");
            linear_combination(isa, &[(0.5, &x), (-2.0, &y), (1.5, &x)], &mut out);
            close(&out, &each(&|a, b| 2.0 * a - 2.0 * b), 1e-6, "linear combination");
        });
    }
    every_isa(|isa| {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0, -0.0, 88.0, -88.0];
        let mut out = [0.0; 9];
        elementwise::silu(isa, &x, &mut out);
        assert!(out[0].is_nan(), "NaN must not vanish");
        assert_eq!((out[1], out[3], out[5], out[7]), (f32::INFINITY, 1e30, 0.0, 88.0));
        assert!(out[4].abs() < 1e-6 && out[8].abs() < 1e-30);
    });
}

#[test]
fn channel_functions() {
    let dims @ [b, p, c] = [3, 70, 21];
    let (x, y) = (numbers(b * p * c, 1), numbers(b * p * c, 5));
    let (scale, shift) = (numbers(b * c, 2), numbers(b * c, 3));
    every_isa(|isa| {
        let mut out = vec![f32::NAN; x.len()];
        elementwise::affine_channels(isa, &x, dims, Some(&scale), Some(&shift), &mut out);
        let at = |i: usize| i / (p * c) * c + i % c;
        let want = (0..x.len()).map(|i| f64::from(x[i]) * f64::from(scale[at(i)]) + f64::from(shift[at(i)]));
        close(&out, &want.collect::<Vec<_>>(), 1e-6, "affine");
        let (mut sums, mut products) = (vec![0.0f64; b * c], vec![0.0f64; b * c]);
        for i in 0..x.len() {
            sums[at(i)] += f64::from(x[i]);
            products[at(i)] += f64::from(x[i]) * f64::from(y[i]);
        }
        let mut out = vec![f32::NAN; b * c];
        elementwise::sum_pixels(isa, &x, None, dims, &mut out);
        close(&out, &sums, 1e-5, "sum over pixels");
        elementwise::sum_pixels(isa, &x, Some(&y), dims, &mut out);
        close(&out, &products, 1e-5, "sum of products over pixels");
    });
}

#[test]
fn adamw_step() {
    let h = Coefficients {
        keep: 0.99,
        rate: 0.1,
        beta1: 0.9,
        one_minus_beta1: 0.1,
        beta2: 0.99,
        one_minus_beta2: 0.01,
        root_correction: 1.5,
        eps: 1e-3,
    };
    let len = 20_005;
    let v0: Vec<f32> = numbers(len, 4).iter().map(|v| v.abs()).collect();
    every_isa(|isa| {
        let (mut p, g, mut m, mut v) = (numbers(len, 1), numbers(len, 2), numbers(len, 3), v0.clone());
        let (p0, m0) = (p.clone(), m.clone());
        adamw(isa, &mut p, &g, &mut m, &mut v, &h);
        let all = 0..len;
        let mean = |i: usize| 0.9 * f64::from(m0[i]) + 0.1 * f64::from(g[i]);
        let square = |i: usize| 0.99 * f64::from(v0[i]) + 0.01 * f64::from(g[i]).powi(2);
        close(&m, &all.clone().map(mean).collect::<Vec<_>>(), 1e-6, "m");
        close(&v, &all.clone().map(square).collect::<Vec<_>>(), 1e-6, "v");
        let param = |i: usize| 0.99 * f64::from(p0[i]) - 0.1 * mean(i) / (square(i).sqrt() * 1.5 + 1e-3);
        close(&p, &all.map(param).collect::<Vec<_>>(), 1e-5, "parameter");
    });
}

#[test]
fn group_norm() {
    for (batch, pixels, channels, groups, silu, mean) in [
        (1, 1, 4, 2, false, 0.0),
        (2, 70, 32, 8, true, 0.0),
        (3, 9, 21, 7, true, 3.0),
        (2, 300, 48, 1, false, 300.0),
    ] {
        let n = GroupNorm { batch, pixels, channels, groups, eps: 1e-5, silu };
        let x: Vec<f32> = numbers(batch * pixels * channels, 1).iter().map(|v| v + mean).collect();
        let (w, bias, dy) = (numbers(channels, 2), numbers(channels, 3), numbers(x.len(), 4));
        let size = channels / groups;
        let members = |b: usize, g: usize| {
            (0..pixels).flat_map(move |p| (0..size).map(move |c| (b * pixels + p) * channels + g * size + c))
        };
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let (mut dw, mut db) = (vec![0.0; channels], vec![0.0; channels]);
        let count = (pixels * size) as f64;
        for (b, g) in (0..batch * groups).map(|i| (i / groups, i % groups)) {
            let mean = members(b, g).map(|i| f64::from(x[i])).sum::<f64>() / count;
            let var = members(b, g).map(|i| (f64::from(x[i]) - mean).powi(2)).sum::<f64>() / count;
            let r = 1.0 / (var + 1e-5).sqrt();
            let hat = |i: usize| (f64::from(x[i]) - mean) * r;
            let z = |i: usize| hat(i) * f64::from(w[i % channels]) + f64::from(bias[i % channels]);
            let dz = |i: usize| {
                let s = sigmoid(z(i));
                f64::from(dy[i]) * if silu { s * (1.0 + z(i) * (1.0 - s)) } else { 1.0 }
            };
            let first = members(b, g).map(|i| dz(i) * f64::from(w[i % channels])).sum::<f64>() / count;
            let second =
                members(b, g).map(|i| dz(i) * f64::from(w[i % channels]) * hat(i)).sum::<f64>() / count;
            for i in members(b, g) {
                y[i] = if silu { z(i) * sigmoid(z(i)) } else { z(i) };
                dx[i] = r * (dz(i) * f64::from(w[i % channels]) - first - hat(i) * second);
                dw[i % channels] += dz(i) * hat(i);
                db[i % channels] += dz(i);
            }
        }
        let tolerance = if mean > 100.0 { 5e-4 } else { 2e-5 };
        let run = |isa: Isa, n: &GroupNorm, x: &[f32], dy: &[f32]| {
            let (mut mean, mut rstd) = (vec![0.0; n.batch * groups], vec![0.0; n.batch * groups]);
            norm::statistics(isa, n, x, &mut mean, &mut rstd);
            let mut out = [(); 2].map(|()| vec![f32::NAN; x.len()]);
            let mut params = [(); 2].map(|()| vec![f32::NAN; channels]);
            let [y, dx] = &mut out;
            let [dw, db] = &mut params;
            norm::forward(isa, n, x, [&mean, &rstd], [&w, &bias], y);
            norm::backward(isa, n, x, dy, [&mean, &rstd], [&w, &bias], dx, [dw, db], None);
            (out, params)
        };
        every_isa(|isa| {
            let what = |name: &str| format!("{name}, {}, {n:?}", isa.name());
            let ([y1, dx1], [dw1, db1]) = run(isa, &n, &x, &dy);
            close(&y1, &y, tolerance, &what("forward"));
            if pixels * size > 2 {
                close(&dx1, &dx, tolerance, &what("input gradient"));
            }
            close(&dw1, &dw, tolerance, &what("weight gradient"));
            close(&db1, &db, tolerance, &what("bias gradient"));
            let row = pixels * channels;
            let alone = run(isa, &GroupNorm { batch: 1, ..n }, &x[..row], &dy[..row]).0;
            assert!(
                bits(&alone[0]) == bits(&y1[..row]) && bits(&alone[1]) == bits(&dx1[..row]),
                "a row alone"
            );
            same_on_any_threads("group norm", || {
                let (out, params) = run(isa, &n, &x, &dy);
                [out, params].concat().concat()
            });
        });
    }
}

#[test]
fn attention_and_gradients() {
    for (batch, heads, queries, keys, width) in
        [(1, 1, 1, 1, 1), (2, 3, 50, 37, 8), (2, 1, 64, 64, 40), (1, 2, 100, 130, 5)]
    {
        let a = Attention { batch, heads, queries, keys, width, scale: 1.7 / (width as f32).sqrt() };
        let [q, dy] = [1, 2].map(|s| numbers(batch * heads * queries * width, s));
        let [k, v] = [3, 4].map(|s| numbers(batch * heads * keys * width, s));
        // Positions before heads, as in the output.
        let view =
            |data, positions| Heads { data, strides: [positions * heads * width, width, heads * width] };
        let at = |b: usize, h: usize, t: usize, n: usize| ((b * n + t) * heads + h) * width;
        let dot = |x: &[f32], i: usize, y: &[f32], j: usize| -> f64 {
            (0..width).map(|l| f64::from(x[i + l]) * f64::from(y[j + l])).sum()
        };
        let (mut y, mut dq) = (vec![0.0; q.len()], vec![0.0; q.len()]);
        let (mut dk, mut dv) = (vec![0.0; k.len()], vec![0.0; k.len()]);
        for (b, h, t) in
            (0..batch * heads * queries).map(|i| (i / queries / heads, i / queries % heads, i % queries))
        {
            let i = at(b, h, t, queries);
            let scores: Vec<f64> =
                (0..keys).map(|s| (dot(&q, i, &k, at(b, h, s, keys)) * f64::from(a.scale)).exp()).collect();
            let sum: f64 = scores.iter().sum();
            let dp: Vec<f64> = (0..keys).map(|s| dot(&dy, i, &v, at(b, h, s, keys))).collect();
            let mean: f64 = (0..keys).map(|s| scores[s] / sum * dp[s]).sum();
            for s in 0..keys {
                let (j, p) = (at(b, h, s, keys), scores[s] / sum);
                let ds = p * (dp[s] - mean) * f64::from(a.scale);
                for l in 0..width {
                    y[i + l] += p * f64::from(v[j + l]);
                    dv[j + l] += p * f64::from(dy[i + l]);
                    dq[i + l] += ds * f64::from(k[j + l]);
                    dk[j + l] += ds * f64::from(q[i + l]);
                }
            }
        }
        every_isa(|isa| {
            let run = || {
                let [q, dy] = [&q, &dy].map(|x| view(x, queries));
                let [k, v] = [&k, &v].map(|x| view(x, keys));
                let mut all =
                    [queries, queries, keys, keys].map(|n| vec![f32::NAN; batch * heads * n * width]);
                let [y, dq, dk, dv] = &mut all;
                attention::forward(isa, &a, q, k, v, y);
                attention::backward(isa, &a, [q, k, v, dy], [dq, dk, dv]);
                all
            };
            for (got, want) in run().iter().zip([&y, &dq, &dk, &dv]) {
                if keys > 1 || want.iter().any(|v| v.abs() > 1e-9) {
                    close(got, want, 2e-5, &format!("{}, {a:?}", isa.name()));
                }
            }
            same_on_any_threads("attention", || run().concat());
        });
    }
}

#[test]
fn resampling() {
    let (batch, from, channels) = (2, [5, 6], 7);
    let x = numbers(batch * from[0] * from[1] * channels, 1);
    for to in [[10, 12], [7, 13], [5, 6]] {
        let mut y = vec![f32::NAN; batch * to[0] * to[1] * channels];
        resample::upsample(&x, batch, from, to, channels, &mut y);
        let near = |i: usize, axis: usize| i * from[axis] / to[axis];
        let source = |i: usize| {
            let (p, c) = (i / channels, i % channels);
            let (b, ty, tx) = (p / (to[0] * to[1]), p / to[1] % to[0], p % to[1]);
            ((b * from[0] + near(ty, 0)) * from[1] + near(tx, 1)) * channels + c
        };
        let dy = numbers(y.len(), 2);
        let mut want = vec![0.0; x.len()];
        for i in 0..y.len() {
            assert_eq!(y[i], x[source(i)], "target {i} of {to:?}");
            want[source(i)] += f64::from(dy[i]);
        }
        let mut dx = vec![f32::NAN; x.len()];
        resample::upsample_gradient(&dy, batch, from, to, channels, &mut dx);
        close(&dx, &want, 1e-6, "gradient of resizing");
    }
    let mut y = vec![f32::NAN; batch * 2 * 3 * channels];
    resample::avg_pool(&x, batch, from, 2, channels, &mut y);
    let dy = numbers(y.len(), 3);
    let mut dx = vec![f32::NAN; x.len()];
    resample::avg_pool_gradient(&dy, batch, from, 2, channels, &mut dx);
    let (mut want, mut want_dx) = (vec![0.0; y.len()], vec![0.0; x.len()]);
    for i in 0..y.len() {
        let (p, c) = (i / channels, i % channels);
        for t in 0..4 {
            let pixel = (p / 6 * from[0] + p / 3 % 2 * 2 + t / 2) * from[1] + p % 3 * 2 + t % 2;
            want[i] += f64::from(x[pixel * channels + c]) / 4.0;
            want_dx[pixel * channels + c] += f64::from(dy[i]) / 4.0;
        }
    }
    close(&y, &want, 1e-6, "pooling");
    close(&dx, &want_dx, 1e-6, "gradient of pooling");

    let (mut turned, mut back) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    resample::transpose(&x, [batch, 30, channels], &mut turned);
    resample::transpose(&turned, [batch, channels, 30], &mut back);
    assert!(back == x && f64s(&turned) != f64s(&x));
    let (mut joined, mut part) = (vec![0.0; 10 * 12], vec![0.0; 10 * 7]);
    resample::concatenate(&x[..70], 7, &x[70..120], 5, &mut joined);
    resample::columns(&joined, 12, 0, 7, &mut part);
    assert_eq!(part, x[..70]);
    let mut part = vec![0.0; 10 * 5];
    resample::columns(&joined, 12, 7, 5, &mut part);
    assert_eq!(part, x[70..120]);
}
