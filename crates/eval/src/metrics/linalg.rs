//! Linear algebra for the scores, in `f64`. Matrices are row-major.

use rayon::prelude::*;

/// `a·bᵀ` of rows of `k` values: `[rows of a, rows of b]`. The order of each sum is fixed.
pub fn products(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let columns = b.len() / k;
    let mut out = vec![0.0; a.len() / k * columns];
    if columns == 0 {
        return out;
    }
    // Tiles of 4×4 results read each value a quarter as often.
    out.par_chunks_mut(4 * columns).zip(a.par_chunks(4 * k)).for_each(|(out, a)| {
        let left: Vec<&[f64]> = a.chunks_exact(k).collect();
        for (tile, b) in b.chunks(4 * k).enumerate() {
            let right: Vec<&[f64]> = b.chunks_exact(k).collect();
            if let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (&left[..], &right[..]) {
                let sums = tile_of_16([a0, a1, a2, a3], [b0, b1, b2, b3]);
                for (i, row) in sums.iter().enumerate() {
                    let at = i * columns + 4 * tile;
                    out[at..at + 4].copy_from_slice(row);
                }
                continue;
            }
            for (i, x) in left.iter().enumerate() {
                for (j, y) in right.iter().enumerate() {
                    out[i * columns + 4 * tile + j] = dot(x, y);
                }
            }
        }
    });
    out
}

fn tile_of_16(a: [&[f64]; 4], b: [&[f64]; 4]) -> [[f64; 4]; 4] {
    let k = a[0].len();
    let (a, b) = (a.map(|row| &row[..k]), b.map(|row| &row[..k]));
    let mut sums = [[0.0; 4]; 4];
    for s in 0..k {
        for (row, a) in sums.iter_mut().zip(&a) {
            row.iter_mut().zip(&b).for_each(|(sum, b)| *sum += a[s] * b[s]);
        }
    }
    sums
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let lanes = |(a, b): (&[f64], &[f64])| std::array::from_fn::<f64, 4, _>(|i| a[i] * b[i]);
    let mut sums = [0.0; 4];
    for pair in a.chunks_exact(4).zip(b.chunks_exact(4)) {
        let add = lanes(pair);
        (0..4).for_each(|i| sums[i] += add[i]);
    }
    let rest = a.chunks_exact(4).remainder().iter().zip(b.chunks_exact(4).remainder());
    sums.iter().sum::<f64>() + rest.map(|(a, b)| a * b).sum::<f64>()
}

/// The transpose of `[rows, columns]`.
pub fn transposed(matrix: &[f64], columns: usize) -> Vec<f64> {
    let rows = matrix.len() / columns.max(1);
    let mut out = vec![0.0; matrix.len()];
    for (i, row) in matrix.chunks_exact(columns).enumerate() {
        for (j, v) in row.iter().enumerate() {
            out[j * rows + i] = *v;
        }
    }
    out
}

/// `Lᵀ` with `A = L·Lᵀ`, as `[rank, n]`, of a positive semidefinite matrix: Cholesky decomposition with pivoting, which ends
/// when only rounding errors are left.
pub fn factor(matrix: &[f64], n: usize) -> Vec<f64> {
    let mut diagonal: Vec<f64> = (0..n).map(|i| matrix[i * n + i]).collect();
    let limit = diagonal.iter().cloned().fold(0.0, f64::max) * n as f64 * f64::EPSILON;
    // Columns of L, stored as rows.
    let mut rows: Vec<f64> = Vec::new();
    while rows.len() < n * n {
        let largest = (0..n).max_by(|&i, &j| diagonal[i].total_cmp(&diagonal[j]));
        let Some(p) = largest.filter(|&p| diagonal[p] > limit) else { break };
        let pivot = diagonal[p].sqrt();
        let mut next = matrix[p * n..(p + 1) * n].to_vec();
        next.par_chunks_mut(256).enumerate().for_each(|(chunk, out)| {
            let start = 256 * chunk;
            for row in rows.chunks_exact(n) {
                let at = row[p];
                out.iter_mut().zip(&row[start..]).for_each(|(v, l)| *v -= at * l);
            }
            out.iter_mut().for_each(|v| *v /= pivot);
        });
        next[p] = pivot;
        diagonal.iter_mut().zip(&next).for_each(|(d, l)| *d -= l * l);
        diagonal[p] = f64::NEG_INFINITY;
        rows.extend(next);
    }
    rows
}

