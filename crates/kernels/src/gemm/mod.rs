//! Matrix products.

mod micro;
mod pack;

pub(crate) use micro::{ColsJob, RowsJob, cols, panel_width, rows};
pub(crate) use pack::{Factor, pack, packed_len};

use crate::{
    isa::Isa,
    par::{self, Ptr, Scratch},
};

/// Rows of a task.
const ROWS: usize = 96;
/// Terms of a sum that are added up before they are added to the rest.
const DEPTH: usize = 256;

/// A matrix in a buffer, row-major or transposed.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Whether columns are contiguous instead of rows.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix `[rows, columns]`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "length of a {rows}x{columns} matrix");
        Self { data, rows, columns, transposed: false }
    }

    /// The transpose, as a view.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }
}

/// What is added to a product before it is stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    /// One value per column.
    pub bias: Option<&'a [f32]>,
    /// A matrix of the product's shape.
    pub residual: Option<&'a [f32]>,
}

/// `out = a·b (+ bias)`, with row-major `a: [m, k]`, `b: [k, n]` in either order, `out: [m, n]`.
pub fn product(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    product_with(isa, a, b, Added { bias, residual: None }, out);
}

/// Like [`product`], with `added`.
pub fn product_with(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, added: Added<'_>, out: &mut [f32]) {
    let packed = Scratch::take(packed_len(isa, 1, b.rows, b.columns));
    // SAFETY: the factor's strides are those of the matrix.
    unsafe { pack(isa, factor(b), packed.ptr()) };
    multiply(isa, a, packed.ptr(), [b.rows, b.columns], added, out);
}

/// A packed right-hand factor, for weights that are multiplied many times.
pub struct Packed {
    isa: Isa,
    panels: Scratch,
    shape: [usize; 2],
}

impl Packed {
    /// Packs `b`.
    pub fn new(isa: Isa, b: Matrix<'_>) -> Self {
        let panels = Scratch::allocate(packed_len(isa, 1, b.rows, b.columns));
        // SAFETY: as in `product`.
        unsafe { pack(isa, factor(b), panels.ptr()) };
        Self { isa, panels, shape: [b.rows, b.columns] }
    }

    /// Like [`product_with`] with the packed matrix, bit for bit.
    pub fn product(&self, a: Matrix<'_>, added: Added<'_>, out: &mut [f32]) {
        multiply(self.isa, a, self.panels.ptr(), self.shape, added, out);
    }
}

fn factor(b: Matrix<'_>) -> Factor {
    let (k, n) = (b.rows, b.columns);
    let (k_stride, n_stride) = if b.transposed { (1, k as isize) } else { (n as isize, 1) };
    Factor { start: b.data.as_ptr(), taps: 1, k, n, tap_stride: 0, k_stride, n_stride }
}

