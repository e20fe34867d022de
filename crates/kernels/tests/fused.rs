//! Convolutions of maps that are not concatenated or upsampled first, and their epilogues. They must give the bits of the
//! separate operations, each of which is tested against `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    conv::{self, Conv, Epilogue, Input, Prepared},
    elementwise::add,
    gemm::{Added, Matrix, Packed, product, product_with},
    maps::Maps,
    resample::{concatenate, upsample, upsample_gradient},
};

fn conv(batch: usize, size: [usize; 2], inputs: usize, outputs: usize, kernel: usize) -> Conv {
    Conv {
        batch,
        size,
        in_channels: inputs,
        out_channels: outputs,
        kernel: [kernel; 2],
        stride: [1; 2],
        pad_before: [kernel / 2; 2],
        pad_after: [kernel / 2; 2],
        dilation: [1; 2],
        groups: 1,
    }
}

/// 3×3 with either algorithm, 1×1, and one with a stride.
fn layers() -> Vec<Conv> {
    vec![
        conv(2, [8, 6], 32, 33, 3),
        conv(3, [4, 10], 21, 20, 3),
        conv(3, [12, 12], 48, 16, 3),
        conv(1, [22, 18], 40, 70, 3),
        conv(2, [2, 2], 24, 24, 3),
        conv(2, [6, 4], 7, 5, 3),
        conv(3, [4, 6], 40, 24, 1),
        conv(2, [8, 8], 20, 3, 3),
        Conv { stride: [2, 1], pad_before: [0, 1], ..conv(2, [10, 6], 19, 18, 3) },
    ]
}

fn forward(isa: Isa, c: &Conv, x: Input<'_>, w: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; c.lens()[2]];
    conv::forward_with(isa, c, x, w, epilogue, &mut out);
    if let Some(prepared) = Prepared::new(isa, c, w) {
        let mut again = vec![f32::NAN; out.len()];
        prepared.forward(c, x, epilogue, &mut again);
        assert!(bits(&again) == bits(&out), "prepared weights of {c:?}");
    }
    out
}

fn plain(isa: Isa, c: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; c.lens()[2]];
    conv::forward(isa, c, x, w, bias, &mut out);
    out
}

fn weight_gradient(isa: Isa, c: &Conv, x: Input<'_>, dy: &[f32]) -> Vec<f32> {
    let mut dw = vec![f32::NAN; c.lens()[1]];
    conv::weight_gradient_with(isa, c, x, dy, &mut dw);
    dw
}

fn as_doubles(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| v.into()).collect()
}

#[test]
fn two_maps_are_read_as_one() {
    for c in layers() {
        let pixels = c.batch * c.size[0] * c.size[1];
        for second in [1, 3, c.in_channels / 2, c.in_channels - 1] {
            let first = c.in_channels - second;
            let (a, b) = (numbers(pixels * first, 1), numbers(pixels * second, 2));
            let [xs, ws, ys] = c.lens();
            let (w, dy, bias) = (numbers(ws, 3), numbers(ys, 4), numbers(c.out_channels, 5));
            let mut joined = vec![0.0; xs];
            concatenate(&a, first, &b, second, &mut joined);
            every_isa(|isa| {
                let x = || Input::from(Maps::two(&a, &b, second));
                let epilogue = Epilogue { bias: Some(&bias), residual: None };
                let want = plain(isa, &c, &joined, &w, Some(&bias));
                let got = forward(isa, &c, x(), &w, epilogue);
                assert!(bits(&got) == bits(&want), "{second} of {c:?}, {}", isa.name());
                let want = weight_gradient(isa, &c, joined[..].into(), &dy);
                let got = weight_gradient(isa, &c, x(), &dy);
                close(&got, &as_doubles(&want), 1e-5, &format!("weight gradient, {second} of {c:?}"));
                same_on_any_threads("two maps", || {
                    let mut all = forward(isa, &c, x(), &w, epilogue);
                    all.extend(weight_gradient(isa, &c, x(), &dy));
                    all
                });
            });
        }
    }
}

