//! Convolutions in one and three dimensions, and transposed ones, compared with the definition in `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::conv::volume::{self, Volume};

/// Calls `f(x index, w index, y index)` for every product of the definition.
fn products(v: &Volume, mut f: impl FnMut(usize, usize, usize)) {
    let out = v.out_size();
    let (k, n) = (v.in_channels / v.groups, v.out_channels / v.groups);
    let places = |size: [usize; 3]| {
        (0..size.iter().product()).map(move |i| [i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]])
    };
    for (b, at) in (0..v.batch).flat_map(|b| places(out).map(move |at| (b, at))) {
        for tap in places(v.kernel) {
            let from: [isize; 3] = std::array::from_fn(|i| {
                (at[i] * v.stride[i] + tap[i] * v.dilation[i]) as isize - v.pad_before[i] as isize
            });
            if (0..3).any(|i| from[i] < 0 || from[i] as usize >= v.size[i]) {
                continue;
            }
            let index =
                |place: [usize; 3], size: [usize; 3]| (place[0] * size[1] + place[1]) * size[2] + place[2];
            let x = b * v.size.iter().product::<usize>() + index(from.map(|i| i as usize), v.size);
            let y = b * out.iter().product::<usize>() + index(at, out);
            let taps = v.kernel.iter().product::<usize>();
            for (o, i) in (0..v.out_channels).flat_map(|o| (0..k).map(move |i| (o, i))) {
                let w = (o * k + i) * taps + index(tap, v.kernel);
                f(x * v.in_channels + o / n * k + i, w, y * v.out_channels + o);
            }
        }
    }
}

fn check(v: Volume) {
    let [xs, ws, ys] = v.lens();
    let (x, w, dy) = (numbers(xs, 1), numbers(ws, 2), numbers(ys, 3));
    let (out_bias, in_bias) = (numbers(v.out_channels, 4), numbers(v.in_channels, 5));
    let mut y: Vec<f64> = (0..ys).map(|i| f64::from(out_bias[i % v.out_channels])).collect();
    let mut dx: Vec<f64> = (0..xs).map(|i| f64::from(in_bias[i % v.in_channels])).collect();
    let mut dw = vec![0.0; ws];
    products(&v, |i, j, o| {
        y[o] += f64::from(x[i]) * f64::from(w[j]);
        dx[i] += f64::from(dy[o]) * f64::from(w[j]);
        dw[j] += f64::from(dy[o]) * f64::from(x[i]);
    });
    every_isa(|isa| {
        let what = |name: &str| format!("{name}, {}, {v:?}", isa.name());
        let run = |v: &Volume, x: &[f32], dy: &[f32]| {
            // Buffers start dirty, to check that every element is written.
            let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
            volume::forward(isa, v, x, &w, Some(&out_bias), &mut y);
            volume::data_gradient(isa, v, dy, &w, Some(&in_bias), &mut dx);
            (y, dx)
        };
        let (got_y, got_dx) = run(&v, &x, &dy);
        close(&got_y, &y, 2e-5, &what("forward"));
        close(&got_dx, &dx, 2e-5, &what("data gradient"));
        let sums = || {
            let mut out = vec![f32::NAN; ws];
            volume::weight_gradient(isa, &v, &x, &dy, &mut out);
            out
        };
        close(&sums(), &dw, 2e-5, &what("weight gradient"));
        same_on_any_threads(&what("weight gradient"), sums);
        same_on_any_threads(&what("forward and data gradient"), || {
            let (mut y, dx) = run(&v, &x, &dy);
            y.extend(dx);
            y
        });
        let last = v.batch - 1;
        let (i, o) = (xs / v.batch * last, ys / v.batch * last);
        let alone = run(&Volume { batch: 1, ..v }, &x[i..], &dy[o..]);
        assert!(bits(&alone.0) == bits(&got_y[o..]), "{}", what("a sample alone"));
        assert!(bits(&alone.1) == bits(&got_dx[i..]), "{}", what("the gradient of a sample alone"));
    });
}

fn cube(batch: usize, size: [usize; 3], inputs: usize, outputs: usize) -> Volume {
    Volume {
        batch,
        size,
        in_channels: inputs,
        out_channels: outputs,
        kernel: [3; 3],
        stride: [1; 3],
        pad_before: [1; 3],
        pad_after: [1; 3],
        dilation: [1; 3],
        groups: 1,
    }
}

#[test]
fn three_dimensions() {
    check(cube(2, [4, 5, 7], 12, 18));
    check(cube(1, [1, 1, 1], 3, 2));
    check(cube(2, [3, 4, 5], 2, 33));
    check(cube(2, [3, 4, 5], 33, 2));
    check(Volume { stride: [2, 2, 1], ..cube(2, [5, 6, 7], 16, 20) });
    check(Volume {
        stride: [1, 2, 3],
        dilation: [2, 1, 2],
        pad_after: [0, 2, 1],
        ..cube(1, [6, 5, 9], 5, 13)
    });
    check(Volume {
        kernel: [1, 3, 2],
        pad_before: [0, 1, 0],
        pad_after: [0, 1, 1],
        ..cube(3, [2, 6, 4], 14, 17)
    });
    check(Volume { groups: 3, ..cube(2, [3, 5, 4], 6, 9) });
    // Causal in time: zero padding before only.
    check(Volume { pad_before: [2, 1, 1], pad_after: [0, 1, 1], ..cube(1, [5, 4, 4], 16, 16) });
    check(Volume { kernel: [1; 3], pad_before: [0; 3], pad_after: [0; 3], ..cube(2, [2, 3, 5], 40, 24) });
}

#[test]
fn one_dimension() {
    let line = |length: usize, kernel: usize| Volume {
        size: [1, 1, length],
        kernel: [1, 1, kernel],
        pad_before: [0, 0, kernel / 2],
        pad_after: [0, 0, kernel / 2],
        ..cube(2, [1; 3], 19, 34)
    };
    check(line(37, 3));
    check(line(50, 7));
    check(Volume { dilation: [1, 1, 4], ..line(41, 3) });
    check(Volume { stride: [1, 1, 4], pad_before: [0, 0, 2], ..line(64, 8) });
    check(Volume { stride: [1, 1, 5], in_channels: 1, ..line(90, 10) });
    check(Volume { stride: [1, 1, 3], out_channels: 1, ..line(30, 2) });
    check(Volume { groups: 19, out_channels: 38, ..line(20, 5) });
}
