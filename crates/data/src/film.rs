//! Clips as items of a data set. Their frames are read one after another when they are needed, since a film may be larger than
//! memory.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tweedie_media::{Image, Video};

use crate::{
    DataConfig, DataError, Raster,
    clip::{self, Still},
    form::{Content, Decode},
    moving::Scene,
    resize::{Frame, fit},
};

/// The `[data.clips]` table: what a sample of a folder of clips is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipsConfig {
    /// Frames of a sample, 1 to 4096. Longer clips have many samples: windows that begin anywhere. Shorter ones are skipped.
    pub frames: usize,
    /// Frames per second, 1 to 240. Of clips with other rates, the frames that are seen at these times are taken.
    pub fps: u32,
}

impl Default for ClipsConfig {
    fn default() -> Self {
        Self { frames: 16, fps: 8 }
    }
}

impl ClipsConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let wrong = |key, value: String, expected| Err(DataError::Config { key, value, expected });
        if !(1..=4096).contains(&self.frames) {
            return wrong("data.clips.frames", self.frames.to_string(), "1 to 4096 frames");
        }
        if !(1..=240).contains(&self.fps) {
            return wrong("data.clips.fps", self.fps.to_string(), "1 to 240 frames per second");
        }
        Ok(())
    }
}

/// File extensions of clips.
const EXTENSIONS: [&str; 17] = [
    "gif", "webp", "png", "apng", "y4m", "mp4", "m4v", "mov", "webm", "mkv", "avi", "mpg", "mpeg", "ogv",
    "ts", "wmv", "flv",
];

/// Clips whose frames are made square, at one rate.
#[derive(Clone, Copy, Debug)]
pub struct Clips {
    frame: Frame,
    fps: u32,
}

impl Clips {
    /// Those of a configuration.
    pub fn of(config: &DataConfig) -> Self {
        Self { frame: Frame::of(config), fps: config.window().fps }
    }
}

impl Decode for Clips {
    type Sample = Film;

    fn noun(&self) -> &'static str {
        "clips"
    }

    fn endings(&self) -> &'static [&'static str] {
        &EXTENSIONS
    }

    fn recognizes(&self, _: &Path) -> bool {
        false
    }

    fn opens_files(&self) -> bool {
        true
    }

    fn takes_folder(&self, folder: &Path) -> bool {
        clip::is_frames(folder)
    }

    fn decode(&self, content: Content<'_>) -> Result<Film, String> {
        let of = match content {
            Content::Moving(scene) => Of::Scene(scene.clone()),
            Content::File(path) => Of::File(path.into()),
            _ => return Err("it is a picture, not a clip".into()),
        };
        Ok(Film { of, by: *self })
    }

    fn bytes(&self) -> Option<usize> {
        None
    }
}

/// A clip whose frames are not read yet.
#[derive(Clone, Debug)]
pub struct Film {
    of: Of,
    by: Clips,
}

#[derive(Clone, Debug)]
enum Of {
    File(PathBuf),
    Scene(Scene),
}

