//! The engine's backward steps.

use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, PoisonError},
};

use burn::backend::{
    TensorMetadata,
    autodiff::{
        checkpoint::base::Checkpointer,
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::FloatTensor,
};
use burn::tensor::FloatDType;

use super::{Engine, NormOptions};
use crate::ConvOptions;

/// Nodes that hold a gradient from a step of the engine. A second gradient is then added in the engine's memory order;
/// Burn would take longer to add two channels-last gradients than a convolution takes.
static PENDING: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Default::default);

fn pending() -> std::sync::MutexGuard<'static, HashSet<u64>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that node `id` holds a gradient; returns whether it already did.
fn mark(id: u64) -> bool {
    let mut pending = pending();
    // Nodes of other operations are never removed. Forgetting nodes costs time, not correctness.
    if pending.len() > 1 << 16 {
        pending.clear();
    }
    !pending.insert(id)
}

/// Takes the gradient of the step's own node.
macro_rules! taken {
    ($ops:expr, $grads:expr) => {{
        pending().remove(&$ops.node.id.value);
        $grads.consume::<B>(&$ops.node)
    }};
}

/// Adds a gradient to a parent that needs one. `$value` is only evaluated then.
macro_rules! give {
    ($grads:expr, $parent:expr, $value:expr) => {
        if let Some(node) = $parent {
            let value = $value;
            // Leaves keep their gradient when it is read, so only Burn can add to it.
            if node.parents.is_empty() {
                $grads.register::<B>(node.id, value);
            } else if mark(node.id.value) {
                let other = $grads.consume::<B>(&node);
                $grads.register::<B>(node.id, B::engine_add(value, other));
            } else {
                $grads.register::<B>(node.id, value);
            }
        }
    };
}

/// Declares a backward step: its name, number of parents, state, and how it uses the output's gradient.
macro_rules! step {
    ($name:ident, $parents:literal, $state:ty, |$dy:ident, $s:pat_param, $p:pat_param, $grads:ident| $body:block) => {
        #[derive(Debug)]
        pub(super) struct $name;
        impl<B: Engine> Backward<B, $parents> for $name {
            type State = $state;
            fn backward(self, ops: Ops<Self::State, $parents>, $grads: &mut Gradients, _: &mut Checkpointer) {
                let $dy = taken!(ops, $grads);
                let ($s, $p) = (ops.state, ops.parents);
                $body
            }
        }
    };
}

pub(super) type F<B> = FloatTensor<B>;

pub(super) fn map_size<T: TensorMetadata>(x: &T) -> [usize; 2] {
    let shape = x.shape();
    [shape[2], shape[3]]
}

/// What the gradients of a convolution need.
#[derive(Clone, Debug)]
pub(super) struct ConvState<T> {
    /// Both inputs; the second may be absent.
    pub x: [T; 2],
    pub weight: T,
    pub options: ConvOptions,
    pub doubled: bool,
}

step!(ConvStep, 6, ConvState<F<B>>, |dy, s, [to_x, to_y, to_w, to_b, to_shift, to_residual], grads| {
    let ConvState { x: [x, y], weight, options, doubled } = s;
    let size = map_size(&x).map(|s| if doubled { 2 * s } else { s });
    let (first, second) = (x.shape()[1], if to_y.is_some() { y.shape()[1] } else { 0 });
    give!(grads, to_b, B::engine_channel_sums(dy.clone()));
    give!(grads, to_shift, B::engine_position_sums(dy.clone()));
    let kernel = map_size(&weight);
    give!(grads, to_w, B::engine_conv2d_weight(x, y, dy.clone(), kernel, options, doubled));
    let of = |dy, weight, channels| B::engine_conv2d_input(dy, weight, size, channels, options, doubled);
    give!(grads, to_y, of(dy.clone(), weight.clone(), [first, second]));
    give!(grads, to_x, of(dy.clone(), weight, [0, first]));
    give!(grads, to_residual, dy);
});

