//! `bf16` convolutions and linear layers compared with their definition in `f64`.

mod common;

use common::{numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    bf16::{
        Bf16, Epilogue,
        conv::{Algorithm, Prepared, turned},
        convert::round,
        linear::Linear,
    },
    conv::Conv,
};

/// All of this machine, and the best one without its `bf16` instructions.
fn instruction_sets() -> Vec<Isa> {
    let mut all = Isa::available();
    all.push(all[0].without_extensions());
    all
}

fn halves(len: usize, seed: u64) -> Vec<Bf16> {
    numbers(len, seed).into_iter().map(round).collect()
}

fn wide(x: &[Bf16]) -> Vec<f32> {
    x.iter().map(|v| v.to_f32()).collect()
}

fn bits(x: &[Bf16]) -> Vec<u16> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn same3x3(batch: usize, size: [usize; 2], in_channels: usize, out_channels: usize) -> Conv {
    Conv {
        batch,
        size,
        in_channels,
        out_channels,
        kernel: [3; 2],
        stride: [1; 2],
        pad_before: [1; 2],
        pad_after: [1; 2],
        dilation: [1; 2],
        groups: 1,
    }
}

/// The result in `f64` and, for each value, the sum of its terms' magnitudes.
fn reference(c: &Conv, x: &[f32], w: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let [oh, ow] = c.out_size();
    let (k, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
    let (mut y, mut sizes) = (Vec::new(), Vec::new());
    for (b, oy, ox) in (0..c.batch * oh * ow).map(|i| (i / (oh * ow), i / ow % oh, i % ow)) {
        for o in 0..c.out_channels {
            let (mut sum, mut size) = (0.0, 0.0);
            for tap in 0..c.kernel[0] * c.kernel[1] {
                let (ky, kx) = (tap / c.kernel[1], tap % c.kernel[1]);
                let y = (oy * c.stride[0] + ky * c.dilation[0]).wrapping_sub(c.pad_before[0]);
                let x_ = (ox * c.stride[1] + kx * c.dilation[1]).wrapping_sub(c.pad_before[1]);
                if y >= c.size[0] || x_ >= c.size[1] {
                    continue;
                }
                let pixel = ((b * c.size[0] + y) * c.size[1] + x_) * c.in_channels + o / n * k;
                for i in 0..k {
                    let w = w[(o * k + i) * c.kernel[0] * c.kernel[1] + tap];
                    let product = f64::from(x[pixel + i]) * f64::from(w);
                    sum += product;
                    size += product.abs();
                }
            }
            y.push(sum);
            sizes.push(size);
        }
    }
    (y, sizes)
}

/// Like [`reference`] with F(2×2, 3×3), with rounded transformed inputs and weights; everything else is exact.
fn winograd(c: &Conv, x: &[f32], w: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let input = |d: [f32; 4]| [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]];
    let kernel = |g: [f32; 3]| {
        let (ends, middle) = (0.5 * (g[0] + g[2]), 0.5 * g[1]);
        [g[0], ends + middle, ends - middle, g[2]]
    };
    let turn = |m: [[f32; 4]; 4]| -> [[f32; 4]; 4] { std::array::from_fn(|i| m.map(|row| row[i])) };
    let rounded = |m: [[f32; 4]; 4]| m.map(|row| row.map(|v| round(v).to_f64()));
    let ([h, width], [k, n]) = (c.size, [c.in_channels, c.out_channels]);
    let u: Vec<_> = (0..n * k)
        .map(|i| {
            let columns: [[f32; 4]; 3] =
                std::array::from_fn(|x| kernel(std::array::from_fn(|y| w[9 * i + 3 * y + x])));
            rounded(std::array::from_fn(|y| kernel(columns.map(|column| column[y]))))
        })
        .collect();
    let (mut y, mut sizes) = (vec![0.0; c.lens()[2]], vec![0.0; c.lens()[2]]);
    for (b, y0, x0) in (0..c.batch * h * width).map(|i| (i / (h * width), i / width % h, i % width)) {
        if y0 % 2 + x0 % 2 > 0 {
            continue;
        }
        let v: Vec<_> = (0..k)
            .map(|i| {
                let pixel = |y: usize, x_: usize| match (y < h, x_ < width) {
                    (true, true) => x[((b * h + y) * width + x_) * k + i],
                    _ => 0.0,
                };
                let d: [[f32; 4]; 4] = std::array::from_fn(|j| {
                    input(std::array::from_fn(|i| pixel((y0 + i).wrapping_sub(1), (x0 + j).wrapping_sub(1))))
                });
                rounded(turn(d).map(input))
            })
            .collect();
        for o in 0..n {
            for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                if y0 + dy >= h || x0 + dx >= width {
                    continue;
                }
                let at = ((b * h + y0 + dy) * width + x0 + dx) * n + o;
                let row = |d: usize| if d == 0 { [1.0, 1.0, 1.0, 0.0] } else { [0.0, 1.0, -1.0, -1.0] };
                for (i, j) in (0..16).map(|p| (p / 4, p % 4)) {
                    let factor: f64 = row(dy)[i] * row(dx)[j];
                    for channel in 0..k {
                        let product = factor * u[o * k + channel][i][j] * v[channel][i][j];
                        y[at] += product;
                        sizes[at] += product.abs();
                    }
                }
            }
        }
    }
    (y, sizes)
}

