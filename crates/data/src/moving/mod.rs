//! Moving emoji: clips of one or two emoji that move by a law, drawn exactly at any size and frame rate.
//!
//! Clip `i` is a pure function of the seed and `i`. Because the laws are known, a [`Checker`] can measure whether a clip keeps
//! them.

mod check;
mod draw;
mod law;
mod things;

use std::sync::Arc;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tweedie_core::noise::generator;
use tweedie_media::{Image, Rgb, Video};

pub use check::{Checker, Verdict};
pub use law::{Motion, Pose};
pub use things::{THINGS, Thing};

use crate::{
    DataError, Words,
    order::mix,
    source::{Collection, Entry, Place},
};
use draw::{FINE, Sprite, draw};
use law::{Law, WHOLE};

/// The `[data.moving]` table: what moves, and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MovingConfig {
    /// Number of clips, 1 to 2²⁴. There is no end of them: this many are used.
    pub clips: usize,
    /// Frames of a clip, 1 to 4096. Clips of less than two seconds begin at any moment of the motion.
    pub frames: usize,
    /// Frames per second, 1 to 240.
    pub fps: u32,
    /// Seed of what is left to chance: sizes, places, directions, beginnings.
    pub seed: u64,
    /// Names of the things; all if empty.
    pub things: Vec<String>,
    /// Names of the motions; all if empty.
    pub motions: Vec<String>,
    /// Hold out one motion of each thing from training, besides the fraction `data.holdout` of the clips.
    pub holdout_pairs: bool,
}

impl Default for MovingConfig {
    fn default() -> Self {
        Self {
            clips: 2048,
            frames: 16,
            fps: 8,
            seed: 0,
            things: Vec::new(),
            motions: Vec::new(),
            holdout_pairs: true,
        }
    }
}

impl MovingConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`DataError::Config`] naming the key and the allowed values.
    pub fn validate(&self) -> Result<(), DataError> {
        let wrong = |key, value: String, expected| Err(DataError::Config { key, value, expected });
        if !(1..=1 << 24).contains(&self.clips) {
            return wrong("data.moving.clips", self.clips.to_string(), "1 to 16777216 clips");
        }
        if !(1..=4096).contains(&self.frames) {
            return wrong("data.moving.frames", self.frames.to_string(), "1 to 4096 frames");
        }
        if !(1..=240).contains(&self.fps) {
            return wrong("data.moving.fps", self.fps.to_string(), "1 to 240 frames per second");
        }
        if let Some(name) = self.things.iter().find(|name| Thing::named(name).is_none()) {
            return wrong("data.moving.things", format!("{name:?}"), things::EXPECTED);
        }
        match self.motions.iter().find(|name| Motion::named(name).is_none()) {
            Some(name) => wrong("data.moving.motions", format!("{name:?}"), law::EXPECTED),
            None => Ok(()),
        }
    }

    fn chosen_things(&self) -> Vec<usize> {
        let chosen = |thing: &Thing| self.things.is_empty() || self.things.iter().any(|n| n == thing.name);
        (0..THINGS.len()).filter(|&i| chosen(&THINGS[i])).collect()
    }

    fn chosen_motions(&self) -> Vec<Motion> {
        let chosen = |m: &Motion| self.motions.is_empty() || self.motions.iter().any(|n| n == m.name());
        Motion::ALL.into_iter().filter(chosen).collect()
    }
}

/// Whether this thing is never seen in this motion when pairs are held out: one motion of each thing.
pub fn is_held_out(thing: usize, motion: Motion) -> bool {
    motion != Motion::Passes && (3 * thing + motion as usize) % 8 == 5
}

/// The clips of a configuration. Classes are the motions.
pub(crate) fn open(config: &MovingConfig) -> Collection {
    let motions = config.chosen_motions();
    let entry = |index: u64| {
        let scene = Scene::new(config, index);
        let words = Words { caption: Some(scene.caption()), ..Words::default() };
        Entry {
            name: scene.name(),
            family: None,
            held_out: config.holdout_pairs && scene.is_held_out(),
            class: motions.iter().position(|motion| *motion == scene.motion),
            words: Arc::new(words),
            place: Place::Moving(scene),
        }
    };
    Collection {
        entries: (0..config.clips as u64).map(entry).collect(),
        class_names: motions.iter().map(|motion| motion.name().into()).collect(),
        place: "moving emoji".into(),
        looked_for: "clips that match [data.moving]".into(),
        ..Collection::default()
    }
}

