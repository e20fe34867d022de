//! Recognizes what moves in a clip, and tests whether it keeps its law.
//!
//! Frame by frame, everything that differs from the background is one thing, or one in the upper and one in the lower half
//! where two pass each other. Its place and its size follow from where it differs and by how much. Each thing is then drawn
//! there, at all angles if it may spin, and the one that differs least is recognized. The tracks of place, size and angle are
//! fitted by the motion's law.

use std::f64::consts::TAU;

use tweedie_media::{Image, Rgb};

use super::{
    Motion, Pose, THINGS,
    draw::{COARSE, FINE, Sprite, draw},
    law::{BLINK, BOUNCE, TURN},
};

/// Largest distance from a law, as a root mean square, in sides of the frame.
const NEAR: f64 = 0.035;
/// The same for logarithms of sizes.
const NEAR_SIZE: f64 = 0.12;
/// The same for angles of spinning things, as a part of a turn.
const NEAR_ANGLE: f64 = 0.07;
/// A thing is there if it differs from the background by at least this part of the largest difference in the clip, or this
/// part where its size changes.
const THERE: f64 = 0.25;
const SMALL: f64 = 0.04;
/// Angles at which things are compared.
const ANGLES: usize = 32;
/// Every how many of them where all things are compared.
const STRIDE: usize = 2;
/// Frames that are compared with drawn things.
const COMPARED: usize = 4;
/// Differences of a pixel that count fully, in `0..=1`.
const FULL: f64 = 0.25;
/// Differences below this are noise.
const NOISE: f64 = 0.06;
/// Largest error of a recognized thing: the mean square of its pixels' differences, relative to that of an empty frame.
const ALIKE: f64 = 0.35;

/// What was found in a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The thing that is most alike, by its place in [`THINGS`]; `None` if there is nothing.
    pub thing: Option<usize>,
    /// The thing's error: 0 for the drawing itself, 1 for an empty frame.
    pub error: f64,
    /// Whether the motion that was asked for follows its law.
    pub follows: bool,
    /// The root mean square of the distances from the law, relative to what is allowed: at most 1 if the law is kept.
    pub distance: f64,
}

impl Verdict {
    /// Whether the thing is `thing`.
    pub fn shows(&self, thing: usize) -> bool {
        self.thing == Some(thing) && self.error <= ALIKE
    }
}

/// Where something differs from the background in one frame.
#[derive(Clone, Copy, Debug, Default)]
struct Mass {
    /// The sum of differences, in squares of the frame's side.
    sum: f64,
    x: f64,
    y: f64,
}

/// A thing at one angle, drawn large: its mass relative to its square, and where its centre of mass is.
#[derive(Clone, Copy, Debug)]
struct Template {
    mass: f64,
    x: f64,
    y: f64,
}

/// Compares clips with drawn things.
#[derive(Clone, Debug)]
pub struct Checker {
    background: Rgb,
    /// `[thing][angle]`.
    templates: Vec<Vec<Template>>,
}

impl Checker {
    /// A checker for clips on this background.
    pub fn new(background: Rgb) -> Self {
        const SIDE: usize = 64;
        let template = |thing: usize, angle: usize| {
            let mut image = Image::filled(SIDE, SIDE, background);
            let pose = Pose { x: 0.5, y: 0.5, size: 0.6, angle: angle_of(angle), visible: true };
            draw(&mut image, &Sprite::of(thing), &pose, FINE);
            let found = mass(&image, background.0.map(f64::from), 0..SIDE);
            let off = |v: f64| (v - 0.5) / pose.size;
            Template { mass: found.sum / pose.size.powi(2), x: off(found.x), y: off(found.y) }
        };
        let angles = |thing| (0..ANGLES).map(|angle| template(thing, angle)).collect();
        Self { background, templates: (0..THINGS.len()).map(angles).collect() }
    }

    /// What moves in `frames`, and whether it does as `motion` says, at `fps` frames per second. `None` if the frames are not
    /// squares of one size, or there are fewer than four.
    pub fn check(&self, frames: &[Image], fps: u32, motion: Motion) -> Option<Verdict> {
        let side = frames.first()?.width;
        let square = |image: &Image| image.width == side && image.height == side;
        if frames.len() < 4 || side < 8 || !frames.iter().all(square) || fps == 0 {
            return None;
        }
        if motion != Motion::Passes {
            return Some(self.one(frames, fps, motion, 0..side));
        }
        let upper = self.one(frames, fps, Motion::SlidesRight, 0..side / 2);
        let lower = self.one(frames, fps, Motion::SlidesLeft, side / 2..side);
        let distance = upper.distance.max(lower.distance);
        Some(Verdict { follows: upper.follows && lower.follows, distance, ..upper })
    }

