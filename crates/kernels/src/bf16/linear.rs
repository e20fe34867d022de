//! Linear layers, and convolutions with 1×1 kernels, which are the same on channels-last maps.

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
    /// From the transpose of PyTorch's layout, `weight: [inputs, outputs]`: takes gradients of the outputs to those
    /// of the inputs.
    pub fn transposed(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "a weight of {outputs} outputs and {inputs} inputs");
        let packed = Packed::new(isa, [1, inputs, outputs], |first, columns, pair, to| {
            for (i, to) in to[0].iter_mut().enumerate().filter(|(i, _)| 2 * pair + i < inputs) {
                to[..columns].copy_from_slice(&weight[(2 * pair + i) * outputs + first..][..columns]);
            }
        });
        Self { weight: packed, isa, inputs }
    }

    /// From PyTorch's layout, `weight: [outputs, inputs]`.
    pub fn new(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "a weight of {outputs} outputs and {inputs} inputs");
        let packed = Packed::new(isa, [1, inputs, outputs], |first, columns, pair, to| {
            for lane in 0..columns {
                let terms = &weight[(first + lane) * inputs..][..inputs][2 * pair..];
                to[0].iter_mut().zip(terms).for_each(|(to, w)| to[lane] = *w);
            }
        });
        Self { weight: packed, isa, inputs }
    }

    /// Numbers per row in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers per row out.
    pub fn outputs(&self) -> usize {
        self.weight.n
    }

    /// Bytes that the packed weight takes.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `out = x·weightᵀ`, joined by the epilogue: `x: [rows, inputs]`, `out: [rows, outputs]`.
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
