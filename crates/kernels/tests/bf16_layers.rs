//! `bf16` conversions, norms, attention and elementwise operations compared with `f64`.

mod common;

use common::{numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    bf16::{
        Bf16,
        attention::{self, Attention, Heads},
        convert::{self, round},
        elementwise,
        group_norm::{self, Affine, GroupNorm},
        layer_norm::{self, LayerNorm},
        resample,
    },
};

fn instruction_sets() -> Vec<Isa> {
    let mut all = Isa::available();
    all.push(all[0].without_extensions());
    all
}

fn halves(len: usize, seed: u64) -> Vec<Bf16> {
    numbers(len, seed).into_iter().map(round).collect()
}

fn f64s(x: &[Bf16]) -> Vec<f64> {
    x.iter().map(|v| v.to_f64()).collect()
}

/// Asserts that `got` is `want` rounded, after an allowed error of `slack` plus a relative 2⁻¹².
#[track_caller]
fn rounded(got: &[Bf16], want: &[f64], slack: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g.to_f64() - w).abs();
        let bound = w.abs() * (2f64.powi(-8) + 1.01 * 2f64.powi(-12)) + slack;
        assert!(error <= bound, "{what}: element {i}: {g} for {w}");
    }
}

#[test]
fn conversions() {
    let mut x = Vec::new();
    for upper in 0..=u16::MAX {
        for lower in [0u32, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
            x.push(f32::from_bits((u32::from(upper) << 16) | lower));
        }
    }
    x.push(1.0);
    for v in &x {
        let normal = v.is_normal() || *v == 0.0 || v.is_infinite();
        let half = round(*v);
        if normal {
            assert_eq!(half.to_bits(), Bf16::from_f32(*v).to_bits(), "{v:e}");
        } else if v.is_nan() {
            assert!(half.is_nan(), "{v}");
        } else {
            assert_eq!(half.to_bits(), Bf16::from_f32(0f32.copysign(*v)).to_bits(), "{v:e}");
        }
    }
    for isa in instruction_sets() {
        let mut narrow = vec![Bf16::NAN; x.len()];
        convert::from_f32(isa, &x, &mut narrow);
        for (v, n) in x.iter().zip(&narrow) {
            assert_eq!(n.to_bits(), round(*v).to_bits(), "{v:e} {:x} on {}", v.to_bits(), isa.name());
        }
        let mut back = vec![0.0f32; x.len()];
        convert::to_f32(isa, &narrow, &mut back);
        for (b, n) in back.iter().zip(&narrow) {
            assert_eq!(b.to_bits(), u32::from(n.to_bits()) << 16, "{n}");
        }
    }
}

#[test]
fn group_norms() {
    for (batch, pixels, channels, groups) in [(1, 1, 2, 1), (2, 35, 12, 3), (3, 300, 64, 32), (2, 17, 70, 7)]
    {
        let n = GroupNorm { batch, pixels, channels, groups, eps: 1e-5, silu: true };
        let len = batch * pixels * channels;
        let x: Vec<Bf16> = numbers(len, 1).into_iter().map(|v| round(3.0 + v)).collect();
        let (weight, bias) = (numbers(channels, 2), numbers(channels, 3));
        let (scale, shift) = (numbers(batch * channels, 4), numbers(batch * channels, 5));
        for with_scale in [false, true] {
            let size = channels / groups;
            let mut want = vec![0.0; len];
            for b in 0..batch {
                for g in 0..groups {
                    let places = || {
                        (0..pixels * size).map(move |i| {
                            let c = g * size + i % size;
                            ((b * pixels + i / size) * channels + c, c)
                        })
                    };
                    let count = (pixels * size) as f64;
                    let mean = places().map(|(i, _)| x[i].to_f64()).sum::<f64>() / count;
                    let variance = places().map(|(i, _)| (x[i].to_f64() - mean).powi(2)).sum::<f64>() / count;
                    for (i, c) in places() {
                        let mut z = (x[i].to_f64() - mean) / (variance + 1e-5).sqrt() * f64::from(weight[c])
                            + f64::from(bias[c]);
                        if with_scale {
                            let at = b * channels + c;
                            z = z * (1.0 + f64::from(scale[at])) + f64::from(shift[at]);
                        }
                        want[i] = z / (1.0 + (-z).exp());
                    }
                }
            }
            let scale_shift = with_scale.then_some([&scale[..], &shift[..]]);
            let affine = Affine { weight: &weight, bias: &bias, scale_shift };
            for isa in instruction_sets() {
                let mut out = vec![Bf16::NAN; len];
                group_norm::forward(isa, &n, &x, affine, &mut out);
                rounded(&out, &want, 2e-5, &format!("{n:?} on {}", isa.name()));
                let mut precise = vec![f32::NAN; len];
                group_norm::forward(isa, &n, &x, affine, &mut precise);
                common::close(&precise, &want, 5e-5, "f32 output");
                same_on_any_threads("group norm", || {
                    let mut out = vec![f32::NAN; len];
                    group_norm::forward(isa, &n, &x, affine, &mut out);
                    out
                });
                let last = (batch - 1) * pixels * channels;
                let one = GroupNorm { batch: 1, ..n };
                let mut alone = vec![f32::NAN; pixels * channels];
                let part = |v: &'static str, all: &[f32]| (v, all[(batch - 1) * channels..].to_vec());
                let (scale, shift) = (part("scale", &scale).1, part("shift", &shift).1);
                let scale_shift = with_scale.then_some([&scale[..], &shift[..]]);
                group_norm::forward(isa, &one, &x[last..], Affine { scale_shift, ..affine }, &mut alone);
                assert!(common::bits(&alone) == common::bits(&precise[last..]), "a sample alone");
            }
        }
    }
}

