//! NEON of 64-bit ARM: four registers per vector.

use std::arch::aarch64::*;

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

pub(crate) type Quad = [float32x4_t; 4];

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $intrinsic:expr;)+) => {
        $(#[inline(always)]
        unsafe fn $name($($arg: Quad),+) -> Quad {
            [
                $intrinsic($($arg[0]),+),
                $intrinsic($($arg[1]),+),
                $intrinsic($($arg[2]),+),
                $intrinsic($($arg[3]),+),
            ]
        })+
    };
}

impl Simd for Neon {
    type V = Quad;
    const MR: usize = 6;
    const NV: usize = 1;

    lanewise! {
        add(a, b) = vaddq_f32;
        sub(a, b) = vsubq_f32;
        mul(a, b) = vmulq_f32;
        div(a, b) = vdivq_f32;
        fma(a, b, c) = |a, b, c| vfmaq_f32(c, a, b);
        fnma(a, b, c) = |a, b, c| vfmsq_f32(c, a, b);
        max(a, b) = |a, b| vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a, b) = |a, b| vbslq_f32(vcltq_f32(a, b), a, b);
        sqrt(a) = vsqrtq_f32;
        round(a) = vrndnq_f32;
        exp2_integral(a) = exp2_integral4;
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Quad {
        [vdupq_n_f32(x); 4]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Quad {
        [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))]
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Quad) {
        vst1q_f32(p, v[0]);
        vst1q_f32(p.add(4), v[1]);
        vst1q_f32(p.add(8), v[2]);
        vst1q_f32(p.add(12), v[3]);
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Quad {
        let mut lanes = [0.0f32; LANES];
        std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(LANES));
        Self::load(lanes.as_ptr())
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: Quad, n: usize) {
        let mut lanes = [0.0f32; LANES];
        Self::store(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(LANES));
    }
}

#[inline(always)]
unsafe fn exp2_integral4(a: float32x4_t) -> float32x4_t {
    let biased = vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(127));
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
}
