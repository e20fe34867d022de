//! Embeddings of times and classes.
//!
//! A time `t` becomes sines and cosines. Frequencies and phases are rounded to `f32` exactly as in PyTorch: at `t = 1000`
//! a phase in `f32` is accurate to 3e-5 only, and networks have learned with that.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor, TensorData},
};

use crate::layers::{Activation, Init, Linear};

/// `sin(t·fᵢ)` and `cos(t·fᵢ)` with `fᵢ = 10000^(−i/(n − shift))`, `i < n = width/2`: one row per time, of shape
/// `[B, width]`. Sines come first unless `cosines_first`; an odd width ends with a zero. Vaswani et al. 2017
/// (arXiv:1706.03762, section 3.5), with the frequencies of Ho et al. 2020 for `shift = 1`.
pub fn positional(times: &[f32], width: usize, shift: f64, cosines_first: bool) -> Vec<f32> {
    let half = width / 2;
    let rate = -(10000f64.ln()) as f32;
    let spacing = (half as f64 - shift) as f32;
    let frequencies: Vec<f32> =
        (0..half).map(|i| f64::from(rate * i as f32 / spacing).exp() as f32).collect();
    let mut out = Vec::with_capacity(times.len() * width);
    for t in times {
        let phases = frequencies.iter().map(|f| f64::from(t * f));
        let sines = phases.clone().map(|p| p.sin() as f32);
        let cosines = phases.map(|p| p.cos() as f32);
        if cosines_first {
            out.extend(cosines.chain(sines));
        } else {
            out.extend(sines.chain(cosines));
        }
        out.extend(std::iter::repeat_n(0.0, width % 2));
    }
    out
}

/// `sin(2π·wᵢ·ln t)` and `cos(2π·wᵢ·ln t)`, or the same of `t` itself, for fixed random `wᵢ` (Tancik et al. 2020; Song et al. 2021).
#[derive(Module, Debug)]
pub struct FourierProjection {
    /// `[width]`, not trained.
    weight: Param<Tensor<1>>,
}

impl FourierProjection {
    /// Creates normal frequencies with the standard deviation `std`.
    pub(crate) fn new(init: &Init, width: usize, std: f32) -> Self {
        Self { weight: init.normal("weight", [width], std).set_require_grad(false) }
    }

    /// `[B, 2·width]` for `B` times.
    pub(crate) fn forward(&self, times: &[f32]) -> Tensor<2> {
        let logs: Vec<f32> = times.iter().map(|&t| f64::from(t).ln() as f32).collect();
        let [sines, cosines] = self.waves(&logs);
        Tensor::cat(vec![sines, cosines], 1)
    }

    /// The same of the values themselves instead of their logarithms.
    pub(crate) fn forward_plain(&self, values: &[f32], cosines_first: bool) -> Tensor<2> {
        let [sines, cosines] = self.waves(values);
        Tensor::cat(if cosines_first { vec![cosines, sines] } else { vec![sines, cosines] }, 1)
    }

    /// Sines and cosines, `[B, width]` each.
    fn waves(&self, values: &[f32]) -> [Tensor<2>; 2] {
        let weight = self.weight.val();
        let values = rows(values.to_vec(), values.len(), &weight.device());
        let phase = values.mul(weight.unsqueeze_dim(0)).mul_scalar(2.0f32).mul_scalar(std::f32::consts::PI);
        [phase.clone().sin(), phase.cos()]
    }
}

/// Two linear layers with SiLU in between.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    /// Projection of an additional vector, which is added to the input of the first layer.
    cond_proj: Option<Linear>,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// Creates layers from `inputs` to `width` features.
    pub(crate) fn new(init: &Init, inputs: usize, width: usize) -> Self {
        Self::between(init, inputs, width, width)
    }

    /// Creates layers from `inputs` to `outputs` features, with `inner` in between.
    pub(crate) fn between(init: &Init, inputs: usize, inner: usize, outputs: usize) -> Self {
        Self {
            linear_1: Linear::new(&init.at("linear_1"), inputs, inner, true),
            cond_proj: None,
            linear_2: Linear::new(&init.at("linear_2"), inner, outputs, true),
        }
    }

    /// The same with an additional vector of `condition` values, which is projected to `inputs` and added.
    pub(crate) fn with_condition(self, init: &Init, condition: usize, inputs: usize) -> Self {
        let cond_proj = Linear::new(&init.at("cond_proj"), condition, inputs, false);
        Self { cond_proj: Some(cond_proj), ..self }
    }

    /// `x: [B, inputs]` and the additional vector `condition: [B, n]`, if any.
    pub(crate) fn joined(&self, x: Tensor<2>, condition: Tensor<2>) -> Tensor<2> {
        match &self.cond_proj {
            Some(map) => x + map.forward(condition),
            None => x,
        }
    }

    /// `[B, inputs]` to `[B, width]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_with(Activation::Silu, x)
    }

    /// The same with another activation.
    pub(crate) fn forward_with(&self, activation: Activation, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(activation.apply(self.linear_1.forward(x)))
    }

    /// The device of the parameters.
    pub(crate) fn device(&self) -> Device {
        self.linear_1.weight.lazy_device()
    }
}

/// `values` as `rows` rows of equal length.
pub(crate) fn rows(values: Vec<f32>, rows: usize, device: &Device) -> Tensor<2> {
    let shape = [rows, values.len() / rows.max(1)];
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

#[cfg(test)]
mod tests {
    use super::positional;

    #[test]
    fn the_first_frequency_is_one_and_the_last_is_set_by_the_shift() {
        let e = positional(&[1.0], 4, 1.0, false);
        for (e, want) in e.iter().zip([1f64.sin(), 1e-4f64.sin(), 1f64.cos(), 1e-4f64.cos()]) {
            assert!((f64::from(*e) - want).abs() < 1e-7, "{e} is not {want}");
        }
        let e = positional(&[1.0], 4, 0.0, true);
        for (e, want) in e.iter().zip([1f64.cos(), 1e-2f64.cos(), 1f64.sin(), 1e-2f64.sin()]) {
            assert!((f64::from(*e) - want).abs() < 1e-7, "{e} is not {want}");
        }
    }

    #[test]
    fn odd_widths_end_with_a_zero() {
        let e = positional(&[3.0, 4.0], 5, 0.0, true);
        assert_eq!(e.len(), 10);
        assert_eq!((e[4], e[9]), (0.0, 0.0));
    }
}
