//! The built-in image encoder, for quality scores and as a perceptual loss of autoencoders. Trained by the example
//! `train_encoder` of the crate `tweedie-eval`.

use burn::tensor::Device;
use tweedie_models::perceptual::EncoderNet;

use crate::{HubError, SafetensorsFile};

/// The safetensors file.
pub static WEIGHTS: &[u8] = include_bytes!("../encoder/encoder.safetensors");

/// Loads the built-in encoder.
///
/// # Errors
/// Never, unless the program was built with a damaged file.
pub fn embedded(device: &Device) -> Result<EncoderNet, HubError> {
    let name = "the built-in encoder";
    let file = SafetensorsFile::from_static(name, WEIGHTS)?;
    EncoderNet::load(&file, device).map_err(|source| HubError::Params { path: name.into(), source })
}
