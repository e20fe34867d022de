//! What `tweedie edit` and `tweedie restore` share: the model, the sampler and the files of several answers.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{Image, clip, open_picture, open_sized},
    library,
    media::{Audio, Rgb, SOUND_ENDINGS, spectrogram},
    pipe::{
        ClassSelector, Event, Job, LoadOptions, Media, Output, Pipeline, PipelineError, RecordedFile,
        Request,
        known::{Depth, Known, Mended, Picture, Recording, spread},
        media::{
            AnimationFormat, Video, enlarge, read_request, write_picture, write_png, write_recording,
            write_video,
        },
        posterior::{METHODS, Method},
    },
};

use super::sample::{check_place, numbered};
use crate::{
    control, interrupt, memory, model,
    sheet::{Cell, Sheet},
    stored::located,
    ui::{Ui, counted},
};

/// How many times [`library::ENLARGER`] enlarges.
const ENLARGES: usize = 4;
/// Smallest side of images on a sheet, if enlarged by a whole factor.
const SHEET_SIDE: usize = 128;

#[derive(ClapArgs, Debug)]
pub struct Answers {
    /// Model folder, single-file checkpoint, or a name of `tweedie models` [default for images: emoji-32, or emoji-text-64
    /// with --prompt].
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Number of answers.
    #[arg(short = 'n', long, value_name = "N", default_value = "1")]
    count: NonZeroUsize,
    /// Random seed. The same seed gives the same answers.
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Prompt, for text-to-image models.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Negative prompt.
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    negative_prompt: Option<String>,
    /// Class by name or number; repeat to use several in turn [default: no class if the model knows that, or all in turn].
    #[arg(short, long, value_name = "CLASS")]
    class: Vec<ClassSelector>,
    /// Repeat the request that is stored in this PNG, GIF, WebP, WAV or FLAC file; other flags but those of the sampler and the output are ignored.
    #[arg(long, value_name = "FILE")]
    like: Option<PathBuf>,

    /// How the result follows from what is known, see below.
    #[arg(long, value_name = "NAME", help_heading = "Sampler")]
    method: Option<Method>,
    /// Number of solver steps [default: the model's].
    #[arg(long, value_name = "N", help_heading = "Sampler")]
    steps: Option<NonZeroUsize>,
    /// Solver, for methods that work with any [default: the method's]; `tweedie sample --solvers` lists them.
    #[arg(long, value_name = "NAME", help_heading = "Sampler")]
    solver: Option<String>,
    /// Amount of fresh noise in every step, from 0 to 1 [default: the method's].
    #[arg(long, value_name = "ETA", help_heading = "Sampler")]
    eta: Option<f64>,
    /// Guidance scale; 1 or less means no guidance [default: the model's if there is a prompt or class, otherwise 1].
    #[arg(long, value_name = "SCALE", help_heading = "Sampler")]
    guidance: Option<f64>,
    /// Maximum batch size in one call of the network.
    #[arg(long, value_name = "ROWS", help_heading = "Sampler")]
    chunk: Option<NonZeroUsize>,

    /// File to write: for an image a PNG, for a sound a WAV or FLAC file, with the channels and the depth of the input. The request is
    /// stored in it. Several answers are written to `x-0.png`, `x-1.png` and so on for `-o x.png` [default: edited.png or
    /// edited.wav].
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,
    /// Also write a sheet: the image before, the mask and the answers; of sounds their spectrograms.
    #[arg(long, value_name = "FILE.png", help_heading = "Output")]
    sheet: Option<PathBuf>,
    /// Also write how much the answers differ: the standard deviation of each pixel, from black (none) to white (most).
    #[arg(long, value_name = "FILE.png", help_heading = "Output")]
    spread: Option<PathBuf>,
}

