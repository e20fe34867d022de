//! Tensor names of text encoders in different versions of transformers.

use burn::tensor::TensorData;

use crate::params::{HostTensor, TensorSource};

const PREFIX: &str = "text_model.";
/// The position ids `0, 1, 2, …`, which versions before 4.31 stored.
const PLACES: &str = "embeddings.position_ids";
const PROJECTION: &str = "text_projection.weight";

/// A source with `text_model.` before all names except the projection's, and without the position ids.
pub(super) struct Prefixed<'a>(pub(super) &'a dyn TensorSource);

impl Prefixed<'_> {
    fn original(&self, name: &str) -> String {
        match name.strip_prefix(PREFIX) {
            Some(bare) if self.0.shape(name).is_none() => bare.into(),
            _ => name.into(),
        }
    }
}

impl TensorSource for Prefixed<'_> {
    fn names(&self) -> Vec<String> {
        let with_prefix = |name: String| match name.starts_with(PREFIX) || name == PROJECTION {
            true => name,
            false => format!("{PREFIX}{name}"),
        };
        self.0.names().into_iter().map(with_prefix).filter(|name| !name.ends_with(PLACES)).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(&self.original(name))
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        self.0.read(&self.original(name))
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        self.0.data(&self.original(name))
    }
}
