//! Benchmarks of single CPU kernels, compared with the machine's peak.

use std::{cell::OnceCell, hint::black_box, time::Instant};

use anyhow::Result;
use rayon::prelude::*;
use serde_json::json;
use tweedie_kernels::{
    Isa, adamw,
    attention::{self, Attention, Heads},
    conv::{self, Conv, Epilogue, Prepared},
    gemm::{self, Matrix},
    group_norm::{self, GroupNorm},
    peak,
};

use super::{
    Piece,
    measure::{Bench, Work, seconds},
};

/// Batch, channels, height and width: the levels of the DDPM CIFAR-10 U-Net, then larger ones.
const CONVOLUTIONS: &[[usize; 3]] = &[
    [8, 128, 32],
    [8, 256, 16],
    [8, 256, 8],
    [8, 256, 4],
    [1, 128, 32],
    [1, 320, 64],
    [1, 640, 32],
    [1, 1280, 16],
    [1, 512, 64],
];
/// Rows, input features, output features.
const LINEARS: &[[usize; 3]] = &[[8, 128, 512], [2048, 256, 256], [4096, 320, 1280], [1024, 1024, 1024]];
/// Batch, channels, height and width.
const NORMS: &[[usize; 3]] = &[[8, 128, 32], [8, 256, 16], [1, 128, 32], [1, 320, 64]];
/// Batch, heads, positions, width of a head: the U-Net's attention, and Stable Diffusion's largest.
const ATTENTIONS: &[[usize; 4]] = &[[8, 1, 256, 256], [1, 8, 1024, 40], [1, 8, 4096, 40]];
/// Parameters of an optimizer step.
const PARAMETERS: usize = 4 << 20;
/// Seconds that suffice to measure the memory bandwidth.
const LONG_ENOUGH: f64 = 0.1;

pub fn run(bench: &Bench<'_>) -> Result<()> {
    if bench.device_name != "cpu" {
        bench.ui.note("skipping the kernel benchmarks, which only exist for the CPU");
        return Ok(());
    }
    let k = Kernels { bench, isa: Isa::active(), peak: OnceCell::new() };
    if bench.wants(Piece::Kernels, PEAK) {
        let fields = json!({ "gflops": k.peak() });
        bench.report(Piece::Kernels, PEAK, fields, &format!("{:.0} GFLOP/s", k.peak()));
    }
    CONVOLUTIONS.iter().try_for_each(|shape| k.conv3x3(*shape))?;
    k.resampling()?;
    LINEARS.iter().try_for_each(|shape| k.linear(*shape))?;
    NORMS.iter().try_for_each(|shape| k.group_norm(*shape))?;
    ATTENTIONS.iter().try_for_each(|shape| k.attention(*shape))?;
    k.adamw()
}

/// The peak of multiply-adds.
const PEAK: &str = "peak of multiply-adds";

struct Kernels<'a> {
    bench: &'a Bench<'a>,
    isa: Isa,
    peak: OnceCell<f64>,
}

/// Values between -0.5 and 0.5.
fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1008.0 - 0.5).collect()
}

