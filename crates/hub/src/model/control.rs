//! ControlNets beside a model.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use tweedie_models::{ControlNetConfig, ControlNetModel};

use super::{Index, Model};
use crate::{
    component::{Component, ComponentDir},
    error::HubError,
};

/// The folder of a pipeline's ControlNet. Those of further ones have numbers.
pub(super) const FOLDER: &str = "controlnet";

/// The name of the folder of ControlNet `i`.
pub(super) fn folder_of(i: usize) -> String {
    if i == 0 { FOLDER.into() } else { format!("{FOLDER}_{i}") }
}

fn open(dir: &Path) -> Result<ComponentDir, HubError> {
    if dir.is_file() {
        let reason = "is a file; expected the folder of a ControlNet in diffusers' layout, with config.json and weights";
        return Err(HubError::format(dir, reason));
    }
    let component = ComponentDir::open(dir)?;
    match component.class() {
        ControlNetConfig::CLASS => Ok(component),
        class => Err(HubError::format(dir, format!("is a {class}, not a ControlNet"))),
    }
}

fn load(component: &ComponentDir, dir: &Path, device: &Device) -> Result<ControlNetModel, HubError> {
    match component.load(device)? {
        Component::Control(net) => Ok(*net),
        _ => Err(HubError::format(dir, "is not a ControlNet")),
    }
}

impl Index<'_> {
    /// The ControlNets of the folder.
    pub(super) fn controls(&self, device: &Device) -> Result<Vec<(PathBuf, ControlNetModel)>, HubError> {
        let first = self.folder(FOLDER)?;
        let further = (1..).map(|i| self.dir.join(folder_of(i))).take_while(|dir| dir.is_dir());
        let one = |dir: PathBuf| {
            let mut component = open(&dir)?;
            if let Some(variant) = self.variant {
                match component.has_variant(variant)? {
                    true => component = component.with_variant(Some(variant)),
                    false => self.without.borrow_mut().push(FOLDER),
                }
            }
            let net = load(&component, &dir, device)?;
            Ok((dir, net))
        };
        std::iter::once(first).chain(further).map(one).collect()
    }
}

impl Model {
    /// Adds the ControlNet in the folder `dir`, with its default weights.
    ///
    /// # Errors
    /// If the folder does not contain one, or it does not fit the model.
    pub fn control(&mut self, dir: &Path, device: &Device) -> Result<(), HubError> {
        let net = load(&open(dir)?, dir, device)?;
        self.add_control(dir, net)
    }

    pub(super) fn add_control(&mut self, dir: &Path, net: ControlNetModel) -> Result<(), HubError> {
        let fail = |reason: String| Err(HubError::format(dir, reason));
        let Some(codec) = self.codec.as_ref().filter(|_| self.small.is_none()) else {
            return fail(
                "ControlNets need a model of the family of Stable Diffusion that does not enlarge".into(),
            );
        };
        if let Err(error) = net.check_fit(&self.network.spec()) {
            return fail(error.to_string());
        }
        let (own, expected) = (net.config().stride(), codec.spec().stride);
        if own != expected {
            return fail(format!(
                "it reads images {own} times as large as latents, but the autoencoder of the model makes them {expected} \
                 times as large"
            ));
        }
        if !matches!(net.config().conditioning_channels, 1 | 3) {
            let channels = net.config().conditioning_channels;
            return fail(format!("it reads images of {channels} channels, expected 1 or 3"));
        }
        self.controls.push(net);
        Ok(())
    }
}
