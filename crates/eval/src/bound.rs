//! Bits per dimension of images: the variational bound on `-log2 p(x0)`, per pixel and channel.
//!
//! The three terms are those of [`tweedie_core::bound`]. The prior term is exact; the others are expectations over the
//! noise of the forward process, estimated with one draw per image and level. All levels of all images would be `images·T`
//! network evaluations, so levels can be subsampled: the cleanest, whose term is the largest, is always evaluated, and the
//! rest is divided into strata, narrower at clean levels, of which every image draws one level each. That leaves the
//! expectation unchanged. Images are independent, so the spread between them gives the standard error.

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
use tweedie_models::{Conditions, Mode};
use tweedie_ops::{Batch, Device};
use tweedie_pipe::{Pipeline, row_seed};

pub use estimate::Estimate;
use estimate::Strata;
pub use plot::plot;

/// Why a bound cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoundError {
    /// There are no images.
    #[error("there are no images to evaluate")]
    Empty,
    /// An image of another size than the first one.
    #[error(
        "image {index} has {width}×{height} pixels, expected {expected_width}×{expected_height} like the first one"
    )]
    Size {
        /// Index of the image.
        index: usize,
        /// Its width.
        width: usize,
        /// Its height.
        height: usize,
        /// Width of the first image.
        expected_width: usize,
        /// Height of the first image.
        expected_height: usize,
    },
    /// A network for something other than images.
    #[error("the network has {channels} input channels, expected 3 for RGB images or 1 for grey ones")]
    Channels {
        /// Number of input channels.
        channels: usize,
    },
    /// A learned variance that the network does not predict.
    #[error("the network has {channels} output channels, but a learned variance needs {expected}")]
    Variance {
        /// Number of output channels.
        channels: usize,
        /// Number of output channels for a learned variance.
        expected: usize,
    },
    /// An invalid number of levels.
    #[error("levels = {found}: expected 2 to {of}, the number of noise levels of the model")]
    Levels {
        /// The requested number.
        found: usize,
        /// Number of noise levels of the model.
        of: usize,
    },
    /// Invalid noise levels.
    #[error("the model's noise levels: {0}")]
    Process(#[from] tweedie_core::bound::BoundError),
    /// The model does not support these images.
    #[error("{0}")]
    Input(String),
    /// A network output that is not finite.
    #[error("image {image} at noise level t = {t}: the network's output is not finite")]
    NotFinite {
        /// Index of the image.
        image: usize,
        /// The timestep.
        t: f64,
    },
    /// The caller cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// The plot cannot be drawn or written.
    #[error("cannot draw {}: {reason}", path.display())]
    Drawing {
        /// Its file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// Settings of the evaluation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of levels per image, at least 2; all by default.
    pub levels: Option<usize>,
    /// Number of levels of a continuous process; a table has its own.
    pub steps: usize,
    /// Variance of the reverse process; by default the model's.
    pub variance: Option<ReverseVariance>,
    /// Whether to clamp predictions as the model's sampler does.
    pub clamp: bool,
    /// Seed of the noise and the levels.
    pub seed: u64,
    /// Batch size of a network call, at least 1; only affects time and memory.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { levels: None, steps: 1000, variance: None, clamp: true, seed: 0, batch: 32 }
    }
}

/// An image, and its class index for class-conditional networks.
#[derive(Clone, Debug)]
pub struct Row {
    /// The image.
    pub image: Image,
    /// Its class.
    pub class: Option<usize>,
}

/// The bound of a model for a set of images. Terms are in bits per dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The sum of all terms: an upper bound on the bits per dimension.
    pub total: Estimate,
    /// `L_T`: how far the noisiest level is from the prior. Exact for each image.
    pub prior: Estimate,
    /// `L_{T-1} + … + L_1`: the cost of the denoising steps.
    pub denoising: Estimate,
    /// `L_0`: the cost of decoding 8-bit values.
    pub reconstruction: Estimate,
    /// The terms by noise level, cleanest first.
    pub per_level: Vec<Term>,
    /// Number of images.
    pub images: usize,
    /// Number of values in an image.
    pub dims: usize,
    /// Number of noise levels of the process.
    pub levels: usize,
    /// Number of noise levels (and network evaluations) per image.
    pub visited: usize,
    /// Variance of the reverse process.
    pub variance: ReverseVariance,
    /// Predictions were clamped to this magnitude.
    pub clamp: Option<f64>,
    /// The seed.
    pub seed: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// The terms of a range of levels, of which every image drew one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Term {
    /// Index of the first level, 0 for the cleanest; index 0 is the reconstruction.
    pub first: usize,
    /// Index of the last level.
    pub last: usize,
    /// Timestep of the first level.
    pub t: f64,
    /// Bits per dimension of one level, on average.
    pub bits: f64,
    /// Its standard error.
    pub standard_error: Option<f64>,
}

