//! Normalizations compared with `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::{
    Isa,
    group_norm::{self, Affine, GroupNorm},
    layer_norm::{LayerNorm, layer_norm, layer_norm_backward},
    maps::{Maps, MapsMut},
    resample::{columns, concatenate},
};

fn doubles(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&x| f64::from(x)).collect()
}

/// Result, then `dx, dweight, dbias`, in `f64`.
fn group_reference(n: &GroupNorm, x: &[f32], w: &[f32], b: &[f32], dy: &[f32]) -> [Vec<f64>; 4] {
    let (x, w, b, dy) = (doubles(x), doubles(w), doubles(b), doubles(dy));
    let (c, size) = (n.channels, n.channels / n.groups);
    let count = (size * n.pixels) as f64;
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
    for (image, group) in (0..n.batch).flat_map(|i| (0..n.groups).map(move |g| (i, g))) {
        let members: Vec<(usize, usize)> = (0..n.pixels)
            .flat_map(|p| (group * size..(group + 1) * size).map(move |ch| (p, ch)))
            .map(|(p, ch)| ((image * n.pixels + p) * c + ch, ch))
            .collect();
        let mean = members.iter().map(|&(i, _)| x[i]).sum::<f64>() / count;
        let variance = members.iter().map(|&(i, _)| (x[i] - mean).powi(2)).sum::<f64>() / count;
        let rstd = 1.0 / (variance + f64::from(n.eps)).sqrt();
        let (mut sum, mut product) = (0.0, 0.0);
        let mut dz_of = Vec::new();
        for &(i, ch) in &members {
            let normal = (x[i] - mean) * rstd;
            let z = normal * w[ch] + b[ch];
            let s = 1.0 / (1.0 + (-z).exp());
            y[i] = if n.silu { z * s } else { z };
            let dz = if n.silu { dy[i] * s * (1.0 + z * (1.0 - s)) } else { dy[i] };
            dw[ch] += dz * normal;
            db[ch] += dz;
            sum += dz * w[ch];
            product += dz * w[ch] * normal;
            dz_of.push(dz);
        }
        for (&(i, ch), dz) in members.iter().zip(dz_of) {
            let normal = (x[i] - mean) * rstd;
            dx[i] = rstd * (dz * w[ch] - (sum + normal * product) / count);
        }
    }
    [y, dx, dw, db]
}

fn group_run(isa: Isa, n: &GroupNorm, x: &[f32], w: &[f32], b: &[f32], dy: &[f32]) -> [Vec<f32>; 4] {
    let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
    let (mut dw, mut db) = (vec![f32::NAN; n.channels], vec![f32::NAN; n.channels]);
    let (mut mean, mut rstd) = (vec![f32::NAN; n.batch * n.groups], vec![f32::NAN; n.batch * n.groups]);
    group_norm::statistics(isa, n, x, &mut mean, &mut rstd);
    group_norm::forward(isa, n, x, [&mean, &rstd], [w, b], &mut y);
    group_norm::backward(isa, n, x, dy, [&mean, &rstd], [w, b], &mut dx, [&mut dw, &mut db], None);
    [y, dx, dw, db]
}

fn affine(c: usize) -> (Vec<f32>, Vec<f32>) {
    (numbers(c, 7).iter().map(|v| 1.0 + 0.5 * v).collect(), numbers(c, 8))
}

#[test]
fn group_norm_matches() {
    let shapes = [
        (1, 1, 3, 1),
        (2, 5, 1, 1),
        (2, 35, 3, 3),
        (1, 49, 7, 7),
        (3, 64, 16, 4),
        (2, 77, 20, 4),
        (2, 300, 64, 32),
        (1, 1000, 100, 20),
        (2, 1024, 96, 32),
        (1, 40, 320, 32),
    ];
    for (batch, pixels, channels, groups) in shapes {
        for (silu, offset) in [(false, 0.0), (true, 0.0), (false, 1000.0)] {
            let n = GroupNorm { batch, pixels, channels, groups, eps: 1e-5, silu };
            let x: Vec<f32> = numbers(batch * pixels * channels, 1).iter().map(|v| v + offset).collect();
            let dy = numbers(x.len(), 2);
            let (w, b) = affine(channels);
            let want = group_reference(&n, &x, &w, &b, &dy);
            // A group of one value has no variance: only eps is left, which magnifies rounding errors.
            let tiny = pixels * channels / groups < 4;
            let tolerance = if offset > 0.0 { 2e-4 } else { 1e-5 } * if tiny { 100.0 } else { 1.0 };
            every_isa(|isa| {
                let got = group_run(isa, &n, &x, &w, &b, &dy);
                for (i, name) in ["y", "dx", "dweight", "dbias"].iter().enumerate() {
                    if tiny && i == 1 {
                        continue;
                    }
                    close(&got[i], &want[i], tolerance, &format!("{name} of {n:?}, {}", isa.name()));
                }
            });
        }
    }
}

