//! Profiling: the layers that run on the CPU, and the time of each.

use std::{cell::RefCell, fmt, time::Instant};

use tweedie_kernels::conv::Conv;

/// Kind of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A 3×3 convolution with stride 1.
    Convolution3x3,
    /// Any other convolution.
    Convolution,
    /// A linear layer.
    Linear,
    /// Attention.
    Attention,
    /// Group and layer normalization, with the activation that follows.
    Norm,
    /// Activations, additions, scales.
    Elementwise,
    /// Resizing and concatenation.
    Resampling,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Convolution3x3 => "convolutions 3x3",
            Self::Convolution => "other convolutions",
            Self::Linear => "linear layers",
            Self::Attention => "attention",
            Self::Norm => "normalization",
            Self::Elementwise => "activations, additions",
            Self::Resampling => "resampling, concatenation",
        })
    }
}

/// One layer of a pass.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Kind of the layer.
    pub kind: Kind,
    /// Shape of the operation.
    pub shape: String,
    /// Algorithm, if there are several.
    pub algorithm: &'static str,
    /// Multiplications and additions by the layer's definition; 0 if reads and writes dominate.
    pub operations: f64,
    /// Multiplications and additions that the algorithm executes.
    pub taken: f64,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Layer {
    pub(crate) fn new(kind: Kind, shape: impl fmt::Debug) -> Self {
        let shape = format!("{shape:?}").replace(", ", "x").replace(['[', ']'], "");
        Self { kind, shape, algorithm: "", operations: 0.0, taken: 0.0, seconds: 0.0 }
    }

    /// A layer of `products` multiply-adds.
    pub(crate) fn of_products(kind: Kind, shape: String, algorithm: &'static str, products: usize) -> Self {
        let operations = 2.0 * products as f64;
        Self { kind, shape, algorithm, operations, taken: operations, seconds: 0.0 }
    }

    /// A convolution that executes `products` multiply-adds.
    pub(crate) fn of_conv(c: &Conv, algorithm: &'static str, products: usize) -> Self {
        let [kh, kw] = c.kernel;
        let [oh, ow] = c.out_size();
        let plain = c.kernel == [3; 2] && c.stride == [1; 2] && c.groups == 1;
        let shape = format!(
            "{}x{}x{}x{} to {}x{oh}x{ow}, {kh}x{kw}",
            c.batch, c.in_channels, c.size[0], c.size[1], c.out_channels
        );
        let kind = if plain { Kind::Convolution3x3 } else { Kind::Convolution };
        let defined = c.batch * oh * ow * kh * kw * (c.in_channels / c.groups) * c.out_channels;
        let layer = Self::of_products(kind, shape, algorithm, defined);
        Self { taken: 2.0 * products as f64, ..layer }
    }
}

thread_local! {
    static LAYERS: RefCell<Option<Vec<Layer>>> = const { RefCell::new(None) };
}

/// Runs `f`, and returns all layers that this thread ran on the CPU kernels, in order.
pub fn profile<T>(f: impl FnOnce() -> T) -> (T, Vec<Layer>) {
    let before = LAYERS.replace(Some(Vec::new()));
    let result = f();
    let layers = LAYERS.replace(before).unwrap_or_default();
    (result, layers)
}

/// Records a layer when it is dropped, if profiling is on.
pub(crate) struct Timer(Option<(Layer, Instant)>);

pub(crate) fn layer(what: impl FnOnce() -> Layer) -> Timer {
    let asked = LAYERS.with_borrow(Option::is_some);
    Timer(asked.then(|| (what(), Instant::now())))
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((layer, start)) = self.0.take() {
            let seconds = start.elapsed().as_secs_f64();
            LAYERS.with_borrow_mut(|all| all.get_or_insert_default().push(Layer { seconds, ..layer }));
        }
    }
}
