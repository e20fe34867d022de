//! Training a text-to-image latent diffusion model: see [`crate::text`].

use std::{collections::BTreeMap, sync::Arc};

use burn::module::Module;
use tweedie_data::Dataset;
use tweedie_hub::ClipTokenizer;
use tweedie_models::{Mode, params::count};
use tweedie_ops::{Device, from_host};

use super::{Files, Learned, Learner, Sheet, Size, StepAt, Task, Validation, learner::PassLoss};
use crate::{
    batches::HostBatch,
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, condition_unet_activations, fits},
    error::TrainError,
    event::Summary,
    init,
    keys::{Purpose, key},
    prefetch::Prefetch,
    text::{self, TextBatch, TextBatches, TextModel, Vae},
};

/// The folder in the run's folder for a tokenizer that was not learned from the captions.
const TOKENIZER: &str = "tokenizer";

pub(super) struct TextToImage {
    config: RunConfig,
    device: Device,
    maker: Arc<TextBatches>,
    batches: Prefetch<Vec<TextBatch>>,
    vae: Vae,
    learner: Learner<TextModel>,
}

impl TextToImage {
    pub fn new(
        config: &RunConfig,
        data: &Dataset,
        device: &Device,
        from: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let vae = Vae::load(&config.text.vae, device)?;
        let shape = vae.shape(config.data.size)?;
        let unet = config.text.unet(&config.model, shape)?;
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
                Some(_) => {
                    format!("the tokenizer in {} is damaged", config.run.out.join(TOKENIZER).display())
                }
                None => "the captions changed, and so did the tokenizer that is trained on them".into(),
            };
            return Err(TrainError::checkpoint(&checkpoint.path, reason));
        }
        let maker = Arc::new(TextBatches::new(config, data, tokenizer, &vae, device)?);
        let mut model = TextModel::new(config, maker.shape(), maker.tokenizer(), &device.clone().autodiff())?;
        if let (Some(path), None) = (&config.run.init, from) {
            model = init::text(model, path, maker.tokenizer(), device)?;
            // The run must not depend on the initial model.
            let folder = config.run.out.join(TOKENIZER);
            std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
            maker.tokenizer().save(&folder, config.text.tokens)?;
        }
        let mut learner = Learner::new(model, config);
        if let Some(checkpoint) = from {
            learner = learner.restored(checkpoint, checkpoint.state.step, device)?;
        }
        let of_step = maker.clone();
        Ok(Self {
            device: device.clone(),
            maker,
            batches: Prefetch::new("batches", move |step| Ok(of_step.step(step))),
            vae,
            learner,
            config: config.clone(),
        })
    }
}

impl Task for TextToImage {
    fn size(&self) -> Size {
        let parameters = self.learner.model().map(count).unwrap_or(0);
        Size { parameters, images: self.maker.len(), held_out: self.maker.held_out() }
    }

    fn inputs(&self) -> Result<BTreeMap<String, String>, TrainError> {
        let mut inputs = self.maker.inputs();
        inputs.insert(TOKENIZER.into(), self.maker.tokenizer().fingerprint());
        Ok(inputs)
    }

    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError> {
        let batches = self.batches.at(at.done, &at.stop)?;
        let run = &self.config.run;
        let (shape, device) = (self.maker.shape(), &self.device);
        self.learner.learn(&batches, at, |model, pass, batch| {
            let seed = key(run.seed, Purpose::Dropout, at.done * run.accumulation as u64 + pass as u64);
            loss(model, batch, at.rows, shape, Mode::Train { dropout_seed: seed }, device)
        })
    }

    fn validate(&mut self) -> Result<Option<Validation>, TrainError> {
        let batches = self.maker.validation(self.config.run.validation_images);
        let rows: usize = batches.iter().map(|batch| batch.rows.len()).sum();
        if rows == 0 {
            return Ok(None);
        }
        let of = |model: &TextModel| -> Result<f64, TrainError> {
            let of_batch = |b| loss(model, b, rows, self.maker.shape(), Mode::Eval, &self.device);
            batches.iter().map(|b| of_batch(b).map(|found| found.value)).sum()
        };
        let loss = of(&self.learner.model()?.valid())?;
        let ema_loss = self.learner.average().map(of).transpose()?;
        Ok(Some(Validation { loss, ema_loss, figures: Vec::new() }))
    }

    fn preview(&mut self) -> Result<Sheet, TrainError> {
        let images =
            text::samples(&self.config, &self.learner.best()?, &self.maker, &self.vae, &self.device)?;
        // Samples of a prompt are put below each other, if the prompts fit in a row.
        const WIDEST: usize = 16;
        let prompts = self.maker.prompts().len();
        let square = (images.len() as f64).sqrt().ceil() as usize;
        let columns = if (1..=WIDEST).contains(&prompts) { prompts } else { square };
        Ok(Sheet { images, columns })
    }

    fn tensors(&self) -> Files {
        self.learner.tensors()
    }

    fn averages(&self) -> Files {
        self.learner.averages()
    }

    fn export(&mut self, summary: &Summary) -> Result<(), TrainError> {
        text::export(&self.learner.best()?, &self.vae, self.maker.tokenizer(), &self.config, summary)
    }
}

/// The contribution of `batch` to the mean weighted squared error of `rows`.
fn loss(
    model: &TextModel,
    batch: &TextBatch,
    rows: usize,
    [c, h, w]: [usize; 3],
    mode: Mode,
    device: &Device,
) -> Result<PassLoss, TrainError> {
    let TextBatch { rows: HostBatch { input, target, weights, times, .. }, texts } = batch;
    let b = times.len();
    let x = from_host(input.clone(), [b, c, h, w], device);
    let output = model.forward(x, times, texts, mode)?;
    let constant = |values: Vec<f32>, shape: [usize; 4]| {
        let tensor = from_host(values, shape, device);
        if output.is_autodiff() { tensor.autodiff() } else { tensor }
    };
    let share = 1.0 / ((c * h * w) as f64 * rows as f64);
    let weights = weights.iter().map(|&w| (f64::from(w) * share) as f32).collect();
    let error = output.clone() - constant(target.clone(), [b, c, h, w]);
    let graph = (error.clone() * error * constant(weights, [b, 1, 1, 1])).sum();
    Ok(PassLoss { value: f64::from(graph.clone().into_scalar::<f32>()), graph })
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
