//! The same operations composed of Burn's primitives. Other devices than the CPU run these, and the kernels are tested
//! against them.

use burn::tensor::{
    Tensor, activation, module,
    ops::{
        AvgPoolOptions, ConvOptions as BurnConvOptions, ConvTransposeOptions, InterpolateMode,
        InterpolateOptions,
    },
};

use crate::{AdamW, ConvOptions};

/// See [`crate::conv2d`].
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, o: ConvOptions) -> Tensor<4> {
    let [top, left] = o.pad_before;
    let [bottom, right] = o.pad_after;
    let padding = [(top, bottom), (left, right)];
    let options = BurnConvOptions::new_with_padding(o.stride, padding, o.dilation, o.groups);
    module::conv2d(x, weight, bias, options)
}

/// Zero padding before and after in each dimension after the channels.
fn padded<const D: usize, const N: usize>(
    mut x: Tensor<D>,
    before: [usize; N],
    after: [usize; N],
) -> Tensor<D> {
    for i in 0..N {
        let zeros = |x: &Tensor<D>, count: usize| {
            let mut shape = x.dims();
            shape[i + 2] = count;
            Tensor::zeros(shape, (&x.device(), x.dtype()))
        };
        if before[i] > 0 {
            x = Tensor::cat(vec![zeros(&x, before[i]), x], i + 2);
        }
        if after[i] > 0 {
            let more = zeros(&x, after[i]);
            x = Tensor::cat(vec![x, more], i + 2);
        }
    }
    x
}

macro_rules! convolution {
    ($name:ident, $rank:literal, $n:literal) => {
        #[doc = concat!("See [`crate::", stringify!($name), "`].")]
        pub fn $name(
            x: Tensor<$rank>,
            weight: Tensor<$rank>,
            bias: Option<Tensor<1>>,
            o: ConvOptions<$n>,
        ) -> Tensor<$rank> {
            let x = padded(x, o.pad_before, o.pad_after);
            module::$name(x, weight, bias, BurnConvOptions::new(o.stride, [0; $n], o.dilation, o.groups))
        }
    };
}

convolution!(conv1d, 3, 1);
convolution!(conv3d, 5, 3);

macro_rules! transposed {
    ($name:ident, $rank:literal, $n:literal) => {
        #[doc = concat!("See [`crate::", stringify!($name), "`]; `size` is the result's.")]
        pub fn $name(
            x: Tensor<$rank>,
            weight: Tensor<$rank>,
            bias: Option<Tensor<1>>,
            o: ConvOptions<$n>,
            size: [usize; $n],
        ) -> Tensor<$rank> {
            let options = ConvTransposeOptions::new(o.stride, [0; $n], [0; $n], o.dilation, o.groups);
            let whole = module::$name(x, weight, None, options);
            let dims = whole.dims();
            let missing = std::array::from_fn(|i| (o.pad_before[i] + size[i]).saturating_sub(dims[i + 2]));
            let mut y = padded(whole, [0; $n], missing);
            for i in 0..$n {
                y = y.narrow(i + 2, o.pad_before[i], size[i]);
            }
            let Some(bias) = bias else { return y };
            let mut shape = [1; $rank];
            shape[1] = bias.dims()[0];
            y + bias.reshape(shape)
        }
    };
}

transposed!(conv_transpose1d, 3, 1);
transposed!(conv_transpose2d, 4, 2);
transposed!(conv_transpose3d, 5, 3);

/// See [`crate::linear`].
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    module::linear(x, weight.transpose(), bias)
}

/// See [`crate::group_norm`].
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let shape = x.dims();
    let (b, c) = (shape[0], shape[1]);
    let rest: usize = shape[2..].iter().product();
    let y = x.reshape([b, groups, c / groups * rest]);
    let y = y.clone() - y.mean_dim(2);
    let var = (y.clone() * y.clone()).mean_dim(2);
    let y = (y / (var + eps).sqrt()).reshape([b, c, rest]);
    (y * weight.reshape([1, c, 1]) + bias.reshape([1, c, 1])).reshape(shape)
}

/// See [`crate::layer_norm`].
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    module::layer_norm(x, weight, Some(bias), eps)
}

/// See [`crate::geglu`].
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let width = x.dims()[D - 1] / 2;
    let gate = gelu(x.clone().narrow(D - 1, width, width));
    x.narrow(D - 1, 0, width) * gate
}

/// See [`crate::gelu`]. Burn's has the gradient of the approximation by `tanh`, except on the CPU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let both = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0;
    x * both * 0.5
}

/// See [`crate::silu`].
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::silu(x)
}

/// See [`crate::add_channels`].
pub fn add_channels(x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
    let [b, c] = shift.dims();
    x + shift.reshape([b, c, 1, 1])
}

/// See [`crate::scale_shift_channels`].
pub fn scale_shift_channels(x: Tensor<4>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<4> {
    let [b, c] = shift.dims();
    x * (scale.reshape([b, c, 1, 1]) + 1.0) + shift.reshape([b, c, 1, 1])
}

/// See [`crate::upsample_nearest2d`].
pub fn upsample_nearest2d(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    module::interpolate(x, InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size))
}

/// See [`crate::avg_pool2d`].
pub fn avg_pool2d(x: Tensor<4>, k: usize) -> Tensor<4> {
    module::avg_pool2d(x, AvgPoolOptions::new([k, k]))
}

/// See [`crate::attention`].
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    let scores = q.matmul(k.swap_dims(2, 3)) * scale;
    activation::softmax(scores, 3).matmul(v)
}

/// See [`crate::adamw`].
pub fn adamw(
    param: Tensor<1>,
    grad: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    h: AdamW,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let (correction1, correction2) = h.bias_corrections();
    let m = m * h.beta1 + grad.clone() * (1.0 - h.beta1);
    let v = v * h.beta2 + grad.clone() * grad * (1.0 - h.beta2);
    let denominator = v.clone().sqrt() / correction2.sqrt() + h.eps;
    let param = param * (1.0 - h.lr * h.weight_decay) - m.clone() / denominator * (h.lr / correction1);
    (param, m, v)
}

/// See [`crate::lerp`].
pub fn lerp<const D: usize>(from: Tensor<D>, to: Tensor<D>, weight: f64) -> Tensor<D> {
    from.clone() + (to - from) * weight
}
