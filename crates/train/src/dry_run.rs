//! Resolves a run without training.

use tweedie_data::{Dataset, Decode};
use tweedie_models::{
    AutoencoderKlConfig, UNet1DConfig, UNet2DConditionConfig, UNet3DConfig, unet::UNet2DConfig,
    unet_condition::CrossDownBlockType,
};

use tweedie_system::memory;

use crate::{
    config::{Run, RunConfig},
    error::TrainError,
    source::RunData,
    task,
};

/// The size of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct DryRun {
    /// The resolved configuration, as TOML.
    pub config: String,
    /// The networks: their folder in the model, and their `config.json`.
    pub networks: Vec<(String, String)>,
    /// Number of trainable values.
    pub parameters: usize,
    /// Number of training images.
    pub images: usize,
    /// Number of held-out images.
    pub held_out: usize,
    /// Class names, if the network is class-conditional.
    pub classes: Vec<String>,
    /// Estimated memory.
    pub memory: Memory,
}

/// Estimated memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's running means.
    pub optimizer: u64,
    /// Averages of the weights.
    pub ema: u64,
    /// Activations kept for the backward pass: an estimate, proportional to `run.batch`.
    pub activations: u64,
    /// The decoded images, if they are kept in memory.
    pub data: u64,
}

impl Memory {
    /// The sum of all parts.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.ema + self.activations + self.data
    }
}

impl Memory {
    /// Memory for a number of trainable values and averages, without the data.
    pub(crate) fn of(parameters: usize, averages: usize, activations: u64) -> Self {
        let bytes = 4 * parameters as u64;
        let ema = averages as u64 * bytes;
        Self { weights: bytes, gradients: bytes, optimizer: 2 * bytes, ema, activations, data: 0 }
    }
}

impl DryRun {
    pub(crate) fn new(
        config: &RunConfig,
        data: &Dataset<impl Decode>,
        parameters: usize,
        classes: Vec<String>,
        networks: Vec<(String, String)>,
        mut memory: Memory,
    ) -> Result<Self, TrainError> {
        let (train, held_out) = data.split();
        let pixels = (config.data.size * config.data.size * 3) as u64;
        // Sums of accumulated passes that wait for the rest of their pair.
        memory.gradients *= 1 + u64::from(config.run.accumulation.next_power_of_two().ilog2());
        memory.data = if data.is_cached() { data.len() as u64 * pixels } else { 0 };
        let (images, held_out) = (train.len(), held_out.len());
        Ok(Self { config: config.to_toml()?, networks, parameters, images, held_out, classes, memory })
    }
}

/// Resolves `config`, opens its data, builds its networks, and returns their sizes. Writes nothing.
///
/// # Errors
/// Those of [`TrainLoop::new`](crate::TrainLoop::new), except for the folder.
pub fn dry_run(config: RunConfig) -> Result<DryRun, TrainError> {
    let config = config.resolved()?;
    let device = config.run.device()?;
    let (data, _) = RunData::open(&config)?;
    task::plan(&config, &data, &device)
}

/// Checks before anything is allocated whether there is memory for a network with these channels and `activations` bytes
/// kept for the backward pass. The memory of other devices than the CPU is not known, so there only the data is checked.
///
/// # Errors
/// [`TrainError::Memory`] naming the keys that lower it.
pub(crate) fn fits(config: &RunConfig, channels: &[usize], activations: u64) -> Result<(), TrainError> {
    let run = &config.run;
    let (batch, size) = (run.batch, config.data.size);
    // At least four convolutions of each level's channels, with gradients and two means.
    let square = |c: &usize| (*c as u64).saturating_mul(*c as u64).saturating_mul(4 * 9 * 16);
    let weights = channels.iter().map(square).fold(0, u64::saturating_add);
    let [weights, activations] = [weights, activations].map(|bytes| in_main_memory(run, bytes));
    memory::check(weights).map_err(|source| TrainError::Memory {
        what: format!("a network of {channels:?} channels"),
        source,
    })?;
    // Images, noise, target and input of the current step and of one prepared ahead.
    let pixels = (2 * 4 * 3 * 4 * size * size) as u64;
    let rows = pixels.saturating_mul(run.images_per_step() as u64);
    memory::check(activations.saturating_add(rows).saturating_add(weights)).map_err(|source| {
        let also = if run.recompute { "" } else { ", or set run.recompute = true" };
        let what = format!("run.batch = {batch}, data.size = {size}");
        TrainError::Memory { what: format!("{what}; lower one of them{also}"), source }
    })
}

/// Bytes of tensors that are in main memory: all of them on the CPU, none on another device.
pub(crate) fn in_main_memory(run: &Run, bytes: u64) -> u64 {
    if run.device().is_ok_and(|device| tweedie_ops::is_cpu(&device)) { bytes } else { 0 }
}

