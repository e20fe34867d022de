//! Configurations that come with the library.

use crate::error::TrainError;

/// A configuration that comes with the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// One line for a menu.
    pub about: &'static str,
    /// The TOML text.
    pub toml: &'static str,
}

/// The embedded presets; the first is the default.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "emoji",
        about: "32x32 emoji by subgroup, from the built-in artwork: minutes on a laptop",
        toml: include_str!("../presets/emoji.toml"),
    },
    Preset {
        name: "tiny",
        about: "a very small network on 16x16 emoji: seconds, to try things out",
        toml: include_str!("../presets/tiny.toml"),
    },
    Preset {
        name: "cifar",
        about: "the 35.7 M-parameter network of DDPM on a folder of 32x32 images by class",
        toml: include_str!("../presets/cifar.toml"),
    },
    Preset {
        name: "vae",
        about: "an autoencoder of 64x64 emoji, in whose latents other models diffuse",
        toml: include_str!("../presets/vae.toml"),
    },
    Preset {
        name: "text-to-image",
        about: "64x64 emoji by their descriptions, in the latents of an autoencoder (--vae)",
        toml: include_str!("../presets/text-to-image.toml"),
    },
];

/// The preset called `name`.
///
/// # Errors
/// [`TrainError::Config`] listing the names there are.
pub fn preset(name: &str) -> Result<Preset, TrainError> {
    PRESETS.iter().find(|p| p.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|p| p.name).collect();
        TrainError::config("preset", name, format!("one of {}", names.join(", ")))
    })
}
