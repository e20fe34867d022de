//! Metadata of single-file checkpoints, and tensors in them that are not needed.

use std::collections::BTreeMap;

use tweedie_models::TensorSource;

use super::Prediction;
use crate::{error::HubError, weights::SafetensorsFile};

/// The metadata, each with its source in the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// The prediction of the network.
    pub(super) prediction: Option<(Prediction, String)>,
    /// Whether the noisiest level is pure noise.
    pub(super) zero_snr: Option<String>,
    /// Height and width of the images it was trained on.
    pub(super) size: Option<[usize; 2]>,
}

/// Markers that fine-tuned models contain as empty tensors.
const V_MARK: &str = "v_pred";
const ZERO_SNR_MARK: &str = "ztsnr";
/// Keys of the header with the same meaning.
const ZERO_SNR_KEYS: [&str; 2] = [ZERO_SNR_MARK, "ss_zero_terminal_snr"];
/// Markers of noise processes other than Stable Diffusion's.
const FOREIGN_MARKS: [&str; 4] = ["edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"];
/// Keys of Stability AI's ModelSpec in the header.
const PREDICTION: &str = "modelspec.prediction_type";
const ARCHITECTURE: &str = "modelspec.architecture";
const RESOLUTION: &str = "modelspec.resolution";
/// Plausible image sizes in pixels.
const SIDES: std::ops::RangeInclusive<usize> = 64..=8192;

impl Declared {
    /// `given` is the prediction given by the user, which takes precedence.
    ///
    /// # Errors
    /// If the file is for another noise process, or its prediction is unknown or contradictory.
    pub(super) fn of(file: &SafetensorsFile, given: Option<Prediction>) -> Result<Self, HubError> {
        let has = |name: &str| file.shape(name).is_some();
        if let Some(name) = FOREIGN_MARKS.into_iter().find(|name| has(name)) {
            let reason =
                "this marks a model with EDM's noise levels, which is not supported in a single file";
            return Err(HubError::tensor(file.path(), name, reason));
        }
        let metadata = file.metadata();
        let prediction = match (has(V_MARK), metadata.get(PREDICTION)) {
            _ if given.is_some() => None,
            (true, Some(text)) if read_prediction(text) == Some(Prediction::Eps) => {
                let reason = format!(
                    "\"{text}\", but the file has a tensor `{V_MARK}`, which marks v-prediction; select one with \
                     --prediction"
                );
                return Err(HubError::key(file.path(), PREDICTION, reason));
            }
            (true, _) => Some((Prediction::V, format!("the tensor `{V_MARK}`"))),
            (false, Some(text)) => match read_prediction(text) {
                Some(kind) => Some((kind, format!("`{PREDICTION}` = \"{text}\""))),
                None => {
                    let reason = format!("\"{text}\" is not supported; supported: epsilon, v");
                    return Err(HubError::key(file.path(), PREDICTION, reason));
                }
            },
            // The networks of 2.x for 512×512 pixels predict noise.
            (false, None) => metadata
                .get(ARCHITECTURE)
                .filter(|text| text.contains("v2-512"))
                .map(|text| (Prediction::Eps, format!("`{ARCHITECTURE}` = \"{text}\""))),
        };
        let key = ZERO_SNR_KEYS.into_iter().find(|key| metadata.get(*key).is_some_and(|text| is_true(text)));
        let zero_snr = match has(ZERO_SNR_MARK) {
            true => Some(format!("the tensor `{ZERO_SNR_MARK}`")),
            false => key.map(|key| format!("`{key}` in the header")),
        };
        let size = metadata.get(RESOLUTION).and_then(|text| read_size(text));
        Ok(Self { prediction, zero_snr, size })
    }
}

fn is_true(text: &str) -> bool {
    ["true", "1"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

fn read_prediction(text: &str) -> Option<Prediction> {
    match text {
        "epsilon" | "eps" => Some(Prediction::Eps),
        "v" | "v_prediction" | "v-prediction" | "velocity" => Some(Prediction::V),
        _ => None,
    }
}

/// Height and width of `WIDTHxHEIGHT`.
fn read_size(text: &str) -> Option<[usize; 2]> {
    let (width, height) = text.split_once('x')?;
    let [height, width] = [height, width].map(|side| side.trim().parse::<usize>().ok());
    let size = [height?, width?];
    size.iter().all(|side| SIDES.contains(side) && side.is_multiple_of(8)).then_some(size)
}

/// Tensors with a component's prefix that do not belong to it, but to training or a larger network. Entries that end in
/// a dot are prefixes.
const IDLE: [&str; 10] = [
    "first_stage_model.loss.",
    "first_stage_model.model_ema.",
    "cond_stage_model.transformer.text_projection.weight",
    "cond_stage_model.transformer.visual_projection.weight",
    "cond_stage_model.transformer.vision_model.",
    "cond_stage_model.model.visual.",
    "conditioner.embedders.0.transformer.text_projection.weight",
    "conditioner.embedders.0.transformer.visual_projection.weight",
    "conditioner.embedders.0.transformer.vision_model.",
    "conditioner.embedders.1.model.visual.",
];

/// The entry of [`IDLE`] that the tensor called `whole` belongs to.
pub(super) fn idle(whole: &str) -> Option<&'static str> {
    IDLE.into_iter().find(|idle| if idle.ends_with('.') { whole.starts_with(idle) } else { whole == *idle })
}

/// A warning for each group of tensors that no component uses. `prefixes` are those of the components.
pub(super) fn passed_over(file: &SafetensorsFile, prefixes: &[&str]) -> Vec<String> {
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    for name in file.names() {
        let group = match idle(&name) {
            Some(idle) => idle.to_owned(),
            None if prefixes.iter().any(|prefix| name.starts_with(prefix)) => continue,
            None if [V_MARK, ZERO_SNR_MARK].contains(&name.as_str()) => continue,
            None => name.split_once('.').map_or(name.clone(), |(first, _)| format!("{first}.")),
        };
        *groups.entry(group).or_default() += 1;
    }
    let remark = |(group, count): (String, usize)| match (group.ends_with('.'), count) {
        (true, 1) => format!("skipped a tensor with the prefix `{group}`, which is not needed"),
        (true, _) => format!("skipped {count} tensors with the prefix `{group}`, which are not needed"),
        (false, _) => format!("skipped the tensor `{group}`, which is not needed"),
    };
    groups.into_iter().map(remark).collect()
}