/// Approximate bytes of activations per sequence for a transformer: about 22 values per value of a token in each layer, and the
/// scores with their exponentials.
pub(crate) fn transformer_activations(layers: usize, tokens: usize, width: usize, heads: usize) -> u64 {
    let [layers, tokens, width, heads] = [layers, tokens, width, heads].map(|n| n as u64);
    let layer = (22 * width).saturating_add(3 * heads.saturating_mul(tokens)).saturating_mul(tokens);
    layers.saturating_mul(layer).saturating_mul(4)
}

/// Approximate bytes of activations per image for an autoencoder: about eight tensors per residual layer, two of which may
/// be recomputed.
pub(crate) fn vae_activations(vae: &AutoencoderKlConfig, size: usize, recompute: bool) -> u64 {
    let layers = 2 * vae.layers_per_block as u64 + 1;
    let each = if recompute { 6 } else { 8 };
    let level = |(level, channels): (usize, &usize)| {
        let area = (size >> level).max(1).pow(2) as u64;
        (layers + 1) * each * area * *channels as u64
    };
    4 * vae.block_out_channels.iter().enumerate().map(level).sum::<u64>()
}

/// The same for a text-conditional U-Net with this number of tokens: a transformer keeps about sixteen tensors of its width,
/// and some that are four times as wide.
pub(crate) fn condition_unet_activations(
    unet: &UNet2DConditionConfig,
    size: usize,
    tokens: usize,
    recompute: bool,
) -> u64 {
    let (mut floats, each) = (0, if recompute { 9 } else { 12 });
    for (level, &channels) in unet.block_out_channels.iter().enumerate() {
        let area = (size >> level).max(1).pow(2) as u64;
        let (channels, layers) = (channels as u64, unet.layers_per_block.get(level).unwrap_or(1) as u64);
        floats += (2 * layers + 1) * each * area * channels;
        let attends = unet.down_block_types.get(level) == Some(&CrossDownBlockType::CrossAttnDownBlock2D);
        let keys = area + tokens as u64;
        floats += u64::from(attends) * (2 * layers + 1) * (28 * area * channels + 2 * keys * channels);
    }
    4 * floats
}

/// The same for a U-Net of waveforms, per sample of `window` values: seven tensors per residual layer, of which a block has
/// three on each path, and the scores of attention.
pub(crate) fn unet_1d_activations(unet: &UNet1DConfig, window: usize) -> u64 {
    let levels = unet.block_out_channels.iter().enumerate();
    let floats = levels.map(|(level, &channels)| {
        let length = (window >> level).max(1) as u64;
        let layers = if level + 1 == unet.block_out_channels.len() { 9 } else { 6 };
        let kind = format!("{:?}", unet.down_block_types.get(level));
        let scores =
            if kind.contains("Attn") { 6 * (channels as u64 / 32).max(1) * length * length } else { 0 };
        layers * 7 * length * channels as u64 + scores
    });
    4 * floats.fold(0, u64::saturating_add)
}

/// The same for a U-Net for clips of this many frames: in each frame the layers of a U-Net for images, and about as much
/// again over time.
pub(crate) fn unet_3d_activations(
    unet: &UNet3DConfig,
    frames: usize,
    size: usize,
    tokens: usize,
    recompute: bool,
) -> u64 {
    let each = condition_unet_activations(&unet.frames(), size, tokens, recompute);
    each.saturating_mul(2 * frames as u64)
}

/// Approximate bytes of activations per image: about nine tensors per residual layer, four per attention, the scores, and
/// the normalized skip connections; without those that are recomputed.
pub(crate) fn unet_activations(unet: &UNet2DConfig, size: usize, recompute: bool) -> u64 {
    let levels = unet.block_out_channels.len();
    let (mut floats, [each, skips]) = (0, if recompute { [7, 0] } else { [9, 2] });
    for (level, &channels) in unet.block_out_channels.iter().enumerate() {
        let area = (size >> level).max(1).pow(2) as u64;
        let (channels, layers) = (channels as u64, unet.layers_per_block as u64);
        let attention = |kind: String| u64::from(kind.contains("Attn"));
        let down = attention(format!("{:?}", unet.down_block_types.get(level)));
        let up = attention(format!("{:?}", unet.up_block_types.get(levels - 1 - level)));
        let head = unet.attention_head_dim.map_or(channels, |d| d as u64).max(1);
        let scores = 2 * (channels / head).max(1) * area * area;
        let attended = 4 * area * channels + scores;
        floats += (2 * layers + 1) * each * area * channels + (layers + 1) * skips * area * channels;
        floats += (layers * down + (layers + 1) * up) * attended;
    }
    4 * floats
}
