//! Times of the largest layers of Stable Diffusion 1.5 for two samples of 64×64 latents, in `f32` and in 8 bits.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tweedie_kernels::{
    Isa,
    conv::{self, Conv, Epilogue, Prepared},
    gemm::{Added, Matrix, Packed},
    int8::{Direct, Kernels, Linear},
};

/// The shortest of several runs, in milliseconds.
fn best(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e3
}

fn fill(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect()
}

fn convolution(isa: Isa, [in_channels, out_channels, size]: [usize; 3]) {
    let c = Conv {
        batch: 2,
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
    let [x, w, y] = c.lens();
    let (x, w, mut y) = (fill(x), fill(w), fill(y));
    let gop = 2.0 * 9.0 * (2 * size * size * in_channels * out_channels) as f64 * 1e-9;
    let none = Epilogue::default();
    let plain = best(|| conv::forward(isa, &c, &x, &w, None, &mut y));
    let prepared = Prepared::new(isa, &c, &w);
    let prepared = prepared.map_or(f64::NAN, |w| best(|| w.forward(&c, x[..].into(), none, &mut y)));
    let kernels = Kernels::new(isa, &w, out_channels);
    let weights = best(|| kernels.forward(isa, &c, x[..].into(), none, &mut y));
    let direct = Direct::serves(isa).then(|| Direct::new(isa, &w, out_channels, c.kernel));
    let direct = direct.map_or(f64::NAN, |w| best(|| w.forward(&c, x[..].into(), none, &mut y)));
    let name = format!("{in_channels},{out_channels},{size}");
    println!("{name:>18} {gop:>8.1} {plain:>9.1} {prepared:>9.1} {weights:>9.1} {direct:>9.1}");
}

fn linear(isa: Isa, [rows, inputs, outputs]: [usize; 3]) {
    let (x, w, mut y) = (fill(rows * inputs), fill(inputs * outputs), fill(rows * outputs));
    let gop = 2.0 * (rows * inputs * outputs) as f64 * 1e-9;
    let packed = Packed::new(isa, Matrix::new(&w, outputs, inputs).t());
    let plain = best(|| packed.product(Matrix::new(&x, rows, inputs), Added::default(), &mut y));
    let bytes = Linear::new(isa, &w, outputs, inputs);
    let bytes = best(|| bytes.forward(&x, Epilogue::default(), &mut y));
    let name = format!("{rows},{inputs},{outputs}");
    println!("{name:>18} {gop:>8.1} {plain:>9.1} {bytes:>9.1}");
}

fn main() {
    let isa = Isa::active();
    println!("{} on {} threads; milliseconds", isa.name(), rayon::current_num_threads());
    println!(
        "{:>18} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "in,out,size", "Gop", "f32", "prepared", "8-bit w", "8-bit x,w"
    );
    for shape in [
        [320, 320, 64],
        [960, 320, 64],
        [640, 640, 32],
        [1280, 640, 32],
        [1280, 1280, 16],
        [2560, 1280, 16],
        [1280, 1280, 8],
        [2560, 1280, 8],
    ] {
        convolution(isa, shape);
    }
    println!("{:>18} {:>8} {:>9} {:>9}", "rows,in,out", "Gop", "f32", "8-bit x,w");
    for shape in [
        [8192, 320, 320],
        [8192, 320, 2560],
        [8192, 1280, 320],
        [2048, 640, 640],
        [2048, 640, 5120],
        [2048, 2560, 640],
        [512, 1280, 10240],
        [512, 5120, 1280],
        [154, 768, 1280],
    ] {
        linear(isa, shape);
    }
}
