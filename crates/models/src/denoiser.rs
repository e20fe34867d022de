//! A network and its parameterization, as a denoiser.

use tweedie_core::{Denoiser, Halt, Level, Parameterization, Prediction, lin};
use tweedie_ops::{Batch, SampleShape};

use crate::{
    conditions::Conditions,
    network::{InputError, Mode, Network},
};

/// One call of a network: scaled samples, which may be at different noise levels, times, and conditions.
#[derive(Clone, Debug)]
pub struct Call {
    /// The samples times `c_in`.
    pub x: Batch,
    /// `c_noise` of each row.
    pub times: Vec<f32>,
    /// The conditions of each row.
    pub conditions: Conditions,
}

impl Call {
    /// The call for `x` at the level `at`.
    pub fn new(parameterization: Parameterization, x: &Batch, at: Level, conditions: Conditions) -> Self {
        let scalings = parameterization.scalings(at);
        let times = vec![scalings.c_noise as f32; x.len()];
        let x = match scalings.c_in {
            1.0 => x.clone(),
            c => lin![c => x],
        };
        Self { x, times, conditions }
    }

    /// The raw output of `network`, one evaluation. Maps among the conditions follow the channels of the samples.
    ///
    /// # Errors
    /// [`Halt::Failed`] for inputs that the network does not support.
    pub fn forward(&self, network: &dyn Network) -> Result<Batch, Halt> {
        let checked = check(network, self.x.len(), self.x.shape(), &self.times, &self.conditions);
        checked.map_err(|e| Halt::Failed(e.to_string()))?;
        let inputs: Vec<Batch> = std::iter::once(&self.x).chain(self.conditions.maps()).cloned().collect();
        let (x, conditions) = match inputs.len() {
            1 => (self.x.clone(), self.conditions.clone()),
            _ => (Batch::cat_channels(&inputs), self.conditions.without_maps()),
        };
        Ok(network.forward(x, &self.times, &conditions, Mode::Eval))
    }

    /// Whether both calls can be one.
    pub fn fits(&self, other: &Self) -> bool {
        self.x.shape() == other.x.shape() && self.conditions.fits(&other.conditions)
    }

    /// All calls as one, row after row; `None` if they do not [fit](Self::fits).
    pub fn cat(calls: &[&Self]) -> Option<Self> {
        let conditions: Vec<&Conditions> = calls.iter().map(|call| &call.conditions).collect();
        let first = calls.first()?;
        if !calls.iter().all(|call| first.fits(call)) {
            return None;
        }
        let x: Vec<Batch> = calls.iter().map(|call| call.x.clone()).collect();
        let times = calls.iter().flat_map(|call| call.times.iter().copied()).collect();
        Some(Self { x: Batch::cat(&x), times, conditions: Conditions::cat(&conditions)? })
    }
}

/// Checks whether a network supports `rows` samples of `shape` at `times` with `conditions`, whose maps follow the channels of
/// the samples.
///
/// # Errors
/// Says which input is wrong and what was expected.
pub fn check(
    network: &dyn Network,
    rows: usize,
    shape: &SampleShape,
    times: &[f32],
    conditions: &Conditions,
) -> Result<(), InputError> {
    let (mut channels, mut others) = (shape.channels(), conditions.clone());
    if conditions.maps().next().is_some() {
        if let Some(map) =
            conditions.maps().find(|map| map.len() != rows || map.shape().axes() != shape.axes())
        {
            let found = format!("a map has {} rows of shape {}", map.len(), map.shape());
            return Err(InputError(format!("{found}, expected {rows} rows with the axes of {shape}")));
        }
        channels += conditions.maps().map(|map| map.shape().channels()).sum::<usize>();
        others = conditions.without_maps();
    }
    network.check(rows, &shape.with_channels(channels), times, &others)
}

/// Splits a network's raw output into that for the sample, with `channels` channels, and the learned variance (Nichol &
/// Dhariwal 2021), if the output has twice as many channels.
///
/// # Errors
/// [`Halt::Failed`] for another number of channels.
pub fn split_variance(raw: Batch, channels: usize) -> Result<(Batch, Option<Batch>), Halt> {
    match raw.shape().channels() {
        found if found == channels => Ok((raw, None)),
        found if found == 2 * channels => {
            Ok((raw.channels(0..channels), Some(raw.channels(channels..2 * channels))))
        }
        found => Err(Halt::Failed(format!(
            "the network's output has {found} channels; expected {channels}, as many as the sample, or twice as many"
        ))),
    }
}

/// Predicts the clean sample with a network: `x0 = c_skip·x + c_out·F(c_in·x; c_noise)`, for a batch at one noise level.
/// If the network has twice the channels of `x` as output, the second half is a learned variance:
/// [`Prediction::variance`].
///
/// The caller must check that predictions are finite, because reading them back here would stall a device.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// What the network predicts.
    pub parameterization: Parameterization,
    /// The network's conditions, with one entry per row.
    pub conditions: Conditions,
}

impl<'a> NetworkDenoiser<'a> {
    /// Creates a denoiser for batches with as many rows as `conditions`.
    pub fn new(network: &'a dyn Network, parameterization: Parameterization, conditions: Conditions) -> Self {
        Self { network, parameterization, conditions }
    }

    /// The network's raw output for `x` at `at`, of the shape of `x`, and the raw variance of the same shape if the network
    /// predicts one. Costs one evaluation.
    ///
    /// # Errors
    /// [`Halt::Failed`] for inputs that the network does not support.
    pub fn raw(&self, x: &Batch, at: Level) -> Result<(Batch, Option<Batch>), Halt> {
        let call = Call::new(self.parameterization, x, at, self.conditions.clone());
        split_variance(call.forward(self.network)?, x.shape().channels())
    }
}

impl Denoiser<Batch> for NetworkDenoiser<'_> {
    fn denoise(&self, x: &Batch, at: Level) -> Result<Prediction<Batch>, Halt> {
        let (raw, variance) = self.raw(x, at)?;
        Ok(Prediction { variance, ..self.parameterization.read(x, &raw, at) })
    }
}
