//! Gaussian noise that only depends on a seed and a stream, not on batch size, position in the batch, thread
//! count or device.

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{brownian, level::Level, vector::Vector};

/// A source of noise for solvers and plans.
pub trait Noise<V> {
    /// A standard normal of the shape of `like`. `draw` counts the draws of one trajectory, so a trajectory
    /// resumed at draw `k` gets the same noise.
    fn normal(&mut self, like: &V, draw: u64) -> V;

    /// The increment of one Brownian path between two levels, scaled to a standard normal: the noise of
    /// stochastic solvers. It only depends on the two levels, so repeating or splitting a step gives the same
    /// noise ([`brownian`]).
    fn increment(&mut self, like: &V, from: Level, to: Level) -> V
    where
        V: Vector,
    {
        brownian::increment(&mut |draw| self.normal(like, draw), from.lambda(), to.lambda())
    }
}

impl<V, F: FnMut(&V, u64) -> V> Noise<V> for F {
    fn normal(&mut self, like: &V, draw: u64) -> V {
        self(like, draw)
    }
}

/// The stream of the initial noise. The draws of a trajectory count up from stream 0.
pub const INITIAL: u64 = u64::MAX;

/// A generator for `(seed, stream)`. Streams of one seed are independent.
pub fn generator(seed: u64, stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Fills `out` with standard normals of `(seed, stream)`, drawn in order in `f64` and rounded to `f32`.
pub fn fill_normal(seed: u64, stream: u64, out: &mut [f32]) {
    let mut rng = generator(seed, stream);
    for v in out {
        let x: f64 = StandardNormal.sample(&mut rng);
        *v = x as f32;
    }
}

/// [`Noise`] for `Vec<f64>` and `f64`, from one seed.
#[derive(Clone, Copy, Debug)]
pub struct SeededNoise(pub u64);

impl Noise<f64> for SeededNoise {
    fn normal(&mut self, _: &f64, draw: u64) -> f64 {
        StandardNormal.sample(&mut generator(self.0, draw))
    }
}

impl Noise<Vec<f64>> for SeededNoise {
    fn normal(&mut self, like: &Vec<f64>, draw: u64) -> Vec<f64> {
        let mut rng = generator(self.0, draw);
        like.iter().map(|_| StandardNormal.sample(&mut rng)).collect()
    }
}
