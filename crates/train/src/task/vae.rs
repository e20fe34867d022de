//! Training an autoencoder: see [`crate::autoencoder`].

use std::{collections::BTreeMap, sync::Arc};

use burn::{module::Module, tensor::Tensor};
use serde_json::{Map, Value, json};
use tweedie_data::{Dataset, Image};
use tweedie_media::{psnr, ssim};
use tweedie_models::{AutoencoderKl, AutoencoderKlConfig, InputError, count};
use tweedie_ops::{Device, to_host};

use super::{Files, Learned, Learner, Sheet, Size, StepAt, Task, Validation, learner::PassLoss};
use crate::{
    autoencoder::{
        self, Discriminator, Found, ImageBatch, ImageBatches, Measured, Objective, Parts, divergence, number,
        perceptual,
    },
    checkpoint::{Checkpoint, Fingerprint},
    config::RunConfig,
    dry_run::{DryRun, Memory, fits, vae_activations},
    error::TrainError,
    event::{Figure, Summary},
    init,
    optim::GradientMap,
    prefetch::Prefetch,
    preview,
    share::Share,
};

/// Prefix of the discriminator's files.
const DISCRIMINATOR: &str = "discriminator-";
/// Maximum number of training images whose latents are measured.
const MEASURED: usize = 2048;

pub(super) struct Vae {
    config: RunConfig,
    maker: Arc<ImageBatches>,
    batches: Prefetch<Vec<ImageBatch>>,
    learner: Learner<AutoencoderKl>,
    /// `None` without an adversarial loss.
    discriminator: Option<Learner<Discriminator>>,
    objective: Objective,
    /// The figures of the last validation.
    quality: Vec<Figure>,
}

fn wrong(e: impl std::fmt::Display) -> TrainError {
    TrainError::Model(e.to_string())
}

fn latent(network: &AutoencoderKlConfig, size: usize) -> usize {
    network.latent_channels * (size / network.stride()).pow(2)
}

impl Vae {
    pub fn new(
        config: &RunConfig,
        data: &Dataset,
        device: &Device,
        from: Option<&Checkpoint>,
        share: &Share,
    ) -> Result<Self, TrainError> {
        let size = config.data.size;
        let network = config.vae.autoencoder(size);
        let each = vae_activations(&network, size, config.run.recompute);
        fits(config, &network.block_out_channels, each.saturating_mul(config.run.batch as u64))?;
        let maker = Arc::new(ImageBatches::new(config, data, latent(&network, size))?);
        let autodiff = device.clone().autodiff();
        let mut model = AutoencoderKl::new(&network, config.run.seed, &autodiff).map_err(wrong)?;
        if let (Some(path), None) = (&config.run.init, from) {
            model = init::autoencoder(model, path, device)?;
        }
        let mut learner = Learner::new(model.with_context(config.run.context()), config, share);
        let c = &config.vae.adversarial;
        let mut discriminator = (c.weight > 0.0).then(|| {
            let model = Discriminator::new(c, config.run.seed, &autodiff);
            Learner::plain(model, &config.optimizer, DISCRIMINATOR, share)
        });
        if let Some(checkpoint) = from {
            let step = checkpoint.state.step;
            learner = learner.restored(checkpoint, step, device)?;
            let restored = |d: Learner<_>| d.restored(checkpoint, step.saturating_sub(c.start), device);
            discriminator = discriminator.map(restored).transpose()?;
        }
        let (of_step, own) = (maker.clone(), share.own());
        Ok(Self {
            objective: Objective::new(&config.vae, perceptual(&config.vae, device)?, size, device)?,
            maker,
            batches: Prefetch::new("batches", move |step| of_step.step(step, own.clone())),
            learner,
            discriminator,
            quality: Vec::new(),
            config: config.clone(),
        })
    }

