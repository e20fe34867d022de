//! The border between what was made and what was known.
//!
//! A latent model decodes pixels whose colours differ a little from the known ones beside the mask. Poisson blending (Pérez
//! et al. 2003, "Poisson image editing") keeps the gradients of the new pixels and meets the known values at the border: it
//! adds the harmonic function with the difference at the border. Nothing outside the mask changes.

use serde::{Deserialize, Serialize};

/// How visible the border of a mask is: differences of neighbouring pixels in 1/255, averaged over channels. A border that
/// cannot be seen has about the same difference across as beside it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seam {
    /// Mean difference across the border.
    pub across: f64,
    /// Mean difference of known pixels that lie within three pixels of the border.
    pub beside: f64,
}

/// An image of `[channels, height, width]` values and which pixels are new.
pub(super) struct Blend<'a> {
    pub dims: [usize; 3],
    pub new: &'a [bool],
}

impl Blend<'_> {
    /// The places beside pixel `i`.
    fn beside(&self, i: usize) -> impl Iterator<Item = usize> + use<> {
        let [_, height, width] = self.dims;
        let (y, x) = (i / width, i % width);
        let up = (y > 0).then(|| i - width);
        let down = (y + 1 < height).then(|| i + width);
        let left = (x > 0).then(|| i - 1);
        let right = (x + 1 < width).then(|| i + 1);
        [up, down, left, right].into_iter().flatten()
    }

    /// Moves the new pixels of `made` such that they meet the `known` ones.
    pub fn solve(&self, made: &mut [f32], known: &[f32]) {
        let [channels, height, width] = self.dims;
        let area = height * width;
        let inside: Vec<usize> = (0..area).filter(|i| self.new[*i]).collect();
        let meets = |i: &usize| self.beside(*i).any(|j| !self.new[j]);
        if !inside.iter().any(meets) {
            return;
        }
        for c in 0..channels {
            let plane = c * area;
            let mut change = vec![0.0f64; area];
            for i in (0..area).filter(|i| !self.new[*i]) {
                change[i] = f64::from(known[plane + i]) - f64::from(made[plane + i]);
            }
            self.harmonic(&inside, &mut change);
            for i in 0..area {
                made[plane + i] =
                    if self.new[i] { made[plane + i] + change[i] as f32 } else { known[plane + i] };
            }
        }
    }

    /// Extends `change` into the new pixels such that each is the mean of its neighbours, by conjugate gradients.
    fn harmonic(&self, inside: &[usize], change: &mut [f64]) {
        // Pixels at the border of the image have fewer neighbours.
        let product = |v: &[f64], out: &mut [f64]| {
            for &i in inside {
                let own = self.beside(i).filter(|j| self.new[*j]).map(|j| v[j]).sum::<f64>();
                out[i] = self.beside(i).count() as f64 * v[i] - own;
            }
        };
        let mut rest = vec![0.0; change.len()];
        for &i in inside {
            rest[i] = self.beside(i).filter(|j| !self.new[*j]).map(|j| change[j]).sum();
        }
        let dot = |a: &[f64], b: &[f64]| inside.iter().map(|i| a[*i] * b[*i]).sum::<f64>();
        let (mut direction, mut image) = (rest.clone(), vec![0.0; change.len()]);
        let mut size = dot(&rest, &rest);
        let end = size * 1e-12;
        for _ in 0..4 * (self.dims[1] + self.dims[2]) {
            if size <= end || size == 0.0 {
                break;
            }
            product(&direction, &mut image);
            let step = size / dot(&direction, &image);
            for &i in inside {
                change[i] += step * direction[i];
                rest[i] -= step * image[i];
            }
            let next = dot(&rest, &rest);
            let kept = next / size;
            inside.iter().for_each(|i| direction[*i] = rest[*i] + kept * direction[*i]);
            size = next;
        }
    }

    /// The visibility of the border in `values`; `None` if no known pixel lies beside a new one.
    pub fn score(&self, values: &[f32]) -> Option<Seam> {
        let [channels, height, width] = self.dims;
        let area = height * width;
        let step = |i: usize, j: usize| {
            let each =
                (0..channels).map(|c| f64::from((values[c * area + i] - values[c * area + j]).abs()) * 127.5);
            each.sum::<f64>() / channels as f64
        };
        // Known pixels within three pixels of new ones.
        let mut near: Vec<bool> = self.new.to_vec();
        for _ in 0..3 {
            let before = near.clone();
            near.iter_mut().enumerate().for_each(|(i, near)| *near |= self.beside(i).any(|j| before[j]));
        }
        let (mut across, mut beside) = ((0.0, 0usize), (0.0, 0usize));
        for i in 0..area {
            for j in self.beside(i).filter(|j| *j > i) {
                let sum = match (self.new[i], self.new[j]) {
                    (true, true) => continue,
                    (false, false) if near[i] && near[j] => &mut beside,
                    (false, false) => continue,
                    _ => &mut across,
                };
                sum.0 += step(i, j);
                sum.1 += 1;
            }
        }
        let mean = |(sum, count): (f64, usize)| if count == 0 { 0.0 } else { sum / count as f64 };
        (across.1 > 0).then(|| Seam { across: mean(across), beside: mean(beside) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// New pixels are a plane plus an offset that differs by side; the known ones are the plane. The solved offset is the
    /// harmonic function with those values at the border, here linear.
    #[test]
    fn new_pixels_meet_the_known_ones_and_keep_their_gradients() {
        let [height, width] = [9, 12];
        let new: Vec<bool> = (0..height * width).map(|i| (1..width - 1).contains(&(i % width))).collect();
        let blend = Blend { dims: [1, height, width], new: &new };
        let texture = |i: usize| 0.1 * ((i / width) as f32 * 1.7).sin();
        let known: Vec<f32> =
            (0..height * width).map(|i| texture(i) + if i % width == 0 { 0.0 } else { 0.55 }).collect();
        let mut made: Vec<f32> = (0..height * width).map(|i| texture(i) - 0.2).collect();
        blend.solve(&mut made, &known);
        for (i, v) in made.iter().enumerate() {
            let expected = texture(i) + 0.55 * (i % width) as f32 / (width - 1) as f32;
            assert!((v - expected).abs() < 1e-5, "{i}: {v} {expected}");
        }
        let seam = blend.score(&made).unwrap();
        assert!((seam.across - 0.05 * 127.5).abs() < 1e-2, "{seam:?}");
        assert!(Blend { dims: [1, height, width], new: &[true; 108] }.score(&made).is_none());
    }
}
