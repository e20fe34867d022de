//! Linear layers, and 1×1 convolutions, which are the same on channels-last maps.

use super::{
    Bf16, Element, Epilogue,
    direct::{self, Target, Terms},
    pack::Packed,
};
use crate::{Isa, par::Ptr};

/// The weight of a linear layer, rounded and packed once.
pub struct Linear {
    weight: Packed,
    isa: Isa,
    inputs: usize,
}

impl Linear {
    /// Packs the transpose of PyTorch's layout, `weight: [inputs, outputs]`, to compute gradients of inputs from those of
    /// outputs.
    pub fn transposed(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(
            weight.len(),
            outputs * inputs,
            "length of a weight with {outputs} outputs and {inputs} inputs"
        );
        let packed = Packed::new(isa, [1, inputs, outputs], |first, columns, pair, to| {
            for (i, to) in to[0].iter_mut().enumerate().filter(|(i, _)| 2 * pair + i < inputs) {
                to[..columns].copy_from_slice(&weight[(2 * pair + i) * outputs + first..][..columns]);
            }
        });
        Self { weight: packed, isa, inputs }
    }

    /// Packs PyTorch's layout, `weight: [outputs, inputs]`.
    pub fn new(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(
            weight.len(),
            outputs * inputs,
            "length of a weight with {outputs} outputs and {inputs} inputs"
        );
        let packed = Packed::new(isa, [1, inputs, outputs], |first, columns, pair, to| {
            for lane in 0..columns {
                let terms = &weight[(first + lane) * inputs..][..inputs][2 * pair..];
                to[0].iter_mut().zip(terms).for_each(|(to, w)| to[lane] = *w);
            }
        });
        Self { weight: packed, isa, inputs }
    }

    /// Input features.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output features.
    pub fn outputs(&self) -> usize {
        self.weight.n
    }

    /// Size of the packed weight in bytes.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `out = x·weightᵀ` with the epilogue applied: `x: [rows, inputs]`, `out: [rows, outputs]`.
    pub fn forward<O: Element>(&self, x: &[Bf16], epilogue: Epilogue<'_>, out: &mut [O]) {
        let (k, n) = (self.inputs, self.weight.n);
        let m = out.len() / n.max(1);
        assert!(x.len() == m * k && out.len() == m * n, "lengths {} and {} of {m} rows", x.len(), out.len());
        let rows_per_bias = epilogue.rows_per_bias(m, n);
        let x = Ptr::from_const(x.as_ptr());
        let target = Target { out: Ptr::new(out), m, ld: n, column: 0 };
        // SAFETY: lengths are checked above.
        unsafe {
            let row = |r: usize, _: usize| Some(x.get().add(r * k).cast_const());
            direct::rows(self.isa, &self.weight, Terms { taps: 1, k }, row, target, &epilogue, rows_per_bias);
        }
    }
}
