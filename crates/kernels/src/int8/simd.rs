//! Sixteen sums of products of four bytes each.

use crate::simd::{LANES, Simd, scalar::Scalar};

/// Bytes of a group: what one lane of a product adds up.
pub(super) const GROUP: usize = 4;

/// Products of groups of bytes. All methods need the instruction set of the implementor.
pub(super) trait Bytes: Copy + 'static {
    /// `f32` arithmetic.
    type S: Simd;
    /// Sixteen sums.
    type Sums: Copy;
    /// Sixteen groups of signed bytes.
    type Groups: Copy;
    /// One group of unsigned bytes, sixteen times.
    type Group: Copy;
    /// Rows of the microkernel.
    const MR: usize;
    /// What a product takes the unsigned bytes for: themselves less this.
    const LESS: i32 = 0;

    unsafe fn load(p: *const i32) -> Self::Sums;
    unsafe fn groups(p: *const i8) -> Self::Groups;
    unsafe fn broadcast(p: *const u8) -> Self::Group;
    /// `acc + Σ_i (a_i - LESS)·b_i`, exact for `b` in -63..=63.
    unsafe fn dot(acc: Self::Sums, a: Self::Group, b: Self::Groups) -> Self::Sums;
    unsafe fn to_f32(sums: Self::Sums) -> <Self::S as Simd>::V;
}

impl Bytes for Scalar {
    type S = Scalar;
    type Sums = [i32; LANES];
    type Groups = [[i8; GROUP]; LANES];
    type Group = [u8; GROUP];
    const MR: usize = 2;

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self::Sums {
        p.cast::<Self::Sums>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn groups(p: *const i8) -> Self::Groups {
        p.cast::<Self::Groups>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> Self::Group {
        p.cast::<Self::Group>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::Sums, a: Self::Group, b: Self::Groups) -> Self::Sums {
        let product = |lane: usize| (0..GROUP).map(|i| i32::from(a[i]) * i32::from(b[lane][i])).sum::<i32>();
        std::array::from_fn(|lane| acc[lane] + product(lane))
    }
    #[inline(always)]
    unsafe fn to_f32(sums: Self::Sums) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }
}

/// `start` plus the products of rows of bytes `a` with a panel's columns at `b`, over `groups`, at least one. The sums
/// stay in registers only while every index into them is a constant.
#[inline(always)]
pub(super) unsafe fn sums<B: Bytes, const MR: usize, const NV: usize>(
    a: [*const u8; MR],
    mut b: *const i8,
    groups: usize,
    start: [B::Sums; NV],
) -> [[B::Sums; NV]; MR] {
    let mut acc = [start; MR];
    let mut i = 0;
    loop {
        let bv: [B::Groups; NV] = std::array::from_fn(|v| B::groups(b.add(v * LANES * GROUP)));
        for r in 0..MR {
            let av = B::broadcast(a[r].add(i * GROUP));
            for v in 0..NV {
                acc[r][v] = B::dot(acc[r][v], av, bv[v]);
            }
        }
        b = b.add(NV * LANES * GROUP);
        i += 1;
        if i >= groups {
            return acc;
        }
    }
}

/// As `isa::dispatch`, with `f` over `B: Bytes`.
macro_rules! dispatch8 {
    ($isa:expr, $f:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[inline(always)]
        unsafe fn $f(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma")]
            unsafe fn on_vnni($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::int8::x86::Avx512Vnni>($($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                isa if isa.has_vnni() => on_vnni($($arg),*),
                isa => $crate::isa::dispatch!(isa, $f($($arg: $ty),*) $(-> $ret)?),
            }
        }
        $f($isa, $($arg),*)
    }};
}
pub(super) use dispatch8;
