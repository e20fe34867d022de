//! Convolutions of any shape as matrix products over tables of pixel pointers, without unfolding the input.

use super::{Epilogue, Input, volume::Volume};
use crate::{
    Isa,
    gemm::{Factor, RowsJob, blocks, offset_unless_null, pack, packed_len, panel_width, rows},
    maps::Parts,
    par::{self, Ptr, Scratch},
};

/// Sample and coordinates of a position.
pub(super) fn split(index: usize, size: [usize; 3]) -> (usize, [usize; 3]) {
    let (rest, x) = (index / size[2], index % size[2]);
    let (rest, y) = (rest / size[1], rest % size[1]);
    (rest / size[0], [rest % size[0], y, x])
}

/// Coordinates of all taps.
pub(super) fn taps_of(v: &Volume) -> Vec<[usize; 3]> {
    (0..v.taps()).map(|t| split(t, v.kernel).1).collect()
}

/// Resolves positions of a convolution's input.
pub(super) struct Reader<'a> {
    v: &'a Volume,
    pub parts: Parts,
    pub shift: [usize; 3],
}

impl<'a> Reader<'a> {
    pub(super) fn new(v: &'a Volume, x: &Input<'_>) -> Self {
        let shift = [0, x.shift(), x.shift()];
        let pixels = v.batch * (0..3).map(|i| v.size[i] >> shift[i]).product::<usize>();
        Self { v, parts: x.parts(pixels, v.in_channels), shift }
    }

    /// Index of the pixel at `place` of sample `b`.
    pub(super) fn index(&self, b: usize, place: [usize; 3]) -> usize {
        (0..3).fold(b, |at, i| at * (self.v.size[i] >> self.shift[i]) + (place[i] >> self.shift[i]))
    }

    /// Index of the input pixel of the output at `at` for `tap`; `None` in the padding.
    pub(super) fn met(&self, b: usize, at: [usize; 3], tap: [usize; 3]) -> Option<usize> {
        let v = self.v;
        let mut place = [0; 3];
        for i in 0..3 {
            place[i] = (at[i] * v.stride[i] + tap[i] * v.dilation[i]).checked_sub(v.pad_before[i])?;
            if place[i] >= v.size[i] {
                return None;
            }
        }
        Some(self.index(b, place))
    }
}

/// Index of the output that uses the input at `at` for `tap`, if there is one.
pub(super) fn output_pixel(
    v: &Volume,
    out: [usize; 3],
    b: usize,
    at: [usize; 3],
    tap: [usize; 3],
) -> Option<usize> {
    let mut pixel = b;
    for i in 0..3 {
        let mut d = (at[i] + v.pad_before[i]).checked_sub(tap[i] * v.dilation[i])?;
        if v.stride[i] > 1 {
            if !d.is_multiple_of(v.stride[i]) {
                return None;
            }
            d /= v.stride[i];
        }
        if d >= out[i] {
            return None;
        }
        pixel = pixel * out[i] + d;
    }
    Some(pixel)
}

/// The weights of a layer without groups, packed for products.
pub(super) struct Prepared(Scratch);

pub(super) fn prepare(isa: Isa, v: &Volume, w: &[f32]) -> Prepared {
    let packed = Scratch::allocate(packed_len(isa, v.taps(), v.in_channels, v.out_channels));
    // SAFETY: the caller has checked length and shape of the weights.
    unsafe { pack(isa, factor(v, w, 0), packed.ptr()) };
    Prepared(packed)
}

fn factor(v: &Volume, w: &[f32], g: usize) -> Factor {
    let (taps, k, n) = (v.taps(), v.in_channels / v.groups, v.out_channels / v.groups);
    Factor {
        start: w[g * n * k * taps..].as_ptr(),
        taps,
        k,
        n,
        tap_stride: 1,
        k_stride: taps as isize,
        n_stride: (k * taps) as isize,
    }
}