    /// The same for what is in these rows.
    fn one(&self, frames: &[Image], fps: u32, motion: Motion, rows: std::ops::Range<usize>) -> Verdict {
        let background = paper(frames, self.background);
        let track: Vec<Mass> = frames.iter().map(|frame| mass(frame, background, rows.clone())).collect();
        let most = track.iter().map(|m| m.sum).fold(0.0, f64::max);
        let nothing = Verdict { thing: None, error: 1.0, follows: false, distance: f64::INFINITY };
        // Less than a spot of a twentieth of the side.
        if most < 0.0025 {
            return nothing;
        }
        let least = if matches!(motion, Motion::Grows | Motion::Shrinks) { SMALL } else { THERE };
        let there: Vec<bool> = track.iter().map(|m| m.sum >= least * most).collect();
        let seen: Vec<usize> = (0..frames.len()).filter(|&i| there[i]).collect();
        let picks: Vec<usize> =
            (0..COMPARED.min(seen.len())).map(|i| seen[i * seen.len() / COMPARED.min(seen.len())]).collect();
        let spins = motion == Motion::Spins;
        let errors = |thing: usize| -> f64 {
            let stride = spins.then_some(STRIDE);
            let each = picks.iter().map(|&i| self.best(thing, &frames[i], track[i], background, stride).0);
            each.sum::<f64>() / picks.len().max(1) as f64
        };
        let found = (0..THINGS.len()).map(|thing| (thing, errors(thing)));
        let Some((thing, error)) = found.min_by(|a, b| a.1.total_cmp(&b.1)) else { return nothing };
        let times: Vec<f64> = (0..frames.len()).map(|i| i as f64 / f64::from(fps)).collect();
        let distance = match motion {
            Motion::Spins => {
                let angle = |i: usize| self.best(thing, &frames[i], track[i], background, Some(1)).1;
                let angles: Vec<f64> = seen.iter().map(|&i| angle(i)).collect();
                let at: Vec<f64> = seen.iter().map(|&i| times[i]).collect();
                let all = if seen.len() == frames.len() { 1.0 } else { f64::INFINITY };
                all * spin(&at, &angles).max(still(&track, &seen))
            }
            Motion::Blinks => blink(&times, &there).max(still(&track, &seen)),
            _ if seen.len() < frames.len() => f64::INFINITY,
            Motion::Bounces => bounce(&times, &track),
            Motion::Orbits => orbit(&times, &track),
            Motion::SlidesRight | Motion::Passes => slide(&times, &track, 1.0),
            Motion::SlidesLeft => slide(&times, &track, -1.0),
            Motion::Grows => resize(&times, &track, 1.0).max(still(&track, &seen)),
            Motion::Shrinks => resize(&times, &track, -1.0).max(still(&track, &seen)),
        };
        Verdict { thing: Some(thing), error, follows: distance <= 1.0, distance }
    }

    /// The error of a thing in a frame and its angle as part of a turn: the best of every `stride` angles, or upright.
    fn best(
        &self,
        thing: usize,
        frame: &Image,
        found: Mass,
        background: [f64; 3],
        stride: Option<usize>,
    ) -> (f64, f64) {
        let angles = if stride.is_some() { ANGLES } else { 1 };
        let of = |angle: usize| {
            let template = self.templates[thing][angle];
            let size = (found.sum / template.mass.max(1e-9)).sqrt();
            let (x, y) = (found.x - template.x * size, found.y - template.y * size);
            let pose = Pose { x, y, size, angle: angle_of(angle), visible: true };
            (difference(frame, thing, &pose, background), angle as f64 / ANGLES as f64)
        };
        (0..angles)
            .step_by(stride.unwrap_or(1))
            .map(of)
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap_or((1.0, 0.0))
    }
}

fn angle_of(angle: usize) -> f64 {
    TAU * angle as f64 / ANGLES as f64
}

