//! Scores of clips. A clip is held against others as a strip: an image of some of its frames, one below the other.

use serde::Serialize;
use tweedie_data::Image;

use crate::{
    extract::{Encoder, ExtractError, Extracted, Extractor, Progress},
    metrics::{Features, Score},
};

/// The frames of a clip, one below the other: at most `most`, evenly spread.
pub fn strip(frames: &[Image], most: usize) -> Image {
    let count = frames.len().min(most.max(1));
    let picked = || (0..count).map(|i| &frames[i * frames.len() / count.max(1)]);
    let (width, height) = picked().next().map_or((0, 0), |frame| (frame.width, frame.height));
    let pixels = picked().flat_map(|frame| frame.pixels.iter().copied()).collect();
    Image { width, height: height * count, pixels }
}

/// The square frames of a strip.
fn frames(strip: &Image) -> impl Iterator<Item = Image> + '_ {
    let side = strip.width;
    let each = 3 * side * side;
    strip.pixels.chunks_exact(each.max(1)).map(move |part| Image {
        width: side,
        height: side,
        pixels: part.to_vec(),
    })
}

/// What [`Clips`] and [`Frames`] look at.
fn of_frames(
    encoder: &Encoder,
    strips: &[Image],
    on: Progress<'_>,
) -> Result<(Extracted, Vec<usize>), ExtractError> {
    let counts: Vec<usize> = strips.iter().map(|strip| strip.height / strip.width.max(1)).collect();
    let all: Vec<Image> = strips.iter().flat_map(frames).collect();
    let per = (all.len() / strips.len().max(1)).max(1);
    let found = encoder.extract(&all, &mut |done, of| on(done / per, of / per))?;
    Ok((found, counts))
}

/// The mean of rows, and the root mean square of the differences between one and the next.
fn pooled(rows: &[&[f32]]) -> [Vec<f32>; 2] {
    let dim = rows.first().map_or(0, |row| row.len());
    let count = rows.len().max(1) as f64;
    let mean = |i: usize| (rows.iter().map(|row| f64::from(row[i])).sum::<f64>() / count) as f32;
    let change = |i: usize| {
        let squares = rows.windows(2).map(|pair| f64::from(pair[1][i] - pair[0][i]).powi(2)).sum::<f64>();
        (squares / (count - 1.0).max(1.0)).sqrt() as f32
    };
    [(0..dim).map(mean).collect(), (0..dim).map(change).collect()]
}

/// The built-in encoder over the frames of strips: the mean of its 64 features, and the root mean square of their differences from
/// one frame to the next.
pub struct Clips<'a>(pub &'a Encoder);

impl Extractor for Clips<'_> {
    fn name(&self) -> &str {
        "clips by the built-in encoder (mean of its 64 features over the frames, and RMS of their changes)"
    }

    fn comparable(&self) -> &str {
        "only comparable with each other, not with published Fréchet video distances"
    }

    fn dim(&self) -> usize {
        2 * self.0.dim()
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint() ^ 0x636c_6970_7321_2121
    }

    fn extract(&self, strips: &[Image], on: Progress<'_>) -> Result<Extracted, ExtractError> {
        let (found, counts) = of_frames(self.0, strips, on)?;
        let (mut features, mut probabilities, mut at) = (Vec::new(), Vec::new(), 0);
        for count in counts {
            let rows = |of: &'_ Features| -> Vec<Vec<f32>> {
                (at..at + count).map(|i| of.values()[i * of.dim()..(i + 1) * of.dim()].to_vec()).collect()
            };
            let own = rows(&found.features);
            features.extend(pooled(&own.iter().map(Vec::as_slice).collect::<Vec<_>>()).concat());
            let own = rows(&found.probabilities);
            let [mean, _] = pooled(&own.iter().map(Vec::as_slice).collect::<Vec<_>>());
            probabilities.extend(mean);
            at += count;
        }
        let classes = found.probabilities.dim();
        Ok(Extracted {
            features: Features::new(self.dim(), features)?,
            probabilities: Features::new(classes, probabilities)?,
        })
    }
}

/// The built-in encoder on one frame of each strip, another place in each, so that frames of one clip do not count as several.
pub struct Frames<'a>(pub &'a Encoder);

impl Extractor for Frames<'_> {
    fn name(&self) -> &str {
        "one frame of each clip by the built-in encoder (64 features of 32×32 images, trained on emoji)"
    }

    fn comparable(&self) -> &str {
        self.0.comparable()
    }

    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn fingerprint(&self) -> u64 {
        self.0.fingerprint() ^ 0x6672_616d_6573_2121
    }

    fn extract(&self, strips: &[Image], on: Progress<'_>) -> Result<Extracted, ExtractError> {
        let one = |(i, strip): (usize, &Image)| {
            let count = strip.height / strip.width.max(1);
            frames(strip).nth(i % count.max(1))
        };
        let all: Vec<Image> = strips.iter().enumerate().filter_map(one).collect();
        self.0.extract(&all, on)
    }
}