pub(super) fn forward(
    isa: Isa,
    v: &Volume,
    x: &Input<'_>,
    w: &[f32],
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    let (k, n) = (v.in_channels / v.groups, v.out_channels / v.groups);
    let packed = Scratch::take(packed_len(isa, v.taps(), k, n));
    for g in 0..v.groups {
        // SAFETY: the caller has checked lengths and shape.
        unsafe {
            pack(isa, factor(v, w, g), packed.ptr());
            group(isa, g, &Reader::new(v, x), packed.ptr(), epilogue, out);
        }
    }
}

pub(super) fn forward_prepared(
    isa: Isa,
    v: &Volume,
    x: &Input<'_>,
    w: &Prepared,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    // SAFETY: as above.
    unsafe { group(isa, 0, &Reader::new(v, x), w.0.ptr(), epilogue, out) }
}

unsafe fn group(
    isa: Isa,
    g: usize,
    x: &Reader<'_>,
    packed: Ptr<f32>,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    let v = x.v;
    let (size, taps) = (v.out_size(), taps_of(v));
    let (k, n) = (v.in_channels / v.groups, v.out_channels / v.groups);
    let zeros = vec![0.0f32; k];
    let zeros = Ptr::from_const(zeros.as_ptr());
    // Offset of a pixel in each part, and its number of channels there.
    let (parts, ks): (Vec<_>, [usize; 2]) = match x.parts.channels() {
        [_, 0] => (
            x.parts.each().map(|p| (Ptr::from_const(p.start.get().add(g * k)), p.channels)).collect(),
            [k; 2],
        ),
        both => (x.parts.each().map(|p| (p.start, p.channels)).collect(), both),
    };
    let out = Ptr::new(out);
    let null = std::ptr::null();
    let bias = Ptr::from_const(epilogue.bias.map_or(null, <[f32]>::as_ptr));
    let residual = epilogue.residual.map(|r| Ptr::from_const(r.as_ptr()));
    let width = panel_width(isa, n);
    let (m, row) = (v.batch * size.iter().product::<usize>(), epilogue.bias_row(v.out_channels));
    // Samples with their own biases are processed one after the other.
    let samples = if row > 0 { v.batch } else { 1 };
    for sample in 0..samples {
        let before = sample * (m / samples);
        // Tasks write disjoint blocks of `out`.
        blocks(isa, m / samples, n, k * taps.len(), |i, count, columns| {
            let mut table = vec![zeros.get().cast_const(); parts.len() * taps.len() * count];
            let mut out_rows = Vec::with_capacity(count);
            let mut more = Vec::with_capacity(residual.map_or(0, |_| count));
            for r in 0..count {
                let position = before + i + r;
                let (b, at) = split(position, size);
                for (t, &tap) in taps.iter().enumerate() {
                    if let Some(pixel) = x.met(b, at, tap) {
                        for (j, (start, channels)) in parts.iter().enumerate() {
                            let from = start.get().add(pixel * channels).cast_const();
                            table[(t * parts.len() + j) * count + r] = from;
                        }
                    }
                }
                out_rows.push(out.get().add(position * v.out_channels + g * n));
                if let Some(residual) = residual {
                    more.push(residual.get().add(position * v.out_channels + g * n).cast_const());
                }
            }
            rows(
                isa,
                &RowsJob {
                    rows: table.as_ptr(),
                    a_offset: 0,
                    m: count,
                    taps: parts.len() * taps.len(),
                    k: ks,
                    b: packed.get().add(columns.start * k * taps.len()),
                    width,
                    n: columns.len(),
                    out: out_rows.as_ptr(),
                    out_offset: columns.start,
                    bias: offset_unless_null(bias.get(), sample * row + g * n + columns.start),
                    residual: if residual.is_some() { more.as_ptr() } else { std::ptr::null() },
                    accumulate: false,
                },
            );
        });
    }
}

