//! A model on a device.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use tweedie_data::Image;
use tweedie_hub::{Extras, HubError, Lora, Model, OriginalCheckpoint, SchedulerConfig};
use tweedie_models::{Codec, ExecContext, HostTensor, Network};

use crate::{
    Classes, PipelineError, Request,
    coding::media_axes,
    conditions,
    file::{EmbeddingFile, LoraFile, RecordedFile},
    job::{Job, NoiseOfRows},
    parts::SharedParts,
    refine::Section,
    run::{Event, Output},
};

/// A model on a device, ready to sample: pixels, latents or other media, unconditional, by class or by text.
pub struct Pipeline {
    pub(crate) model: Arc<Model>,
    pub(crate) device: Device,
    pub(crate) loras: Vec<LoraFile>,
    pub(crate) embeddings: Vec<EmbeddingFile>,
    /// The ControlNets beside the model.
    pub(crate) controls: Vec<RecordedFile>,
    /// Jobs run in it, at the precision of their requests.
    pub(crate) context: ExecContext,
    pub(crate) parts: SharedParts,
}

/// Inputs of a request that are in memory instead of in files.
#[derive(Clone, Default)]
pub struct Inputs {
    /// The initial image, of the size of the result.
    pub image: Option<Image>,
    /// The images to enlarge, `[n, 1 or 3, H, W]` in −1..1: image `i` enlarges number `i mod n` of these `n`. See
    /// [`Self::enlarging`].
    pub small: Option<HostTensor>,
    /// Embeddings of images, `[n, width]`, for a decoder of them: image `i` is a variation of number `i mod n` of these `n`. See
    /// [`Pipeline::embedding`].
    pub embeddings: Option<HostTensor>,
    /// The first frames of each clip, of the size of the result. They are kept exactly, and the others follow them.
    pub frames: Vec<Image>,
    /// The initial noise, `[count, C, …]` with a standard deviation of 1.
    pub noise: Option<HostTensor>,
    /// Another source of fresh noise than the request's seed.
    pub draws: Option<Arc<dyn NoiseOfRows>>,
    /// The steps to make, by default all.
    pub section: Section,
}

impl Inputs {
    /// Images to enlarge.
    ///
    /// # Errors
    /// If there are none, or they differ in size.
    pub fn enlarging(images: &[Image]) -> Result<Self, PipelineError> {
        let size = |image: &Image| [image.height, image.width];
        match images.windows(2).all(|pair| size(&pair[0]) == size(&pair[1])) && !images.is_empty() {
            true => Ok(Self { small: Some(conditions::planes_of(images)), ..Self::default() }),
            false => Err(PipelineError::request("image", "expected images of one size")),
        }
    }
}

/// How a model is loaded from files.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions<'a> {
    /// The variant of the weights in a folder, for example `fp16`.
    pub variant: Option<&'a str>,
    /// LoRAs to merge, with their scales.
    pub loras: &'a [LoraFile],
    /// Learned tokens.
    pub embeddings: &'a [EmbeddingFile],
    /// The folders of ControlNets.
    pub controls: &'a [RecordedFile],
    /// The folder of the tokenizer of a single-file checkpoint; by default beside it.
    pub tokenizer: Option<&'a Path>,
    /// What the network of a single-file checkpoint predicts; by default as its file says.
    pub prediction: Option<tweedie_hub::Prediction>,
    /// Folder of a motion adapter, which makes a model of clips of a model of images.
    pub motion_adapter: Option<&'a Path>,
}

impl Pipeline {
    /// Loads the model at `path`, a folder or a single-file checkpoint, onto `device`.
    ///
    /// # Errors
    /// If a file is missing, damaged or not supported, or the folder has no scheduler.
    pub fn load(path: &Path, device: &Device) -> Result<Self, PipelineError> {
        Self::load_with(path, &LoadOptions::default(), device)
    }

    /// The same with options.
    ///
    /// # Errors
    /// Those of [`Self::load`], and if an option does not suit the model.
    pub fn load_with(path: &Path, options: &LoadOptions<'_>, device: &Device) -> Result<Self, PipelineError> {
        options.loras.iter().try_for_each(|lora| lora.file.check())?;
        let loras: Vec<Lora> = (options.loras.iter())
            .map(|lora| Lora::open(&lora.file.path, lora.scale))
            .collect::<Result<_, HubError>>()?;
        let unsuitable = |reason: &str| HubError::Format { path: path.into(), reason: reason.into() };
        let mut model = if path.is_file() {
            if options.variant.is_some() {
                return Err(unsuitable("a single-file checkpoint has no variants").into());
            }
            let checkpoint = OriginalCheckpoint::open(path, options.prediction)?;
            Model::load_original(&checkpoint, options.tokenizer, &loras, device)?
        } else {
            if options.tokenizer.is_some() || options.prediction.is_some() {
                let reason = "a folder contains its tokenizer and says what the network predicts; these options are \
                              only supported for single-file checkpoints";
                return Err(unsuitable(reason).into());
            }
            Model::load_variant(path, options.variant, &loras, device)?
        };
        for lora in &loras {
            let remarks = lora.remarks().iter().map(|remark| format!("{}: {remark}", lora.path().display()));
            model.remarks.extend(remarks);
        }
        if let Some(adapter) = options.motion_adapter {
            model = model.animated(adapter, device)?;
        }
        for EmbeddingFile { file, token } in options.embeddings {
            file.check()?;
            model.learn(&file.path, token.as_deref())?;
        }
        for folder in options.controls {
            folder.check()?;
            model.control(&folder.path, device)?;
        }
        let (loras, embeddings) = (options.loras.to_vec(), options.embeddings.to_vec());
        Ok(Self { loras, embeddings, controls: options.controls.to_vec(), ..Self::of(model, device) })
    }

