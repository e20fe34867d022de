//! Products of bytes on NEON.

use std::arch::aarch64::*;

use super::simd::Bytes;
use crate::simd::neon::{Neon, Quad};

impl Bytes for Neon {
    type S = Neon;
    type Sums = [int32x4_t; 4];
    type Groups = [int8x16_t; 4];
    type Group = int8x16_t;
    const MR: usize = 4;
    /// Signed bytes: there are no products of those with unsigned ones.
    const LESS: i32 = 128;

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self::Sums {
        [0, 1, 2, 3].map(|i| vld1q_s32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn groups(p: *const i8) -> Self::Groups {
        [0, 1, 2, 3].map(|i| vld1q_s8(p.add(16 * i)))
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> Self::Group {
        let group = vdupq_n_u32(p.cast::<u32>().read_unaligned());
        vreinterpretq_s8_u32(veorq_u32(group, vdupq_n_u32(0x8080_8080)))
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::Sums, a: Self::Group, b: Self::Groups) -> Self::Sums {
        let one = |acc, b| {
            let pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
            vpadalq_s16(acc, pairs)
        };
        [one(acc[0], b[0]), one(acc[1], b[1]), one(acc[2], b[2]), one(acc[3], b[3])]
    }
    #[inline(always)]
    unsafe fn to_f32(sums: Self::Sums) -> Quad {
        sums.map(|sums| vcvtq_f32_s32(sums))
    }
}
