//! Linear operators that act on one axis after the other: grey from colour, shrinking, separable blur.
//!
//! Their matrix is the Kronecker product of one matrix per axis, so the singular value decompositions of these small
//! matrices are that of the operator.

use std::sync::{Arc, OnceLock};

use super::{Linear, Operator, symmetric::eigen};

/// A matrix that is applied along an axis. Rows are stored without the zeros at both ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    columns: usize,
    /// The first column with a value, and the values.
    rows: Vec<(usize, Vec<f64>)>,
}

impl Matrix {
    /// The matrix with `columns` columns, whose rows have these values from these columns on.
    ///
    /// # Panics
    /// If there is no row, or a row ends after the last column.
    pub fn new(columns: usize, rows: Vec<(usize, Vec<f64>)>) -> Self {
        assert!(!rows.is_empty() && rows.iter().all(|(first, row)| first + row.len() <= columns));
        Self { columns, rows }
    }

    /// Number of rows: the values after it is applied.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Number of columns: the values before it is applied.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `self·other`.
    ///
    /// # Panics
    /// If `other` has not as many rows as this has columns.
    pub fn after(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows());
        let product = |(first, weights): &(usize, Vec<f64>)| {
            let mut row = vec![0.0; other.columns];
            for (k, w) in weights.iter().enumerate() {
                let (start, values) = &other.rows[first + k];
                for (j, v) in values.iter().enumerate() {
                    row[start + j] += w * v;
                }
            }
            let start = row.iter().position(|v| *v != 0.0).unwrap_or(0);
            let end = row.iter().rposition(|v| *v != 0.0).map_or(start, |last| last + 1);
            (start, row[start..end].to_vec())
        };
        Self { columns: other.columns, rows: self.rows.iter().map(product).collect() }
    }

    /// `(U, S)` of `U·S·Vᵀ`, with `U` in rows.
    fn decomposed(&self) -> Decomposed {
        let n = self.rows();
        let mut gram = vec![0.0; n * n];
        for (i, (a, left)) in self.rows.iter().enumerate() {
            for (j, (b, right)) in self.rows.iter().enumerate().take(i + 1) {
                let (from, to) = ((*a).max(*b), (a + left.len()).min(b + right.len()));
                let sum = (from..to).map(|k| left[k - a] * right[k - b]).sum();
                (gram[i * n + j], gram[j * n + i]) = (sum, sum);
            }
        }
        let (values, basis) = eigen(gram, n);
        Decomposed { values: values.into_iter().map(|v| v.max(0.0).sqrt()).collect(), basis }
    }
}

#[derive(Debug)]
struct Decomposed {
    values: Vec<f64>,
    /// `U`, `n × n` in rows.
    basis: Vec<f64>,
}

/// One matrix per axis; `None` leaves an axis as it is.
#[derive(Clone, Debug)]
pub struct Separable {
    from: Vec<usize>,
    to: Vec<usize>,
    axes: Vec<Option<Arc<Matrix>>>,
    spectrum: Arc<OnceLock<Spectrum>>,
}

/// The decompositions of the axes, and the singular values of their product.
#[derive(Debug)]
struct Spectrum {
    axes: Vec<Option<Decomposed>>,
    values: Vec<f64>,
}

impl Separable {
    /// The operator on samples of these dimensions, channels first.
    ///
    /// # Panics
    /// If a matrix has not as many columns as its axis has values, or there is not one for each axis.
    pub fn new(dims: &[usize], axes: Vec<Option<Matrix>>) -> Self {
        assert_eq!(dims.len(), axes.len(), "a matrix or none for each axis");
        let axes: Vec<Option<Arc<Matrix>>> = axes.into_iter().map(|m| m.map(Arc::new)).collect();
        let to = dims.iter().zip(&axes).map(|(n, matrix)| match matrix {
            Some(matrix) => {
                assert_eq!(matrix.columns, *n, "a matrix fits its axis");
                matrix.rows()
            }
            None => *n,
        });
        Self { from: dims.to_vec(), to: to.collect(), axes, spectrum: Arc::default() }
    }

    /// The dimensions of the measurement.
    pub fn measured(&self) -> &[usize] {
        &self.to
    }

