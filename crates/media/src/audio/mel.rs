//! Mel filters: triangles of equal width on a scale of perceived pitch.

/// A scale of perceived pitch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MelScale {
    /// Linear below 1 kHz and logarithmic above: Slaney's Auditory Toolbox, librosa's default. Filters have equal area.
    Slaney,
    /// `2595·log10(1 + f/700)`: HTK, torchaudio's default. Filters have equal height.
    Htk,
}

/// Where Slaney's scale becomes logarithmic.
const KNEE: f64 = 1000.0;
const LINEAR: f64 = 200.0 / 3.0;

impl MelScale {
    fn of_hertz(self, f: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + f / 700.0).log10(),
            Self::Slaney if f < KNEE => f / LINEAR,
            Self::Slaney => KNEE / LINEAR + (f / KNEE).ln() / (6.4f64.ln() / 27.0),
        }
    }

    fn to_hertz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < KNEE / LINEAR => mel * LINEAR,
            Self::Slaney => KNEE * ((mel - KNEE / LINEAR) * (6.4f64.ln() / 27.0)).exp(),
        }
    }
}

/// `count` filters over the bins of windows of `size` values at `rate`, from 0 Hz to half the rate.
#[derive(Clone, Debug, PartialEq)]
pub struct MelFilters {
    bins: usize,
    /// `[count, bins]`.
    weights: Vec<f32>,
}

impl MelFilters {
    /// Computes the filters.
    pub fn new(scale: MelScale, rate: u32, size: usize, count: usize) -> Self {
        let (bins, top) = (size / 2 + 1, f64::from(rate) / 2.0);
        let most = scale.of_hertz(top);
        let corner = |i: usize| scale.to_hertz(most * i as f64 / (count + 1) as f64);
        let mut weights = Vec::with_capacity(count * bins);
        for filter in 0..count {
            let [low, centre, high] = [0, 1, 2].map(|i| corner(filter + i));
            let height = match scale {
                MelScale::Slaney => 2.0 / (high - low),
                MelScale::Htk => 1.0,
            };
            weights.extend((0..bins).map(|bin| {
                let f = top * bin as f64 / (bins - 1) as f64;
                let side = ((f - low) / (centre - low)).min((high - f) / (high - centre));
                (height * side.max(0.0)) as f32
            }));
        }
        Self { bins, weights }
    }

    /// Number of filters.
    pub fn count(&self) -> usize {
        self.weights.len() / self.bins
    }

    /// The weights, `[count, bins]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The number of the first filter that lies between two bins and so is always 0.
    pub fn first_empty(&self) -> Option<usize> {
        self.weights.chunks_exact(self.bins).position(|filter| filter.iter().all(|w| *w == 0.0))
    }

    /// The sums of `magnitudes` (of each frame, one per bin) under each filter.
    pub fn apply(&self, magnitudes: &[f32]) -> Vec<f32> {
        let filters = || self.weights.chunks_exact(self.bins);
        let sum = |frame: &[f32], filter: &[f32]| frame.iter().zip(filter).map(|(m, w)| m * w).sum();
        let frames = magnitudes.chunks_exact(self.bins);
        frames.flat_map(|frame| filters().map(move |filter| sum(frame, filter))).collect()
    }

    /// Magnitudes that are not negative and whose sums are about `mels`: multiplicative updates for the least squares (Lee &
    /// Seung 2001).
    pub fn invert(&self, mels: &[f32], iterations: usize) -> Vec<f32> {
        const LEAST: f32 = 1e-10;
        let (bins, count) = (self.bins, self.count());
        // The filters overlap only with their neighbours: the bins of each, and the filters of each bin.
        let filters: Vec<(usize, &[f32])> = (self.weights.chunks_exact(bins))
            .map(|filter| {
                let start = filter.iter().position(|w| *w > 0.0).unwrap_or(0);
                let end = filter.iter().rposition(|w| *w > 0.0).map_or(start, |last| last + 1);
                (start, &filter[start..end])
            })
            .collect();
        let spread = |values: &[f32]| {
            let mut out = vec![0.0f32; bins];
            for (value, (start, weights)) in values.iter().zip(&filters) {
                out[*start..].iter_mut().zip(*weights).for_each(|(bin, w)| *bin += value * w);
            }
            out
        };
        let sums = |magnitudes: &[f32]| -> Vec<f32> {
            let sum = |(start, weights): &(usize, &[f32])| {
                magnitudes[*start..].iter().zip(*weights).map(|(m, w)| m * w).sum()
            };
            filters.iter().map(sum).collect()
        };
        let mut out = Vec::with_capacity(mels.len() / count.max(1) * bins);
        for frame in mels.chunks_exact(count) {
            let wanted = spread(frame);
            let mut magnitudes = wanted.clone();
            for _ in 0..iterations {
                let found = spread(&sums(&magnitudes));
                for ((m, wanted), found) in magnitudes.iter_mut().zip(&wanted).zip(found) {
                    *m *= wanted / found.max(LEAST);
                }
            }
            out.extend(magnitudes);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mels_come_back() {
        let filters = MelFilters::new(MelScale::Htk, 8000, 256, 40);
        let magnitudes: Vec<f32> = (0..2 * 129).map(|i| 1.0 + (i as f32 * 0.37).sin()).collect();
        let mels = filters.apply(&magnitudes);
        let again = filters.apply(&filters.invert(&mels, 60));
        assert_eq!(mels.len(), 80);
        for (a, b) in again.iter().zip(&mels) {
            assert!((a - b).abs() < 0.02 * b.max(0.1), "{a} {b}");
        }
        assert!(filters.invert(&[0.0; 40], 10).iter().all(|m| *m == 0.0));
    }

    #[test]
    fn filters_between_bins_are_found() {
        assert_eq!(MelFilters::new(MelScale::Htk, 8000, 256, 40).first_empty(), None);
        assert!(MelFilters::new(MelScale::Htk, 8000, 64, 80).first_empty().is_some());
    }
}
