//! ControlNets and T2I-Adapters beside a model.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use tweedie_models::{ControlNetConfig, Guide, T2iAdapterConfig};

use super::{Index, Model, PipelineKind};
use crate::{
    component::{Component, ComponentDir},
    error::HubError,
};

/// The folders of the ControlNet and of the adapter of a pipeline. Those of further ones have numbers.
pub(super) const CONTROLNET: &str = "controlnet";
pub(super) const ADAPTER: &str = "adapter";

/// The name of the folder of the ControlNet or adapter `i`, of which the first is in `folder`.
pub(super) fn folder_of(folder: &str, i: usize) -> String {
    if i == 0 { folder.into() } else { format!("{folder}_{i}") }
}

fn open(dir: &Path) -> Result<ComponentDir, HubError> {
    if dir.is_file() {
        let reason = "is a file; expected the folder of a ControlNet or T2I-Adapter in diffusers' layout, with config.json and \
                      weights";
        return Err(HubError::format(dir, reason));
    }
    let component = ComponentDir::open(dir)?;
    match component.class() {
        ControlNetConfig::CLASS | T2iAdapterConfig::CLASS => Ok(component),
        class => Err(HubError::format(dir, format!("is a {class}, not a ControlNet or T2I-Adapter"))),
    }
}

fn load(component: &ComponentDir, dir: &Path, device: &Device) -> Result<Guide, HubError> {
    match component.load(device)? {
        Component::Control(net) => Ok(Guide::ControlNet(net)),
        Component::Adapter(adapter) => Ok(Guide::Adapter(adapter)),
        _ => Err(HubError::format(dir, "is not a ControlNet or T2I-Adapter")),
    }
}

impl Index<'_> {
    /// The ControlNets or adapters of the folder.
    pub(super) fn controls(
        &self,
        kind: &PipelineKind,
        device: &Device,
    ) -> Result<Vec<(PathBuf, Guide)>, HubError> {
        let Some(folder) = kind.controls else { return Ok(Vec::new()) };
        let first = self.folder(folder)?;
        let further = (1..).map(|i| self.dir.join(folder_of(folder, i))).take_while(|dir| dir.is_dir());
        let lost = self.dir.join(format!("{folder}_1_2"));
        if lost.is_dir() {
            let reason =
                format!("diffusers writes the third of them to this folder but reads {folder}_2; rename it");
            return Err(HubError::format(&lost, reason));
        }
        let one = |dir: PathBuf| {
            let mut component = open(&dir)?;
            if let Some(variant) = self.variant {
                match component.has_variant(variant)? {
                    true => component = component.with_variant(Some(variant)),
                    false => self.without.borrow_mut().push(folder),
                }
            }
            let guide = load(&component, &dir, device)?;
            Ok((dir, guide))
        };
        std::iter::once(first).chain(further).map(one).collect()
    }
}

impl Model {
    /// Adds the ControlNet or T2I-Adapter in the folder `dir`, with its default weights.
    ///
    /// # Errors
    /// If the folder does not contain one, or it does not fit the model.
    pub fn control(&mut self, dir: &Path, device: &Device) -> Result<(), HubError> {
        let guide = load(&open(dir)?, dir, device)?;
        self.add_control(dir, guide)
    }

    pub(super) fn add_control(&mut self, dir: &Path, guide: Guide) -> Result<(), HubError> {
        let fail = |reason: String| Err(HubError::format(dir, reason));
        let Some(codec) = self.codec.as_ref().filter(|_| self.small.is_none()) else {
            let name = guide.name();
            return fail(format!(
                "{name}s need a model of the family of Stable Diffusion that does not enlarge"
            ));
        };
        if let Err(error) = guide.check_fit(&self.network.spec(), codec.spec().stride) {
            return fail(error.to_string());
        }
        if !matches!(guide.channels(), 1 | 3) {
            return fail(format!("it reads images of {} channels, expected 1 or 3", guide.channels()));
        }
        self.controls.push(guide);
        Ok(())
    }
}