impl Answers {
    /// The request about `known`, or the stored one.
    pub fn request(
        &self,
        known: Option<Known>,
        strength: Option<f64>,
        size: Option<Vec<usize>>,
    ) -> Result<Request> {
        let mut request = match &self.like {
            Some(path) => {
                let stored = read_request(path)?.filter(|request| request.known.is_some());
                stored.with_context(|| {
                    format!(
                        "{}: no request of `tweedie edit` or `restore` is stored in this file",
                        path.display()
                    )
                })?
            }
            None => Request {
                count: self.count,
                seed: self.seed,
                prompts: self.prompt.iter().cloned().collect(),
                negative_prompt: self.negative_prompt.clone(),
                classes: (!self.class.is_empty()).then(|| self.class.clone()),
                known,
                strength,
                size,
                ..Request::default()
            },
        };
        request.steps = self.steps.or(request.steps);
        request.solver = self.solver.clone().or(request.solver);
        request.eta = self.eta.or(request.eta);
        request.guidance = self.guidance.or(request.guidance);
        request.chunk = self.chunk.or(request.chunk);
        if let (Some(known), Some(method)) = (&mut request.known, self.method) {
            known.method = Some(method);
        }
        match &self.like {
            Some(path) => located(&request, path, false),
            None => Ok(request),
        }
    }

    /// Whether a stored request is repeated.
    pub fn is_repeated(&self) -> bool {
        self.like.is_some()
    }

    /// The files of `count` answers with one of these extensions, by default the first.
    fn places(&self, count: usize, endings: &[&str]) -> Result<Vec<PathBuf>> {
        let own = || PathBuf::from("edited").with_extension(endings.first().unwrap_or(&""));
        let output = self.output.clone().unwrap_or_else(own);
        let pictures = self.sheet.iter().chain(&self.spread).map(|path| (path, &["png"][..]));
        for (path, endings) in pictures.chain([(&output, endings)]) {
            let has = |known: &&str| path.extension().is_some_and(|own| own.eq_ignore_ascii_case(known));
            ensure!(
                endings.iter().any(has),
                "{}: expected a file name with the extension .{}",
                path.display(),
                endings.join(" or .")
            );
        }
        let files = numbered(&output, count);
        files.iter().chain(&self.sheet).chain(&self.spread).try_for_each(|path| check_place(path))?;
        ensure!(self.spread.is_none() || count > 1, "--spread: one answer has no spread; increase -n");
        Ok(files)
    }

    /// The model that enlarges `factor` times, if the flags allow one: the one that was named, or the shipped one.
    ///
    /// # Errors
    /// If the named model cannot be loaded, or enlarges by another factor.
    pub fn enlarger(&self, factor: usize, device: &str, ui: Ui) -> Result<Option<Pipeline>> {
        let asks = self.method.is_some() || !self.class.is_empty() || self.eta.is_some();
        if asks || self.like.is_some() || self.prompt.is_some() && self.model.is_none() {
            return Ok(None);
        }
        let device = tweedie::ops::device(device)?;
        let Some(model) = &self.model else {
            if factor != ENLARGES || library::find(Path::new(library::ENLARGER)).is_err() {
                return Ok(None);
            }
            ui.note(format!(
                "using {}; with --model or --method another model follows from its prior",
                library::ENLARGER
            ));
            return model::pipeline(Some(Path::new(library::ENLARGER)), &device, ui).map(Some);
        };
        let pipeline = model::pipeline(Some(model), &device, ui)?;
        let Some(own) = pipeline.model().small.as_ref().map(|small| small.factor) else { return Ok(None) };
        ensure!(own == factor, "--enlarge {factor}: {} enlarges {own} times", model.display());
        ensure!(
            self.prompt.is_none() || pipeline.reads_texts(),
            "--prompt: {} enlarges without a text",
            model.display()
        );
        Ok(Some(pipeline))
    }