#[test]
fn group_norm_ignores_batch_and_threads() {
    let n = GroupNorm { batch: 5, pixels: 400, channels: 40, groups: 8, eps: 1e-5, silu: true };
    let image = n.pixels * n.channels;
    let (x, dy) = (numbers(n.batch * image, 1), numbers(n.batch * image, 2));
    let (w, b) = affine(n.channels);
    every_isa(|isa| {
        let all = group_run(isa, &n, &x, &w, &b, &dy);
        for i in 0..n.batch {
            let part = i * image..(i + 1) * image;
            let one =
                group_run(isa, &GroupNorm { batch: 1, ..n }, &x[part.clone()], &w, &b, &dy[part.clone()]);
            assert!(bits(&one[0]) == bits(&all[0][part.clone()]), "image {i}");
            assert!(bits(&one[1]) == bits(&all[1][part]), "gradient of image {i}");
        }
        same_on_any_threads("group norm", || group_run(isa, &n, &x, &w, &b, &dy).concat());
    });
}

/// Like [`group_run`] with a scale and shift per sample, whose gradients follow.
fn scaled_run(
    isa: Isa,
    n: &GroupNorm,
    x: Maps<'_>,
    affine: Affine<'_>,
    dy: &[f32],
    second: usize,
) -> Vec<Vec<f32>> {
    let pixels = n.batch * n.pixels;
    let nan = |len: usize| vec![f32::NAN; len];
    let [mut y, mut dx, mut dx2] = [n.channels, n.channels - second, second].map(|c| nan(pixels * c));
    let [mut dw, mut db] = [(); 2].map(|()| nan(n.channels));
    let [mut dscale, mut dshift] = [(); 2].map(|()| nan(n.batch * n.channels));
    let [mut mean, mut rstd] = [(); 2].map(|()| nan(n.batch * n.groups));
    group_norm::statistics(isa, n, x, &mut mean, &mut rstd);
    group_norm::forward(isa, n, x, [&mean, &rstd], affine, &mut y);
    let of_input = MapsMut::two(&mut dx, &mut dx2, second);
    let of_sample = affine.scale_shift.is_some().then_some([&mut dscale[..], &mut dshift[..]]);
    group_norm::backward(isa, n, x, dy, [&mean, &rstd], affine, of_input, [&mut dw, &mut db], of_sample);
    vec![y, dx, dx2, dw, db, dscale, dshift]
}

#[test]
fn group_norm_with_scale_and_shift_matches() {
    for (batch, pixels, channels, groups) in [(3, 35, 12, 4), (2, 300, 33, 3), (1, 64, 64, 32), (5, 20, 8, 1)]
    {
        for silu in [false, true] {
            let n = GroupNorm { batch, pixels, channels, groups, eps: 1e-5, silu };
            let image = pixels * channels;
            let (x, dy) = (numbers(batch * image, 1), numbers(batch * image, 2));
            let (w, b) = affine(channels);
            let (scale, shift) = (numbers(batch * channels, 3), numbers(batch * channels, 4));
            let mut want = vec![Vec::new(), Vec::new(), vec![0.0; channels], vec![0.0; channels]];
            let (mut dscale, mut dshift) = (Vec::new(), Vec::new());
            for i in 0..batch {
                let (one, part) = (GroupNorm { batch: 1, ..n }, i * image..(i + 1) * image);
                let (s, t) = (&scale[i * channels..][..channels], &shift[i * channels..][..channels]);
                let own = |at: usize| (w[at] * (1.0 + s[at]), b[at] * (1.0 + s[at]) + t[at]);
                let (ws, bs): (Vec<f32>, Vec<f32>) = (0..channels).map(own).unzip();
                let [y, dx, dw, db] = group_reference(&one, &x[part.clone()], &ws, &bs, &dy[part]);
                want[0].extend(y);
                want[1].extend(dx);
                for at in 0..channels {
                    want[2][at] += (1.0 + f64::from(s[at])) * dw[at];
                    want[3][at] += (1.0 + f64::from(s[at])) * db[at];
                    dscale.push(f64::from(w[at]) * dw[at] + f64::from(b[at]) * db[at]);
                    dshift.push(db[at]);
                }
            }
            want.extend([dscale, dshift]);
            every_isa(|isa| {
                let affine = Affine { weight: &w, bias: &b, scale_shift: Some([&scale, &shift]) };
                let run = || scaled_run(isa, &n, (&x).into(), affine, &dy, 0);
                let got = run();
                for (got, want) in
                    [&got[0], &got[1], &got[3], &got[4], &got[5], &got[6]].into_iter().zip(&want)
                {
                    close(got, want, 2e-5, &format!("{n:?}, {}", isa.name()));
                }
                same_on_any_threads("scale and shift", || run().concat());
            });
        }
    }
}