/// How clips of one set hold together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverTime {
    /// What set it is.
    pub set: String,
    /// Number of clips.
    pub clips: usize,
    /// The cosine between the features of the first frame and those of a later one, averaged over the later ones: 1 if what is
    /// seen stays the same to the encoder.
    pub identity: Option<Score>,
    /// Root mean square change of pixels from one frame to the next, for values in `0..=1`.
    pub change: Option<Score>,
    /// Share of clips in which the data's own checker recognizes the thing that was asked for.
    pub thing: Option<Score>,
    /// Share of clips whose motion follows its law, by the same checker.
    pub motion: Option<Score>,
}

impl OverTime {
    /// The scores of clips of square frames; `checked` says of each whether thing and motion are right, if that is known.
    ///
    /// # Errors
    /// If the encoder's output is not finite.
    pub fn of(
        set: &str,
        clips: &[Vec<Image>],
        checked: &[[bool; 2]],
        encoder: &Encoder,
        on: Progress<'_>,
    ) -> Result<Self, ExtractError> {
        let score = |values: Vec<f64>| (!values.is_empty()).then(|| Score::mean(&values));
        let all: Vec<Image> = clips.iter().flatten().cloned().collect();
        let (mut identity, mut change, mut at) = (Vec::new(), Vec::new(), 0);
        if !all.is_empty() {
            let found = encoder.extract(&all, on)?.features;
            let row = |i: usize| &found.values()[i * found.dim()..(i + 1) * found.dim()];
            for clip in clips {
                let later = 1..clip.len();
                if !later.is_empty() {
                    let count = later.len() as f64;
                    identity.push(later.map(|i| cosine(row(at), row(at + i))).sum::<f64>() / count);
                    change.push(mean_change(clip));
                }
                at += clip.len();
            }
        }
        let share = |k: usize| score(checked.iter().map(|right| f64::from(u8::from(right[k]))).collect());
        Ok(Self {
            set: set.into(),
            clips: clips.len(),
            identity: score(identity),
            change: score(change),
            thing: share(0),
            motion: share(1),
        })
    }

    /// Names and values.
    pub fn rows(&self) -> [(&'static str, Option<Score>); 4] {
        [
            ("identity over time", self.identity),
            ("change of pixels", self.change),
            ("right thing", self.thing),
            ("right motion", self.motion),
        ]
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

fn mean_change(clip: &[Image]) -> f64 {
    let squares = |pair: &[Image]| {
        let values = pair[0].pixels.iter().zip(&pair[1].pixels);
        let sum: f64 = values.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        sum / pair[0].pixels.len().max(1) as f64
    };
    let all: Vec<f64> = clip.windows(2).map(squares).collect();
    (all.iter().sum::<f64>() / all.len().max(1) as f64).sqrt() / 255.0
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn grey(v: u8) -> Image {
        Image { width: 2, height: 2, pixels: vec![v; 12] }
    }

    #[test]
    fn strips_hold_frames_evenly() {
        let clip: Vec<Image> = (0..8).map(grey).collect();
        let strip = strip(&clip, 4);
        assert_eq!((strip.width, strip.height), (2, 8));
        assert!(frames(&strip).eq([0, 2, 4, 6].map(grey)));
    }

    #[test]
    fn features_of_clips_are_means_and_changes() {
        let rows: [&[f32]; 3] = [&[1.0, 0.0], &[3.0, 0.0], &[2.0, 0.0]];
        // Changes of 2 and −1: √(5/2).
        let [mean, change] = pooled(&rows);
        assert_eq!(mean, [2.0, 0.0]);
        assert!((f64::from(change[0]) - 2.5f64.sqrt()).abs() < 1e-6 && change[1] == 0.0);
    }

    #[test]
    fn clips_that_stand_still_keep_their_identity() {
        let encoder = Encoder::embedded(&tweedie_ops::device("cpu").unwrap()).unwrap();
        let on = &mut |_: usize, _: usize| ControlFlow::Continue(());
        let still = vec![vec![grey(9); 3]; 2];
        let found = OverTime::of("still", &still, &[[true, false], [true, true]], &encoder, on).unwrap();
        assert!((found.identity.unwrap().value - 1.0).abs() < 1e-6);
        assert_eq!(found.change.unwrap().value, 0.0);
        assert_eq!([found.thing, found.motion].map(|score| score.unwrap().value), [1.0, 0.5]);
        // From black to white and back: each change is of the whole range.
        let blinks = [vec![grey(0), grey(255), grey(0)]];
        let found = OverTime::of("blinks", &blinks, &[], &encoder, on).unwrap();
        assert_eq!((found.change.unwrap().value, found.thing), (1.0, None));
    }
}
