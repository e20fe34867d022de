//! The weight gradient: for each tap, sums over positions.

use super::{
    Input,
    direct::{Reader, output_pixel, split, taps_of},
    volume::Volume,
};
use crate::{
    Isa,
    gemm::reduce_rows,
    par::{self, Lease, Ptr, Scratch},
    simd::LANES,
};

/// Channels below which patches are copied, so that their rows fill the microkernel.
const FEW_CHANNELS: usize = 12;

/// `x` is one map, optionally doubled.
pub(super) fn weight_gradient(isa: Isa, v: &Volume, x: &Input<'_>, dy: &[f32], dw: &mut [f32]) {
    let (reader, out, taps) = (Reader::new(v, x), v.out_size(), taps_of(v));
    let pixels = v.batch * out.iter().product::<usize>();
    let (m, n) = (v.in_channels / v.groups, v.out_channels / v.groups);
    let sums = Scratch::take(taps.len() * m * n);
    let zeros = vec![0.0f32; m.max(n)];
    let zeros = Ptr::from_const(zeros.as_ptr());
    let Some(x) = reader.parts.each().next().map(|part| part.start) else { return };
    let dy = Ptr::from_const(dy.as_ptr());
    let whole = [v.pad_before, v.pad_after] == [[0; 3]; 2] && [v.kernel, v.stride] == [[1; 3]; 2];
    let plain = whole && reader.shift == [0; 3];
    let turned = !plain && n < FEW_CHANNELS && n < m;
    for g in 0..v.groups {
        let x_at = |pixel: usize| Ptr::from_const(x.get().wrapping_add(pixel * v.in_channels + g * m));
        let dy_at = |pixel: usize| Ptr::from_const(dy.get().wrapping_add(pixel * v.out_channels + g * n));
        let dy_row = |i: usize| dy_at(i).get().cast_const();
        let taken = |b, at, tap| reader.met(b, at, tap).map_or(zeros, x_at);
        // SAFETY: rows are pixels of `m` and `n` values; `sums` has the length of the weights.
        unsafe {
            if plain {
                let x_row = |i: usize| x_at(i).get().cast_const();
                reduce_rows(isa, pixels, x_row, dy_row, [m, n], sums.ptr());
            } else if turned {
                // `[taps][n][m]`: pairs of input pixels and outputs.
                let inputs = v.batch * v.size.iter().product::<usize>();
                let met = |b, at, tap| output_pixel(v, out, b, at, tap).map_or(zeros, dy_at);
                let (patches, row) = (patches(v.batch, v.size, &taps, n, met), taps.len() * n);
                let a = patches.ptr();
                let a_row = |i: usize| a.get().wrapping_add(i * row).cast_const();
                let x_row = |i: usize| {
                    let (b, place) = split(i, v.size);
                    x_at(reader.index(b, place)).get().cast_const()
                };
                reduce_rows(isa, inputs, a_row, x_row, [row, m], sums.ptr());
            } else if m < FEW_CHANNELS {
                let (patches, row) = (patches(v.batch, out, &taps, m, taken), taps.len() * m);
                let a = patches.ptr();
                let a_row = |i: usize| a.get().wrapping_add(i * row).cast_const();
                reduce_rows(isa, pixels, a_row, dy_row, [row, n], sums.ptr());
            } else {
                for (t, &tap) in taps.iter().enumerate() {
                    let mut table = vec![zeros; pixels];
                    let to = Ptr::new(&mut table);
                    par::for_each_piece(pixels, 1024, |from, end| {
                        for i in from..end {
                            let (b, at) = split(i, out);
                            *to.get().add(i) = taken(b, at, tap);
                        }
                    });
                    let x_row = |i: usize| table[i].get().cast_const();
                    let to = Ptr::from_const(sums.ptr().get().add(t * m * n));
                    reduce_rows(isa, pixels, x_row, dy_row, [m, n], to);
                }
            }
            let (strides, taps) = (if turned { [m, 1] } else { [1, n] }, taps.len());
            let to = Ptr::new(&mut dw[g * n * m * taps..][..n * m * taps]);
            par::for_each_piece(n, LANES, |first, end| {
                for (i, tap) in (0..m * taps).map(|at| (at / taps, at % taps)) {
                    for o in first..end {
                        let sum = tap * m * n + o * strides[0] + i * strides[1];
                        *to.get().add((o * m + i) * taps + tap) = *sums.ptr().get().add(sum);
                    }
                }
            });
        }
    }
}

/// `[batch, size.., taps, channels]`, copied from where `pixel` points for sample, position and tap, so that rows fill
/// the microkernel.
unsafe fn patches(
    batch: usize,
    size: [usize; 3],
    taps: &[[usize; 3]],
    channels: usize,
    pixel: impl Fn(usize, [usize; 3], [usize; 3]) -> Ptr<f32> + Sync + Send,
) -> Lease {
    let count = batch * size.iter().product::<usize>();
    let patches = Scratch::take(count * taps.len() * channels);
    let start = patches.ptr();
    par::for_each_piece(count, 512, |from, end| {
        let mut to = start.get().add(from * taps.len() * channels);
        for i in from..end {
            let (b, at) = split(i, size);
            for &tap in taps {
                let from = pixel(b, at, tap).get();
                // For few values a call to copy them would take longer.
                for channel in 0..channels {
                    to.add(channel).write(from.add(channel).read());
                }
                to = to.add(channels);
            }
        }
    });
    patches
}
