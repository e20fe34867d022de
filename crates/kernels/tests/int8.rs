//! Linear maps and convolutions with integers of eight bits against their definitions.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    conv::{self, Conv, Epilogue, Input},
    int8::{Direct, Kernels, Linear},
    maps::Maps,
};

/// Every instruction set, and the best one without its extensions.
fn sets() -> Vec<Isa> {
    let mut all = Isa::available();
    all.push(all[0].without_extensions());
    all
}

fn scale(row: &[f32], most: f32) -> (f32, f32) {
    let largest = row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    if largest == 0.0 { (0.0, 0.0) } else { (largest / most, most / largest) }
}

fn quantized(row: &[f32], most: f32) -> (Vec<i64>, f64) {
    let (s, inverse) = scale(row, most);
    (row.iter().map(|v| (v * inverse).round_ties_even() as i64).collect(), f64::from(s))
}

/// `Σ q·q` of rows and columns, times their scales.
fn defined(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    let columns: Vec<_> = w.chunks_exact(k).map(|row| quantized(row, 63.0)).collect();
    let rows = x.chunks_exact(k).map(|row| quantized(row, 127.0));
    let product = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>() as f64;
    rows.flat_map(|(q, s)| columns.iter().map(move |(w, t)| product(&q, w) * s * t).collect::<Vec<_>>())
        .collect()
}

#[test]
fn linear_maps_are_sums_of_integers() {
    for (m, k, n) in [(1, 1, 1), (5, 7, 3), (12, 16, 32), (13, 33, 17), (97, 65, 49), (130, 300, 96)] {
        let (x, w, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
        let residual = numbers(m * n, 4);
        let plain = defined(&x, &w, k);
        let joined: Vec<f64> = plain
            .iter()
            .enumerate()
            .map(|(i, v)| v + f64::from(bias[i % n]) + f64::from(residual[i]))
            .collect();
        for isa in sets() {
            let what = format!("{m}x{k}x{n}, {}, vnni {}", isa.name(), isa.has_vnni());
            let linear = Linear::new(isa, &w, n, k);
            let mut out = vec![f32::NAN; m * n];
            linear.forward(&x, Epilogue::default(), &mut out);
            close(&out, &plain, 1e-6, &what);
            linear.forward(&x, Epilogue { bias: Some(&bias), residual: Some(&residual) }, &mut out);
            close(&out, &joined, 1e-6, &what);
        }
    }
}

#[test]
fn the_largest_products_fit() {
    let (m, k, n) = (5, 1030, 40);
    let x: Vec<f32> = (0..m * k).map(|i| if i / k % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let w: Vec<f32> = (0..n * k).map(|i| if i / k % 3 == 0 { -2.0 } else { 2.0 }).collect();
    let want: Vec<f64> = (0..m * n).map(|i| f64::from(x[i / n * k] * w[i % n * k]) * k as f64).collect();
    for isa in sets() {
        let mut out = vec![f32::NAN; m * n];
        Linear::new(isa, &w, n, k).forward(&x, Epilogue::default(), &mut out);
        close(&out, &want, 1e-6, isa.name());
    }
}

#[test]
fn linear_maps_are_close_to_those_in_f32() {
    let (m, k, n) = (64, 320, 128);
    let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
    let exact =
        |i: usize, j: usize| (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l])).sum::<f64>();
    let want: Vec<f64> = (0..m * n).map(|at| exact(at / n, at % n)).collect();
    let rms = |v: &mut dyn Iterator<Item = f64>| (v.map(|v| v * v).sum::<f64>() / (m * n) as f64).sqrt();
    let mut out = vec![0.0; m * n];
    Linear::new(Isa::active(), &w, n, k).forward(&x, Epilogue::default(), &mut out);
    let error = rms(&mut out.iter().zip(&want).map(|(a, b)| f64::from(*a) - b));
    // Uniform errors of half a step, relative to uniform values: 1/127 and 1/63 over √3·√12/2.
    assert!(error < 0.012 * rms(&mut want.iter().copied()), "error {error}");
}

