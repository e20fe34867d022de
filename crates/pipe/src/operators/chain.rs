//! Operators made of others.

use std::sync::Arc;

use super::{Linear, Operator, minus};

/// One operator after another: `last(first(x))`.
#[derive(Clone, Debug)]
pub struct Chain {
    first: Arc<dyn Operator>,
    last: Arc<dyn Operator>,
}

impl Chain {
    /// The chain of two operators.
    ///
    /// # Panics
    /// If the measurement of the first is not a sample of the last.
    pub fn new(first: Arc<dyn Operator>, last: Arc<dyn Operator>) -> Self {
        assert_eq!(first.outputs(), last.inputs(), "the second operator measures the first's result");
        Self { first, last }
    }
}

impl Operator for Chain {
    fn inputs(&self) -> usize {
        self.first.inputs()
    }

    fn outputs(&self) -> usize {
        self.last.outputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.last.apply(&self.first.apply(x))
    }

    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        self.first.pull(x, &self.last.pull(&self.first.apply(x), v))
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        (self.first.as_linear().is_some() && self.last.as_linear().is_some()).then_some(self)
    }

    /// If an operator is not linear: the first's measurement is moved to meet `y`, and `x` to meet that.
    fn consistent(&self, x: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        match self.as_linear() {
            Some(linear) => Some(minus(x, &linear.pseudo_inverse(&minus(&self.apply(x), y)))),
            None => self.first.consistent(x, &self.last.consistent(&self.first.apply(x), y)?),
        }
    }
}

impl Linear for Chain {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        // The Jacobian of a linear operator is the same everywhere.
        self.first.pull(&[], &self.last.pull(&[], y))
    }
}

/// Several measurements of one sample, one after another.
#[derive(Clone, Debug)]
pub struct Stack(Vec<Arc<dyn Operator>>);

impl Stack {
    /// The measurements of all operators.
    ///
    /// # Panics
    /// If there is none, or they measure samples of different lengths.
    pub fn new(all: Vec<Arc<dyn Operator>>) -> Self {
        assert!(all.windows(2).all(|pair| pair[0].inputs() == pair[1].inputs()) && !all.is_empty());
        Self(all)
    }
}

impl Operator for Stack {
    fn inputs(&self) -> usize {
        self.0[0].inputs()
    }

    fn outputs(&self) -> usize {
        self.0.iter().map(|one| one.outputs()).sum()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.0.iter().flat_map(|one| one.apply(x)).collect()
    }

    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        let (mut rest, mut sum) = (v, vec![0.0; self.inputs()]);
        for one in &self.0 {
            let (own, others) = rest.split_at(one.outputs());
            rest = others;
            sum.iter_mut().zip(one.pull(x, own)).for_each(|(sum, v)| *sum += v);
        }
        sum
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        self.0.iter().all(|one| one.as_linear().is_some()).then_some(self)
    }
}

impl Linear for Stack {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        self.pull(&[], y)
    }
}

/// A weighted sum of measurements of one length.
#[derive(Clone, Debug)]
pub struct Sum(Vec<(f64, Arc<dyn Operator>)>);

impl Sum {
    /// The sum of these operators with their weights.
    ///
    /// # Panics
    /// If there is none, or their lengths differ.
    pub fn new(all: Vec<(f64, Arc<dyn Operator>)>) -> Self {
        let lengths = |one: &(f64, Arc<dyn Operator>)| (one.1.inputs(), one.1.outputs());
        assert!(all.windows(2).all(|pair| lengths(&pair[0]) == lengths(&pair[1])) && !all.is_empty());
        Self(all)
    }

    fn sum(&self, length: usize, f: impl Fn(&dyn Operator) -> Vec<f64>) -> Vec<f64> {
        let mut sum = vec![0.0; length];
        for (weight, one) in &self.0 {
            sum.iter_mut().zip(f(&**one)).for_each(|(sum, v)| *sum += weight * v);
        }
        sum
    }
}

impl Operator for Sum {
    fn inputs(&self) -> usize {
        self.0[0].1.inputs()
    }

    fn outputs(&self) -> usize {
        self.0[0].1.outputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.sum(self.outputs(), |one| one.apply(x))
    }

    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        self.sum(self.inputs(), |one| one.pull(x, v))
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        self.0.iter().all(|(_, one)| one.as_linear().is_some()).then_some(self)
    }
}

impl Linear for Sum {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        self.pull(&[], y)
    }
}
