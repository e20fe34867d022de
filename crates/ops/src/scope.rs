//! Settings for all operations that a thread runs within a scope.

use std::cell::Cell;

thread_local! {
    static PRIMITIVES: Cell<bool> = const { Cell::new(false) };
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
    static INT8: Cell<bool> = const { Cell::new(false) };
    static ONCE: Cell<bool> = const { Cell::new(false) };
    static MEASURING: Cell<bool> = const { Cell::new(false) };
}

/// Sets a flag until dropped.
struct Set(&'static std::thread::LocalKey<Cell<bool>>, bool);

impl Set {
    fn new(flag: &'static std::thread::LocalKey<Cell<bool>>, to: bool) -> Self {
        Self(flag, flag.replace(to))
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Runs `f` with all operations of this thread composed of Burn's primitives ([`crate::reference`]), as on other devices
/// than the CPU. The CPU kernels are compared with this.
pub fn of_primitives<T>(f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&PRIMITIVES, true);
    f()
}

/// Runs `f`. If `on`, gradients recompute normalized maps instead of storing them: only the input of a normalization and
/// its following convolution ([`crate::norm_conv2d`]) stays in memory (Chen et al. 2016, arXiv:1604.06174). Results are
/// the same bit for bit.
pub fn recomputing<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&RECOMPUTING, on);
    f()
}

/// Runs `f`. If `on`, layers on the CPU use 8-bit weights, and linear layers also quantize their input rows to 8 bits.
/// With VNNI, so do convolutions; with `bf16` instructions, attention computes in `bf16`. Narrow layers and linear layers on vectors (`[B, C]`: times, classes) are excluded. Weights keep this form while they
/// exist. Not for training: gradients would belong to other weights.
pub fn in_int8<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&INT8, on);
    f()
}

pub(crate) fn is_in_int8() -> bool {
    INT8.get()
}

/// Runs `f`, whose layers run once, like those of a text encoder, while others run many times: their weights are not kept
/// in packed form, and the pages of those in mapped files are released after they are read.
pub fn once<T>(f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&ONCE, true);
    f()
}

pub(crate) fn is_once() -> bool {
    ONCE.get()
}

/// Runs `f`. If `on`, `f32` convolutions on the CPU use the fastest algorithm for the layer, the map and the batch, which
/// is measured at the first use. By default the algorithm follows from the layer and the map, so that the bits of an
/// image depend neither on its batch nor on the load of the machine.
pub fn measuring<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&MEASURING, on);
    f()
}

pub(crate) fn is_measuring() -> bool {
    MEASURING.get()
}

pub(crate) fn is_of_primitives() -> bool {
    PRIMITIVES.get()
}

pub(crate) fn is_recomputing() -> bool {
    RECOMPUTING.get()
}
