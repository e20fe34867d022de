//! GFLOP/s of matrix products, in `f32` and with 8-bit integers.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tweedie_kernels::{
    Isa,
    conv::Epilogue,
    gemm::{Added, Matrix, Packed, transposed_product},
    int8::Linear,
};

fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let isa = Isa::active();
    println!("{} on {} threads", isa.name(), rayon::current_num_threads());
    println!("{:>16} {:>9} {:>9} {:>9}  GFLOP/s", "m,k,n", "a·b", "aᵀ·b", "int8");
    let shapes =
        [(96, 256, 32), (512, 512, 512), (4096, 128, 128), (2048, 256, 256), (8, 256, 256), (48, 256, 256)];
    for (m, k, n) in shapes {
        let fill = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect::<Vec<_>>();
        let (a, b, c) = (fill(m * k), fill(k * n), fill(m * n));
        let (mut out, mut turned) = (fill(m * n), fill(k * n));
        let gflop = 2.0 * (m * k * n) as f64 * 1e-9;
        let packed = Packed::new(isa, Matrix::new(&b, k, n));
        let forward = best(|| packed.product(Matrix::new(&a, m, k), Added::default(), &mut out));
        let gradient =
            best(|| transposed_product(isa, Matrix::new(&a, m, k), Matrix::new(&c, m, n), &mut turned));
        let linear = Linear::new(isa, &b, n, k);
        let bytes = best(|| linear.forward(&a, Epilogue::default(), &mut out));
        let name = format!("{m},{k},{n}");
        println!("{name:>16} {:>9.0} {:>9.0} {:>9.0}", gflop / forward, gflop / gradient, gflop / bytes);
    }
}
