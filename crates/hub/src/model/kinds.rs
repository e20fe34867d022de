//! The classes of diffusers' pipelines that are supported: rows of [`PIPELINES`].

use tweedie_models::{Codec, StableAudioDitConfig, UNetSpatioTemporalConfig, WanTransformerConfig};

use super::{control, motion, unclip};

/// A class of diffusers' pipelines.
#[derive(Debug, PartialEq)]
pub struct PipelineKind {
    /// Its name in diffusers.
    pub name: &'static str,
    /// Other pipelines with the same components.
    pub also: &'static [&'static str],
    /// The folder of the network, and its class.
    pub network: (&'static str, &'static str),
    /// The folder of the autoencoder, for pipelines in latents.
    pub autoencoder: Option<&'static str>,
    /// Number of text encoders.
    pub texts: usize,
    /// The default guidance scale in diffusers.
    pub guidance: f64,
    /// Whether texts are encoded as in SDXL: with the output of the last layer but one, pooled features and sizes.
    pub xl: bool,
    /// Whether the names of its classes are lists, separated by commas, in the index.
    pub listed: bool,
    /// What further channels of the network's input are.
    pub maps: Maps,
    /// The folder of its scheduler.
    pub scheduler: &'static str,
    /// The folder of its ControlNet or T2I-Adapter, if it has one.
    pub controls: Option<&'static str>,
    /// How it reads texts and makes sounds, if it is one of diffusers' pipelines of sounds with texts.
    pub sounds: Option<Sounds>,
    /// Whether UMT5 reads its texts.
    pub umt5: bool,
}

/// diffusers' pipelines of sounds with texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sounds {
    /// CLAP reads texts; an autoencoder of mel spectrograms and a vocoder make sounds.
    AudioLdm,
    /// T5 reads texts; an autoencoder makes waveforms, always as long as the network's samples.
    StableAudio,
}

/// What further channels of a network's input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maps {
    /// There are none.
    None,
    /// The part to fill, and the latents of what is known. A network may have none.
    Mask,
    /// A small image that is enlarged.
    Small,
    /// The latents of an image, for each frame of a clip.
    Picture,
    /// Which frames of a clip are known, four for each latent, and the latents of these: of the first frame.
    FirstFrame,
    /// The latents of a small image that is enlarged.
    SmallLatents,
}

impl PipelineKind {
    /// Whether it consists of a `UNet2DModel` alone.
    pub fn trained_in_pixels(&self) -> bool {
        self.network == PIXELS.network && self.autoencoder.is_none()
    }

    /// Whether it reads texts.
    pub fn reads_texts(&self) -> bool {
        self.texts > 0 || self.sounds.is_some() || self.umt5
    }
}

pub(super) const PIXELS: PipelineKind = PipelineKind {
    name: "DDPMPipeline",
    also: &[],
    network: ("unet", "UNet2DModel"),
    autoencoder: None,
    texts: 0,
    guidance: 1.0,
    xl: false,
    listed: false,
    maps: Maps::None,
    scheduler: "scheduler",
    controls: None,
    sounds: None,
    umt5: false,
};

pub(super) const TEXTS_TO_IMAGES: PipelineKind = PipelineKind {
    name: "StableDiffusionPipeline",
    also: &["StableDiffusionImg2ImgPipeline"],
    network: ("unet", "UNet2DConditionModel"),
    autoencoder: Some("vae"),
    texts: 1,
    guidance: 7.5,
    ..PIXELS
};

/// Our own class for models that make sounds of texts in the latents of a codec, which diffusers does not have.
const TEXTS_TO_SOUNDS: PipelineKind =
    PipelineKind { name: "TextToSoundPipeline", also: &[], autoencoder: Some("codec"), ..TEXTS_TO_IMAGES };

/// The autoencoder is one for images, applied to each frame.
const TEXTS_TO_CLIPS: PipelineKind = PipelineKind {
    name: "TextToVideoSDPipeline",
    also: &["VideoToVideoSDPipeline"],
    network: ("unet", "UNet3DConditionModel"),
    guidance: 9.0,
    ..TEXTS_TO_IMAGES
};

/// A model of images with motion modules.
pub(super) const ANIMATED: PipelineKind = PipelineKind {
    name: "AnimateDiffPipeline",
    also: &["AnimateDiffVideoToVideoPipeline"],
    network: ("unet", "UNetMotionModel"),
    ..TEXTS_TO_IMAGES
};

/// A model of clips of an image, which CLIP reads, too.
const IMAGES_TO_CLIPS: PipelineKind = PipelineKind {
    name: "StableVideoDiffusionPipeline",
    network: ("unet", UNetSpatioTemporalConfig::CLASS),
    autoencoder: Some("vae"),
    guidance: 3.0,
    maps: Maps::Picture,
    ..PIXELS
};

const WAN: PipelineKind = PipelineKind {
    name: "WanPipeline",
    network: ("transformer", WanTransformerConfig::CLASS),
    autoencoder: Some("vae"),
    guidance: 5.0,
    umt5: true,
    ..PIXELS
};

const XL_TEXTS_TO_IMAGES: PipelineKind = PipelineKind {
    name: "StableDiffusionXLPipeline",
    also: &["StableDiffusionXLImg2ImgPipeline"],
    texts: 2,
    guidance: 5.0,
    xl: true,
    ..TEXTS_TO_IMAGES
};