/// What the gradients of a normalization and the following convolution need.
#[derive(Clone, Debug)]
pub(super) struct NormConvState<T> {
    pub x: [T; 2],
    pub statistics: [T; 2],
    /// Weight, bias, scale and shift of the normalization.
    pub factors: [T; 4],
    pub norm: NormOptions,
    pub weight: T,
    pub options: ConvOptions,
    /// The normalized map, or `None` if it is recomputed.
    pub normalized: Option<T>,
}

step!(NormConvStep, 10, NormConvState<F<B>>, |dy, s, to, grads| {
    let [to_x, to_y, to_nw, to_nb, to_ns, to_nt, to_w, to_b, to_shift, to_residual] = to;
    let NormConvState { x: [x, y], statistics: [mean, rstd], factors, norm, weight, options, normalized } = s;
    let [nw, nb, ns, nt] = factors;
    let (size, kernel, none) = (map_size(&x), map_size(&weight), B::engine_absent(x.clone()));
    give!(grads, to_b, B::engine_channel_sums(dy.clone()));
    give!(grads, to_shift, B::engine_position_sums(dy.clone()));
    let again = || {
        let [x, y, nw, nb, ns, nt] = [&x, &y, &nw, &nb, &ns, &nt].map(F::<B>::clone);
        B::engine_group_norm(x, y, nw, nb, ns, nt, norm).0
    };
    give!(grads, to_w, {
        let normalized = normalized.unwrap_or_else(again);
        B::engine_conv2d_weight(normalized, none, dy.clone(), kernel, options, false)
    });
    if [&to_x, &to_y, &to_nw, &to_nb, &to_ns, &to_nt].iter().any(|to| to.is_some()) {
        let channels = [0, nw.shape()[0]];
        let dn = B::engine_conv2d_input(dy.clone(), weight, size, channels, options, false);
        let (dx, dy, dw, db, ds, dt) =
            B::engine_group_norm_backward(x, y, dn, mean, rstd, nw, nb, ns, nt, norm);
        give!(grads, to_nw, dw);
        give!(grads, to_nb, db);
        give!(grads, to_ns, ds);
        give!(grads, to_nt, dt);
        give!(grads, to_y, dy);
        give!(grads, to_x, dx);
    }
    give!(grads, to_residual, dy);
});

fn three<T: TensorMetadata>(x: &T) -> [usize; 3] {
    let shape = x.shape();
    let rank = shape.num_dims();
    std::array::from_fn(|i| if i + rank >= 5 { shape[i + rank - 3] } else { 1 })
}

step!(ConvolutionStep, 3, (F<B>, F<B>, ConvOptions<3>), |dy, (x, w, o), [to_x, to_w, to_b], grads| {
    let (size, kernel, none) = (three(&x), three(&w), B::engine_absent(x.clone()));
    give!(grads, to_b, B::engine_channel_sums(dy.clone()));
    give!(grads, to_w, B::engine_conv_weight(x, dy.clone(), kernel, o));
    give!(grads, to_x, B::engine_conv_input(dy, w, none, size, o));
});

step!(TransposedStep, 3, (F<B>, F<B>, ConvOptions<3>), |dy, (x, w, o), [to_x, to_w, to_b], grads| {
    let (kernel, none) = (three(&w), B::engine_absent(x.clone()));
    give!(grads, to_b, B::engine_channel_sums(dy.clone()));
    // The input of the transposed convolution takes the place of the convolution's output gradient.
    give!(grads, to_w, B::engine_conv_weight(dy.clone(), x, kernel, o));
    give!(grads, to_x, B::engine_conv(dy, w, none, o));
});

step!(LinearStep, 4, (F<B>, F<B>), |dy, (x, w), [to_x, to_w, to_b, to_residual], grads| {
    give!(grads, to_b, B::engine_row_sums(dy.clone()));
    give!(grads, to_w, B::engine_linear_weight(x, dy.clone()));
    give!(grads, to_x, B::engine_linear_input(dy.clone(), w));
    give!(grads, to_residual, dy);
});

