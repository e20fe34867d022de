//! Selects the algorithm of a convolution.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tweedie_kernels::conv::{self, Algorithm, Conv, Epilogue, Input, Prepared};

use super::isa;
use crate::context;

/// Runs of each algorithm; the fastest counts.
const RUNS: usize = 4;

fn measured() -> MutexGuard<'static, HashMap<Conv, Algorithm>> {
    static MEASURED: LazyLock<Mutex<HashMap<Conv, Algorithm>>> = LazyLock::new(Default::default);
    MEASURED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The algorithm for a layer by the fixed rule, or the fastest if the context [measures](crate::ExecContext::measure).
pub(super) fn of(c: &Conv) -> Algorithm {
    let all = Algorithm::all(c);
    if !context::current(|c| c.measure) || all.len() == 1 {
        return Algorithm::of(c);
    }
    // Holds the lock, because two threads that measure at once would disturb each other.
    *measured().entry(*c).or_insert_with(|| fastest(c, all))
}

/// The algorithm's name in profiles.
pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Direct => "direct",
        Algorithm::Tiles2 => "F(2x2)",
        Algorithm::Tiles4 => "F(4x4)",
    }
}

fn fastest(c: &Conv, all: &[Algorithm]) -> Algorithm {
    let [x, w, y] = c.lens();
    let numbers = |len: usize| (0..len).map(|i| (i * 7919 % 1009) as f32 * 1e-3 - 0.5).collect::<Vec<_>>();
    let (x, w, mut y) = (numbers(x), numbers(w), vec![0.0; y]);
    let mut time = |algorithm: Algorithm| {
        let prepared = Prepared::pays(algorithm, c).then(|| Prepared::by(algorithm, isa(), c, &w)).flatten();
        let run = |y: &mut [f32]| {
            let (x, epilogue) = (Input::from(&x[..]), Epilogue::default());
            let start = Instant::now();
            match &prepared {
                Some(w) => w.forward(c, x, epilogue, y),
                None => conv::forward_by(algorithm, isa(), c, x, &w, epilogue, y),
            }
            start.elapsed()
        };
        (0..RUNS).map(|_| run(&mut y)).min().unwrap_or_default()
    };
    let rule = Algorithm::of(c);
    let others = all.iter().copied().filter(|a| *a != rule);
    let mut best = (rule, time(rule));
    for algorithm in others {
        let took = time(algorithm);
        if took < best.1 {
            best = (algorithm, took);
        }
    }
    best.0
}