    /// The pipeline of a model that is already on `device`.
    pub fn of(model: Model, device: &Device) -> Self {
        Self {
            model: Arc::new(model),
            device: device.clone(),
            loras: Vec::new(),
            embeddings: Vec::new(),
            controls: Vec::new(),
            context: ExecContext::default(),
            parts: SharedParts::default(),
        }
    }

    /// The same pipeline, whose jobs run in `context`, at the precision of their requests.
    #[must_use]
    pub fn with_context(self, context: ExecContext) -> Self {
        Self { context, parts: SharedParts::default(), ..self }
    }

    /// What jobs run in, at the precision of their requests.
    pub fn context(&self) -> &ExecContext {
        &self.context
    }

    /// The pipeline of a network without autoencoder and text encoders; it must be on `device`.
    pub fn of_network(
        network: impl Network + 'static,
        scheduler: SchedulerConfig,
        extras: Extras,
        device: &Device,
    ) -> Self {
        Self::of(Model::of_network(Box::new(network), scheduler, extras), device)
    }

    /// The components.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The pipeline's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The network that denoises.
    pub fn network(&self) -> &dyn Network {
        &*self.model.network
    }

    /// The scheduler's configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.model.scheduler
    }

    /// Class names and defaults.
    pub fn extras(&self) -> &Extras {
        &self.model.extras
    }

    /// The classes that requests can select.
    pub fn classes(&self) -> Classes<'_> {
        conditions::classes(&self.model)
    }

    /// Whether requests need a prompt.
    pub fn reads_texts(&self) -> bool {
        self.model.reads_texts()
    }

    pub(crate) fn codec(&self) -> Option<&dyn Codec> {
        self.model.codec.as_deref()
    }

    /// Values of the media per latent, along an axis.
    pub(crate) fn stride(&self) -> usize {
        self.codec().map_or(1, |codec| codec.spec().stride)
    }

    /// Number of axes of the media.
    pub fn axes(&self) -> usize {
        let axes = self.model.network.spec().axes;
        // A codec of images is applied to each frame of clips.
        self.codec().map_or(axes, |codec| if axes == 3 { axes } else { codec.spec().axes })
    }

    /// The size of the media that the model was made for.
    pub fn native_size(&self) -> Option<Vec<usize>> {
        let native = self.model.network.spec().native?;
        Some(self.codec().map_or(native.clone(), |codec| media_axes(codec, &native)))
    }

    /// Values per second of the sounds that it makes, or frames of clips, if the model says it.
    pub fn rate(&self) -> Option<u32> {
        let own = self.codec().and_then(Codec::rate);
        own.or(self.model.extras.sampling.fps).or(self.model.network.spec().rate)
    }

    /// The size of the results for media of the model's own size: larger, if the model has an enlarger of its own.
    pub fn result_size(&self) -> Option<Vec<usize>> {
        let size = self.native_size()?;
        let enlarger = self.model.unclip.as_ref().and_then(|unclip| unclip.enlarger.as_ref());
        let factor = enlarger.and_then(|enlarger| enlarger.small.as_ref()).map_or(1, |small| small.factor);
        Some(size.into_iter().map(|n| n.saturating_mul(factor)).collect())
    }

    /// Whether requests may have an image of which the model makes variations.
    pub fn reads_image(&self) -> bool {
        self.model.reads_image()
    }

    /// CLIP's embedding of an image of any size, `[1, width]`, of which the model can make variations.
    ///
    /// # Errors
    /// If the model has no encoder of images.
    pub fn embedding(&self, image: &Image) -> Result<HostTensor, PipelineError> {
        conditions::embedding(&self.model, image, &self.device)
    }

    /// Height and width with the model's own area and about the aspect ratio of an image of the given size, height first, whose sides
    /// the networks support. `None` if the model has no own size or only supports one.
    pub fn size_like(&self, [height, width]: [usize; 2]) -> Option<Vec<usize>> {
        let spec = self.model.network.spec();
        let own = self.native_size()?;
        let &[.., own_height, own_width] = &*own else { return None };
        if spec.fixed {
            return None;
        }
        if height * own_width == width * own_height {
            return Some(own);
        }
        let unit = (self.stride() * spec.multiple) as f64;
        let aspect = (height.max(1) as f64 / width.max(1) as f64).clamp(1.0 / 16.0, 16.0);
        let side = (own_height as f64 * own_width as f64).sqrt();
        let round = |n: f64| ((n / unit).round().max(1.0) * unit) as usize;
        Some(vec![round(side * aspect.sqrt()), round(side / aspect.sqrt())])
    }

    /// Checks a request, reads its files and encodes its prompts: everything but the sampling.
    ///
    /// # Errors
    /// [`PipelineError::Request`] naming the field, an error of the plan, or of a file.
    pub fn prepare(&self, request: &Request) -> Result<Job, PipelineError> {
        self.prepare_with(request, Inputs::default())
    }

    /// The same with inputs in memory.
    ///
    /// # Errors
    /// Those of [`Self::prepare`], and if an input does not suit the request.
    pub fn prepare_with(&self, request: &Request, inputs: Inputs) -> Result<Job, PipelineError> {
        self.prepared(request, inputs, false)
    }

    /// Prepares and runs a request. `on` receives every step and may stop the run.
    ///
    /// # Errors
    /// Those of [`Self::prepare`] and [`Job::run`].
    pub fn run(
        &self,
        request: &Request,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        self.prepare(request)?.run(&AtomicBool::new(false), on)
    }
}
