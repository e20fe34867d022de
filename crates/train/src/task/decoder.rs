//! Training the decoder of DALL·E 2: see [`crate::unclip`].

use std::{collections::BTreeMap, num::NonZeroUsize, ops::Range};

use tweedie_data::{Dataset, Image};
use tweedie_models::{HostTensor, Mode, params::count};
use tweedie_ops::{Batch, Device, SampleShape, to_host};
use tweedie_pipe::{Inputs, Pipeline, Request};

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
};
use crate::{
    batches::{Batches, HostBatch, Noising},
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, condition_unet_activations, fits},
    error::TrainError,
    event::Summary,
    keys::{Purpose, uniform},
    preview,
    share::Share,
    text::{CaptionedBatch, CaptionedBatches},
    unclip::{DecoderModel, Frozen, Seen, Stages, decoder_model, export_decoder},
};

pub(super) struct Decoder {
    config: RunConfig,
    maker: DecoderBatches,
    frozen: Frozen,
    stages: Stages,
}

/// Images with noise, and their captions.
pub(super) struct DecoderBatches {
    captioned: CaptionedBatches,
    noising: Noising,
    /// Of an image.
    values: usize,
    /// How often a row gets no embedding.
    dropout: f64,
    seed: u64,
}

/// The rows of one forward and backward pass.
#[derive(Default)]
pub(super) struct DecoderBatch {
    rows: HostBatch,
    seen: CaptionedBatch,
    /// Which rows get no embedding.
    dropped: Vec<bool>,
}

impl AsRef<HostBatch> for DecoderBatch {
    fn as_ref(&self) -> &HostBatch {
        &self.rows
    }
}

impl AsMut<HostBatch> for DecoderBatch {
    fn as_mut(&mut self) -> &mut HostBatch {
        &mut self.rows
    }
}

/// Bytes of activations of an image.
fn activations(config: &RunConfig, frozen: &Frozen) -> Result<u64, TrainError> {
    let unet = config.unclip.decoder(&config.model, config.data.size)?;
    let tokens = config.unclip.tokens + frozen.text().max_position_embeddings;
    let each = condition_unet_activations(&unet, config.data.size, tokens, config.run.recompute);
    let all = each.saturating_mul(config.run.batch as u64);
    fits(config, &unet.block_out_channels, all)?;
    Ok(all)
}