#[test]
fn layer_norms() {
    for (rows, channels) in [(1, 1), (3, 16), (70, 37), (5, 320)] {
        let n = LayerNorm { rows, channels, eps: 1e-5 };
        let x: Vec<Bf16> = numbers(rows * channels, 1).into_iter().map(|v| round(2.0 + v)).collect();
        let (weight, bias) = (numbers(channels, 2), numbers(channels, 3));
        let mut want = Vec::new();
        for row in f64s(&x).chunks(channels) {
            let mean = row.iter().sum::<f64>() / channels as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
            for (c, v) in row.iter().enumerate() {
                let z = (v - mean) / (variance + 1e-5).sqrt();
                want.push(z * f64::from(weight[c]) + f64::from(bias[c]));
            }
        }
        for isa in instruction_sets() {
            let mut out = vec![Bf16::NAN; x.len()];
            layer_norm::forward(isa, &n, &x, Some(&weight), Some(&bias), &mut out);
            rounded(&out, &want, 2e-5, &format!("{n:?} on {}", isa.name()));
        }
    }
}

#[test]
fn elementwise_operations() {
    for len in [0, 1, 15, 16, 33, 5000] {
        let (x, y) = (halves(len, 1), halves(len, 2));
        let x: Vec<Bf16> = x.iter().map(|v| round(8.0 * v.to_f32())).collect();
        let (a, b) = (f64s(&x), f64s(&y));
        let of = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>();
        for isa in instruction_sets() {
            let mut out = vec![Bf16::NAN; len];
            elementwise::silu(isa, &x, &mut out);
            rounded(&out, &of(&|a, _| a / (1.0 + (-a).exp())), 1e-38, "silu");
            let mut same = x.clone();
            elementwise::silu_mut(isa, &mut same);
            assert!(same == out, "silu in place");
            elementwise::gelu(isa, &x, &mut out);
            let mut want = vec![0.0f32; len];
            let wide: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
            tweedie_kernels::elementwise::gelu(isa, &wide, &mut want);
            rounded(&out, &want.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), 1e-30, "gelu");
            // Two halves of rows of several widths.
            for width in [1, 7, len / 2].into_iter().filter(|w| *w > 0 && len.is_multiple_of(2 * w)) {
                let (mut gated, mut want) = (vec![Bf16::NAN; len / 2], vec![0.0f32; len / 2]);
                elementwise::geglu(isa, width, &x, &mut gated);
                tweedie_kernels::geglu::geglu(isa, width, &wide, &mut want);
                rounded(&gated, &want.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), 1e-30, "geglu");
            }
            elementwise::add(isa, &x, &y, &mut out);
            rounded(&out, &of(&|a, b| a + b), 0.0, "sum");
            let mut sum = x.clone();
            elementwise::add_assign(isa, &mut sum, &y);
            assert!(sum == out, "sum in place");
            elementwise::multiply(isa, &x, &y, &mut out);
            rounded(&out, &of(&|a, b| a * b), 1e-38, "product");
            elementwise::blend(isa, &x, 0.25, &y, -1.5, &mut out);
            rounded(&out, &of(&|a, b| 0.25 * a - 1.5 * b), 1e-6, "blend");
        }
    }
}

#[test]
fn numbers_per_channel() {
    let dims @ [batch, pixels, channels] = [2, 37, 70];
    let x = halves(batch * pixels * channels, 1);
    let (scale, shift) = (numbers(batch * channels, 2), numbers(batch * channels, 3));
    for isa in instruction_sets() {
        for (scale, shift) in [(Some(&scale), Some(&shift)), (None, Some(&shift)), (Some(&scale), None)] {
            let mut want = Vec::new();
            for (i, v) in x.iter().enumerate() {
                let at = i / (pixels * channels) * channels + i % channels;
                let [a, b] =
                    [scale.map_or(1.0, |s| f64::from(s[at])), shift.map_or(0.0, |s| f64::from(s[at]))];
                want.push(v.to_f64() * a + b);
            }
            let mut out = vec![Bf16::NAN; x.len()];
            let [scale, shift] = [scale, shift].map(|v| v.map(Vec::as_slice));
            elementwise::affine_channels(isa, &x, dims, scale, shift, &mut out);
            rounded(&out, &want, 1e-6, "scale and shift");
        }
    }
}