    /// The operator that applies `first` and then this one.
    ///
    /// # Panics
    /// If the measurement of the first is not a sample of this.
    pub fn after(&self, first: &Self) -> Self {
        assert_eq!(first.to, self.from, "this operator measures the first's result");
        let both = |(own, first): (&Option<Arc<Matrix>>, &Option<Arc<Matrix>>)| match (own, first) {
            (Some(own), Some(first)) => Some(own.after(first)),
            (one, None) | (None, one) => one.as_deref().cloned(),
        };
        Self::new(&first.from, self.axes.iter().zip(&first.axes).map(both).collect())
    }

    fn spectrum(&self) -> &Spectrum {
        self.spectrum.get_or_init(|| {
            let parts: Vec<_> = self.axes.iter().map(|m| m.as_ref().map(|m| m.decomposed())).collect();
            let mut values = vec![1.0];
            for (part, n) in parts.iter().zip(&self.to) {
                let axis = |k: usize| part.as_ref().map_or(1.0, |p| p.values[k]);
                values = values.iter().flat_map(|v| (0..*n).map(move |k| v * axis(k))).collect();
            }
            Spectrum { axes: parts, values }
        })
    }

    fn rotate(&self, y: &[f64], back: bool) -> Vec<f64> {
        let mut y = y.to_vec();
        for (axis, part) in self.spectrum().axes.iter().enumerate() {
            let Some(Decomposed { values, basis }) = part else { continue };
            let n = values.len();
            y = along(&y, &self.to, axis, n, |line, out| {
                for (k, out) in out.iter_mut().enumerate() {
                    let at = |i: usize| if back { basis[k * n + i] } else { basis[i * n + k] };
                    *out = line.iter().enumerate().map(|(i, v)| at(i) * v).sum();
                }
            });
        }
        y
    }
}

/// Applies `f` to every line along `axis`, which has `count` values afterwards.
fn along(
    x: &[f64],
    dims: &[usize],
    axis: usize,
    count: usize,
    mut f: impl FnMut(&[f64], &mut [f64]),
) -> Vec<f64> {
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    let n = dims[axis];
    let mut y = vec![0.0; outer * count * inner];
    let (mut line, mut out) = (vec![0.0; n], vec![0.0; count]);
    for o in 0..outer {
        for i in 0..inner {
            for (k, v) in line.iter_mut().enumerate() {
                *v = x[(o * n + k) * inner + i];
            }
            f(&line, &mut out);
            for (k, v) in out.iter().enumerate() {
                y[(o * count + k) * inner + i] = *v;
            }
        }
    }
    y
}

impl Operator for Separable {
    fn inputs(&self) -> usize {
        self.from.iter().product()
    }

    fn outputs(&self) -> usize {
        self.to.iter().product()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let (mut x, mut dims) = (x.to_vec(), self.from.clone());
        for (axis, matrix) in self.axes.iter().enumerate() {
            let Some(matrix) = matrix else { continue };
            x = along(&x, &dims, axis, matrix.rows(), |line, out| {
                for ((first, row), out) in matrix.rows.iter().zip(out) {
                    *out = row.iter().zip(&line[*first..]).map(|(w, v)| w * v).sum();
                }
            });
            dims[axis] = matrix.rows();
        }
        x
    }

    fn pull(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.adjoint(v)
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Separable {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        let (mut y, mut dims) = (y.to_vec(), self.to.clone());
        for (axis, matrix) in self.axes.iter().enumerate() {
            let Some(matrix) = matrix else { continue };
            y = along(&y, &dims, axis, matrix.columns, |line, out| {
                out.fill(0.0);
                for ((first, row), v) in matrix.rows.iter().zip(line) {
                    row.iter().zip(&mut out[*first..]).for_each(|(w, out)| *out += w * v);
                }
            });
            dims[axis] = matrix.columns;
        }
        y
    }

    fn singular_values(&self) -> Option<&[f64]> {
        Some(&self.spectrum().values)
    }

    fn rotated(&self, y: &[f64]) -> Vec<f64> {
        self.rotate(y, false)
    }

    fn rotated_back(&self, c: &[f64]) -> Vec<f64> {
        self.rotate(c, true)
    }
}

/// Grey from red, green and blue, with the weights of Rec. 601 as most programs use them: `[3, …]` to `[1, …]`.
///
/// # Panics
/// If samples do not have three channels.
pub fn grey(dims: &[usize]) -> Separable {
    let mut axes = vec![None; dims.len()];
    axes[0] = Some(Matrix::new(3, vec![(0, vec![0.299, 0.587, 0.114])]));
    Separable::new(dims, axes)
}
