//! Operators: adjoints, pseudo-inverses, decompositions, gradients, and what Pillow makes of the same images.

#![allow(clippy::unwrap_used)]

use std::{f64::consts::TAU, path::Path, sync::Arc};

use serde_json::Value;
use tweedie_pipe::operators::{
    Chain, Clip, Convolution, Jpeg, Lowpass, Magnitude, Mask, Matrix, Operator, Quantize, Separable, Stack,
    Sum, bicubic, boxes, gaussian, grey, resized,
};

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Values in `-1..1` that look random.
fn values(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|i| ((i * 7 + seed * 13 + 3) as f64 * 12.9898).sin() * 43758.5453 % 1.0).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}

fn convolution(dims: [usize; 3]) -> Convolution {
    // A short motion blur, which is not separable.
    let kernel = [0.0, 0.1, 0.3, 0.1, 0.6, 0.2, 0.4, 0.1, 0.0];
    Convolution::new(dims, [3, 3], &kernel).unwrap()
}

/// Linear operators on samples of one to three axes: signals, images and clips.
fn linear() -> Vec<(&'static str, Arc<dyn Operator>)> {
    let image = [3, 9, 12];
    let count = 3 * 9 * 12;
    let known: Vec<bool> = (0..count).map(|i| i % 5 != 2).collect();
    let frames: Vec<bool> = (0..2 * 6 * 4 * 4).map(|i| i / 16 % 6 != 3).collect();
    let small = bicubic(&image, 3);
    let few: Vec<bool> = (0..3 * 3 * 4).map(|i| i % 4 > 0).collect();
    let stack: Vec<Arc<dyn Operator>> = vec![Arc::new(grey(&image)), Arc::new(boxes(&image, 3))];
    vec![
        ("mask", Arc::new(Mask::new(&known))),
        ("missing frame", Arc::new(Mask::new(&frames))),
        ("box", Arc::new(boxes(&image, 4))),
        ("bicubic", Arc::new(small.clone())),
        ("bicubic signal", Arc::new(bicubic(&[2, 40], 4))),
        ("lowpass", Arc::new(Lowpass::new([2, 45], 0.4))),
        ("grey", Arc::new(grey(&image))),
        ("blur", Arc::new(gaussian(&image, 0.6))),
        ("blurred clip", Arc::new(gaussian(&[1, 4, 5, 6], 0.4))),
        ("kernel", Arc::new(convolution(image))),
        ("masked bicubic", Arc::new(Chain::new(Arc::new(small), Arc::new(Mask::new(&few))))),
        ("grey and box", Arc::new(Stack::new(stack))),
        (
            "sum",
            Arc::new(Sum::new(vec![
                (0.7, Arc::new(gaussian(&image, 0.5))),
                (0.3, Arc::new(convolution(image))),
            ])),
        ),
    ]
}

#[test]
fn adjoints_and_pseudo_inverses() {
    for (name, operator) in linear() {
        let a = operator.as_linear().unwrap();
        let (x, y) = (values(a.inputs(), 1), values(a.outputs(), 2));
        let (forward, back) = (dot(&a.apply(&x), &y), dot(&x, &a.adjoint(&y)));
        assert!((forward - back).abs() < 1e-10 * (1.0 + forward.abs()), "{name}: {forward} {back}");
        assert!(furthest(&a.pull(&x, &y), &a.adjoint(&y)) == 0.0, "{name}");
        // A·A⁺·A = A and A⁺·A·A⁺ = A⁺.
        let measured = a.apply(&x);
        let inverse = a.pseudo_inverse(&measured);
        assert!(furthest(&a.apply(&inverse), &measured) < 1e-7, "{name}");
        assert!(furthest(&a.pseudo_inverse(&a.apply(&inverse)), &inverse) < 1e-6, "{name}");
        // A projection moves no further than to the true sample.
        let near = operator.consistent(&values(a.inputs(), 3), &measured).unwrap();
        assert!(furthest(&a.apply(&near), &measured) < 1e-7, "{name}");
    }
}