/// Asserts that every value is within its own bound.
#[track_caller]
fn within(got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(error <= bound(i), "{what}: element {i}: {g} for {w}, error {error:e}, bound {:e}", bound(i));
    }
}

fn algorithms(c: &Conv) -> Vec<Algorithm> {
    let same = c.kernel == [3; 2] && c.stride == [1; 2] && c.dilation == [1; 2] && c.groups == 1;
    let padded = c.pad_before == [1; 2] && c.pad_after == [1; 2];
    if same && padded { vec![Algorithm::Direct, Algorithm::Winograd] } else { vec![Algorithm::Direct] }
}

fn check(c: Conv) {
    let [xs, ws, ys] = c.lens();
    let (x, w) = (halves(xs, 1), numbers(ws, 2));
    let bias = numbers(c.batch * c.out_channels, 4);
    let residual = halves(ys, 5);
    let pixels = ys / (c.batch * c.out_channels).max(1);
    let rounded: Vec<f32> = w.iter().map(|v| round(*v).to_f32()).collect();
    for algorithm in algorithms(&c) {
        let (mut y, sizes) = match algorithm {
            Algorithm::Direct => reference(&c, &wide(&x), &rounded),
            Algorithm::Winograd => winograd(&c, &wide(&x), &w),
        };
        for (i, y) in y.iter_mut().enumerate() {
            let sample = i / (pixels * c.out_channels);
            *y += f64::from(bias[sample * c.out_channels + i % c.out_channels]);
            *y += f64::from(residual[i].to_f32());
        }
        // Products are exact. Each addition in f32 has an error of at most 2⁻²⁴ of the sum of magnitudes so far.
        let additions = (c.in_channels / c.groups * c.kernel[0] * c.kernel[1] + 16) as f64;
        let bound = |i: usize| additions * 2f64.powi(-24) * (sizes[i] + 2.0);
        let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
        let mut first: Option<Vec<f32>> = None;
        for isa in instruction_sets() {
            let what = format!("{algorithm:?}, {}, {}, {c:?}", isa.name(), isa.has_bf16());
            let prepared = Prepared::with(isa, &c, &w, algorithm);
            // Buffers start dirty, to check that every element is written.
            let mut out = vec![f32::NAN; ys];
            prepared.forward(&c, &x, epilogue, &mut out);
            within(&out, &y, bound, &what);
            let mut half = vec![Bf16::NAN; ys];
            prepared.forward(&c, &x, epilogue, &mut half);
            let narrow: Vec<Bf16> = out.iter().map(|v| round(*v)).collect();
            assert!(bits(&half) == bits(&narrow), "{what}: bf16 output");
            let first = first.get_or_insert_with(|| out.clone());
            assert!(
                common::bits(first) == common::bits(&out),
                "{what}: the same bits on every instruction set"
            );
        }
    }
}

