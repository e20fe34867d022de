//! The peak arithmetic speed of this machine: multiply-adds on registers.

use std::{hint::black_box, time::Instant};

use crate::{
    Isa,
    isa::dispatch,
    simd::{LANES, Simd},
};

/// Multiply-adds in a chain. 24 chains take about half a millisecond, less than a scheduler time slice.
const LENGTH: usize = 1 << 16;
/// Repetitions on each thread; the fastest counts.
const REPETITIONS: usize = 200;

/// The peak of `f32` operations per second on all threads together, in 10⁹; a multiply-add counts as two. Takes about
/// a tenth of a second.
pub fn gflops(isa: Isa) -> f64 {
    let pass = || {
        let start = Instant::now();
        // SAFETY: `isa` is supported by this machine.
        let operations = unsafe { dispatch!(isa, chains() -> usize) };
        operations as f64 * 1e-9 / start.elapsed().as_secs_f64()
    };
    rayon::broadcast(|_| (0..REPETITIONS).map(|_| pass()).fold(0.0, f64::max)).into_iter().sum()
}

/// Runs enough independent chains to fill the registers and hide the latency. Returns the number of operations.
#[inline(always)]
unsafe fn chains<S: Simd>() -> usize {
    if S::MR * S::NV >= 24 { run::<S, 24>() } else { run::<S, 6>() }
}

#[inline(always)]
unsafe fn run<S: Simd, const N: usize>() -> usize {
    let (factor, term) = (S::splat(black_box(0.5)), S::splat(black_box(1.0)));
    let mut sums = [S::zero(); N];
    for _ in 0..LENGTH {
        for sum in &mut sums {
            *sum = S::fma(*sum, factor, term);
        }
    }
    let mut lanes = [0.0f32; LANES];
    for sum in sums {
        S::store(lanes.as_mut_ptr(), sum);
        black_box(&lanes);
    }
    2 * LANES * N * LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_computes() {
        for isa in Isa::available() {
            let found = gflops(isa);
            assert!(found.is_finite() && found > 0.0, "{}: {found}", isa.name());
        }
    }
}