/// A clip that is not drawn yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Things and their laws, from back to front.
    actors: Vec<(usize, Law)>,
    motion: Motion,
    /// Seconds before the first frame.
    begin: f64,
    frames: usize,
    fps: u32,
    index: u64,
}

impl Scene {
    /// Clip `index` of a valid configuration: pairs of thing and motion take turns.
    pub fn new(config: &MovingConfig, index: u64) -> Self {
        let (things, motions) = (config.chosen_things(), config.chosen_motions());
        let (n, m) = (things.len().max(1) as u64, motions.len().max(1) as u64);
        let pair = index % (n * m);
        let thing = things.get((pair / m) as usize).copied().unwrap_or(0);
        let motion = motions.get((pair % m) as usize).copied().unwrap_or(Motion::Bounces);
        Self::of(config, thing, motion, index)
    }

    /// The same with a given thing, by its place in [`THINGS`], and a motion.
    pub fn of(config: &MovingConfig, thing: usize, motion: Motion, index: u64) -> Self {
        let mut rng = generator(mix(config.seed ^ 0x6d6f_7669_6e67_2121), index);
        let mut actors = vec![(thing, Law::new(motion, &mut rng))];
        if motion == Motion::Passes {
            let other = rng.random_range(1..THINGS.len().max(2));
            actors.push(((thing + other) % THINGS.len(), Law::returning(&actors[0].1, &mut rng)));
        }
        // A clip of less than a whole motion shows any part of it.
        let rest = (WHOLE - config.frames as f64 / f64::from(config.fps)).max(0.0);
        let begin = rest * rng.random::<f64>();
        Self { actors, motion, begin, frames: config.frames, fps: config.fps, index }
    }

    /// What moves and how: "a red heart bounces".
    pub fn caption(&self) -> String {
        let name = |i: usize| self.actors.get(i).map_or("", |(thing, _)| THINGS[*thing].name);
        match self.motion {
            Motion::Passes => format!("a {} passes a {}", name(0), name(1)),
            motion => format!("a {} {}", name(0), motion.name()),
        }
    }

    /// A name that is unique in the data set.
    pub fn name(&self) -> String {
        format!("{:06} {}", self.index, self.caption())
    }

    /// The first thing's place in [`THINGS`].
    pub fn thing(&self) -> usize {
        self.actors.first().map_or(0, |(thing, _)| *thing)
    }

    /// Number of its frames.
    pub(crate) fn len(&self) -> usize {
        self.frames
    }

    /// How it moves.
    pub fn motion(&self) -> Motion {
        self.motion
    }

    /// Whether the pair of thing and motion is [held out](is_held_out).
    pub fn is_held_out(&self) -> bool {
        is_held_out(self.thing(), self.motion)
    }

    /// Where each thing is in frame `frame`, in sides of the frame.
    pub fn poses(&self, frame: usize) -> Vec<Pose> {
        let t = self.begin + frame as f64 / f64::from(self.fps);
        self.actors.iter().map(|(_, law)| law.at(t)).collect()
    }

    /// Frame `frame`, a square of `size` pixels.
    pub fn frame(&self, frame: usize, size: usize, background: Rgb) -> Image {
        let mut image = Image::filled(size, size, background);
        for ((thing, _), pose) in self.actors.iter().zip(self.poses(frame)) {
            draw(&mut image, &Sprite::of(*thing), &pose, FINE);
        }
        image
    }

    /// One frame of the clip, another for each clip.
    pub(crate) fn still(&self, size: usize, background: Rgb) -> Image {
        let at = mix(self.index) % self.frames.max(1) as u64;
        self.frame(at as usize, size, background)
    }

    /// All frames.
    pub fn video(&self, size: usize, background: Rgb) -> Video {
        let frames = (0..self.frames).map(|frame| self.frame(frame, size, background)).collect();
        let delay = (1000.0 / f64::from(self.fps.max(1))).round().clamp(1.0, 65535.0) as u16;
        Video { frames, delay }
    }
}

/// Uniform in `from..to`.
fn between(rng: &mut impl Rng, from: f64, to: f64) -> f64 {
    from + (to - from) * rng.random::<f64>()
}