#[test]
fn group_norm_reads_two_maps_as_one() {
    for (pixels, channels, groups, second) in
        [(35, 12, 4, 5), (300, 40, 8, 1), (64, 96, 32, 32), (9, 50, 2, 49)]
    {
        for (silu, scaled) in [(false, false), (true, false), (true, true)] {
            let (batch, first) = (3, channels - second);
            let n = GroupNorm { batch, pixels, channels, groups, eps: 1e-5, silu };
            let rows = batch * pixels;
            let (a, b) = (numbers(rows * first, 1), numbers(rows * second, 2));
            let mut joined = vec![0.0; rows * channels];
            concatenate(&a, first, &b, second, &mut joined);
            let dy = numbers(joined.len(), 3);
            let (w, bias) = affine(channels);
            let (scale, shift) = (numbers(batch * channels, 4), numbers(batch * channels, 5));
            let scale_shift = scaled.then_some([&scale[..], &shift[..]]);
            let affine = Affine { weight: &w, bias: &bias, scale_shift };
            every_isa(|isa| {
                let want = scaled_run(isa, &n, (&joined).into(), affine, &dy, 0);
                let run = || scaled_run(isa, &n, Maps::two(&a, &b, second), affine, &dy, second);
                let got = run();
                let mut dx = vec![0.0; rows * first];
                columns(&want[1], channels, 0, first, &mut dx);
                assert!(bits(&got[1]) == bits(&dx), "gradient of the first map");
                let mut dx = vec![0.0; rows * second];
                columns(&want[1], channels, first, second, &mut dx);
                assert!(bits(&got[2]) == bits(&dx), "gradient of the second map");
                for i in [0, 3, 4, 5, 6] {
                    assert!(bits(&got[i]) == bits(&want[i]), "{i} of {n:?}, {}", isa.name());
                }
                same_on_any_threads("two maps", || {
                    let mut all = run();
                    all.truncate(5);
                    all.concat()
                });
            });
        }
    }
}

#[test]
fn layer_norm_matches() {
    for (rows, channels) in [(1, 3), (5, 7), (64, 16), (77, 20), (33, 100), (200, 384)] {
        for offset in [0.0, 1000.0] {
            let n = LayerNorm { rows, channels, eps: 1e-6 };
            let x: Vec<f32> = numbers(rows * channels, 1).iter().map(|v| v + offset).collect();
            let dy = numbers(x.len(), 2);
            let (w, b) = affine(channels);
            // A row is an image of one pixel in one group.
            let as_group =
                GroupNorm { batch: rows, pixels: 1, channels, groups: 1, eps: n.eps as f32, silu: false };
            let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
            let tolerance = if offset > 0.0 { 4e-4 } else { 1e-5 };
            every_isa(|isa| {
                for affine in [true, false] {
                    let (weight, bias) = if affine { (&w, &b) } else { (&ones, &zeros) };
                    let want = group_reference(&as_group, &x, weight, bias, &dy);
                    let got = layer_run(isa, &n, &x, affine.then_some((&w, &b)), &dy);
                    for (i, name) in ["y", "dx", "dweight", "dbias"].iter().enumerate() {
                        close(&got[i], &want[i], tolerance, &format!("{name} of {n:?}, {}", isa.name()));
                    }
                }
                same_on_any_threads("layer norm", || layer_run(isa, &n, &x, Some((&w, &b)), &dy).concat());
            });
        }
    }
}

fn layer_run(
    isa: Isa,
    n: &LayerNorm,
    x: &[f32],
    affine: Option<(&Vec<f32>, &Vec<f32>)>,
    dy: &[f32],
) -> [Vec<f32>; 4] {
    let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
    let (mut dw, mut db) = (vec![f32::NAN; n.channels], vec![f32::NAN; n.channels]);
    let (mut mean, mut rstd) = (vec![f32::NAN; n.rows], vec![f32::NAN; n.rows]);
    let (w, b) = (affine.map(|a| a.0.as_slice()), affine.map(|a| a.1.as_slice()));
    layer_norm(isa, n, x, w, b, &mut y, &mut mean, &mut rstd);
    layer_norm_backward(isa, n, x, w, &mean, &rstd, dy, &mut dx, &mut dw, &mut db);
    [y, dx, dw, db]
}
