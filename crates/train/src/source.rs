//! The data of a run: images, clips or recordings.

use std::collections::BTreeMap;

use tweedie_data::{Clips, Dataset, Decode, Skipped};

use crate::{
    config::RunConfig, error::TrainError, sound::SoundSet, task, task::TaskKind, video, wave::WaveSet,
};

/// A data set of the medium that the task learns.
pub(crate) enum RunData {
    /// Images.
    Images(Dataset),
    /// Clips.
    Clips(Dataset<Clips>),
    /// Recordings with texts.
    Sounds(SoundSet),
    /// Recordings without texts.
    Waves(WaveSet),
}

impl RunData {
    /// Opens the part of the configured data that the task uses; and notes about the rest.
    ///
    /// # Errors
    /// If it cannot be read, or the task can use nothing of it.
    pub fn open(config: &RunConfig) -> Result<(Self, Vec<String>), TrainError> {
        Ok(match config.task {
            TaskKind::TextToSound => {
                let (sounds, notes) = SoundSet::open(config)?;
                (Self::Sounds(sounds), notes)
            }
            TaskKind::Waveform => {
                let (waves, notes) = WaveSet::open(config)?;
                (Self::Waves(waves), notes)
            }
            TaskKind::TextToVideo => {
                video::check_source(config)?;
                let clips = Dataset::open_by(&config.data, Clips::of(&config.data))?;
                let (clips, notes) = task::prepare(config, clips)?;
                (Self::Clips(clips), notes)
            }
            _ => {
                let (images, notes) = task::prepare(config, Dataset::open(&config.data)?)?;
                (Self::Images(images), notes)
            }
        })
    }

    /// Names of the classes.
    pub fn class_names(&self) -> &[String] {
        match self {
            Self::Images(images) => images.class_names(),
            Self::Clips(clips) => clips.class_names(),
            Self::Sounds(sounds) => sounds.class_names(),
            Self::Waves(_) => &[],
        }
    }

    /// The files skipped so far, from number `first` on.
    pub fn skipped_from(&self, first: usize) -> Vec<Skipped> {
        match self {
            Self::Images(images) => images.skipped_from(first),
            Self::Clips(clips) => clips.skipped_from(first),
            Self::Sounds(sounds) => sounds.skipped().get(first..).unwrap_or_default().to_vec(),
            Self::Waves(waves) => waves.skipped().get(first..).unwrap_or_default().to_vec(),
        }
    }

    /// Fingerprints of the names and classes of images or clips, and of the images themselves if they are in memory: decoding all
    /// of them may take longer than the run. Of recordings, one of all.
    pub fn sums(&self) -> Result<BTreeMap<String, String>, TrainError> {
        let data = match self {
            Self::Images(images) => images,
            Self::Clips(clips) => return Ok(BTreeMap::from([names(clips)])),
            Self::Sounds(sounds) => return Ok(sounds.sums()),
            Self::Waves(waves) => return Ok(waves.sums()),
        };
        let mut found = BTreeMap::from([names(data)]);
        if data.is_cached() {
            let mut sum = 0;
            for index in 0..data.len() {
                sum = crc32c::crc32c_append(sum, &data.get(index)?.sample.pixels);
            }
            found.insert("the images".into(), format!("{sum:08x}"));
        }
        Ok(found)
    }
}

/// What the fingerprint of the names and classes is of, and the fingerprint.
fn names<D: Decode>(data: &Dataset<D>) -> (String, String) {
    let mut sum = 0;
    for (name, class) in data.names().zip(data.classes()) {
        sum = crc32c::crc32c_append(sum, format!("{name} {class:?}\n").as_bytes());
    }
    (format!("the names or classes of the {}", data.noun()), format!("{sum:08x}"))
}
