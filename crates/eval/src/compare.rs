//! Images compared with data: nearest images, and the scores of networks, with the time of each part.

use std::{ops::ControlFlow, path::Path, time::Instant};

use tweedie_data::Image;

use crate::{
    extract::{ExtractError, Extracted, Extractor, stored},
    metrics::{MetricError, Reference},
    neighbours::{Memorisation, NeighbourError, nearest, nearest_features},
    quality::Quality,
    report::Evaluation,
};

/// Why images cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A network failed.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The images cannot be compared.
    #[error(transparent)]
    Neighbour(#[from] NeighbourError),
    /// The features cannot be compared.
    #[error(transparent)]
    Metric(#[from] MetricError),
}

/// The images to compare.
#[derive(Clone, Copy, Debug)]
pub struct Sets<'a> {
    /// The evaluated images.
    pub generated: &'a [Image],
    /// The training images.
    pub train: &'a [Image],
    /// Images of the same data that were held out; may be empty.
    pub held_out: &'a [Image],
}

/// The time of each part of the work.
#[derive(Debug)]
pub struct Clock {
    laps: Vec<(String, f64)>,
    last: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { laps: Vec::new(), last: Instant::now() }
    }
}

impl Clock {
    /// Adds the time since the last call under the name `what`.
    pub fn lap(&mut self, what: &str) {
        self.laps.push((what.into(), self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }

    /// Seconds of each part.
    pub fn laps(self) -> Vec<(String, f64)> {
        self.laps
    }
}

/// Receives the name of a part of the work, and how much of it is done.
pub type On<'a> = &'a (dyn Fn(&str, u64, u64) + Sync);

impl Sets<'_> {
    /// Adds to `found` the nearest training images by pixels and the scores of `networks`. Features of the data are read
    /// from the folder `cache` and stored there. Returns why features could not be stored, if so.
    ///
    /// # Errors
    /// If a set is empty, images differ in size, or a network fails.
    pub fn compare(
        &self,
        networks: &[&dyn Extractor],
        cache: Option<&Path>,
        found: &mut Evaluation,
        clock: &mut Clock,
        on: On<'_>,
    ) -> Result<Vec<String>, CompareError> {
        let watch = |done, of| on("pairs of images", done, of);
        let held_out = match self.held_out {
            [] => Vec::new(),
            held_out => nearest(held_out, self.train, &watch)?,
        };
        let generated = nearest(self.generated, self.train, &watch)?;
        found.pixels = Some(Memorisation { generated, held_out });
        clock.lap("nearest images");
        let mut not_kept = Vec::new();
        for network in networks {
            let features = self.score(*network, cache, found, clock, on, &mut not_kept)?;
            // Those of the first network are shown.
            found.features.get_or_insert(features);
        }
        Ok(not_kept)
    }

    /// Adds the scores of one network, and returns the distances of its features.
    fn score(
        &self,
        network: &dyn Extractor,
        cache: Option<&Path>,
        found: &mut Evaluation,
        clock: &mut Clock,
        on: On<'_>,
        not_kept: &mut Vec<String>,
    ) -> Result<Memorisation, CompareError> {
        let mut of_data = |images: &[Image]| features_of_data(network, images, cache, on, not_kept);
        let train = of_data(self.train)?;
        let held_out = if self.held_out.is_empty() { None } else { Some(of_data(self.held_out)?) };
        let generated = features(network, self.generated, on)?;
        clock.lap("features");
        let (watch, data) = (|done, of| on("pairs of features", done, of), Reference::new(&train.features));
        found.quality.push(Quality::of(network, &generated, &data, &watch));
        found.held_out.extend(held_out.as_ref().map(|set| Quality::of(network, set, &data, &watch)));
        let nearest = |set: &Extracted| nearest_features(&set.features, &data, &watch);
        let memorisation = Memorisation {
            generated: nearest(&generated)?,
            held_out: held_out.as_ref().map(nearest).transpose()?.unwrap_or_default(),
        };
        clock.lap("scores");
        Ok(memorisation)
    }
}

/// The features of images.
///
/// # Errors
/// Those of [`Extractor::extract`].
pub fn features(network: &dyn Extractor, images: &[Image], on: On<'_>) -> Result<Extracted, ExtractError> {
    network.extract(images, &mut |done, of| {
        on("images", done as u64, of as u64);
        ControlFlow::Continue(())
    })
}

/// The features of data, from the folder `cache` if possible, otherwise stored there. Adds to `not_kept` why they could not
/// be stored.
///
/// # Errors
/// Those of [`Extractor::extract`].
pub fn features_of_data(
    network: &dyn Extractor,
    images: &[Image],
    cache: Option<&Path>,
    on: On<'_>,
    not_kept: &mut Vec<String>,
) -> Result<Extracted, ExtractError> {
    let Some(folder) = cache else { return features(network, images, on) };
    let stored = stored(network, images, folder, &mut |done, of| {
        on("images of the data", done as u64, of as u64);
        ControlFlow::Continue(())
    })?;
    not_kept.extend(stored.not_kept.map(|reason| reason.to_string()));
    Ok(stored.extracted)
}