/// The colour of the paper: the median of the pixels at the border of all frames, if it is near the expected one.
fn paper(frames: &[Image], expected: Rgb) -> [f64; 3] {
    [0, 1, 2].map(|c| {
        let mut values: Vec<u8> = Vec::new();
        for frame in frames {
            let (w, h) = (frame.width, frame.height);
            values.extend(
                (0..w).flat_map(|x| [frame.pixels[3 * x + c], frame.pixels[3 * ((h - 1) * w + x) + c]]),
            );
        }
        values.sort_unstable();
        let median = values.get(values.len() / 2).copied().unwrap_or(expected.0[c]);
        if median.abs_diff(expected.0[c]) <= 24 { f64::from(median) } else { f64::from(expected.0[c]) }
    })
}

/// How much a pixel differs from the background, from 0 to 1.
fn differs(pixel: &[u8], background: [f64; 3]) -> f64 {
    let far = (0..3).map(|c| (f64::from(pixel[c]) - background[c]).abs() / 255.0).fold(0.0, f64::max);
    if far < NOISE { 0.0 } else { (far / FULL).min(1.0) }
}

fn mass(image: &Image, background: [f64; 3], rows: std::ops::Range<usize>) -> Mass {
    let (mut sum, mut x, mut y) = (0.0, 0.0, 0.0);
    let side = image.width as f64;
    for row in rows {
        let line = &image.pixels[3 * row * image.width..3 * (row + 1) * image.width];
        for (column, pixel) in line.chunks_exact(3).enumerate() {
            let weight = differs(pixel, background);
            sum += weight;
            x += weight * (column as f64 + 0.5);
            y += weight * (row as f64 + 0.5);
        }
    }
    let part = sum.max(1e-9) * side;
    Mass { sum: sum / (side * side), x: x / part, y: y / part }
}

/// The mean square difference between a frame and the thing drawn on the paper, around it, relative to that of empty paper.
fn difference(frame: &Image, thing: usize, pose: &Pose, background: [f64; 3]) -> f64 {
    let side = frame.width as f64;
    let paper = Rgb(background.map(|v| v.round().clamp(0.0, 255.0) as u8));
    let mut drawn = Image::filled(frame.width, frame.height, paper);
    draw(&mut drawn, &Sprite::of(thing), pose, COARSE);
    let reach = 0.75 * pose.size;
    let span = |centre: f64| {
        let clamp = |v: f64| (v * side).clamp(0.0, side) as usize;
        clamp(centre - reach)..clamp(centre + reach)
    };
    let (mut off, mut empty) = (0.0, 0.0);
    for row in span(pose.y) {
        for column in span(pose.x) {
            let at = 3 * (row * frame.width + column);
            for (c, paper) in background.iter().enumerate() {
                let (found, made) = (f64::from(frame.pixels[at + c]), f64::from(drawn.pixels[at + c]));
                off += (found - made).powi(2);
                empty += (made - paper).powi(2).max((found - paper).powi(2));
            }
        }
    }
    if empty > 0.0 { off / empty } else { 1.0 }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0usize), |(sum, n), v| (sum + v * v, n + 1));
    (sum / n.max(1) as f64).sqrt()
}

/// The best line `a + b·t` and the distances from it.
fn line(times: &[f64], values: &[f64]) -> (f64, f64, f64) {
    let n = times.len().max(1) as f64;
    let mean = |v: &[f64]| v.iter().sum::<f64>() / n;
    let (t, v) = (mean(times), mean(values));
    let sums = times
        .iter()
        .zip(values)
        .fold((0.0, 0.0), |(tt, tv), (a, b)| (tt + (a - t).powi(2), tv + (a - t) * (b - v)));
    let slope = if sums.0 > 0.0 { sums.1 / sums.0 } else { 0.0 };
    let start = v - slope * t;
    (start, slope, rms(times.iter().zip(values).map(|(a, b)| b - start - slope * a)))
}

fn column(track: &[Mass], of: impl Fn(&Mass) -> f64) -> Vec<f64> {
    track.iter().map(of).collect()
}

/// How far places are from their mean.
fn still(track: &[Mass], seen: &[usize]) -> f64 {
    let spread = |of: fn(&Mass) -> f64| {
        let values: Vec<f64> = seen.iter().map(|&i| of(&track[i])).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        rms(values.iter().map(|v| v - mean))
    };
    // The centre of mass of a spinning thing moves a little.
    spread(|m| m.x).max(spread(|m| m.y)) / NEAR
}

fn slide(times: &[f64], track: &[Mass], direction: f64) -> f64 {
    let (_, speed, off) = line(times, &column(track, |m| m.x));
    let (_, rise, off_y) = line(times, &column(track, |m| m.y));
    let duration = times.last().copied().unwrap_or(0.0);
    // At least a quarter of the side, and not to another height.
    let moves = direction * speed * duration > 0.25 && (rise * duration).abs() < 0.12;
    if moves { off.max(off_y) / NEAR } else { f64::INFINITY }
}

