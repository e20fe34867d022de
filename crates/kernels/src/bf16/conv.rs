//! Forward 2-D convolutions of `bf16` maps `[batch, height, width, channels]`.

use super::{
    Bf16, Element, Epilogue,
    direct::{self, Target, Terms},
    pack::Packed,
    winograd,
};
use crate::{Isa, conv::Conv, par::Ptr};

/// The convolution that maps the gradient of `c`'s output to that of its input, if `c` preserves the size of maps with
/// odd kernels, stride 1 and one group.
pub fn turned(c: &Conv) -> Option<Conv> {
    let keeps = (0..2).all(|i| {
        let middle = c.kernel[i] / 2 * c.dilation[i];
        c.kernel[i] % 2 == 1 && c.pad_before[i] == middle && c.pad_after[i] == middle
    });
    let layer = Conv { in_channels: c.out_channels, out_channels: c.in_channels, ..*c };
    (keeps && c.stride == [1; 2] && c.groups == 1).then_some(layer)
}

/// The kernel of output channel `n` and input channel `k` starts at `n·n_stride + k·k_stride`, counted in kernels.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub n: usize,
    pub k: usize,
    /// Whether kernels are rotated by 180°.
    pub turned: bool,
}

impl Order {
    /// The order of weights in memory.
    fn of(c: &Conv) -> Self {
        Self { n: c.in_channels / c.groups, k: 1, turned: false }
    }

    /// Offset of the first tap.
    pub(super) fn at(self, n: usize, k: usize, taps: usize) -> usize {
        (n * self.n + k * self.k) * taps
    }

    /// Offset of a tap in its kernel.
    pub(super) fn tap(self, tap: usize, taps: usize) -> usize {
        if self.turned { taps - 1 - tap } else { tap }
    }
}

/// The algorithm of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Directly by the definition.
    Direct,
    /// Winograd's F(2×2, 3×3) for 3×3 kernels: 16 products instead of 36.
    Winograd,
}

impl Algorithm {
    /// The algorithm for a layer and its map size. Does not depend on the batch.
    pub fn of(c: &Conv) -> Self {
        let tiles: usize = c.size.iter().map(|s| s.div_ceil(winograd::TILE)).product();
        let products = [winograd::POINTS * tiles, 9 * c.size[0] * c.size[1]];
        let fewer = 5 * products[0] <= 4 * products[1];
        if is_same3x3(c) && c.in_channels >= 16 && fewer { Self::Winograd } else { Self::Direct }
    }

    /// Size of the prepared weights relative to the original ones, as a fraction.
    pub fn growth(self) -> (usize, usize) {
        match self {
            Self::Direct => (1, 1),
            Self::Winograd => (winograd::POINTS, 9),
        }
    }
}

fn is_same3x3(c: &Conv) -> bool {
    c.kernel == [3; 2] && [c.stride, c.dilation, c.pad_before, c.pad_after] == [[1; 2]; 4] && c.groups == 1
}

/// The transformed, rounded and packed weights of a layer.
pub struct Prepared {
    /// One entry per group.
    groups: Vec<Packed>,
    isa: Isa,
    algorithm: Algorithm,
    /// The layer; its batch and map size are ignored.
    layer: Conv,
}

impl Prepared {
    /// Prepares weights `w: [out channels, in channels / groups, kernel height, kernel width]` for maps of `c`'s size.
    pub fn new(isa: Isa, c: &Conv, w: &[f32]) -> Self {
        Self::with(isa, c, w, Algorithm::of(c))
    }

    /// Prepares the weights of `c` rotated by 180° and transposed. With them, [`Prepared::forward`] for the layer
    /// returned by [`turned`] computes the gradient of the input from that of the output. `None` if that is not a
    /// convolution of the same kind.
    pub fn turned(isa: Isa, c: &Conv, w: &[f32]) -> Option<Self> {
        let layer = turned(c)?;
        assert_eq!(w.len(), c.lens()[1], "length of the weights of {c:?}");
        let order = Order { n: 1, k: c.in_channels, turned: true };
        let algorithm = Algorithm::of(&layer);
        let packed = match algorithm {
            Algorithm::Winograd => winograd::pack(isa, &layer, w, order),
            Algorithm::Direct => pack(isa, &layer, 0, w, order),
        };
        Some(Self { groups: vec![packed], isa, algorithm, layer })
    }

