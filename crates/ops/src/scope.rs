//! What holds for all operations that a thread runs within a scope.

use std::cell::Cell;

thread_local! {
    static PRIMITIVES: Cell<bool> = const { Cell::new(false) };
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
    static INT8: Cell<bool> = const { Cell::new(false) };
    static ONCE: Cell<bool> = const { Cell::new(false) };
    static MEASURING: Cell<bool> = const { Cell::new(false) };
}

/// Sets a flag until it is dropped.
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

/// Runs `f` with all operations of this thread composed of Burn's primitives ([`crate::reference`]), as on other
/// devices than the CPU: what the CPU's kernels are held against.
pub fn of_primitives<T>(f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&PRIMITIVES, true);
    f()
}

/// Runs `f`; if `on`, gradients of what it computes make normalized maps again instead of keeping them: of a
/// normalization and the convolution that follows ([`crate::norm_conv2d`]), the input alone stays in memory (Chen et
/// al. 2016, arXiv:1604.06174). The numbers are the same, bit for bit.
pub fn recomputing<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&RECOMPUTING, on);
    f()
}

/// Runs `f`; if `on`, the layers that it computes on the CPU have weights of eight bits, and linear maps also rows of
/// eight bits: all but those of few channels, and linear maps of vectors (`[B, C]`: times, classes). Weights keep this
/// form while they live. Not where gradients are wanted: they would be those of other weights.
pub fn in_int8<T>(on: bool, f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&INT8, on);
    f()
}

pub(crate) fn is_in_int8() -> bool {
    INT8.get()
}

/// Runs `f`, whose layers run once where others run many times, as a text encoder's: their weights are not kept in the
/// kernels' order, and the memory of those in mapped files is given back when they have been read.
pub fn once<T>(f: impl FnOnce() -> T) -> T {
    let _set = Set::new(&ONCE, true);
    f()
}

pub(crate) fn is_once() -> bool {
    ONCE.get()
}

/// Runs `f`; if `on`, convolutions in `f32` on the CPU take the algorithm that is the fastest for the layer, the map and
/// the batch, which is measured where they are first met. By default it follows from the layer and the map: then a
/// row's bits depend neither on its batch nor on what else the machine did.
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
