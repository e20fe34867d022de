//! The convolution itself; the data gradient is one with turned, transposed weights.

use super::{
    Edge, Tiles,
    kernels::{self, Kernels, Numbers, Panels},
    source::Source,
    store::{Finish, halved_output_tiles, output_tiles},
    transform::{Patch, Planes},
};
use crate::{
    Isa,
    conv::{Conv, Epilogue, Input},
    gemm::{RowsJob, offset_unless_null, rows},
    isa::dispatch,
    par::{self, Ptr, Scratch},
    simd::LANES,
};

/// Bytes that a block's transformed input and one panel of its output may take: they stay in a core's cache.
const OWN_BYTES: usize = 768 << 10;
/// Bytes of transformed input that all threads share, where panels are tasks. For each part of the input beyond these
/// all kernels are transformed again.
const SHARED_BYTES: usize = 12 << 20;
/// Bytes of transformed weights above which a panel's are made when needed, in a core's cache, and not all
/// at once: written to memory and read again they would cost more than the products.
const KERNEL_BYTES: usize = 2560 << 10;
/// The same where hundreds of tiles read them, unless the transformed input is larger still.
const MOST_KERNEL_BYTES: usize = 8 << 20;
/// Rows of the widest microkernel: blocks are multiples of it.
const UNIT: usize = 12;
/// Tiles that meet a panel at a time.
const BLOCK: usize = 4 * UNIT;

/// The transformed weights of a layer.
pub(crate) struct Prepared {
    edge: Edge,
    kernels: Scratch,
}

pub(crate) fn prepare(isa: Isa, c: &Conv, edge: Edge, w: &[f32]) -> Prepared {
    let panels = Panels::new(isa, edge, [c.in_channels, c.out_channels]);
    let all = Scratch::allocate(panels.all());
    // SAFETY: `Conv` has matched the weight's length and shape.
    unsafe { panels.transform_all(isa, as_they_are(c, w), all.ptr()) };
    Prepared { edge, kernels: all }
}

pub(crate) fn forward(
    isa: Isa,
    c: &Conv,
    edge: Edge,
    x: &Input<'_>,
    w: &[f32],
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    run(isa, c, edge, x, kernels::Source::Kernels(as_they_are(c, w)), epilogue, out);
}

/// As [`forward`], of weights in eight bits with a factor per output channel, and a vector's length of bytes more.
pub(crate) fn forward_bytes(
    isa: Isa,
    c: &Conv,
    edge: Edge,
    x: &Input<'_>,
    (w, scales): (&[i8], &[f32]),
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    let numbers = Numbers::Bytes(Ptr::from_const(w.as_ptr()), Ptr::from_const(scales.as_ptr()));
    run(isa, c, edge, x, kernels::Source::Kernels(in_order(c, numbers)), epilogue, out);
}

pub(crate) fn forward_prepared(
    isa: Isa,
    c: &Conv,
    x: &Input<'_>,
    w: &Prepared,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    run(isa, c, w.edge, x, kernels::Source::Transformed(w.kernels.ptr()), epilogue, out);
}

/// `halved`: of the half-size maps of which the input takes each pixel four times.
pub(crate) fn data_gradient(
    isa: Isa,
    c: &Conv,
    edge: Edge,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    halved: bool,
) {
    let numbers = Numbers::F32(Ptr::from_const(w.as_ptr()));
    let turned = Kernels { numbers, k_stride: 9 * c.in_channels, n_stride: 9, turned: true };
    let (tiles, channels) = (Tiles::new(c, edge), [c.out_channels, c.in_channels]);
    let dy = Source::plain(dy, c.batch * c.size[0] * c.size[1], c.out_channels);
    let weights = kernels::Source::Kernels(turned);
    // SAFETY: `conv` has matched lengths and shape.
    unsafe {
        let run = Run { halved, ..Run::new(isa, &tiles, channels, dy, Epilogue::default(), dx) };
        run.all(weights);
    }
}

fn as_they_are(c: &Conv, w: &[f32]) -> Kernels {
    in_order(c, Numbers::F32(Ptr::from_const(w.as_ptr())))
}

