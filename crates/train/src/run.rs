//! The training loop, as an iterator: TOML → batches → noise levels → network → loss → optimizer → averages →
//! events. Progress and stopping belong to whoever holds it.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use burn::{module::Module, tensor::Device};
use tweedie_data::{Dataset, grid};
use tweedie_hub::files::write_atomic;
use tweedie_models::{
    Mode,
    params::{HostTensor, count, export, import, shapes},
};

use crate::{
    batches::{BatchMaker, HostBatch, Prefetch},
    checkpoint::{self, Checkpoint, State},
    config::RunConfig,
    ema::{self, Average},
    error::TrainError,
    event::{Step, Summary, TrainEvent},
    export,
    importance::LossHistory,
    keys::{Purpose, key},
    lock::FolderLock,
    log::Log,
    model::TrainModel,
    objective::Objective,
    optim::{GradientMap, Optimizer},
    plot,
    post_hoc::SNAPSHOTS,
    preview,
};

/// A training run. Iterating it trains; each item is something that happened. After an error it is over.
///
/// ```no_run
/// use tweedie_train::{ConfigBuilder, TrainEvent, TrainLoop};
///
/// let config = ConfigBuilder::preset("tiny")?.set("run.steps=50")?.build()?;
/// for event in TrainLoop::new(config)? {
///     if let TrainEvent::Step(step) = event? {
///         eprintln!("{} {}", step.step, step.loss);
///     }
/// }
/// # Ok::<(), tweedie_train::TrainError>(())
/// ```
pub struct TrainLoop {
    config: RunConfig,
    device: Device,
    class_names: Vec<String>,
    maker: Arc<BatchMaker>,
    prefetch: Option<Prefetch>,
    validation: Vec<HostBatch>,
    /// `None` only while a step moves it.
    model: Option<TrainModel>,
    averages: Vec<(Average, TrainModel)>,
    objective: Objective,
    /// Where times follow the losses.
    history: Option<LossHistory>,
    optimizer: Optimizer,
    state: State,
    log: Log,
    saved: Option<PathBuf>,
    /// The steps at which the latest validation, preview and checkpoint were made.
    done: Done,
    events: VecDeque<TrainEvent>,
    stop: StopHandle,
    session: Option<Instant>,
    recent: VecDeque<Instant>,
    phase: Phase,
    _lock: FolderLock,
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    validation: Option<u64>,
    preview: Option<u64>,
    save: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Training,
    Over,
}

/// Asks a run to save and end, from any thread.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// The run saves and ends after the step it is making.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

const CHECKPOINTS: &str = "checkpoints";
const CONFIG: &str = "config.toml";
const TIMES: &str = "times";