/// The supported classes.
pub const PIPELINES: &[PipelineKind] = &[
    PIXELS,
    PipelineKind { name: "DDIMPipeline", ..PIXELS },
    PipelineKind { name: "SuperResolutionPipeline", maps: Maps::Small, ..PIXELS },
    PipelineKind { name: "LDMPipeline", autoencoder: Some("vqvae"), ..PIXELS },
    PipelineKind {
        name: "LDMSuperResolutionPipeline",
        autoencoder: Some("vqvae"),
        maps: Maps::Small,
        ..PIXELS
    },
    TEXTS_TO_IMAGES,
    PipelineKind { name: "StableDiffusionInpaintPipeline", also: &[], maps: Maps::Mask, ..TEXTS_TO_IMAGES },
    PipelineKind {
        name: "StableDiffusionUpscalePipeline",
        also: &[],
        guidance: 9.0,
        maps: Maps::Small,
        ..TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionLatentUpscalePipeline",
        also: &[],
        guidance: 9.0,
        maps: Maps::SmallLatents,
        ..TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionControlNetPipeline",
        also: &["StableDiffusionControlNetImg2ImgPipeline"],
        controls: Some(control::CONTROLNET),
        ..TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionControlNetInpaintPipeline",
        also: &[],
        maps: Maps::Mask,
        controls: Some(control::CONTROLNET),
        ..TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionAdapterPipeline",
        also: &[],
        controls: Some(control::ADAPTER),
        ..TEXTS_TO_IMAGES
    },
    XL_TEXTS_TO_IMAGES,
    PipelineKind {
        name: "StableDiffusionXLAdapterPipeline",
        also: &[],
        controls: Some(control::ADAPTER),
        ..XL_TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionXLInpaintPipeline",
        also: &[],
        guidance: 7.5,
        maps: Maps::Mask,
        ..XL_TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionXLControlNetPipeline",
        also: &["StableDiffusionXLControlNetImg2ImgPipeline"],
        controls: Some(control::CONTROLNET),
        ..XL_TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableDiffusionXLControlNetInpaintPipeline",
        also: &[],
        maps: Maps::Mask,
        controls: Some(control::CONTROLNET),
        ..XL_TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "DiTPipeline",
        network: ("transformer", "DiTTransformer2DModel"),
        autoencoder: Some("vae"),
        guidance: 4.0,
        listed: true,
        ..PIXELS
    },
    TEXTS_TO_SOUNDS,
    PipelineKind {
        name: "AudioLDMPipeline",
        also: &[],
        texts: 0,
        guidance: 2.5,
        sounds: Some(Sounds::AudioLdm),
        ..TEXTS_TO_IMAGES
    },
    PipelineKind {
        name: "StableAudioPipeline",
        network: ("transformer", StableAudioDitConfig::CLASS),
        autoencoder: Some("vae"),
        guidance: 7.0,
        sounds: Some(Sounds::StableAudio),
        ..PIXELS
    },
    PipelineKind { name: "DanceDiffusionPipeline", network: ("unet", "UNet1DModel"), ..PIXELS },
    unclip::DECODER,
    PipelineKind { name: unclip::VARIATION, ..unclip::DECODER },
    TEXTS_TO_CLIPS,
    ANIMATED,
    IMAGES_TO_CLIPS,
    WAN,
    PipelineKind { name: "WanImageToVideoPipeline", maps: Maps::FirstFrame, ..WAN },
];

/// Names of text encoders and their tokenizers in folders.
pub const TEXTS: [(&str, &str); 2] = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")];

/// The key of an index that says whether the network reads an aesthetic score.
pub(super) const AESTHETIC: &str = "requires_aesthetics_score";

/// Components that are not needed to make images; they are not loaded. A motion adapter is part of the network, too.
pub(super) const UNUSED: [&str; 5] =
    ["safety_checker", "feature_extractor", "image_encoder", "watermarker", motion::ADAPTER];

pub(super) fn named(name: &str) -> &'static PipelineKind {
    let is = |kind: &&PipelineKind| kind.name == name || kind.also.contains(&name);
    PIPELINES.iter().find(is).unwrap_or(&PIPELINES[0])
}

/// The class of a pipeline of this class of networks, without codec and texts; without one, that of images.
pub(super) fn alone(network: &str) -> &'static PipelineKind {
    let is =
        |kind: &&PipelineKind| kind.network.1 == network && kind.autoencoder.is_none() && !kind.reads_texts();
    PIPELINES.iter().find(is).unwrap_or(&PIPELINES[0])
}

/// The names of `count` text encoders of a pipeline.
pub(super) fn names_of(
    kind: &PipelineKind,
    count: usize,
) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
    TEXTS.into_iter().take(kind.texts).skip(kind.texts.saturating_sub(count))
}

/// The class of a pipeline with one text encoder, this class of networks, and `codec`.
pub(super) fn of_texts_by(network: &str, codec: &dyn Codec) -> &'static PipelineKind {
    named(match codec.spec().axes {
        1 => TEXTS_TO_SOUNDS.name,
        _ if network == TEXTS_TO_CLIPS.network.1 => TEXTS_TO_CLIPS.name,
        _ => TEXTS_TO_IMAGES.name,
    })
}
