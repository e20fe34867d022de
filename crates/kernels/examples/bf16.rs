//! GFLOP/s of `bf16` convolutions and matrix products compared with `f32`, counted as direct convolutions; `bf16`
//! errors relative to `f32`; speeds of normalization and attention.
//!
//! `cargo run --release -p tweedie-kernels --example bf16 [conv|linear|norm|attention]`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tweedie_kernels::{
    Isa,
    bf16::{
        Bf16, Epilogue,
        attention::{self, Attention, Heads},
        conv::{Algorithm, Prepared},
        convert,
        group_norm::{self, Affine, GroupNorm},
        linear::Linear,
    },
    conv::{self, Conv},
    gemm::{Matrix, product},
};

fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.25 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn numbers(n: usize, scale: f32) -> Vec<f32> {
    let mut state = n as u64 | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| scale * next()).collect()
}

fn narrow(isa: Isa, x: &[f32]) -> Vec<Bf16> {
    let mut out = vec![Bf16::ZERO; x.len()];
    convert::from_f32(isa, x, &mut out);
    out
}

/// Root mean square of the difference, relative to `want`.
fn error(got: &[Bf16], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let of = |f: &dyn Fn(usize) -> f64| (0..want.len()).map(f).sum::<f64>();
    let wrong = of(&|i| square(f64::from(got[i].to_f32()) - f64::from(want[i])));
    (wrong / of(&|i| square(f64::from(want[i])))).sqrt()
}

fn convs(isa: Isa) {
    println!(
        "{:>20} {:>9} {:>9} {:>9} {:>9}  GFLOP/s {:>9} {:>9}  error {:>9}",
        "batch,in,out,size,by", "f32", "direct", "F(2x2)", "chosen", "direct", "F(2x2)", "prepare ms"
    );
    for (batch, in_channels, out_channels, size, stride) in [
        (8, 128, 128, 32, 1),
        (8, 256, 256, 16, 1),
        (8, 256, 256, 8, 1),
        (8, 256, 256, 4, 1),
        (1, 128, 128, 32, 1),
        (1, 256, 256, 16, 1),
        (1, 256, 256, 8, 1),
        (1, 256, 256, 4, 1),
        (1, 320, 320, 64, 1),
        (1, 640, 640, 32, 1),
        (1, 1280, 1280, 16, 1),
        (1, 512, 512, 64, 1),
        (8, 3, 128, 32, 1),
        (8, 128, 3, 32, 1),
        (8, 128, 128, 32, 2),
    ] {
        let c = Conv {
            batch,
            size: [size; 2],
            in_channels,
            out_channels,
            kernel: [3; 2],
            stride: [stride; 2],
            pad_before: [1; 2],
            pad_after: [1; 2],
            dilation: [1; 2],
            groups: 1,
        };
        let [xs, ws, ys] = c.lens();
        // Activations as after SiLU; weights that preserve the variance.
        let x: Vec<f32> = numbers(xs, 3.0).iter().map(|v| v / (1.0 + (-v).exp())).collect();
        let w = numbers(ws, (3.0 / (9 * in_channels) as f32).sqrt());
        let gflop = 2.0 * (9 * ys * in_channels) as f64 * 1e-9;
        let mut want = vec![0.0f32; ys];
        let f32_time = match conv::Prepared::new(isa, &c, &w) {
            Some(p) => best(|| p.forward(&c, x[..].into(), conv::Epilogue::default(), &mut want)),
            None => best(|| conv::forward(isa, &c, &x, &w, None, &mut want)),
        };
        let (x, mut y) = (narrow(isa, &x), vec![Bf16::ZERO; ys]);
        let mut run = |algorithm: Algorithm| {
            let p = Prepared::with(isa, &c, &w, algorithm);
            let time = best(|| p.forward(&c, &x, Epilogue::default(), &mut y));
            (gflop / time, error(&y, &want))
        };
        let direct = run(Algorithm::Direct);
        let winograd = if stride == 1 { run(Algorithm::Winograd) } else { (0.0, 0.0) };
        let chosen = if Algorithm::of(&c) == Algorithm::Direct { direct.0 } else { winograd.0 };
        let prepare = best(|| drop(Prepared::new(isa, &c, &w)));
        println!(
            "{:>20} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>17.1e} {:>9.1e} {:>16.2}",
            format!("{batch},{in_channels},{out_channels},{size},{stride}"),
            gflop / f32_time,
            direct.0,
            winograd.0,
            chosen,
            direct.1,
            winograd.1,
            prepare * 1e3
        );
    }
}