/// The eigenvalues of a symmetric matrix, unordered: Householder tridiagonalization, then the QL algorithm with implicit
/// shifts (Golub and Van Loan, chapter 8).
pub fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    for k in (1..n).rev() {
        // Row k left of the diagonal is turned onto its last entry.
        let (above, row) = a.split_at_mut(k * n);
        diagonal[k] = row[k];
        let v = &mut row[..k];
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            continue;
        }
        let alpha = if v[k - 1] > 0.0 { -norm } else { norm };
        beside[k - 1] = alpha;
        v[k - 1] -= alpha;
        let h = v.iter().map(|x| x * x).sum::<f64>() / 2.0;
        if h == 0.0 {
            continue;
        }
        let v = &*v;
        // A ← (1 - vvᵀ/h)·A·(1 - vvᵀ/h) = A - v·qᵀ - q·vᵀ with p = A·v/h, q = p - v·(vᵀp)/2h.
        let p: Vec<f64> = above.par_chunks(n).with_min_len(32).map(|row| dot(&row[..k], v) / h).collect();
        let half = dot(&p, v) / (2.0 * h);
        let q: Vec<f64> = p.iter().zip(v).map(|(p, v)| p - half * v).collect();
        above.par_chunks_mut(n).with_min_len(32).enumerate().for_each(|(i, row)| {
            let (vi, qi) = (v[i], q[i]);
            row[..k].iter_mut().zip(v.iter().zip(&q)).for_each(|(a, (v, q))| *a -= vi * q + qi * v);
        });
    }
    if n > 0 {
        diagonal[0] = a[0];
    }
    ql(&mut diagonal, &mut beside);
    diagonal
}

/// Replaces the tridiagonal matrix, with `beside[i]` next to `diagonal[i]` and `diagonal[i + 1]`, by its eigenvalues.
fn ql(diagonal: &mut [f64], beside: &mut [f64]) {
    let n = diagonal.len();
    let (d, e) = (diagonal, beside);
    for l in 0..n {
        // Each eigenvalue takes about two iterations; the limit guards against no convergence.
        for _ in 0..60 {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            let mut g = d[m] - d[l] + e[l] / (g + if g >= 0.0 { r } else { -r });
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_core::noise::fill_normal;

    fn normal(seed: u64, n: usize) -> Vec<f64> {
        let mut values = vec![0f32; n];
        fill_normal(seed, 0, &mut values);
        values.into_iter().map(f64::from).collect()
    }

    #[test]
    fn products_of_every_shape() {
        for (m, n, k) in [(1, 1, 1), (4, 4, 9), (5, 7, 3), (8, 9, 64), (3, 0, 2)] {
            let (a, b) = (normal(1, m * k), normal(2, n * k));
            let found = products(&a, &b, k);
            for i in 0..m {
                for j in 0..n {
                    let expected: f64 = (0..k).map(|s| a[i * k + s] * b[j * k + s]).sum();
                    assert!((found[i * n + j] - expected).abs() < 1e-12, "{m} {n} {k}");
                }
            }
        }
    }

    /// Invariant: the sum of powers of the eigenvalues is the trace of the powers.
    #[test]
    fn eigenvalues_have_the_traces() {
        for n in [1, 2, 3, 17, 64] {
            let x = normal(3, n * n);
            let a = products(&x, &x, n);
            let found = eigenvalues(a.clone(), n);
            let trace = |m: &[f64]| (0..n).map(|i| m[i * n + i]).sum::<f64>();
            let square = products(&a, &a, n);
            let cube = products(&square, &a, n);
            for (power, expected) in [(1, trace(&a)), (2, trace(&square)), (3, trace(&cube))] {
                let sum: f64 = found.iter().map(|v| v.powi(power)).sum();
                assert!((sum - expected).abs() < 1e-11 * expected, "{n} {power}: {sum} {expected}");
            }
        }
        assert_eq!(eigenvalues(vec![3.0, 0.0, 0.0, -2.0], 2), [3.0, -2.0]);
        assert!(eigenvalues(Vec::new(), 0).is_empty());
    }

    #[test]
    fn factors_of_whole_and_of_lower_rank() {
        let (n, rank) = (30, 11);
        for k in [rank, n + 5] {
            let x = normal(4, n * k);
            let a = products(&x, &x, k);
            let l = factor(&a, n);
            assert_eq!(l.len(), n * k.min(n));
            let l = transposed(&l, n);
            let back = products(&l, &l, k.min(n));
            let scale = a.iter().cloned().fold(0.0, f64::max);
            assert!(back.iter().zip(&a).all(|(b, a)| (b - a).abs() < 1e-12 * scale));
        }
        assert!(factor(&[0.0; 9], 3).is_empty());
    }
}