fn in_order(c: &Conv, numbers: Numbers) -> Kernels {
    Kernels { numbers, k_stride: 9, n_stride: 9 * c.in_channels, turned: false }
}

/// What all tasks of a convolution share.
struct Run<'a> {
    isa: Isa,
    tiles: &'a Tiles,
    panels: Panels,
    /// Numbers from one transformed tile to the next: a line beyond the channels, so that rows do not share
    /// cache sets.
    k_row: usize,
    x: Source,
    bias: Ptr<f32>,
    bias_row: usize,
    residual: Option<Ptr<f32>>,
    out: Ptr<f32>,
    halved: bool,
}

fn run(
    isa: Isa,
    c: &Conv,
    edge: Edge,
    x: &Input<'_>,
    weights: kernels::Source,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    let (tiles, channels) = (Tiles::new(c, edge), [c.in_channels, c.out_channels]);
    // SAFETY: `conv` has matched lengths and shape.
    unsafe { Run::new(isa, &tiles, channels, Source::new(c, x), epilogue, out).all(weights) }
}

impl<'a> Run<'a> {
    fn new(
        isa: Isa,
        tiles: &'a Tiles,
        [k, n]: [usize; 2],
        x: Source,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Self {
        Self {
            isa,
            tiles,
            panels: Panels::new(isa, tiles.edge, [k, n]),
            k_row: k.next_multiple_of(LANES) + LANES,
            x,
            bias: Ptr::from_const(epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr)),
            bias_row: epilogue.bias_row(n),
            residual: epilogue.residual.map(|r| Ptr::from_const(r.as_ptr())),
            out: Ptr::new(out),
            halved: false,
        }
    }

    unsafe fn all(&self, weights: kernels::Source) {
        if self.tiles.count == 0 || self.panels.n == 0 {
            return;
        }
        let count = self.tiles.count;
        let kernels = self.panels.all() * size_of::<f32>();
        let input = self.points() * count * self.k_row * size_of::<f32>();
        // Neither way of cutting the work changes a sum.
        let most = if count >= 256 { MOST_KERNEL_BYTES.max(input) } else { KERNEL_BYTES };
        let (few, ready) = (kernels <= most, matches!(weights, kernels::Source::Transformed(_)));
        if few && count >= par::threads() * UNIT || ready && count >= par::threads() * BLOCK {
            self.by_tiles(weights);
        } else {
            self.by_panels(weights);
        }
    }

    /// All kernels are transformed first; a task is a block of tiles.
    unsafe fn by_tiles(&self, weights: kernels::Source) {
        let (panels, pieces) = (self.panels.count, self.panels.pieces());
        let (own, all);
        match weights {
            kernels::Source::Transformed(there) => all = there,
            kernels::Source::Kernels(kernels) => {
                own = Scratch::take(self.panels.all());
                all = own.ptr();
                self.panels.transform_all(self.isa, kernels, all);
            }
        }
        let per_tile = self.points() * (self.k_row + self.panels.width) * size_of::<f32>();
        let most = (OWN_BYTES / per_tile / UNIT).clamp(2, 8) * UNIT;
        // As many blocks as fill the threads evenly.
        let count = self.tiles.count.div_ceil(most).next_multiple_of(par::threads());
        let block = self.tiles.count.div_ceil(count);
        par::for_each_piece(self.tiles.count, block, |from, to| {
            let v_plane = (to - from) * self.k_row;
            let scratch = Scratch::take(self.points() * v_plane + self.products_len(to - from));
            let v = Planes { start: scratch.ptr().get(), plane: v_plane, row: self.k_row };
            let m = self.products_at(scratch.ptr().get().add(self.points() * v_plane), to - from);
            self.input(from, to, v);
            for p in 0..panels {
                for piece in 0..pieces {
                    let u = all.get().add(self.panels.at(p, piece));
                    self.products(piece, u, v, to - from, m);
                }
                self.output(p, [from, to], m);
            }
        });
    }

