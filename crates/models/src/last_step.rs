//! Two networks for one trajectory: DALL·E 2's enlargers (Ramesh et al. 2022, arXiv:2204.06125) have another for the last step.

use std::{collections::BTreeMap, sync::Arc};

use tweedie_ops::{Batch, ExecContext, Precision, SampleShape};

use crate::{
    conditions::Conditions,
    network::{InputError, IoSpec, Mode, Network},
    params::HostTensor,
};

/// A network, and another for the last step, which is at time 0.
#[derive(Debug)]
pub struct LastStep {
    first: Box<dyn Network>,
    last: Arc<dyn Network>,
}

impl LastStep {
    /// `last` is called at time 0. Both have the same inputs and outputs.
    pub fn new(first: Box<dyn Network>, last: Arc<dyn Network>) -> Self {
        Self { first, last }
    }

    fn at(&self, time: f32) -> &dyn Network {
        if time > 0.0 { &*self.first } else { &*self.last }
    }
}

impl Network for LastStep {
    fn spec(&self) -> IoSpec {
        self.first.spec()
    }

    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        self.first.check(rows, shape, times, conditions)?;
        self.last.check(rows, shape, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        let mut parts = Vec::new();
        let mut start = 0;
        for times in times.chunk_by(|a, b| (*a > 0.0) == (*b > 0.0)) {
            let rows = start..start + times.len();
            let network = self.at(times[0]);
            parts.push(network.forward(x.narrow(rows.clone()), times, &conditions.rows(rows.clone()), mode));
            start = rows.end;
        }
        Batch::cat(&parts)
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        self.first.row_bytes(shape, precision).max(self.last.row_bytes(shape, precision))
    }

    fn in_context(&self, context: &ExecContext) -> Box<dyn Network> {
        Box::new(Self::new(self.first.in_context(context), self.last.in_context(context).into()))
    }

    fn differentiable(&self) -> Box<dyn Network> {
        Box::new(Self::new(self.first.differentiable(), self.last.differentiable().into()))
    }

    fn config_json(&self) -> String {
        self.first.config_json()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        self.first.tensors()
    }

    fn non_finite(&self) -> Option<String> {
        self.first.non_finite().or_else(|| self.last.non_finite())
    }
}
