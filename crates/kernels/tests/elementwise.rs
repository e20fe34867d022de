//! GELU compared with its definition by the error function.

mod common;

use common::{every_isa, numbers};
use tweedie_kernels::elementwise::{gelu, gelu_gradient};

/// `Φ(x)`, by Simpson's rule from 0.
fn distribution(x: f64) -> f64 {
    let bell = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (n, h) = (2000, x / 2000.0);
    let inner: f64 = (1..n).map(|i| bell(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + h / 3.0 * (bell(0.0) + inner + bell(x))
}

#[test]
fn gelu_matches() {
    for len in [1, 16, 77, 1000] {
        let x: Vec<f32> = numbers(len, 1).iter().map(|v| v * 9.0).collect();
        let dy = numbers(len, 2);
        every_isa(|isa| {
            let (mut y, mut dx) = (vec![f32::NAN; len], vec![f32::NAN; len]);
            gelu(isa, &x, &mut y);
            gelu_gradient(isa, &x, &dy, &mut dx);
            for i in 0..len {
                let (v, g) = (f64::from(x[i]), f64::from(dy[i]));
                let bell = (-0.5 * v * v).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let (want, slope) = (v * distribution(v), distribution(v) + v * bell);
                assert!(
                    (f64::from(y[i]) - want).abs() < 1e-6 * want.abs() + 1e-9,
                    "gelu({v}) = {} for {want}",
                    y[i]
                );
                assert!((f64::from(dx[i]) - g * slope).abs() < 1e-6, "gelu'({v}), {}", isa.name());
            }
        });
    }
    every_isa(|isa| {
        let x = [f32::NAN, f32::INFINITY, -20.0, 0.0, 1e30];
        let (mut y, mut dx) = ([1.0; 5], [1.0; 5]);
        gelu(isa, &x, &mut y);
        gelu_gradient(isa, &x, &[1.0; 5], &mut dx);
        assert!(y[0].is_nan() && dx[0].is_nan());
        assert!(
            y[2].abs() < 1e-30 && y[3] == 0.0 && y[4] == 1e30 && dx[2].abs() < 1e-6 && dx[3] == 0.5,
            "{y:?} {dx:?}"
        );
    });
}