#[test]
fn same_3x3() {
    for (batch, size, k, n) in [
        (1, [1, 1], 16, 16),
        (2, [2, 1], 16, 33),
        (2, [3, 3], 16, 16),
        (2, [4, 4], 32, 64),
        (3, [5, 7], 12, 20),
        (1, [8, 8], 48, 33),
        (2, [9, 6], 3, 40),
        (2, [6, 9], 40, 3),
        (1, [16, 15], 17, 70),
        (2, [6, 6], 50, 49),
    ] {
        check(same3x3(batch, size, k, n));
    }
}

#[test]
fn any_shape() {
    let base = same3x3(2, [9, 8], 12, 18);
    check(Conv { kernel: [1, 1], pad_before: [0; 2], pad_after: [0; 2], ..base });
    check(Conv { kernel: [1, 1], stride: [2; 2], pad_before: [0; 2], pad_after: [0; 2], ..base });
    check(Conv { stride: [2; 2], ..base });
    check(Conv { stride: [2; 2], pad_before: [0; 2], pad_after: [1; 2], in_channels: 32, ..base });
    check(Conv { stride: [2, 1], kernel: [4, 2], pad_before: [1, 0], pad_after: [2, 1], ..base });
    check(Conv { dilation: [2; 2], pad_before: [2; 2], pad_after: [2; 2], in_channels: 17, ..base });
    check(Conv { stride: [3, 2], dilation: [2, 3], kernel: [2, 3], ..base });
    check(Conv { groups: 3, ..base });
    check(Conv { groups: 2, in_channels: 64, out_channels: 70, ..base });
    check(Conv { kernel: [5, 5], pad_before: [2; 2], pad_after: [2; 2], in_channels: 3, ..base });
}

/// The error of choosing Winograd's algorithm, on typical values of a network.
#[test]
fn rounding_of_transforms_is_small() {
    let c = same3x3(1, [16, 16], 64, 48);
    let [xs, ws, ys] = c.lens();
    let x: Vec<Bf16> = numbers(xs, 1).iter().map(|v| round(3.0 * v / (1.0 + (-3.0 * v).exp()))).collect();
    let w = numbers(ws, 2);
    let (y, _) = reference(&c, &wide(&x), &w);
    let error = |algorithm| {
        let mut out = vec![0.0f32; ys];
        Prepared::with(Isa::active(), &c, &w, algorithm).forward(&c, &x, Epilogue::default(), &mut out);
        let wrong: f64 = out.iter().zip(&y).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        (wrong / y.iter().map(|v| v * v).sum::<f64>()).sqrt()
    };
    // Only weights are rounded: 2⁻⁸/√12 of each for uniform errors, plus half for their spread.
    let (direct, winograd) = (error(Algorithm::Direct), error(Algorithm::Winograd));
    assert!(direct < 2.5e-3, "direct: {direct:e}");
    assert!(winograd < 5e-3, "Winograd: {winograd:e}");
}

