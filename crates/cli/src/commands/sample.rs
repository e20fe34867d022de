//! `tweedie sample`.

mod args;
mod continued;
mod enlarge;
mod output;
mod spoken;

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tweedie::{
    core::solver::SOLVERS,
    ops::ExecContext,
    pipe::{
        Event, Job, Medium, Output, Pipeline, PipelineError, Refinement, Request, media::AnimationFormat,
    },
};

pub use args::Args;
use args::menus;
use output::Films;
pub use output::numbered;

use crate::{
    interrupt, memory, model,
    team::Team,
    ui::{Ui, counted},
};

/// Default output of models that make images.
const DEFAULT_IMAGE: &str = "tweedie.png";
/// Default number of images of models without latents.
const PIXELS: usize = 36;
/// Maximum number of frames of a filmstrip.
const MOMENTS: usize = 10;
/// Maximum number of frames of an animation.
const FRAMES: usize = 48;

/// What the samples are called in messages.
fn noun(medium: Medium) -> &'static str {
    match medium {
        Medium::Image => "image",
        Medium::Audio => "signal",
        Medium::Clip => "clip",
        Medium::Tensor => "sample",
    }
}

/// Prints all solvers.
fn list(ui: Ui) {
    let all: Vec<_> = SOLVERS
        .iter()
        .map(|s| {
            json!({ "name": s.name, "aliases": s.aliases, "summary": s.summary, "paper": s.paper,
                "order": s.order, "evaluations": s.evaluations, "deterministic": s.is_deterministic(),
                "adaptive": s.adaptive, "eta": s.noise_of(1.0).is_some() })
        })
        .collect();
    ui.result(&json!({ "solvers": all }), menus());
}

