//! The common interface of denoising networks.

use std::collections::BTreeMap;

use tweedie_ops::{Batch, ExecContext, Precision, SampleShape};

use crate::{conditions::Conditions, params::HostTensor};

/// Whether a network is used for training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Inference: no dropout.
    Eval,
    /// Training: dropout masks depend on the seed, the layer and the row of the batch.
    Train {
        /// A seed that differs for every training step.
        dropout_seed: u64,
    },
}

/// An input that a network does not support.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InputError(pub String);

/// What a network takes and gives. Everything that a pipeline must know of a network is here, so that a new network needs no
/// change elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct IoSpec {
    /// The name of the class in diffusers.
    pub class: &'static str,
    /// Channels of the input, including those of maps.
    pub inputs: usize,
    /// Channels of the output: those of the sample, or twice as many with a learned variance.
    pub outputs: usize,
    /// The axes of the samples that the network was made for, such as `[height, width]`.
    pub native: Option<Vec<usize>>,
    /// Whether only [`Self::native`] is supported.
    pub fixed: bool,
    /// Number of axes.
    pub axes: usize,
    /// Every axis must be a multiple of this, of clips height and width.
    pub multiple: usize,
    /// Side of a token, by which schedules may be shifted.
    pub patch: usize,
    /// The classes, if it reads them.
    pub classes: Classes,
    /// Width of the vector that it reads as [`EMBEDDING`](crate::conditions::EMBEDDING).
    pub embedding: Option<usize>,
    /// Width of the text features, if it reads them.
    pub text: Option<usize>,
    /// Width of the features of an image to which it attends besides a text, if it does.
    pub image: Option<usize>,
    /// Whether it reads pooled text features.
    pub pooled: bool,
    /// Whether it reads how many of the text's tokens count.
    pub lengths: bool,
    /// Width of the vector that it reads as [`WITH_TIME`](crate::conditions::WITH_TIME).
    pub with_time: Option<usize>,
    /// Whether it takes the guidance scale as an input, instead of being guided.
    pub takes_guidance: bool,
    /// The channels of maps that can be added to its skip connections and, last, to its middle; none if it takes none.
    pub residuals: Vec<usize>,
    /// The channels of maps that can be added inside the blocks of its down path and, last, to its middle, and the sides of the
    /// sample divided by theirs; none if it takes none.
    pub intrablock: Vec<(usize, usize)>,
    /// Values of audio, or frames of clips, per second, if the network says it.
    pub rate: Option<u32>,
}

/// The classes of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// Their number, without `null` if that is not among them. `None`: it has none, or they are not numbers.
    pub count: Option<usize>,
    /// The class that means "no class", if the network itself has one.
    pub null: Option<usize>,
    /// What they are instead, if the network has classes that are not numbers.
    pub other: Option<&'static str>,
}

impl IoSpec {
    /// A spec of a network that works on any axes and reads no conditions.
    pub fn new(class: &'static str, axes: usize, [inputs, outputs]: [usize; 2]) -> Self {
        Self {
            class,
            inputs,
            outputs,
            native: None,
            fixed: false,
            axes,
            multiple: 1,
            patch: 2,
            classes: Classes::default(),
            embedding: None,
            text: None,
            image: None,
            pooled: false,
            lengths: false,
            with_time: None,
            takes_guidance: false,
            residuals: Vec::new(),
            intrablock: Vec::new(),
            rate: None,
        }
    }
}

/// A network that reads a noisy sample and a time.
pub trait Network: std::fmt::Debug + Send + Sync {
    /// What it takes and gives.
    fn spec(&self) -> IoSpec;

    /// Checks inputs for [`Network::forward`]; `shape` is that of each of `rows` samples.
    ///
    /// # Errors
    /// Says which input is wrong and what was expected.
    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError>;

    /// The raw output, with the axes of `x`, at `times`, one per row.
    ///
    /// # Panics
    /// For inputs that [`Network::check`] rejects.
    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch;

    /// Approximate bytes that one row of this shape needs.
    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64;

    /// The same network, whose calls run in `context`. Parameters are shared.
    fn in_context(&self, context: &ExecContext) -> Box<dyn Network>;

    /// The same network as a constant function of its input, for gradients with respect to the input.
    fn differentiable(&self) -> Box<dyn Network>;

    /// The `config.json` for diffusers.
    fn config_json(&self) -> String;

    /// All parameters by name.
    fn tensors(&self) -> BTreeMap<String, HostTensor>;

    /// The name of a parameter that is not finite, if any.
    fn non_finite(&self) -> Option<String>;
}

/// Implements what is the same for every network or codec that is a [`Module`](burn::module::Module) with `config` and
/// `with_context`; `$of` is the trait.
macro_rules! module_object {
    ($of:path) => {
        fn in_context(&self, context: &tweedie_ops::ExecContext) -> Box<dyn $of> {
            Box::new(self.clone().with_context(context.clone()))
        }

        fn differentiable(&self) -> Box<dyn $of> {
            Box::new(burn::module::Module::no_grad(self.clone().train()))
        }

        fn config_json(&self) -> String {
            self.config.to_json()
        }

        fn tensors(&self) -> std::collections::BTreeMap<String, $crate::params::HostTensor> {
            $crate::params::export(self)
        }

        fn non_finite(&self) -> Option<String> {
            $crate::params::non_finite(self)
        }
    };
}
pub(crate) use module_object;
