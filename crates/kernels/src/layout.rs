//! Conversion between channels-first and channels-last: transposed copies through registers, sixteen rows at a time.

use crate::{
    Isa,
    isa::dispatch,
    par::Ptr,
    simd::{LANES, Simd},
    split,
};

/// Columns of a task: a few cache lines of every source row.
const BAND: usize = 4 * LANES;

/// Transposes `[batch, rows, columns]` to `[batch, columns, rows]`.
pub fn transpose(isa: Isa, x: &[f32], [batch, rows, columns]: [usize; 3], out: &mut [f32]) {
    let len = batch * rows * columns;
    assert!(x.len() == len && out.len() == len, "lengths of a transposition of {batch}x{rows}x{columns}");
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    let bands = columns.div_ceil(BAND);
    split::for_each(batch * bands, len, |i| {
        let (b, from) = (i / bands, i % bands * BAND);
        let shape = [rows, columns, from, columns.min(from + BAND)];
        // SAFETY: lengths are checked above; tasks write disjoint columns.
        unsafe {
            let (x, out) = (x.get().add(b * rows * columns), out.get().add(b * rows * columns));
            dispatch!(isa, band(x: *const f32, shape: [usize; 4], out: *mut f32))
        }
    });
}

#[inline(always)]
unsafe fn band<S: Simd>(x: *const f32, [rows, columns, from, to]: [usize; 4], out: *mut f32) {
    for r in (0..rows).step_by(LANES) {
        for c in (from..to).step_by(LANES) {
            let (height, width) = (LANES.min(rows - r), LANES.min(to - c));
            let (x, out) = (x.add(r * columns + c), out.add(c * rows + r));
            if height == LANES && width == LANES {
                square::<S>(x, columns, [LANES, LANES], out, rows);
            } else {
                square::<S>(x, columns, [height, width], out, rows);
            }
        }
    }
}

#[inline(always)]
unsafe fn square<S: Simd>(
    x: *const f32,
    columns: usize,
    [height, width]: [usize; 2],
    out: *mut f32,
    rows: usize,
) {
    let mut tile = [S::zero(); LANES];
    for i in 0..LANES {
        if i < height {
            tile[i] = S::load_n(x.add(i * columns), width);
        }
    }
    let tile = S::transpose(tile);
    for i in 0..LANES {
        if i < width {
            S::store_n(out.add(i * rows), tile[i], height);
        }
    }
}
