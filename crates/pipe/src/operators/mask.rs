//! The known values of a sample: pixels outside a hole, frames that are not missing, a signal outside a gap.

use super::{Linear, Operator};

/// Selects the known values. `A·Aᵀ` is the identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    inputs: usize,
    known: Vec<usize>,
    ones: Vec<f64>,
}

impl Mask {
    /// The mask that knows the values for which `known` is true.
    pub fn new(known: &[bool]) -> Self {
        let indices: Vec<usize> = known.iter().enumerate().filter(|(_, k)| **k).map(|(i, _)| i).collect();
        Self { inputs: known.len(), ones: vec![1.0; indices.len()], known: indices }
    }

    /// The indices of the known values.
    pub fn known(&self) -> &[usize] {
        &self.known
    }
}

impl Operator for Mask {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn outputs(&self) -> usize {
        self.known.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.known.iter().map(|i| x[*i]).collect()
    }

    fn pull(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.adjoint(v)
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }

    /// Exactly the measured values.
    fn consistent(&self, x: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        let mut x = x.to_vec();
        self.known.iter().zip(y).for_each(|(i, v)| x[*i] = *v);
        Some(x)
    }
}

impl Linear for Mask {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; self.inputs];
        for (i, v) in self.known.iter().zip(y) {
            x[*i] = *v;
        }
        x
    }

    fn singular_values(&self) -> Option<&[f64]> {
        Some(&self.ones)
    }
}
