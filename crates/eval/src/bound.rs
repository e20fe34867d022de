//! How many bits a model needs for an image: the variational bound on `-log2 p(x0)`, per pixel and channel.
//!
//! The three terms are those of [`tweedie_core::bound`]. That of the prior is exact; the others are
//! expectations over the forward process' noise, of which one draw is made for each image and level. All
//! levels of all images would be `images·T` network evaluations, so the levels can be subsampled: the
//! cleanest, whose term is the largest, is always taken, and the rest is cut into strata, narrow where it is
//! clean, of each of which every image draws one level. That leaves the expectation as it is. Images
//! are independent of each other, so the spread between them is the standard error of everything.

mod estimate;
pub mod ode;
mod plot;

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use serde::Serialize;
use tweedie_core::{
    Level,
    bound::{Bound, ReverseVariance},
    noise::fill_normal,
    schedule::Times,
};
use tweedie_data::Image;
use tweedie_hub::scheduler_config::ClampRange;
use tweedie_models::{Condition, Mode, Network};
use tweedie_ops::{Device, from_host, to_host};
use tweedie_pipe::{Pipeline, row_seed};

pub use estimate::Estimate;
use estimate::Strata;
pub use plot::plot;

/// Why there is no bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoundError {
    /// No images.
    #[error("there are no images to evaluate")]
    Empty,
    /// An image of another size than the first.
    #[error("image {index} is {width}×{height}, expected {expected_width}×{expected_height} as the first")]
    Size {
        /// Its index.
        index: usize,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
        /// Width of the first.
        expected_width: usize,
        /// Height of the first.
        expected_height: usize,
    },
    /// A network for something else than images.
    #[error("the network takes {channels} channels: the bound is of RGB images, which have 3")]
    Channels {
        /// What it takes.
        channels: usize,
    },
    /// A variance that the network does not answer.
    #[error("the network answers {channels} channels: a learned variance needs {expected}")]
    Variance {
        /// What it answers.
        channels: usize,
        /// What it should answer.
        expected: usize,
    },
    /// A number of levels that cannot be visited.
    #[error("levels = {found}: expected 2 to {of}, the noise levels of the model")]
    Levels {
        /// The number asked for.
        found: usize,
        /// How many there are.
        of: usize,
    },
    /// The noise levels.
    #[error("the model's noise levels: {0}")]
    Process(#[from] tweedie_core::bound::BoundError),
    /// The model does not take these images.
    #[error("{0}")]
    Input(String),
    /// An answer that is infinite or not a number.
    #[error("image {image} at noise level t = {t}: the network's answer is not finite")]
    NotFinite {
        /// The image's index.
        image: usize,
        /// The time.
        t: f64,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The picture could not be drawn or written.
    #[error("drawing {}: {reason}", path.display())]
    Drawing {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What is evaluated, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// Levels visited for each image, at least 2; all of them if not given.
    pub levels: Option<usize>,
    /// Levels of a continuous process; a table has its own.
    pub steps: usize,
    /// The reverse process' variance; the model's own if not given.
    pub variance: Option<ReverseVariance>,
    /// Keep predictions in the range in which the model's sampler keeps them.
    pub clamp: bool,
    /// From this come the noise and the levels.
    pub seed: u64,
    /// Rows of a network call, at least 1; changes nothing but time and memory.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { levels: None, steps: 1000, variance: None, clamp: true, seed: 0, batch: 32 }
    }
}

/// An image, and the number of its class for the network, if that is told classes.
#[derive(Clone, Debug)]
pub struct Row {
    /// The image.
    pub image: Image,
    /// Its class.
    pub class: Option<usize>,
}

/// The bound of a model on a set of images. Terms are in bits per dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Their sum: at least what the images cost under the model.
    pub total: Estimate,
    /// `L_T`: how far the noisiest level is from the prior. Exact for each image.
    pub prior: Estimate,
    /// `L_{T-1} + … + L_1`: what the steps down cost.
    pub denoising: Estimate,
    /// `L_0`: what the decision for 8-bit values costs.
    pub reconstruction: Estimate,
    /// The terms by noise level, cleanest first.
    pub per_level: Vec<Term>,
    /// Images.
    pub images: usize,
    /// Numbers in an image.
    pub dims: usize,
    /// Noise levels of the process.
    pub levels: usize,
    /// Noise levels visited for each image: so many network evaluations.
    pub visited: usize,
    /// The reverse process' variance.
    pub variance: ReverseVariance,
    /// Predictions were kept within this magnitude.
    pub clamp: Option<f64>,
    /// The seed.
    pub seed: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// The terms of neighbouring levels, of which every image drew one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Term {
    /// The first level's index, 0 the cleanest; index 0 is the reconstruction.
    pub first: usize,
    /// The last level's index.
    pub last: usize,
    /// The network's time at the first.
    pub t: f64,
    /// Bits per dimension of one level, on average.
    pub bits: f64,
    /// Its standard error.
    pub standard_error: Option<f64>,
}