    /// Enlarges an image with a model that was trained to do so.
    pub fn enlarge(&self, image: &Path, pipeline: &Pipeline, ui: Ui) -> Result<ExitCode> {
        let files = self.places(self.count.get(), &["png"])?;
        let picture = open_picture(image)?;
        ensure!(
            !picture.is_transparent(),
            "{}: the image is transparent in places; give one without transparency",
            image.display()
        );
        if picture.depth() == Depth::Sixteen {
            ui.warn(format!("{}: its 16 bits are read and written as 8", image.display()));
        }
        let request = Request {
            count: self.count,
            seed: self.seed,
            image: Some(RecordedFile::of(image)?),
            steps: self.steps,
            solver: self.solver.clone(),
            guidance: self.guidance,
            chunk: self.chunk,
            negative_prompt: self.negative_prompt.clone(),
            ..Request::default()
        };
        let request = pipeline.describing(request, &self.prompt.iter().cloned().collect::<Vec<_>>());
        let job = pipeline.prepare(&request)?;
        let start = Instant::now();
        let Some((output, _)) = run(job, ui)? else { return Ok(interrupt::nothing_written(ui)) };
        let seconds = start.elapsed().as_secs_f64();
        let mut written = files.clone();
        for (image, path) in output.images.iter().zip(&files) {
            write_png(path, image, Some(&request))?;
        }
        let pictures: Vec<Picture> = output.images.iter().map(Picture::from).collect();
        let spread = spread(&pictures.iter().collect::<Vec<_>>());
        if let (Some(path), Some(spread)) = (&self.spread, &spread) {
            write_png(path, &spread.image, None)?;
            written.push(path.clone());
        }
        if let (Some(path), Some(first)) = (&self.sheet, output.images.first()) {
            let before = open_sized(image, [first.height, first.width])?;
            let none = Image::filled(first.width, first.height, Rgb([0; 3]));
            let sheet = sheet([before, none], &output.images).map_err(anyhow::Error::msg)?;
            write_png(path, &sheet, Some(&request))?;
            written.push(path.clone());
        }
        let places: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        let mut text = format!(
            "{} in {seconds:.1} s, {}",
            counted(output.images.len(), "answer"),
            counted(output.evals, "evaluation")
        );
        if let Some(spread) = &spread {
            text.push_str(&format!("\nlargest standard deviation of the answers: {:.1}/255", spread.largest));
        }
        ui.result(
            &json!({ "event": "finished", "request": request, "evaluations": output.evals, "seconds": seconds,
                "spread": spread.as_ref().map(|spread| spread.largest), "files": places }),
            format!("{text}\n{}", places.join("\n")),
        );
        Ok(ExitCode::SUCCESS)
    }