fn linears(isa: Isa) {
    println!("{:>20} {:>9} {:>9}  GFLOP/s: linear, bf16 weights packed before", "m,k,n", "f32", "bf16");
    for (m, k, n) in [
        (8192, 128, 128),
        (2048, 256, 256),
        (512, 512, 512),
        (8, 512, 256),
        (1, 512, 256),
        (4096, 320, 320),
        (1024, 640, 5120),
    ] {
        let (x, w) = (numbers(m * k, 1.0), numbers(k * n, 1.0));
        let (mut wide, mut out) = (vec![0.0f32; m * n], vec![Bf16::ZERO; m * n]);
        let gflop = 2.0 * (m * k * n) as f64 * 1e-9;
        let a = best(|| product(isa, Matrix::new(&x, m, k), Matrix::new(&w, n, k).t(), None, &mut wide));
        let (x, linear) = (narrow(isa, &x), Linear::new(isa, &w, n, k));
        let b = best(|| linear.forward(&x, Epilogue::default(), &mut out));
        println!("{:>20} {:>9.0} {:>9.0}", format!("{m},{k},{n}"), gflop / a, gflop / b);
    }
}

fn norms(isa: Isa) {
    println!("{:>20} {:>9} {:>9}  Gvalues/s: group norm + SiLU", "batch,pixels,channels", "f32", "bf16");
    for (batch, pixels, channels) in [(8, 1024, 128), (8, 256, 256), (1, 1024, 128), (1, 64, 256)] {
        let n = GroupNorm { batch, pixels, channels, groups: 32, eps: 1e-5, silu: true };
        let len = batch * pixels * channels;
        let (weight, bias) = (numbers(channels, 1.0), numbers(channels, 0.1));
        let (x, mut y) = (numbers(len, 2.0), vec![0.0f32; len]);
        let (mut mean, mut rstd) = (vec![0.0; batch * 32], vec![0.0; batch * 32]);
        let a = best(|| {
            tweedie_kernels::group_norm::statistics(isa, &n, &x, &mut mean, &mut rstd);
            let both = [&weight[..], &bias[..]];
            tweedie_kernels::group_norm::forward(isa, &n, &x, [&mean, &rstd], both, &mut y);
        });
        let (x, mut y) = (narrow(isa, &x), vec![Bf16::ZERO; len]);
        let affine = Affine { weight: &weight, bias: &bias, scale_shift: None };
        let b = best(|| group_norm::forward(isa, &n, &x, affine, &mut y));
        let name = format!("{batch},{pixels},{channels}");
        println!("{name:>20} {:>9.2} {:>9.2}", len as f64 * 1e-9 / a, len as f64 * 1e-9 / b);
    }
}

fn attentions(isa: Isa) {
    println!("{:>20} {:>9} {:>9}  GFLOP/s: attention", "batch,heads,T,S,d", "f32", "bf16");
    for (batch, heads, queries, keys, width) in
        [(8, 1, 256, 256, 256), (1, 1, 256, 256, 256), (1, 1, 4096, 4096, 40), (1, 8, 1024, 77, 80)]
    {
        let a = Attention { batch, heads, queries, keys, width, scale: 1.0 / (width as f32).sqrt() };
        let row = heads * width;
        let (q, k) = (numbers(batch * queries * row, 1.0), numbers(batch * keys * row, 1.0));
        let gflop = 4.0 * (batch * heads * queries * keys * width) as f64 * 1e-9;
        let mut y = vec![0.0f32; q.len()];
        let of = |data, n: usize| tweedie_kernels::attention::Heads { data, strides: [n * row, width, row] };
        let (queries_of, keys_of) = (of(&q, queries), of(&k, keys));
        let wide =
            best(|| tweedie_kernels::attention::forward(isa, &a, queries_of, keys_of, keys_of, &mut y));
        let (q, k, mut y) = (narrow(isa, &q), narrow(isa, &k), vec![Bf16::ZERO; q.len()]);
        let queries_of = Heads { data: &q, strides: [queries * row, width, row] };
        let keys_of = Heads { data: &k, strides: [keys * row, width, row] };
        let half = best(|| attention::forward(isa, &a, queries_of, keys_of, keys_of, &mut y));
        let name = format!("{batch},{heads},{queries},{keys},{width}");
        println!("{name:>20} {:>9.0} {:>9.0}", gflop / wide, gflop / half);
    }
}

fn main() {
    let isa = Isa::active();
    let isa = if std::env::var_os("TWEEDIE_NO_BF16").is_some() { isa.without_extensions() } else { isa };
    let threads = rayon::current_num_threads();
    println!("{}, bf16 instructions: {}, on {threads} threads", isa.name(), isa.has_bf16());
    let only = std::env::args().nth(1);
    for (name, f) in
        [("conv", convs as fn(Isa)), ("linear", linears), ("norm", norms), ("attention", attentions)]
    {
        if only.as_deref().is_none_or(|o| o == name) {
            f(isa);
        }
    }
}