    /// Many tiles are transformed first; a task is a panel of output channels, whose kernels it transforms.
    unsafe fn by_panels(&self, weights: kernels::Source) {
        let threads = par::threads();
        let per_tile = self.points() * self.k_row * size_of::<f32>();
        let most = (SHARED_BYTES / per_tile).max(UNIT);
        let chunk = self.tiles.count.div_ceil(self.tiles.count.div_ceil(most));
        let v_plane = chunk * self.k_row;
        let shared = Scratch::take(self.points() * v_plane);
        let len = self.panels.len();
        for from in (0..self.tiles.count).step_by(chunk) {
            let to = self.tiles.count.min(from + chunk);
            let at = |tile: usize| Planes {
                start: shared.ptr().get().wrapping_add((tile - from) * self.k_row),
                plane: v_plane,
                row: self.k_row,
            };
            let piece = (to - from).div_ceil(threads).min(4);
            par::for_each_piece(to - from, piece, |start, end| {
                self.input(from + start, from + end, at(from + start));
            });
            let parts = threads.div_ceil(self.panels.count).min((to - from).div_ceil(UNIT));
            let part = (to - from).div_ceil(parts);
            par::for_each(self.panels.count * parts, |task| {
                let (p, first) = (task / parts, from + task % parts * part);
                let last = to.min(first + part);
                if first >= last {
                    return;
                }
                let scratch = Scratch::take(len + self.products_len(last - first));
                let own = scratch.ptr().get();
                let m = self.products_at(own.add(len), last - first);
                for piece in 0..self.panels.pieces() {
                    let u = self.panels.transform(self.isa, weights, p, piece, own);
                    for start in (first..last).step_by(BLOCK) {
                        let m = Planes { start: m.start.add((start - first) * m.row), ..m };
                        self.products(piece, u, at(start), BLOCK.min(last - start), m);
                    }
                }
                self.output(p, [first, last], m);
            });
        }
    }

    fn points(&self) -> usize {
        self.tiles.edge.points()
    }

    /// Numbers that the products of so many tiles with a panel take.
    fn products_len(&self, tiles: usize) -> usize {
        self.points() * (tiles * self.panels.width + LANES)
    }

    fn products_at(&self, start: *mut f32, tiles: usize) -> Planes {
        Planes { start, plane: tiles * self.panels.width + LANES, row: self.panels.width }
    }

    unsafe fn input(&self, from: usize, to: usize, v: Planes) {
        self.x.transform(self.isa, self.tiles, [from, to], v);
    }

    /// Adds up the products of a piece's channels, for so many tiles.
    unsafe fn products(&self, piece: usize, u: *const f32, v: Planes, tiles: usize, m: Planes) {
        let [from, to] = self.panels.channels(piece);
        let a: Vec<_> = (0..tiles).map(|r| v.start.add(r * v.row + from).cast_const()).collect();
        let c: Vec<_> = (0..tiles).map(|r| m.start.add(r * m.row)).collect();
        for point in 0..self.points() {
            let job = RowsJob {
                rows: a.as_ptr(),
                a_offset: point * v.plane,
                m: tiles,
                taps: 1,
                k: [to - from; 2],
                b: u.add(point * self.panels.plane()),
                width: self.panels.width,
                n: self.panels.width,
                out: c.as_ptr(),
                out_offset: point * m.plane,
                bias: std::ptr::null(),
                residual: std::ptr::null(),
                accumulate: piece > 0,
            };
            rows(self.isa, &job);
        }
    }

    /// The output channels of panel `p` from the products of some tiles.
    unsafe fn output(&self, p: usize, [from, to]: [usize; 2], m: Planes) {
        let Panels { n, width, .. } = self.panels;
        let range = [p * width, n.min((p + 1) * width)];
        let at = Patch { tiles: self.tiles, from, to, channels: n, range };
        let out = self.out.get();
        if self.halved {
            dispatch!(self.isa, halved_output_tiles(at: Patch<'_>, m: Planes, out: *mut f32));
            return;
        }
        let finish = Finish {
            bias: offset_unless_null(self.bias.get(), range[0]),
            bias_row: self.bias_row,
            residual: self.residual.map_or(std::ptr::null(), |r| r.get()),
        };
        dispatch!(self.isa, output_tiles(at: Patch<'_>, m: Planes, finish: Finish, out: *mut f32));
    }
}
