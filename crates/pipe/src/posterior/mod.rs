//! Samples given what is known of them, from any model and without training.
//!
//! Two methods replace known values in every prediction and leave the solver as it is. The others are solvers of their own:
//! each step corrects the prediction by a [`Measurement`]. Two of these need the gradient of a function of the prediction
//! with respect to the noisy sample, [`Prediction::pulled`](tweedie_core::Prediction::pulled).

mod ddnm;
mod ddrm;
mod diffpir;
mod dps;
mod measurement;
mod method;
mod particles;
mod pigdm;
mod replacement;

use tweedie_core::{Level, Prediction};
use tweedie_ops::{Batch, from_host};

pub use ddnm::Ddnm;
pub use ddrm::Ddrm;
pub use diffpir::DiffPir;
pub use dps::Dps;
pub use measurement::{Measurement, Rows};
pub(crate) use method::Needs;
pub use method::{METHODS, Method};
pub use particles::Particles;
pub use pigdm::{PiGdm, Weight};
pub(crate) use replacement::Replacement;

/// A measurement with the method that follows it.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// What is known.
    pub measurement: Measurement,
    /// How samples follow from it.
    pub method: Method,
}

impl Posterior {
    /// The vector that the network's Jacobian `∂x0/∂x` is transposed with, for the prediction `x0`; `None` if the method needs
    /// no gradient.
    pub fn cotangent<V: Rows>(&self, x0: &V, at: Level) -> Option<V> {
        let measurement = self.measurement.clone();
        match self.method {
            Method::PiGdm { eta } => {
                let method = PiGdm { measurement, eta, weight: Weight::Paper };
                Some(x0.each(|row| method.cotangent(row, at)))
            }
            Method::Dps { zeta } => {
                let method = Dps { measurement, zeta };
                Some(x0.each(|row| method.cotangent(row)))
            }
            _ => None,
        }
    }

    /// The final samples: if the measurement has no noise, moved such that it is met.
    pub(crate) fn finished(&self, x: Batch) -> Batch {
        match self.measurement.sigma > 0.0 {
            true => x,
            false => x.each(|row| self.measurement.consistent(row)),
        }
    }

    /// Adds the gradient to a prediction for the tracked samples `x`.
    pub(crate) fn pulled(&self, prediction: Prediction<Batch>, x: &Batch, at: Level) -> Prediction<Batch> {
        let plain = |v: &Batch| v.with_rows(v.rows().clone().without_autodiff());
        let x0 = plain(&prediction.x0);
        let pulled = self.cotangent(&x0, at).and_then(|v| {
            let constant = v.rows().clone().autodiff();
            let gradients = (prediction.x0.rows().clone() * constant).sum().backward();
            x.rows().grad(&gradients).map(|g| x0.with_rows(g.without_autodiff()))
        });
        // A prediction that does not depend on the samples has no gradient.
        let none = || {
            let count = x0.len() * x0.shape().len();
            x0.with_rows(from_host(vec![0.0; count], [x0.len(), x0.shape().len()], &x0.device()))
        };
        Prediction {
            eps: plain(&prediction.eps),
            null_eps: prediction.null_eps.as_ref().map(plain),
            variance: prediction.variance.as_ref().map(plain),
            pulled: Some(pulled.unwrap_or_else(none)),
            x0,
        }
    }
}

/// The same samples as the leaf of a graph for gradients.
pub(crate) fn tracked(x: &Batch) -> Batch {
    x.with_rows(x.rows().clone().autodiff().require_grad())
}
