//! Built-in configurations.

use crate::error::TrainError;

/// A built-in configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Unique name.
    pub name: &'static str,
    /// One-line description.
    pub about: &'static str,
    /// The TOML text.
    pub toml: &'static str,
    /// Whether keys that are not given are chosen from the data; see
    /// [`ConfigBuilder::suited`](super::ConfigBuilder::suited).
    pub follows_data: bool,
}

/// All presets; the first is the default.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "emoji",
        about: "32x32 emoji by subgroup, from the built-in artwork; takes minutes on a laptop",
        toml: include_str!("../presets/emoji.toml"),
        follows_data: false,
    },
    Preset {
        name: "folder",
        about: "your own images: size, channels, augmentation and network follow from them",
        toml: include_str!("../presets/folder.toml"),
        follows_data: true,
    },
    Preset {
        name: "tiny",
        about: "a very small network on 16x16 emoji, for quick tries",
        toml: include_str!("../presets/tiny.toml"),
        follows_data: false,
    },
    Preset {
        name: "cifar",
        about: "DDPM's network for CIFAR-10 (35.7 M parameters), for a folder of 32x32 images by class",
        toml: include_str!("../presets/cifar.toml"),
        follows_data: false,
    },
    Preset {
        name: "vae",
        about: "an autoencoder of 64x64 emoji, for latent diffusion models",
        toml: include_str!("../presets/vae.toml"),
        follows_data: false,
    },
    Preset {
        name: "waveform",
        about: "your own sounds as waveforms (--data): rate, channels, length and network follow from them",
        toml: include_str!("../presets/waveform.toml"),
        follows_data: true,
    },
    Preset {
        name: "super-resolution",
        about: "enlarges images four times per side; pairs are made from your own images (--data) or 128x128 emoji",
        toml: include_str!("../presets/super-resolution.toml"),
        follows_data: false,
    },
    Preset {
        name: "clip",
        about: "encoders of images and texts into one space, from pictures with captions; the first stage of DALL·E 2",
        toml: include_str!("../presets/clip.toml"),
        follows_data: false,
    },
    Preset {
        name: "prior",
        about: "text to CLIP's embedding of an image (--clip)",
        toml: include_str!("../presets/prior.toml"),
        follows_data: false,
    },
    Preset {
        name: "decoder",
        about: "embedding to image (--clip); with --prior and --enlarger the whole DALL·E 2",
        toml: include_str!("../presets/decoder.toml"),
        follows_data: false,
    },
    Preset {
        name: "enlarger",
        about: "enlarges the images of `decoder` four times per side",
        toml: include_str!("../presets/enlarger.toml"),
        follows_data: false,
    },
    Preset {
        name: "text-to-image",
        about: "text to 64x64 emoji, in the latents of an autoencoder (--vae)",
        toml: include_str!("../presets/text-to-image.toml"),
        follows_data: false,
    },
    Preset {
        name: "speech",
        about: "speaks words or short sentences, learned from recordings with their texts (--data)",
        toml: include_str!("../presets/speech.toml"),
        follows_data: false,
    },
    Preset {
        name: "text-to-video",
        about: "text to clips of moving emoji, 16 frames of 64x64, in the latents of an autoencoder (--vae)",
        toml: include_str!("../presets/text-to-video.toml"),
        follows_data: false,
    },
];

/// The preset called `name`.
///
/// # Errors
/// [`TrainError::Config`] listing the available names.
pub fn preset(name: &str) -> Result<Preset, TrainError> {
    PRESETS.iter().find(|p| p.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|p| p.name).collect();
        TrainError::config("preset", name, format!("one of {}", names.join(", ")))
    })
}
