//! Low-rank adapters in the formats of diffusers, PEFT, kohya's scripts and LyCORIS: low-rank products (LoRA, and LoCon
//! for convolutions), elementwise and Kronecker products of them (LoHa, LoKr), each optionally with magnitudes (DoRA).
//! They are merged while weights are read. kohya's scripts use the original layer names of SDXL's U-Net, which
//! [`original`](crate::original) maps.

mod change;
mod config;
mod names;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use tweedie_models::{HostTensor, TensorSource};

use self::{
    change::{Change, Parts},
    config::Config,
    names::{EMBEDDING, Layer, Part, Place, embeddings, one_adapter, part_of, place, without_adapter},
};
use crate::{error::HubError, original::names::original_unet, weights::SafetensorsFile};

/// A file with a low-rank adapter.
#[derive(Debug)]
pub struct Lora {
    path: PathBuf,
    /// Scale of the adapter. With DoRA, as in PEFT, it applies before the magnitudes.
    pub scale: f64,
    layers: BTreeMap<Place, Change>,
    used: RefCell<BTreeSet<Place>>,
    remarks: Vec<String>,
}

impl Lora {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it is damaged, has a tensor with an unknown name or an invalid shape or value, or PEFT's configuration, in the
    /// header or beside the file, is not supported.
    pub fn open(path: &Path, scale: f64) -> Result<Self, HubError> {
        let file = SafetensorsFile::open(path)?;
        let unknown = |name: &str, reason: &str| HubError::tensor(path, name, reason);
        let names = file.names();
        let config = Config::of(&file)?;
        let mut stems: BTreeMap<String, Parts> = BTreeMap::new();
        let mut adapters = Vec::new();
        for name in names.iter().filter(|name| !name.starts_with(EMBEDDING)) {
            let (bare, adapter) = without_adapter(name);
            adapters.extend(adapter);
            let (stem, part) =
                part_of(&bare).ok_or_else(|| unknown(name, "is not part of a known LoRA format"))?;
            let tensor = file.read(name).map_err(|reason| unknown(name, &reason))?;
            if let Some(value) = tensor.values.iter().find(|v| !v.is_finite()) {
                return Err(unknown(name, &format!("has a value that is not finite ({value})")));
            }
            stems.entry(stem.to_owned()).or_default().insert(part, (name.clone(), tensor));
        }
        one_adapter(path, adapters)?;
        let mut layers = BTreeMap::new();
        for (stem, mut parts) in stems {
            let first = parts.values().next().map_or(stem.clone(), |(name, _)| name.clone());
            let key = place(&stem).ok_or_else(|| unknown(&first, "does not belong to a known component"))?;
            let alpha = parts.remove(&Part::Alpha);
            if parts.is_empty() {
                return Err(unknown(&first, "belongs to a layer without LoRA weights"));
            }
            let mut change = Change::of(parts).map_err(|(name, reason)| unknown(&name, &reason))?;
            let alpha = alpha.and_then(|(_, tensor)| tensor.values.first().copied());
            change.factor = match (alpha, change.rank()) {
                (Some(alpha), Some(rank)) => f64::from(alpha) / rank as f64,
                // Full matrices are not scaled.
                (Some(_), None) => 1.0,
                (None, rank) => config.factor(key.0, key.1.text(), rank).unwrap_or(1.0),
            };
            layers.insert(key, change);
        }
        let remarks = embeddings(names.iter().map(String::as_str)).into_iter().collect();
        Ok(Self { path: path.into(), scale, layers, used: RefCell::default(), remarks })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Warnings about the file, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The tensors of `source`, which belong to the component `component`, with this adapter merged.
    pub fn merged<'a>(&'a self, component: &'static str, source: &'a dyn TensorSource) -> Merged<'a> {
        let mut changes: BTreeMap<String, Vec<&Change>> = BTreeMap::new();
        let names = source.names();
        let has = |start: &str| names.iter().any(|name| name.starts_with(start));
        let layers = (0..).take_while(|i| has(&format!("down_blocks.0.resnets.{i}."))).count();
        let attends = |block: usize| has(&format!("up_blocks.{block}.attentions."));
        for name in &names {
            let Some(stem) = name.strip_suffix(".weight") else { continue };
            // Text encoders are stored with and without this prefix.
            let mut known: Vec<Layer> = [stem.to_owned(), format!("text_model.{stem}")]
                .into_iter()
                .flat_map(|stem| [Layer::underscored(&stem), Layer::Dotted(stem)])
                .collect();
            if component == "unet" {
                known.extend(original_unet(stem, layers, &attends).map(|stem| Layer::underscored(&stem)));
            }
            for layer in known {
                let key = (component, layer);
                if let Some(change) = self.layers.get(&key) {
                    changes.entry(name.clone()).or_default().push(change);
                    self.used.borrow_mut().insert(key);
                }
            }
        }
        Merged { source, changes, scale: self.scale }
    }

    /// Checks that all layers of the adapter exist.
    ///
    /// # Errors
    /// Names the first missing layer.
    pub fn check_used(&self) -> Result<(), HubError> {
        let used = self.used.borrow();
        match self.layers.keys().find(|key| !used.contains(*key)) {
            Some((component, layer)) => {
                let reason = format!("the model's {component} has no such layer");
                Err(HubError::tensor(&self.path, layer.text(), reason))
            }
            None => Ok(()),
        }
    }
}

