//! The data of one optimizer step, computed on the CPU as a pure function of the configuration and the step.

use std::{ops::Range, sync::Arc};

use tweedie_core::{Level, NoiseSchedule, Parameterization};
use tweedie_data::{AugmentConfig, Dataset, Order, augment};

use crate::{
    config::RunConfig,
    error::TrainError,
    importance::{Drawn, LossHistory, Table},
    keys::{Purpose, key, normal, uniform},
    loss::Weighting,
    objective::ObjectiveKind,
    share::Share,
    super_resolution::{Pair, Pairs},
    task::TaskKind,
    time_sampler::{Draw, TimeSampler},
};

/// The rows of one forward and backward pass. Images are `[B, C, H, W]`, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HostBatch {
    /// The network's input, `c_in·(alpha·x0 + sigma·eps)`.
    pub input: Vec<f32>,
    /// The training target.
    pub target: Vec<f32>,
    /// One weight per row.
    pub weights: Vec<f32>,
    /// One time per row.
    pub times: Vec<f32>,
    /// One class per row; empty without classes.
    pub classes: Vec<usize>,
    /// Channels that follow those of the input: the small images of a model that enlarges; otherwise empty. Then `classes` are
    /// the levels of their noise, if the network is told.
    pub maps: Vec<f32>,
    /// Nine augmentation labels per row; empty without labelled augmentation.
    pub labels: Vec<f32>,
    /// The correction for importance sampling of times, one per row, already part of `weights`; 1 without it.
    pub importance: Vec<f32>,
    /// The images, rounded to 8 bits, if the bound needs them or times are still to be drawn; otherwise empty.
    pub x0: Vec<f32>,
    /// The noise, if times are still to be drawn; otherwise empty.
    pub eps: Vec<f32>,
    /// The index of each row's time in the table, for the bound or loss-dependent times; otherwise empty.
    pub levels: Vec<usize>,
}

impl HostBatch {
    /// Number of rows with times.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Adds the condition of a row, and returns its large image.
    fn pair(&mut self, pair: Pair) -> Vec<f32> {
        self.maps.extend(pair.small);
        self.classes.extend(pair.level);
        pair.large
    }

    pub(crate) fn push(&mut self, x0: &[f32], eps: &[f32], draw: Draw, importance: f64, noising: &Noising) {
        let Level { alpha, sigma, .. } = draw.level;
        let p = noising.parameterization;
        let scalings = p.scalings(draw.level);
        let (a, b) = ((scalings.c_in * alpha) as f32, (scalings.c_in * sigma) as f32);
        let (ta, tb) = p.target_weights(draw.level);
        let (ta, tb) = (ta as f32, tb as f32);
        self.input.extend(x0.iter().zip(eps).map(|(x, e)| a * x + b * e));
        self.target.extend(x0.iter().zip(eps).map(|(x, e)| ta * x + tb * e));
        self.weights.push((importance * noising.weighting.weight(p, draw)) as f32);
        self.times.push(scalings.c_noise as f32);
        self.importance.push(importance as f32);
        if noising.indexed() {
            // Times of a table are integers.
            self.levels.push(draw.level.t as usize);
        }
    }
}

impl AsRef<Self> for HostBatch {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsMut<Self> for HostBatch {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

/// Where a denoising network's data comes from: clean samples with noise, and their conditions.
pub(crate) trait Batches: Send + Sync + 'static {
    /// The rows of one forward and backward pass, with their conditions.
    type Rows: AsRef<HostBatch> + AsMut<HostBatch> + Send + 'static;

    /// How samples are noised.
    fn noising(&self) -> &Noising;

    /// Number of training and of held-out samples.
    fn sizes(&self) -> [usize; 2];

    /// The rows of some passes of the step after `done` steps. If times depend on the losses, [`Noising::draw_times`] must
    /// complete them.
    fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<Self::Rows>, TrainError>;

    /// The batches of this rank of held-out samples, of which there are at most `rows` if they are read from files, with fixed, evenly spread times and fixed noise, and without
    /// augmentation or dropout.
    fn validation(&self, rows: usize, share: &Share) -> Result<Vec<Self::Rows>, TrainError>;
}

/// Draws noise and times for clean samples: images or latents.
pub(crate) struct Noising {
    parameterization: Parameterization,
    weighting: Weighting,
    schedule: Arc<dyn NoiseSchedule>,
    sampler: TimeSampler,
    /// Whether rows store their clean sample, for the bound.
    bound: bool,
    seed: u64,
    batch: usize,
    accumulation: usize,
}

impl Noising {
    /// The settings of a run.
    pub fn new(config: &RunConfig) -> Result<Self, TrainError> {
        Ok(Self {
            parameterization: config.parameterization(),
            weighting: config.loss.weighting(config.diffusion.sigma_data),
            schedule: config.diffusion.schedule()?,
            sampler: config.loss.sampler(),
            bound: config.loss.objective != ObjectiveKind::Simple,
            seed: config.run.seed,
            batch: config.run.batch,
            accumulation: config.run.accumulation,
        })
    }

