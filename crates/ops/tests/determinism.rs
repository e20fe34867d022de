//! The engine's bits must not depend on the batch or the number of threads.

use burn::tensor::{DType, Device, Tensor, TensorData};
use tweedie_ops::{self as ops, ConvOptions, ExecContext, Precision};

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = std::iter::repeat_with(next).take(shape.iter().product()).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    x.into_data().as_slice::<f32>().expect("f32").iter().map(|v| v.to_bits()).collect()
}

/// What the layers compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    F32,
    Bf16,
    Int8,
}

/// Layers of a small network, wide enough to exercise all kernels.
struct Layers {
    with: With,
    input: Tensor<4>,
    wide: Tensor<4>,
    down: Tensor<4>,
    back: Tensor<4>,
    query: Tensor<2>,
    scale: Tensor<1>,
    shift: Tensor<1>,
}

impl Layers {
    fn new(device: &Device, with: With) -> Self {
        let layers = Self {
            with,
            input: random([48, 3, 3, 3], 1, device) * 0.2,
            wide: random([160, 48, 3, 3], 2, device) * 0.05,
            down: random([48, 160, 3, 3], 3, device) * 0.03,
            back: random([48, 96, 3, 3], 4, device) * 0.04,
            query: random([48, 48], 5, device) * 0.1,
            scale: random([48], 6, device),
            shift: random([48], 7, device),
        };
        if device.is_autodiff() { layers.tracked() } else { layers }
    }

    fn tracked(self) -> Self {
        Self {
            with: self.with,
            input: self.input.require_grad(),
            wide: self.wide.require_grad(),
            down: self.down.require_grad(),
            back: self.back.require_grad(),
            query: self.query.require_grad(),
            scale: self.scale.require_grad(),
            shift: self.shift.require_grad(),
        }
    }

    fn forward(&self, x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
        let precision = if self.with == With::Int8 { Precision::Int8 } else { Precision::F32 };
        ExecContext::default().with_precision(precision).run(|| self.run(x, shift))
    }

    fn run(&self, x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
        let conv = |x, w: &Tensor<4>, o| ops::conv2d(x, w.clone(), None, o);
        let same = ConvOptions::same(1);
        let x = conv(x, &self.input, same);
        let x = if self.with == With::Bf16 { ops::to_bf16(x) } else { x };
        let h = ops::group_norm_silu(x.clone(), 8, self.scale.clone(), self.shift.clone(), 1e-5);
        let h = conv(ops::add_channels(h, shift), &self.wide, same);
        let h = conv(ops::silu(h), &self.down, ConvOptions::strided(2, 1));
        let [b, c, height, width] = h.dims();
        let tokens: Tensor<3> = h.clone().permute([0, 2, 3, 1]).reshape([b, height * width, c]);
        let q = ops::linear(tokens, self.query.clone(), None);
        let q: Tensor<4> = q.reshape([b, height * width, 3, c / 3]).swap_dims(1, 2);
        let y = ops::attention(q.clone(), q.clone(), q, 0.25).swap_dims(1, 2);
        let y = y.reshape([b, height, width, c]).permute([0, 3, 1, 2]);
        let [.., full, across] = x.dims();
        let h = ops::upsample_nearest2d(ops::add(h, y), [full, across]);
        ops::to_f32(conv(ops::cat_channels(x, h), &self.back, same))
    }
}

const SIZE: [usize; 4] = [6, 3, 18, 20];

#[test]
fn a_row_is_the_same_in_every_batch() {
    let device = Device::flex();
    let (x, shift) = (random(SIZE, 11, &device), random([SIZE[0], 48], 12, &device));
    let row = |y: &Tensor<4>, i: usize| bits(y.clone().narrow(0, i, 1));
    for with in [With::F32, With::Bf16, With::Int8] {
        let layers = Layers::new(&device, with);
        // From the second run on, weights are packed, which must not change any bit.
        for run in 0..3 {
            let all = layers.forward(x.clone(), shift.clone());
            for i in 0..SIZE[0] {
                let one = layers.forward(x.clone().narrow(0, i, 1), shift.clone().narrow(0, i, 1));
                assert!(row(&one, 0) == row(&all, i), "{with:?}, run {run}: row {i} alone");
            }
            let three = layers.forward(x.clone().narrow(0, 2, 3), shift.clone().narrow(0, 2, 3));
            let same = (0..3).all(|i| row(&three, i) == row(&all, i + 2));
            assert!(same, "{with:?}, run {run}: three rows");
        }
    }
}

/// The output and all gradients.
fn step(with: With) -> Vec<Tensor<1>> {
    let layers = Layers::new(&Device::flex().autodiff(), with);
    let plain = Device::flex();
    let x: Tensor<4> = Tensor::from_inner(random(SIZE, 11, &plain)).require_grad();
    let shift: Tensor<2> = Tensor::from_inner(random([SIZE[0], 48], 12, &plain)).require_grad();
    let y = layers.forward(x.clone(), shift.clone());
    let gradients = (y.clone() * y.clone()).sum().backward();
    let mut found = vec![y.inner().flatten(0, 3)];
    found.push(x.grad(&gradients).expect("of x").flatten(0, 3));
    found.push(shift.grad(&gradients).expect("of the shift").flatten(0, 1));
    found.push(layers.query.grad(&gradients).expect("of the query").flatten(0, 1));
    found.push(layers.scale.grad(&gradients).expect("of the scale"));
    for w in [&layers.input, &layers.wide, &layers.down, &layers.back] {
        found.push(w.grad(&gradients).expect("of a weight").flatten(0, 3));
    }
    found
}

fn eight_bits() -> Tensor<4> {
    let device = Device::flex();
    let (x, shift) = (random(SIZE, 11, &device), random([SIZE[0], 48], 12, &device));
    Layers::new(&device, With::Int8).forward(x, shift)
}

#[test]
fn threads_change_no_bit() {
    type Results = fn() -> Vec<Tensor<1>>;
    let runs: [(&str, Results); 3] = [
        ("f32", || step(With::F32)),
        ("bf16", || step(With::Bf16)),
        ("int8", || vec![eight_bits().flatten(0, 3)]),
    ];
    for (name, results) in runs {
        let run = |threads: usize| -> Vec<Vec<u32>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| results().into_iter().map(bits).collect())
        };
        let one = run(1);
        for threads in [2, 3] {
            for (i, (a, b)) in one.iter().zip(run(threads)).enumerate() {
                assert!(*a == b, "{name}, {threads} threads: result {i}");
            }
        }
    }
}

fn norm(x: Tensor<1>) -> f64 {
    f64::from((x.clone() * x).sum().into_scalar::<f32>()).sqrt()
}

/// Every layer rounds to eight bits of precision, forward and backward.
#[test]
fn bf16_is_close_to_f32() {
    for (i, (half, full)) in step(With::Bf16).into_iter().zip(step(With::F32)).enumerate() {
        assert_eq!(half.dtype(), DType::F32, "result {i}");
        let off = norm(half - full.clone()) / norm(full);
        assert!(off > 0.0 && off < 0.02, "result {i} is off by {off:.1e}");
    }
}

#[test]
fn int8_is_close_to_f32() {
    let full = step(With::F32).swap_remove(0);
    let off = norm(eight_bits().flatten(0, 3) - full.clone()) / norm(full);
    assert!(off > 0.0 && off < 0.03, "off by {off:.1e}");
}
