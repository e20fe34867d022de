//! What is known of samples: a measurement with its noise.

use std::sync::Arc;

use tweedie_core::Vector;
use tweedie_ops::Batch;

use crate::operators::{Linear, Operator, SMALLEST, minus};

/// `y = A(x0) + sigma·n` with standard normal `n`, of every sample.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// `A`.
    pub operator: Arc<dyn Operator>,
    /// The measurement.
    pub y: Vec<f64>,
    /// The standard deviation of its noise.
    pub sigma: f64,
}

/// Samples whose rows can be changed one by one.
pub trait Rows: Vector {
    /// The values of each row.
    fn rows(&self) -> Vec<Vec<f64>>;

    /// Samples of the same shape with other rows.
    fn with(&self, rows: Vec<Vec<f64>>) -> Self;

    /// Every row changed by `f`.
    fn each(&self, f: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        self.with(Rows::rows(self).iter().map(|row| f(row)).collect())
    }
}

impl Rows for Vec<f64> {
    fn rows(&self) -> Vec<Vec<f64>> {
        vec![self.clone()]
    }

    fn with(&self, mut rows: Vec<Vec<f64>>) -> Self {
        rows.pop().unwrap_or_default()
    }
}

impl Rows for Batch {
    fn rows(&self) -> Vec<Vec<f64>> {
        let values = self.to_host();
        values
            .chunks(self.shape().len().max(1))
            .map(|row| row.iter().map(|v| f64::from(*v)).collect())
            .collect()
    }

    fn with(&self, rows: Vec<Vec<f64>>) -> Self {
        let count = rows.len();
        let values = rows.into_iter().flatten().map(|v| v as f32).collect();
        Self::from_host(values, count, self.shape(), &self.device())
    }
}

impl Measurement {
    /// `y − A(x)`.
    pub fn residual(&self, x: &[f64]) -> Vec<f64> {
        minus(&self.y, &self.operator.apply(x))
    }

    /// The operator as a linear one.
    ///
    /// # Panics
    /// If it is not; methods that need it are only made for linear operators.
    pub(crate) fn linear(&self) -> &dyn Linear {
        self.operator.as_linear().expect("the method was checked to suit the operator")
    }

    /// `x` moved such that its measurement is `y`.
    pub fn consistent(&self, x: &[f64]) -> Vec<f64> {
        self.operator.consistent(x, &self.y).unwrap_or_else(|| x.to_vec())
    }

    /// The directions that are measured, with the measurement in each; the operator must have a decomposition.
    pub(crate) fn directions(&self) -> Directions<'_> {
        let operator = self.linear();
        let values = operator.singular_values().expect("the method was checked to suit the operator");
        let least = SMALLEST * values.iter().copied().fold(0.0, f64::max);
        let inverse: Vec<f64> = values.iter().map(|s| if *s > least { 1.0 / s } else { 0.0 }).collect();
        let known = operator.rotated(&self.y).iter().zip(&inverse).map(|(y, s)| y * s).collect();
        Directions { operator, inverse, known, sigma: self.sigma }
    }
}

/// Coordinates along the right singular vectors `V` of `A = U·S·Vᵀ`.
pub(crate) struct Directions<'a> {
    operator: &'a dyn Linear,
    /// `1/s` of each direction; 0 if nothing is measured along it.
    inverse: Vec<f64>,
    /// `ȳ = S⁺·Uᵀ·y`.
    known: Vec<f64>,
    sigma: f64,
}

/// One direction.
pub(crate) struct Direction {
    /// Its coordinate in the measurement, `ȳ`.
    pub y: f64,
    /// The standard deviation of the noise of `ȳ`, `sigma/s`.
    pub sigma: f64,
}

impl Directions<'_> {
    /// `Vᵀ·x`.
    fn of(&self, x: &[f64]) -> Vec<f64> {
        let c = self.operator.rotated(&self.operator.apply(x));
        c.iter().zip(&self.inverse).map(|(c, s)| c * s).collect()
    }

    /// `V·c`.
    fn back(&self, c: &[f64]) -> Vec<f64> {
        let c: Vec<f64> = c.iter().zip(&self.inverse).map(|(c, s)| c * s).collect();
        self.operator.adjoint(&self.operator.rotated_back(&c))
    }

    /// `rest` with the component along each measured direction replaced by `f(direction, coordinates of each of xs)`.
    pub fn combine<const N: usize>(
        &self,
        rest: &[f64],
        xs: [&[f64]; N],
        f: impl Fn(Direction, [f64; N]) -> f64,
    ) -> Vec<f64> {
        let coordinates = xs.map(|x| self.of(x));
        let before = self.of(rest);
        let change: Vec<f64> = (0..before.len())
            .map(|i| match self.inverse[i] {
                0.0 => 0.0,
                inverse => {
                    let direction = Direction { y: self.known[i], sigma: self.sigma * inverse };
                    f(direction, std::array::from_fn(|k| coordinates[k][i])) - before[i]
                }
            })
            .collect();
        rest.iter().zip(self.back(&change)).map(|(a, b)| a + b).collect()
    }
}
