//! How operations run.

use std::cell::{Cell, RefCell};

use crate::{PackedWeights, Precision};

/// Everything that changes the numbers or the memory of operations, besides their arguments. A network has one, and runs its
/// layers in it.
#[derive(Clone, Debug, Default)]
pub struct ExecContext {
    /// The arithmetic.
    pub precision: Precision,
    /// Gradients recompute normalized maps instead of storing them: only the input of a normalization and its following
    /// convolution ([`crate::norm_conv2d`]) stays in memory (Chen et al. 2016, arXiv:1604.06174). Results are the same bit
    /// for bit.
    pub recompute: bool,
    /// The layers run once, like those of a text encoder, while others run many times: their weights are not kept in packed
    /// form, and the pages of those in mapped files are released after they are read. Results are the same bit for bit.
    pub once: bool,
    /// `f32` convolutions on the CPU use the fastest algorithm for the layer, the map and the batch, which is measured at the
    /// first use. Otherwise the algorithm follows from the layer and the map, so that the bits of a sample depend neither on
    /// its batch nor on the load of the machine.
    pub measure: bool,
    /// Weights in the layout of the kernels. Clones of a context share them.
    pub weights: PackedWeights,
}

thread_local! {
    /// What the operations of this thread run in. Set by [`ExecContext::run`] alone.
    static CURRENT: RefCell<ExecContext> = RefCell::default();
    static PRIMITIVES: Cell<bool> = const { Cell::new(false) };
}

impl ExecContext {
    /// The same with another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Runs the operations of `f` in this context.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Before(Option<ExecContext>);
        impl Drop for Before {
            fn drop(&mut self) {
                if let Some(before) = self.0.take() {
                    CURRENT.set(before);
                }
            }
        }
        let _before = Before(Some(CURRENT.replace(self.clone())));
        f()
    }
}

/// Reads the context of this thread's operations.
pub(crate) fn current<T>(read: impl FnOnce(&ExecContext) -> T) -> T {
    CURRENT.with_borrow(read)
}

/// Runs `f` with all operations of this thread composed of Burn's primitives ([`crate::reference`]), as on other devices
/// than the CPU. The CPU kernels are compared with this.
pub fn of_primitives<T>(f: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            PRIMITIVES.set(self.0);
        }
    }
    let _before = Before(PRIMITIVES.replace(true));
    f()
}

pub(crate) fn is_of_primitives() -> bool {
    PRIMITIVES.get()
}
