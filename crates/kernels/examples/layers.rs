//! Speeds of normalization, attention and elementwise kernels.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use tweedie_kernels::{
    Isa,
    attention::{self, Attention, Heads},
    elementwise,
    group_norm::{self, GroupNorm},
    resample,
};

fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    for _ in 0..60 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn normalization(isa: Isa) {
    println!(
        "{:>22} {:>9} {:>9}  GB/s: group norm + SiLU, counting one read of x and one write of y; its gradient",
        "", "forward", "backward"
    );
    for (batch, pixels, channels) in [(8, 1024, 128), (8, 256, 256), (1, 1024, 128), (1, 64, 256)] {
        let n = GroupNorm { batch, pixels, channels, groups: 32, eps: 1e-5, silu: true };
        let len = batch * pixels * channels;
        let (x, dy) = (vec![0.5f32; len], vec![0.25f32; len]);
        let (w, b) = (vec![1.0f32; channels], vec![0.1f32; channels]);
        let (mut y, mut dx) = (vec![0.0f32; len], vec![0.0f32; len]);
        let (mut mean, mut rstd) = (vec![0.0f32; batch * 32], vec![0.0f32; batch * 32]);
        let forward = best(|| {
            group_norm::statistics(isa, &n, &x, &mut mean, &mut rstd);
            group_norm::forward(isa, &n, &x, [&mean, &rstd], [&w, &b], &mut y);
        });
        let (mut dw, mut db) = (w.clone(), b.clone());
        let backward = best(|| {
            group_norm::backward(
                isa,
                &n,
                &x,
                &dy,
                [&mean, &rstd],
                [&w, &b],
                &mut dx,
                [&mut dw, &mut db],
                None,
            );
        });
        let bytes = len as f64 * 4e-9;
        println!(
            "{:>22} {:9.1} {:9.1}",
            format!("{batch},{pixels},{channels}"),
            2.0 * bytes / forward,
            3.0 * bytes / backward
        );
    }
}

fn attentions(isa: Isa) {
    println!(
        "{:>22} {:>9} {:>9}  GFLOP/s: attention (4 forward and 10 backward per score and head dimension)",
        "batch,heads,T,S,d", "forward", "backward"
    );
    // One or few heads each, short enough to be timed on a shared machine.
    for (batch, heads, queries, keys, width) in [
        (1, 4, 16, 16, 64),
        (1, 4, 64, 64, 64),
        (1, 1, 256, 256, 256),
        (1, 2, 256, 256, 64),
        (1, 2, 256, 256, 32),
        (1, 1, 192, 1024, 64),
        (1, 1, 96, 4096, 40),
        (1, 1, 1024, 77, 40),
    ] {
        let a = Attention { batch, heads, queries, keys, width, scale: 1.0 / (width as f32).sqrt() };
        let row = heads * width;
        let (q, k) = (vec![0.5f32; batch * queries * row], vec![0.25f32; batch * keys * row]);
        let of = |data, positions: usize| Heads { data, strides: [positions * row, width, row] };
        let (mut y, mut dq) = (q.clone(), q.clone());
        let (mut dk, mut dv) = (k.clone(), k.clone());
        let (queries_of, keys_of) = (of(&q, queries), of(&k, keys));
        let forward = best(|| attention::forward(isa, &a, queries_of, keys_of, keys_of, &mut y));
        let all = [queries_of, keys_of, keys_of, queries_of];
        let backward = best(|| attention::backward(isa, &a, all, [&mut dq, &mut dk, &mut dv]));
        let products = (batch * heads * queries * keys * width) as f64 * 1e-9;
        println!(
            "{:>22} {:9.1} {:9.1}",
            format!("{batch},{heads},{queries},{keys},{width}"),
            4.0 * products / forward,
            10.0 * products / backward
        );
    }
}

fn others(isa: Isa) {
    let [batch, channels, pixels] = [8, 128, 1024];
    let len = batch * channels * pixels;
    let (x, mut y) = (vec![0.5f32; len], vec![0.0f32; len]);
    let bytes = 2.0 * len as f64 * 4e-9;
    println!("{:>22} {:9.1} GB/s", "silu", bytes / best(|| elementwise::silu(isa, &x, &mut y)));
    let turn = best(|| resample::transpose(&x, [batch, channels, pixels], &mut y));
    println!("{:>22} {:9.1} GB/s", "to channels-last", bytes / turn);
    let turn = best(|| resample::transpose(&x, [batch, pixels, channels], &mut y));
    println!("{:>22} {:9.1} GB/s", "from channels-last", bytes / turn);
}

fn main() {
    let isa = Isa::active();
    println!("{} on {} threads", isa.name(), rayon::current_num_threads());
    normalization(isa);
    attentions(isa);
    others(isa);
}
