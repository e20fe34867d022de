//! Training a text-to-image latent diffusion model: see [`crate::text`].

use std::{collections::BTreeMap, ops::Range};

use tweedie_data::Dataset;
use tweedie_hub::ClipTokenizer;
use tweedie_models::{Mode, params::count};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{Inputs, Request};

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
};
use crate::{
    batches::{HostBatch, Noising},
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, condition_unet_activations, fits},
    error::TrainError,
    event::Summary,
    init, preview,
    share::Share,
    text::{self, TextBatch, TextBatches, TextModel, Vae},
};

/// The folder in the run's folder for a tokenizer that was not learned from the captions.
const TOKENIZER: &str = "tokenizer";

pub(super) struct TextToImage {
    config: RunConfig,
    maker: TextBatches,
    vae: Vae,
}

/// The task of a run.
pub(super) fn open(
    config: &RunConfig,
    data: &Dataset,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<TextToImage>, TrainError> {
    let vae = Vae::load(&config.text.vae, device)?;
    let shape = vae.shape(config.data.size)?;
    let unet = config.text.unet(&config.model, shape, config.diffusion.learned_range())?;
    let each = condition_unet_activations(&unet, shape[1], config.text.tokens, config.run.recompute);
    fits(config, &unet.block_out_channels, each.saturating_mul(config.run.batch as u64))?;
    let tokenizer = match (&config.run.init, from) {
        (Some(_), Some(_)) => ClipTokenizer::open(&config.run.out.join(TOKENIZER))?,
        _ => text::tokenizer(&data.split().0, config)?,
    };
    let print = tokenizer.fingerprint();
    if let Some(checkpoint) = from
        && checkpoint.state.inputs.get(TOKENIZER).is_some_and(|before| *before != print)
    {
        let reason = match &config.run.init {
            Some(_) => format!("the tokenizer in {} is damaged", config.run.out.join(TOKENIZER).display()),
            None => "the captions changed, and so did the tokenizer that is trained on them".into(),
        };
        return Err(TrainError::checkpoint(&checkpoint.path, reason));
    }
    let maker = TextBatches::new(config, data, tokenizer, &vae, device, share.is_first())?;
    let mut model = TextModel::new(config, maker.shape(), maker.tokenizer(), &device.clone().autodiff())?
        .with_context(config.run.context());
    if let (Some(path), None) = (&config.run.init, from) {
        model = init::text(model, path, maker.tokenizer(), device)?;
        // The run must not depend on the initial model.
        if share.is_first() {
            let folder = config.run.out.join(TOKENIZER);
            std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
            maker.tokenizer().save(&folder, config.text.tokens)?;
        }
    }
    Diffusion::new(config, TextToImage { config: config.clone(), maker, vae }, model, device, from, share)
}

impl Subject for TextToImage {
    type Model = TextModel;
    type Rows = TextBatch;

    fn shape(&self) -> SampleShape {
        self.maker.shape().into()
    }

    fn noising(&self) -> &Noising {
        &self.maker.noising
    }

    fn sizes(&self) -> [usize; 2] {
        [self.maker.len(), self.maker.held_out()]
    }

    fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<TextBatch>, TrainError> {
        Ok(self.maker.step(done, passes))
    }

    fn validation(&self, rows: usize) -> Result<Vec<TextBatch>, TrainError> {
        Ok(self.maker.validation(rows))
    }

    fn samples(rows: &TextBatch) -> &HostBatch {
        &rows.rows
    }

    fn samples_mut(rows: &mut TextBatch) -> &mut HostBatch {
        &mut rows.rows
    }

    fn forward(model: &TextModel, x: Batch, rows: &TextBatch, mode: Mode) -> Result<Batch, TrainError> {
        Ok(Batch::of(model.forward(x.tensor(), &rows.rows.times, &rows.texts, mode)?))
    }

    fn inputs(&self) -> BTreeMap<String, String> {
        let mut inputs = self.maker.inputs();
        inputs.insert(TOKENIZER.into(), self.maker.tokenizer().fingerprint());
        inputs
    }

    fn preview(&self, model: TextModel, device: &Device) -> Result<Sheet, TrainError> {
        let pipeline = text::pipeline(model, &self.vae, self.maker.tokenizer(), &self.config, device)?;
        let guidance = Some(self.config.text.guidance);
        let asked = Request { prompts: self.maker.prompts(), guidance, ..Request::default() };
        let images = preview::samples(&self.config, &pipeline, asked, Inputs::default())?;
        // Samples of a prompt are put below each other, if the prompts fit in a row.
        const WIDEST: usize = 16;
        let prompts = self.maker.prompts().len();
        let square = (images.len() as f64).sqrt().ceil() as usize;
        let columns = if (1..=WIDEST).contains(&prompts) { prompts } else { square };
        Ok(Sheet { images, columns })
    }

    fn export(&self, model: TextModel, summary: &Summary) -> Result<(), TrainError> {
        text::export(&model, &self.vae, self.maker.tokenizer(), &self.config, summary)
    }
}

/// The sizes of the networks and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let shape = Vae::load(&config.text.vae, device)?.shape(config.data.size)?;
    let tokenizer = text::tokenizer(&data.split().0, config)?;
    let model = TextModel::new(config, shape, &tokenizer, device)?;
    let activations =
        condition_unet_activations(model.unet.config(), shape[1], config.text.tokens, config.run.recompute);
    let memory =
        Memory::of(count(&model), config.ema.averages().len(), config.run.batch as u64 * activations);
    let networks = vec![
        ("unet".to_owned(), model.unet.config().to_json()),
        ("text_encoder".to_owned(), model.text_encoder.config().to_json(tokenizer.begin, tokenizer.pad)),
    ];
    DryRun::new(config, data, count(&model), Vec::new(), networks, memory)
}
