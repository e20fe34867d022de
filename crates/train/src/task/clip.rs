//! Training CLIP: see [`crate::clip`].

use std::{collections::BTreeMap, sync::Arc};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde_json::{Map, Value, json};
use tweedie_data::{Dataset, Image};
use tweedie_hub::{Extras, weights::Precision};
use tweedie_models::params::count;
use tweedie_ops::to_host;

use super::{Files, Learned, Learner, Sheet, Size, StepAt, Task, Validation, learner::PassLoss};
use crate::{
    autoencoder::number,
    checkpoint::Checkpoint,
    clip::{ClipModel, Retrieval, unit},
    config::RunConfig,
    dry_run::{DryRun, Memory, fits, transformer_activations},
    error::TrainError,
    event::{Figure, Summary},
    export::recorded,
    optim::GradientMap,
    prefetch::Prefetch,
    share::Share,
    text::{self, CaptionedBatch, CaptionedBatches},
};

pub(super) struct Clip {
    config: RunConfig,
    maker: Arc<CaptionedBatches>,
    batches: Prefetch<Vec<CaptionedBatch>>,
    learner: Learner<ClipModel>,
    /// The figures of the last validation.
    found: Vec<Figure>,
}

/// Bytes of activations of an image and a text.
fn activations(config: &RunConfig) -> u64 {
    let (clip, text) = (&config.clip, &config.text);
    let patches = (config.data.size / clip.patch.max(1)).pow(2) + 1;
    transformer_activations(clip.layers, patches, clip.width, clip.heads)
        .saturating_add(transformer_activations(text.layers, text.tokens, text.width, text.heads))
}

/// The embeddings of all images and texts.
fn embedded(model: &ClipModel, batches: &[CaptionedBatch]) -> Result<[Tensor<2>; 2], TrainError> {
    let mut all: [Vec<Tensor<2>>; 2] = Default::default();
    for batch in batches {
        all.iter_mut().zip(model.embed(batch)?).for_each(|(all, part)| all.push(part));
    }
    Ok(all.map(|parts| Tensor::cat(parts, 0)))
}

impl Clip {
    pub fn new(
        config: &RunConfig,
        data: &Dataset,
        device: &Device,
        from: Option<&Checkpoint>,
        share: &Share,
    ) -> Result<Self, TrainError> {
        fits(config, &[], activations(config).saturating_mul(config.run.batch as u64))?;
        let tokenizer = text::checked_tokenizer(config, data.split().0.words(), from)?.into();
        let maker = Arc::new(CaptionedBatches::new(config, data, tokenizer, config.text.tokens, 0.0)?);
        let model = ClipModel::new(config, maker.tokenizer(), &device.clone().autodiff())?;
        let mut learner = Learner::new(model, config, share);
        if let Some(checkpoint) = from {
            learner = learner.restored(checkpoint, checkpoint.state.step, device)?;
        }
        let (of_step, own) = (maker.clone(), share.own());
        let batches = Prefetch::new("batches", move |step| of_step.step(step, own.clone()));
        Ok(Self { config: config.clone(), maker, batches, learner, found: Vec::new() })
    }

    /// The loss of held-out pairs, and how often their partners are found among all of them.
    fn held_out(&self, model: &ClipModel) -> Result<(f64, Vec<Figure>), TrainError> {
        let batches = self.maker.held_out(self.config.run.validation_images)?;
        let rows: usize = batches.iter().map(|batch| batch.images.rows).sum();
        let mut loss = 0.0;
        for batch in &batches {
            loss += batch.images.rows as f64 / rows as f64 * number(&model.loss(batch)?);
        }
        let [images, texts] = embedded(model, &batches)?;
        let found = Retrieval::of(images, texts);
        let ([text, image], [text_5, image_5]) = (found.top(1), found.top(5));
        let figures =
            [("text_top1", text), ("text_top5", text_5), ("image_top1", image), ("image_top5", image_5)];
        let figures = figures.into_iter().map(|(name, value)| Figure::new(name, value));
        let figures = std::iter::once(Figure::new("pairs", rows as f64)).chain(figures).collect();
        Ok((loss, figures))
    }
}

impl Task for Clip {
    fn size(&self) -> Size {
        let images = self.maker.images();
        let parameters = self.learner.model().map(count).unwrap_or(0);
        Size { parameters, images: images.train.len(), held_out: images.held_out.len() }
    }

