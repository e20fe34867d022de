//! The network and the autoencoder as jobs run them.

use std::sync::{Arc, Mutex, PoisonError};

use tweedie_models::{Codec, Controlled, Network};
use tweedie_ops::Precision;

use crate::pipeline::Pipeline;

/// What the jobs of one precision share: thousands of them may wait, and a copy of a network's structure takes more memory
/// than the rest of a job.
#[derive(Clone)]
pub(crate) struct Parts {
    precision: Precision,
    /// Whether gradients with respect to the input are needed.
    differentiable: bool,
    /// With its ControlNets.
    pub network: Arc<dyn Network>,
    pub codec: Option<Arc<dyn Codec>>,
}

/// The parts that were asked for so far.
#[derive(Clone, Default)]
pub(crate) struct SharedParts(Arc<Mutex<Vec<Parts>>>);

impl Pipeline {
    /// The parts for jobs of `precision`.
    pub(crate) fn parts(&self, precision: Precision, differentiable: bool) -> Parts {
        let mut shared = self.parts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |p: &&Parts| p.precision == precision && p.differentiable == differentiable;
        if let Some(found) = shared.iter().find(same) {
            return found.clone();
        }
        let context = self.context.clone().with_precision(precision);
        let network = self.model.network.in_context(&context);
        let network = match &*self.model.controls {
            [] => network,
            nets => Controlled::new(network, nets.to_vec()).in_context(&context),
        };
        let network = if differentiable { network.differentiable() } else { network };
        let codec = self.codec().map(|codec| codec.in_context(&context).into());
        let parts = Parts { precision, differentiable, network: network.into(), codec };
        shared.push(parts.clone());
        parts
    }
}
