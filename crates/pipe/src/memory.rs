//! An estimate of the memory that a request needs, compared with what is available before anything is computed.

use tweedie_hub::LatentNetwork;
use tweedie_models::Precision;
use tweedie_system::memory;

use crate::PipelineError;

/// Maps of a network's first level that a pass holds besides the skip connections: a concatenated map with twice the
/// channels, its normalized form, and the result.
const AT_ONCE: u64 = 5;
/// The same with transformers, whose middle layers are eight times as wide.
const AT_ONCE_IN_TRANSFORMERS: u64 = 14;
/// Samples that a solver holds: the current one, and present and past predictions.
const SAMPLES: u64 = 8;

/// The memory that a request needs.
pub(crate) struct Needed {
    /// Number of images.
    pub count: usize,
    /// Batch size of one call of the network.
    pub rows: usize,
    /// Height and width of the images.
    pub size: [usize; 2],
    /// Bytes per row of the network.
    pub row: u64,
    /// Bytes to decode one image.
    pub decoding: u64,
}

impl Needed {
    /// Checks that the memory is available.
    ///
    /// # Errors
    /// [`PipelineError::Memory`] naming the fields that lower it.
    pub fn check(&self) -> Result<(), PipelineError> {
        let [height, width] = self.size.map(|n| n as u64);
        let area = height.saturating_mul(width);
        // As floats and as bytes.
        let images = area.saturating_mul(3 * (4 + 1)).saturating_mul(self.count as u64);
        let network = self.row.saturating_mul(self.rows as u64);
        let all = images.saturating_add(network.max(self.decoding));
        memory::check(all).map_err(|source| {
            let (count, rows, [height, width]) = (self.count, self.rows, self.size);
            let (what, lower) = if network.max(self.decoding) < images {
                (format!("`count` {count}, `size` {width}x{height}"), "count or size")
            } else if self.decoding > network {
                (format!("`size` {width}x{height}"), "size, or vae_tile")
            } else {
                (format!("`size` {width}x{height}, {rows} rows at once (`chunk`)"), "size or chunk")
            };
            PipelineError::Memory { what, source, lower }
        })
    }
}

fn bytes_of(precision: Precision) -> u64 {
    if precision == Precision::Bf16 { 2 } else { 4 }
}

/// Bytes per row of a U-Net with these channels and `layers` per level.
pub(crate) fn unet_row(
    channels: &[usize],
    layers: impl Fn(usize) -> usize,
    transformers: bool,
    [c, h, w]: [usize; 3],
    precision: Precision,
) -> u64 {
    let area = |level: usize| ((h >> level).max(1) as u64).saturating_mul((w >> level).max(1) as u64);
    let kept = channels.iter().enumerate().map(|(level, &channels)| {
        (layers(level) as u64 + 1).saturating_mul(channels as u64).saturating_mul(area(level))
    });
    let first = channels.first().map_or(0, |&channels| channels as u64).saturating_mul(area(0));
    let at_once = if transformers { AT_ONCE_IN_TRANSFORMERS } else { AT_ONCE };
    let maps = kept.fold(first.saturating_mul(at_once), u64::saturating_add);
    let samples = (c as u64).saturating_mul(area(0)).saturating_mul(SAMPLES * 4);
    maps.saturating_mul(bytes_of(precision)).saturating_add(samples)
}

/// Bytes per row of the network of a latent model.
pub(crate) fn latent_row(network: &LatentNetwork, shape: [usize; 3], precision: Precision) -> u64 {
    match network {
        LatentNetwork::UNet(unet) => {
            let config = unet.config();
            unet_row(&config.block_out_channels, |_| config.layers_per_block, false, shape, precision)
        }
        LatentNetwork::TextUNet(unet) => {
            let config = unet.config();
            let layers = |level| config.layers_per_block.get(level).unwrap_or(1);
            unet_row(&config.block_out_channels, layers, true, shape, precision)
        }
        LatentNetwork::Dit(dit) => {
            let config = dit.config();
            let patch = config.patch_size.max(1);
            let [c, h, w] = shape;
            unet_row(&[config.width()], |_| 0, true, [c, h / patch, w / patch], precision)
        }
    }
}

/// Bytes to decode an image of `pixels` pixels with an autoencoder whose last level has `channels` channels.
pub(crate) fn decoding(channels: usize, pixels: usize, precision: Precision) -> u64 {
    let map = (channels as u64).saturating_mul(pixels as u64);
    map.saturating_mul(AT_ONCE * bytes_of(precision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_pixels_and_rows_need_more_until_too_much() {
        let row = |side| unet_row(&[64, 128], |_| 2, false, [3, side, side], Precision::F32);
        // Three maps per level are skip connections, and five are held at once.
        assert_eq!(row(32), 4 * ((3 + 5) * 64 * 1024 + 3 * 128 * 256) + 3 * 1024 * 32);
        assert_eq!(row(64), 4 * row(32));
        let needed = |rows, side| Needed { count: 1, rows, size: [side; 2], row: row(side), decoding: 0 };
        needed(1, 32).check().unwrap();
        if memory::available().is_some() {
            let error = needed(65536, 16384).check().unwrap_err().to_string();
            assert!(error.contains("16384x16384, 65536 rows at once (`chunk`)"), "{error}");
            assert!(error.contains("GB are available; lower size or chunk"), "{error}");
        }
    }
}
