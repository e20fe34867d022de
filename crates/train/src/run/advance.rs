//! Runs steps, and what is due between them.

use std::time::{Duration, Instant};

use tweedie_data::{Image, Video, grid};
use tweedie_media::{WavFormat, write_wav};
use tweedie_system::record;

use super::{Phase, TrainLoop};
use crate::{
    error::TrainError,
    event::{Step, TrainEvent},
    plot,
    task::{StepAt, Validation},
};

impl TrainLoop {
    pub(super) fn advance(&mut self) -> Result<(), TrainError> {
        if self.phase == Phase::Fresh {
            self.phase = Phase::Training;
            self.session = Some(Instant::now());
            if self.is_over()? && self.done.save == Some(self.state.step) && !self.stop.is_requested() {
                // There is nothing new to save.
                self.phase = Phase::Over;
                return self.finish();
            }
        }
        if self.is_over()? {
            self.phase = Phase::Over;
            if !self.stop.is_requested() {
                self.report(true)?;
                self.examine()?;
            }
            self.save()?;
            let every = self.config.ema.snapshot_every;
            if every > 0 && self.state.step > 0 && !due(every, self.state.step) {
                self.snapshot()?;
            }
            return self.finish();
        }
        let made = self.train_step();
        self.tell_skipped();
        match made {
            // The next turn ends the run.
            Err(TrainError::Stopped) => return Ok(()),
            other => other?,
        }
        let step = self.state.step;
        if due(self.config.ema.snapshot_every, step) {
            self.snapshot()?;
        }
        if !self.is_over()? {
            self.report(false)?;
            if due(self.config.run.checkpoint_every, step) {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Warns about images that were found to be corrupt since the last call.
    pub(super) fn tell_skipped(&mut self) {
        const MOST: usize = 50;
        let skipped = self.data.skipped_from(self.skipped);
        let shown = skipped.iter().take(MOST.saturating_sub(self.skipped));
        let mut warnings: Vec<String> =
            shown.map(|image| format!("skipped {}: {}", image.path.display(), image.reason)).collect();
        let all = self.skipped + skipped.len();
        if all > MOST && self.skipped <= MOST {
            warnings.push(format!("more than {MOST} images were skipped; further ones are not listed"));
        }
        self.skipped = all;
        match self.share.is_first() {
            true => self.events.extend(warnings.into_iter().map(TrainEvent::Warning)),
            false => self.untold.extend(warnings),
        }
    }

    /// Validation and previews that are due, or all enabled ones at the end. Collective.
    fn report(&mut self, last: bool) -> Result<(), TrainError> {
        let (run, step) = (&self.config.run, self.state.step);
        let wanted = |every: u64| every > 0 && (last || due(every, step));
        let (validate, preview) = (wanted(run.validate_every), wanted(run.preview_every));
        if validate && self.done.validation != Some(step) {
            self.validate()?;
            self.done.validation = Some(step);
        }
        if preview && self.done.preview != Some(step) {
            self.preview()?;
            self.done.preview = Some(step);
        }
        Ok(())
    }

    fn train_step(&mut self) -> Result<(), TrainError> {
        let (done, rows) = (self.state.step, self.config.run.images_per_step());
        let images = self.state.images + rows as u64;
        let learning_rate = self.config.learning_rate.at(done);
        let stop = self.stop.clone();
        let learned = self.task.step(&StepAt { stop, done, images, rows, learning_rate })?;
        self.state.step += 1;
        self.state.images = images;
        let step = Step {
            step: self.state.step,
            images,
            loss: learned.loss,
            grad_norm: learned.grad_norm,
            learning_rate,
            images_per_s: self.rate(rows),
            elapsed_s: self.elapsed(),
        };
        self.state.pending.0 += step.loss;
        self.state.pending.1 += 1;
        self.events.push_back(TrainEvent::Step(step));
        if step.step.is_multiple_of(self.config.run.log_every) {
            let (sum, n) = std::mem::take(&mut self.state.pending);
            if let Some(log) = &mut self.log {
                log.step(&step, sum / n as f64, &learned.figures)?;
            }
        }
        Ok(())
    }

    /// Images per second over the latest steps.
    fn rate(&mut self, rows: usize) -> f64 {
        const WINDOW: usize = 20;
        if self.recent.is_empty() {
            self.recent.extend(self.session);
        }
        self.recent.push_back(Instant::now());
        while self.recent.len() > WINDOW + 1 {
            self.recent.pop_front();
        }
        match (self.recent.front(), self.recent.back()) {
            (Some(first), Some(last)) if last > first => {
                (self.recent.len() - 1) as f64 * rows as f64 / (*last - *first).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Runs `work` without counting its time in the training rate.
    pub(super) fn aside<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let start = Instant::now();
        let out = work(self)?;
        let spent: Duration = start.elapsed();
        self.recent.iter_mut().for_each(|t| *t += spent);
        Ok(out)
    }

    fn validate(&mut self) -> Result<(), TrainError> {
        let _span = record::span("validate");
        self.aside(|run| {
            let Some(found) = run.task.validate()? else { return Ok(()) };
            let step = run.state.step;
            run.require_finite(&found)?;
            if let Some(log) = &mut run.log {
                log.validation(step, &found)?;
            }
            let (loss, ema_loss, figures) = (found.loss, found.ema_loss, found.figures);
            run.events.push_back(TrainEvent::Validation { step, loss, ema_loss, figures });
            Ok(())
        })
    }

    /// A held-out loss that is not finite ends the run, like the loss of a step.
    fn require_finite(&self, found: &Validation) -> Result<(), TrainError> {
        let losses = [Some(found.loss), found.ema_loss];
        match losses.into_iter().flatten().all(f64::is_finite) {
            true => Ok(()),
            false => Err(TrainError::NotFinite {
                step: self.state.step,
                what: "the held-out loss".into(),
                checkpoint: self.saved.clone(),
            }),
        }
    }

    /// Checks the final weights on held-out images, even if validation is off, because no later step would fail. Collective.
    fn examine(&mut self) -> Result<(), TrainError> {
        if self.done.validation == Some(self.state.step) {
            return Ok(());
        }
        match self.task.validate()? {
            Some(found) => self.require_finite(&found),
            None => Ok(()),
        }
    }

    fn preview(&mut self) -> Result<(), TrainError> {
        let _span = record::span("preview");
        self.aside(|run| {
            let step = run.state.step;
            let out = run.config.run.out.clone();
            let made = run.task.preview()?;
            if !run.share.is_first() {
                return Ok(());
            }
            let sheet = grid(&made.images, made.columns, 2, run.config.data.background);
            let folder = out.join("previews");
            std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
            if let Some(first) = made.clips.first() {
                let frame = |at: usize| {
                    let shown: Vec<Image> =
                        made.clips.iter().filter_map(|clip| clip.frames.get(at).cloned()).collect();
                    let columns = (shown.len() as f64).sqrt().ceil() as usize;
                    grid(&shown, columns, 2, run.config.data.background)
                };
                let frames = (0..first.frames.len()).map(frame).collect();
                let sheet = Video { frames, delay: first.delay };
                sheet.write(&folder.join(format!("step-{step:06}.webp")), None)?;
            }
            let path = folder.join(format!("step-{step:06}.png"));
            sheet.save_png(&path)?;
            let sounds = folder.join(format!("step-{step:06}"));
            for (index, sound) in made.sounds.iter().enumerate() {
                std::fs::create_dir_all(&sounds).map_err(|e| TrainError::io(&sounds, e))?;
                write_wav(&sounds.join(format!("{index:02}.wav")), sound, WavFormat::Pcm16, None)?;
            }
            let png = std::fs::read(&path).map_err(|e| TrainError::io(&path, e))?;
            if let Some(log) = &mut run.log {
                log.preview(step, sheet.width, sheet.height, &png)?;
                plot::loss_curve(&log.curves, &out.join("loss.png"))?;
            }
            run.events.push_back(TrainEvent::Preview { step, samples: made.images, path });
            Ok(())
        })
    }
}

fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