/// What the gradients of a normalization need.
#[derive(Clone, Debug)]
pub(super) struct NormState<T> {
    pub x: [T; 2],
    pub statistics: [T; 2],
    /// Weight, bias, scale and shift.
    pub factors: [T; 4],
    pub norm: NormOptions,
}

step!(NormStep, 6, NormState<F<B>>, |dy, s, [to_x, to_y, to_w, to_b, to_scale, to_shift], grads| {
    let NormState { x: [x, y], statistics: [mean, rstd], factors: [w, b, s, t], norm } = s;
    let (dx, dy, dw, db, ds, dt) = B::engine_group_norm_backward(x, y, dy, mean, rstd, w, b, s, t, norm);
    give!(grads, to_w, dw);
    give!(grads, to_b, db);
    give!(grads, to_scale, ds);
    give!(grads, to_shift, dt);
    give!(grads, to_y, dy);
    give!(grads, to_x, dx);
});

step!(CastStep, 1, FloatDType, |dy, from, [to_x], grads| {
    give!(grads, to_x, B::engine_cast(dy, from));
});

step!(LayerNormStep, 3, ([F<B>; 4], f64), |dy, ([x, mean, rstd, w], eps), [to_x, to_w, to_b], grads| {
    let (dx, dw, db) = B::engine_layer_norm_backward(x, dy, mean, rstd, w, eps);
    give!(grads, to_w, dw);
    give!(grads, to_b, db);
    give!(grads, to_x, dx);
});

step!(GegluStep, 1, F<B>, |dy, x, [to_x], grads| {
    give!(grads, to_x, B::engine_geglu_backward(x, dy));
});

step!(GeluStep, 1, F<B>, |dy, x, [to_x], grads| {
    give!(grads, to_x, B::engine_gelu_backward(x, dy));
});

step!(SiluStep, 1, F<B>, |dy, x, [to_x], grads| {
    give!(grads, to_x, B::engine_silu_backward(x, dy));
});

step!(AddStep, 2, (), |dy, (), [to_x, to_y], grads| {
    give!(grads, to_x, dy.clone());
    give!(grads, to_y, dy);
});

step!(AddChannelsStep, 2, (), |dy, (), [to_x, to_shift], grads| {
    give!(grads, to_shift, B::engine_position_sums(dy.clone()));
    give!(grads, to_x, dy);
});

step!(ScaleShiftStep, 3, (F<B>, F<B>), |dy, (x, scale), [to_x, to_scale, to_shift], grads| {
    give!(grads, to_shift, B::engine_position_sums(dy.clone()));
    give!(grads, to_scale, B::engine_position_dots(x, dy.clone()));
    give!(grads, to_x, B::engine_scale(dy, scale));
});

step!(CatStep, 2, [usize; 2], |dy, [a, b], [to_x, to_y], grads| {
    give!(grads, to_x, B::engine_channels(dy.clone(), 0, a));
    give!(grads, to_y, B::engine_channels(dy, a, b));
});

step!(UpsampleStep, 1, [usize; 2], |dy, size, [to_x], grads| {
    give!(grads, to_x, B::engine_upsample_backward(dy, size));
});

step!(AvgPoolStep, 1, (usize, [usize; 2]), |dy, (k, size), [to_x], grads| {
    give!(grads, to_x, B::engine_avg_pool_backward(dy, k, size));
});

step!(AttentionStep, 3, ([F<B>; 3], f64), |dy, ([q, k, v], scale), [to_q, to_k, to_v], grads| {
    let (dq, dk, dv) = B::engine_attention_backward(q, k, v, dy, scale);
    give!(grads, to_q, dq);
    give!(grads, to_k, dk);
    give!(grads, to_v, dv);
});