/// Properties of a clip, as its file has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FilmFacts {
    /// Width of the frames in pixels.
    pub width: usize,
    /// Height of the frames in pixels.
    pub height: usize,
    /// Number of frames.
    pub frames: usize,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Film {
    /// Passes the frames of the data set's size and rate to `take`, one after another, until it breaks.
    ///
    /// # Errors
    /// If the clip is missing or damaged, has frames of different sizes or none, or needs `ffmpeg` and that is not installed.
    pub fn each(&self, take: &mut dyn FnMut(Image) -> ControlFlow<()>) -> Result<(), String> {
        let frame = &self.by.frame;
        match &self.of {
            Of::Scene(scene) => {
                let all = (0..scene.len()).map(|at| scene.frame(at, frame.size, frame.background));
                let _ = all.map(take).find(ControlFlow::is_break);
                Ok(())
            }
            Of::File(path) => {
                let mut pace = Pace::new(self.by.fps);
                self.stills(path, &mut |still| {
                    let copies = pace.copies(still.delay);
                    if copies == 0 {
                        return ControlFlow::Continue(());
                    }
                    let image = fit(&Raster::opaque(&still.image), frame);
                    for _ in 1..copies {
                        take(image.clone())?;
                    }
                    take(image)
                })
            }
        }
    }

    /// The first `most` frames of the data set's size and rate.
    ///
    /// # Errors
    /// Those of [`Self::each`].
    pub fn video(&self, most: usize) -> Result<Video, String> {
        let mut frames = Vec::new();
        self.each(&mut |image| {
            frames.push(image);
            if frames.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(Video { frames, delay: (1000.0 / f64::from(self.by.fps)).round().clamp(1.0, 65535.0) as u16 })
    }

    /// Reads all frames to tell their number, size and duration.
    ///
    /// # Errors
    /// Those of [`Self::each`].
    pub fn facts(&self) -> Result<FilmFacts, String> {
        let mut facts = FilmFacts { width: 0, height: 0, frames: 0, seconds: 0.0 };
        match &self.of {
            Of::Scene(scene) => {
                let (side, frames) = (self.by.frame.size, scene.len());
                let seconds = frames as f64 / f64::from(self.by.fps);
                facts = FilmFacts { width: side, height: side, frames, seconds };
            }
            Of::File(path) => self.stills(path, &mut |still| {
                (facts.width, facts.height) = (still.image.width, still.image.height);
                facts.frames += 1;
                facts.seconds += still.delay / 1000.0;
                ControlFlow::Continue(())
            })?,
        }
        Ok(facts)
    }

    /// The files in which it is; none if it is drawn.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        match &self.of {
            Of::File(path) => clip::parts(path),
            Of::Scene(_) => Ok(Vec::new()),
        }
    }

    fn stills(&self, path: &Path, take: &mut dyn FnMut(Still) -> ControlFlow<()>) -> Result<(), String> {
        let mut none = true;
        let read = clip::each(path, usize::MAX, self.by.frame.background, &mut |still| {
            none = false;
            Ok(take(still))
        });
        match read {
            Ok(()) if none => Err("there are no frames".into()),
            Ok(()) => Ok(()),
            Err(DataError::Clip { reason, .. }) => Err(reason),
            Err(DataError::Io { source, .. }) => Err(source.to_string()),
            Err(other) => Err(other.to_string()),
        }
    }
}

/// Turns frames of any durations into frames of one rate: at each time, the frame that is seen then.
struct Pace {
    /// Milliseconds between two frames.
    each: f64,
    /// End of the last frame, in milliseconds.
    now: f64,
    taken: usize,
}

impl Pace {
    fn new(fps: u32) -> Self {
        Self { each: 1000.0 / f64::from(fps.max(1)), now: 0.0, taken: 0 }
    }

    /// How many frames of the new rate begin while a frame of this duration is seen.
    fn copies(&mut self, delay: f64) -> usize {
        /// Times are sums of rounded durations.
        const ROUNDING: f64 = 1e-6;
        self.now += delay;
        let until = (self.now / self.each - ROUNDING).ceil().max(0.0) as usize;
        let copies = until.saturating_sub(self.taken);
        self.taken = self.taken.max(until);
        copies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which frames are taken, as often as they are.
    fn taken(fps: u32, delays: &[f64]) -> Vec<usize> {
        let mut pace = Pace::new(fps);
        delays.iter().enumerate().flat_map(|(i, delay)| vec![i; pace.copies(*delay)]).collect()
    }

    #[test]
    fn frames_are_those_seen_at_the_times_of_the_rate() {
        assert_eq!(taken(8, &[125.0; 5]), [0, 1, 2, 3, 4]);
        // A third of 24 frames per second, whose durations have no finite binary form.
        assert_eq!(taken(8, &[1000.0 / 24.0; 9]), [0, 3, 6]);
        assert_eq!(taken(24, &[125.0; 2]), [0, 0, 0, 1, 1, 1]);
        // 25 frames per second at 10: at 0, 100, 200 and 300 ms.
        assert_eq!(taken(10, &[40.0; 8]), [0, 2, 5, 7]);
        // Durations that differ: seen from 0, 30, 230 and 240 ms on.
        assert_eq!(taken(10, &[30.0, 200.0, 10.0, 70.0]), [0, 1, 1, 3]);
    }
}
