//! Gaussian noise that depends on a seed and a stream alone: never on batch size, batch-mates,
//! thread count or device.

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{brownian, level::Level, vector::Vector};

/// Where solvers and plans take fresh noise from.
pub trait Noise<V> {
    /// A standard normal of the shape of `like`. `draw` counts the draws of one trajectory, so a
    /// trajectory that is resumed at draw `k` sees the same noise.
    fn normal(&mut self, like: &V, draw: u64) -> V;

    /// The increment of one Brownian path between two levels, scaled to a standard normal: the noise of
    /// stochastic solvers. It depends on the two levels alone, so that a step asked for twice, or cut in
    /// two, meets the same noise ([`brownian`]).
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

/// A generator for `(seed, stream)`; streams of one seed are independent.
pub fn generator(seed: u64, stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Fills `out` with standard normals of `(seed, stream)`, drawn in `f64` order and rounded to `f32`.
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
