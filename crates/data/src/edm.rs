//! The augmentation of Karras et al. 2022 (arXiv:2206.00364), appendix F.2, and its label, which is an input of the network
//! so that the changes do not appear in generated images.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::warp::Affine;

/// Length of the label: mirrored, upside down, log2 of the scale divided by its deviation, cosine minus one and sine of
/// the rotation, the stretch along its axis (two), the translation (two).
pub const EDM_LABELS: usize = 9;

/// Probability and strength of the changes. The default makes no changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdmConfig {
    /// Probability of each change except mirroring; 0.12 in the paper for CIFAR-10, 0.15 for faces. 0 turns all off.
    pub p: f64,
    /// Mirror every second image, for any `p`.
    pub xflip: bool,
    /// Turn upside down (half of the times it is drawn).
    pub yflip: bool,
    /// Standard deviation of the log2 of the scale; 0 turns it off.
    pub scale: f64,
    /// Largest rotation as a fraction of half a turn, 0 to 1.
    pub rotate: f64,
    /// Standard deviation of the log2 of a stretch along one axis.
    pub aniso: f64,
    /// Probability that the stretch's axis is rotated.
    pub aniso_rotate: f64,
    /// Standard deviation of the translation as a fraction of the side.
    pub translate: f64,
}

impl Default for EdmConfig {
    fn default() -> Self {
        Self {
            p: 0.0,
            xflip: true,
            yflip: true,
            scale: 0.2,
            rotate: 1.0,
            aniso: 0.2,
            aniso_rotate: 0.5,
            translate: 0.125,
        }
    }
}

impl EdmConfig {
    /// Draws a change for images of this size: the map from output to source, and the label, which is zero exactly if the map
    /// is the identity. Always draws the same number of random values.
    pub(crate) fn draw(
        &self,
        width: usize,
        height: usize,
        rng: &mut impl Rng,
    ) -> (Affine, [f32; EDM_LABELS]) {
        let (mut map, mut label) = (Affine::IDENTITY, [0.0_f64; EDM_LABELS]);
        let pi = std::f64::consts::PI;
        let mut uniform = || rng.random::<f64>();
        let coins: [f64; 7] = std::array::from_fn(|_| uniform());
        let angles: [f64; 3] = std::array::from_fn(|_| uniform());
        let normals: [f64; 4] = std::array::from_fn(|_| rng.sample(StandardNormal));
        if self.p <= 0.0 {
            return (map, [0.0; EDM_LABELS]);
        }
        let drawn = |coin: f64| coin < self.p;
        if self.xflip && coins[0] < 0.5 {
            map = map.after(Affine::scale(-1.0, 1.0));
            label[0] = 1.0;
        }
        if self.yflip && drawn(coins[1]) && coins[2] < 0.5 {
            map = map.after(Affine::scale(1.0, -1.0));
            label[1] = 1.0;
        }
        if self.scale > 0.0 && drawn(coins[3]) {
            let size = (normals[0] * self.scale).exp2();
            map = map.after(Affine::scale(1.0 / size, 1.0 / size));
            label[2] = normals[0];
        }
        if self.rotate > 0.0 && drawn(coins[4]) {
            let angle = (2.0 * angles[0] - 1.0) * pi * self.rotate;
            map = map.after(Affine::rotation(angle));
            (label[3], label[4]) = (angle.cos() - 1.0, angle.sin());
        }
        if self.aniso > 0.0 && drawn(coins[5]) {
            let axis = if angles[1] < self.aniso_rotate { (2.0 * angles[2] - 1.0) * pi } else { 0.0 };
            let size = (normals[1] * self.aniso).exp2();
            let stretch = Affine::scale(1.0 / size, size);
            map = map.after(Affine::rotation(-axis)).after(stretch).after(Affine::rotation(axis));
            (label[5], label[6]) = (normals[1] * axis.cos(), normals[1] * axis.sin());
        }
        if self.translate > 0.0 && drawn(coins[6]) {
            let [x, y] = [normals[2] * self.translate, normals[3] * self.translate];
            map = map.after(Affine::translation(-x * width as f64, -y * height as f64));
            (label[7], label[8]) = (normals[2], normals[3]);
        }
        (map, label.map(|v| v as f32))
    }
}