#[test]
fn two_parts_are_read_as_one() {
    let (m, k, first, n) = (21, 70, 41, 50);
    let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
    let part = |from: usize, to: usize| -> Vec<f32> {
        x.chunks_exact(k).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let (a, b) = (part(0, first), part(first, k));
    let shift = numbers(3 * n, 3);
    let epilogue = Epilogue { bias: Some(&shift), residual: None };
    for isa in sets() {
        let linear = Linear::new(isa, &w, n, k);
        let (mut whole, mut parts) = (vec![0.0; m * n], vec![0.0; m * n]);
        linear.forward(&x, epilogue, &mut whole);
        linear.forward(Maps::two(&a, &b, k - first), epilogue, &mut parts);
        assert!(bits(&whole) == bits(&parts), "{}", isa.name());
        let plain = defined(&x, &w, k);
        let want: Vec<f64> =
            plain.iter().enumerate().map(|(i, v)| v + f64::from(shift[i / n / 7 * n + i % n])).collect();
        close(&whole, &want, 1e-6, isa.name());
    }
}

#[test]
fn a_row_is_the_same_in_every_batch_and_on_any_threads() {
    let (k, n) = (70, 130);
    let (x, w) = (numbers(300 * k, 1), numbers(n * k, 2));
    every_isa(|isa| {
        let linear = Linear::new(isa, &w, n, k);
        let run = |x: &[f32]| {
            let mut out = vec![0.0; x.len() / k * n];
            linear.forward(x, Epilogue::default(), &mut out);
            out
        };
        let all = run(&x);
        for i in [0, 95, 299] {
            assert!(bits(&run(&x[i * k..(i + 1) * k])) == bits(&all[i * n..(i + 1) * n]), "row {i}");
        }
        same_on_any_threads("linear map", || run(&x));
    });
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (m, k, n) = (6, 40, 20);
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = numbers(m * k, 1);
        x[2 * k + 17] = odd;
        x[4 * k..5 * k].fill(0.0);
        for isa in sets() {
            let mut out = vec![0.0; m * n];
            Linear::new(isa, &numbers(n * k, 2), n, k).forward(&x, Epilogue::default(), &mut out);
            for (row, out) in out.chunks_exact(n).enumerate() {
                assert!(out.iter().all(|v| v.is_nan() == (row == 2)), "row {row}: {out:?}");
            }
            assert!(out[4 * n..5 * n].iter().all(|v| *v == 0.0));
        }
    }
}

fn layer(batch: usize, size: [usize; 2], channels: [usize; 2], kernel: usize, stride: usize) -> Conv {
    Conv {
        batch,
        size,
        in_channels: channels[0],
        out_channels: channels[1],
        kernel: [kernel; 2],
        stride: [stride; 2],
        pad_before: [kernel / 2; 2],
        pad_after: [kernel / 2; 2],
        dilation: [1; 2],
        groups: 1,
    }
}

/// The same bits as from the weights that the eight bits stand for.
#[test]
fn convolutions_read_their_weights_from_bytes() {
    for c in [
        layer(2, [9, 7], [33, 35], 3, 1),
        layer(1, [4, 4], [40, 64], 3, 1),
        layer(3, [16, 16], [130, 17], 3, 1),
        layer(2, [8, 8], [32, 48], 3, 2),
        layer(1, [6, 5], [20, 20], 5, 1),
    ] {
        let [x, w, y] = c.lens();
        let (x, w, bias) = (numbers(x, 1), numbers(w, 2), numbers(c.batch * c.out_channels, 3));
        let residual = numbers(y, 4);
        let row = w.len() / c.out_channels;
        every_isa(|isa| {
            let kernels = Kernels::new(isa, &w, c.out_channels);
            for (of, (w, own)) in w.chunks_exact(row).zip(kernels.widened().chunks_exact(row)).enumerate() {
                let (q, s) = quantized(w, 127.0);
                let want: Vec<f64> = q.iter().map(|q| *q as f64 * s).collect();
                close(own, &want, 1e-6, &format!("weights of channel {of}"));
            }
            let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
            let (mut out, mut want) = (vec![f32::NAN; y], vec![f32::NAN; y]);
            kernels.forward(isa, &c, Input::from(&x[..]), epilogue, &mut out);
            conv::forward_with(isa, &c, Input::from(&x[..]), &kernels.widened(), epilogue, &mut want);
            assert!(bits(&out) == bits(&want), "{}, {c:?}", isa.name());
        });
    }
}

/// The pixel that an output at `at` meets under tap `t`, along one dimension.
fn met(c: &Conv, i: usize, at: usize, t: usize) -> Option<usize> {
    let place = (at * c.stride[i] + t * c.dilation[i]).checked_sub(c.pad_before[i])?;
    (place < c.size[i]).then_some(place)
}

