//! Tensor names of older checkpoints.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use crate::params::{HostTensor, TensorSource};

/// Attention layers before and since diffusers 0.15.
const RENAMED: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// A source under the names that diffusers uses now.
pub struct CurrentNames<'a> {
    source: &'a dyn TensorSource,
    /// Current name to name in the source.
    names: BTreeMap<String, String>,
}

impl<'a> CurrentNames<'a> {
    /// Detects old names in `source`.
    pub fn new(source: &'a dyn TensorSource) -> Self {
        let names = source.names().into_iter().map(|name| (current(&name), name)).collect();
        Self { source, names }
    }
}

/// `….attentions.0.query.weight` to `….attentions.0.to_q.weight`.
fn current(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let [.., attentions, _, layer, _] = parts.as_mut_slice()
        && *attentions == "attentions"
        && let Some((_, now)) = RENAMED.iter().find(|(before, _)| before == layer)
    {
        *layer = now;
    }
    parts.join(".")
}

impl TensorSource for CurrentNames<'_> {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(self.names.get(name)?)
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        self.source.read(self.names.get(name).map_or(name, String::as_str))
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        self.source.data(self.names.get(name).map_or(name, String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::current;

    #[test]
    fn only_attention_layers_are_renamed() {
        assert_eq!(current("mid_block.attentions.0.query.weight"), "mid_block.attentions.0.to_q.weight");
        assert_eq!(
            current("up_blocks.1.attentions.2.proj_attn.bias"),
            "up_blocks.1.attentions.2.to_out.0.bias"
        );
        assert_eq!(current("mid_block.attentions.0.to_k.weight"), "mid_block.attentions.0.to_k.weight");
        assert_eq!(current("conv_in.weight"), "conv_in.weight");
    }
}
