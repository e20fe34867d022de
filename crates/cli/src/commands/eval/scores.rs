//! Generates images and computes features.

use std::{ops::ControlFlow, path::PathBuf, sync::atomic::AtomicBool};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use tweedie::{
    data::{Dataset, Image},
    pipe::{Event, Job, Output},
};

use tweedie_system::ranks::{Alone, Ranks};

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
    /// The folder, if features are cached.
    pub fn folder(&self) -> Option<PathBuf> {
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
    let images = (0..set.len()).map(|i| Ok((*set.get(i)?.sample).clone())).collect();
    source::warn_of_skipped(set, known, ui);
    images
}

/// Generates the images of a job.
pub fn generate(job: Job, ui: Ui) -> Result<Vec<Image>> {
    Ok(generate_on(job, ui, &Alone)?.unwrap_or_default())
}

/// Generates the results of a job.
pub fn made(job: Job, ui: Ui) -> Result<Output> {
    made_on(job, ui, &Alone)?.context("the only process has the results")
}

/// Generates the images of a job on several ranks; `None` if another one gets them.
pub fn generate_on(job: Job, ui: Ui, ranks: &dyn Ranks) -> Result<Option<Vec<Image>>> {
    Ok(made_on(job, ui, ranks)?.map(|made| made.images))
}

fn made_on(job: Job, ui: Ui, ranks: &dyn Ranks) -> Result<Option<Output>> {
    let bar = ui.bar(0, "steps");
    let made = job.run_on(ranks, &AtomicBool::new(false), &mut |event| {
        let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(made)
}

/// Shows on `bar` how much of a part of the work is done.
pub fn watch(bar: &ProgressBar) -> impl Fn(&str, u64, u64) + Sync {
    |what, done, of| {
        bar.set_length(of);
        bar.set_position(done);
        bar.set_message(what.to_owned());
    }
}

/// Warns about features that could not be cached.
pub fn tell_not_kept(reasons: &[String], ui: Ui) {
    for reason in reasons {
        ui.warn(format!("the features of the data were not cached: {reason}"));
    }
}