    /// Whether rows store the index of their time.
    fn indexed(&self) -> bool {
        self.sampler.sampling.adapts() || self.bound
    }

    /// Rounds a clean image to pixel values, if the bound needs them.
    pub fn prepare(&self, x0: &mut [f32]) {
        if self.bound {
            x0.iter_mut().for_each(round);
        }
    }

    /// Rows of a step.
    pub fn rows(&self) -> usize {
        self.batch * self.accumulation
    }

    /// The rows of a pass of a step.
    pub fn pass(&self, number: usize) -> Range<usize> {
        number * self.batch..(number + 1) * self.batch
    }

    /// The rows of each batch of `rows` held-out samples.
    pub fn held_out(&self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let batch = self.batch;
        (0..rows).step_by(batch).map(move |start| start..(start + batch).min(rows))
    }

    /// Adds a clean sample as row `row` of the step after `done` steps.
    pub fn add(&self, batch: &mut HostBatch, x0: &[f32], done: u64, row: usize) {
        let mut eps = vec![0.0; x0.len()];
        normal(self.seed, Purpose::Noise, done, row as u64, &mut eps);
        let adapts = self.sampler.sampling.adapts();
        if self.bound || adapts {
            batch.x0.extend(x0);
        }
        if adapts {
            batch.eps.extend(&eps);
        } else {
            let draw = self.sampler.draw(&*self.schedule, self.seed, done, row, self.rows());
            batch.push(x0, &eps, draw, 1.0, self);
        }
    }

    /// Adds a clean sample as row `row` of `rows` held-out ones, with fixed, evenly spread times and fixed noise.
    pub fn add_held_out(&self, batch: &mut HostBatch, x0: &[f32], row: usize, rows: usize) {
        let mut eps = vec![0.0; x0.len()];
        normal(0, Purpose::ValidationNoise, 0, row as u64, &mut eps);
        let sampler = TimeSampler { low_discrepancy: true, ..self.sampler };
        let u = sampler.position(Purpose::ValidationTime, 0, 0, spread(row, rows), rows);
        batch.push(x0, &eps, sampler.at(&*self.schedule, u), 1.0, self);
        if self.bound {
            batch.x0.extend(x0);
        }
    }

    /// Draws the times of the step after `done` steps from the losses so far, for batches whose first row has the number
    /// `first`.
    pub fn draw_times<'a>(
        &self,
        batches: impl Iterator<Item = &'a mut HostBatch>,
        done: u64,
        first: usize,
        history: &LossHistory,
    ) {
        let table = Table::new(history.probabilities());
        let mut row = first;
        for batch in batches {
            let values = batch.x0.len() / self.batch;
            let (x0s, eps) = (std::mem::take(&mut batch.x0), std::mem::take(&mut batch.eps));
            for (x0, eps) in x0s.chunks(values.max(1)).zip(eps.chunks(values.max(1))) {
                let u = self.sampler.position(Purpose::Time, self.seed, done, row, self.rows());
                let Drawn { index, weight } = table.at(u);
                let draw = self.sampler.entry(&*self.schedule, index);
                batch.push(x0, eps, draw, weight, self);
                row += 1;
            }
            if self.bound {
                batch.x0 = x0s;
            }
        }
    }
}

/// Makes batches.
pub(crate) struct BatchMaker {
    train: Dataset,
    held_out: Dataset,
    order: Order,
    augment: AugmentConfig,
    labels: bool,
    classes: Option<usize>,
    dropout: f64,
    noising: Noising,
    /// Of an image.
    values: usize,
    /// Makes small images of them, for a model that enlarges.
    pairs: Option<Pairs>,
    seed: u64,
}

