//! How a network that enlarges reads the small image.

use std::{path::Path, sync::Arc};

use serde_json::{Map, Value};
use tweedie_core::NoiseSchedule;

use crate::{
    error::HubError,
    model_dir::{Enlarging, SCHEDULER},
    scheduler_config::SchedulerConfig,
};

/// The scheduler of the noise on the small image, in a folder.
pub(super) const LOW_RES: &str = "low_res_scheduler";
const MOST: &str = "max_noise_level";

/// What a network that enlarges gets of the small image, as a map of the axes of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmallMap {
    /// The image, resized to the size of the result.
    Resized,
    /// The image, whose size is that of the samples.
    Pixels,
    /// Its latents, each repeated to fill those of the result.
    Latents,
}

/// How a network that enlarges reads the small image: as further channels of its input, with some noise whose level is its
/// class.
#[derive(Clone, Debug)]
pub struct SmallImage {
    /// How many times larger the result is, per side.
    pub factor: usize,
    /// As what.
    pub as_map: SmallMap,
    /// The level of the noise unless a request says another.
    pub noise_level: usize,
    /// The largest level.
    pub most_noise: usize,
    law: Law,
}

#[derive(Clone)]
enum Law {
    /// A level is thousandths of the noise's standard deviation.
    Thousandths,
    /// A level is a time of a schedule.
    Schedule(Arc<dyn NoiseSchedule>),
}

impl std::fmt::Debug for Law {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Thousandths => "Thousandths",
            Self::Schedule(_) => "Schedule",
        })
    }
}

impl From<Enlarging> for SmallImage {
    /// That of a network in pixels.
    fn from(Enlarging { factor, noise_level, most_noise }: Enlarging) -> Self {
        Self { factor, as_map: SmallMap::Resized, noise_level, most_noise, law: Law::Thousandths }
    }
}

impl SmallImage {
    /// That of a network in pixels that reads the image without noise.
    pub fn plain(factor: usize) -> Self {
        Enlarging { factor, noise_level: 0, most_noise: 0 }.into()
    }

    /// That of `StableDiffusionUpscalePipeline` in the folder `dir`, whose autoencoder has this stride: samples are latents of
    /// the size of the small image.
    pub(super) fn in_latents(
        dir: &Path,
        index: &Map<String, Value>,
        stride: usize,
    ) -> Result<Self, HubError> {
        let path = dir.join(LOW_RES).join(SCHEDULER);
        let schedule = SchedulerConfig::load(&path)?.process().schedule.clone();
        let most = match index.get(MOST) {
            None => 350,
            Some(value) => value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
                HubError::key(
                    &dir.join(crate::model_index::FILE),
                    MOST,
                    format!("{value}: expected a number"),
                )
            })?,
        };
        let times = schedule.times();
        if most as f64 > times.max() {
            let reason = format!("{most}: expected at most {}, the last time of {LOW_RES}", times.max());
            return Err(HubError::key(&dir.join(crate::model_index::FILE), MOST, reason));
        }
        let law = Law::Schedule(schedule);
        let as_map = SmallMap::Pixels;
        Ok(Self { factor: stride, as_map, noise_level: most.min(20), most_noise: most, law })
    }

    /// That of `LDMSuperResolutionPipeline`: samples are latents of the size of the small image, which has no noise.
    pub(super) fn plain_in_latents(stride: usize) -> Self {
        Self { as_map: SmallMap::Pixels, ..Self::plain(stride) }
    }

    /// That of `StableDiffusionLatentUpscalePipeline`: samples are latents of the result, which is twice as large.
    pub(super) fn of_latents() -> Self {
        Self { as_map: SmallMap::Latents, ..Self::plain(2) }
    }

    /// The sides of results that are possible are multiples of this, for samples whose sides are multiples of `multiple` and an
    /// autoencoder with this stride.
    pub fn unit(&self, multiple: usize, stride: usize) -> usize {
        match self.as_map {
            SmallMap::Resized | SmallMap::Pixels => multiple * self.factor,
            SmallMap::Latents => multiple.next_multiple_of(self.factor) * stride,
        }
    }

    /// `[alpha, sigma]` of a noise level: the network gets `alpha·x + sigma·eps`.
    pub fn noise(&self, level: usize) -> [f64; 2] {
        match &self.law {
            Law::Thousandths => {
                let sigma = level.min(1000) as f64 / 1000.0;
                [(1.0 - sigma * sigma).sqrt(), sigma]
            }
            Law::Schedule(schedule) => {
                let level = schedule.level(level as f64);
                [level.alpha, level.sigma]
            }
        }
    }
}
