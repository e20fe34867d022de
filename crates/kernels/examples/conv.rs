//! Effective GFLOP/s (counted as direct convolutions) of 3×3 convolutions and their gradients.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tweedie_kernels::{
    Isa,
    conv::{self, Conv, Epilogue, Prepared},
};

fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    for _ in 0..15 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let isa = Isa::active();
    println!("{} on {} threads", isa.name(), rayon::current_num_threads());
    println!(
        "{:>18} {:>9} {:>9} {:>9} {:>9}  GFLOP/s",
        "batch,in,out,size", "forward", "prepared", "data", "weight"
    );
    let shapes = [
        (8, 128, 128, 32),
        (8, 256, 256, 16),
        (8, 256, 256, 8),
        (8, 256, 256, 4),
        (8, 64, 64, 32),
        (1, 128, 128, 32),
        (1, 256, 256, 16),
        (1, 256, 256, 8),
        (1, 512, 256, 8),
        (1, 256, 256, 4),
        (64, 128, 128, 32),
        (8, 3, 128, 32),
        (8, 128, 3, 32),
        (16, 32, 32, 32),
        (16, 96, 32, 32),
        (16, 64, 64, 16),
        (16, 128, 128, 8),
        (16, 256, 128, 8),
        (16, 3, 32, 32),
        (16, 32, 3, 32),
    ];
    for (batch, in_channels, out_channels, size) in shapes {
        let c = Conv {
            batch,
            size: [size; 2],
            in_channels,
            out_channels,
            kernel: [3; 2],
            stride: [1; 2],
            pad_before: [1; 2],
            pad_after: [1; 2],
            dilation: [1; 2],
            groups: 1,
        };
        let [xs, ws, ys] = c.lens();
        let fill = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect::<Vec<_>>();
        let (mut x, mut w, mut y) = (fill(xs), fill(ws), fill(ys));
        let gflop = 2.0 * 9.0 * (batch * size * size * in_channels * out_channels) as f64 * 1e-9;
        let forward = best(|| conv::forward(isa, &c, &x, &w, None, &mut y));
        let prepared = Prepared::new(isa, &c, &w);
        let again =
            prepared.map_or(f64::NAN, |p| best(|| p.forward(&c, x[..].into(), Epilogue::default(), &mut y)));
        let weight = best(|| conv::weight_gradient(isa, &c, &x, &y, &mut w));
        let data = best(|| conv::data_gradient(isa, &c, &y, &w, &mut x));
        let name = format!("{batch},{in_channels},{out_channels},{size}");
        let [forward, again, data, weight] = [forward, again, data, weight].map(|t| gflop / t);
        println!("{name:>18} {forward:>9.0} {again:>9.0} {data:>9.0} {weight:>9.0}");
    }
}