#[test]
fn copies() {
    let (x, y) = (halves(5 * 3, 1), halves(5 * 4, 2));
    let mut both = vec![Bf16::NAN; 5 * 7];
    resample::concatenate(&x, 3, &y, 4, &mut both);
    let (mut a, mut b) = (vec![Bf16::NAN; 5 * 3], vec![Bf16::NAN; 5 * 4]);
    resample::columns(&both, 7, 0, 3, &mut a);
    resample::columns(&both, 7, 3, 4, &mut b);
    assert!(a == x && b == y, "columns of a concatenation");

    let (batch, size, channels) = (2, [3, 5], 20);
    let x = halves(batch * 15 * channels, 3);
    let mut twice = vec![Bf16::NAN; 4 * x.len()];
    resample::upsample(&x, batch, size, [6, 10], channels, &mut twice);
    for (i, v) in twice.iter().enumerate() {
        let (pixel, c) = (i / channels, i % channels);
        let (b, oy, ox) = (pixel / 60, pixel / 10 % 6, pixel % 10);
        assert_eq!(*v, x[((b * 3 + oy / 2) * 5 + ox / 2) * channels + c]);
    }
    for isa in instruction_sets() {
        let mut back = vec![Bf16::NAN; x.len()];
        resample::avg_pool(isa, &twice, batch, [6, 10], 2, channels, &mut back);
        assert!(back == x, "means of equal numbers");
    }
}

fn attend(a: Attention) {
    let row = a.heads * a.width;
    // Queries apart; keys and values as the parts of one fused projection.
    let q = halves(a.batch * a.queries * row, 1);
    let kv = halves(a.batch * a.keys * 2 * row, 2);
    let queries = Heads { data: &q, strides: [a.queries * row, a.width, row] };
    let strides = [a.keys * 2 * row, a.width, 2 * row];
    let (keys, values) = (Heads { data: &kv, strides }, Heads { data: &kv[row..], strides });
    let (mut want, mut sizes) = (vec![0.0; q.len()], vec![0.0; q.len()]);
    for (b, h, i) in (0..a.batch * a.heads * a.queries)
        .map(|t| (t / (a.heads * a.queries), t / a.queries % a.heads, t % a.queries))
    {
        let number = |x: &Heads<'_>, p: usize, j: usize| {
            x.data[b * x.strides[0] + h * x.strides[1] + p * x.strides[2] + j].to_f64()
        };
        let score = |p: usize| {
            let dot: f64 = (0..a.width).map(|j| number(&queries, i, j) * number(&keys, p, j)).sum();
            (dot * f64::from(a.scale)).exp()
        };
        let scores: Vec<f64> = (0..a.keys).map(score).collect();
        let total: f64 = scores.iter().sum();
        for j in 0..a.width {
            let at = (b * a.queries + i) * row + h * a.width + j;
            for (p, score) in scores.iter().enumerate() {
                want[at] += score / total * number(&values, p, j);
                sizes[at] += score / total * number(&values, p, j).abs();
            }
        }
    }
    for isa in instruction_sets() {
        let run = || {
            let mut out = vec![Bf16::NAN; q.len()];
            attention::forward(isa, &a, queries, keys, values, &mut out);
            out.iter().map(|v| v.to_f32()).collect::<Vec<_>>()
        };
        for (i, (g, w)) in run().iter().zip(&want).enumerate() {
            // Weights and the result are rounded; exponentials and their sum have errors of 2⁻¹³ each.
            let bound = sizes[i] * (2f64.powi(-8) + 2f64.powi(-11)) + w.abs() * 2f64.powi(-8) + 1e-6;
            let error = (f64::from(*g) - w).abs();
            assert!(error <= bound, "{a:?} on {}: element {i}: {g} for {w}", isa.name());
        }
        same_on_any_threads("attention", run);
    }
}

#[test]
fn attentions() {
    let base = Attention { batch: 2, heads: 3, queries: 5, keys: 70, width: 20, scale: 0.3 };
    attend(base);
    attend(Attention { keys: 1, width: 1, ..base });
    attend(Attention { keys: 77, width: 7, queries: 50, scale: 2.0, ..base });
    attend(Attention { keys: 256, width: 64, queries: 49, heads: 1, scale: 0.125, ..base });
    attend(Attention { keys: 33, width: 40, queries: 1, scale: -0.5, ..base });
    attend(Attention { keys: 1100, width: 34, queries: 30, batch: 1, heads: 1, scale: 0.0 });
}
