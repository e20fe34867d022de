//! Tensor names of CLIP's encoders in different versions of transformers.

use burn::tensor::TensorData;

use crate::params::{HostTensor, TensorSource};

/// The position ids `0, 1, 2, …`, which versions before 4.31 stored.
const PLACES: &str = "embeddings.position_ids";

/// A source with a prefix before all names except the projection's, and without the position ids.
pub(crate) struct Prefixed<'a> {
    source: &'a dyn TensorSource,
    prefix: &'static str,
    projection: &'static str,
}

impl<'a> Prefixed<'a> {
    /// That of an encoder of texts.
    pub(super) fn of_texts(source: &'a dyn TensorSource) -> Self {
        Self { source, prefix: "text_model.", projection: "text_projection.weight" }
    }

    /// That of an encoder of images.
    pub(crate) fn of_images(source: &'a dyn TensorSource) -> Self {
        Self { source, prefix: "vision_model.", projection: "visual_projection.weight" }
    }
}

impl Prefixed<'_> {
    fn original(&self, name: &str) -> String {
        match name.strip_prefix(self.prefix) {
            Some(bare) if self.source.shape(name).is_none() => bare.into(),
            _ => name.into(),
        }
    }
}

impl TensorSource for Prefixed<'_> {
    fn names(&self) -> Vec<String> {
        let with_prefix = |name: String| match name.starts_with(self.prefix) || name == self.projection {
            true => name,
            false => format!("{}{name}", self.prefix),
        };
        self.source.names().into_iter().map(with_prefix).filter(|name| !name.ends_with(PLACES)).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&self.original(name))
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        self.source.read(&self.original(name))
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        self.source.data(&self.original(name))
    }
}