    /// Makes the answers and writes all files.
    pub fn make(&self, mut request: Request, ui: Ui, device: &str) -> Result<ExitCode> {
        let sound =
            request.known.as_ref().map(|known| known.image.path.clone()).filter(|path| is_sound(path));
        if let Some(path) = &sound {
            ensure!(self.model.is_some(), "{}: expected --model with a model of sounds", path.display());
            ensure!(self.spread.is_none(), "--spread is only supported for images");
        }
        let count = request.count.get();
        let files = match (&sound, &self.model) {
            (Some(_), _) => self.places(count, &["wav", "flac"])?,
            // It may be a model of clips.
            (None, Some(_)) => self.places(count, &CLIPS)?,
            (None, None) => self.places(count, &["png"])?,
        };
        let device = tweedie::ops::device(device)?;
        let controls = control::folders(&request);
        let options = LoadOptions {
            loras: &request.loras,
            embeddings: &request.embeddings,
            controls: &controls,
            ..LoadOptions::default()
        };
        let pipeline =
            model::pipeline_for_with(self.model.as_deref(), &request.prompts, &options, &device, ui)?;
        let clip = pipeline.network().spec().axes == 3;
        if clip {
            self.suits_clips(&files, ui)?;
        } else if sound.is_none() {
            self.places(count, &["png"])?;
            request.known.iter().for_each(|known| tell_first_frame(&known.image.path, ui));
        }
        if !self.is_repeated() {
            self.without_condition(&mut request, &pipeline);
        }
        model::tell_classes(pipeline.classes(), request.classes.as_deref().unwrap_or_default(), ui);
        let job = pipeline.prepare(&request)?;
        job.notes().iter().for_each(|note| ui.note(note));
        self.tell_size(&pipeline, &job, ui);
        if let (Some(_), &[height, width]) = (&self.sheet, job.size()) {
            let sheets = [height, width].map(|n| n.max(SHEET_SIDE));
            memory::check_sheets(request.count.get() + 3, sheets, 1, 1, "-n")?;
        }
        let start = Instant::now();
        let before = job.before();
        let Some((output, seen)) = run(job, ui)? else { return Ok(interrupt::nothing_written(ui)) };
        let seconds = start.elapsed().as_secs_f64();
        let mut written = Vec::new();
        for (edited, path) in output.edited.iter().zip(&files) {
            write_picture(path, &edited.picture, Some(&request))?;
            written.push(path.clone());
        }
        for (mended, path) in output.mended.iter().zip(&files) {
            write_recording(path, &mended.recording, Some(&request))?;
            written.push(path.clone());
            if mended.clipped > 0 {
                let path = path.display();
                ui.warn(format!(
                    "{path}: {} of the new values were outside the file's range and are clipped",
                    mended.clipped
                ));
            }
        }
        if let (Media::Clips(clips), true) = (&output.media, clip) {
            for (clip, path) in clips.iter().zip(&files) {
                write_video(path, clip, Some(&request))?;
                written.push(path.clone());
            }
        }
        let (before, seen) = match &sound {
            Some(path) => spectrograms(path, &output.mended)?,
            None => (before, seen),
        };
        let pictures: Vec<_> = output.edited.iter().map(|edited| &edited.picture).collect();
        let spread = spread(&pictures);
        if let (Some(path), Some(spread)) = (&self.spread, &spread) {
            write_png(path, &spread.image, None)?;
            written.push(path.clone());
        }
        if let (Some(path), Some(before)) = (&self.sheet, before) {
            let sheet = sheet(before, &seen).map_err(anyhow::Error::msg)?;
            write_png(path, &sheet, Some(&request))?;
            written.push(path.clone());
        }
        let places: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        let seams = &output.seams;
        let mut text = format!(
            "{} in {seconds:.1} s, {}",
            counted(count, "answer"),
            counted(output.evals, "evaluation")
        );
        if let Some(seam) = seams.iter().flatten().max_by(|a, b| a.across.total_cmp(&b.across)) {
            text.push_str(&format!(
                "\nborder of the mask: neighbouring pixels differ by {:.1}/255 across it and by {:.1}/255 beside it",
                seam.across, seam.beside
            ));
        }
        if let Some(spread) = &spread {
            text.push_str(&format!("\nlargest standard deviation of the answers: {:.1}/255", spread.largest));
        }
        ui.result(
            &json!({ "event": "finished", "request": request, "evaluations": output.evals, "seconds": seconds,
                "seams": seams, "spread": spread.as_ref().map(|spread| spread.largest), "files": places }),
            format!("{text}\n{}", places.join("\n")),
        );
        Ok(ExitCode::SUCCESS)
    }

    /// Checks whether clips can be written to `files`, and says where they lose something.
    fn suits_clips(&self, files: &[PathBuf], ui: Ui) -> Result<()> {
        ensure!(
            self.sheet.is_none() && self.spread.is_none(),
            "--sheet and --spread do not show clips; remove them"
        );
        files.iter().try_for_each(|path| Video::check(path))?;
        let exact = |path: &&PathBuf| {
            matches!(AnimationFormat::of(path), Some(AnimationFormat::Apng | AnimationFormat::WebP))
        };
        if let Some(path) = files.iter().find(|path| !exact(path)) {
            ui.warn(format!(
                "{}: this format changes colours a little; only .webp and .png keep the known frames exactly",
                path.display()
            ));
        }
        Ok(())
    }

    /// Without a class, the model is asked without guidance for no class: the image itself says what it shows.
    fn without_condition(&self, request: &mut Request, pipeline: &Pipeline) {
        if request.classes.is_none() && request.prompts.is_empty() {
            if let Some(null) = pipeline.extras().null_class.filter(|_| pipeline.classes().count > 0) {
                request.classes = Some(vec![ClassSelector::Index(null)]);
            }
            let conditional = pipeline.classes().count > 0 || pipeline.reads_texts();
            request.guidance = request.guidance.or(conditional.then_some(1.0));
        }
    }