/// `(a·A·Aᵀ + b)⁻¹` by the decomposition, by conjugate gradients and by definition.
#[test]
fn systems_are_solved() {
    for (name, operator) in linear() {
        let a = operator.as_linear().unwrap();
        let y = values(a.outputs(), 4);
        let x = a.solve(0.7, 0.2, &y);
        let back = a.apply(&a.adjoint(&x));
        let back: Vec<f64> = back.iter().zip(&x).map(|(p, x)| 0.7 * p + 0.2 * x).collect();
        assert!(furthest(&back, &y) < 1e-8, "{name}: {}", furthest(&back, &y));
        if let Some(s) = a.singular_values() {
            // U is orthogonal, and A·Aᵀ = U·S²·Uᵀ.
            let c = a.rotated(&y);
            assert!((dot(&c, &c) - dot(&y, &y)).abs() < 1e-9, "{name}");
            let c: Vec<f64> = c.iter().zip(s).map(|(c, s)| c * s * s).collect();
            assert!(furthest(&a.rotated_back(&c), &a.apply(&a.adjoint(&y))) < 1e-9, "{name}");
        }
    }
}

#[test]
fn matrices_multiply() {
    let a = Matrix::new(4, vec![(1, vec![2.0, -1.0]), (0, vec![1.0, 0.0, 0.0, 3.0])]);
    let b =
        Matrix::new(3, vec![(0, vec![1.0]), (1, vec![2.0, 1.0]), (0, vec![0.5, 0.5, 0.5]), (2, vec![4.0])]);
    let both = Separable::new(&[3, 2], vec![Some(a.after(&b)), None]);
    let x = values(6, 5);
    let one = Separable::new(&[3, 2], vec![Some(b), None]).apply(&x);
    let two = Separable::new(&[4, 2], vec![Some(a), None]).apply(&one);
    assert!(furthest(&both.apply(&x), &two) < 1e-15);
}

