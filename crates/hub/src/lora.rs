//! LoRA, low-rank changes of weights: `W + scale·(alpha/rank)·up·down` (Hu et al. 2021, arXiv:2106.09685), in the formats
//! of diffusers, PEFT and kohya's scripts. They are merged while weights are loaded. kohya's scripts name the layers of
//! SDXL's U-Net as in the original code; their full names are in [`original`](crate::original).

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use serde_json::{Map, Value};
use tweedie_models::{HostTensor, TensorSource};

use crate::{error::HubError, files, original::names::original_unet, weights::SafetensorsFile};

/// Suffixes of the names of a layer's two factors.
const FACTORS: [(&str, &str); 5] = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
];
const ALPHA: &str = ".alpha";

/// PEFT's prefix of tensor names.
const PEFT: &str = "base_model.model.";

/// Prefixes of names, and their components. Names of the second kind have underscores instead of dots.
const DOTTED: [(&str, &str); 4] = [
    ("unet.", "unet"),
    ("transformer.", "transformer"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
];
const UNDERSCORED: [(&str, &str); 4] = [
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
];

/// Prefixes of a component's own layers, for files that PEFT made for this component only.
const LAYERS: [(&str, &str); 8] = [
    ("down_blocks.", "unet"),
    ("mid_block.", "unet"),
    ("up_blocks.", "unet"),
    ("conv_in", "unet"),
    ("conv_out", "unet"),
    ("time_embedding.", "unet"),
    ("transformer_blocks.", "transformer"),
    ("text_model.", "text_encoder"),
];

/// Where diffusers stores PEFT's configuration in a file's header, and PEFT beside its own file.
const HEADER: &str = "lora_adapter_metadata";
const BESIDE: (&str, &str) = ("adapter_model.safetensors", "adapter_config.json");

/// The entries of PEFT's configuration that determine the factor of a change.
struct AdapterConfig(Map<String, Value>);

impl AdapterConfig {
    fn of(file: &SafetensorsFile) -> Result<Self, HubError> {
        let path = file.path();
        if let Some(text) = file.metadata().get(HEADER) {
            let wrong =
                |e: serde_json::Error| HubError::key(path, HEADER, format!("expected a JSON object: {e}"));
            return Ok(Self(serde_json::from_str(text).map_err(wrong)?));
        }
        let beside = path.with_file_name(BESIDE.1);
        match path.file_name().is_some_and(|name| name == BESIDE.0) && beside.exists() {
            true => Ok(Self(files::read_json(&beside)?)),
            false => Ok(Self(Map::new())),
        }
    }

    /// The entry for `component`, or for all components.
    fn get(&self, component: &str, key: &str) -> Option<&Value> {
        self.0.get(&format!("{component}.{key}")).or_else(|| self.0.get(key))
    }

    /// The factor for a change of rank `rank`, if the configuration has one.
    fn factor(&self, component: &str, layer: &str, rank: usize) -> Option<f64> {
        let is = |name: &str| layer == name || layer.ends_with(&format!(".{name}"));
        let patterns = self.get(component, "alpha_pattern").and_then(Value::as_object);
        let own = patterns.and_then(|all| all.iter().find(|(name, _)| is(name)).map(|(_, alpha)| alpha));
        let alpha = own.or_else(|| self.get(component, "lora_alpha"))?.as_f64()?;
        let stabilized = self.get(component, "use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Some(if stabilized { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
    }
}

/// The two factors of a layer's change.
#[derive(Debug)]
struct Factors {
    /// `[rank, inputs…]`.
    down: HostTensor,
    /// `[outputs, rank, …]`.
    up: HostTensor,
    /// `alpha/rank`, or `alpha/√rank` if PEFT's configuration says so (Kalajdzievski 2023, arXiv:2312.03732).
    factor: f64,
}

/// A LoRA file.
#[derive(Debug)]
pub struct Lora {
    path: PathBuf,
    /// Factor of the whole change.
    pub scale: f64,
    /// Component and layer, and its change.
    layers: BTreeMap<(&'static str, Layer), Factors>,
    used: RefCell<BTreeSet<(&'static str, Layer)>>,
}

/// A layer's name without `.weight`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Dotted(String),
    Underscored(String),
}

impl Layer {
    fn underscored(name: &str) -> Self {
        Self::Underscored(name.replace('.', "_"))
    }

    fn text(&self) -> &str {
        match self {
            Self::Dotted(name) | Self::Underscored(name) => name,
        }
    }
}

impl Lora {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it is damaged, or the name or shape of a tensor is invalid; names the tensor.
    pub fn open(path: &Path, scale: f64) -> Result<Self, HubError> {
        let file = SafetensorsFile::open(path)?;
        let unknown = |name: &str, reason: &str| HubError::tensor(path, name, reason);
        let read = |name: &str| file.read(name).map_err(|reason| HubError::tensor(path, name, reason));
        let names: BTreeSet<String> = file.names().into_iter().collect();
        let config = AdapterConfig::of(&file)?;
        let mut layers = BTreeMap::new();
        let mut understood = BTreeSet::new();
        for name in &names {
            let ends = FACTORS.iter().find_map(|(down, up)| Some((name.strip_suffix(down)?, up)));
            let Some((stem, up_suffix)) = ends else { continue };
            let (up_name, alpha_name) = (format!("{stem}{up_suffix}"), format!("{stem}{ALPHA}"));
            if !names.contains(&up_name) {
                return Err(unknown(name, &format!("the matching tensor `{up_name}` is missing")));
            }
            let (down, up) = (read(name)?, read(&up_name)?);
            let rank = down.shape.first().copied().unwrap_or(0);
            let fits = rank > 0 && up.shape.get(1) == Some(&rank) && up.shape[2..].iter().all(|n| *n == 1);
            if !fits {
                let reason = format!("has shape {:?}, which does not match {:?}", down.shape, up.shape);
                return Err(unknown(name, &reason));
            }
            let key = place(stem).ok_or_else(|| unknown(name, "does not belong to a known component"))?;
            let factor = match names.contains(&alpha_name) {
                true => {
                    read(&alpha_name)?.values.first().map_or(1.0, |alpha| f64::from(*alpha) / rank as f64)
                }
                false => config.factor(key.0, key.1.text(), rank).unwrap_or(1.0),
            };
            layers.insert(key, Factors { down, up, factor });
            understood.extend([name.clone(), up_name, alpha_name]);
        }
        if let Some(name) = names.iter().find(|name| !understood.contains(*name)) {
            return Err(unknown(name, "is not a known kind of LoRA tensor"));
        }
        Ok(Self { path: path.into(), scale, layers, used: RefCell::default() })
    }

    /// The tensors of `source`, those of the component called `component`, with this change.
    pub fn merged<'a>(&'a self, component: &'static str, source: &'a dyn TensorSource) -> Merged<'a> {
        let mut changes: BTreeMap<String, Vec<&Factors>> = BTreeMap::new();
        let names = source.names();
        let has = |start: &str| names.iter().any(|name| name.starts_with(start));
        let layers = (0..).take_while(|i| has(&format!("down_blocks.0.resnets.{i}."))).count();
        let attends = |block: usize| has(&format!("up_blocks.{block}.attentions."));
        for name in &names {
            let Some(stem) = name.strip_suffix(".weight") else { continue };
            // Names of text encoders occur with and without this prefix.
            let mut known: Vec<Layer> = [stem.to_owned(), format!("text_model.{stem}")]
                .into_iter()
                .flat_map(|stem| [Layer::underscored(&stem), Layer::Dotted(stem)])
                .collect();
            if component == "unet" {
                known.extend(original_unet(stem, layers, &attends).map(|stem| Layer::underscored(&stem)));
            }
            for layer in known {
                let key = (component, layer);
                if let Some(factors) = self.layers.get(&key) {
                    changes.entry(name.clone()).or_default().push(factors);
                    self.used.borrow_mut().insert(key);
                }
            }
        }
        Merged { source, changes, scale: self.scale }
    }

    /// Checks that each change was applied to a layer.
    ///
    /// # Errors
    /// Names the first that was not.
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

/// The component and layer of a name without its suffix.
fn place(stem: &str) -> Option<(&'static str, Layer)> {
    for (prefix, component) in UNDERSCORED {
        if let Some(rest) = stem.strip_prefix(prefix) {
            return Some((component, Layer::Underscored(rest.into())));
        }
    }
    let bare = stem.strip_prefix(PEFT).unwrap_or(stem);
    let named = DOTTED.iter().find_map(|(p, c)| Some((bare.strip_prefix(p)?, *c)));
    let own = || LAYERS.iter().find(|(start, _)| bare.starts_with(start)).map(|(_, c)| (bare, *c));
    let (rest, component) = named.or_else(|| own().filter(|_| bare.len() < stem.len()))?;
    let rest = rest.strip_prefix(PEFT).unwrap_or(rest);
    // `attn1.processor.to_q` in diffusers before 0.22 is `attn1.to_q`; in text encoders `self_attn.to_q` is
    // `self_attn.q_proj`.
    let layer = if let Some((attention, projection)) = rest.split_once(".processor.") {
        let index = if projection == "to_out" { ".0" } else { "" };
        format!("{attention}.{projection}{index}")
    } else if let Some((layer, projection)) = rest.split_once(".self_attn.to_") {
        format!("{layer}.self_attn.{projection}_proj")
    } else {
        rest.to_owned()
    };
    Some((component, Layer::Dotted(layer)))
}

/// Tensors with a LoRA merged.
pub struct Merged<'a> {
    source: &'a dyn TensorSource,
    changes: BTreeMap<String, Vec<&'a Factors>>,
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
        for Factors { down, up, factor } in self.changes.get(name).into_iter().flatten() {
            let rank = down.shape[0];
            let (outputs, inputs) = (up.shape[0], down.values.len() / rank);
            if tensor.shape.first() != Some(&outputs) || tensor.values.len() != outputs * inputs {
                let (shape, by) = (&tensor.shape, (&up.shape, &down.shape));
                return Err(format!("has shape {shape:?}, but the LoRA has shape {by:?}"));
            }
            let scale = (self.scale * factor) as f32;
            for (row, up) in tensor.values.chunks_exact_mut(inputs).zip(up.values.chunks_exact(rank)) {
                for (u, down) in up.iter().zip(down.values.chunks_exact(inputs)) {
                    row.iter_mut().zip(down).for_each(|(w, d)| *w += scale * u * d);
                }
            }
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
