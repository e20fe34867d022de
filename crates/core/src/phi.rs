//! The φ-functions of exponential integrators, and small linear systems.
//!
//! `φ_0(z) = e^z`, `φ_{k+1}(z) = (φ_k(z) − 1/k!)/z`; equivalently `k!·φ_{k+1}(z) = ∫₀¹ e^{z(1−r)} r^k dr`.
//! Hochbruck & Ostermann 2010, Acta Numerica 19.

/// `φ_k(z)` for `k ≥ 0` and any `z`; by its series for small `z`, where the recurrence cancels.
pub fn phi(k: usize, z: f64) -> f64 {
    match k {
        0 => z.exp(),
        _ if z.abs() < 1.5 => {
            let mut term = 1.0 / factorial(k);
            let mut sum = term;
            for n in 1..40 {
                term *= z / (n + k) as f64;
                sum += term;
                if term.abs() <= f64::EPSILON * sum.abs() {
                    break;
                }
            }
            sum
        }
        1 => z.exp_m1() / z,
        _ => (phi(k - 1, z) - 1.0 / factorial(k - 1)) / z,
    }
}

/// `k!`.
pub fn factorial(k: usize) -> f64 {
    (1..=k).map(|i| i as f64).product()
}

/// The weights `w` of values at `nodes` that integrate polynomials exactly: `Σ wᵢ·nodesᵢʲ = moment(j)` for
/// every `j` below the number of nodes. Nodes must be distinct and few.
pub fn weights(nodes: &[f64], moment: impl Fn(usize) -> f64) -> Vec<f64> {
    let rows = (0..nodes.len()).map(|j| nodes.iter().map(|r| r.powi(j as i32)).collect()).collect();
    solve(rows, (0..nodes.len()).map(moment).collect())
}

/// Solves `a·x = b` by Gaussian elimination with pivoting. The result is not finite if `a` is singular.
pub fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for column in 0..n {
        let pivot =
            (column..n).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs())).unwrap_or(column);
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..n {
            let factor = a[row][column] / a[column][column];
            let (above, below) = a.split_at_mut(row);
            for (x, y) in below[0].iter_mut().zip(&above[column]).skip(column) {
                *x -= factor * y;
            }
            b[row] -= factor * b[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|j| a[row][j] * b[j]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_and_recurrence_meet() {
        for k in 1..6 {
            for z in [-40.0, -1.5, -1.4999999999, -1e-9, 0.0, 1e-9, 1.4999999999, 1.5, 7.0] {
                // Simpson's rule on the integral.
                let n = 20_000;
                let f = |i: usize| {
                    let r = i as f64 / n as f64;
                    (z * (1.0 - r)).exp() * r.powi(k as i32 - 1)
                };
                let inner: f64 = (1..n).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * f(i)).sum();
                let integral = (f(0) + inner + f(n)) / (3 * n) as f64 / factorial(k - 1);
                let error = (phi(k, z) / integral - 1.0).abs();
                assert!(error < 1e-9, "phi_{k}({z}) is off by {error:e}");
            }
        }
        assert_eq!(phi(3, f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn weights_are_simpsons() {
        let w = weights(&[0.0, 0.5, 1.0], |j| 1.0 / (j as f64 + 1.0));
        for (w, e) in w.iter().zip([1.0 / 6.0, 4.0 / 6.0, 1.0 / 6.0]) {
            assert!((w - e).abs() < 1e-15);
        }
    }
}
