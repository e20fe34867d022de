//! Loads the weights of an initial model.

use std::{collections::BTreeMap, path::Path};

use burn::module::Module;
use tweedie_hub::{ClipTokenizer, Component, ComponentDir, HubError, ModelDir, weights::SafetensorsFile};
use tweedie_models::{
    AutoencoderKl, AutoencoderKlConfig, ClipTextModel, Network, UNet1DConfig, UNet1DModel, UNet2DModel,
    params::{self, HostTensor, ParamError, TensorSource},
};
use tweedie_ops::Device;

use super::{folder, same_network};
use crate::error::TrainError;

/// The class embedding table, with one row per class.
const CLASSES: &str = "class_embedding.weight";

/// `fresh` with the weights of the model at `path`. Classes are matched by their names in `names`; new ones keep their
/// random rows.
///
/// # Errors
/// If there is no such model, or it has another network.
pub(crate) fn unet(fresh: UNet2DModel, path: &Path, names: &[String]) -> Result<UNet2DModel, TrainError> {
    let model = ModelDir::open(&folder(path))?;
    let file = model.weights()?;
    let (ours, theirs) = (fresh.config().to_json(), model.unet.to_json());
    same_network("model", &ours, &theirs, &["sample_size", "num_class_embeds", "dropout"], &model.path)?;
    let mut tensors = read(&file)?;
    let known = |name: &String| model.extras.class_names.iter().position(|n| n == name);
    let rows: Vec<_> = names.iter().map(known).chain([model.extras.null_class]).collect();
    let learned = tensors.remove(CLASSES);
    if let Some(table) = params::export(&fresh).remove(CLASSES) {
        tensors.insert(CLASSES.into(), classes(table, learned, &rows));
    }
    Ok(params::import(fresh, &tensors).map_err(of(&file))?)
}

/// Copies rows of `learned` to `table`; `rows` contains their positions in `learned`.
fn classes(mut table: HostTensor, learned: Option<HostTensor>, rows: &[Option<usize>]) -> HostTensor {
    let width = table.shape.last().copied().unwrap_or(0).max(1);
    let Some(learned) = learned.filter(|l| l.shape.last() == table.shape.last()) else { return table };
    for (row, from) in table.values.chunks_mut(width).zip(rows) {
        if let Some(from) = from.and_then(|from| learned.values.chunks(width).nth(from)) {
            row.copy_from_slice(from);
        }
    }
    table
}

/// `fresh` with the weights of the autoencoder at `path`.
///
/// # Errors
/// Those of [`unet`].
pub(crate) fn autoencoder(
    fresh: AutoencoderKl,
    path: &Path,
    device: &Device,
) -> Result<AutoencoderKl, TrainError> {
    let dir = folder(path);
    let component = ComponentDir::open(&dir)?;
    let theirs = match component.load(device)? {
        Component::Codec(codec) if codec.spec().class == AutoencoderKlConfig::CLASS => codec,
        _ => return Err(TrainError::config("run.init", dir.display(), "the folder of an AutoencoderKL")),
    };
    // The scaling factor is measured at the end of the run.
    let free =
        ["sample_size", "scaling_factor", "shift_factor", "force_upcast", "latents_mean", "latents_std"];
    same_network("vae", &fresh.config().to_json(), &theirs.config_json(), &free, &dir)?;
    let file = component.weights()?;
    Ok(params::import(fresh, &theirs.tensors()).map_err(of(&file))?)
}

/// A network of samples with its `config.json`, and the text encoder: with the weights of the pipeline at `path`.
///
/// # Errors
/// Those of [`unet`].
pub(crate) fn text<N: Network + Module>(
    (network, ours): (N, String),
    fresh: ClipTextModel,
    path: &Path,
    tokenizer: &ClipTokenizer,
    device: &Device,
) -> Result<(N, ClipTextModel), TrainError> {
    let dir = folder(path);
    let part =
        |name: &str| ComponentDir::open(&dir.join(name)).and_then(|c| Ok((c.load(device)?, c.weights()?)));
    let class = network.spec().class;
    let (unet, unet_file) = match part("unet")? {
        (Component::Network(unet), file) if unet.spec().class == class => (unet, file),
        _ => {
            let expected = format!("a pipeline with a {class}");
            return Err(TrainError::config("run.init", dir.display(), expected));
        }
    };
    let (Component::Text(encoder), encoder_file) = part("text_encoder")? else {
        return Err(TrainError::config("run.init", dir.display(), "a pipeline with a CLIPTextModel"));
    };
    same_network("model", &ours, &unet.config_json(), &["sample_size", "dropout"], &dir.join("unet"))?;
    let json = |config: &tweedie_models::ClipTextConfig| config.to_json(tokenizer.begin, tokenizer.pad);
    let (ours, theirs) = (json(fresh.config()), json(encoder.config()));
    same_network("text_encoder", &ours, &theirs, &["projection_dim"], &dir.join("text_encoder"))?;
    let network = params::import(network, &unet.tensors()).map_err(of(&unet_file))?;
    let encoder = params::import(fresh, &params::export(&*encoder)).map_err(of(&encoder_file))?;
    Ok((network, encoder))
}

/// `fresh` with the weights of the pipeline of waveforms at `path`.
///
/// # Errors
/// Those of [`unet`].
pub(crate) fn waveform(fresh: UNet1DModel, path: &Path, device: &Device) -> Result<UNet1DModel, TrainError> {
    let dir = folder(path).join("unet");
    let component = ComponentDir::open(&dir)?;
    let theirs = match component.load(device)? {
        Component::Network(network) if network.spec().class == UNet1DConfig::CLASS => network,
        _ => {
            let expected = format!("a pipeline with a {}", UNet1DConfig::CLASS);
            return Err(TrainError::config("run.init", dir.display(), expected));
        }
    };
    // The others do not affect this network.
    let free = ["sample_size", "sample_rate", "act_fn", "norm_num_groups", "layers_per_block", "freq_shift"];
    same_network("model.unet", &fresh.config().to_json(), &theirs.config_json(), &free, &dir)?;
    let file = component.weights()?;
    Ok(params::import(fresh, &theirs.tensors()).map_err(of(&file))?)
}

/// The tokenizer of the pipeline at `path`.
///
/// # Errors
/// If it has none.
pub(crate) fn tokenizer(path: &Path) -> Result<ClipTokenizer, TrainError> {
    Ok(ClipTokenizer::open(&folder(path).join("tokenizer"))?)
}

fn of(file: &SafetensorsFile) -> impl Fn(ParamError) -> HubError + '_ {
    |source| HubError::Params { path: file.path().into(), source }
}

fn read(file: &SafetensorsFile) -> Result<BTreeMap<String, HostTensor>, TrainError> {
    let tensor = |name: String| {
        let read =
            file.read(&name).map_err(|reason| of(file)(ParamError::Read { name: name.clone(), reason }));
        Ok((name, read?))
    };
    file.names().into_iter().map(tensor).collect()
}
