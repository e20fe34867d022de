//! The denoiser of a request, for a range of its images.

use std::{ops::Range, sync::atomic::AtomicBool};

use tweedie_core::{Denoiser, Halt, Level, Parameterization, Prediction};
use tweedie_hub::{Recipe, scheduler_config::Clamp};
use tweedie_models::{Condition, NetworkDenoiser, UNet2DModel};
use tweedie_ops::Batch;

use crate::{
    Resolved,
    clamp::Clamped,
    guidance::Guided,
    watch::{Cancellable, Finite},
};

/// The network for some images of a request: with guidance to their classes, cancellation, a check for values that are not
/// finite, and clamping.
pub(crate) struct RowsDenoiser<'a> {
    network: UNet2DModel,
    parameterization: Parameterization,
    clamp: Option<Clamp>,
    classes: Option<Vec<usize>>,
    null_class: Option<usize>,
    scale: f64,
    interval: Option<[f64; 2]>,
    cancelled: &'a AtomicBool,
}

impl<'a> RowsDenoiser<'a> {
    pub(crate) fn new(
        network: &UNet2DModel,
        resolved: &Resolved,
        recipe: &Recipe,
        rows: Range<usize>,
        cancelled: &'a AtomicBool,
    ) -> Self {
        Self {
            network: network.clone().with_precision(resolved.precision),
            parameterization: recipe.parameterization,
            clamp: recipe.clamp,
            classes: resolved.classes.as_ref().map(|all| all[rows].to_vec()),
            null_class: resolved.null_class,
            scale: resolved.scale_for(recipe.solver.name()),
            interval: resolved.guidance_interval,
            cancelled,
        }
    }
}

impl Denoiser<Batch<4>> for RowsDenoiser<'_> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let plain;
        let guided;
        let (network, parameterization) = (&self.network, self.parameterization);
        let network: &dyn Denoiser<Batch<4>> = match (self.classes.clone(), self.null_class) {
            (Some(classes), Some(null_class)) => {
                let (scale, interval) = (self.scale, self.interval);
                guided = Guided { network, parameterization, classes, null_class, scale, interval };
                &guided
            }
            (classes, _) => {
                let condition = Condition { classes, ..Condition::default() };
                plain = NetworkDenoiser::new(network, parameterization, condition);
                &plain
            }
        };
        Watched { inner: network, clamp: self.clamp, cancelled: self.cancelled }.denoise(x, at)
    }
}

/// A denoiser with cancellation, a check for values that are not finite, and clamping.
pub(crate) struct Watched<'a> {
    pub(crate) inner: &'a dyn Denoiser<Batch<4>>,
    pub(crate) clamp: Option<Clamp>,
    pub(crate) cancelled: &'a AtomicBool,
}

impl Denoiser<Batch<4>> for Watched<'_> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let cancellable = Cancellable { inner: self.inner, cancelled: self.cancelled };
        let finite = Finite(&cancellable);
        match self.clamp {
            Some(clamp) => Clamped { inner: &finite, clamp }.denoise(x, at),
            None => finite.denoise(x, at),
        }
    }
}