/// Tensors with an adapter merged.
pub struct Merged<'a> {
    source: &'a dyn TensorSource,
    changes: BTreeMap<String, Vec<&'a Change>>,
    scale: f64,
}

impl TensorSource for Merged<'_> {
    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        match self.changes.contains_key(name) {
            true => self.read(name)?.into_data(),
            false => self.source.data(name),
        }
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        let mut tensor = self.source.read(name)?;
        for change in self.changes.get(name).into_iter().flatten() {
            change.apply(&mut tensor, self.scale)?;
        }
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{self, Precision};

    fn tensor(shape: &[usize], from: f32) -> HostTensor {
        let count = shape.iter().product::<usize>();
        HostTensor { shape: shape.to_vec(), values: (0..count).map(|i| from + i as f32).collect() }
    }

    fn file(dir: &Path, tensors: &[(&str, HostTensor)]) -> PathBuf {
        let path = dir.join("lora.safetensors");
        let named = tensors.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
        weights::write(&path, &named, Precision::F32, &Default::default()).unwrap();
        path
    }

    fn base() -> BTreeMap<String, HostTensor> {
        [("mid.attn1.to_q.weight".to_owned(), tensor(&[2, 3], 0.0))].into()
    }

    #[test]
    fn every_way_of_naming_means_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (down, up) = (tensor(&[1, 3], 1.0), tensor(&[2, 1], 1.0));
        // up·down is [[1, 2, 3], [2, 4, 6]].
        for (a, b) in [
            ("unet.mid.attn1.to_q.lora_A.weight", "unet.mid.attn1.to_q.lora_B.weight"),
            ("unet.mid.attn1.to_q.lora.down.weight", "unet.mid.attn1.to_q.lora.up.weight"),
            ("lora_unet_mid_attn1_to_q.lora_down.weight", "lora_unet_mid_attn1_to_q.lora_up.weight"),
            (
                "unet.mid.attn1.processor.to_q_lora.down.weight",
                "unet.mid.attn1.processor.to_q_lora.up.weight",
            ),
            (
                "base_model.model.unet.mid.attn1.to_q.lora_A.weight",
                "base_model.model.unet.mid.attn1.to_q.lora_B.weight",
            ),
            (
                "unet.base_model.model.mid.attn1.to_q.lora_A.weight",
                "unet.base_model.model.mid.attn1.to_q.lora_B.weight",
            ),
        ] {
            let path = file(dir.path(), &[(a, down.clone()), (b, up.clone())]);
            let lora = Lora::open(&path, 0.5).unwrap_or_else(|e| panic!("{a}: {e}"));
            let base = base();
            let found = lora.merged("unet", &base).read("mid.attn1.to_q.weight").unwrap();
            assert_eq!(found.values, [0.5, 2.0, 3.5, 4.0, 6.0, 8.0], "{a}");
            lora.check_used().unwrap();
        }
        let alpha = HostTensor { shape: vec![], values: vec![4.0] };
        let stem = "lora_unet_mid_attn1_to_q";
        let names =
            [format!("{stem}.lora_down.weight"), format!("{stem}.lora_up.weight"), format!("{stem}.alpha")];
        let path = file(dir.path(), &[(&names[0], down), (&names[1], up), (&names[2], alpha)]);
        let (lora, base) = (Lora::open(&path, 0.5).unwrap(), base());
        let found = lora.merged("unet", &base).read("mid.attn1.to_q.weight").unwrap();
        assert_eq!(found.values[..3], [2.0, 5.0, 8.0]);
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (down, up) = (tensor(&[1, 3], 1.0), tensor(&[2, 1], 1.0));
        let open = |tensors: &[(&str, HostTensor)]| Lora::open(&file(dir.path(), tensors), 1.0);
        let pair = |stem: &str| (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
        let (a, b) = pair("unet.mid.attn1.to_q");
        let error = open(&[(&a, down.clone())]).unwrap_err().to_string();
        assert!(error.contains(&b) && error.contains("missing"), "{error}");
        let error = open(&[(&a, down.clone()), (&b, up.clone()), ("other", up.clone())]).unwrap_err();
        assert!(error.to_string().contains("`other`"), "{error}");
        let error = open(&[(&a, tensor(&[2, 3], 0.0)), (&b, up.clone())]).unwrap_err().to_string();
        assert!(error.contains("[2, 3]"), "{error}");
        let (c, d) = pair("vae.x");
        let error = open(&[(&c, down.clone()), (&d, up.clone())]).unwrap_err().to_string();
        assert!(error.contains("vae.x") && error.contains("component"), "{error}");
        let (c, d) = pair("unet.mid.attn9.to_q");
        let (lora, base) = (open(&[(&c, down.clone()), (&d, up.clone())]).unwrap(), base());
        lora.merged("unet", &base);
        let error = lora.check_used().unwrap_err().to_string();
        assert!(error.contains("mid.attn9.to_q") && error.contains("unet"), "{error}");
        let lora = open(&[(&a, tensor(&[1, 4], 0.0)), (&b, up)]).unwrap();
        let error = lora.merged("unet", &base).read("mid.attn1.to_q.weight").unwrap_err();
        assert!(error.contains("[2, 3]"), "{error}");
    }
}
