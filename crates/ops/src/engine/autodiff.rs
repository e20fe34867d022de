//! The operations with autodiff: run, and recorded with what their gradients need.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::strategy::CheckpointStrategy,
        ops::{Backward, OpsKind},
    },
};
use burn::tensor::FloatDType;

use super::{Engine, NormOptions, steps::*};
use crate::ConvOptions;

/// Runs the operation and, if a parent is tracked, records the step.
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

impl<B: Engine, C: CheckpointStrategy> Engine for Autodiff<B, C> {
    fn engine_absent(like: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_absent(like.into_primitive()))
    }

    fn engine_cast(x: F<Self>, to: FloatDType) -> F<Self> {
        let from = FloatDType::from(TensorMetadata::dtype(&x));
        record!(CastStep, [x], from, B::engine_cast(x, to))
    }

    fn engine_conv2d(
        x: F<Self>,
        y: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        shift: F<Self>,
        residual: F<Self>,
        options: ConvOptions,
        doubled: bool,
    ) -> F<Self> {
        record!(
            ConvStep,
            [x, y, weight, bias, shift, residual],
            ConvState { x: [x.clone(), y.clone()], weight: weight.clone(), options, doubled },
            B::engine_conv2d(x, y, weight, bias, shift, residual, options, doubled)
        )
    }

    fn engine_norm_conv2d(
        x: F<Self>,
        y: F<Self>,
        norm_weight: F<Self>,
        norm_bias: F<Self>,
        norm_scale: F<Self>,
        norm_shift: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        shift: F<Self>,
        residual: F<Self>,
        norm: NormOptions,
        options: ConvOptions,
    ) -> F<Self> {
        let all = [x, y, norm_weight, norm_bias, norm_scale, norm_shift, weight, bias, shift, residual];
        let nodes = all.each_ref().map(|t| t.node());
        let [x, y, nw, nb, ns, nt, weight, bias, shift, residual] = all.map(|t| t.into_primitive());
        match NormConvStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let factors = [nw, nb, ns, nt];
                let [nw, nb, ns, nt] = factors.clone();
                let (normalized, mean, rstd) =
                    B::engine_group_norm(x.clone(), y.clone(), nw, nb, ns, nt, norm);
                let state = NormConvState {
                    statistics: [mean, rstd],
                    factors,
                    norm,
                    weight: weight.clone(),
                    options,
                    normalized: (!norm.recompute).then(|| normalized.clone()),
                    x: [x.clone(), y],
                };
                let none = B::engine_absent(x);
                let out = B::engine_conv2d(normalized, none, weight, bias, shift, residual, options, false);
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::engine_norm_conv2d(
                x, y, nw, nb, ns, nt, weight, bias, shift, residual, norm, options,
            )),
        }
    }

    fn engine_conv(x: F<Self>, weight: F<Self>, bias: F<Self>, options: ConvOptions<3>) -> F<Self> {
        record!(
            ConvolutionStep,
            [x, weight, bias],
            (x.clone(), weight.clone(), options),
            B::engine_conv(x, weight, bias, options)
        )
    }

    fn engine_conv_input(
        dy: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        size: [usize; 3],
        options: ConvOptions<3>,
    ) -> F<Self> {
        record!(
            TransposedStep,
            [dy, weight, bias],
            (dy.clone(), weight.clone(), options),
            B::engine_conv_input(dy, weight, bias, size, options)
        )
    }

    fn engine_conv_weight(x: F<Self>, dy: F<Self>, kernel: [usize; 3], options: ConvOptions<3>) -> F<Self> {
        untracked::<B, C>(B::engine_conv_weight(x.into_primitive(), dy.into_primitive(), kernel, options))
    }

    fn engine_linear(x: F<Self>, weight: F<Self>, bias: F<Self>, residual: F<Self>) -> F<Self> {
        record!(
            LinearStep,
            [x, weight, bias, residual],
            (x.clone(), weight.clone()),
            B::engine_linear(x, weight, bias, residual)
        )
    }

    fn engine_group_norm(
        x: F<Self>,
        y: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        scale: F<Self>,
        shift: F<Self>,
        norm: NormOptions,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let all = [x, y, weight, bias, scale, shift];
        let nodes = all.each_ref().map(|t| t.node());
        let [x, y, w, b, s, t] = all.map(|t| t.into_primitive());
        let (x, factors) = ([x, y], [w, b, s, t]);
        let ([x0, y0], [w, b, s, t]) = (x.clone(), factors.clone());
        let (out, mean, rstd) = B::engine_group_norm(x0, y0, w, b, s, t, norm);
        let kept = [mean.clone(), rstd.clone()].map(untracked::<B, C>);
        let out = match NormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(NormState { x, statistics: [mean, rstd], factors, norm }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        let [mean, rstd] = kept;
        (out, mean, rstd)
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
            OpsKind::Tracked(prep) => prep.finish(([x, mean, rstd, weight], eps), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        let [mean, rstd] = statistics;
        (y, mean, rstd)
    }

    fn engine_geglu(x: F<Self>) -> F<Self> {
        record!(GegluStep, [x], x.clone(), B::engine_geglu(x))
    }

    fn engine_gelu(x: F<Self>) -> F<Self> {
        record!(GeluStep, [x], x.clone(), B::engine_gelu(x))
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

    fn engine_conv2d_input(
        dy: F<Self>,
        weight: F<Self>,
        size: [usize; 2],
        channels: [usize; 2],
        options: ConvOptions,
        doubled: bool,
    ) -> F<Self> {
        let [dy, weight] = [dy, weight].map(|t| t.into_primitive());
        untracked::<B, C>(B::engine_conv2d_input(dy, weight, size, channels, options, doubled))
    }

    fn engine_conv2d_weight(
        x: F<Self>,
        y: F<Self>,
        dy: F<Self>,
        kernel: [usize; 2],
        options: ConvOptions,
        doubled: bool,
    ) -> F<Self> {
        let [x, y, dy] = [x, y, dy].map(|t| t.into_primitive());
        untracked::<B, C>(B::engine_conv2d_weight(x, y, dy, kernel, options, doubled))
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
        y: F<Self>,
        dy: F<Self>,
        mean: F<Self>,
        rstd: F<Self>,
        weight: F<Self>,
        bias: F<Self>,
        scale: F<Self>,
        shift: F<Self>,
        norm: NormOptions,
    ) -> (F<Self>, F<Self>, F<Self>, F<Self>, F<Self>, F<Self>) {
        let [x, y, dy, mean, rstd, w, b, s, t] =
            [x, y, dy, mean, rstd, weight, bias, scale, shift].map(|t| t.into_primitive());
        let (dx, dy, dw, db, ds, dt) = B::engine_group_norm_backward(x, y, dy, mean, rstd, w, b, s, t, norm);
        let [dx, dy, dw, db, ds, dt] = [dx, dy, dw, db, ds, dt].map(untracked::<B, C>);
        (dx, dy, dw, db, ds, dt)
    }

    fn engine_layer_norm_backward(
        x: F<Self>,
        dy: F<Self>,
        mean: F<Self>,
        rstd: F<Self>,
        weight: F<Self>,
        eps: f64,
    ) -> (F<Self>, F<Self>, F<Self>) {
        let [x, dy, mean, rstd, weight] = [x, dy, mean, rstd, weight].map(|t| t.into_primitive());
        let (dx, dw, db) = B::engine_layer_norm_backward(x, dy, mean, rstd, weight, eps);
        (untracked::<B, C>(dx), untracked::<B, C>(dw), untracked::<B, C>(db))
    }

    fn engine_geglu_backward(x: F<Self>, dy: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_geglu_backward(x.into_primitive(), dy.into_primitive()))
    }

    fn engine_gelu_backward(x: F<Self>, dy: F<Self>) -> F<Self> {
        untracked::<B, C>(B::engine_gelu_backward(x.into_primitive(), dy.into_primitive()))
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

/// A constant. Gradients are first-order: backward steps are not differentiated.
fn untracked<B: Engine, C: CheckpointStrategy>(x: F<B>) -> F<Autodiff<B, C>> {
    <Autodiff<B, C> as burn::backend::AutodiffBackend>::from_inner(x)
}