/// The bound of `pipeline`'s model for `rows`. `on` receives the number of finished and of all evaluations, and may stop
/// it.
///
/// # Errors
/// For images or options that do not suit the model, outputs that are not finite, and [`BoundError::Cancelled`].
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
    let prior: Vec<f64> = rows
        .iter()
        .map(|row| bits(values(&row.image, shape[0]).map(|x0| model.bound.prior(x0)).sum()))
        .collect();
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

/// The common shape `[3, H, W]` of all images; checks that they have the classes that the model needs.
fn check_rows(pipeline: &Pipeline, rows: &[Row]) -> Result<[usize; 3], BoundError> {
    let first = rows.first().ok_or(BoundError::Empty)?;
    let (expected_width, expected_height) = (first.image.width, first.image.height);
    let null = pipeline.extras().null_class;
    let spec = pipeline.network().spec();
    if pipeline.model().codec.is_some() || spec.text.is_some() {
        let reason = "the bound is only computed for models in pixels without prompts, because latents have no density of \
                      pixels";
        return Err(BoundError::Input(reason.into()));
    }
    let told = spec.classes.count.is_some();
    for (index, Row { image, class }) in rows.iter().enumerate() {
        let (width, height) = (image.width, image.height);
        if (width, height) != (expected_width, expected_height) {
            return Err(BoundError::Size { index, width, height, expected_width, expected_height });
        }
        if told && class.or(null).is_none() {
            let reason = format!("image {index} has no class, and the network has no null class");
            return Err(BoundError::Input(reason));
        }
    }
    Ok([spec.inputs, expected_height, expected_width])
}

/// The variance of the model's own sampler, from its network or its scheduler.
pub fn own_variance(pipeline: &Pipeline) -> ReverseVariance {
    let spec = pipeline.network().spec();
    if spec.outputs == 2 * spec.inputs {
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

/// The pixels, channel by channel, as values from -1 to 1; one channel of a grey image.
fn values(image: &Image, channels: usize) -> impl Iterator<Item = f64> + '_ {
    let plane = |c: usize| image.pixels.iter().skip(c).step_by(3).map(|&v| f64::from(v) / 127.5 - 1.0);
    (0..channels).flat_map(plane)
}

impl<'a> Model<'a> {
    fn new(
        pipeline: &'a Pipeline,
        device: &'a Device,
        shape: [usize; 3],
        options: &Options,
    ) -> Result<Self, BoundError> {
        let spec = pipeline.network().spec();
        if ![1, 3].contains(&spec.inputs) {
            return Err(BoundError::Channels { channels: spec.inputs });
        }
        let variance = options.variance.unwrap_or_else(|| own_variance(pipeline));
        if variance == ReverseVariance::LearnedRange && spec.outputs != 2 * spec.inputs {
            let (channels, expected) = (spec.outputs, 2 * spec.inputs);
            return Err(BoundError::Variance { channels, expected });
        }
        let schedule = &pipeline.scheduler().process().schedule;
        let steps = match schedule.times() {
            Times::Table { steps } => steps,
            Times::Interval { .. } => options.steps,
        };
        let bound = Bound::of(&**schedule, steps, variance)?;
        // The range is the same for any number of steps.
        let recipe = pipeline.scheduler().resolve(2).map_err(|e| BoundError::Input(e.to_string()))?;
        let clamp = match recipe.clamp.map(|c| c.range) {
            Some(ClampRange::Static { limit }) if options.clamp => Some(limit),
            _ => None,
        };
        Ok(Self { pipeline, device, bound, shape, clamp })
    }

    fn conditions(&self, rows: &[&Row]) -> Conditions {
        let none = self.pipeline.extras().null_class;
        match self.pipeline.network().spec().classes.count {
            Some(_) => {
                Conditions::of_classes(rows.iter().map(|row| row.class.or(none).unwrap_or(0)).collect())
            }
            None => Conditions::none(),
        }
    }

    fn check(&self, row: &Row) -> Result<(), BoundError> {
        let checked = self.pipeline.network().check(1, &self.shape.into(), &[0.0], &self.conditions(&[row]));
        checked.map_err(|e| BoundError::Input(e.to_string()))
    }

    /// The terms of some (image, level) pairs, in nats. One network call.
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
            let x = values(&rows[image].image, c).zip(&eps).map(|(x0, e)| alpha * x0 + sigma * f64::from(*e));
            noisy.extend(x);
            let fresh = &noisy[noisy.len() - pixels..];
            input.extend(fresh.iter().map(|x| (scalings.c_in * x) as f32));
        }
        let images: Vec<&Row> = tasks.iter().map(|&(image, _)| &rows[image]).collect();
        let (conditions, network) = (self.conditions(&images), self.pipeline.network());
        let shape = self.shape.into();
        network
            .check(tasks.len(), &shape, &times, &conditions)
            .map_err(|e| BoundError::Input(e.to_string()))?;
        let input = Batch::from_host(input, tasks.len(), &shape, self.device);
        let output = network.forward(input, &times, &conditions, Mode::Eval).to_host();
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
            terms.push(values(&rows[image].image, c).enumerate().map(term).sum());
        }
        Ok(terms)
    }
}