    /// Like [`Prepared::new`] with a given algorithm. Winograd's requires 3×3 kernels with stride, dilation and padding
    /// 1 and no groups.
    pub fn with(isa: Isa, c: &Conv, w: &[f32], algorithm: Algorithm) -> Self {
        check(c);
        assert_eq!(w.len(), c.lens()[1], "length of the weights of {c:?}");
        let groups = match algorithm {
            Algorithm::Winograd => {
                assert!(is_same3x3(c), "Winograd's algorithm does not support {c:?}");
                vec![winograd::pack(isa, c, w, Order::of(c))]
            }
            Algorithm::Direct => (0..c.groups).map(|g| pack(isa, c, g, w, Order::of(c))).collect(),
        };
        Self { groups, isa, algorithm, layer: *c }
    }

    /// The algorithm that the weights are prepared for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Size of the prepared weights in bytes.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(Packed::bytes).sum()
    }

    /// `out = x ⋆ w` with the epilogue applied, for any batch and map size of the layer.
    pub fn forward<O: Element>(&self, c: &Conv, x: &[Bf16], epilogue: Epilogue<'_>, out: &mut [O]) {
        let layer = Conv { batch: c.batch, size: c.size, ..self.layer };
        assert_eq!(*c, layer, "the weights were prepared for another layer");
        let [xs, _, ys] = c.lens();
        assert_eq!([x.len(), out.len()], [xs, ys], "lengths of input and output of {c:?}");
        let [oh, ow] = c.out_size();
        let rows = c.batch * oh * ow;
        let rows_per_bias = epilogue.rows_per_bias(rows, c.out_channels);
        let samples = rows / rows_per_bias;
        assert!(samples == 1 || samples == c.batch || rows == 0, "biases of {samples} samples for {c:?}");
        if ys == 0 {
            return;
        }
        match self.algorithm {
            // SAFETY: lengths are checked above. The same holds below.
            Algorithm::Winograd => unsafe {
                winograd::forward(self.isa, c, x, &self.groups[0], &epilogue, rows_per_bias, out);
            },
            Algorithm::Direct => {
                let (k, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
                let terms = Terms { taps: c.kernel[0] * c.kernel[1], k };
                let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
                for (g, w) in self.groups.iter().enumerate() {
                    let row = |r: usize, tap: usize| {
                        let place = [r / (oh * ow), r / ow % oh, r % ow];
                        let pixel = input_pixel(c, place, [tap / c.kernel[1], tap % c.kernel[1]])?;
                        Some(x.get().cast_const().wrapping_add(pixel * c.in_channels + g * k))
                    };
                    let target = Target { out, m: rows, ld: c.out_channels, column: g * n };
                    unsafe { direct::rows(self.isa, w, terms, row, target, &epilogue, rows_per_bias) };
                }
            }
        }
    }
}

/// Like [`Prepared::forward`], with weights that are used once.
pub fn forward<O: Element>(isa: Isa, c: &Conv, x: &[Bf16], w: &[f32], epilogue: Epilogue<'_>, out: &mut [O]) {
    Prepared::new(isa, c, w).forward(c, x, epilogue, out);
}

fn check(c: &Conv) {
    let positive = [c.stride, c.dilation].iter().flatten().all(|&v| v > 0);
    assert!(positive && c.groups > 0, "stride, dilation and groups must be positive: {c:?}");
    let divides = c.in_channels.is_multiple_of(c.groups) && c.out_channels.is_multiple_of(c.groups);
    assert!(divides, "groups must divide the channels: {c:?}");
}

/// Index of the input pixel of output pixel `(b, y, x)` at a tap; `None` in the padding.
fn input_pixel(c: &Conv, [b, y, x]: [usize; 3], tap: [usize; 2]) -> Option<usize> {
    let y = (y * c.stride[0] + tap[0] * c.dilation[0]).checked_sub(c.pad_before[0])?;
    let x = (x * c.stride[1] + tap[1] * c.dilation[1]).checked_sub(c.pad_before[1])?;
    (y < c.size[0] && x < c.size[1]).then(|| (b * c.size[0] + y) * c.size[1] + x)
}

fn pack(isa: Isa, c: &Conv, g: usize, w: &[f32], order: Order) -> Packed {
    let (taps, k, n) = (c.kernel[0] * c.kernel[1], c.in_channels / c.groups, c.out_channels / c.groups);
    let terms = Terms { taps, k };
    let [packed_taps, packed_k] = terms.packed();
    Packed::new(isa, [packed_taps, packed_k, n], |first, columns, pair, to| {
        for lane in 0..columns {
            for (tap, to) in to.iter_mut().enumerate() {
                for i in 0..2 {
                    let term = 2 * pair + i;
                    if term < packed_k {
                        let (tap, channel) = if terms.copied() { (term / k, term % k) } else { (tap, term) };
                        let kernel = order.at(g * n + first + lane, channel, taps);
                        to[i][lane] = w[kernel + order.tap(tap, taps)];
                    }
                }
            }
        }
    })
}
