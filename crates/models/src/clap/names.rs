//! Tensor names of transformers that are no names of fields.

use burn::tensor::TensorData;

use crate::params::{HostTensor, TensorSource};

/// Parts of names in transformers, and ours.
const RENAMED: [(&str, &str); 2] = [("attention.self.", "attention.own."), ("LayerNorm.", "norm.")];
/// Constant tables that transformers stores.
const CONSTANTS: [&str; 2] = ["position_ids", "token_type_ids"];

/// A source with our names, and without constants.
pub(super) struct Renamed<'a>(pub(super) &'a dyn TensorSource);

/// A name in transformers.
pub(super) fn theirs(name: &str) -> String {
    RENAMED.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(ours, theirs))
}

impl TensorSource for Renamed<'_> {
    fn names(&self) -> Vec<String> {
        let is_constant = |name: &String| CONSTANTS.iter().any(|constant| name.ends_with(constant));
        let ours =
            |name: String| RENAMED.iter().fold(name, |name, (theirs, ours)| name.replace(theirs, ours));
        self.0.names().into_iter().filter(|name| !is_constant(name)).map(ours).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(&theirs(name))
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        self.0.read(&theirs(name))
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        self.0.data(&theirs(name))
    }
}
