//! The forward process on an image: `x_t = alpha·x0 + sigma·eps`, with the same noise at all times to show how it takes
//! over.

use tweedie_core::{Level, NoiseSchedule, lin, noise::fill_normal};
use tweedie_data::Image;

use crate::{Pipeline, PipelineError, Request};

/// The image at each of `times`, with noise drawn from `seed`. Samples of variance-exploding processes are scaled into
/// range.
///
/// ```
/// use tweedie_core::schedule::TableSchedule;
/// use tweedie_data::Rgb;
/// use tweedie_pipe::{Image, forward};
///
/// let picture = Image::filled(8, 8, Rgb([200, 80, 40]));
/// let schedule = TableSchedule::linear(1000, 1e-4, 0.02)?;
/// let times = forward::even_times(&schedule, 6);
/// let strip = forward::noised(&picture, &schedule, &times, 0);
/// assert_eq!(strip.len(), 6);
/// # Ok::<(), tweedie_core::schedule::ScheduleError>(())
/// ```
pub fn noised(picture: &Image, schedule: &dyn NoiseSchedule, times: &[f64], seed: u64) -> Vec<Image> {
    let x0 = picture.to_planes();
    let mut eps = vec![0.0f32; x0.len()];
    fill_normal(seed, 0, &mut eps);
    let at = |level: Level| {
        let scale = 1.0 / level.alpha.hypot(level.sigma).max(1.0);
        let (a, s) = (level.alpha * scale, level.sigma * scale);
        let mix = |(x, e): (&f32, &f32)| (a * f64::from(*x) + s * f64::from(*e)) as f32;
        let x: Vec<f32> = x0.iter().zip(&eps).map(mix).collect();
        Image::from_planes(picture.width, picture.height, &x)
    };
    times.iter().map(|&t| at(schedule.level(t))).collect()
}

/// The same with the process of a model, on its own samples: latents are noised and decoded. `picture` has the size of the
/// model's images.
///
/// # Errors
/// If the model does not make such images, or its autoencoder fails.
pub fn noised_by(
    pipeline: &Pipeline,
    picture: &Image,
    times: &[f64],
    seed: u64,
) -> Result<Vec<Image>, PipelineError> {
    let prompts = if pipeline.reads_texts() { vec![String::new()] } else { Vec::new() };
    let size = Some(vec![picture.height, picture.width]);
    let job = pipeline.prepare(&Request { seed, prompts, size, untuned: true, ..Request::default() })?;
    let (x0, eps) = (job.sample_of(picture)?, job.initial_noise(0..1));
    let schedule = &pipeline.scheduler().process().schedule;
    let mut images = Vec::new();
    for &t in times {
        let Level { alpha, sigma, .. } = schedule.level(t);
        let scale = 1.0 / alpha.hypot(sigma).max(1.0);
        images.extend(job.pictures(&lin![scale * alpha => &x0, scale * sigma => &eps])?);
    }
    Ok(images)
}

/// `n` times from the schedule's cleanest to its noisiest, evenly spaced.
pub fn even_times(schedule: &dyn NoiseSchedule, n: usize) -> Vec<f64> {
    let times = schedule.times();
    let gap = (times.max() - times.min()) / (n.max(2) - 1) as f64;
    (0..n).map(|i| times.min() + i as f64 * gap).collect()
}

/// `ln SNR = 2·ln(alpha/sigma)` at each of `times`, for a curve beside the images. Infinite where there is no noise or
/// no signal.
pub fn log_snr(schedule: &dyn NoiseSchedule, times: &[f64]) -> Vec<f64> {
    times.iter().map(|&t| 2.0 * schedule.level(t).lambda()).collect()
}

#[cfg(test)]
mod tests {
    use tweedie_core::schedule::{FlowSchedule, TableSchedule};
    use tweedie_data::Rgb;

    use super::*;

    #[test]
    fn begins_with_the_picture_and_ends_in_noise() {
        let picture = Image::filled(16, 16, Rgb([255, 0, 0]));
        let schedule = TableSchedule::linear(1000, 1e-4, 0.02).unwrap();
        let strip = noised(&picture, &schedule, &even_times(&schedule, 3), 1);
        let distance = |a: &Image, b: &Image| -> u32 {
            a.pixels.iter().zip(&b.pixels).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
        };
        let [first, middle, last] = &strip[..] else { panic!("three pictures") };
        let all = 16 * 16 * 3;
        assert!(distance(&picture, first) < 3 * all);
        assert!(distance(&picture, middle) < distance(&picture, last));
        assert_eq!(strip, noised(&picture, &schedule, &even_times(&schedule, 3), 1));
        assert_ne!(strip[2], noised(&picture, &schedule, &even_times(&schedule, 3), 2)[2]);
    }

    #[test]
    fn a_flow_begins_with_the_very_picture() {
        let picture = Image::filled(4, 4, Rgb([12, 200, 99]));
        let schedule = FlowSchedule::new();
        let times = even_times(&schedule, 2);
        assert_eq!(noised(&picture, &schedule, &times, 0)[0], picture);
        assert_eq!(log_snr(&schedule, &times), [f64::INFINITY, f64::NEG_INFINITY]);
    }
}