/// The convolution of the numbers that the bytes of pixels and weights stand for.
fn convolved(c: &Conv, x: &[f32], w: &[f32]) -> Vec<f64> {
    let ([h, w_], [oh, ow], [kh, kw]) = (c.size, c.out_size(), c.kernel);
    let (k, taps) = (c.in_channels, kh * kw);
    let pixels: Vec<Vec<f64>> = x
        .chunks_exact(k)
        .map(|pixel| {
            let (low, high) = pixel.iter().fold((0.0f32, 0.0f32), |(a, b), v| (a.min(*v), b.max(*v)));
            let (s, inverse) = scale(&[high - low], 254.0);
            let zero = (-low * inverse).round_ties_even();
            let byte = |v: &f32| ((v * inverse).round_ties_even() + zero).clamp(0.0, 255.0);
            pixel.iter().map(|v| f64::from(s) * f64::from(byte(v) - zero)).collect()
        })
        .collect();
    let kernels: Vec<Vec<f64>> = (0..c.out_channels * taps)
        .map(|i| {
            let (output, tap) = (i / taps, i % taps);
            let row: Vec<f32> = (0..k).map(|j| w[(output * k + j) * taps + tap]).collect();
            let (q, s) = quantized(&row, 127.0);
            q.iter().map(|q| *q as f64 * s).collect()
        })
        .collect();
    let mut out = Vec::new();
    for at in 0..c.batch * oh * ow {
        let (sample, y, x) = (at / (oh * ow), at / ow % oh, at % ow);
        for output in 0..c.out_channels {
            let mut sum = 0.0;
            for tap in 0..taps {
                if let (Some(y), Some(x)) = (met(c, 0, y, tap / kw), met(c, 1, x, tap % kw)) {
                    let pixel = &pixels[(sample * h + y) * w_ + x];
                    sum += pixel.iter().zip(&kernels[output * taps + tap]).map(|(a, b)| a * b).sum::<f64>();
                }
            }
            out.push(sum);
        }
    }
    out
}

fn exact_sets() -> Vec<Isa> {
    sets().into_iter().filter(|isa| Direct::serves(*isa)).collect()
}

#[test]
fn convolutions_of_bytes_are_sums_of_integers() {
    assert!(!exact_sets().is_empty());
    for c in [
        layer(2, [9, 7], [33, 35], 3, 1),
        layer(1, [4, 4], [40, 64], 3, 1),
        layer(3, [10, 16], [130, 17], 3, 1),
        layer(2, [8, 8], [32, 48], 3, 2),
        layer(1, [6, 5], [20, 20], 5, 1),
        layer(1, [6, 5], [20, 20], 1, 2),
        Conv { dilation: [2, 1], pad_after: [0, 2], ..layer(1, [7, 6], [12, 5], 3, 1) },
    ] {
        let [x, w, y] = c.lens();
        let (mut x, w) = (numbers(x, 1), numbers(w, 2));
        // As after SiLU: hardly anything below zero; and one pixel of zeros.
        x.iter_mut().for_each(|v| *v = v.max(-0.2));
        x[..c.in_channels].fill(0.0);
        let (bias, residual) = (numbers(c.batch * c.out_channels, 3), numbers(y, 4));
        let plain = convolved(&c, &x, &w);
        let per_sample = y / c.batch;
        let joined: Vec<f64> = (0..y)
            .map(|i| {
                let bias = bias[i / per_sample * c.out_channels + i % c.out_channels];
                plain[i] + f64::from(bias) + f64::from(residual[i])
            })
            .collect();
        for isa in exact_sets() {
            let direct = Direct::new(isa, &w, c.out_channels, c.kernel);
            let mut out = vec![f32::NAN; y];
            direct.forward(&c, Input::from(&x[..]), Epilogue::default(), &mut out);
            close(&out, &plain, 1e-6, &format!("{}, {c:?}", isa.name()));
            let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
            direct.forward(&c, Input::from(&x[..]), epilogue, &mut out);
            close(&out, &joined, 1e-6, &format!("{}, {c:?}", isa.name()));
        }
    }
}

#[test]
fn the_largest_products_of_bytes_fit() {
    let c = layer(1, [3, 3], [1030, 20], 3, 1);
    let [x, w, y] = c.lens();
    let (x, w) = (vec![1.0f32; x], vec![-2.0f32; w]);
    let taps = |at: usize| f64::from([2, 3, 2][at / 3]) * f64::from([2, 3, 2][at % 3]);
    let want: Vec<f64> = (0..y).map(|i| -2.0 * 1030.0 * taps(i / c.out_channels)).collect();
    for isa in exact_sets() {
        let mut out = vec![f32::NAN; y];
        let direct = Direct::new(isa, &w, c.out_channels, c.kernel);
        direct.forward(&c, Input::from(&x[..]), Epilogue::default(), &mut out);
        close(&out, &want, 1e-6, isa.name());
    }
}