    /// The reconstruction of the images of `batch` by the finished autoencoder.
    fn reconstructed(&self, model: &AutoencoderKl, batch: &ImageBatch) -> Result<[Tensor<4>; 2], TrainError> {
        let x = self.objective.images(batch);
        let mean = model.encode(x.clone()).map_err(wrong)?.mean;
        Ok([x, model.decode(mean).map_err(wrong)?.clamp(-1.0f32, 1.0f32)])
    }

    /// The loss of held-out images, their quality, and the divergence of each channel of their latents. Collective
    /// for the ranks of `share`.
    fn held_out(&self, model: &AutoencoderKl, share: &Share) -> Result<(f64, Vec<Figure>), TrainError> {
        let found = self.maker.plain(&self.maker.held_out, self.config.run.validation_images);
        let found = found.and_then(|batches| {
            share.deal(batches).map(|batch| self.held_out_batch(model, &batch)).collect::<Result<Vec<_>, _>>()
        });
        let channels = self.config.vae.latent_channels;
        let all = share.numbers(found.map(|batches| batches.concat()))?;
        // Added in the order of all batches.
        let batches = HeldOut::all(&all, channels);
        let rows: usize = batches.iter().map(|batch| batch.quality.len()).sum();
        let (mut loss, mut parts) = (0.0, Parts::default());
        let [mut ratio, mut similarity] = [0.0; 2];
        let mut kl = vec![0.0; channels];
        for batch in &batches {
            let share = batch.quality.len() as f64 / rows as f64;
            loss += share * batch.loss;
            parts.add(&batch.parts, share);
            for [psnr, ssim] in batch.quality {
                ratio += psnr / rows as f64;
                similarity += ssim / rows as f64;
            }
            kl.iter_mut().zip(batch.kl).for_each(|(sum, kl)| *sum += share * kl);
        }
        let all = kl.iter().sum::<f64>() / kl.len() as f64;
        let mut figures = vec![Figure::new("psnr", ratio)];
        if similarity.is_finite() {
            figures.push(Figure::new("ssim", similarity));
        }
        if self.config.vae.perceptual > 0.0 {
            figures.push(Figure::new("perceptual", parts.perceptual));
        }
        figures.extend(kl.iter().enumerate().map(|(c, kl)| Figure::new(format!("kl_{c}"), *kl)));
        Ok((loss + self.config.vae.kl * all, figures))
    }

    /// The numbers of [`HeldOut`] of a batch, one after the other.
    fn held_out_batch(&self, model: &AutoencoderKl, batch: &ImageBatch) -> Result<Vec<f64>, TrainError> {
        let size = self.config.data.size;
        let each = 3 * size * size;
        let [x, y] = self.reconstructed(model, batch)?;
        let (loss, parts) = self.objective.distance(&x, &y);
        let mut numbers = vec![batch.rows as f64, loss];
        numbers.extend(parts.numbers());
        numbers.extend(moments(model, x.clone()).map_err(wrong)?.kl);
        for (a, b) in to_host(x).chunks_exact(each).zip(to_host(y).chunks_exact(each)) {
            numbers.extend([psnr(a, b), ssim(a, b, size).unwrap_or(f64::NAN)]);
        }
        Ok(numbers)
    }

    /// The statistics of the latents of training images.
    fn measure(&self, model: &AutoencoderKl) -> Result<Measured, TrainError> {
        let batches = self.maker.plain(&self.maker.train, MEASURED)?;
        let rows: usize = batches.iter().map(|b| b.rows).sum();
        let channels = self.config.vae.latent_channels;
        let [mut mean, mut square, mut kl] = [0; 3].map(|_| vec![0.0; channels]);
        for batch in &batches {
            let share = batch.rows as f64 / rows as f64;
            let found = moments(model, self.objective.images(batch)).map_err(wrong)?;
            for (sum, found) in [(&mut mean, found.mean), (&mut square, found.square), (&mut kl, found.kl)] {
                sum.iter_mut().zip(found).for_each(|(sum, v)| *sum += share * v);
            }
        }
        let std = mean.iter().zip(&square).map(|(m, s)| (s - m * m).max(0.0).sqrt()).collect();
        Ok(Measured { mean, std, kl })
    }
}

