//! Training the prior of DALL·E 2: see [`crate::unclip`].

use std::{collections::BTreeMap, num::NonZeroUsize};

use tweedie_data::{Dataset, Image};
use tweedie_models::{Mode, params::count};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{Inputs, Pipeline, Request};

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
};
use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, fits, transformer_activations},
    error::TrainError,
    event::Summary,
    preview,
    share::Share,
    text::{Clean, Part, TextBatch, TextBatches, TextConfig, Vae},
    unclip::{Frozen, PriorModel, export_prior, prior_model},
};

pub(super) struct Prior {
    config: RunConfig,
    maker: TextBatches,
    frozen: Frozen,
    /// The mean and the standard deviation of each value of the embeddings.
    statistics: [Vec<f32>; 2],
    gallery: Gallery,
}

/// Images, among which previews look for those with the nearest embeddings.
struct Gallery {
    images: Dataset,
    /// One for each image.
    embeddings: Vec<Vec<f32>>,
}

/// Bytes of activations of an embedding with its text.
fn activations(config: &RunConfig, frozen: &Frozen) -> u64 {
    let (table, text) = (&config.prior, frozen.text());
    let tokens = text.max_position_embeddings + 4;
    transformer_activations(table.layers, tokens, table.heads * table.head_width, table.heads)
}

/// The task of a run.
pub(super) fn open(
    config: &RunConfig,
    data: &Dataset,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Prior>, TrainError> {
    let frozen = Frozen::load(&config.unclip.clip, device)?;
    fits(config, &[], activations(config, &frozen).saturating_mul(config.run.batch as u64))?;
    let vae = Vae::of(frozen.codec(data));
    let [train, held_out] = Part::of_images(config, data, &vae, device, share.is_first())?;
    let images = data.split().0;
    let embeddings = (0..images.len()).map(|image| train.latents.plain(image).to_vec()).collect();
    let [mean, std] = train.latents.moments();
    // A value that never changes.
    let std: Vec<f32> = std.into_iter().map(|v| if v > 0.0 { v } else { 1.0 }).collect();
    let standardized =
        |part: Part| Part { latents: part.latents.standardized(&mean, &std), words: part.words };
    let parts = [standardized(train), standardized(held_out)];
    // Texts are as long as CLIP reads them.
    let text = TextConfig { tokens: frozen.text().max_position_embeddings, ..config.text.clone() };
    let of_texts = RunConfig { text, ..config.clone() };
    let maker = TextBatches::new(&of_texts, frozen.tokenizer().as_ref().clone(), parts)?;
    let model = PriorModel::new(config, &frozen, [&mean, &std], &device.clone().autodiff())?;
    let subject = Prior {
        config: config.clone(),
        maker,
        frozen,
        statistics: [mean, std],
        gallery: Gallery { images, embeddings },
    };
    Diffusion::new(config, subject, model, device, from, share)
}

impl Gallery {
    /// The `most` images with the nearest embeddings, by the cosine.
    fn nearest(&self, embedding: &[f32], most: usize) -> Result<Vec<Image>, TrainError> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let score = |other: &Vec<f32>| dot(embedding, other) / dot(other, other).sqrt().max(1e-12);
        let scores: Vec<f64> = self.embeddings.iter().map(score).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let image = |place: usize| Ok((*self.images.get(place)?.sample).clone());
        order.into_iter().take(most).map(image).collect()
    }
}

impl Subject for Prior {
    type Model = PriorModel;
    type Batches = TextBatches;

    fn batches(&self) -> &TextBatches {
        &self.maker
    }

    fn shape(&self) -> SampleShape {
        [self.maker.latents().shape()[0]].into()
    }

    fn forward(model: &PriorModel, x: Batch, rows: &TextBatch, mode: Mode) -> Result<Batch, TrainError> {
        model.forward(x, &rows.rows.times, &rows.texts, mode)
    }

    fn inputs(&self) -> BTreeMap<String, String> {
        self.maker.inputs()
    }

    /// The images whose embeddings are nearest to the sampled ones: a row for each prompt.
    fn preview(&self, model: PriorModel, device: &Device, share: &Share) -> Result<Sheet, TrainError> {
        const FOUND: usize = 8;
        let [mean, std] = &self.statistics;
        let pipeline =
            Pipeline::of(prior_model(model.prior, &self.frozen, [mean, std], &self.config)?, device);
        let prompts = self.maker.prompts();
        let Some(count) = NonZeroUsize::new((self.config.run.preview_images / FOUND).min(prompts.len()))
        else {
            return Ok(Sheet::default());
        };
        let asked =
            Request { count, prompts, guidance: Some(self.config.text.guidance), ..Request::default() };
        let Some(made) = preview::made(&self.config, &pipeline, asked, Inputs::default(), share)? else {
            return Ok(Sheet::default());
        };
        let made = made.tensors;
        let width = made.shape.get(1).copied().unwrap_or(1).max(1);
        let mut images = Vec::new();
        for embedding in made.values.chunks_exact(width) {
            images.extend(self.gallery.nearest(embedding, FOUND)?);
        }
        Ok(Sheet { columns: FOUND.min(self.gallery.embeddings.len()), images, ..Sheet::default() })
    }

    fn export(&self, model: PriorModel, summary: &Summary) -> Result<(), TrainError> {
        export_prior(&model.prior, &self.frozen, &self.config, summary)
    }
}

/// The sizes of the network and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let frozen = Frozen::load(&config.unclip.clip, device)?;
    let width = frozen.text().projection_dim;
    let (mean, std) = (vec![0.0; width], vec![1.0; width]);
    let model = PriorModel::new(config, &frozen, [&mean, &std], device)?;
    let activations = activations(config, &frozen).saturating_mul(config.run.batch as u64);
    // The statistics are no trainable values.
    let parameters = count(&model) - 2 * width;
    let memory = Memory::of(parameters, config.ema.averages().len(), activations);
    let networks = vec![("prior".to_owned(), model.prior.config().to_json())];
    DryRun::new(config, data, parameters, Vec::new(), networks, memory)
}
