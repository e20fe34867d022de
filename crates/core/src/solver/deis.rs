//! DEIS: the polynomial in `lambda` through the last predictions of `eps`, integrated exactly (`tAB-DEIS` in
//! `log ρ`). Zhang & Chen 2022, arXiv:2204.13902. Order 1 to 4, one evaluation.

use super::{
    Solver,
    exponential::{Exponential, FinalOrder, Form},
};
use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// DEIS.
#[derive(Clone, Copy, Debug)]
pub struct Deis {
    /// Number of predictions, 1 to 4.
    pub order: usize,
    /// The order of the last steps.
    pub final_order: FinalOrder,
}

impl<V: Vector> Solver<V> for Deis {
    fn order(&self) -> usize {
        self.order
    }

    fn memory(&self) -> usize {
        self.order - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let step = Exponential::new(Form::Noise, s.from, s.to);
        let order = self.order.min(self.final_order.here(s));
        let mut nodes = vec![(0.0, &p.eps)];
        nodes.extend(s.pasts(order - 1).map(|n| (step.at(n.level), &n.prediction.eps)));
        if nodes.len() == 1 {
            return Ok(step.first_order(&s.x, &p));
        }
        Ok(step.through(&s.x, &nodes, |j| step.moment(j)))
    }
}