impl Kernels<'_> {
    fn peak(&self) -> f64 {
        *self.peak.get_or_init(|| peak::gflops(self.isa))
    }

    fn flops(&self, operations: usize) -> Work {
        Work::Flops { giga: operations as f64 * 1e-9, peak: self.peak() }
    }

    /// Work of reading and writing `count` values. The limit is the speed of adding one array to another with the same
    /// number of accesses.
    fn bytes(&self, count: usize) -> Work {
        const PIECE: usize = 1 << 14;
        let from = vec![1.0f32; count / 3];
        let mut to = vec![1.0f32; count / 3];
        let mut add = || {
            let pieces = to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE));
            pieces.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, from)| *to += from));
            black_box(&to);
            Ok(())
        };
        let giga = 4e-9 * count as f64;
        let (start, mut best) = (Instant::now(), f64::INFINITY);
        while start.elapsed().as_secs_f64() < LONG_ENOUGH {
            best = best.min(seconds(&mut add).unwrap_or(f64::INFINITY));
        }
        Work::Bytes { giga, peak: giga / best }
    }

    fn wants(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.bench.wants(Piece::Kernels, name))
    }

    fn time(&self, name: &str, work: Work, mut call: impl FnMut()) -> Result<()> {
        if !self.bench.wants(Piece::Kernels, name) {
            return Ok(());
        }
        self.bench.time(Piece::Kernels, name, work, || {
            call();
            Ok(())
        })
    }

    fn conv3x3(&self, [batch, channels, size]: [usize; 3]) -> Result<()> {
        let c = same(batch, channels, channels, size, 3);
        self.conv(&format!("conv3x3 {batch}x{channels}x{size}x{size}"), &c)
    }

    fn resampling(&self) -> Result<()> {
        let down = Conv { stride: [2; 2], pad_before: [0; 2], ..same(8, 128, 128, 32, 3) };
        self.conv("conv3x3 stride 2 8x128x32x32", &down)?;
        self.conv("conv1x1 8x512x16x16 to 256", &same(8, 512, 256, 16, 1))
    }

    /// With packed weights, as in sampling, and with new ones, as in training; and the gradients.
    fn conv(&self, name: &str, c: &Conv) -> Result<()> {
        let names =
            ["", ", new weights", ", data gradient", ", weight gradient"].map(|s| format!("{name}{s}"));
        if !self.wants(&names) {
            return Ok(());
        }
        let isa = self.isa;
        let [x, w, y] = c.lens();
        let (mut x, mut w, mut y) = (numbers(x), numbers(w), numbers(y));
        let [height, width] = c.out_size();
        let taps = c.kernel[0] * c.kernel[1] * c.in_channels * c.out_channels;
        let work = self.flops(2 * c.batch * height * width * taps);
        let [prepared, fresh, data, weight] = &names;
        match Prepared::new(isa, c, &w) {
            Some(kernels) => {
                let run = |y: &mut [f32]| kernels.forward(c, x[..].into(), Epilogue::default(), y);
                self.time(prepared, work, || run(&mut y))?;
                drop(kernels);
                self.time(fresh, work, || conv::forward(isa, c, &x, &w, None, &mut y))?;
            }
            None => self.time(prepared, work, || conv::forward(isa, c, &x, &w, None, &mut y))?,
        }
        if c.batch > 1 {
            self.time(data, work, || conv::data_gradient(isa, c, &y, &w, &mut x))?;
            self.time(weight, work, || conv::weight_gradient(isa, c, &x, &y, &mut w))?;
        }
        Ok(())
    }

    fn linear(&self, [rows, inputs, outputs]: [usize; 3]) -> Result<()> {
        let name = format!("linear {rows}x{inputs} to {outputs}");
        if !self.wants(std::slice::from_ref(&name)) {
            return Ok(());
        }
        let (x, w, b) = (numbers(rows * inputs), numbers(inputs * outputs), numbers(outputs));
        let mut y = numbers(rows * outputs);
        let work = self.flops(2 * rows * inputs * outputs);
        let (x, w) = (Matrix::new(&x, rows, inputs), Matrix::new(&w, outputs, inputs).t());
        self.time(&name, work, || gemm::product(self.isa, x, w, Some(&b), &mut y))
    }

    fn group_norm(&self, [batch, channels, size]: [usize; 3]) -> Result<()> {
        const GROUPS: usize = 32;
        let name = format!("group norm + SiLU {batch}x{channels}x{size}x{size}");
        let names = [name.clone(), format!("{name}, gradient")];
        if !self.wants(&names) {
            return Ok(());
        }
        let isa = self.isa;
        let n = GroupNorm { batch, pixels: size * size, channels, groups: GROUPS, eps: 1e-6, silu: true };
        let len = batch * size * size * channels;
        let (x, dy, w, b) = (numbers(len), numbers(len), numbers(channels), numbers(channels));
        let (mut y, mut dx) = (numbers(len), numbers(len));
        let (mut mean, mut rstd) = (vec![0.0; batch * GROUPS], vec![0.0; batch * GROUPS]);
        self.time(&names[0], self.bytes(2 * len), || {
            group_norm::statistics(isa, &n, &x, &mut mean, &mut rstd);
            group_norm::forward(isa, &n, &x, [&mean, &rstd], [&w, &b], &mut y);
        })?;
        let (mut dw, mut db) = (numbers(channels), numbers(channels));
        self.time(&names[1], self.bytes(3 * len), || {
            let gradients = [&mut dw[..], &mut db[..]];
            group_norm::backward(isa, &n, &x, &dy, [&mean, &rstd], [&w, &b], &mut dx, gradients, None);
        })
    }

    fn attention(&self, [batch, heads, positions, width]: [usize; 4]) -> Result<()> {
        let shape = format!("{batch}x{heads} heads x{positions}x{width}");
        let names = ["attention", "attention gradient"].map(|what| format!("{what} {shape}"));
        if !self.wants(&names) {
            return Ok(());
        }
        let scale = 1.0 / (width as f32).sqrt();
        let a = Attention { batch, heads, queries: positions, keys: positions, width, scale };
        let len = batch * positions * heads * width;
        let [q, k, v, dy] = [0; 4].map(|_| numbers(len));
        let [mut y, mut dq, mut dk, mut dv] = [0; 4].map(|_| vec![0.0f32; len]);
        let strides = [positions * heads * width, width, heads * width];
        let [q, k, v, dy] = [&q, &k, &v, &dy].map(|data| Heads { data, strides });
        let products = batch * heads * positions * positions * width;
        self.time(&names[0], self.flops(4 * products), || {
            attention::forward(self.isa, &a, q, k, v, &mut y);
        })?;
        self.time(&names[1], self.flops(10 * products), || {
            attention::backward(self.isa, &a, [q, k, v, dy], [&mut dq, &mut dk, &mut dv]);
        })
    }

    fn adamw(&self) -> Result<()> {
        let name = format!("AdamW and average, {} M parameters", PARAMETERS >> 20);
        if !self.wants(std::slice::from_ref(&name)) {
            return Ok(());
        }
        let (mut param, grad, mut average) = (numbers(PARAMETERS), numbers(PARAMETERS), numbers(PARAMETERS));
        let (mut m, mut v) = (vec![0.0; PARAMETERS], vec![0.0; PARAMETERS]);
        let settings = adamw::Coefficients {
            keep: 1.0 - 1e-6,
            rate: 1e-4,
            beta1: 0.9,
            one_minus_beta1: 0.1,
            beta2: 0.99,
            one_minus_beta2: 0.01,
            root_correction: 1.0,
            eps: 1e-8,
        };
        // Five arrays are read, four written.
        self.time(&name, self.bytes(9 * PARAMETERS), || {
            adamw::adamw_averaged(self.isa, &mut param, &grad, &mut m, &mut v, &settings, &mut average, 1e-4);
        })
    }
}

/// Stride 1, with an output of the input's size.
fn same(batch: usize, in_channels: usize, out_channels: usize, size: usize, kernel: usize) -> Conv {
    Conv {
        batch,
        size: [size; 2],
        in_channels,
        out_channels,
        kernel: [kernel; 2],
        stride: [1; 2],
        pad_before: [kernel / 2; 2],
        pad_after: [kernel / 2; 2],
        dilation: [1; 2],
        groups: 1,
    }
}