fn multiply(
    isa: Isa,
    a: Matrix<'_>,
    packed: Ptr<f32>,
    [k, n]: [usize; 2],
    Added { bias, residual }: Added<'_>,
    out: &mut [f32],
) {
    let m = a.rows;
    assert!(!a.transposed && a.columns == k && out.len() == m * n, "shapes of a matrix product");
    assert!(bias.is_none_or(|b| b.len() == n), "expected one bias per column");
    assert!(residual.is_none_or(|r| r.len() == m * n), "the residual must have the product's shape");
    let (a, out) = (Ptr::from_const(a.data.as_ptr()), Ptr::new(out));
    let bias = Ptr::from_const(bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let residual = residual.map(|r| Ptr::from_const(r.as_ptr()));
    // SAFETY: lengths are checked above; tasks write disjoint blocks of `out`.
    unsafe {
        blocks(isa, m, n, k, |i, rows_of, columns| {
            let a_rows: Vec<*const f32> = (i..i + rows_of).map(|r| a.get().add(r * k).cast_const()).collect();
            let out_rows: Vec<*mut f32> = (i..i + rows_of).map(|r| out.get().add(r * n)).collect();
            let more: Option<Vec<*const f32>> =
                residual.map(|p| (i..i + rows_of).map(|r| p.get().add(r * n).cast_const()).collect());
            let width = panel_width(isa, n);
            rows(
                isa,
                &RowsJob {
                    rows: a_rows.as_ptr(),
                    a_offset: 0,
                    m: rows_of,
                    taps: 1,
                    k: [k; 2],
                    b: packed.get().add(columns.start * k),
                    width,
                    n: columns.len(),
                    out: out_rows.as_ptr(),
                    out_offset: columns.start,
                    bias: offset_unless_null(bias.get(), columns.start),
                    residual: more.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
                    accumulate: false,
                },
            );
        });
    }
}

/// `out = aᵀ·b`, with row-major `a: [k, m]`, `b: [k, n]`, `out: [m, n]`.
pub fn transposed_product(isa: Isa, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    let (k, m, n) = (a.rows, a.columns, b.columns);
    assert!(
        !a.transposed && !b.transposed && b.rows == k && out.len() == m * n,
        "shapes of a transposed matrix product"
    );
    let (a, b) = (Ptr::from_const(a.data.as_ptr()), Ptr::from_const(b.data.as_ptr()));
    let a_row = |r: usize| a.get().wrapping_add(r * m).cast_const();
    let b_row = |r: usize| b.get().wrapping_add(r * n).cast_const();
    // SAFETY: the matrices hold `k` rows of `m` and `n` values.
    unsafe { reduce_rows(isa, k, a_row, b_row, [m, n], Ptr::new(out)) }
}

/// `out[i][j] = Σ_k a(k)[i]·b(k)[j]` over `count` rows, in blocks of [`DEPTH`] terms; `out: [m, n]`.
///
/// # Safety
/// Rows must hold `m` and `n` values.
pub(crate) unsafe fn reduce_rows(
    isa: Isa,
    count: usize,
    a: impl Fn(usize) -> *const f32 + Sync + Send,
    b: impl Fn(usize) -> *const f32 + Sync + Send,
    [m, n]: [usize; 2],
    out: Ptr<f32>,
) {
    if count == 0 {
        out.get().write_bytes(0, m * n);
        return;
    }
    // Splits the longer side, in multiples of the microkernel, into about as many parts as threads.
    let parts = if count * m * n < 1 << 16 { 1 } else { par::threads() };
    let split_m = m >= n;
    let unit = if split_m { 12 } else { 32 };
    let piece = (if split_m { m } else { n }).div_ceil(parts).next_multiple_of(unit);
    par::for_each_piece(if split_m { m } else { n }, piece, |start, end| {
        let ((i0, i1), (j0, j1)) = if split_m { ((start, end), (0, n)) } else { ((0, m), (start, end)) };
        let mut tables = [[std::ptr::null::<f32>(); DEPTH]; 2];
        for k in (0..count).step_by(DEPTH) {
            let depth = DEPTH.min(count - k);
            for i in 0..depth {
                (tables[0][i], tables[1][i]) = (a(k + i), b(k + i));
            }
            cols(
                isa,
                &ColsJob {
                    a: tables[0].as_ptr(),
                    a_offset: i0,
                    b: tables[1].as_ptr(),
                    b_offset: j0,
                    k: depth,
                    m: i1 - i0,
                    n: j1 - j0,
                    out: out.get().add(i0 * n + j0),
                    ld: n,
                    accumulate: k > 0,
                },
            );
        }
    });
}

/// Runs `f(first row, rows, columns)` for blocks of an `m×n` output; column ranges start at panels.
pub(crate) fn blocks(
    isa: Isa,
    m: usize,
    n: usize,
    depth: usize,
    f: impl Fn(usize, usize, std::ops::Range<usize>) + Sync + Send,
) {
    let width = panel_width(isa, n);
    let panels = n.div_ceil(width);
    let row_blocks = m.div_ceil(ROWS);
    let small = m * n * depth < 1 << 17;
    let wanted = if small { 1 } else { 4 * par::threads() };
    let column_blocks = if row_blocks >= wanted { 1 } else { panels.min(wanted.div_ceil(row_blocks.max(1))) };
    let step = panels.div_ceil(column_blocks.max(1)).max(1) * width;
    let column_blocks = n.div_ceil(step);
    let one = |t: usize| {
        let (i, j) = (t / column_blocks * ROWS, t % column_blocks * step);
        f(i, ROWS.min(m - i), j..n.min(j + step));
    };
    if small {
        (0..row_blocks * column_blocks).for_each(one)
    } else {
        par::for_each(row_blocks * column_blocks, one)
    }
}

#[inline]
pub(crate) fn offset_unless_null(p: *const f32, n: usize) -> *const f32 {
    if p.is_null() { p } else { p.wrapping_add(n) }
}
