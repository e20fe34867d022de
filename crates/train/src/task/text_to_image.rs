//! Training a latent diffusion model of texts, of images or of sounds: see [`crate::text`].

use std::collections::BTreeMap;

use tweedie_data::{Dataset, Words};
use tweedie_hub::{ClipTokenizer, Speech};
use tweedie_models::{Mode, Network, UNet2DConditionConfig, params::count};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{Inputs, Request};

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
};
use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, condition_unet_activations, fits},
    error::TrainError,
    event::Summary,
    init, preview,
    share::Share,
    sound::SoundSet,
    text::{self, Part, TOKENIZER, TextBatch, TextBatches, TextModel, Vae},
};

/// A model of texts in the latents of a codec: of images, or of sounds.
pub(super) struct Texts {
    config: RunConfig,
    maker: TextBatches,
    vae: Vae,
    /// What a model of sounds can say.
    speech: Option<Speech>,
}

/// The task of a run on images.
pub(super) fn open(
    config: &RunConfig,
    data: &Dataset,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Texts>, TrainError> {
    let vae = Vae::load(&config.text.vae, device)?;
    fit(config, vae.shape(config.data.size)?)?;
    let tokenizer = text::checked_tokenizer(config, data.split().0.words(), from)?;
    let parts = Part::of_images(config, data, &vae, device, share.is_first())?;
    let maker = TextBatches::new(config, tokenizer, parts)?;
    begun(Texts { config: config.clone(), maker, vae, speech: None }, device, from, share)
}

/// The task of a run on recordings.
pub(super) fn open_sounds(
    config: &RunConfig,
    data: &SoundSet,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Texts>, TrainError> {
    fit(config, config.sound.shape())?;
    let tokenizer = text::checked_tokenizer(config, data.words(), from)?;
    let (codec, train, held_out) = data.parts(config)?;
    let maker = TextBatches::new(config, tokenizer, [train, held_out])?;
    let (vae, speech) = (Vae::of(codec), Some(data.speech()));
    begun(Texts { config: config.clone(), maker, vae, speech }, device, from, share)
}

/// Checks that there is memory for latents of `shape`.
fn fit(config: &RunConfig, shape: [usize; 3]) -> Result<(), TrainError> {
    let unet = config.text.unet(&config.model, shape, config.diffusion.learned_range())?;
    let each = activations(config, &unet, shape);
    fits(config, &unet.block_out_channels, each.saturating_mul(config.run.batch as u64))
}

/// Bytes of activations for a sample of `shape`.
fn activations(config: &RunConfig, unet: &UNet2DConditionConfig, [_, h, w]: [usize; 3]) -> u64 {
    let side = ((h * w) as f64).sqrt().ceil() as usize;
    condition_unet_activations(unet, side, config.text.tokens, config.run.recompute)
}

/// Writes the tokenizer of the initial model to the run's folder, because the run must not depend on that model.
pub(super) fn save_tokenizer(
    config: &RunConfig,
    tokenizer: &ClipTokenizer,
    share: &Share,
) -> Result<(), TrainError> {
    if !share.is_first() {
        return Ok(());
    }
    let folder = config.run.out.join(TOKENIZER);
    std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
    Ok(tokenizer.save(&folder, config.text.tokens)?)
}

/// The training of new networks, of those of the initial model, or of those of a checkpoint.
fn begun(
    subject: Texts,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Texts>, TrainError> {
    let Texts { config, maker, .. } = &subject;
    let config = config.clone();
    let mut model =
        TextModel::new(&config, maker.latents().shape(), maker.tokenizer(), &device.clone().autodiff())?
            .with_context(config.run.context());
    if let (Some(path), None) = (&config.run.init, from) {
        let config_json = model.unet.config().to_json();
        (model.unet, model.text_encoder) =
            init::text((model.unet, config_json), model.text_encoder, path, maker.tokenizer(), device)?;
        save_tokenizer(&config, maker.tokenizer(), share)?;
    }
    Diffusion::new(&config, subject, model, device, from, share)
}

impl Subject for Texts {
    type Model = TextModel;
    type Batches = TextBatches;

    fn batches(&self) -> &TextBatches {
        &self.maker
    }

    fn shape(&self) -> SampleShape {
        self.maker.latents().shape().into()
    }

    fn forward(model: &TextModel, x: Batch, rows: &TextBatch, mode: Mode) -> Result<Batch, TrainError> {
        Ok(Batch::of(model.forward(x.tensor(), &rows.rows.times, &rows.texts, mode)?))
    }

    fn inputs(&self) -> BTreeMap<String, String> {
        self.maker.inputs()
    }

    fn preview(&self, model: TextModel, device: &Device, share: &Share) -> Result<Sheet, TrainError> {
        let parts = (Box::new(model.unet) as Box<dyn Network>, model.text_encoder);
        let pipeline = text::pipeline(parts, &self.vae, self.maker.tokenizer(), &self.config, device)?;
        let guidance = Some(self.config.text.guidance);
        let asked = Request { prompts: self.maker.prompts(), guidance, ..Request::default() };
        let made = preview::samples(&self.config, &pipeline, asked, Inputs::default(), share)?;
        // Samples of a prompt are put below each other, if the prompts fit in a row.
        const WIDEST: usize = 16;
        let prompts = self.maker.prompts().len();
        Ok(preview::sheet(made, |count| match prompts {
            1..=WIDEST => prompts,
            _ => (count as f64).sqrt().ceil() as usize,
        }))
    }

    fn export(&self, model: TextModel, summary: &Summary) -> Result<(), TrainError> {
        let (tokenizer, speech) = (self.maker.tokenizer(), self.speech.clone());
        let parts = (&model.unet as &dyn Network, &model.text_encoder);
        text::export(parts, &self.vae, tokenizer, &self.config, speech, summary)
    }
}

/// The sizes of the networks and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let shape = Vae::load(&config.text.vae, device)?.shape(config.data.size)?;
    let Sizes { parameters, networks, memory } = sizes(config, data.split().0.words(), shape, device)?;
    DryRun::new(config, data, parameters, Vec::new(), networks, memory)
}

/// The same for recordings.
pub(super) fn plan_sounds(
    config: &RunConfig,
    data: &SoundSet,
    device: &Device,
) -> Result<DryRun, TrainError> {
    let Sizes { parameters, networks, mut memory } =
        sizes(config, data.words(), config.sound.shape(), device)?;
    let [images, held_out] = data.sizes();
    memory.data = 4 * ((images + held_out) * config.sound.length()) as u64;
    let classes = Vec::new();
    Ok(DryRun { config: config.to_toml()?, networks, parameters, images, held_out, classes, memory })
}

/// The number of parameters, the networks and their memory.
struct Sizes {
    parameters: usize,
    networks: Vec<(String, String)>,
    memory: Memory,
}

fn sizes<'a>(
    config: &RunConfig,
    words: impl Iterator<Item = &'a Words>,
    shape: [usize; 3],
    device: &Device,
) -> Result<Sizes, TrainError> {
    let tokenizer = text::tokenizer(words, config)?;
    let model = TextModel::new(config, shape, &tokenizer, device)?;
    let each = activations(config, model.unet.config(), shape);
    let memory = Memory::of(count(&model), config.ema.averages().len(), config.run.batch as u64 * each);
    let networks = vec![
        ("unet".to_owned(), model.unet.config().to_json()),
        ("text_encoder".to_owned(), model.text_encoder.config().to_json(tokenizer.begin, tokenizer.pad)),
    ];
    Ok(Sizes { parameters: count(&model), networks, memory })
}
