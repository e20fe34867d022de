//! The tensors of one component of a checkpoint in one file.

use std::collections::BTreeMap;

use tweedie_models::{HostTensor, TensorSource};

use super::declared;
use crate::weights::SafetensorsFile;

/// Tensors of text encoders that are not weights, or only used in training.
const IDLE: [&str; 3] = ["position_ids", "logit_scale", "attn_mask"];

/// How a tensor is derived from the original one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    /// One of three equal parts of the first axis.
    Third(usize),
    Transposed,
    /// A 1×1 convolution as a linear map.
    Linear,
}

/// The tensors of one component, under diffusers' names.
pub struct Part<'a> {
    file: &'a SafetensorsFile,
    prefix: &'static str,
    /// diffusers' names to the original full names and the derived part.
    tensors: BTreeMap<String, (String, Cut)>,
}

impl<'a> Part<'a> {
    /// The component whose tensor names start with `prefix`, without any tensors yet.
    pub(super) fn new(file: &'a SafetensorsFile, prefix: &'static str) -> Self {
        Self { file, prefix, tensors: BTreeMap::new() }
    }
}

impl Part<'_> {
    /// The shape of a tensor by its original name without the component's prefix.
    pub(super) fn original_shape(&self, name: &str) -> Option<Vec<usize>> {
        self.file.shape(&format!("{}{name}", self.prefix))
    }

    /// Adds all tensors of the component under the names given by `rename`: several for equal parts, or none if a tensor is
    /// not needed.
    pub(super) fn rename(&mut self, rename: impl Fn(&str) -> Option<Vec<String>>) -> Result<(), String> {
        for whole in self.file.names() {
            let Some(name) = whole.strip_prefix(self.prefix) else { continue };
            if IDLE.iter().any(|idle| name.ends_with(idle)) || declared::idle(&whole).is_some() {
                continue;
            }
            let renamed = rename(name).ok_or_else(|| {
                format!("unexpected tensor `{whole}`, which does not belong to a known layer")
            })?;
            let rank = self.file.shape(&whole).map_or(0, |shape| shape.len());
            let parts = renamed.len();
            for (i, name) in renamed.into_iter().enumerate() {
                let linear =
                    rank == 4 && [".to_q.", ".to_k.", ".to_v.", ".to_out."].iter().any(|l| name.contains(l));
                let cut = match parts {
                    3 => Cut::Third(i),
                    _ if name == "text_projection.weight" && whole.ends_with("text_projection") => {
                        Cut::Transposed
                    }
                    _ if linear => Cut::Linear,
                    _ => Cut::Whole,
                };
                self.tensors.insert(name, (whole.clone(), cut));
            }
        }
        Ok(())
    }
}

impl TensorSource for Part<'_> {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (whole, cut) = self.tensors.get(name)?;
        let mut shape = self.file.shape(whole)?;
        match cut {
            Cut::Whole => {}
            Cut::Third(_) => *shape.first_mut()? /= 3,
            Cut::Transposed => shape.reverse(),
            Cut::Linear => shape.truncate(2),
        }
        Some(shape)
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        let (whole, cut) = self.tensors.get(name).ok_or("missing")?;
        let mut tensor = self.file.read(whole)?;
        let shape = tensor.shape.clone();
        match (cut, shape.as_slice()) {
            (Cut::Whole, _) => {}
            (Cut::Third(i), [rows, ..]) if rows.is_multiple_of(3) => {
                let third = tensor.values.len() / 3;
                tensor.values = tensor.values[i * third..(i + 1) * third].to_vec();
                tensor.shape[0] /= 3;
            }
            (Cut::Transposed, &[rows, columns]) => {
                let values = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
                tensor.values = values.map(|(r, c)| tensor.values[r * columns + c]).collect();
                tensor.shape.reverse();
            }
            (Cut::Linear, [_, _, 1, 1]) => tensor.shape.truncate(2),
            _ => return Err(format!("tensor `{whole}` has an unexpected shape {shape:?}")),
        }
        Ok(tensor)
    }

    fn data(&self, name: &str) -> Result<burn::tensor::TensorData, String> {
        match self.tensors.get(name) {
            Some((whole, Cut::Whole)) => self.file.data(whole),
            _ => self.read(name)?.into_data(),
        }
    }
}
