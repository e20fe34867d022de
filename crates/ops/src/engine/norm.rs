//! Group normalization of one or two maps.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::{
    group_norm::{self, Affine, GroupNorm},
    maps::{Maps, MapsMut},
};

use super::{
    NormOptions,
    flex::{absent, is_absent, present},
    half, isa,
    layout::{Image, dense, tensor, uninitialized, values},
};

/// The arguments of a normalization as the kernels need them.
struct Given {
    x: Image,
    y: Option<Image>,
    weight: FlexTensor,
    bias: FlexTensor,
    scale_shift: Option<[FlexTensor; 2]>,
}

impl Given {
    fn new([x, y]: [FlexTensor; 2], [weight, bias, scale, shift]: [FlexTensor; 4]) -> Self {
        let x = Image::new(x);
        let y = present(y).map(Image::new);
        if let Some(y) = &y {
            assert!(x.batch() == y.batch() && x.size() == y.size(), "maps must have the same batch and size");
        }
        let scale_shift = (!is_absent(&scale)).then(|| [scale, shift].map(dense));
        Self { x, y, weight: dense(weight), bias: dense(bias), scale_shift }
    }

    fn second(&self) -> usize {
        self.y.as_ref().map_or(0, Image::channels)
    }

    fn maps(&self) -> Maps<'_> {
        Maps::two(self.x.values(), self.y.as_ref().map_or(&[], Image::values), self.second())
    }

    fn affine(&self) -> Affine<'_> {
        Affine {
            weight: values(&self.weight),
            bias: values(&self.bias),
            scale_shift: self.scale_shift.as_ref().map(|s| s.each_ref().map(values)),
        }
    }

    fn shape(&self, n: NormOptions) -> GroupNorm {
        let [batch, pixels, channels] = self.x.dims();
        let channels = channels + self.second();
        GroupNorm { batch, pixels, channels, groups: n.groups, eps: n.eps as f32, silu: n.silu }
    }

    /// Means and reciprocal standard deviations.
    fn statistics(&self, n: &GroupNorm) -> [Vec<f32>; 2] {
        let mut found = [(); 2].map(|()| vec![0.0; n.batch * n.groups]);
        let [mean, rstd] = &mut found;
        group_norm::statistics(isa(), n, self.maps(), mean, rstd);
        found
    }
}

pub(super) fn forward(
    inputs: [FlexTensor; 2],
    factors: [FlexTensor; 4],
    n: NormOptions,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    if half::is(&inputs[0]) {
        // The gradient recomputes the statistics.
        return (half::group_norm(half::joined(inputs), factors, n), absent(), absent());
    }
    let given = Given::new(inputs, factors);
    let n = given.shape(n);
    let [mean, rstd] = given.statistics(&n);
    let mut out = uninitialized(n.batch * n.pixels * n.channels);
    group_norm::forward(isa(), &n, given.maps(), [&mean, &rstd], given.affine(), &mut out);
    let per_group = |v| tensor(v, vec![n.batch, n.groups]);
    let out = Image::from_values(out, n.batch, &given.x.size(), n.channels);
    (out.into_tensor(), per_group(mean), per_group(rstd))
}

/// Gradients of both inputs, weight, bias, scale and shift.
pub(super) type Gradients = (FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor);

pub(super) fn backward(
    inputs: [FlexTensor; 2],
    dy: FlexTensor,
    statistics: [FlexTensor; 2],
    factors: [FlexTensor; 4],
    n: NormOptions,
) -> Gradients {
    if half::is(&inputs[0]) {
        let inputs = inputs.map(half::wide_or_absent);
        let (dx, dy, dw, db, ds, dt) = backward(inputs, half::wide(dy), [absent(), absent()], factors, n);
        return (half::narrow(dx), half::narrow_or_absent(dy), dw, db, ds, dt);
    }
    let (given, dy) = (Given::new(inputs, factors), Image::new(dy));
    let n = given.shape(n);
    let [mean, rstd] = match is_absent(&statistics[0]) {
        true => given.statistics(&n),
        false => statistics.map(|s| values(&s).to_vec()),
    };
    let (c, second, rows) = (n.channels, given.second(), n.batch * n.pixels);
    let (mut dx, mut dx2) = (uninitialized(rows * (c - second)), uninitialized(rows * second));
    let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
    let mut scaled = given.scale_shift.is_some().then(|| [(); 2].map(|()| vec![0.0f32; n.batch * c]));
    let of_sample = scaled.as_mut().map(|s| s.each_mut().map(|v| &mut v[..]));
    let maps = MapsMut::two(&mut dx, &mut dx2, second);
    let affine = given.affine();
    group_norm::backward(
        isa(),
        &n,
        given.maps(),
        dy.values(),
        [&mean, &rstd],
        affine,
        maps,
        [&mut dw, &mut db],
        of_sample,
    );
    let dx2 = given.y.as_ref().map_or_else(absent, |y| y.like(dx2).into_tensor());
    let [ds, dt] = match scaled {
        Some(both) => both.map(|v| tensor(v, vec![n.batch, c])),
        None => [absent(), absent()],
    };
    (given.x.like(dx).into_tensor(), dx2, tensor(dw, vec![c]), tensor(db, vec![c]), ds, dt)
}
