//! Selects the instruction set once, at run time.

use std::{ffi::OsString, fmt, sync::OnceLock};

/// The environment variable that selects an instruction set.
pub const VARIABLE: &str = "TWEEDIE_ISA";

/// An instruction set that kernels are compiled for and that this machine supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(pub(crate) Kind, Extensions);

/// Optional instructions beyond those of the set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extensions {
    bf16: bool,
    vnni: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// AVX-512 F, VL, BW and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 64-bit ARM with NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust.
    Scalar,
}

impl Isa {
    /// The result of [`Isa::wanted`], or the best instruction set of this machine if that is an error. Programs that
    /// should stop instead call [`Isa::wanted`] at their start.
    pub fn active() -> Self {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| Self::wanted().unwrap_or_else(|_| Self::available()[0]))
    }

    /// The instruction set named by the environment variable `TWEEDIE_ISA` (`avx512`, `avx2`, `neon`, `scalar`), or the
    /// best one of this machine if the variable is unset or empty.
    ///
    /// # Errors
    /// If this machine does not support it, or the name is unknown.
    pub fn wanted() -> Result<Self, IsaError> {
        let available = Self::available();
        let name = std::env::var_os(VARIABLE).unwrap_or_default();
        if name.is_empty() {
            return Ok(available[0]);
        }
        let named = available.iter().copied().find(|isa| name == isa.name());
        named.ok_or(IsaError { found: name, available: available.iter().map(|isa| isa.name()).collect() })
    }

    /// The instruction sets that this machine supports, best first. Never empty.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            if avx2 && avx512 {
                let bf16 = is_x86_feature_detected!("avx512bf16");
                let vnni = is_x86_feature_detected!("avx512vnni");
                all.push(Self(Kind::Avx512, Extensions { bf16, vnni }));
            }
            if avx2 {
                all.push(Self(Kind::Avx2, Extensions::default()));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self(Kind::Neon, Extensions::default()));
        }
        all.push(Self(Kind::Scalar, Extensions::default()));
        all
    }

    /// Whether it has instructions for `bf16` products; otherwise `f32` arithmetic computes the same.
    pub fn has_bf16(self) -> bool {
        self.1.bf16
    }

    /// Whether it has instructions for sums of four 8-bit products (VNNI).
    pub fn has_vnni(self) -> bool {
        self.1.vnni
    }

    /// Whether sums of products of bytes are of 32 bits without such instructions, too.
    pub(crate) fn adds_bytes_in_32_bits(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx2 => false,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => true,
            Kind::Scalar => true,
        }
    }

    /// The same instruction set without its `bf16` and 8-bit extensions.
    pub fn without_extensions(self) -> Self {
        Self(self.0, Extensions::default())
    }

    /// The name for `TWEEDIE_ISA`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            Kind::Scalar => "scalar",
        }
    }
}

/// An instruction set that is unknown or not supported by this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsaError {
    /// The value of the environment variable.
    pub found: OsString,
    /// The names that this machine supports.
    pub available: Vec<&'static str>,
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, names) = (self.found.to_string_lossy(), self.available.join(", "));
        let known = ["avx512", "avx2", "neon", "scalar"].contains(&&*found);
        let reason = if known {
            "which this machine does not support"
        } else {
            "which is not a known instruction set"
        };
        write!(
            f,
            "{VARIABLE} is `{found}`, {reason}; supported here: {names} (unset {VARIABLE} to use the best)"
        )
    }
}

impl std::error::Error for IsaError {}

/// `dispatch!(isa, f(arg: Type, ...) -> Result)` calls `f::<S>(arg, ...)` compiled for `isa`. `f` is an
/// `#[inline(always)] unsafe fn` over `S: Simd` of the module or imported by it; the call needs an `unsafe` block.
///
/// Each instruction set has a function of its own, `f::on_avx2` and so on, whose machine code `cargo xtask asm` finds
/// by that name.
macro_rules! dispatch {
    ($isa:expr, $f:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[inline(always)]
        #[allow(clippy::needless_lifetimes)]
        unsafe fn $f(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            unsafe fn on_avx512($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::avx512::Avx512>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn on_avx2($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::avx2::Avx2>($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            #[inline(never)]
            unsafe fn on_neon($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::neon::Neon>($($arg),*)
            }
            #[inline(never)]
            unsafe fn on_scalar($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::scalar::Scalar>($($arg),*)
            }
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 => on_avx512($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 => on_avx2($($arg),*),
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Kind::Neon => on_neon($($arg),*),
                $crate::isa::Kind::Scalar => on_scalar($($arg),*),
            }
        }
        $f($isa, $($arg),*)
    }};
}
pub(crate) use dispatch;