/// The task of a run.
pub(super) fn open(
    config: &RunConfig,
    data: &Dataset,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Decoder>, TrainError> {
    let frozen = Frozen::load(&config.unclip.clip, device)?;
    let stages = Stages::load(config, &frozen, device)?;
    activations(config, &frozen)?;
    let tokens = frozen.text().max_position_embeddings;
    let tokenizer = frozen.tokenizer().clone();
    let maker = DecoderBatches {
        captioned: CaptionedBatches::new(config, data, tokenizer, tokens, config.text.dropout)?,
        noising: Noising::new(config)?,
        values: 3 * config.data.size * config.data.size,
        dropout: config.unclip.dropout,
        seed: config.run.seed,
    };
    let model = DecoderModel::new(config, &frozen, &device.clone().autodiff())?;
    let subject = Decoder { config: config.clone(), maker, frozen, stages };
    Diffusion::new(config, subject, model, device, from, share)
}

impl Batches for DecoderBatches {
    type Rows = DecoderBatch;

    fn noising(&self) -> &Noising {
        &self.noising
    }

    fn sizes(&self) -> [usize; 2] {
        let images = self.captioned.images();
        [images.train.len(), images.held_out.len()]
    }

    fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<DecoderBatch>, TrainError> {
        let (seed, dropout) = (self.seed, self.dropout);
        let pass = |(number, mut seen): (usize, CaptionedBatch)| {
            let mut batch = DecoderBatch::default();
            let images = seen.images.images.chunks_exact_mut(self.values);
            for (row, x0) in self.noising.pass(number).zip(images) {
                self.noising.prepare(x0);
                self.noising.add(&mut batch.rows, x0, done, row);
                batch.dropped.push(uniform(seed, Purpose::Embedding, done, row as u64) < dropout);
            }
            DecoderBatch { seen, ..batch }
        };
        Ok(passes.clone().zip(self.captioned.step(done, passes)?).map(pass).collect())
    }

    fn validation(&self, rows: usize, share: &Share) -> Result<Vec<DecoderBatch>, TrainError> {
        let batches = self.captioned.held_out(rows)?;
        let rows: usize = batches.iter().map(|seen| seen.images.rows).sum();
        let mut row = 0;
        let with_noise = |seen: CaptionedBatch| {
            let mut batch = DecoderBatch::default();
            for x0 in seen.images.images.chunks_exact(self.values) {
                self.noising.add_held_out(&mut batch.rows, x0, row, rows);
                batch.dropped.push(false);
                row += 1;
            }
            DecoderBatch { seen, ..batch }
        };
        Ok(share.deal(batches.into_iter().map(with_noise)).collect())
    }
}

impl Subject for Decoder {
    type Model = DecoderModel;
    type Batches = DecoderBatches;

    fn batches(&self) -> &DecoderBatches {
        &self.maker
    }

    fn shape(&self) -> SampleShape {
        let side = self.config.data.size;
        [3, side, side].into()
    }

    fn forward(model: &DecoderModel, x: Batch, rows: &DecoderBatch, mode: Mode) -> Result<Batch, TrainError> {
        let seen = Seen { images: &rows.seen.images.images, dropped: &rows.dropped, texts: &rows.seen.texts };
        model.forward(x, &rows.rows.times, &seen, mode)
    }

    fn inputs(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("CLIP".to_owned(), self.frozen.fingerprint())])
    }

    /// Held-out images, or training images if there are none, each above its variation.
    fn preview(&self, model: DecoderModel, device: &Device, share: &Share) -> Result<Sheet, TrainError> {
        let size = self.config.data.size;
        let batches = self.maker.captioned.unseen((self.config.run.preview_images / 2).max(1))?;
        let (mut originals, mut values, mut width) = (Vec::new(), Vec::new(), 0);
        for CaptionedBatch { images, .. } in &batches {
            let embedded = self.frozen.embed(&images.images, images.rows, size)?;
            width = embedded.dims()[1];
            values.extend(to_host(embedded));
            let planes = images.images.chunks_exact(self.maker.values);
            originals.extend(planes.map(|planes| Image::from_planes(size, size, planes)));
        }
        let Some(count) = NonZeroUsize::new(originals.len()) else { return Ok(Sheet::default()) };
        let pipeline = Pipeline::of(decoder_model(model, &self.frozen, &self.config)?, device);
        let asked = Request { count, guidance: Some(self.config.text.guidance), ..Request::default() };
        let embeddings = Some(HostTensor { shape: vec![originals.len(), width], values });
        let inputs = Inputs { embeddings, ..Inputs::default() };
        let Some(made) = preview::made(&self.config, &pipeline, asked, inputs, share)? else {
            return Ok(Sheet::default());
        };
        let made = made.images;
        let pairs: Vec<[Image; 2]> = originals.into_iter().zip(made).map(|(a, b)| [a, b]).collect();
        Ok(preview::pairs(&pairs))
    }

    fn export(&self, model: DecoderModel, summary: &Summary) -> Result<(), TrainError> {
        export_decoder(&model, &self.frozen, &self.stages, &self.config, summary)
    }
}

/// The sizes of the networks and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let frozen = Frozen::load(&config.unclip.clip, device)?;
    Stages::load(config, &frozen, device)?;
    let model = DecoderModel::new(config, &frozen, device)?;
    let memory = Memory::of(count(&model), config.ema.averages().len(), activations(config, &frozen)?);
    let networks = vec![
        ("decoder".to_owned(), model.unet.config().to_json()),
        ("text_proj".to_owned(), model.text_proj.config().to_json()),
    ];
    DryRun::new(config, data, count(&model), Vec::new(), networks, memory)
}