/// Weights prepared for gradients equal those of the turned layer bit for bit.
#[test]
fn turned_weights() {
    let wide = Conv {
        kernel: [5; 2],
        pad_before: [4; 2],
        pad_after: [4; 2],
        dilation: [2; 2],
        ..same3x3(1, [9, 8], 6, 5)
    };
    let point = Conv { kernel: [1; 2], pad_before: [0; 2], pad_after: [0; 2], ..same3x3(2, [3, 5], 20, 37) };
    for c in [same3x3(2, [8, 6], 20, 35), same3x3(1, [1, 1], 33, 7), same3x3(1, [6, 6], 3, 18), wide, point] {
        let layer = turned(&c).expect("a layer");
        let (k, n, taps) = (c.in_channels, c.out_channels, c.kernel[0] * c.kernel[1]);
        let w = numbers(c.lens()[1], 3);
        let mut other = w.clone();
        for (i, v) in w.iter().enumerate() {
            let (o, input, tap) = (i / taps / k, i / taps % k, i % taps);
            other[(input * n + o) * taps + taps - 1 - tap] = *v;
        }
        let dy = halves(layer.lens()[0], 4);
        for isa in instruction_sets() {
            let mut found = [vec![Bf16::ZERO; layer.lens()[2]], vec![Bf16::ZERO; layer.lens()[2]]];
            let prepared = Prepared::turned(isa, &c, &w).expect("a layer");
            prepared.forward(&layer, &dy, Epilogue::default(), &mut found[0]);
            Prepared::new(isa, &layer, &other).forward(&layer, &dy, Epilogue::default(), &mut found[1]);
            assert!(bits(&found[0]) == bits(&found[1]), "{c:?} on {}", isa.name());
        }
    }
    assert!(turned(&Conv { stride: [2; 2], ..same3x3(1, [8, 8], 4, 4) }).is_none());
    assert!(turned(&Conv { pad_after: [2; 2], ..same3x3(1, [8, 8], 4, 4) }).is_none());

    let (rows, k, n) = (7, 21, 34);
    let (w, x) = (numbers(k * n, 5), halves(rows * k, 6));
    let other: Vec<f32> = (0..n * k).map(|i| w[i % k * n + i / k]).collect();
    for isa in instruction_sets() {
        let mut found = [vec![Bf16::ZERO; rows * n], vec![Bf16::ZERO; rows * n]];
        Linear::transposed(isa, &w, n, k).forward(&x, Epilogue::default(), &mut found[0]);
        Linear::new(isa, &other, n, k).forward(&x, Epilogue::default(), &mut found[1]);
        assert!(bits(&found[0]) == bits(&found[1]), "linear on {}", isa.name());
    }
}

#[test]
fn linear_layers() {
    for (m, k, n) in
        [(1, 1, 1), (3, 17, 5), (13, 32, 33), (25, 64, 48), (130, 6, 70), (2, 256, 100), (0, 4, 4)]
    {
        let (x, w, bias) = (halves(m * k, 1), numbers(n * k, 2), numbers(n, 3));
        let rounded: Vec<f64> = w.iter().map(|v| round(*v).to_f64()).collect();
        let mut want = vec![0.0; m * n];
        for (i, want) in want.iter_mut().enumerate() {
            let (r, o) = (i / n, i % n);
            *want =
                f64::from(bias[o]) + (0..k).map(|j| x[r * k + j].to_f64() * rounded[o * k + j]).sum::<f64>();
        }
        for isa in instruction_sets() {
            let linear = Linear::new(isa, &w, n, k);
            let mut out = vec![f32::NAN; m * n];
            linear.forward(&x, Epilogue::bias(&bias), &mut out);
            within(
                &out,
                &want,
                |_| (k as f64 + 2.0) * k as f64 * 2f64.powi(-24) + 1e-6,
                &format!("{m} {k} {n}"),
            );
        }
    }
}

#[test]
fn bits_depend_on_nothing_else() {
    let strided = Conv { stride: [2; 2], ..same3x3(16, [8, 8], 24, 40) };
    for c in [same3x3(16, [8, 8], 48, 40), same3x3(16, [16, 12], 16, 33), strided] {
        let [xs, ws, ys] = c.lens();
        let (x, w) = (halves(xs, 1), numbers(ws, 2));
        for isa in instruction_sets() {
            let prepared = Prepared::new(isa, &c, &w);
            let run = |c: &Conv, x: &[Bf16]| {
                let mut y = vec![0.0f32; c.lens()[2]];
                prepared.forward(c, x, Epilogue::default(), &mut y);
                y
            };
            let y = run(&c, &x);
            let one = Conv { batch: 1, ..c };
            for row in [0, 7, 15] {
                let (i, o) = (xs / 16 * row, ys / 16 * row);
                let alone = run(&one, &x[i..i + xs / 16]);
                assert!(common::bits(&alone) == common::bits(&y[o..o + ys / 16]), "row {row}");
            }
            same_on_any_threads("forward", || run(&c, &x));
            same_on_any_threads("forward of one", || run(&one, &x[..xs / 16]));
        }
    }
}