/// The bound of `pipeline`'s model on `rows`. `on` hears of evaluations done, and how many there will be, and may
/// stop the work.
///
/// # Errors
/// For images or options that do not suit the model, answers that are not finite, and
/// [`BoundError::Cancelled`].
pub fn evaluate(
    pipeline: &Pipeline,
    device: &Device,
    rows: &[Row],
    options: &Options,
    on: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Report, BoundError> {
    let started = Instant::now();
    let shape = check_rows(pipeline, rows)?;
    let model = Model::new(pipeline, device, shape, options)?;
    let levels = model.bound.levels();
    let visited = options.levels.unwrap_or(levels.len());
    if !(2..=levels.len()).contains(&visited) {
        return Err(BoundError::Levels { found: visited, of: levels.len() });
    }
    let strata = Strata::new(levels.len(), visited);
    model.check(&rows[0])?;

    let of = rows.len() * visited;
    let mut terms: Vec<Vec<f64>> = vec![Vec::with_capacity(visited); rows.len()];
    let tasks: Vec<(usize, usize)> = (0..rows.len())
        .flat_map(|image| strata.draw(options.seed, image).into_iter().map(move |index| (image, index)))
        .collect();
    let mut done = 0;
    for chunk in tasks.chunks(options.batch.max(1)) {
        for (&(image, index), nats) in chunk.iter().zip(model.terms(rows, chunk, options.seed)?) {
            if !nats.is_finite() {
                return Err(BoundError::NotFinite { image, t: levels[index].t });
            }
            terms[image].push(nats);
        }
        done += chunk.len();
        if on(done, of).is_break() {
            return Err(BoundError::Cancelled);
        }
    }

    let dims: usize = shape.iter().product();
    let bits = |nats: f64| tweedie_core::bound::bits_per_dim(nats, dims);
    let prior: Vec<f64> =
        rows.iter().map(|row| bits(values(&row.image).map(|x0| model.bound.prior(x0)).sum())).collect();
    let reconstruction: Vec<f64> = terms.iter().map(|t| bits(t[0])).collect();
    let sizes = strata.sizes();
    let denoising: Vec<f64> = terms
        .iter()
        .map(|t| t.iter().zip(&sizes).skip(1).map(|(nats, size)| bits(*nats) * *size as f64).sum())
        .collect();
    let sum = |i: usize| prior[i] + denoising[i] + reconstruction[i];
    let per_level = strata.ranges().enumerate().map(|(k, range)| {
        let estimate = Estimate::of(terms.iter().map(|t| bits(t[k])));
        Term {
            first: range.start,
            last: range.end - 1,
            t: levels[range.start].t,
            bits: estimate.mean,
            standard_error: estimate.standard_error,
        }
    });
    Ok(Report {
        total: Estimate::of((0..rows.len()).map(sum)),
        prior: Estimate::of(prior.iter().copied()),
        denoising: Estimate::of(denoising.iter().copied()),
        reconstruction: Estimate::of(reconstruction.iter().copied()),
        per_level: per_level.collect(),
        images: rows.len(),
        dims,
        levels: levels.len(),
        visited,
        variance: model.bound.variance(),
        clamp: model.clamp,
        seed: options.seed,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The shape `[3, H, W]` of all images, each of which has what the model is told.
fn check_rows(pipeline: &Pipeline, rows: &[Row]) -> Result<[usize; 3], BoundError> {
    let first = rows.first().ok_or(BoundError::Empty)?;
    let (expected_width, expected_height) = (first.image.width, first.image.height);
    let null = pipeline.extras().null_class;
    let told = pipeline.unet().config().num_class_embeds.is_some();
    for (index, Row { image, class }) in rows.iter().enumerate() {
        let (width, height) = (image.width, image.height);
        if (width, height) != (expected_width, expected_height) {
            return Err(BoundError::Size { index, width, height, expected_width, expected_height });
        }
        if told && class.or(null).is_none() {
            let reason = format!("image {index} has no class, and the network has none for \"no class\"");
            return Err(BoundError::Input(reason));
        }
    }
    Ok([3, expected_height, expected_width])
}

/// The variance with which the model's own sampler goes down: what its network or its scheduler says.
pub fn own_variance(pipeline: &Pipeline) -> ReverseVariance {
    let config = pipeline.unet().config();
    if config.out_channels == 2 * config.in_channels {
        return ReverseVariance::LearnedRange;
    }
    let scheduler: serde_json::Value =
        serde_json::from_str(&pipeline.scheduler().to_json()).unwrap_or_default();
    match scheduler["variance_type"].as_str() {
        Some("fixed_large" | "fixed_large_log") => ReverseVariance::FixedLarge,
        _ => ReverseVariance::FixedSmall,
    }
}

/// A network with its process.
struct Model<'a> {
    pipeline: &'a Pipeline,
    device: &'a Device,
    bound: Bound,
    shape: [usize; 3],
    clamp: Option<f64>,
}

/// The pixels, channel by channel, as numbers from -1 to 1.
fn values(image: &Image) -> impl Iterator<Item = f64> + '_ {
    let plane = |c| image.pixels.iter().skip(c).step_by(3).map(|&v| f64::from(v) / 127.5 - 1.0);
    plane(0).chain(plane(1)).chain(plane(2))
}

impl<'a> Model<'a> {
    fn new(
        pipeline: &'a Pipeline,
        device: &'a Device,
        shape: [usize; 3],
        options: &Options,
    ) -> Result<Self, BoundError> {
        let config = pipeline.unet().config();
        if config.in_channels != 3 {
            return Err(BoundError::Channels { channels: config.in_channels });
        }
        let variance = options.variance.unwrap_or_else(|| own_variance(pipeline));
        if variance == ReverseVariance::LearnedRange && config.out_channels != 6 {
            return Err(BoundError::Variance { channels: config.out_channels, expected: 6 });
        }
        let schedule = &pipeline.scheduler().process().schedule;
        let steps = match schedule.times() {
            Times::Table { steps } => steps,
            Times::Interval { .. } => options.steps,
        };
        let bound = Bound::of(&**schedule, steps, variance)?;
        // Whatever the steps, the range is the same.
        let recipe = pipeline.scheduler().resolve(2).map_err(|e| BoundError::Input(e.to_string()))?;
        let clamp = match recipe.clamp.map(|c| c.range) {
            Some(ClampRange::Static { limit }) if options.clamp => Some(limit),
            _ => None,
        };
        Ok(Self { pipeline, device, bound, shape, clamp })
    }

    fn condition(&self, rows: &[&Row]) -> Condition {
        let none = self.pipeline.extras().null_class;
        let told = self.pipeline.unet().config().num_class_embeds.is_some();
        let classes = rows.iter().map(|row| row.class.or(none).unwrap_or(0)).collect();
        Condition { classes: told.then_some(classes), ..Condition::default() }
    }

    fn check(&self, row: &Row) -> Result<(), BoundError> {
        let [c, h, w] = self.shape;
        let checked = self.pipeline.unet().check([1, c, h, w], &[0.0], &self.condition(&[row]));
        checked.map_err(|e| BoundError::Input(e.to_string()))
    }

    /// The terms of some (image, level), in nats. One network call.
    fn terms(&self, rows: &[Row], tasks: &[(usize, usize)], seed: u64) -> Result<Vec<f64>, BoundError> {
        let [c, h, w] = self.shape;
        let pixels = c * h * w;
        let parameterization = self.pipeline.scheduler().process().parameterization;
        let mut times = Vec::with_capacity(tasks.len());
        let mut input = Vec::with_capacity(tasks.len() * pixels);
        let mut noisy = Vec::with_capacity(tasks.len() * pixels);
        let mut eps = vec![0.0f32; pixels];
        for &(image, index) in tasks {
            let at = self.bound.levels()[index];
            let Level { alpha, sigma, .. } = at;
            let scalings = parameterization.scalings(at);
            times.push(scalings.c_noise as f32);
            fill_normal(row_seed(seed, image as u64), index as u64, &mut eps);
            let x = values(&rows[image].image).zip(&eps).map(|(x0, e)| alpha * x0 + sigma * f64::from(*e));
            noisy.extend(x);
            let fresh = &noisy[noisy.len() - pixels..];
            input.extend(fresh.iter().map(|x| (scalings.c_in * x) as f32));
        }
        let images: Vec<&Row> = tasks.iter().map(|&(image, _)| &rows[image]).collect();
        let condition = self.condition(&images);
        let unet = self.pipeline.unet();
        unet.check([tasks.len(), c, h, w], &times, &condition)
            .map_err(|e| BoundError::Input(e.to_string()))?;
        let input = from_host(input, [tasks.len(), c, h, w], self.device);
        let output = to_host(unet.forward(input, &times, &condition, Mode::Eval));
        let learned = self.bound.variance() == ReverseVariance::LearnedRange;
        let each = output.len() / tasks.len();
        let mut terms = Vec::with_capacity(tasks.len());
        for (row, &(image, index)) in tasks.iter().enumerate() {
            let scalings = parameterization.scalings(self.bound.levels()[index]);
            let (raw, v) = output[row * each..(row + 1) * each].split_at(pixels);
            let x = &noisy[row * pixels..(row + 1) * pixels];
            let term = |(i, x0): (usize, f64)| {
                let x0_hat = scalings.c_skip * x[i] + scalings.c_out * f64::from(raw[i]);
                let x0_hat = self.clamp.map_or(x0_hat, |limit| x0_hat.clamp(-limit, limit));
                self.bound.term(index, x0, x0_hat, if learned { f64::from(v[i]) } else { 0.0 }).nats
            };
            terms.push(values(&rows[image].image).enumerate().map(term).sum());
        }
        Ok(terms)
    }
}
