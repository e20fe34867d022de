//! The engine's backward passes.

use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, PoisonError},
};

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use burn::tensor::FloatDType;

use super::Engine;
use crate::ConvOptions;

/// Nodes that hold a gradient from a step of the engine. A second one is then added in the engine's memory
/// order: left to Burn, adding two channels-last gradients takes longer than a convolution.
static PENDING: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Default::default);

fn pending() -> std::sync::MutexGuard<'static, HashSet<u64>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that node `id` holds a gradient; returns whether it already did.
fn mark(id: u64) -> bool {
    let mut pending = pending();
    // Nodes of other operations are never taken out. Forgetting costs time, not correctness.
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

/// Adds a gradient to a parent, if it wants one. `$value` is evaluated only then.
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

/// Declares a backward step: its name, number of parents, state, and what it does with the output's gradient.
macro_rules! step {
    ($name:ident, $parents:literal, $state:ty, |$dy:ident, $s:pat_param, $p:pat_param, $grads:ident| $body:block) => {
        #[derive(Debug)]
        struct $name;
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

/// Runs the operation and, where a parent is tracked, records the step.
macro_rules! record {
    ($step:ident, [$($x:ident),+], $state:expr, $run:expr) => {{
        let nodes = [$($x.node()),+];
        $(let $x = $x.into_primitive();)+
        match $step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = $state;
                prep.finish(state, $run)
            }
            OpsKind::UnTracked(prep) => prep.finish($run),
        }
    }};
}

type F<B> = FloatTensor<B>;

fn map_size<T: TensorMetadata>(x: &T) -> [usize; 2] {
    let shape = x.shape();
    [shape[2], shape[3]]
}

step!(ConvStep, 3, (F<B>, F<B>, ConvOptions), |dy, (x, w, options), [to_x, to_w, to_b], grads| {
    let size = map_size(&x);
    let kernel = map_size(&w);
    give!(grads, to_b, B::engine_channel_sums(dy.clone()));
    give!(grads, to_w, B::engine_conv2d_weight(x, dy.clone(), kernel, options));
    give!(grads, to_x, B::engine_conv2d_input(dy, w, size, options));
});

step!(LinearStep, 3, (F<B>, F<B>), |dy, (x, w), [to_x, to_w, to_b], grads| {
    give!(grads, to_b, B::engine_row_sums(dy.clone()));
    give!(grads, to_w, B::engine_linear_weight(x, dy.clone()));
    give!(grads, to_x, B::engine_linear_input(dy, w));
});

step!(NormStep, 3, ([F<B>; 5], usize, f64, bool), |dy,
                                                   ([x, mean, rstd, w, b], groups, eps, silu),
                                                   [to_x, to_w, to_b],
                                                   grads| {
    let (dx, dw, db) = B::engine_group_norm_backward(x, dy, mean, rstd, w, b, groups, eps, silu);
    give!(grads, to_w, dw);
    give!(grads, to_b, db);
    give!(grads, to_x, dx);
});

step!(CastStep, 1, FloatDType, |dy, from, [to_x], grads| {
    give!(grads, to_x, B::engine_cast(dy, from));
});

step!(LayerNormStep, 3, [F<B>; 4], |dy, [x, mean, rstd, w], [to_x, to_w, to_b], grads| {
    let (dx, dw, db) = B::engine_layer_norm_backward(x, dy, mean, rstd, w);
    give!(grads, to_w, dw);
    give!(grads, to_b, db);
    give!(grads, to_x, dx);
});

step!(GegluStep, 1, F<B>, |dy, x, [to_x], grads| {
    give!(grads, to_x, B::engine_geglu_backward(x, dy));
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

impl<B: Engine, C: CheckpointStrategy> Engine for Autodiff<B, C> {
    fn engine_cast(x: F<Self>, to: FloatDType) -> F<Self> {
        let from = FloatDType::from(TensorMetadata::dtype(&x));
        record!(CastStep, [x], from, B::engine_cast(x, to))
    }

    fn engine_conv2d(x: F<Self>, weight: F<Self>, bias: F<Self>, options: ConvOptions) -> F<Self> {
        record!(
            ConvStep,
            [x, weight, bias],
            (x.clone(), weight.clone(), options),
            B::engine_conv2d(x, weight, bias, options)
        )
    }

    fn engine_linear(x: F<Self>, weight: F<Self>, bias: F<Self>) -> F<Self> {
        record!(LinearStep, [x, weight, bias], (x.clone(), weight.clone()), B::engine_linear(x, weight, bias))
    }

    fn engine_group_norm(
        x: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let nodes = [x.node(), weight.node(), bias.node()];
        let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
        let (y, mean, rstd) =
            B::engine_group_norm(x.clone(), weight.clone(), bias.clone(), groups, eps, silu);
        let statistics = [mean.clone(), rstd.clone()].map(untracked::<B, C>);
        let y = match NormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, mean, rstd, weight, bias], groups, eps, silu), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        let [mean, rstd] = statistics;
        (y, mean, rstd)
    }

    fn engine_layer_norm(
        x: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        eps: f64,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let nodes = [x.node(), weight.node(), bias.node()];
        let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
        let (y, mean, rstd) = B::engine_layer_norm(x.clone(), weight.clone(), bias, eps);
        let statistics = [mean.clone(), rstd.clone()].map(untracked::<B, C>);
        let y = match LayerNormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([x, mean, rstd, weight], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        let [mean, rstd] = statistics;
        (y, mean, rstd)
    }

    fn engine_geglu(x: F<Self>) -> F<Self> {
        record!(GegluStep, [x], x.clone(), B::engine_geglu(x))
    }

    fn engine_silu(x: F<Self>) -> F<Self> {
        record!(SiluStep, [x], x.clone(), B::engine_silu(x))
    }

    fn engine_add(x: F<Self>, y: F<Self>) -> F<Self> {
        record!(AddStep, [x, y], (), B::engine_add(x, y))
    }

    fn engine_add_channels(x: F<Self>, shift: F<Self>) -> F<Self> {
        record!(AddChannelsStep, [x, shift], (), B::engine_add_channels(x, shift))
    }

    fn engine_scale_shift(x: F<Self>, scale: F<Self>, shift: F<Self>) -> F<Self> {
        record!(
            ScaleShiftStep,
            [x, scale, shift],
            (x.clone(), scale.clone()),
            B::engine_scale_shift(x, scale, shift)
        )
    }

    fn engine_cat(x: F<Self>, y: F<Self>) -> F<Self> {
        record!(CatStep, [x, y], [x.shape()[1], y.shape()[1]], B::engine_cat(x, y))
    }

    fn engine_upsample(x: F<Self>, size: [usize; 2]) -> F<Self> {
        record!(UpsampleStep, [x], map_size(&x), B::engine_upsample(x, size))
    }

    fn engine_avg_pool(x: F<Self>, k: usize) -> F<Self> {
        record!(AvgPoolStep, [x], (k, map_size(&x)), B::engine_avg_pool(x, k))
    }

    fn engine_attention(q: F<Self>, k: F<Self>, v: F<Self>, scale: f64) -> F<Self> {
        record!(
            AttentionStep,
            [q, k, v],
            ([q.clone(), k.clone(), v.clone()], scale),
            B::engine_attention(q, k, v, scale)
        )
    }

    fn engine_conv2d_input(dy: F<Self>, weight: F<Self>, size: [usize; 2], options: ConvOptions) -> F<Self> {
        untracked::<B, C>(B::engine_conv2d_input(dy.into_primitive(), weight.into_primitive(), size, options))
    }

    fn engine_conv2d_weight(x: F<Self>, dy: F<Self>, kernel: [usize; 2], options: ConvOptions) -> F<Self> {
        untracked::<B, C>(B::engine_conv2d_weight(x.into_primitive(), dy.into_primitive(), kernel, options))
    }

    fn engine_channel_sums(x: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_channel_sums(x.into_primitive()))
    }

    fn engine_position_sums(x: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_position_sums(x.into_primitive()))
    }

    fn engine_position_dots(x: F<Self>, y: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_position_dots(x.into_primitive(), y.into_primitive()))
    }

    fn engine_linear_input(dy: F<Self>, weight: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_linear_input(dy.into_primitive(), weight.into_primitive()))
    }

    fn engine_linear_weight(x: F<Self>, dy: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_linear_weight(x.into_primitive(), dy.into_primitive()))
    }

    fn engine_row_sums(x: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_row_sums(x.into_primitive()))
    }

    fn engine_group_norm_backward(
        x: F<Self>,
        dy: F<Self>,
        mean: F<Self>,
        rstd: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let [x, dy, mean, rstd, weight, bias] = [x, dy, mean, rstd, weight, bias].map(|t| t.into_primitive());
        let (dx, dw, db) = B::engine_group_norm_backward(x, dy, mean, rstd, weight, bias, groups, eps, silu);
        (untracked::<B, C>(dx), untracked::<B, C>(dw), untracked::<B, C>(db))
    }

    fn engine_layer_norm_backward(
        x: F<Self>,
        dy: F<Self>,
        mean: F<Self>,
        rstd: F<Self>,
        weight: F<Self>,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let [x, dy, mean, rstd, weight] = [x, dy, mean, rstd, weight].map(|t| t.into_primitive());
        let (dx, dw, db) = B::engine_layer_norm_backward(x, dy, mean, rstd, weight);
        (untracked::<B, C>(dx), untracked::<B, C>(dw), untracked::<B, C>(db))
    }

    fn engine_geglu_backward(x: F<Self>, dy: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_geglu_backward(x.into_primitive(), dy.into_primitive()))
    }

    fn engine_silu_backward(x: F<Self>, dy: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_silu_backward(x.into_primitive(), dy.into_primitive()))
    }

    fn engine_scale(x: F<Self>, scale: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_scale(x.into_primitive(), scale.into_primitive()))
    }

    fn engine_channels(x: F<Self>, first: usize, count: usize) -> F<Self> {
        untracked::<B, C>(B::engine_channels(x.into_primitive(), first, count))
    }

    fn engine_upsample_backward(dy: F<Self>, size: [usize; 2]) -> F<Self> {
        untracked::<B, C>(B::engine_upsample_backward(dy.into_primitive(), size))
    }

    fn engine_avg_pool_backward(dy: F<Self>, k: usize, size: [usize; 2]) -> F<Self> {
        untracked::<B, C>(B::engine_avg_pool_backward(dy.into_primitive(), k, size))
    }

    fn engine_attention_backward(
        q: F<Self>,
        k: F<Self>,
        v: F<Self>,
        dy: F<Self>,
        scale: f64,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let [q, k, v, dy] = [q, k, v, dy].map(|t| t.into_primitive());
        let (dq, dk, dv) = B::engine_attention_backward(q, k, v, dy, scale);
        (untracked::<B, C>(dq), untracked::<B, C>(dk), untracked::<B, C>(dv))
    }
}

/// A constant. Gradients are first-order: nothing passes through what a backward step computes.
fn untracked<B: Engine, C: CheckpointStrategy>(x: F<B>) -> F<Autodiff<B, C>> {
    <Autodiff<B, C> as burn::backend::AutodiffBackend>::from_inner(x)
}
