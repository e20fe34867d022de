//! Training a text-to-video latent diffusion model: see [`crate::video`].

use std::collections::BTreeMap;

use tweedie_data::{Clips, Dataset};
use tweedie_models::{Mode, Network, params::count};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{Inputs, Request};

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
    text_to_image::save_tokenizer,
};
use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, fits, unet_3d_activations},
    error::TrainError,
    event::Summary,
    init, preview,
    share::Share,
    text::{self, TextBatch, TextBatches, Vae},
    video::{ClipLatents, VideoModel},
};

pub(super) struct TextToVideo {
    config: RunConfig,
    maker: TextBatches<ClipLatents>,
    vae: Vae,
}

/// Bytes of activations of a clip.
fn activations(config: &RunConfig, shape: [usize; 3]) -> Result<u64, TrainError> {
    let unet = config.text.unet_3d(&config.model, shape, config.diffusion.learned_range())?;
    let (frames, recompute) = (config.data.window().frames, config.run.recompute);
    let each = unet_3d_activations(&unet, frames, shape[1], config.text.tokens, recompute);
    let all = each.saturating_mul(config.run.batch as u64);
    fits(config, &unet.block_out_channels, all)?;
    Ok(all)
}

/// The task of a run.
pub(super) fn open(
    config: &RunConfig,
    data: &Dataset<Clips>,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<TextToVideo>, TrainError> {
    let vae = Vae::load(&config.text.vae, device)?;
    let shape = vae.shape(config.data.size)?;
    activations(config, shape)?;
    let tokenizer = text::checked_tokenizer(config, data.split().0.words(), from)?;
    let parts = ClipLatents::parts(config, data, &vae, device, share.is_first())?;
    let maker = TextBatches::new(config, tokenizer, parts)?;
    let mut model = VideoModel::new(config, shape, maker.tokenizer(), &device.clone().autodiff())?
        .with_context(config.run.context());
    if let (Some(path), None) = (&config.run.init, from) {
        let config_json = model.unet.config().to_json();
        (model.unet, model.text_encoder) =
            init::text((model.unet, config_json), model.text_encoder, path, maker.tokenizer(), device)?;
        save_tokenizer(config, maker.tokenizer(), share)?;
    }
    Diffusion::new(config, TextToVideo { config: config.clone(), maker, vae }, model, device, from, share)
}

impl Subject for TextToVideo {
    type Model = VideoModel;
    type Batches = TextBatches<ClipLatents>;

    fn batches(&self) -> &TextBatches<ClipLatents> {
        &self.maker
    }

    fn shape(&self) -> SampleShape {
        self.maker.latents().shape().into()
    }

    fn forward(model: &VideoModel, x: Batch, rows: &TextBatch, mode: Mode) -> Result<Batch, TrainError> {
        model.forward(x, &rows.rows.times, &rows.texts, mode)
    }

    fn inputs(&self) -> BTreeMap<String, String> {
        self.maker.inputs()
    }

    fn preview(&self, model: VideoModel, device: &Device, share: &Share) -> Result<Sheet, TrainError> {
        let parts = (Box::new(model.unet) as Box<dyn Network>, model.text_encoder);
        let pipeline = text::pipeline(parts, &self.vae, self.maker.tokenizer(), &self.config, device)?;
        let guidance = Some(self.config.text.guidance);
        let [_, _, side, _] = self.maker.latents().shape();
        let stride = self.config.data.size / side.max(1);
        let size = Some(vec![self.config.data.window().frames, side * stride, side * stride]);
        let asked = Request { prompts: self.maker.prompts(), guidance, size, ..Request::default() };
        let made = preview::samples(&self.config, &pipeline, asked, Inputs::default(), share)?;
        Ok(preview::sheet(made, |count| count))
    }

    fn export(&self, model: VideoModel, summary: &Summary) -> Result<(), TrainError> {
        let parts = (&model.unet as &dyn Network, &model.text_encoder);
        text::export(parts, &self.vae, self.maker.tokenizer(), &self.config, None, summary)
    }
}

/// The sizes of the networks and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset<Clips>, device: &Device) -> Result<DryRun, TrainError> {
    let shape = Vae::load(&config.text.vae, device)?.shape(config.data.size)?;
    let tokenizer = text::tokenizer(data.split().0.words(), config)?;
    let model = VideoModel::new(config, shape, &tokenizer, device)?;
    let memory = Memory::of(count(&model), config.ema.averages().len(), activations(config, shape)?);
    let networks = vec![
        ("unet".to_owned(), model.unet.config().to_json()),
        ("text_encoder".to_owned(), model.text_encoder.config().to_json(tokenizer.begin, tokenizer.pad)),
    ];
    DryRun::new(config, data, count(&model), Vec::new(), networks, memory)
}
