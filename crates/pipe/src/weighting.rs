//! Applies word weights to the features of a text.

use std::str::FromStr;

use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

/// A convention for word weights. All agree if all weights are 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// `empty + weight·(features − empty)` at each weighted token, where `empty` are the features at the same position of an
    /// empty text. Other tokens keep their features. ComfyUI's convention.
    #[default]
    Comfyui,
    /// Each token's features times its weight, then all of a chunk times a factor that restores their mean. The
    /// default of AUTOMATIC1111's web UI ("Original"). An error if the mean is close to zero, as in SDXL.
    A1111,
    /// Each token's features times its weight: AUTOMATIC1111's "No norm".
    A1111NoNorm,
}

impl Weighting {
    /// All conventions by name.
    pub const NAMES: [(&str, Self); 3] =
        [("comfyui", Self::Comfyui), ("a1111", Self::A1111), ("a1111-no-norm", Self::A1111NoNorm)];
}

impl FromStr for Weighting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        found.ok_or_else(|| {
            format!(
                "unknown convention `{text}`; expected one of {}",
                Self::NAMES.map(|(name, _)| name).join(", ")
            )
        })
    }
}

/// Maximum factor by which the mean of a chunk may change for `a1111` to restore it.
const MOST_FACTOR: f32 = 2.0;

/// Applies `weights`, one per token of each chunk, to `hidden: [chunks, tokens, width]`. `empty: [1, tokens, width]`
/// are the features of an empty text.
///
/// # Errors
/// If the mean of a chunk is too close to zero to be restored.
pub(crate) fn weigh(
    kind: Weighting,
    hidden: Tensor<3>,
    empty: Tensor<3>,
    weights: &[Vec<f64>],
) -> Result<Tensor<3>, String> {
    let [chunks, length, width] = hidden.dims();
    let values: Vec<f32> = weights.iter().flatten().map(|w| *w as f32).collect();
    let data = TensorData::new(values, [chunks, length, 1]);
    let weights = Tensor::<3>::from_data(data, (&hidden.device(), DType::F32));
    let weighed = hidden.clone() * weights.clone();
    match kind {
        // Features of weight 1 keep their bits.
        Weighting::Comfyui => {
            let empty = empty.repeat_dim(0, chunks);
            let plain = weights.clone().equal_elem(1.0f32).repeat_dim(2, width);
            let moved = (hidden.clone() - empty.clone()) * weights + empty;
            Ok(moved.mask_where(plain, hidden))
        }
        Weighting::A1111NoNorm => Ok(weighed),
        Weighting::A1111 => {
            let mean = |x: &Tensor<3>| x.clone().reshape([chunks, length * width]).mean_dim(1);
            let factors = mean(&hidden) / mean(&weighed);
            let host: Vec<f32> = factors.clone().into_data().iter::<f32>().collect();
            match host.iter().find(|factor| !(1.0 / MOST_FACTOR..=MOST_FACTOR).contains(*factor)) {
                Some(factor) => Err(format!(
                    "the weights change the mean of this encoder's features {:.2}-fold, which is too near zero for \
                     the weighting `a1111` to restore; use `comfyui` or `a1111-no-norm`",
                    1.0 / factor
                )),
                None => Ok(weighed * factors.reshape([chunks, 1, 1])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(values: [f32; 4]) -> Tensor<3> {
        let device = tweedie_ops::device("cpu").unwrap();
        tweedie_ops::from_host(values.to_vec(), [1, 2, 2], &device)
    }

    fn weighed(kind: Weighting, values: [f32; 4], second: f64) -> Result<Vec<f32>, String> {
        let empty = features([0.5, 0.5, 1.0, -1.0]);
        let found = weigh(kind, features(values), empty, &[vec![1.0, second]])?;
        Ok(found.into_data().iter::<f32>().collect())
    }

    /// By hand.
    #[test]
    fn each_convention_has_its_formula() {
        let values = [1.0, 2.0, 3.0, 2.0];
        let by = |kind| weighed(kind, values, 1.5).unwrap();
        assert_eq!(by(Weighting::Comfyui), [1.0, 2.0, 4.0, 3.5]);
        assert_eq!(by(Weighting::A1111NoNorm), [1.0, 2.0, 4.5, 3.0]);
        // Means are 2 and 2.625.
        let restored = by(Weighting::A1111NoNorm).into_iter().map(|v| v * (8.0 / 10.5)).collect::<Vec<_>>();
        let found = by(Weighting::A1111);
        assert!(found.iter().zip(&restored).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {restored:?}");
    }

    #[test]
    fn a_mean_near_zero_scales_nothing() {
        let values = [1.0, -1.0, 1.01, -1.0];
        assert_eq!(weighed(Weighting::Comfyui, values, 1.4).unwrap()[..2], values[..2]);
        let error = weighed(Weighting::A1111, [1.0, -1.012, 1.01, -1.0], 1.4).unwrap_err();
        assert!(error.contains("near zero") && error.contains("comfyui"), "{error}");
        let error = weighed(Weighting::A1111, [0.0; 4], 1.4).unwrap_err();
        assert!(error.contains("near zero"), "{error}");
    }

    #[test]
    fn names_are_the_same_everywhere() {
        for (name, kind) in Weighting::NAMES {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert!("compel".parse::<Weighting>().unwrap_err().contains("comfyui, a1111"));
    }
}
