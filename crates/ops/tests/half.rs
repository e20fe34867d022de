//! Operations on `bf16` activations compared with those in `f32`, forward and backward.

mod common;

use burn::tensor::{Device, Tensor};
use common::{random, values};
use tweedie_ops::{self as ops, Added, ConvOptions, ExecContext, Kernel, Maps, Norm};

/// Largest RMS of the difference, relative to the RMS of the expected result.
const TOLERANCE: f32 = 2e-2;

#[track_caller]
fn close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|d| d * d).sum::<f32>().sqrt();
    let off = norm(&mut got.iter().zip(want).map(|(g, w)| g - w)) / norm(&mut want.iter().copied());
    assert!(off < TOLERANCE, "{what}: off by {off} of the root mean square");
}

/// `f` gets the inputs, the first `rounded` of which are optionally `bf16`; results and gradients are compared.
fn compare<const D: usize, const N: usize>(
    what: &str,
    shapes: [[usize; D]; N],
    rounded: &[usize],
    f: impl Fn([Tensor<D>; N]) -> Tensor<D>,
) {
    let device = Device::flex().autodiff();
    let run = |half: bool| {
        let inputs: [Tensor<D>; N] =
            std::array::from_fn(|i| random(shapes[i], i as u64 + 1, &device).require_grad());
        let given = std::array::from_fn(|i| match half && rounded.contains(&i) {
            true => ops::to_bf16(inputs[i].clone()),
            false => inputs[i].clone(),
        });
        let y = ops::to_f32(f(given));
        let by = random(y.dims(), 99, &device.clone().inner());
        let gradients = (y.clone() * Tensor::from_inner(by)).sum().backward();
        let of = |x: &Tensor<D>| values(&x.grad(&gradients).expect("a gradient"));
        (values(&y), inputs.iter().map(of).collect::<Vec<_>>())
    };
    let ((y, dx), (y0, dx0)) = (run(true), run(false));
    close(&y, &y0, what);
    for (i, (d, d0)) in dx.iter().zip(&dx0).enumerate() {
        close(d, d0, &format!("{what}, gradient {i}"));
    }
}

#[test]
fn tokens() {
    let flat = |x: Tensor<3>| -> Tensor<1> { x.reshape([40]) };
    compare("layer norm", [[3, 7, 40], [1, 1, 40], [1, 1, 40]], &[0], |[x, w, b]| {
        ops::layer_norm(x, flat(w), flat(b), 1e-5)
    });
    compare("geglu", [[2, 37, 42]], &[0], |[x]| ops::geglu(x));
    compare("gelu", [[2, 37, 42]], &[0], |[x]| ops::gelu(x));
    compare("linear and residual", [[2, 9, 24], [1, 33, 24], [2, 9, 33]], &[0, 2], |[x, w, r]| {
        ops::linear_add(x, w.reshape([33, 24]), None, r)
    });
}

fn vector(x: Tensor<4>) -> Tensor<1> {
    let n = x.dims()[1];
    x.reshape([n])
}

fn pairs(x: Tensor<4>) -> Tensor<2> {
    let [b, c, ..] = x.dims();
    x.reshape([b, c])
}

#[test]
fn maps() {
    let shapes = [
        [2, 14, 6, 5],
        [2, 10, 6, 5],
        [1, 24, 1, 1],
        [1, 24, 1, 1],
        [2, 24, 1, 1],
        [2, 24, 1, 1],
        [16, 24, 3, 3],
        [1, 16, 1, 1],
        [2, 16, 1, 1],
        [2, 16, 6, 5],
    ];
    for recompute in [false, true] {
        compare("a layer", shapes, &[0, 1, 9], |[x, y, nw, nb, ns, nt, w, b, s, r]| {
            let norm = Norm {
                groups: 4,
                weight: vector(nw),
                bias: vector(nb),
                eps: 1e-5,
                scale_shift: Some([pairs(ns), pairs(nt)]),
                silu: true,
            };
            let kernel = Kernel { weight: w, bias: Some(vector(b)), options: ConvOptions::same(1) };
            let added = Added { shift: Some(pairs(s)), residual: Some(r) };
            let context = ExecContext { recompute, ..ExecContext::default() };
            context.run(|| ops::norm_conv2d(Maps { x, skip: Some(y) }, norm, kernel, added))
        });
    }
    compare("two maps", [[2, 12, 6, 5], [2, 8, 6, 5], [16, 20, 1, 1]], &[0, 1], |[x, y, w]| {
        ops::conv2d(Maps { x, skip: Some(y) }, w, None, ConvOptions::same(0))
    });
    compare("doubled maps", [[2, 16, 5, 4], [24, 16, 3, 3]], &[0], |[x, w]| {
        let kernel = Kernel { weight: w, bias: None, options: ConvOptions::same(1) };
        ops::upsample_conv2d(x, [10, 8], kernel, Added::default())
    });
}
