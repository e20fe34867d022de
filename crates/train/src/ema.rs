//! Weight averages: `ema ← ema + (1 - beta)·(weights - ema)` after every step.
//!
//! - *Half-life* (Karras et al. 2022, arXiv:2206.00364): `beta = 0.5^(batch/H)`, with `H` in images and the ramp-up
//!   `H = min(half_life, ramp_up·images)`, so that the random start is forgotten early.
//! - *Power function* (Karras et al. 2024, arXiv:2312.02696): `beta = (1 - batch/images)^(gamma + 1)`, an average whose width
//!   is a constant fraction of the run, given by its relative standard deviation. Snapshots of two or more of them give
//!   averages of any length afterwards ([`crate::post_hoc`]).

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType, Tensor},
};
use serde::{Deserialize, Serialize};
use tweedie_ops::lerp;

use crate::error::TrainError;

/// Kinds of averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmaKind {
    /// No average: the weights themselves are used.
    None,
    /// An exponential average with a half-life.
    #[default]
    HalfLife,
    /// Power functions, one for each of `stds`.
    Power,
}

/// The `[ema]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaConfig {
    /// Kind of average.
    pub kind: EmaKind,
    /// Half-life in images, > 0.
    pub half_life: f64,
    /// Upper limit of the half-life as a fraction of the images seen; 0 turns the ramp-up off.
    pub ramp_up: f64,
    /// Relative standard deviations of the power functions, each > 0 and < 0.28; the first is used for previews and the
    /// exported model.
    pub stds: Vec<f64>,
    /// Steps between snapshots of two or more power functions, from which averages of any length can be computed after
    /// training; 0 for none. A snapshot takes as much space as all averages.
    pub snapshot_every: u64,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            kind: EmaKind::HalfLife,
            half_life: 50_000.0,
            ramp_up: 0.05,
            stds: vec![0.1],
            snapshot_every: 0,
        }
    }
}

impl EmaConfig {
    /// The averages.
    pub fn averages(&self) -> Vec<Average> {
        match self.kind {
            EmaKind::None => Vec::new(),
            EmaKind::HalfLife => vec![Average::HalfLife { images: self.half_life, ramp_up: self.ramp_up }],
            EmaKind::Power => self.stds.iter().map(|&s| Average::Power { gamma: power_gamma(s) }).collect(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        if !(self.half_life > 0.0 && self.half_life.is_finite()) {
            return Err(TrainError::config("ema.half_life", self.half_life, "a number of images > 0"));
        }
        if !(self.ramp_up >= 0.0 && self.ramp_up.is_finite()) {
            return Err(TrainError::config("ema.ramp_up", self.ramp_up, "a value ≥ 0"));
        }
        self.stds.iter().try_for_each(|&s| check_std("ema.stds", s))?;
        if self.kind == EmaKind::Power && self.stds.is_empty() {
            return Err(TrainError::config("ema.stds", "[]", "at least one value"));
        }
        if self.snapshot_every > 0 && (self.kind != EmaKind::Power || self.stds.len() < 2) {
            let expected = "0, or ema.kind = power with two or more ema.stds, for example [0.05, 0.1]";
            return Err(TrainError::config("ema.snapshot_every", self.snapshot_every, expected));
        }
        Ok(())
    }
}

/// The relative standard deviation of `gamma = 0`, a uniform average, is `1/sqrt(12)`.
const WIDEST: f64 = 0.28;

/// Checks that a power function has this relative standard deviation.
pub(crate) fn check_std(key: &str, std: f64) -> Result<(), TrainError> {
    if (1e-3..WIDEST).contains(&std) {
        return Ok(());
    }
    Err(TrainError::config(key, std, "a value ≥ 0.001 and < 0.28"))
}

/// The parameters of one average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// See [`EmaKind::HalfLife`].
    HalfLife {
        /// Half-life in images.
        images: f64,
        /// Upper limit as a fraction of the images seen; 0 for none.
        ramp_up: f64,
    },
    /// See [`EmaKind::Power`].
    Power {
        /// The exponent.
        gamma: f64,
    },
}

impl Average {
    /// The weight of the current weights in the average, `1 - beta`, when `images` have been seen, `batch` of them in the
    /// latest step.
    pub fn weight(&self, images: u64, batch: u64) -> f64 {
        let (images, batch) = (images.max(1) as f64, batch as f64);
        match *self {
            Self::HalfLife { images: half_life, ramp_up } => {
                let bound = if ramp_up > 0.0 { half_life.min(ramp_up * images) } else { half_life };
                -(batch / bound * 0.5f64.ln()).exp_m1()
            }
            Self::Power { gamma } => 1.0 - (1.0 - batch / images).max(0.0).powf(gamma + 1.0),
        }
    }
}

/// The exponent of the power function with relative standard deviation `std`: the positive root of
/// `std² = (gamma + 1)/((gamma + 2)²·(gamma + 3))`, for `std` below `1/sqrt(12)`.
pub fn power_gamma(std: f64) -> f64 {
    let excess = |g: f64| (g + 1.0) / ((g + 2.0).powi(2) * (g + 3.0)) - std * std;
    // The left side decreases as gamma increases.
    let (mut low, mut high) = (0.0, 1.0 / std);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if excess(middle) > 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Moves every parameter of `ema` by `weight` towards that of `model`, which must have the same parameters; `ema` must not
/// be tracked by autodiff.
pub fn update<M: Module>(ema: M, model: &M, weight: f64) -> M {
    let mut values = Values(BTreeMap::new());
    model.visit(&mut values);
    ema.map(&mut Towards { values: values.0, weight })
}

struct Values(BTreeMap<ParamId, Tensor<1>>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        let value = p.val().without_autodiff();
        let count = value.shape().num_elements();
        self.0.insert(p.id, value.reshape([count]));
    }
}

struct Towards {
    values: BTreeMap<ParamId, Tensor<1>>,
    weight: f64,
}

impl ModuleMapper for Towards {
    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(target) = self.values.remove(&p.id) else { return p };
        let weight = self.weight;
        p.map(|value| {
            let (shape, count) = (value.shape(), value.shape().num_elements());
            lerp(value.reshape([count]), target, weight).reshape(shape)
        })
    }
}

