//! Fixed pieces of work: the order of sums only depends on the shape of one image, not on threads or on the batch.

use crate::{
    par,
    simd::{LANES, Simd},
};

/// Values below which a loop stays on its thread.
const SMALL: usize = 1 << 14;
/// Values in a piece of a flat slice.
const PIECE: usize = 1 << 14;

/// Runs `f(0)` to `f(tasks - 1)`, on several threads if they touch many values in all.
pub(crate) fn for_each(tasks: usize, numbers: usize, f: impl Fn(usize) + Sync + Send) {
    if numbers < SMALL { (0..tasks).for_each(f) } else { par::for_each(tasks, f) }
}

/// Runs `f(start, len)` over pieces of a flat slice.
pub(crate) fn flat(len: usize, f: impl Fn(usize, usize) + Sync + Send) {
    for_each(len.div_ceil(PIECE), len, |i| f(i * PIECE, PIECE.min(len - i * PIECE)));
}

/// Images `[batch, pixels, channels]`, split into blocks of pixels.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    pub batch: usize,
    pub pixels: usize,
    pub channels: usize,
    /// Pixels per block.
    pub block: usize,
    /// Blocks per image.
    pub per_image: usize,
}

impl Blocks {
    pub(crate) fn new(batch: usize, pixels: usize, channels: usize) -> Self {
        let block = ((1 << 15) / channels.max(1)).clamp(16, 128);
        Self { batch, pixels, channels, block, per_image: pixels.div_ceil(block) }
    }

    /// Number of values in all images.
    pub(crate) fn len(&self) -> usize {
        self.batch * self.pixels * self.channels
    }

    /// Offset and pixels of block `i` of image `b`.
    pub(crate) fn get(&self, b: usize, i: usize) -> (usize, usize) {
        let start = i * self.block;
        ((b * self.pixels + start) * self.channels, self.block.min(self.pixels - start))
    }

    /// First pixel, counted over all images, and pixels of block `i` of image `b`.
    pub(crate) fn pixels(&self, b: usize, i: usize) -> (usize, usize) {
        let start = i * self.block;
        (b * self.pixels + start, self.block.min(self.pixels - start))
    }

    /// Number of values in `[batch][blocks][sums][channels]`.
    pub(crate) fn partials(&self, sums: usize) -> usize {
        self.partial(self.batch, 0, sums)
    }

    /// Offset of block `i` of image `b` in that array.
    pub(crate) fn partial(&self, b: usize, i: usize, sums: usize) -> usize {
        (b * self.per_image + i) * sums * self.channels
    }

    /// Runs `f(image, block)` for all blocks.
    pub(crate) fn each(&self, f: impl Fn(usize, usize) + Sync + Send) {
        for_each(self.batch * self.per_image, self.len(), |t| f(t / self.per_image, t % self.per_image));
    }

    /// For every image: `first` over its blocks, then `last`.
    pub(crate) fn each_then(
        &self,
        first: impl Fn(usize, usize) + Sync + Send,
        last: impl Fn(usize) + Sync + Send,
    ) {
        self.each_thrice(first, last, |_, _| ());
    }

    /// For every image: `first` over its blocks, then `between`, then `last` over its blocks. If there are enough images,
    /// each is a task, so that it stays in cache.
    pub(crate) fn each_thrice(
        &self,
        first: impl Fn(usize, usize) + Sync + Send,
        between: impl Fn(usize) + Sync + Send,
        last: impl Fn(usize, usize) + Sync + Send,
    ) {
        if self.batch >= 2 * par::threads() || self.len() < SMALL {
            for_each(self.batch, self.len(), |b| {
                (0..self.per_image).for_each(|i| first(b, i));
                between(b);
                (0..self.per_image).for_each(|i| last(b, i));
            });
        } else {
            self.each(first);
            for_each(self.batch, self.len(), between);
            self.each(last);
        }
    }
}

/// Sums `[blocks][sums][channels]` over blocks, in `f64`, into `[sums][channels]`.
#[inline(always)]
pub(crate) unsafe fn total(partial: *const f32, blocks: usize, out: &mut [f64]) {
    out.fill(0.0);
    for i in 0..blocks {
        let row = std::slice::from_raw_parts(partial.add(i * out.len()), out.len());
        for (o, p) in out.iter_mut().zip(row) {
            *o += f64::from(*p);
        }
    }
}

/// Loads the first `n` lanes if `TAIL`, otherwise all.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, const TAIL: bool>(p: *const f32, n: usize) -> S::V {
    if TAIL { S::load_n(p, n) } else { S::load(p) }
}

/// Like [`load`], for storing.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, const TAIL: bool>(p: *mut f32, v: S::V, n: usize) {
    if TAIL { S::store_n(p, v, n) } else { S::store(p, v) }
}

/// Sets the lanes after the first `n` to zero.
#[inline(always)]
pub(crate) unsafe fn first<S: Simd>(v: S::V, n: usize) -> S::V {
    if n >= LANES {
        return v;
    }
    let mut lanes = [0.0f32; LANES];
    S::store_n(lanes.as_mut_ptr(), v, n);
    S::load(lanes.as_ptr())
}

/// `strips!(channels, W, f::<S>(args))` covers the channels with calls `f::<S, NV, TAIL>(channel, valid,
/// args)`: strips of `W` vectors, then single vectors, then a partial vector with `valid` lanes.
macro_rules! strips {
    ($channels:expr, $wide:literal, $f:ident::<$s:ident>($($arg:expr),* $(,)?)) => {{
        let mut c = 0;
        while c < $channels {
            let left = $channels - c;
            if left >= $wide * $crate::simd::LANES {
                $f::<$s, $wide, false>(c, $crate::simd::LANES, $($arg),*);
                c += $wide * $crate::simd::LANES;
            } else if left >= $crate::simd::LANES {
                $f::<$s, 1, false>(c, $crate::simd::LANES, $($arg),*);
                c += $crate::simd::LANES;
            } else {
                $f::<$s, 1, true>(c, left, $($arg),*);
                c += left;
            }
        }
    }};
}
pub(crate) use strips;