/// What is known of a batch of held-out images.
struct HeldOut<'a> {
    loss: f64,
    parts: Parts,
    /// The divergence of each channel of the latents.
    kl: &'a [f64],
    /// For each image its ratio of signal to noise, and its structural similarity.
    quality: &'a [[f64; 2]],
}

impl<'a> HeldOut<'a> {
    /// Batches from their numbers. What ranks of the same program sent is complete.
    fn all(mut numbers: &'a [f64], channels: usize) -> Vec<Self> {
        let mut all = Vec::new();
        while let [rows, loss, rest @ ..] = numbers
            && let Some((parts, rest)) = rest.split_at_checked(Parts::default().numbers().len())
            && let Some((kl, rest)) = rest.split_at_checked(channels)
            && let Some((quality, rest)) = rest.split_at_checked(2 * *rows as usize)
        {
            all.push(Self { loss: *loss, parts: Parts::of(parts), kl, quality: quality.as_chunks().0 });
            numbers = rest;
        }
        all
    }
}

/// Means over the latents of images, for each channel.
struct Moments {
    /// Means of the values.
    mean: Vec<f64>,
    /// Means of the squares, including the posterior's variance.
    square: Vec<f64>,
    /// Means of the divergence from a standard normal.
    kl: Vec<f64>,
}

fn moments(model: &AutoencoderKl, x: Tensor<4>) -> Result<Moments, InputError> {
    let posterior = model.encode(x)?;
    let channels = |x: Tensor<4>| -> Vec<f64> {
        let [b, c, h, w] = x.dims();
        let mut sums = vec![0.0; c];
        for (at, plane) in to_host(x).chunks_exact(h * w).enumerate() {
            sums[at % c] += plane.iter().map(|v| f64::from(*v)).sum::<f64>() / (b * h * w) as f64;
        }
        sums
    };
    let square = posterior.mean.clone() * posterior.mean.clone() + posterior.logvar.clone().exp();
    let kl = channels(divergence(&posterior));
    Ok(Moments { mean: channels(posterior.mean), square: channels(square), kl })
}

impl Task for Vae {
    fn size(&self) -> Size {
        let parameters = self.learner.model().map(count).unwrap_or(0);
        Size { parameters, images: self.maker.train.len(), held_out: self.maker.held_out.len() }
    }

    fn inputs(&self) -> Result<BTreeMap<String, String>, TrainError> {
        let weights = &self.config.vae.perceptual_weights;
        if self.config.vae.perceptual == 0.0 || weights.as_os_str().is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = Fingerprint::of(weights).map_err(|e| TrainError::io(weights, e))?;
        Ok(BTreeMap::from([("vae.perceptual_weights".to_owned(), format!("{:08x}", found.crc32c))]))
    }

    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError> {
        let batches = self.batches.at(at.done, &at.stop);
        let config = &self.config.vae;
        let playing = self.discriminator.as_mut().filter(|_| at.done >= config.adversarial.start);
        let opponent = match &playing {
            Some(learner) => Some((learner.model()?, learner.model()?.valid())),
            None => None,
        };
        let share = self.config.run.batch as f64 / at.rows as f64;
        let passes = self.learner.learn(batches, at, |model, _, batch| {
            let judge = opponent.as_ref().map(|(_, judge)| judge);
            let Found { value, graph, parts: mut found, decoded } = self.objective.of(model, judge, batch)?;
            let mut others = GradientMap::default();
            if let Some((discriminator, _)) = &opponent {
                let loss = discriminator.loss(self.objective.images(batch), decoded);
                found.discriminator = number(&loss);
                if !found.discriminator.is_finite() {
                    return Err(at.not_finite("the discriminator's loss"));
                }
                let mut of_pass = loss.mul_scalar(share as f32).backward();
                others = GradientMap::take(*discriminator, &mut of_pass);
            }
            let (graph, numbers) = (graph.mul_scalar(share as f32), found.numbers().to_vec());
            Ok(PassLoss { value: share * value, graph, others, numbers })
        })?;
        drop(opponent);
        let mut parts = Parts::default();
        passes.numbers.iter().for_each(|numbers| parts.add(&Parts::of(numbers), share));
        let mut learned = passes.learned;
        learned.figures = parts.figures(config, playing.is_some());
        if let Some(learner) = playing {
            learner.step(passes.others, at)?;
        }
        Ok(learned)
    }

