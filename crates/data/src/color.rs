//! Random colour changes.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// The largest change of each kind; 0 turns it off. Changes are applied in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JitterConfig {
    /// Values are multiplied by a factor from `1 - b` to `1 + b`.
    pub brightness: f64,
    /// Distances from the image's mean luma are multiplied by a factor from `1 - c` to `1 + c`.
    pub contrast: f64,
    /// Distances from each pixel's luma are multiplied by a factor from `1 - s` to `1 + s`.
    pub saturation: f64,
    /// Colours are rotated about the grey axis by up to this fraction of a full turn, 0 to 0.5.
    pub hue: f64,
}

/// Rec. 601, the luma of sRGB values.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl JitterConfig {
    pub(crate) fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Changes values `[3, area]` in `[-1, 1]`; the result is clamped to that range. Draws four random values for any
    /// configuration.
    pub(crate) fn apply(&self, planes: &mut [f32], rng: &mut impl Rng) {
        let mut spread = |s: f64| s * (2.0 * rng.random::<f64>() - 1.0);
        let brightness = (1.0 + spread(self.brightness)) as f32;
        let contrast = (1.0 + spread(self.contrast)) as f32;
        let saturation = (1.0 + spread(self.saturation)) as f32;
        let turn = std::f64::consts::TAU * spread(self.hue);
        if self.is_off() {
            return;
        }
        let area = planes.len() / 3;
        let (red, rest) = planes.split_at_mut(area);
        let (green, blue) = rest.split_at_mut(area);
        let luma = |p: [f32; 3]| LUMA[0] * p[0] + LUMA[1] * p[1] + LUMA[2] * p[2];
        let lit = |v: f32| ((v + 1.0) * brightness - 1.0).clamp(-1.0, 1.0);
        let mean = red.iter().zip(green.iter()).zip(blue.iter());
        let mean: f64 = mean.map(|((&r, &g), &b)| f64::from(luma([lit(r), lit(g), lit(b)]))).sum();
        let mean = (mean / area.max(1) as f64) as f32;
        let rotation = hue_rotation(turn);
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            let exposed = [*r, *g, *b].map(|v| mean + (lit(v) - mean) * contrast);
            let grey = luma(exposed);
            let vivid = exposed.map(|v| grey + (v - grey) * saturation);
            let turned = rotation.map(|row| row[0] * vivid[0] + row[1] * vivid[1] + row[2] * vivid[2]);
            [*r, *g, *b] = turned.map(|v| v.clamp(-1.0, 1.0));
        }
    }
}

/// Rodrigues' rotation about (1, 1, 1), which preserves greys.
fn hue_rotation(turn: f64) -> [[f32; 3]; 3] {
    let (sin, cos) = turn.sin_cos();
    let (same, side) = ((1.0 - cos) / 3.0, sin / 3.0_f64.sqrt());
    let row = [cos + same, same - side, same + side].map(|v| v as f32);
    [[row[0], row[1], row[2]], [row[2], row[0], row[1]], [row[1], row[2], row[0]]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};

    fn jittered(config: JitterConfig, planes: &[f32]) -> Vec<f32> {
        let mut out = planes.to_vec();
        config.apply(&mut out, &mut ChaCha12Rng::seed_from_u64(5));
        out
    }

    #[test]
    fn off_changes_nothing_and_all_stays_in_range() {
        let planes: Vec<f32> = (0..48).map(|i| (i as f32 * 0.7).sin()).collect();
        assert_eq!(jittered(JitterConfig::default(), &planes), planes);
        let strong = JitterConfig { brightness: 0.9, contrast: 0.9, saturation: 0.9, hue: 0.5 };
        let out = jittered(strong, &planes);
        assert!(out.iter().all(|v| (-1.0..=1.0).contains(v)) && out != planes);
    }

    #[test]
    fn hue_and_saturation_keep_greys() {
        let grey: Vec<f32> = [-0.5, 0.0, 0.25, 0.9].repeat(3);
        let out = jittered(JitterConfig { saturation: 0.8, hue: 0.5, ..JitterConfig::default() }, &grey);
        assert!(out.iter().zip(&grey).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn a_third_of_a_turn_permutes_the_channels() {
        let m = hue_rotation(std::f64::consts::TAU / 3.0);
        for (row, want) in m.iter().zip([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) {
            assert!(row.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{m:?}");
        }
    }
}