/// With a bias per input channel, this is the transposed convolution.
pub(super) fn data_gradient(
    isa: Isa,
    v: &Volume,
    dy: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    dx: &mut [f32],
) {
    let (out, all) = (v.out_size(), taps_of(v));
    let (k, n) = (v.out_channels / v.groups, v.in_channels / v.groups);
    let zeros = vec![0.0f32; k];
    let zeros = Ptr::from_const(zeros.as_ptr());
    let packed = Scratch::take(packed_len(isa, all.len(), k, n));
    let (dy, dx) = (Ptr::from_const(dy.as_ptr()), Ptr::new(dx));
    let bias = Ptr::from_const(bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let width = panel_width(isa, n);
    // With a stride, input pixels fall into phases, each with its own taps.
    for (g, phase) in (0..v.groups).flat_map(|g| (0..v.stride.iter().product()).map(move |p| (g, p))) {
        let offset = split(phase, v.stride).1;
        let part: [usize; 3] =
            std::array::from_fn(|i| v.size[i].saturating_sub(offset[i]).div_ceil(v.stride[i]));
        let meets = |i: usize, tap: usize| {
            let d = (offset[i] + v.pad_before[i]) as isize - (tap * v.dilation[i]) as isize;
            d.rem_euclid(v.stride[i] as isize) == 0
        };
        let taps: Vec<usize> = (0..all.len()).filter(|&t| (0..3).all(|i| meets(i, all[t][i]))).collect();
        // SAFETY: as in `forward`; phases and tasks write disjoint pixels of `dx`.
        unsafe {
            pack_taps(isa, v, g, w, &taps, packed.ptr());
            let m = v.batch * part.iter().product::<usize>();
            blocks(isa, m, n, k * taps.len(), |i, count, columns| {
                let mut table = vec![zeros.get().cast_const(); taps.len() * count];
                let mut out_rows = Vec::with_capacity(count);
                for r in 0..count {
                    let (b, at) = split(i + r, part);
                    let place: [usize; 3] = std::array::from_fn(|i| at[i] * v.stride[i] + offset[i]);
                    for (t, &tap) in taps.iter().enumerate() {
                        if let Some(pixel) = output_pixel(v, out, b, place, all[tap]) {
                            table[t * count + r] = dy.get().add(pixel * v.out_channels + g * k);
                        }
                    }
                    let pixel = (0..3).fold(b, |at, i| at * v.size[i] + place[i]);
                    out_rows.push(dx.get().add(pixel * v.in_channels + g * n));
                }
                rows(
                    isa,
                    &RowsJob {
                        rows: table.as_ptr(),
                        a_offset: 0,
                        m: count,
                        taps: taps.len(),
                        k: [k; 2],
                        b: packed.ptr().get().add(columns.start * k * taps.len()),
                        width,
                        n: columns.len(),
                        out: out_rows.as_ptr(),
                        out_offset: columns.start,
                        bias: offset_unless_null(bias.get(), g * n + columns.start),
                        residual: std::ptr::null(),
                        accumulate: false,
                    },
                );
            });
        }
    }
}

/// Packs some taps of the transposed weights of one group; sums run over output channels.
unsafe fn pack_taps(isa: Isa, v: &Volume, g: usize, w: &[f32], taps: &[usize], out: Ptr<f32>) {
    let all = v.taps();
    let (k, n) = (v.out_channels / v.groups, v.in_channels / v.groups);
    let width = panel_width(isa, n);
    let w = Ptr::from_const(w[g * k * n * all..].as_ptr());
    par::for_each(n.div_ceil(width), |panel| {
        let first = panel * width;
        for (t, &tap) in taps.iter().enumerate() {
            for i in 0..k {
                let to = out.get().add(((panel * taps.len() + t) * k + i) * width);
                for lane in 0..width {
                    let inside = first + lane < n;
                    *to.add(lane) =
                        if inside { *w.get().add((i * n + first + lane) * all + tap) } else { 0.0 };
                }
            }
        }
    });
}