impl BatchMaker {
    /// Creates batches for a run.
    ///
    /// # Errors
    /// If every image is held out, or the configuration uses classes and the data has none.
    pub fn new(config: &RunConfig, data: &Dataset) -> Result<Self, TrainError> {
        let (train, held_out) = data.split();
        if train.is_empty() {
            let expected = format!("a fraction that leaves some of the {} images for training", data.len());
            return Err(TrainError::config("data.holdout", config.data.holdout, expected));
        }
        let enlarges = config.task == TaskKind::SuperResolution;
        let classes = config.conditioning.class_count(data.class_names().len()).filter(|_| !enlarges);
        if classes == Some(0) {
            return Err(TrainError::config(
                "conditioning.classes",
                true,
                "false, because the data has no classes",
            ));
        }
        let seed = key(config.run.seed, Purpose::Order, 0);
        let order = match (config.conditioning.balance, config.data.shuffle) {
            (false, _) => train.order(seed),
            (true, 0) => Order::balanced(seed, &train.classes()),
            (true, _) => {
                let expected = "false with data.shuffle, because images of a class lie anywhere in the files";
                return Err(TrainError::config("conditioning.balance", true, expected));
            }
        };
        Ok(Self {
            train,
            held_out,
            order,
            augment: config.augment,
            labels: config.augment.has_labels(),
            classes,
            dropout: config.conditioning.label_dropout,
            noising: Noising::new(config)?,
            values: config.data.channels * config.data.size * config.data.size,
            pairs: enlarges.then(|| {
                let data = &config.data;
                Pairs::new(&config.super_resolution, data.channels, data.size, config.run.seed)
            }),
            seed: config.run.seed,
        })
    }

    /// The held-out images, or those for training if there are none.
    pub(crate) fn unseen(&self) -> &Dataset {
        if self.held_out.is_empty() { &self.train } else { &self.held_out }
    }
}

impl Batches for BatchMaker {
    type Rows = HostBatch;

    fn noising(&self) -> &Noising {
        &self.noising
    }

    fn sizes(&self) -> [usize; 2] {
        [self.train.len(), self.held_out.len()]
    }

    fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<HostBatch>, TrainError> {
        let rows = self.noising.rows();
        let augment_seed = key(self.seed, Purpose::Augment, 0);
        let mut batches = Vec::new();
        for pass in passes.map(|number| self.noising.pass(number)) {
            let mut batch = HostBatch::default();
            for row in pass {
                let sample = done * rows as u64 + row as u64;
                let item = self.train.get(self.order.index(sample))?;
                let (mut x0, label) = augment(&item.sample, &self.augment, augment_seed, sample);
                // The planes of a grey image are equal.
                x0.truncate(self.values);
                if let Some(pairs) = &self.pairs {
                    x0 = batch.pair(pairs.of(&x0, done, row as u64));
                }
                self.noising.prepare(&mut x0);
                self.noising.add(&mut batch, &x0, done, row);
                if let Some(none) = self.classes {
                    let dropped = uniform(self.seed, Purpose::Labels, done, row as u64) < self.dropout;
                    batch.classes.push(item.class.filter(|_| !dropped).unwrap_or(none));
                }
                if self.labels {
                    batch.labels.extend(label);
                }
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    fn validation(&self, most: usize, share: &Share) -> Result<Vec<HostBatch>, TrainError> {
        let rows = most.min(self.held_out.len());
        let mut batches = Vec::new();
        for part in share.deal(self.noising.held_out(rows)) {
            let mut batch = HostBatch::default();
            for row in part {
                // Spread over the held-out set, with times in another order.
                let item = self.held_out.get(row * self.held_out.len() / rows)?;
                let mut x0 = item.sample.to_planes();
                x0.truncate(self.values);
                if let Some(pairs) = &self.pairs {
                    x0 = batch.pair(pairs.held_out(&x0));
                }
                self.noising.add_held_out(&mut batch, &x0, row, rows);
                if let Some(none) = self.classes {
                    batch.classes.push(item.class.unwrap_or(none));
                }
            }
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// Rounds to the nearest of the 256 pixel values.
fn round(v: &mut f32) {
    *v = ((*v + 1.0) * 127.5).round().clamp(0.0, 255.0) / 127.5 - 1.0;
}

/// A permutation of `rows` that is not in order.
fn spread(row: usize, rows: usize) -> usize {
    let stride = (rows / 2 + 1..).find(|s| gcd(*s, rows) == 1).unwrap_or(1);
    row * stride % rows
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigBuilder, prefetch::Prefetch};

    fn maker(assignments: &[&str]) -> BatchMaker {
        let mut builder = ConfigBuilder::preset("tiny").unwrap();
        for a in
            ["data.size=8", "augment.edm.p=0.5", "conditioning.label_dropout=0.5"].iter().chain(assignments)
        {
            builder = builder.set(a).unwrap();
        }
        let config = builder.build().unwrap();
        BatchMaker::new(&config, &Dataset::open(&config.data).unwrap()).unwrap()
    }

    #[test]
    fn rows_do_not_depend_on_how_they_are_cut_into_passes() {
        let one = maker(&["run.batch=6"]).step(5, 0..1).unwrap();
        let three = maker(&["run.batch=2", "run.accumulation=3"]);
        assert_eq!(three.step(5, 1..3).unwrap(), three.step(5, 0..3).unwrap()[1..]);
        let three = three.step(5, 0..3).unwrap();
        assert_eq!((one.len(), three.len()), (1, 3));
        let join = |pick: fn(&HostBatch) -> Vec<f32>| three.iter().flat_map(pick).collect::<Vec<_>>();
        assert_eq!(one[0].input, join(|b| b.input.clone()));
        assert_eq!(one[0].target, join(|b| b.target.clone()));
        assert_eq!(one[0].labels, join(|b| b.labels.clone()));
        assert_eq!(one[0].times, join(|b| b.times.clone()));
        assert_eq!(one[0].classes, three.iter().flat_map(|b| b.classes.clone()).collect::<Vec<_>>());
        assert!(one[0].labels.iter().any(|&l| l != 0.0));
        assert_ne!(one[0], maker(&["run.batch=6", "run.seed=1"]).step(5, 0..1).unwrap()[0]);
        assert_ne!(one[0], maker(&["run.batch=6"]).step(6, 0..1).unwrap()[0]);
    }

    #[test]
    fn labels_are_dropped_as_often_as_asked() {
        let maker = maker(&["run.batch=100"]);
        let none = maker.classes.unwrap();
        let dropped: usize = (0..20)
            .flat_map(|s| maker.step(s, 0..1).unwrap())
            .map(|b| b.classes.iter().filter(|&&c| c == none).count())
            .sum();
        // Four standard deviations of 2000 fair coins.
        assert!((911..=1089).contains(&dropped), "{dropped}");
    }

    #[test]
    fn prefetched_batches_are_the_same() {
        let maker = Arc::new(maker(&["run.batch=2"]));
        let ahead = maker.clone();
        let mut prefetch = Prefetch::new("batches", move |step| ahead.step(step, 0..1));
        for step in 3..8 {
            assert_eq!(prefetch.at(step, &Default::default()).unwrap(), maker.step(step, 0..1).unwrap());
        }
    }

    #[test]
    fn input_and_target_are_those_of_the_parameterization() {
        for (schedule, output) in
            [("squared-cosine", "v"), ("linear", "eps"), ("flow", "flow"), ("edm", "edm")]
        {
            let set = [
                "data.size=8".to_owned(),
                format!("diffusion.schedule={schedule}"),
                format!("diffusion.parameterization={output}"),
                "loss.times=log-normal".to_owned(),
                "run.batch=4".to_owned(),
            ];
            let builder = ConfigBuilder::preset("tiny").unwrap();
            let builder = set.iter().try_fold(builder, |b, a| b.set(a)).unwrap();
            let config = builder.build().unwrap();
            let maker = BatchMaker::new(&config, &Dataset::open(&config.data).unwrap()).unwrap();
            let batch = maker.step(0, 0..1).unwrap().remove(0);
            let p = maker.noising.parameterization;
            for row in 0..4 {
                let noising = &maker.noising;
                let level = noising.sampler.draw(&*noising.schedule, maker.seed, 0, row, 4).level;
                let x0 = maker.train.get(maker.order.index(row as u64)).unwrap().sample.to_planes();
                let mut eps = vec![0.0f32; 192];
                normal(maker.seed, Purpose::Noise, 0, row as u64, &mut eps);
                let scalings = p.scalings(level);
                assert_eq!(batch.times[row], scalings.c_noise as f32);
                for i in 0..192 {
                    let (x0, eps) = (f64::from(x0[i]), f64::from(eps[i]));
                    let x = level.alpha * x0 + level.sigma * eps;
                    let at = row * 192 + i;
                    assert!((f64::from(batch.input[at]) - scalings.c_in * x).abs() < 1e-5);
                    // Interpreting the target as a prediction gives the image back.
                    let read = p.read(&x, &f64::from(batch.target[at]), level);
                    assert!((read.x0 - x0).abs() < 1e-4 * (1.0 + scalings.c_out.abs()), "{output} {level:?}");
                }
            }
        }
    }
}
