//! Convolutions compared with the definition in `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::conv::{self, Algorithm, Conv, Epilogue, Prepared};

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

/// Calls `f(x index, w index, y index)` for every product of the definition.
fn products(c: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = c.out_size();
    let (k, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
    for (b, oy, ox) in (0..c.batch * oh * ow).map(|i| (i / (oh * ow), i / ow % oh, i % ow)) {
        for (ky, kx) in (0..c.kernel[0] * c.kernel[1]).map(|t| (t / c.kernel[1], t % c.kernel[1])) {
            let y = (oy * c.stride[0] + ky * c.dilation[0]) as isize - c.pad_before[0] as isize;
            let x = (ox * c.stride[1] + kx * c.dilation[1]) as isize - c.pad_before[1] as isize;
            if y < 0 || x < 0 || y as usize >= c.size[0] || x as usize >= c.size[1] {
                continue;
            }
            let pixel = (b * c.size[0] + y as usize) * c.size[1] + x as usize;
            for g in 0..c.groups {
                for o in 0..n {
                    for i in 0..k {
                        f(
                            pixel * c.in_channels + g * k + i,
                            (((g * n + o) * k + i) * c.kernel[0] + ky) * c.kernel[1] + kx,
                            ((b * oh + oy) * ow + ox) * c.out_channels + g * n + o,
                        );
                    }
                }
            }
        }
    }
}

fn check(c: Conv) {
    let [xs, ws, ys] = c.lens();
    let (x, w, dy) = (numbers(xs, 1), numbers(ws, 2), numbers(ys, 3));
    let bias = numbers(c.out_channels, 4);
    let mut y: Vec<f64> = (0..ys).map(|i| f64::from(bias[i % c.out_channels])).collect();
    let (mut dx, mut dw) = (vec![0.0; xs], vec![0.0; ws]);
    products(&c, |i, j, o| {
        y[o] += f64::from(x[i]) * f64::from(w[j]);
        dx[i] += f64::from(dy[o]) * f64::from(w[j]);
        dw[j] += f64::from(dy[o]) * f64::from(x[i]);
    });
    every_isa(|isa| {
        let what = |name: &str| format!("{name}, {}, {c:?}", isa.name());
        // Buffers start dirty, to check that every element is written.
        let mut out = vec![f32::NAN; ys];
        conv::forward(isa, &c, &x, &w, Some(&bias), &mut out);
        close(&out, &y, 2e-5, &what("forward"));
        if let Some(prepared) = Prepared::new(isa, &c, &w) {
            let mut again = vec![f32::NAN; ys];
            let epilogue = Epilogue { bias: Some(&bias), residual: None };
            prepared.forward(&c, x[..].into(), epilogue, &mut again);
            assert!(bits(&again) == bits(&out), "{}", what("prepared weights"));
        }
        for &algorithm in Algorithm::all(&c) {
            let what = what(&format!("{algorithm:?}"));
            let epilogue = Epilogue { bias: Some(&bias), residual: None };
            let (mut out, mut again) = (vec![f32::NAN; ys], vec![f32::NAN; ys]);
            conv::forward_by(algorithm, isa, &c, x[..].into(), &w, epilogue, &mut out);
            close(&out, &y, 2e-5, &what);
            if let Some(prepared) = Prepared::by(algorithm, isa, &c, &w) {
                prepared.forward(&c, x[..].into(), epilogue, &mut again);
                assert!(bits(&again) == bits(&out), "{what}, prepared weights");
            }
        }
        let mut out = vec![f32::NAN; xs];
        conv::data_gradient(isa, &c, &dy, &w, &mut out);
        close(&out, &dx, 2e-5, &what("data gradient"));
        let mut out = vec![f32::NAN; ws];
        conv::weight_gradient(isa, &c, &x, &dy, &mut out);
        close(&out, &dw, 2e-5, &what("weight gradient"));
    });
}

#[test]
fn same_3x3() {
    for (batch, size, k, n) in [
        (1, [1, 1], 16, 16),
        (2, [3, 3], 16, 16),
        (2, [4, 4], 32, 64),
        (3, [5, 7], 12, 20),
        (1, [8, 8], 48, 33),
        (2, [9, 6], 3, 40),
        (2, [6, 9], 40, 3),
        (1, [32, 32], 17, 70),
        (5, [12, 10], 64, 32),
        (3, [32, 28], 20, 18),
        (1, [20, 12], 300, 40),
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
    check(Conv { stride: [2; 2], pad_before: [0; 2], pad_after: [1; 2], ..base });
    check(Conv { stride: [2, 1], kernel: [4, 2], pad_before: [1, 0], pad_after: [2, 1], ..base });
    check(Conv { dilation: [2; 2], pad_before: [2; 2], pad_after: [2; 2], ..base });
    check(Conv { stride: [3, 2], dilation: [2, 3], kernel: [2, 3], ..base });
    check(Conv { groups: 3, ..base });
    check(Conv { stride: [2; 2], out_channels: 5, ..base });
    check(Conv { dilation: [1, 2], pad_before: [1, 2], out_channels: 3, ..base });
    check(Conv { groups: 6, stride: [2; 2], ..base });
    check(Conv { kernel: [5, 5], pad_before: [2; 2], pad_after: [2; 2], in_channels: 3, ..base });
    check(Conv { size: [16, 16], stride: [2; 2], in_channels: 64, out_channels: 64, ..base });
}

#[test]
fn bits_depend_on_nothing_else() {
    let strided = Conv { stride: [2; 2], ..same3x3(16, [8, 8], 24, 40) };
    for c in
        [same3x3(16, [8, 8], 24, 40), same3x3(16, [16, 12], 3, 33), same3x3(16, [16, 16], 17, 24), strided]
    {
        let [xs, ws, ys] = c.lens();
        let (x, w, dy) = (numbers(xs, 1), numbers(ws, 2), numbers(ys, 3));
        every_isa(|isa| {
            let run = |c: &Conv, x: &[f32], dy: &[f32]| {
                let [xs, _, ys] = c.lens();
                let (mut y, mut dx) = (vec![0.0; ys], vec![0.0; xs]);
                conv::forward(isa, c, x, &w, None, &mut y);
                conv::data_gradient(isa, c, dy, &w, &mut dx);
                (y, dx)
            };
            let (y, dx) = run(&c, &x, &dy);
            let one = Conv { batch: 1, ..c };
            for row in [0, 7, 15] {
                let (i, o) = (xs / 16 * row, ys / 16 * row);
                let (y1, dx1) = run(&one, &x[i..i + xs / 16], &dy[o..o + ys / 16]);
                assert!(bits(&y1) == bits(&y[o..o + ys / 16]), "forward of row {row}");
                assert!(bits(&dx1) == bits(&dx[i..i + xs / 16]), "data gradient of row {row}");
            }
            same_on_any_threads("forward and data gradient", || {
                let (mut y, dx) = run(&c, &x, &dy);
                y.extend(dx);
                y
            });
            same_on_any_threads("weight gradient", || {
                let mut dw = vec![0.0; ws];
                conv::weight_gradient(isa, &c, &x, &dy, &mut dw);
                dw
            });
        });
    }
}

#[test]
fn minimal_filtering_multiplies_less() {
    let c = same3x3(2, [8, 8], 16, 32);
    let by_definition = 2 * 64 * 9 * 16 * 32;
    assert_eq!(Algorithm::all(&c).len(), 3);
    assert_eq!(Algorithm::Direct.products(&c), by_definition);
    assert_eq!(9 * Algorithm::Tiles2.products(&c), 4 * by_definition);
    assert_eq!(4 * Algorithm::Tiles4.products(&c), by_definition);
    let strided = Conv { stride: [2; 2], ..c };
    assert_eq!(Algorithm::all(&strided), [Algorithm::Direct]);
    assert_eq!(4 * Algorithm::Direct.products(&strided), by_definition);
}