/// Takes the values out of a module, flat, so that they are not shared.
#[derive(Default)]
pub(crate) struct Taken(pub BTreeMap<ParamId, Tensor<1>>);

impl ModuleMapper for Taken {
    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = p.consume();
        let (shape, device) = (value.dims(), value.device());
        self.0.insert(id, value.reshape([shape.iter().product::<usize>()]));
        // Replaces the value by an empty tensor of its shape except for the first dimension.
        let mut none = shape;
        none[0] = 0;
        Param::from_mapped_value(id, Tensor::empty(none, (&device, DType::F32)), mapper)
    }
}

/// The inverse of [`Taken`].
pub(crate) struct PutBack(pub BTreeMap<ParamId, Tensor<1>>);

impl ModuleMapper for PutBack {
    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(value) = self.0.remove(&p.id) else { return p };
        let (id, none, mapper) = p.consume();
        let mut shape = none.dims();
        let rest: usize = shape[1..].iter().product();
        shape[0] = value.dims()[0] / rest.max(1);
        Param::from_mapped_value(id, value.reshape(shape), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_life_halves() {
        let law = Average::HalfLife { images: 1000.0, ramp_up: 0.0 };
        // After a thousand images in batches of 40, half of the initial value is left.
        let left: f64 = (1..=25).map(|i| 1.0 - law.weight(40 * i, 40)).product();
        assert!((left - 0.5).abs() < 1e-12);
        // As in the EDM training loop: beta = 0.5 ** (batch / max(min(H, images * ramp), 1e-8)).
        let law = Average::HalfLife { images: 500_000.0, ramp_up: 0.05 };
        assert!((1.0 - law.weight(200_000, 512) - 0.5f64.powf(512.0 / 10_000.0)).abs() < 1e-12);
        assert!((1.0 - law.weight(200_000_000, 512) - 0.5f64.powf(512.0 / 500_000.0)).abs() < 1e-12);
    }

    const GAMMAS: [(f64, f64); 5] = [
        (0.01, 96.99489782370986),
        (0.05, 16.972198602303447),
        (0.1, 6.937203937601809),
        (0.15, 3.5578687748994646),
        (0.25, 0.71982395800071),
    ];

    #[test]
    fn gammas_are_those_of_the_cubic() {
        // numpy.roots([1, 7, 16 - s**-2, 12 - s**-2]).real.max(), numpy 2.4.6.
        for (std, gamma) in GAMMAS {
            assert!((power_gamma(std) - gamma).abs() < 1e-9 * gamma, "{std}: {}", power_gamma(std));
        }
    }

    #[test]
    fn the_power_average_has_its_closed_form_and_width() {
        for std in [0.05, 0.1, 0.2] {
            let law = Average::Power { gamma: power_gamma(std) };
            assert_eq!(law.weight(8, 8), 1.0, "the first step forgets the random start");
            // The weight of each step's values in the average at the end.
            let (n, batch) = (4000u64, 8u64);
            let mut shares = vec![0.0; n as usize];
            for i in 0..n {
                let w = law.weight((i + 1) * batch, batch);
                shares.iter_mut().for_each(|s| *s *= 1.0 - w);
                shares[i as usize] = w;
            }
            let total: f64 = shares.iter().sum();
            assert!((total - 1.0).abs() < 1e-9);
            let moment = |k: i32| -> f64 {
                shares.iter().enumerate().map(|(i, s)| s * ((i + 1) as f64 / n as f64).powi(k)).sum()
            };
            let found = (moment(2) - moment(1).powi(2)).sqrt();
            assert!((found - std).abs() < 1e-3, "{std}: {found}");
        }
    }

    #[test]
    fn moves_every_parameter_in_place() {
        #[derive(Module, Debug)]
        struct One {
            weight: Param<Tensor<2>>,
        }
        let device = burn::tensor::Device::flex();
        let one = |v: f32, device: &burn::tensor::Device| One {
            weight: Param::initialized(
                tweedie_models::params::param_id("weight"),
                Tensor::from_data([[v, 2.0 * v], [3.0 * v, 4.0 * v]], (device, burn::tensor::DType::F32)),
            ),
        };
        let (ema, model) = (one(1.0, &device), one(2.0, &device.clone().autodiff()));
        let ema = update(ema, &model, 0.25);
        let data = ema.weight.val().into_data();
        assert_eq!(data.as_slice::<f32>().unwrap(), [1.25, 2.5, 3.75, 5.0]);
    }
}
