//! A network on images that are larger than those it was made for: overlapping windows, blended (Bar-Tal et al. 2023,
//! arXiv:2302.08113). All windows are denoised together, one step after the other, so there are no seams.

use std::{collections::BTreeMap, sync::Arc};

use tweedie_ops::{Batch, ExecContext, Precision, SampleShape, Tensor};

use crate::{
    conditions::Conditions,
    network::{InputError, IoSpec, Mode, Network},
    params::HostTensor,
    vae::Tiles,
};

/// A network that is called for windows of an image. A window overlaps the next by a quarter.
#[derive(Debug)]
pub struct Windows {
    network: Arc<dyn Network>,
    side: usize,
}

impl Windows {
    /// `network` in windows of `side` pixels, rounded up to a side that it supports.
    pub fn new(network: Arc<dyn Network>, side: usize) -> Self {
        // A quarter of it, by which windows are shifted, must be supported too.
        let side = side.max(1).next_multiple_of(4 * network.spec().multiple.max(1));
        Self { network, side }
    }

    fn of(&self, network: Box<dyn Network>) -> Box<dyn Network> {
        Box::new(Self { network: network.into(), side: self.side })
    }

    /// The shape of a window of images of `shape`.
    fn window(&self, shape: &SampleShape) -> SampleShape {
        let axes: Vec<usize> = shape.axes().iter().map(|n| (*n).min(self.side)).collect();
        SampleShape::new(shape.channels(), &axes)
    }
}

impl Network for Windows {
    fn spec(&self) -> IoSpec {
        self.network.spec()
    }

    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        if shape.axes().len() != 2 {
            return Err(InputError(format!("only images are cut in windows, not samples of shape {shape}")));
        }
        self.network.check(rows, &self.window(shape), times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        let call = &mut |window: Tensor<4>| {
            Ok(self.network.forward(Batch::of(window), times, conditions, mode).tensor::<4>())
        };
        let made = Tiles::new(self.side).map(x.tensor::<4>(), (1, 1), call);
        Batch::of(made.unwrap_or_else(|e| panic!("{e}")))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        let whole = 4 * (shape.len() as u64).saturating_mul(4);
        self.network.row_bytes(&self.window(shape), precision).saturating_add(whole)
    }

    fn in_context(&self, context: &ExecContext) -> Box<dyn Network> {
        self.of(self.network.in_context(context))
    }

    fn differentiable(&self) -> Box<dyn Network> {
        self.of(self.network.differentiable())
    }

    fn config_json(&self) -> String {
        self.network.config_json()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        self.network.tensors()
    }

    fn non_finite(&self) -> Option<String> {
        self.network.non_finite()
    }
}

#[cfg(test)]
mod tests {
    use tweedie_ops::Device;

    use super::*;
    use crate::{UNet2DConfig, UNet2DModel};

    fn network() -> Arc<dyn Network> {
        let config = r#"{"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
            "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "layers_per_block": 1, "norm_num_groups": 4, "add_attention": false}"#;
        let config = UNet2DConfig::from_json(config).unwrap();
        Arc::new(UNet2DModel::new(&config, 3, &Device::flex()).unwrap())
    }

    fn image(rows: usize, axes: [usize; 2]) -> Batch {
        let values = (0..rows * axes[0] * axes[1]).map(|i| (i as f32 * 0.37).sin()).collect();
        Batch::from_host(values, rows, &SampleShape::new(1, &axes), &Device::flex())
    }

    #[test]
    fn a_small_image_is_one_window_and_a_large_one_has_windows_of_its_own() {
        let (whole, windows) = (network(), Windows::new(network(), 16));
        let call = |network: &dyn Network, x: &Batch| {
            let times = vec![500.0; x.len()];
            network.forward(x.clone(), &times, &Conditions::none(), Mode::Eval).to_host()
        };
        let small = image(2, [16, 8]);
        assert!(call(&windows, &small) == call(&*whole, &small));
        let large = image(1, [16, 40]);
        windows.check(1, large.shape(), &[500.0], &Conditions::none()).unwrap();
        let found = call(&windows, &large);
        // The first twelve columns are those of the first window alone.
        let first = Batch::of(large.tensor::<4>().narrow(3, 0, 16));
        let expected = call(&*whole, &first);
        for (row, part) in found.chunks(40).zip(expected.chunks(16)) {
            assert!(row[..12] == part[..12]);
        }
        // Rows do not depend on each other.
        let both = Batch::cat(&[large.clone(), image(1, [16, 40])]);
        assert!(call(&windows, &both)[..16 * 40] == found[..]);
    }

    #[test]
    fn windows_suit_the_network() {
        assert_eq!(Windows::new(network(), 17).side, 24);
        let error = Windows::new(network(), 16).check(1, &[1, 5].into(), &[1.0], &Conditions::none());
        assert!(error.unwrap_err().0.contains("windows"));
    }
}