fn resize(times: &[f64], track: &[Mass], direction: f64) -> f64 {
    let (_, rate, off) = line(times, &column(track, |m| 0.5 * m.sum.max(1e-9).ln()));
    let duration = times.last().copied().unwrap_or(0.0);
    // At least by half.
    if direction * rate * duration > 1.5f64.ln() { off / NEAR_SIZE } else { f64::INFINITY }
}

/// Parabolas of any phase, height and floor, at one place.
fn bounce(times: &[f64], track: &[Mass]) -> f64 {
    const PHASES: usize = 32;
    let (x, y) = (column(track, |m| m.x), column(track, |m| m.y));
    let fit = |phase: usize| {
        let height = |t: &f64| {
            let u = (t / BOUNCE + phase as f64 / PHASES as f64).fract();
            4.0 * u * (1.0 - u)
        };
        let heights: Vec<f64> = times.iter().map(height).collect();
        let (_, slope, off) = line(&heights, &y);
        // Upwards is towards smaller rows, at least by an eighth of the side.
        if -slope > 0.125 { off } else { f64::INFINITY }
    };
    let off = (0..PHASES).map(fit).fold(f64::INFINITY, f64::min);
    let mean = x.iter().sum::<f64>() / x.len().max(1) as f64;
    off.max(rms(x.iter().map(|x| x - mean))) / NEAR
}

/// A circle at one speed, in either direction.
fn orbit(times: &[f64], track: &[Mass]) -> f64 {
    let n = times.len() as f64;
    let (cx, cy) = (track.iter().map(|m| m.x).sum::<f64>() / n, track.iter().map(|m| m.y).sum::<f64>() / n);
    let fit = |turns: f64| {
        // The circle's vector at time 0: the mean of places turned back. Its centre is refined as the rest.
        let (mut centre, mut start) = ((cx, cy), (0.0, 0.0));
        for _ in 0..20 {
            start = times.iter().zip(track).fold((0.0, 0.0), |(a, b), (t, m)| {
                let (sin, cos) = (TAU * turns * t / TURN).sin_cos();
                let (x, y) = (m.x - centre.0, m.y - centre.1);
                (a + (cos * x + sin * y) / n, b + (cos * y - sin * x) / n)
            });
            centre = times.iter().zip(track).fold((0.0, 0.0), |(a, b), (t, m)| {
                let (sin, cos) = (TAU * turns * t / TURN).sin_cos();
                (a + (m.x - cos * start.0 + sin * start.1) / n, b + (m.y - sin * start.0 - cos * start.1) / n)
            });
        }
        let off = times.iter().zip(track).map(|(t, m)| {
            let (sin, cos) = (TAU * turns * t / TURN).sin_cos();
            let x = centre.0 + cos * start.0 - sin * start.1;
            let y = centre.1 + sin * start.0 + cos * start.1;
            (m.x - x).hypot(m.y - y)
        });
        if start.0.hypot(start.1) > 0.1 { rms(off) } else { f64::INFINITY }
    };
    fit(1.0).min(fit(-1.0)) / NEAR
}

/// The share of frames in which the thing is there or not as in the best square wave.
fn blink(times: &[f64], there: &[bool]) -> f64 {
    const PHASES: usize = 16;
    let wrong = |phase: usize| {
        let expected = |t: &f64| (t / BLINK + phase as f64 / PHASES as f64).fract() < 0.5;
        times.iter().zip(there).filter(|(t, seen)| expected(t) != **seen).count()
    };
    let wrong = (0..PHASES).map(wrong).min().unwrap_or(times.len());
    // One frame in sixteen may be wrong.
    16.0 * wrong as f64 / times.len().max(1) as f64
}

/// Angles, as parts of a turn, that grow or fall by the law.
fn spin(times: &[f64], angles: &[f64]) -> f64 {
    let fit = |turns: f64| {
        let rest: Vec<f64> = times.iter().zip(angles).map(|(t, a)| a - turns * t / TURN).collect();
        let (sin, cos) = rest.iter().fold((0.0, 0.0), |(s, c), a| (s + (TAU * a).sin(), c + (TAU * a).cos()));
        let mean = sin.atan2(cos) / TAU;
        rms(rest.iter().map(|a| (a - mean) - (a - mean).round()))
    };
    fit(1.0).min(fit(-1.0)) / NEAR_ANGLE
}
