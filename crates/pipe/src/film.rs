//! Snapshots of a run as images: a filmstrip, or the frames of an animation.

use std::collections::BTreeMap;

use tweedie_data::{Image, Rgb, grid};

use crate::{Event, Preview};

/// What a snapshot shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// The predicted clean sample: blurry at first, then sharp.
    #[default]
    Clean,
    /// The noisy sample itself.
    Noisy,
}

/// Converts the samples of a snapshot to images.
pub type Pictures<'a, E> = dyn FnMut(&Preview<'_>, Show) -> Result<Vec<Image>, E> + 'a;

/// Collects snapshots of all images during a run: pass its events to [`Film::see`].
#[derive(Clone, Debug)]
pub struct Film {
    moments: usize,
    show: Show,
    rows: BTreeMap<usize, Vec<Image>>,
}

impl Film {
    /// A film of at most `moments` snapshots, evenly spaced over the run; the last is its end.
    pub fn new(moments: usize, show: Show) -> Self {
        Self { moments: moments.max(1), show, rows: BTreeMap::new() }
    }

    /// Takes a snapshot of every image if the event belongs to one. `steps` is the number of steps per image; `pictures`
    /// converts the samples.
    ///
    /// # Errors
    /// Those of `pictures`.
    pub fn see<E>(
        &mut self,
        event: &Event<'_>,
        steps: usize,
        pictures: &mut Pictures<'_, E>,
    ) -> Result<(), E> {
        let Event::Step { rows, step, preview, .. } = event;
        if self.wants(*step, steps) {
            for (row, image) in rows.clone().zip(pictures(preview, self.show)?) {
                self.rows.entry(row).or_default().push(image);
            }
        }
        Ok(())
    }

    /// Step `k` of `steps` is shown if it is the first to pass a multiple of `steps / moments`.
    fn wants(&self, step: usize, steps: usize) -> bool {
        let passed = |s: usize| s * self.moments / steps.max(1);
        passed(step) > passed(step.saturating_sub(1))
    }

    /// One row per image, one column per snapshot.
    pub fn strip(&self, gap: usize, background: Rgb) -> Image {
        let columns = self.rows.values().map(Vec::len).max().unwrap_or(0);
        let images: Vec<Image> = self.rows.values().flatten().cloned().collect();
        grid(&images, columns, gap, background)
    }

    /// One grid of all images per snapshot: the frames of an animation.
    pub fn frames(&self, columns: usize, gap: usize, background: Rgb) -> Vec<Image> {
        let count = self.rows.values().map(Vec::len).min().unwrap_or(0);
        let sheet = |moment: usize| {
            let images: Vec<Image> = self.rows.values().filter_map(|row| row.get(moment).cloned()).collect();
            grid(&images, columns, gap, background)
        };
        (0..count).map(sheet).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_even_and_end_with_the_last() {
        for (moments, steps) in [(5, 50), (7, 50), (8, 8), (1, 3)] {
            let film = Film::new(moments, Show::Clean);
            let seen: Vec<usize> = (1..=steps).filter(|&s| film.wants(s, steps)).collect();
            assert_eq!(seen.len(), moments);
            assert_eq!(seen.last(), Some(&steps));
        }
        let film = Film::new(20, Show::Clean);
        assert_eq!((1..=6).filter(|&s| film.wants(s, 6)).count(), 6);
    }
}
