//! Tensor names of peers that are no names of fields.

use burn::tensor::TensorData;

use crate::params::{HostTensor, TensorSource};

/// A source with our names.
pub(crate) struct Renamed<'a> {
    /// The source with the peer's names.
    pub(crate) source: &'a dyn TensorSource,
    /// Parts of the peer's names, and ours.
    pub(crate) parts: &'a [(&'a str, &'a str)],
    /// What names of tensors that are passed over end in.
    pub(crate) left_out: &'a [&'a str],
}

/// The peer's name for one of ours.
pub(crate) fn theirs(name: &str, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(ours, theirs))
}

impl TensorSource for Renamed<'_> {
    fn names(&self) -> Vec<String> {
        let is_left_out = |name: &String| self.left_out.iter().any(|end| name.ends_with(end));
        let ours =
            |name: String| self.parts.iter().fold(name, |name, (theirs, ours)| name.replace(theirs, ours));
        self.source.names().into_iter().filter(|name| !is_left_out(name)).map(ours).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&theirs(name, self.parts))
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        self.source.read(&theirs(name, self.parts))
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        self.source.data(&theirs(name, self.parts))
    }
}
