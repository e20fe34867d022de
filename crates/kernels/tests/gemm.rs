//! Matrix products compared with `f64`.

mod common;

use common::{bits, close, every_isa, numbers, same_on_any_threads};
use tweedie_kernels::gemm::{Added, Matrix, Packed, product, transposed_product};

fn reference(
    m: usize,
    k: usize,
    n: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let term = |i: usize, j: usize, l: usize| f64::from(a(i, l)) * f64::from(b(l, j));
    (0..m * n).map(|at| (0..k).map(|l| term(at / n, at % n, l)).sum()).collect()
}

#[test]
fn products_match() {
    for (m, k, n) in [(1, 1, 1), (5, 7, 3), (12, 16, 32), (13, 33, 17), (97, 65, 49), (200, 300, 96)] {
        let (a, b, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
        every_isa(|isa| {
            let what = format!("{m}x{k}x{n}, {}", isa.name());
            let mut out = vec![f32::NAN; m * n];
            let plain = reference(m, k, n, |i, l| a[i * k + l], |l, j| b[l * n + j]);
            product(isa, Matrix::new(&a, m, k), Matrix::new(&b, k, n), None, &mut out);
            close(&out, &plain, 1e-5, &what);
            let turned = reference(m, k, n, |i, l| a[i * k + l], |l, j| b[j * k + l]);
            let turned: Vec<f64> =
                turned.iter().enumerate().map(|(i, v)| v + f64::from(bias[i % n])).collect();
            product(isa, Matrix::new(&a, m, k), Matrix::new(&b, n, k).t(), Some(&bias), &mut out);
            close(&out, &turned, 1e-5, &what);
            let mut again = vec![f32::NAN; m * n];
            let packed = Packed::new(isa, Matrix::new(&b, n, k).t());
            let added = Added { bias: Some(&bias), residual: None };
            packed.product(Matrix::new(&a, m, k), added, &mut again);
            assert!(bits(&again) == bits(&out), "{what}, packed");
            let mut out = vec![f32::NAN; k * n];
            let c = numbers(m * n, 4);
            let inner = reference(k, m, n, |i, l| a[l * k + i], |l, j| c[l * n + j]);
            transposed_product(isa, Matrix::new(&a, m, k), Matrix::new(&c, m, n), &mut out);
            close(&out, &inner, 1e-5, &what);
        });
    }
}

#[test]
fn a_row_is_the_same_in_every_product() {
    let (k, n) = (70, 130);
    let (a, b) = (numbers(300 * k, 1), numbers(k * n, 2));
    every_isa(|isa| {
        let run = |a: &[f32]| {
            let m = a.len() / k;
            let mut out = vec![0.0; m * n];
            product(isa, Matrix::new(a, m, k), Matrix::new(&b, k, n), None, &mut out);
            out
        };
        let all = run(&a);
        for i in [0, 95, 299] {
            assert!(bits(&run(&a[i * k..(i + 1) * k])) == bits(&all[i * n..(i + 1) * n]), "row {i}");
        }
        same_on_any_threads("product", || run(&a));
    });
}