    fn validate(&mut self) -> Result<Option<Validation>, TrainError> {
        if self.maker.held_out.is_empty() || self.config.run.validation_images == 0 {
            return Ok(None);
        }
        let (loss, mut figures) = self.held_out(&self.learner.model()?.valid(), self.learner.share())?;
        let mut ema_loss = None;
        if let Some(average) = self.learner.average_everywhere()? {
            let (loss, of_average) = self.held_out(&average, self.learner.share())?;
            (ema_loss, figures) = (Some(loss), of_average);
        }
        self.quality.clone_from(&figures);
        Ok(Some(Validation { loss, ema_loss, figures }))
    }

    /// Images, held-out ones first, each above its reconstruction.
    fn preview(&mut self) -> Result<Sheet, TrainError> {
        let (run, size) = (&self.config.run, self.config.data.size);
        if !self.learner.share().is_first() {
            return Ok(Sheet::default());
        }
        let wanted = (run.preview_images / 2).max(1);
        let mut batches = self.maker.plain(&self.maker.held_out, wanted)?;
        let missing = wanted - batches.iter().map(|b| b.rows).sum::<usize>();
        batches.extend(self.maker.plain(&self.maker.train, missing)?);
        let model = self.learner.best()?;
        let mut pairs = Vec::with_capacity(wanted);
        for batch in &batches {
            let [x, y] = self.reconstructed(&model, batch)?.map(to_host);
            let image = |planes: &[f32]| Image::from_planes(size, size, planes);
            let each = 3 * size * size;
            let both = x.chunks_exact(each).zip(y.chunks_exact(each));
            pairs.extend(both.map(|(x, y)| [image(x), image(y)]));
        }
        Ok(preview::pairs(&pairs))
    }

    fn tensors(&self) -> Result<Files, TrainError> {
        let mut files = self.learner.tensors()?;
        if let Some(discriminator) = &self.discriminator {
            files.extend(discriminator.tensors()?);
        }
        Ok(files)
    }

    fn fingerprint(&self) -> u32 {
        let other = self.discriminator.as_ref().map_or(0, Learner::fingerprint);
        self.learner.fingerprint() ^ other.rotate_left(1)
    }

    fn averages(&self) -> Files {
        self.learner.averages()
    }

    fn export(&mut self, summary: &Summary) -> Result<(), TrainError> {
        let model = self.learner.best()?;
        let measured = self.measure(&model)?;
        // A run that was stopped may not have validated.
        let validates = !self.maker.held_out.is_empty() && self.config.run.validation_images > 0;
        if self.quality.is_empty() && validates {
            self.quality = self.held_out(&model, &self.learner.share().alone())?.1;
        }
        let quality: Map<String, Value> =
            self.quality.iter().map(|f| (f.name.clone(), json!(f.value))).collect();
        autoencoder::export(model, &measured, quality, &self.config, summary)
    }
}

/// The sizes of the networks and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let size = config.data.size;
    let network = config.vae.autoencoder(size);
    let model = AutoencoderKl::new(&network, config.run.seed, device).map_err(wrong)?;
    let activations = config.run.batch as u64 * vae_activations(&network, size, config.run.recompute);
    let memory = Memory::of(count(&model), config.ema.averages().len(), activations);
    let networks = vec![("vae".to_owned(), network.to_json())];
    DryRun::new(config, data, count(&model), Vec::new(), networks, memory)
}
