//! The laws of motion. Lengths are in sides of the frame, times in seconds, angles in radians.

use std::f64::consts::{PI, TAU};

use rand::{Rng, RngExt};

use super::between;

/// How a thing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Falls and rises in parabolas, with a period of 1 s.
    Bounces,
    /// Goes round a circle in 2 s, upright.
    Orbits,
    /// Turns about itself in 2 s.
    Spins,
    /// Its size grows exponentially.
    Grows,
    /// Its size shrinks exponentially.
    Shrinks,
    /// Is there half of each 0.5 s.
    Blinks,
    /// Goes to the left at a constant speed.
    SlidesLeft,
    /// Goes to the right at a constant speed.
    SlidesRight,
    /// Goes to the right while another thing goes to the left below it.
    Passes,
}

/// Seconds from one bounce to the next.
pub(super) const BOUNCE: f64 = 1.0;
/// Seconds of a turn.
pub(super) const TURN: f64 = 2.0;
/// Seconds from one blink to the next.
pub(super) const BLINK: f64 = 0.5;
/// Seconds that growing, shrinking and sliding take; then they begin again.
pub(super) const WHOLE: f64 = 2.0;

/// The allowed values, for errors.
pub(super) const EXPECTED: &str =
    "names from bounces, orbits, spins, grows, shrinks, blinks, slides left, slides right, passes";

impl Motion {
    /// All motions.
    pub const ALL: [Self; 9] = [
        Self::Bounces,
        Self::Orbits,
        Self::Spins,
        Self::Grows,
        Self::Shrinks,
        Self::Blinks,
        Self::SlidesLeft,
        Self::SlidesRight,
        Self::Passes,
    ];

    /// What captions call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bounces => "bounces",
            Self::Orbits => "orbits",
            Self::Spins => "spins",
            Self::Grows => "grows",
            Self::Shrinks => "shrinks",
            Self::Blinks => "blinks",
            Self::SlidesLeft => "slides left",
            Self::SlidesRight => "slides right",
            Self::Passes => "passes",
        }
    }

    /// The motion called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|motion| motion.name() == name)
    }
}

/// Where a thing is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Centre, from the left.
    pub x: f64,
    /// Centre, from the top.
    pub y: f64,
    /// Side of its square.
    pub size: f64,
    /// Turned clockwise by this angle.
    pub angle: f64,
    /// Whether it is there.
    pub visible: bool,
}

/// A law: the pose as a function of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Law {
    Bounces { x: f64, floor: f64, height: f64, size: f64, phase: f64 },
    Orbits { x: f64, y: f64, radius: f64, size: f64, phase: f64, turns: f64 },
    Spins { x: f64, y: f64, size: f64, phase: f64, turns: f64 },
    Resizes { x: f64, y: f64, from: f64, to: f64 },
    Blinks { x: f64, y: f64, size: f64, phase: f64 },
    Slides { from: f64, to: f64, y: f64, size: f64 },
}

impl Law {
    pub(super) fn new(motion: Motion, rng: &mut impl Rng) -> Self {
        // A place for a thing of this size, not far from the middle.
        fn place(rng: &mut impl Rng, size: f64) -> f64 {
            let room = (0.5 - size / 2.0).min(0.16);
            0.5 + between(rng, -room, room)
        }
        let either = |rng: &mut dyn Rng| if rng.random::<bool>() { 1.0 } else { -1.0 };
        match motion {
            Motion::Bounces => {
                let size = between(rng, 0.42, 0.5);
                let floor = 1.0 - size / 2.0 - between(rng, 0.0, 0.06);
                let height = (floor - size / 2.0) * between(rng, 0.75, 1.0);
                Self::Bounces { x: place(rng, size), floor, height, size, phase: rng.random() }
            }
            Motion::Orbits => {
                let size = between(rng, 0.4, 0.46);
                let radius = between(rng, 0.2, 0.26);
                let at = |rng: &mut dyn Rng| 0.5 + between(&mut &mut *rng, -0.01, 0.01);
                let (x, y) = (at(rng), at(rng));
                Self::Orbits { x, y, radius, size, phase: rng.random(), turns: either(rng) }
            }
            Motion::Spins => {
                let size = between(rng, 0.46, 0.64);
                let (x, y) = (place(rng, size), place(rng, size));
                Self::Spins { x, y, size, phase: rng.random(), turns: either(rng) }
            }
            Motion::Grows | Motion::Shrinks => {
                let (small, large) = (between(rng, 0.26, 0.32), between(rng, 0.66, 0.78));
                let (x, y) = (place(rng, large), place(rng, large));
                let (from, to) = if motion == Motion::Grows { (small, large) } else { (large, small) };
                Self::Resizes { x, y, from, to }
            }
            Motion::Blinks => {
                let size = between(rng, 0.46, 0.64);
                let (x, y) = (place(rng, size), place(rng, size));
                Self::Blinks { x, y, size, phase: rng.random() }
            }
            Motion::SlidesLeft | Motion::SlidesRight => {
                let size = between(rng, 0.42, 0.5);
                let near = size / 2.0 + between(rng, 0.0, 0.05);
                let far = 1.0 - size / 2.0 - between(rng, 0.0, 0.05);
                let (from, to) = if motion == Motion::SlidesRight { (near, far) } else { (far, near) };
                Self::Slides { from, to, y: place(rng, size), size }
            }
            Motion::Passes => {
                let size = between(rng, 0.34, 0.4);
                let y = 0.25 + between(rng, -0.02, 0.02);
                Self::Slides { from: size / 2.0, to: 1.0 - size / 2.0, y, size }
            }
        }
    }

    /// That of the thing which is passed.
    pub(super) fn returning(first: &Self, rng: &mut impl Rng) -> Self {
        match *first {
            Self::Slides { from, to, size, .. } => {
                Self::Slides { from: to, to: from, y: 0.75 + between(rng, -0.02, 0.02), size }
            }
            other => other,
        }
    }

    pub(super) fn at(&self, t: f64) -> Pose {
        let part = |t: f64| t - t.floor();
        let pose = |x: f64, y: f64, size: f64| Pose { x, y, size, angle: 0.0, visible: true };
        // Starts again from the beginning, with the last moment included.
        let along = if t <= WHOLE { t / WHOLE } else { part(t / WHOLE) };
        match *self {
            Self::Bounces { x, floor, height, size, phase } => {
                let u = part(t / BOUNCE + phase);
                pose(x, floor - height * 4.0 * u * (1.0 - u), size)
            }
            Self::Orbits { x, y, radius, size, phase, turns } => {
                let angle = TAU * (phase + turns * t / TURN);
                pose(x + radius * angle.cos(), y + radius * angle.sin(), size)
            }
            Self::Spins { x, y, size, phase, turns } => {
                let angle = 2.0 * PI * (phase + turns * t / TURN);
                Pose { angle, ..pose(x, y, size) }
            }
            Self::Resizes { x, y, from, to } => pose(x, y, from * (to / from).powf(along)),
            Self::Blinks { x, y, size, phase } => {
                Pose { visible: part(t / BLINK + phase) < 0.5, ..pose(x, y, size) }
            }
            Self::Slides { from, to, y, size } => pose(from + (to - from) * along, y, size),
        }
    }
}
