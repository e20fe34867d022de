//! Random augmentation of images.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{
    DataError, Image,
    color::JitterConfig,
    edm::{EDM_LABELS, EdmConfig},
    order::mix,
    warp::{Affine, Padding, warp},
};

/// The augmentation. The default makes no changes.
///
/// Flips, shifts and colour changes also appear in generated images. The changes of `edm` do not, because their
/// parameters are an input of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of mirroring left to right, 0 to 1.
    pub flip: f64,
    /// Largest random shift along each axis as a fraction of the side, by whole pixels (random crops).
    pub shift: f64,
    /// How to fill areas that come from outside the image.
    pub padding: Padding,
    /// Random colour changes.
    pub jitter: JitterConfig,
    /// EDM's changes, whose parameters are passed to the network.
    pub edm: EdmConfig,
}

impl AugmentConfig {
    /// Checks all values.
    ///
    /// # Errors
    /// [`DataError::Config`] naming the key and the allowed values.
    pub fn validate(&self) -> Result<(), DataError> {
        let edm = &self.edm;
        let shares = [
            ("augment.flip", self.flip, 1.0),
            ("augment.shift", self.shift, 0.5),
            ("augment.jitter.brightness", self.jitter.brightness, 1.0),
            ("augment.jitter.contrast", self.jitter.contrast, 1.0),
            ("augment.jitter.saturation", self.jitter.saturation, 1.0),
            ("augment.jitter.hue", self.jitter.hue, 0.5),
            ("augment.edm.p", edm.p, 1.0),
            ("augment.edm.rotate", edm.rotate, 1.0),
            ("augment.edm.aniso_rotate", edm.aniso_rotate, 1.0),
            ("augment.edm.scale", edm.scale, 1.0),
            ("augment.edm.aniso", edm.aniso, 1.0),
            ("augment.edm.translate", edm.translate, 1.0),
        ];
        for (key, value, most) in shares {
            if !(0.0..=most).contains(&value) {
                let expected = if most == 1.0 { "0 to 1" } else { "0 to 0.5" };
                return Err(DataError::Config { key, value: value.to_string(), expected });
            }
        }
        Ok(())
    }

    /// Whether labels can be other than zero, so that the network needs them as an input.
    pub fn has_labels(&self) -> bool {
        self.edm.p > 0.0
    }
}

/// Draws the changes for sample number `counter` of the run with this seed, and applies them. Returns values
/// `[3, height, width]` in `[-1, 1]`, and the label of `edm`, zero if `edm` changed nothing. A pure function: batches,
/// threads and earlier calls do not matter.
pub fn augment(
    image: &Image,
    config: &AugmentConfig,
    seed: u64,
    counter: u64,
) -> (Vec<f32>, [f32; EDM_LABELS]) {
    // A separate seed keeps these draws independent of the training noise with the same seed and counter.
    let mut rng = tweedie_core::noise::generator(mix(seed ^ 0x6175_676d_656e_7421), counter);
    let coins: [f64; 3] = std::array::from_fn(|_| rng.random());
    let mut map = Affine::IDENTITY;
    if coins[0] < config.flip {
        map = map.after(Affine::scale(-1.0, 1.0));
    }
    let step = |coin: f64, side: usize| {
        let most = (config.shift * side as f64).floor();
        (coin * (2.0 * most + 1.0)).floor() - most
    };
    map = map.after(Affine::translation(step(coins[1], image.width), step(coins[2], image.height)));
    let (change, label) = config.edm.draw(image.width, image.height, &mut rng);
    let mut planes = warp(image, &map.after(change), config.padding);
    config.jitter.apply(&mut planes, &mut rng);
    (planes, label)
}