pub fn run(args: Args, ui: Ui, device: &str, team: &Team) -> Result<ExitCode> {
    if args.solvers {
        list(ui);
        return Ok(ExitCode::SUCCESS);
    }
    args.check_shared(team)?;
    let animation = args.animation.as_deref().map(animation_format).transpose()?;
    ensure!(args.zoom >= 1 && args.zoom <= 64, "--zoom {}: expected a value from 1 to 64", args.zoom);
    for path in args.files().filter(|path| !is_standard(path)) {
        check_place(path)?;
    }
    let streams = args.output.as_deref().is_some_and(is_standard);
    if streams {
        spoken::check(&args, team, ui)?;
    }
    if args.output.is_none() {
        check_place(Path::new(DEFAULT_IMAGE))?;
    }
    if let Some(folder) = &args.singles {
        check_folder(folder)?;
    }
    let device = tweedie::ops::device(device)?;
    let mut request = args.request(ui)?;
    let pipeline = args.pipeline(&request, &device, ui)?;
    let context = ExecContext { measure: args.fastest_kernels, ..pipeline.context().clone() };
    let pipeline = pipeline.with_context(context);
    let axes = pipeline.axes();
    if args.like.is_none() {
        request.size = args.size.map(|size| size.of(axes));
    }
    if args.like.is_none() && args.count.is_none() {
        let latents = pipeline.model().codec.is_some();
        let count = match axes {
            2 if pipeline.model().small.is_some() => 1,
            2 if !latents && request.prompts.is_empty() => PIXELS,
            _ => request.prompts.len(),
        };
        request.count = NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    }
    if let (Some(_), Some(path)) = (&request.known, &args.like) {
        bail!("{}: the stored request is that of an edited image; use `tweedie edit --like`", path.display());
    }
    if request.continued.is_some() || request.keep.is_some() {
        return continued::run(&args, request, &pipeline, ui);
    }
    let by = request.enlarge.take();
    let enlarger = by.as_deref().map(|path| enlarge::model(path, &device, ui)).transpose()?;
    let refiner =
        request.refiner.as_deref().map(|path| model::pipeline(Some(path), &device, ui)).transpose()?;
    ensure!(
        refiner.is_none() || !team.is_shared(),
        "--refiner is not supported under mpirun; start one process"
    );
    let work = match &refiner {
        Some(refiner) => Work::Both(Refinement::prepare(&pipeline, refiner, &request)?),
        None => Work::One(pipeline.prepare(&request)?),
    };
    let job = work.job();
    job.notes().iter().for_each(|note| ui.note(note));
    if let Some(remark) = job.remark() {
        ui.warn(remark);
    }
    if streams {
        return spoken::run(work, &pipeline, ui);
    }
    let medium = job.medium();
    let output_path = args.place(medium, job.results())?;
    model::tell_classes(pipeline.classes(), request.classes.as_deref().unwrap_or_default(), ui);
    let (count, results, steps) = (job.count(), job.results(), work.steps());
    tell_voice(&pipeline, &request, ui);
    let solver = job.recipe().solver.name();
    match *job.result_size() {
        [height, width] => args.check_memory(count, [height, width], steps)?,
        [frames, height, width] if medium == Medium::Clip => {
            memory::check_sheets(count, [height, width], args.zoom, frames, "--count or --zoom")?;
        }
        _ => {}
    }
    let mut films = Films::new(&args, animation.is_some(), &pipeline)?;

    let cancelled = interrupt::flag(ui);
    let start = Instant::now();
    let bar = ui.bar(0, "steps");
    let mut failed = None;
    let run = work.run(team, &cancelled, &mut |event| {
        let Event::Step { index, of, ref rows, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        let (first, last) = (rows.start + 1, rows.end);
        bar.set_message(format!(
            "{}s {first}-{last} · {}",
            noun(medium),
            speed(noun(medium), count as f64 * index as f64 / of as f64, start)
        ));
        ui.event(&json!({ "event": "step", "index": index, "of": of }));
        match films.see(&event, steps) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error.into());
    }
    let output = match run {
        Err(PipelineError::Cancelled) => {
            return Ok(interrupt::nothing_written(ui));
        }
        other => match other? {
            Some(output) => output,
            // The first rank has the images.
            None => return Ok(ExitCode::SUCCESS),
        },
    };
    let output = match &enlarger {
        Some(enlarger) => match enlarge::enlarged(enlarger, output, &request, &cancelled, ui)? {
            Some(output) => output,
            None => return Ok(interrupt::nothing_written(ui)),
        },
        None => output,
    };
    request.enlarge = by;
    let seconds = start.elapsed().as_secs_f64();
    let said = speed(noun(medium), results as f64, start);
    let written = args.write(&request, &output, &output_path, &films, animation, ui)?;

    let places: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
    ui.result(
        &json!({ "event": "finished", "request": request, "count": results, "solver": solver,
            "steps": steps, "evaluations": output.evals, "seconds": seconds, "files": places }),
        format!(
            "{}, {} of {solver}, in {seconds:.1} s ({said})\n{}",
            counted(results, noun(medium)),
            counted(steps, "step"),
            places.join("\n")
        ),
    );
    Ok(ExitCode::SUCCESS)
}

/// Whether a path stands for standard output.
fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// Says which voice speaks unless another is chosen.
fn tell_voice(pipeline: &Pipeline, request: &Request, ui: Ui) {
    if let (Some(speech), None) = (&pipeline.extras().speech, &request.voice)
        && let [first, _, ..] = &*speech.voices
    {
        ui.note(format!("voice: {first}; --voice selects one of {}", speech.voices.join(", ")));
    }
}

/// What is run: a job, or one and the refiner's.
#[allow(clippy::large_enum_variant)]
enum Work {
    One(Job),
    Both(Refinement),
}

impl Work {
    /// The job that makes the results.
    fn job(&self) -> &Job {
        match self {
            Self::One(job) => job,
            Self::Both(both) => both.job(),
        }
    }

    fn steps(&self) -> usize {
        match self {
            Self::One(job) => job.steps(),
            Self::Both(both) => both.steps(),
        }
    }

    /// The results, on the first rank.
    fn run(
        self,
        team: &Team,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Output>, PipelineError> {
        match self {
            Self::One(job) => job.run_on(&*team.ranks(), cancelled, on),
            Self::Both(both) => both.run(cancelled, on).map(Some),
        }
    }
}

/// Images per second, or seconds per image.
fn speed(noun: &str, images: f64, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    if images >= seconds {
        format!("{:.1} {noun}s/s", images / seconds)
    } else {
        format!("{:.1} s/{noun}", seconds / images)
    }
}

impl Args {
    /// Checks that several ranks can share the work.
    fn check_shared(&self, team: &Team) -> Result<()> {
        let alone = [
            ("--filmstrip", self.filmstrip.is_some()),
            ("--animation", self.animation.is_some()),
            ("--fastest-kernels", self.fastest_kernels),
        ];
        match alone.into_iter().find(|(_, given)| *given && team.is_shared()) {
            Some((flag, _)) => bail!("{flag} is not supported on several ranks; start one process"),
            None => Ok(()),
        }
    }

    /// Checks that there is memory for grid, filmstrip and animation.
    fn check_memory(&self, count: usize, size: [usize; 2], steps: usize) -> Result<()> {
        let film = |wanted: bool, moments: usize| if wanted { moments.min(steps) } else { 0 };
        let sheets = 1 + film(self.filmstrip.is_some(), MOMENTS) + film(self.animation.is_some(), FRAMES);
        memory::check_sheets(count, size, self.zoom, sheets, "--count, --zoom or --size")
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let all = [&self.output, &self.filmstrip, &self.animation, &self.save_tensors];
        all.into_iter().flatten().map(PathBuf::as_path)
    }
}

pub fn animation_format(path: &Path) -> Result<AnimationFormat> {
    AnimationFormat::of(path).with_context(|| {
        format!("--animation {}: expected a file name with the extension .gif, .png or .webp", path.display())
    })
}

/// Checks before the work whether a file can be written at `path`.
pub fn check_place(path: &Path) -> Result<()> {
    tweedie_system::files::check_file(path).with_context(|| cannot_write(path))
}

/// Checks before the work whether files can be written to a folder, which need not exist.
pub fn check_folder(path: &Path) -> Result<()> {
    tweedie_system::files::check_folder(path).with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
