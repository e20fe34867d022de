//! Generates images and computes features.

use std::{ops::ControlFlow, path::PathBuf, sync::atomic::AtomicBool};

use anyhow::Result;
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use tweedie::{
    data::{Dataset, Image},
    eval::extract::{Extracted, Extractor, stored},
    pipe::{Event, Job},
};

use crate::{source, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Cache {
    /// Folder where features of data sets are cached [default: the user's cache folder].
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Do not cache features of data sets.
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl Cache {
    fn folder(&self) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let of = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
        let user = || {
            let home = || of("HOME").map(|home| home.join(".cache"));
            of("XDG_CACHE_HOME").or_else(|| of("LOCALAPPDATA")).or_else(home)
        };
        self.cache.clone().or_else(|| user().map(|cache| cache.join("tweedie")))
    }
}

/// All images of a set; those that only now turn out to be corrupt are named.
pub fn images(set: &Dataset, ui: Ui) -> Result<Vec<Image>> {
    let known = set.skipped().len();
    let images = (0..set.len()).map(|i| Ok((*set.get(i)?.image).clone())).collect();
    source::warn_of_skipped(set, known, ui);
    images
}

/// Generates the images of a job.
pub fn generate(job: Job, ui: Ui) -> Result<Vec<Image>> {
    let bar = ui.bar(0, "steps");
    let made = job.run(&AtomicBool::new(false), &mut |event| {
        let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(made.images)
}

/// Shows on `bar` how many pairs were compared.
pub fn watch(bar: &ProgressBar) -> impl Fn(u64, u64) + Sync {
    |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    }
}

/// The features of images.
pub fn of_pictures(extractor: &dyn Extractor, images: &[Image], ui: Ui) -> Result<Extracted> {
    let bar = ui.bar(images.len() as u64, "pictures");
    let extracted = extractor.extract(images, &mut |done, _| {
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(extracted)
}

/// The features of data, from the cache if possible.
pub fn of_data(extractor: &dyn Extractor, images: &[Image], cache: &Cache, ui: Ui) -> Result<Extracted> {
    let Some(folder) = cache.folder() else { return of_pictures(extractor, images, ui) };
    let bar = ui.bar(images.len() as u64, "images of the data");
    let stored = stored(extractor, images, &folder, &mut |done, _| {
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    if let Some(reason) = stored.not_kept {
        ui.warn(format!("the features of the data were not cached: {reason}"));
    }
    Ok(stored.extracted)
}
