//! All pairs of two sets of rows: products on the engine, a tile at a time.
//!
//! The engine multiplies in `f32`. Where a decision hangs on less than it can be wrong by, the distance is
//! computed again in `f64`: what comes out does not depend on the instruction set.

use rayon::prelude::*;
use tweedie_kernels::{
    Isa,
    gemm::{Added, Matrix, Packed},
};

/// Hears of pairs done, and how many there are.
pub type Watch<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Rows that can be multiplied and compared. They lie around the origin, so that `|a|² + |b|² - 2·a·b` keeps its
/// digits.
pub(crate) trait Rows: Sync {
    /// How many.
    fn len(&self) -> usize;
    /// Values of a row.
    fn dim(&self) -> usize;
    /// Writes a row's values, times `scale`, each within two roundings of its true value.
    fn write(&self, row: usize, scale: f32, out: &mut [f32]);
    /// A row's squared length.
    fn square(&self, row: usize) -> f64;
    /// The squared distance of a row to one of `other`, in `f64`.
    fn apart(&self, row: usize, other: &Self, at: usize) -> f64;
}

/// Rows whose products are held at once.
const ROWS: usize = 1024;
/// The same of the other set.
const COLUMNS: usize = 512;
/// Values of a set's rows that are held at once.
const HELD: usize = 4 << 20;

/// Hands `scale·a·b + added[b]` of each row `a` of `left` with all rows `b` of `right` to `on`, some at a time
/// in their order: the row's state, the row, the first `b` and the numbers. Holds some 64 MiB besides the states;
/// more where eight rows do.
pub(crate) fn products<R: Rows, S: Send>(
    [left, right]: [&R; 2],
    scale: f32,
    added: Option<&[f32]>,
    states: &mut [S],
    watch: Watch<'_>,
    on: impl Fn(&mut S, usize, usize, &[f32]) + Sync,
) {
    assert_eq!(states.len(), left.len(), "a state for each row");
    let (dim, isa) = (left.dim(), Isa::active());
    let (n, m) = (left.len(), right.len());
    let held = (HELD / dim).max(8);
    let (mut ours, mut theirs, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    for (first, states) in (0..n).step_by(held).zip(states.chunks_mut(held)) {
        fill(left, first, states.len(), scale, &mut ours);
        for start in (0..m).step_by(COLUMNS.min(held)) {
            let columns = COLUMNS.min(held).min(m - start);
            fill(right, start, columns, 1.0, &mut theirs);
            let packed = Packed::new(isa, Matrix::new(&theirs, columns, dim).t());
            let bias = added.map(|added| &added[start..start + columns]);
            let mut at = first;
            for (states, a) in states.chunks_mut(ROWS).zip(ours.chunks(ROWS * dim)) {
                out.resize(states.len() * columns, 0.0);
                let a = Matrix::new(a, states.len(), dim);
                packed.product(a, Added { bias, residual: None }, &mut out);
                let rows = states.par_iter_mut().zip(out.par_chunks(columns)).with_min_len(64).enumerate();
                rows.for_each(|(i, (state, out))| on(state, at + i, start, out));
                at += states.len();
            }
            done += (states.len() * columns) as u64;
            watch(done, n as u64 * m as u64);
        }
    }
}

fn fill<R: Rows>(rows: &R, first: usize, count: usize, scale: f32, out: &mut Vec<f32>) {
    let dim = rows.dim();
    out.resize(count * dim, 0.0);
    let chunks = out.par_chunks_mut(dim).with_min_len(64).enumerate();
    chunks.for_each(|(i, out)| rows.write(first + i, scale, out));
}

/// Squared distances of the rows of two sets, as near as the engine gets.
pub(crate) struct Distances {
    /// Squared lengths of the rows.
    ours: Vec<f64>,
    /// Those of the other set's.
    theirs: Vec<f32>,
    /// How wrong a distance may be, over the sum of the row's squared length and the other set's largest.
    wrong: f64,
    most: f64,
}

impl Distances {
    pub fn new<R: Rows>([left, right]: [&R; 2]) -> Self {
        let squares = |rows: &R| (0..rows.len()).into_par_iter().map(|i| rows.square(i)).collect::<Vec<_>>();
        let (ours, theirs) = (squares(left), squares(right));
        let most = theirs.iter().copied().fold(0.0, f64::max);
        // Terms of the sum, the roundings of both factors, of the lengths and of a limit.
        let wrong = (left.dim() + 32) as f64 * f64::from(f32::EPSILON) / 2.0;
        Self { ours, theirs: theirs.into_iter().map(|v| v as f32).collect(), wrong, most }
    }

    /// Hands `|b|² - 2·a·b` to `on`, as [`products`].
    pub fn each<R: Rows, S: Send>(
        &self,
        sets: [&R; 2],
        states: &mut [S],
        watch: Watch<'_>,
        on: impl Fn(&mut S, usize, usize, &[f32]) + Sync,
    ) {
        products(sets, -2.0, Some(&self.theirs), states, watch, on);
    }

    /// What is to be added to a row's numbers for its squared distances, and how wrong those may be.
    pub fn of(&self, row: usize) -> (f64, f64) {
        let largest = self.ours[row] + self.most;
        // Beyond this the engine's numbers may overflow, below it they may vanish.
        let wrong = if largest < 1e37 { self.wrong * largest + 1e-30 } else { f64::INFINITY };
        (self.ours[row], wrong)
    }
}

/// For each row of `left` the `k` nearest of `right`, nearest first, as squared distances and indices; of those
/// that are equally far the first. A set's rows held against themselves (`own`) leave themselves out.
pub(crate) fn nearest<R: Rows>(
    sets: [&R; 2],
    k: usize,
    own: bool,
    watch: Watch<'_>,
) -> Vec<Vec<(f64, usize)>> {
    let [left, right] = sets;
    let distances = Distances::new(sets);
    let mut found: Vec<Vec<(f64, usize)>> = vec![Vec::with_capacity(k + 1); left.len()];
    distances.each(sets, &mut found, watch, |found, row, start, out| {
        let (square, wrong) = distances.of(row);
        // What is not below it is not among the nearest; nothing is nearer than zero. All is looked at where no number
        // is a limit.
        let limit = |found: &[(f64, usize)]| match found.get(k - 1) {
            Some((0.0, _)) => f32::NEG_INFINITY,
            Some((last, _)) if wrong.is_finite() => (last - square + wrong) as f32,
            _ => f32::NAN,
        };
        let mut below = limit(found);
        for (chunk, out) in out.chunks(16).enumerate() {
            if out.iter().fold(true, |all, v| all & (*v >= below)) || below == f32::NEG_INFINITY {
                continue;
            }
            for (i, v) in out.iter().enumerate() {
                let at = start + 16 * chunk + i;
                if *v >= below || (own && at == row) {
                    continue;
                }
                let d = left.apart(row, right, at);
                if found.len() < k || found.last().is_some_and(|(last, _)| d < *last) {
                    let place = found.partition_point(|(other, _)| *other <= d);
                    found.insert(place, (d, at));
                    found.truncate(k);
                    below = limit(found);
                }
            }
        }
    });
    found
}
