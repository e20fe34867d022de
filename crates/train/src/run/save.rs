//! Writes checkpoints, snapshots and the finished model.

use super::{CHECKPOINTS, TrainLoop};
use crate::{
    checkpoint::{self, Checkpoint, State},
    error::TrainError,
    event::{Summary, TrainEvent},
    post_hoc::SNAPSHOTS,
    task::Files,
};

impl TrainLoop {
    /// Saves a checkpoint. Collective.
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        self.aside(|run| {
            if run.done.save == Some(run.state.step) {
                return Ok(());
            }
            let folder = run.config.run.out.join(CHECKPOINTS);
            let tensors = run.task.tensors()?;
            let Some(log) = &mut run.log else {
                run.done.save = Some(run.state.step);
                return Ok(());
            };
            let logs = log.lengths()?;
            let state = State { logs, elapsed_s: run.elapsed(), ..run.state.clone() };
            run.check(&tensors)?;
            let checkpoint = Checkpoint::write(&folder, state, &tensors)?;
            checkpoint::prune(&folder, run.config.run.keep_last)?;
            run.saved = Some(checkpoint.path.clone());
            let step = run.state.step;
            run.done.save = Some(step);
            run.events.push_back(TrainEvent::Checkpointed { step, path: checkpoint.path });
            Ok(())
        })
    }

    /// Saves the averages of this step, from which other lengths can be computed after training.
    pub(super) fn snapshot(&mut self) -> Result<(), TrainError> {
        if !self.share.is_first() {
            return Ok(());
        }
        self.aside(|run| {
            let tensors = run.task.averages();
            run.check(&tensors)?;
            let state = State { elapsed_s: run.elapsed(), ..run.state.clone() };
            Checkpoint::write(&run.config.run.out.join(SNAPSHOTS), state, &tensors)?;
            Ok(())
        })
    }

    /// Rejects tensors that are not finite, as after an overflowing update.
    fn check(&self, files: &Files) -> Result<(), TrainError> {
        let mut all = files.iter().flat_map(|(file, tensors)| tensors.iter().map(move |(n, t)| (file, n, t)));
        match all.find(|(.., t)| !t.values.iter().all(|v| v.is_finite())) {
            None => Ok(()),
            Some((file, name, _)) => Err(TrainError::NotFinite {
                step: self.state.step,
                what: format!("{name} ({file})"),
                checkpoint: self.saved.clone(),
            }),
        }
    }

    pub(super) fn finish(&mut self) -> Result<(), TrainError> {
        let Some(log) = &self.log else { return Ok(()) };
        let recent = &log.curves.train;
        let tail = recent.get(recent.len().saturating_sub(10)..).unwrap_or_default();
        let (sum, n) = match (tail.len(), self.state.pending) {
            // The run is shorter than the interval of the log.
            (0, (sum, n)) => (sum, n as usize),
            (n, _) => (tail.iter().map(|p| p.1).sum(), n),
        };
        let summary = Summary {
            step: self.state.step,
            images: self.state.images,
            elapsed_s: self.elapsed(),
            loss: sum / n as f64,
            stopped: self.stop.is_requested(),
            model: self.config.run.out.join("model"),
        };
        self.task.export(&summary)?;
        self.events.push_back(TrainEvent::Finished(summary));
        Ok(())
    }
}
