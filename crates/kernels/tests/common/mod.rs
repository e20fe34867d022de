//! Inputs and comparisons that tests share.
#![allow(dead_code)]

use tweedie_kernels::Isa;

/// Pseudo-random values in `-1..1`, determined by `seed`.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Asserts that `got` is within `tolerance` of `want`, relative to the root mean square of `want`.
#[track_caller]
pub fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let rms = (want.iter().map(|v| v * v).sum::<f64>() / want.len().max(1) as f64).sqrt();
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(
            error <= tolerance * rms.max(1e-30),
            "{what}: element {i}: {g} for {w}, error {error:e}, rms {rms}"
        );
    }
}

/// Runs `f` for every instruction set of this machine.
pub fn every_isa(f: impl Fn(Isa)) {
    for isa in Isa::available() {
        f(isa);
    }
}

/// Asserts that `f` gives the same bits on one thread and on three.
#[track_caller]
pub fn same_on_any_threads(what: &str, f: impl Fn() -> Vec<f32> + Sync + Send) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(&f)
    };
    assert!(bits(&on(1)) == bits(&on(3)), "{what}: bits depend on the number of threads");
}

/// The bits, for exact comparison.
pub fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}