#[test]
fn convolutions_of_bytes_read_two_maps_and_small_ones() {
    let c = layer(2, [6, 8], [70, 50], 3, 1);
    let (pixels, first) = (2 * 6 * 8, 41);
    let (x, w) = (numbers(pixels * 70, 1), numbers(c.lens()[1], 2));
    let part = |from: usize, to: usize| -> Vec<f32> {
        x.chunks_exact(70).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let (a, b) = (part(0, first), part(first, 70));
    let small = numbers(pixels / 4 * 70, 3);
    let mut large = vec![0.0; pixels * 70];
    for (at, to) in large.chunks_exact_mut(70).enumerate() {
        let (sample, y, x) = (at / 48, at / 8 % 6, at % 8);
        to.copy_from_slice(&small[((sample * 3 + y / 2) * 4 + x / 2) * 70..][..70]);
    }
    for isa in exact_sets() {
        let direct = Direct::new(isa, &w, c.out_channels, c.kernel);
        let run = |x: Input<'_>| {
            let mut out = vec![0.0; pixels * c.out_channels];
            direct.forward(&c, x, Epilogue::default(), &mut out);
            bits(&out)
        };
        assert!(run(Input::from(&x[..])) == run(Maps::two(&a, &b, 70 - first).into()), "{}", isa.name());
        assert!(run(Input::from(&large[..])) == run(Input::doubled(&small[..])), "{}", isa.name());
    }
}

#[test]
fn a_map_of_bytes_is_the_same_in_every_batch_and_on_any_threads() {
    let c = layer(3, [9, 11], [70, 130], 3, 1);
    let one = Conv { batch: 1, ..c };
    let [x, w, y] = c.lens();
    let (x, w) = (numbers(x, 1), numbers(w, 2));
    for isa in exact_sets() {
        let direct = Direct::new(isa, &w, c.out_channels, c.kernel);
        let run = |c: &Conv, x: &[f32]| {
            let mut out = vec![0.0; c.lens()[2]];
            direct.forward(c, Input::from(x), Epilogue::default(), &mut out);
            out
        };
        let all = run(&c, &x);
        let third = run(&one, &x[2 * x.len() / 3..]);
        assert!(bits(&third) == bits(&all[2 * y / 3..]), "{}", isa.name());
        same_on_any_threads("convolution of bytes", || run(&c, &x));
    }
}

#[test]
fn what_is_not_finite_stays_with_the_outputs_that_meet_it() {
    let c = layer(1, [5, 5], [20, 12], 3, 1);
    let [x, w, _] = c.lens();
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut x, w) = (numbers(x, 1), numbers(w, 2));
        x[7] = odd;
        for isa in exact_sets() {
            let mut out = vec![0.0; c.lens()[2]];
            let direct = Direct::new(isa, &w, c.out_channels, c.kernel);
            direct.forward(&c, Input::from(&x[..]), Epilogue::default(), &mut out);
            for (at, out) in out.chunks_exact(c.out_channels).enumerate() {
                let meets = at / 5 < 2 && at % 5 < 2;
                assert!(out.iter().all(|v| v.is_nan() == meets), "{at}: {out:?}");
            }
        }
    }
}

#[test]
fn convolutions_of_bytes_are_close_to_those_in_f32() {
    let c = layer(1, [12, 12], [320, 64], 3, 1);
    let [x, w, y] = c.lens();
    let silu = |v: f32| 3.0 * v / (1.0 + (-3.0 * v).exp());
    let x: Vec<f32> = numbers(x, 1).into_iter().map(silu).collect();
    let w = numbers(w, 2);
    let mut exact = vec![0.0; y];
    conv::forward(Isa::active(), &c, &x, &w, None, &mut exact);
    let rms = |v: &mut dyn Iterator<Item = f32>| (v.map(|v| v * v).sum::<f32>() / y as f32).sqrt();
    let scale = rms(&mut exact.iter().copied());
    for isa in exact_sets() {
        let mut out = vec![0.0; y];
        let direct = Direct::new(isa, &w, c.out_channels, c.kernel);
        direct.forward(&c, Input::from(&x[..]), Epilogue::default(), &mut out);
        let error = rms(&mut out.iter().zip(&exact).map(|(a, b)| a - b)) / scale;
        assert!(error < 0.008, "{}: {error}", isa.name());
    }
}
