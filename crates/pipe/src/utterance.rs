//! A spoken text as it is made: its sound in parts, which together are the sound of the whole, value by value.

use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, atomic::AtomicBool},
};

use tweedie_media::Audio;
use tweedie_models::HostTensor;

use crate::{
    Job, PipelineError,
    media::Media,
    run::Event,
    speech::{Joiner, Spoken},
};

/// How far the sound of a text has been made.
pub struct Utterance(Joiner);

impl Job {
    /// The beginning of the sound of its text.
    ///
    /// # Errors
    /// If it does not speak one text, or its loudness is set, which is a property of the whole sound.
    pub fn utterance(&self) -> Result<Utterance, PipelineError> {
        let fail = |field: &'static str, reason: &str| Err(PipelineError::request(field, reason));
        match &self.spoken {
            None => fail("prompt", "only the sound of a model that speaks can be made in parts"),
            Some(spoken) if spoken.count() != 1 => {
                fail("count", "only one sound can be made in parts; expected one text and a count of 1")
            }
            Some(_) if self.request().loudness.is_some() => {
                fail("loudness", "needs the whole sound, so that it cannot be made in parts")
            }
            Some(spoken) => Ok(Utterance(spoken.joiner())),
        }
    }

    /// The units of its texts, words or sentences, in parts that are sampled one after another: small ones first, so that the
    /// sound begins soon.
    pub fn spoken_parts(&self) -> Vec<Range<usize>> {
        let (count, most) = (self.count(), self.chunk().max(1));
        let mut size = self.spoken.as_ref().map_or(most, Spoken::first_units).min(most);
        let mut parts = Vec::new();
        let mut start = 0;
        while start < count {
            let end = (start + size).min(count);
            parts.push(start..end);
            (start, size) = (end, (2 * size).min(most));
        }
        parts
    }

    /// What the next units add to the sound: `decoded`, the results of [`Job::finish`].
    pub fn uttered(&self, so_far: &mut Utterance, decoded: HostTensor) -> Option<Audio> {
        match self.media_of(vec![decoded]).1 {
            Media::Audio(units) => so_far.0.joined(units),
            _ => None,
        }
    }

    /// Makes the sound of a text, and gives its parts to `part` as soon as they are there. Together they are the sound of
    /// [`Job::run`]. Returns the network evaluations. `part` may stop it; once `cancelled` is set, it stops within a step.
    ///
    /// # Errors
    /// Those of [`Job::utterance`] and [`Job::run`].
    pub fn speak(
        self,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
        part: &mut dyn FnMut(Audio) -> ControlFlow<()>,
    ) -> Result<usize, PipelineError> {
        let (mut so_far, mut evals) = (self.utterance()?, 0);
        let job = Arc::new(self);
        for rows in job.spoken_parts() {
            let (decoded, more) = job.run_rows(rows, cancelled, on)?;
            evals += more;
            for decoded in decoded {
                if job.uttered(&mut so_far, decoded).is_some_and(|sound| part(sound).is_break()) {
                    return Err(PipelineError::Cancelled);
                }
            }
        }
        Ok(evals)
    }
}