#[test]
fn doubled_maps_are_read_as_they_are() {
    for c in layers() {
        let half = c.size.map(|s| s / 2);
        let [xs, ws, ys] = c.lens();
        let (x, w, dy) = (numbers(xs / 4, 1), numbers(ws, 2), numbers(ys, 3));
        let mut whole = vec![0.0; xs];
        upsample(&x, c.batch, half, c.size, c.in_channels, &mut whole);
        every_isa(|isa| {
            let what = |name: &str| format!("{name} of {c:?}, {}", isa.name());
            let got = forward(isa, &c, Input::doubled(&x), &w, Epilogue::default());
            assert!(bits(&got) == bits(&plain(isa, &c, &whole, &w, None)), "{}", what("forward"));

            let want = weight_gradient(isa, &c, whole[..].into(), &dy);
            let got = weight_gradient(isa, &c, Input::doubled(&x), &dy);
            assert!(bits(&got) == bits(&want), "{}", what("weight gradient"));

            let (mut dx, mut want) = (vec![f32::NAN; xs], vec![f32::NAN; xs / 4]);
            conv::data_gradient(isa, &c, &dy, &w, &mut dx);
            upsample_gradient(&dx, c.batch, half, c.size, c.in_channels, &mut want);
            let got = || {
                let mut dx = vec![f32::NAN; xs / 4];
                conv::data_gradient_doubled(isa, &c, &dy, &w, &mut dx);
                dx
            };
            assert!(bits(&got()) == bits(&want), "{}", what("data gradient"));
            same_on_any_threads("data gradient of doubled maps", got);
        });
        // Two maps, both doubled.
        let (second, pixels) = (c.in_channels / 3, xs / 4 / c.in_channels);
        let first = c.in_channels - second;
        let (a, b) = (numbers(pixels * first, 5), numbers(pixels * second, 6));
        let mut joined = vec![0.0; xs / 4];
        concatenate(&a, first, &b, second, &mut joined);
        every_isa(|isa| {
            let run = |x: Maps<'_>| forward(isa, &c, Input::doubled(x), &w, Epilogue::default());
            assert!(bits(&run(Maps::two(&a, &b, second))) == bits(&run((&joined).into())), "{c:?}");
        });
    }
}

#[test]
fn residuals_and_biases_of_samples_are_added() {
    let grouped = Conv { groups: 3, ..conv(2, [5, 7], 12, 18, 3) };
    for c in layers().into_iter().chain([grouped]) {
        let [xs, ws, ys] = c.lens();
        let (x, w, residual) = (numbers(xs, 1), numbers(ws, 2), numbers(ys, 3));
        let bias = numbers(c.batch * c.out_channels, 4);
        every_isa(|isa| {
            let sums = plain(isa, &c, &x, &w, None);
            let sample = ys / c.batch;
            let biased = sums.iter().enumerate();
            let biased: Vec<f32> =
                biased.map(|(i, v)| v + bias[i / sample * c.out_channels + i % c.out_channels]).collect();
            let mut want = vec![0.0; ys];
            add(isa, &residual, &biased, &mut want);
            let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
            let run = || forward(isa, &c, x[..].into(), &w, epilogue);
            assert!(bits(&run()) == bits(&want), "{c:?}, {}", isa.name());
            same_on_any_threads("epilogue", run);
        });
    }
}

#[test]
fn residuals_of_products_are_added() {
    for [m, k, n] in [[1, 1, 1], [7, 5, 3], [100, 33, 50], [13, 64, 96]] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let (bias, residual) = (numbers(n, 3), numbers(m * n, 4));
        every_isa(|isa| {
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let mut sums = vec![0.0; m * n];
            product(isa, a, b, Some(&bias), &mut sums);
            let mut want = vec![0.0; m * n];
            add(isa, &residual, &sums, &mut want);
            let added = Added { bias: Some(&bias), residual: Some(&residual) };
            let mut got = vec![f32::NAN; m * n];
            product_with(isa, a, b, added, &mut got);
            assert!(bits(&got) == bits(&want), "{m}×{k}×{n}, {}", isa.name());
            Packed::new(isa, b).product(a, added, &mut got);
            assert!(bits(&got) == bits(&want), "packed {m}×{k}×{n}, {}", isa.name());
        });
    }
}
