//! From an image to what the network sees, each time a little different.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::{
    DataError, Image,
    color::JitterConfig,
    edm::{EDM_LABELS, EdmConfig},
    order::mix,
    warp::{Affine, Padding, warp},
};

/// Which changes are made. The default makes none.
///
/// Flips, shifts and changes of colour teach the network that such images exist: they appear in what it
/// generates. The changes of `edm` do not, because the network is told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of mirroring left to right, 0 to 1.
    pub flip: f64,
    /// Largest shift along each axis, as a share of the side, by whole pixels (random crops).
    pub shift: f64,
    /// What appears where the image has been moved away.
    pub padding: Padding,
    /// Changes of colour.
    pub jitter: JitterConfig,
    /// Changes that come with a label.
    pub edm: EdmConfig,
}

impl AugmentConfig {
    /// Checks every range.
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

    /// Whether the label can be anything but zero, and a network has a use for it.
    pub fn has_labels(&self) -> bool {
        self.edm.p > 0.0
    }
}

/// Draws the change for the `counter`-th sample of the run with this seed, and makes it. Returns planes
/// `[3, height, width]` with values in `[-1, 1]`, and the label of `edm`, zero when `edm` changed nothing.
/// A pure function: neither batches, threads nor earlier calls matter.
pub fn augment(
    image: &Image,
    config: &AugmentConfig,
    seed: u64,
    counter: u64,
) -> (Vec<f32>, [f32; EDM_LABELS]) {
    // A seed of its own keeps these draws apart from the training noise of the same seed and counter.
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
