//! Features cached for the next evaluation with the same data.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    slice::from_ref,
};

use tweedie_data::Image;
use tweedie_hub::{HubError, cache, files::create_dir};
use tweedie_models::HostTensor;

use super::{ExtractError, Extracted, Extractor, Progress};
use crate::metrics::Features;

/// What the files hold; their names say of what.
const KIND: &str = "features";

/// 64-bit FNV-1a.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub fn bytes(&mut self, bytes: &[u8]) {
        let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
    }

    pub fn floats(&mut self, values: &[f32]) {
        let step = |h: u64, v: &f32| (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3);
        self.0 = values.iter().fold(self.0, step);
    }

    pub fn finish(&self) -> u64 {
        self.0
    }
}

/// A fingerprint of the images and their order; collisions have a probability of 2⁻⁶⁴.
pub fn fingerprint(images: &[Image]) -> u64 {
    let mut hash = Fnv::default();
    for image in images {
        hash.bytes(&(image.width as u64).to_le_bytes());
        hash.bytes(&(image.height as u64).to_le_bytes());
        hash.bytes(&image.pixels);
    }
    hash.finish()
}

/// Features, and where they came from.
#[derive(Debug)]
pub struct Stored {
    /// The network's outputs.
    pub extracted: Extracted,
    /// Whether they were already in the folder.
    pub found: bool,
    /// Why they could not be stored, if so.
    pub not_kept: Option<HubError>,
}

/// The outputs of `extractor` for `images`, from `folder` if they are cached, otherwise stored there. A damaged file, or one
/// whose features of the first image differ in any bit (from another device or version), is replaced.
///
/// # Errors
/// Those of [`Extractor::extract`].
pub fn stored(
    extractor: &dyn Extractor,
    images: &[Image],
    folder: &Path,
    on: Progress<'_>,
) -> Result<Stored, ExtractError> {
    let path = path(extractor, images, folder);
    if let (Some(extracted), Some(image)) = (read(&path, images.len(), extractor.dim()), images.first()) {
        let first = extractor.extract(from_ref(image), &mut |_, _| ControlFlow::Continue(()))?;
        if begins_with(&extracted.features, &first.features)
            && begins_with(&extracted.probabilities, &first.probabilities)
        {
            return Ok(Stored { extracted, found: true, not_kept: None });
        }
    }
    let extracted = extractor.extract(images, on)?;
    let tensor = |f: &Features| HostTensor { shape: vec![f.len(), f.dim()], values: f.values().to_vec() };
    let tensors = BTreeMap::from([
        ("features".to_owned(), tensor(&extracted.features)),
        ("probabilities".to_owned(), tensor(&extracted.probabilities)),
    ]);
    let kept = create_dir(folder).and_then(|()| cache::write(&path, KIND, &tensors));
    Ok(Stored { extracted, found: false, not_kept: kept.err() })
}

fn begins_with(all: &Features, first: &Features) -> bool {
    all.dim() == first.dim() && all.values().starts_with(first.values())
}

fn path(extractor: &dyn Extractor, images: &[Image], folder: &Path) -> PathBuf {
    folder.join(format!("{:016x}-{:016x}.safetensors", extractor.fingerprint(), fingerprint(images)))
}

fn read(path: &Path, rows: usize, dim: usize) -> Option<Extracted> {
    let mut tensors = cache::read(path, KIND)?;
    let mut features = |name: &str| {
        let tensor = tensors.remove(name)?;
        let [found, dim] = tensor.shape[..] else { return None };
        let features = Features::new(dim, tensor.values).ok()?;
        (found == rows && features.len() == rows).then_some(features)
    };
    let extracted = Extracted { features: features("features")?, probabilities: features("probabilities")? };
    (extracted.features.dim() == dim).then_some(extracted)
}