/// The gradient of the differentiable approximation by differences. Those of JPEG and quantization are not differentiable;
/// see below.
#[test]
fn gradients_are_those_of_the_measurement() {
    let image = [1, 6, 5];
    let operators: Vec<(&str, Box<dyn Operator>)> = vec![
        ("clip", Box::new(Clip { values: 30, range: [-0.4, 0.5] })),
        ("magnitude", Box::new(Magnitude::new(&image))),
        ("magnitude of a signal", Box::new(Magnitude::new(&[2, 15]))),
    ];
    for (name, a) in operators {
        let (x, v) = (values(30, 6), values(30, 7));
        let pulled = a.pull(&x, &v);
        for i in (0..30).step_by(3) {
            let at = |h: f64| {
                let mut x = x.clone();
                x[i] += h;
                dot(&a.apply(&x), &v)
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((slope - pulled[i]).abs() < 1e-6, "{name} {i}: {slope} {}", pulled[i]);
        }
    }
    // The transform is unitary, and its first magnitude the sum.
    let x = values(30, 8);
    let magnitude = Magnitude::new(&image).apply(&x);
    assert!((dot(&magnitude, &magnitude) - dot(&x, &x)).abs() < 1e-12);
    assert!((magnitude[0] - x.iter().sum::<f64>().abs() / 30f64.sqrt()).abs() < 1e-12);
}

#[test]
fn projections_of_rounded_values() {
    let x = values(64, 9);
    let quantize = Quantize { values: 64, levels: 5 };
    let y = quantize.apply(&x);
    assert!(y.iter().all(|v| (v * 2.0).fract() == 0.0) && furthest(&x, &y) <= 0.25);
    let clip = Clip { values: 64, range: [-0.3, 0.3] };
    let cut = clip.apply(&x);
    let other = values(64, 10);
    assert_eq!(quantize.apply(&quantize.consistent(&other, &y).unwrap()), y);
    assert_eq!(clip.apply(&clip.consistent(&other, &cut).unwrap()), cut);
    assert_eq!(quantize.consistent(&x, &y).unwrap(), x);
    // A clipped signal with a gap.
    let known: Vec<bool> = (0..cut.len()).map(|i| i % 4 != 1).collect();
    let chain = Chain::new(Arc::new(clip), Arc::new(Mask::new(&known)));
    let part = chain.apply(&x);
    assert_eq!(chain.apply(&chain.consistent(&other, &part).unwrap()), part);
    assert_eq!(quantize.pull(&x, &other), other);
}

fn pillow() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/operators/pillow.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Nested lists as values.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(flat).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

#[test]
fn images_shrink_as_in_pillow() {
    let golden = pillow();
    for (key, shrink) in [("bicubic", bicubic as fn(&[usize], usize) -> Separable), ("box", boxes)] {
        for case in golden[key].as_array().unwrap() {
            let [height, width, factor]: [usize; 3] = serde_json::from_value(case["from"].clone()).unwrap();
            let byte =
                |i: usize| ((i % width * 37 + i / width * 101 + i % width * (i / width) * 7) % 256) as f64;
            let x: Vec<f64> = (0..height * width).map(byte).collect();
            let small = shrink(&[1, height, width], factor);
            assert_eq!(small.measured(), [1, height.div_ceil(factor), width.div_ceil(factor)]);
            // Pillow stores values between both passes, and results, in 32 bits.
            let error = furthest(&small.apply(&x), &flat(&case["values"]));
            assert!(error < 1e-4, "{key} {height}×{width}/{factor}: {error}");
        }
    }
}

#[test]
fn images_grow_as_in_pillow() {
    for case in pillow()["enlarged"].as_array().unwrap() {
        let [height, width]: [usize; 2] = serde_json::from_value(case["from"].clone()).unwrap();
        let to: [usize; 2] = serde_json::from_value(case["to"].clone()).unwrap();
        let byte = |i: usize| ((i % width * 37 + i / width * 101 + i % width * (i / width) * 7) % 256) as f64;
        let x: Vec<f64> = (0..height * width).map(byte).collect();
        let error = furthest(&resized(&[1, height, width], &to).apply(&x), &flat(&case["values"]));
        assert!(error < 1e-4, "{height}×{width} to {to:?}: {error}");
    }
}

/// `[H, W, C]` bytes as `[C, H, W]` in `-1..=1`.
fn planes(value: &Value, channels: usize) -> Vec<f64> {
    let bytes = flat(value);
    let plane = |c: usize| bytes.iter().skip(c).step_by(channels).map(|v| v / 127.5 - 1.0);
    (0..channels).flat_map(plane).collect()
}

#[test]
fn grey_is_pillows() {
    let golden = pillow();
    let found = grey(&[3, 19, 37]).apply(&planes(&golden["smooth"], 3));
    // Pillow rounds to bytes.
    assert!(furthest(&found, &planes(&golden["grey"], 1)) < 0.51 / 127.5);
}

#[test]
fn jpeg_is_pillows_except_for_rounding() {
    let golden = pillow();
    let colors = planes(&golden["smooth"], 3);
    let grey = planes(&golden["grey"], 1);
    for case in golden["jpeg_grey"].as_array().unwrap() {
        let quality = case["quality"].as_u64().unwrap() as u8;
        let jpeg = Jpeg::new([1, 19, 37], quality).unwrap();
        let expected = planes(&case["values"], 1);
        // Bytes are rounded, and coefficients next to the middle of two steps differ with libjpeg's integers.
        let found = jpeg.apply(&grey);
        let wrong = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 1.51 / 127.5).count();
        assert!(wrong <= 64, "{quality}: {wrong} of {} values", found.len());
        // The file's own image is its projection, and other images get near it.
        let other: Vec<f64> = grey.iter().map(|v| v * 0.8 + 0.1).collect();
        let near = jpeg.consistent(&other, &expected).unwrap();
        let rms = |a: &[f64], b: &[f64]| {
            (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
        };
        assert!(rms(&near, &expected) < rms(&other, &expected), "{quality}");
    }
    for case in golden["jpeg"].as_array().unwrap() {
        let quality = case["quality"].as_u64().unwrap() as u8;
        let found = Jpeg::new([3, 19, 37], quality).unwrap().apply(&colors);
        let expected = planes(&case["values"], 3);
        // libjpeg interpolates chroma; here every chroma pixel is repeated.
        let rms = (found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
            / found.len() as f64)
            .sqrt();
        assert!(rms < 5.0 / 127.5, "{quality}: {}", rms * 127.5);
    }
    assert!(
        Jpeg::new([3, 8, 8], 0).is_err()
            && Jpeg::new([3, 8, 8], 101).is_err()
            && Jpeg::new([2, 8, 8], 50).is_err()
    );
}

/// The slope of Shin & Song's rounding, `3·(c − ⌊c⌉)²`, and all linear steps around it, by the definition on a grey block
/// whose single coefficient is known: a cosine wave.
#[test]
fn jpeg_has_the_gradient_of_soft_rounding() {
    let jpeg = Jpeg::new([1, 8, 8], 50).unwrap();
    // Coefficient (0, 2) with the step 10: a wave of amplitude a has c = a·127.5·8/(10·√8·…) steps.
    let wave: Vec<f64> = (0..64).map(|i| (TAU * (2 * (i % 8) + 1) as f64 * 2.0 / 32.0).cos()).collect();
    let norm = dot(&wave, &wave).sqrt();
    let amplitude = 0.2;
    let x: Vec<f64> = wave.iter().map(|w| amplitude * w + 0.5 / 127.5).collect();
    let c = amplitude * 127.5 * norm / 10.0;
    let direction: Vec<f64> = wave.iter().map(|w| w / norm).collect();
    let pulled = jpeg.pull(&x, &direction);
    let expected = 3.0 * (c - c.round()).powi(2);
    assert!((dot(&pulled, &direction) - expected).abs() < 1e-9, "{} {expected}", dot(&pulled, &direction));
    // <J·u, v> = <u, Jᵀ·v> also with colours, odd sizes and padding: the soft JPEG is one function with two pullbacks.
    let jpeg = Jpeg::new([3, 11, 13], 60).unwrap();
    let count = 3 * 11 * 13;
    let (x, u, v) = (values(count, 11), values(count, 12), values(count, 13));
    let h = 1e-7;
    let soft = |h: f64| jpeg.soft(&x.iter().zip(&u).map(|(x, u)| x + h * u).collect::<Vec<_>>());
    let slope: Vec<f64> = soft(h).iter().zip(&soft(-h)).map(|(a, b)| (a - b) / (2.0 * h)).collect();
    let (forward, back) = (dot(&slope, &v), dot(&u, &jpeg.pull(&x, &v)));
    assert!((forward - back).abs() < 1e-5 * (1.0 + forward.abs()), "{forward} {back}");
}

#[test]
fn kernels_are_checked() {
    for (size, weights) in [([2, 3], vec![1.0; 6]), ([3, 3], vec![1.0; 8]), ([1, 3], vec![1.0, -2.0, 1.0])] {
        assert!(Convolution::new([1, 4, 4], size, &weights).is_err(), "{size:?}");
    }
    // A Gaussian kernel is the separable blur.
    let gauss = |d: f64| (-0.5 * (d / 0.5f64).powi(2)).exp();
    let kernel: Vec<f64> =
        (0..25).map(|i| gauss((i / 5) as f64 - 2.0) * gauss((i % 5) as f64 - 2.0)).collect();
    let dims = [2, 7, 6];
    let x = values(84, 14);
    let direct = Convolution::new(dims, [5, 5], &kernel).unwrap().apply(&x);
    assert!(furthest(&direct, &gaussian(&dims, 0.5).apply(&x)) < 1e-12);
}