    /// Says if the network works on another size than its own.
    fn tell_size(&self, pipeline: &Pipeline, job: &Job, ui: Ui) {
        if let (Some(&[high, wide]), &[height, width]) = (pipeline.native_size().as_deref(), job.size())
            && height * width > 2 * high * wide
        {
            ui.warn(format!(
                "the part of the image that is worked on has {width}×{height} pixels, but the model was made for {wide}×{high}: \
                 large forms may not be plausible"
            ));
        }
    }
}

/// File extensions of clips.
const CLIPS: [&str; 8] = ["png", "apng", "webp", "gif", "y4m", "mp4", "webm", "mkv"];

/// Says that a model of images only sees the first frame of a clip.
fn tell_first_frame(path: &Path, ui: Ui) {
    if clip::read(path, clip::Part::First(2)).is_ok_and(|clip| clip.video.frames.len() > 1) {
        ui.warn(format!(
            "{}: only its first frame is used, because the model makes images; --model moving-emoji, or another model of clips, \
             takes all",
            path.display()
        ));
    }
}

/// The result, and what the network worked on in each answer; `None` if the run was interrupted.
fn run(job: Job, ui: Ui) -> Result<Option<(Output, Vec<Image>)>> {
    let cancelled = interrupt::flag(ui);
    let bar = ui.bar(0, "steps");
    let closeup = job.closeup();
    let ran = job.run(&cancelled, &mut |event| {
        let Event::Step { index, of, .. } = event else { return ControlFlow::Continue(()) };
        bar.set_length(of as u64);
        bar.set_position(index as u64);
        ui.event(&json!({ "event": "step", "index": index, "of": of }));
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    match ran {
        Err(PipelineError::Cancelled) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(output) => {
            let seen = output.edited.iter().filter_map(closeup).collect();
            Ok(Some((output, seen)))
        }
    }
}

/// The spectrogram of the sound before, without a mask, and those of the answers.
fn spectrograms(before: &Path, answers: &[Mended]) -> Result<(Option<[Image; 2]>, Vec<Image>)> {
    let before = Recording::open(before)?.audio();
    let picture = |sound: &Audio| spectrogram(sound, 2 * SHEET_SIDE, SHEET_SIDE, before.seconds());
    let none = Image::filled(2 * SHEET_SIDE, SHEET_SIDE, Rgb([0; 3]));
    let answers = answers.iter().map(|mended| picture(&mended.recording.audio())).collect();
    Ok((Some([picture(&before), none]), answers))
}

/// The image before, the mask and the answers in one row, or several rows.
fn sheet([image, mask]: [Image; 2], answers: &[Image]) -> Result<Image, String> {
    const ACROSS: usize = 6;
    let zoom = SHEET_SIDE.div_ceil(image.width.min(image.height).max(1)).max(1);
    let cell = |image: &Image, caption: String| Some(Cell { image: enlarge(image, zoom), caption });
    let mut cells = vec![cell(&image, "before".into())];
    if mask.pixels.iter().any(|v| *v > 0) {
        cells.push(cell(&mask, "mask".into()));
    }
    cells.extend(answers.iter().enumerate().map(|(i, answer)| cell(answer, format!("answer {i}"))));
    let across = cells.len().min(ACROSS);
    let rows = cells.chunks(across).map(|row| (String::new(), row.to_vec())).collect();
    Sheet { columns: vec![String::new(); across], rows }.draw()
}

/// The methods, for help.
pub fn methods() -> String {
    let mut text = String::from("Methods, with their parameters [and defaults]:\n");
    for (name, summary) in METHODS {
        text.push_str(&format!("  {name}\n      {summary}\n"));
    }
    text
}

/// Whether a file has the extension of sounds.
pub fn is_sound(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    SOUND_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// Checks that a file exists before a model is loaded.
pub fn check_readable(path: &Path) -> Result<()> {
    std::fs::metadata(path).map(drop).with_context(|| format!("cannot read {}", path.display()))
}
