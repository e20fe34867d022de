//! Kernels that are generic over what they write, instantiated here so that `cargo xtask asm` can read their machine
//! code: the library holds none of them by itself.

use tweedie_kernels::{
    bf16::{Bf16, Epilogue, conv, linear::Linear},
    conv::Conv,
};

/// Convolutions that write `bf16` and `f32`.
pub fn convolutions(
    w: &conv::Prepared,
    c: &Conv,
    x: &[Bf16],
    epilogue: Epilogue<'_>,
    out: (&mut [Bf16], &mut [f32]),
) {
    w.forward(c, x, epilogue, out.0);
    w.forward(c, x, epilogue, out.1);
}

/// Linear maps that write `bf16` and `f32`.
pub fn linear_maps(w: &Linear, x: &[Bf16], epilogue: Epilogue<'_>, out: (&mut [Bf16], &mut [f32])) {
    w.forward(x, epilogue, out.0);
    w.forward(x, epilogue, out.1);
}