    fn inputs(&self) -> Result<BTreeMap<String, String>, TrainError> {
        let print = self.maker.tokenizer().fingerprint();
        Ok(BTreeMap::from([(text::TOKENIZER.to_owned(), print)]))
    }

    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError> {
        let batches = self.batches.at(at.done, &at.stop);
        let passes = self.learner.learn(batches, at, |model, _, batch| {
            let share = batch.images.rows as f64 / at.rows as f64;
            let loss = model.loss(batch)?;
            let (value, graph) = (share * number(&loss), loss.mul_scalar(share as f32));
            Ok(PassLoss { value, graph, others: GradientMap::default(), numbers: Vec::new() })
        })?;
        self.learner.change(ClipModel::clamped);
        let temperature = self.learner.model()?.temperature();
        Ok(Learned { figures: vec![Figure::new("temperature", temperature)], ..passes.learned })
    }

    fn validate(&mut self) -> Result<Option<Validation>, TrainError> {
        // Pairs are compared with all others, so the first rank embeds all of them.
        let idle = !self.learner.share().is_first();
        if idle || self.maker.images().held_out.is_empty() || self.config.run.validation_images == 0 {
            return Ok(None);
        }
        let (loss, mut figures) = self.held_out(&self.learner.model()?.valid())?;
        let mut ema_loss = None;
        if let Some(average) = self.learner.average() {
            let (loss, of_average) = self.held_out(average)?;
            (ema_loss, figures) = (Some(loss), of_average);
        }
        self.found.clone_from(&figures);
        Ok(Some(Validation { loss, ema_loss, figures }))
    }

    /// For captions, the image that each belongs to, and the images that are found for it, the nearest first.
    fn preview(&mut self) -> Result<Sheet, TrainError> {
        /// Images found for a caption.
        const FOUND: usize = 7;
        if !self.learner.share().is_first() {
            return Ok(Sheet::default());
        }
        let run = &self.config.run;
        let batches = self.maker.unseen(run.validation_images.max(1))?;
        let model = self.learner.best()?;
        let [images, texts] = embedded(&model, &batches)?.map(unit);
        let rows = images.dims()[0];
        let scores = to_host(texts.matmul(images.swap_dims(0, 1)));
        let size = self.config.data.size;
        let pictures = batches.iter().flat_map(|batch| batch.images.images.chunks_exact(3 * size * size));
        let pictures: Vec<Image> = pictures.map(|planes| Image::from_planes(size, size, planes)).collect();
        let shown = (run.preview_images / (FOUND + 1)).clamp(1, rows);
        let mut sheet = Vec::new();
        for text in (0..shown).map(|i| i * rows / shown) {
            let of_text = &scores[text * rows..(text + 1) * rows];
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by(|a, b| of_text[*b].total_cmp(&of_text[*a]));
            let found = order.into_iter().take(FOUND);
            sheet.extend(std::iter::once(text).chain(found).map(|i| pictures[i].clone()));
        }
        Ok(Sheet { images: sheet, columns: 1 + FOUND.min(rows), ..Sheet::default() })
    }

    fn tensors(&self) -> Result<Files, TrainError> {
        self.learner.tensors()
    }

    fn fingerprint(&self) -> u32 {
        self.learner.fingerprint()
    }

    fn averages(&self) -> Files {
        self.learner.averages()
    }

    fn export(&mut self, summary: &Summary) -> Result<(), TrainError> {
        if self.found.is_empty() {
            self.validate()?;
        }
        let model = self.learner.best()?;
        let held_out: Map<String, Value> =
            self.found.iter().map(|f| (f.name.clone(), json!(f.value))).collect();
        let training: [(&str, Value); 7] = [
            ("steps", json!(summary.step)),
            ("images", json!(summary.images)),
            ("seconds", json!(summary.elapsed_s)),
            ("loss", json!(summary.loss)),
            ("held_out", Value::Object(held_out)),
            ("temperature", json!(model.temperature())),
            ("config", recorded(&self.config)),
        ];
        let training = training.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let extras = Extras { training, ..Extras::default() };
        Ok(model.finished(self.maker.tokenizer()).save(&summary.model, &extras, Precision::F32)?)
    }
}

/// The sizes of the networks and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let tokenizer = text::tokenizer(data.split().0.words(), config)?;
    let model = ClipModel::new(config, &tokenizer, device)?;
    let activations = activations(config).saturating_mul(config.run.batch as u64);
    let memory = Memory::of(count(&model), config.ema.averages().len(), activations);
    let networks = vec![
        ("text_encoder".to_owned(), model.text.config().to_json(tokenizer.begin, tokenizer.pad)),
        ("image_encoder".to_owned(), model.images.config().to_json()),
    ];
    DryRun::new(config, data, count(&model), Vec::new(), networks, memory)
}
