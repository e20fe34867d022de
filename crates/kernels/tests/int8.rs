//! Linear maps and convolutions with integers of eight bits against their definitions.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    conv::{self, Conv, Epilogue, Input},
    int8::{Kernels, Linear},
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