impl TrainLoop {
    /// A new run in the folder `run.out`.
    ///
    /// # Errors
    /// When the folder holds a run already or cannot be written, or the data, model or device are not
    /// as the configuration says.
    pub fn new(config: RunConfig) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let out = &config.run.out;
        if out.join(CONFIG).exists() {
            return Err(TrainError::Occupied { path: out.clone() });
        }
        Self::build(config, None, None, Vec::new())
    }

    /// Goes on with the run in the folder `out`, from its latest whole checkpoint, as it was configured.
    ///
    /// # Errors
    /// As [`TrainLoop::new`], and when there is no run.
    pub fn resume(out: &Path) -> Result<Self, TrainError> {
        let path = out.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|e| TrainError::io(&path, e))?;
        let mut config: RunConfig = toml::from_str(&text)
            .map_err(|e| TrainError::Toml { origin: path.display().to_string(), reason: e.to_string() })?;
        config.run.out = out.into();
        Self::resume_with(config)
    }

    /// Goes on with the run in `run.out`, configured anew where that leaves the bits alone: its length, what
    /// it reports and saves.
    ///
    /// # Errors
    /// As [`TrainLoop::resume`], and [`TrainError::Changed`] naming the keys that differ.
    pub fn resume_with(config: RunConfig) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let out = config.run.out.clone();
        if !out.join(CONFIG).exists() {
            let reason = "there is no run to resume (config.toml is missing)";
            return Err(TrainError::Checkpoint { path: out, reason: reason.into() });
        }
        let lock = FolderLock::take(&out)?;
        let (found, wrong) = checkpoint::latest(&out.join(CHECKPOINTS))?;
        let mut warnings: Vec<_> = wrong.iter().map(|e| format!("skipped: {e}")).collect();
        match &found {
            None => warnings.push("no whole checkpoint: starting from step 0".into()),
            Some(checkpoint) => {
                let keys = checkpoint.state.config.differences(&config);
                if !keys.is_empty() {
                    return Err(TrainError::Changed { path: out, keys });
                }
            }
        }
        Self::build(config, Some(lock), found, warnings)
    }

    fn build(
        config: RunConfig,
        lock: Option<FolderLock>,
        from: Option<Checkpoint>,
        warnings: Vec<String>,
    ) -> Result<Self, TrainError> {
        let device = config.run.device()?;
        let data = Dataset::open(&config.data)?;
        let maker = Arc::new(BatchMaker::new(&config, &data)?);
        let class_names = data.class_names().to_vec();
        let unet = config.unet(class_names.len())?;
        let labels = config.augment.has_labels();
        let mut model = TrainModel::new(&unet, labels, config.run.seed, &device.clone().autodiff())?
            .with_precision(config.run.precision);
        let plain = model.valid();
        let mut averages: Vec<_> =
            config.ema.averages().into_iter().map(|law| (law, plain.clone())).collect();
        drop(plain);

        let times = config.diffusion.train_steps;
        let mut history = config.loss.times.adapts().then(|| LossHistory::new(times));
        let mut state = State::new(&config);
        let mut optimizer = Optimizer::new(&config.optimizer);
        if let Some(checkpoint) = &from {
            let wrong = |e: &dyn std::fmt::Display| TrainError::checkpoint(&checkpoint.path, e);
            state = State { config: config.clone(), ..checkpoint.state.clone() };
            model = import(model, &checkpoint.tensors("model")?).map_err(|e| wrong(&e))?;
            let mut restored = Vec::new();
            for (index, (law, average)) in averages.into_iter().enumerate() {
                let tensors = checkpoint.tensors(&ema_name(index))?;
                restored.push((law, import(average, &tensors).map_err(|e| wrong(&e))?));
            }
            averages = restored;
            if history.is_some() {
                let losses = checkpoint.tensors(TIMES)?;
                history = Some(LossHistory::import(&losses, times).map_err(|e| wrong(&e))?);
            }
            let tensors = checkpoint.tensors("optimizer")?;
            optimizer = Optimizer::import(&config.optimizer, state.step, &tensors, &shapes(&model), &device)
                .map_err(|e| wrong(&e))?;
        }

        state.class_names = class_names.clone();
        let out = &config.run.out;
        let lock = lock.map_or_else(|| FolderLock::take(out), Ok)?;
        let log = Log::open(out, &state.logs)?;
        write_atomic(&out.join(CONFIG), config.to_toml()?.as_bytes())?;
        let mut events: VecDeque<_> = warnings.into_iter().map(TrainEvent::Warning).collect();
        let skipped = data.skipped();
        if let Some(first) = skipped.first() {
            let (path, reason) = (first.path.display(), &first.reason);
            events.push_back(TrainEvent::Warning(format!(
                "{} images left out; the first is {path}: {reason}",
                skipped.len()
            )));
        }
        events.push_back(TrainEvent::Started {
            step: state.step,
            steps: config.run.steps,
            parameters: count(&model),
            images: maker.len(),
            held_out: maker.held_out(),
        });
        Ok(Self {
            device,
            class_names,
            maker,
            prefetch: None,
            validation: Vec::new(),
            model: Some(model),
            averages,
            objective: Objective::new(&config)?,
            history,
            optimizer,
            state,
            log,
            done: Done { save: from.as_ref().map(|c| c.state.step), ..Done::default() },
            saved: from.map(|c| c.path),
            events,
            stop: StopHandle::default(),
            session: None,
            recent: VecDeque::new(),
            phase: Phase::Fresh,
            _lock: lock,
            config,
        })
    }

    /// The resolved configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// By which any thread can end the run.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The present network, outside autodiff.
    pub fn model(&self) -> Option<TrainModel> {
        self.model.as_ref().map(Module::valid)
    }

    /// The first average of the weights, if one is kept.
    pub fn average(&self) -> Option<&TrainModel> {
        self.averages.first().map(|(_, model)| model)
    }

    fn elapsed(&self) -> f64 {
        self.state.elapsed_s + self.session.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }

    fn is_over(&self) -> bool {
        let run = &self.config.run;
        self.stop.is_requested()
            || run.steps.is_some_and(|n| self.state.step >= n)
            || run.minutes.is_some_and(|m| self.elapsed() >= 60.0 * m)
    }

    fn advance(&mut self) -> Result<(), TrainError> {
        if self.phase == Phase::Fresh {
            self.phase = Phase::Training;
            self.session = Some(Instant::now());
            if self.config.run.validate_every > 0 {
                self.validation = self.maker.validation(self.config.run.validation_images)?;
            }
            if !self.is_over() {
                self.prefetch = Some(Prefetch::start(self.maker.clone(), self.state.step)?);
            } else if self.done.save == Some(self.state.step) && !self.stop.is_requested() {
                // Nothing to add to what was saved.
                self.phase = Phase::Over;
                return self.finish();
            }
        }
        if self.is_over() {
            self.phase = Phase::Over;
            self.prefetch = None;
            if !self.stop.is_requested() {
                self.report(true)?;
            }
            self.save()?;
            let every = self.config.ema.snapshot_every;
            if every > 0 && self.state.step > 0 && !due(every, self.state.step) {
                self.snapshot()?;
            }
            return self.finish();
        }
        let step = self.train_step()?;
        self.state.pending.0 += step.loss;
        self.state.pending.1 += 1;
        self.events.push_back(TrainEvent::Step(step));
        if step.step.is_multiple_of(self.config.run.log_every) {
            let (sum, n) = std::mem::take(&mut self.state.pending);
            self.log.step(&step, sum / n as f64)?;
        }
        if due(self.config.ema.snapshot_every, step.step) {
            self.snapshot()?;
        }
        if !self.is_over() {
            self.report(false)?;
            if due(self.config.run.checkpoint_every, step.step) {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Validation and previews that are due, or all that are wanted at all.
    fn report(&mut self, last: bool) -> Result<(), TrainError> {
        let (run, step) = (&self.config.run, self.state.step);
        let wanted = |every: u64| every > 0 && (last || due(every, step));
        let (validate, preview) = (wanted(run.validate_every), wanted(run.preview_every));
        if validate && !self.validation.is_empty() && self.done.validation != Some(step) {
            self.validate()?;
            self.done.validation = Some(step);
        }
        if preview && self.done.preview != Some(step) {
            self.preview()?;
            self.done.preview = Some(step);
        }
        Ok(())
    }

    fn train_step(&mut self) -> Result<Step, TrainError> {
        let run = &self.config.run;
        let done = self.state.step;
        let mut batches = match &self.prefetch {
            Some(prefetch) => prefetch.next()?,
            None => self.maker.step(done)?,
        };
        if let Some(history) = &self.history {
            self.maker.draw_times(&mut batches, done, history);
        }
        let not_finite =
            |what: String| TrainError::NotFinite { step: done + 1, what, checkpoint: self.saved.clone() };
        let model = self.model.take().ok_or_else(|| TrainError::Model("the run has ended".into()))?;
        let rows = run.images_per_step();
        let (mut loss, mut sum) = (0.0, None::<GradientMap>);
        let mut row_losses = Vec::new();
        for (pass, batch) in batches.iter().enumerate() {
            let seed = key(run.seed, Purpose::Dropout, done * run.accumulation as u64 + pass as u64);
            let mode = Mode::Train { dropout_seed: seed };
            let found = self.objective.of(&model, batch, rows, mode, &self.device);
            if !found.value.is_finite() {
                return Err(not_finite("the loss".into()));
            }
            loss += found.value;
            row_losses.extend(batch.levels.iter().copied().zip(found.rows));
            let mut gradients = found.graph.backward();
            let gradients = GradientMap::take(&model, &mut gradients);
            sum = Some(match sum {
                None => gradients,
                Some(sum) => sum.plus(gradients),
            });
        }
        let mut gradients = sum.unwrap_or_default();
        let grad_norm = gradients.norm().map_err(|name| not_finite(format!("the gradient of {name}")))?;
        let clip = self.config.optimizer.clip_norm;
        if clip > 0.0 && grad_norm > clip {
            gradients = gradients.scaled(clip / grad_norm);
        }
        let learning_rate = self.config.learning_rate.at(done);
        let model = self.optimizer.step(model, gradients, learning_rate);
        self.state.step += 1;
        self.state.images += rows as u64;
        let images = self.state.images;
        self.averages = std::mem::take(&mut self.averages)
            .into_iter()
            .map(|(law, average)| (law, ema::update(average, &model, law.weight(images, rows as u64))))
            .collect();
        self.model = Some(model);
        if let Some(history) = &mut self.history {
            row_losses.into_iter().for_each(|(index, loss)| history.record(index, loss));
        }
        Ok(Step {
            step: self.state.step,
            images,
            loss,
            grad_norm,
            learning_rate,
            images_per_s: self.rate(rows),
            elapsed_s: self.elapsed(),
        })
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

    /// Runs `work` without counting its time into the rate of training.
    fn aside<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, TrainError>) -> Result<T, TrainError> {
        let start = Instant::now();
        let out = work(self)?;
        let spent: Duration = start.elapsed();
        self.recent.iter_mut().for_each(|t| *t += spent);
        Ok(out)
    }

    fn validate(&mut self) -> Result<(), TrainError> {
        self.aside(|run| {
            let of = |model: &TrainModel| -> f64 {
                let rows: usize = run.validation.iter().map(HostBatch::len).sum();
                run.validation
                    .iter()
                    .map(|b| run.objective.of(model, b, rows, Mode::Eval, &run.device).value)
                    .sum()
            };
            let Some(model) = run.model() else { return Ok(()) };
            let (loss, ema_loss) = (of(&model), run.average().map(of));
            let step = run.state.step;
            run.log.validation(step, loss, ema_loss)?;
            run.events.push_back(TrainEvent::Validation { step, loss, ema_loss });
            Ok(())
        })
    }

    fn preview(&mut self) -> Result<(), TrainError> {
        self.aside(|run| {
            let step = run.state.step;
            let out = run.config.run.out.clone();
            let model = match run.average() {
                Some(model) => model.clone(),
                None => match run.model() {
                    Some(model) => model,
                    None => return Ok(()),
                },
            };
            let classes = run.config.conditioning.told(run.class_names.len());
            let samples = preview::samples(&run.config, &model, classes, &run.device)?;
            let columns = (samples.len() as f64).sqrt().ceil() as usize;
            let sheet = grid(&samples, columns, 2, run.config.data.background);
            let folder = out.join("previews");
            std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, e))?;
            let path = folder.join(format!("step-{step:06}.png"));
            sheet.save_png(&path)?;
            let png = std::fs::read(&path).map_err(|e| TrainError::io(&path, e))?;
            run.log.preview(step, sheet.width, sheet.height, &png)?;
            plot::loss_curve(&run.log.curves, &out.join("loss.png"))?;
            run.events.push_back(TrainEvent::Preview { step, samples, path });
            Ok(())
        })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        self.aside(|run| {
            let Some(model) = &run.model else { return Ok(()) };
            if run.done.save == Some(run.state.step) {
                return Ok(());
            }
            let folder = run.config.run.out.join(CHECKPOINTS);
            let logs = run.log.lengths()?;
            let state = State { logs, elapsed_s: run.elapsed(), ..run.state.clone() };
            let mut tensors = vec![("model".to_owned(), export(model))];
            tensors.extend(run.averages.iter().enumerate().map(|(i, (_, m))| (ema_name(i), export(m))));
            tensors.push(("optimizer".to_owned(), run.optimizer.export()));
            tensors.extend(run.history.iter().map(|h| (TIMES.to_owned(), h.export())));
            if let Some(what) = not_finite(&tensors) {
                let (step, checkpoint) = (run.state.step, run.saved.clone());
                return Err(TrainError::NotFinite { step, what, checkpoint });
            }
            let checkpoint = Checkpoint::write(&folder, state, &tensors)?;
            checkpoint::prune(&folder, run.config.run.keep_last, run.state.step)?;
            run.saved = Some(checkpoint.path.clone());
            let step = run.state.step;
            run.done.save = Some(step);
            run.events.push_back(TrainEvent::Checkpointed { step, path: checkpoint.path });
            Ok(())
        })
    }

    /// Keeps the averages of this step for lengths that are wanted after training.
    fn snapshot(&mut self) -> Result<(), TrainError> {
        self.aside(|run| {
            let tensors: Vec<_> =
                run.averages.iter().enumerate().map(|(i, (_, m))| (ema_name(i), export(m))).collect();
            if let Some(what) = not_finite(&tensors) {
                let (step, checkpoint) = (run.state.step, run.saved.clone());
                return Err(TrainError::NotFinite { step, what, checkpoint });
            }
            let state = State { elapsed_s: run.elapsed(), ..run.state.clone() };
            Checkpoint::write(&run.config.run.out.join(SNAPSHOTS), state, &tensors)?;
            Ok(())
        })
    }

    fn finish(&mut self) -> Result<(), TrainError> {
        let recent = &self.log.curves.train;
        let tail = recent.get(recent.len().saturating_sub(10)..).unwrap_or_default();
        let (sum, n) = match (tail.len(), self.state.pending) {
            // Shorter than the interval of the log.
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
        let model = match self.average() {
            Some(model) => Some(model.clone()),
            None => self.model(),
        };
        if let Some(model) = model {
            export::model(&model.unet, &self.config, &self.class_names, &summary)?;
        }
        self.events.push_back(TrainEvent::Finished(summary));
        Ok(())
    }
}

impl Iterator for TrainLoop {
    type Item = Result<TrainEvent, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.phase == Phase::Over {
                return None;
            }
            if let Err(e) = self.advance() {
                self.phase = Phase::Over;
                self.prefetch = None;
                self.events.clear();
                return Some(Err(e));
            }
        }
    }
}

/// The first tensor that must not go into a checkpoint, as an overflowing update leaves it.
fn not_finite(files: &[(String, BTreeMap<String, HostTensor>)]) -> Option<String> {
    let mut all = files.iter().flat_map(|(file, tensors)| tensors.iter().map(move |(n, t)| (file, n, t)));
    let (file, name, _) = all.find(|(.., t)| !t.values.iter().all(|v| v.is_finite()))?;
    Some(format!("{name} ({file})"))
}

fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The file of an average.
pub(crate) fn ema_name(index: usize) -> String {
    if index == 0 { "ema".into() } else { format!("ema-{index}") }
}
