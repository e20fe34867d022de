//! `tweedie interpolate`.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{Image, Rgb, fitted, grid, image_facts, open_sized},
    pipe::{
        ClassSelector, Event, Pipeline, PipelineError, Request,
        interpolate::{End, Endpoint, Interpolation, between, interpolate},
        media::{Animation, enlarge, write_animation, write_png},
    },
};

use super::sample::{animation_format, check_place};
use crate::{interrupt, memory, model, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Start: a seed, or an image, which is encoded as noise, or as CLIP's embedding if the model reads it (DALL·E 2).
    from: String,
    /// End: a seed or an image.
    to: String,
    /// Model folder or file, or a name of `tweedie models` [default: emoji-32, or emoji-text-64 with --prompt].
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Prompt of all images, for text-to-image models.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Number of images, including both ends.
    #[arg(short = 'n', long, value_name = "N", default_value = "9")]
    frames: NonZeroUsize,
    /// Class of all images, by name or number [default: no class].
    #[arg(short, long, value_name = "CLASS")]
    class: Option<ClassSelector>,
    /// Guidance scale; 1 means no guidance. Larger values make the encoding of images as noise less exact [default: 1, or the
    /// model's between embeddings].
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Number of solver steps, in each direction [default: 60, or the model's between embeddings].
    #[arg(long, value_name = "N")]
    steps: Option<NonZeroUsize>,
    /// Solver, which must be deterministic unless it goes between embeddings [default: dpmpp-2m, or the model's between
    /// embeddings].
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Seed of the noise of all images between embeddings.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Image file to write. Given images are shown at both ends beside their reconstructions.
    #[arg(short, long, value_name = "FILE.png", default_value = "interpolation.png")]
    output: PathBuf,
    /// Also write an animation back and forth; the extension selects .gif, .png (APNG) or .webp.
    #[arg(long, value_name = "FILE")]
    animation: Option<PathBuf>,
    /// Enlarge pixels by this factor.
    #[arg(long, value_name = "TIMES", default_value_t = 2)]
    zoom: usize,
}

const PAPER: Rgb = Rgb([255; 3]);

pub fn run(args: Args, ui: Ui, device: &str) -> Result<ExitCode> {
    ensure!(
        (2..=256).contains(&args.frames.get()),
        "--frames {}: expected a value from 2 to 256",
        args.frames
    );
    ensure!((1..=64).contains(&args.zoom), "--zoom {}: expected a value from 1 to 64", args.zoom);
    check_place(&args.output)?;
    let animation = args.animation.as_deref().map(animation_format).transpose()?;
    if let Some(path) = &args.animation {
        check_place(path)?;
    }
    let device = tweedie::ops::device(device)?;
    let prompts: Vec<String> = args.prompt.iter().cloned().collect();
    let pipeline = model::pipeline_for(args.model.as_deref(), &prompts, &device, ui)?;
    model::tell_classes(pipeline.classes(), args.class.as_slice(), ui);
    if let Some(&[height, width]) = pipeline.result_size().as_deref() {
        let sheets = if animation.is_some() { 3 } else { 1 };
        memory::check_sheets(
            args.frames.get() + 2,
            [height, width],
            args.zoom,
            sheets,
            "--frames or --zoom",
        )?;
    }
    let size = pipeline.native_size().context("the model has no default size")?;
    let embeds = args.goes_between_embeddings(&pipeline)?;
    ensure!(embeds || args.seed == 0, "--seed: the ends are encoded as noise; a seed can be an end itself");
    let endpoints = match embeds {
        true => [whole(&args.from)?, whole(&args.to)?],
        false => [endpoint(&args.from, &size)?, endpoint(&args.to, &size)?],
    };
    let cancelled = interrupt::flag(ui);
    let (from, to) = (&endpoints[0], &endpoints[1]);
    let made = match (from, to) {
        (Endpoint::Image(a), Endpoint::Image(b)) if embeds => {
            args.between(&pipeline, [a, b], ui, &cancelled).map(|frames| (frames, None))
        }
        _ => {
            let bar = ui.spinner("encoding and decoding");
            let solver = args.solver.as_deref().unwrap_or("dpmpp-2m");
            let steps = args.steps.map_or(60, NonZeroUsize::get);
            let request = args.request(&pipeline, prompts);
            let made =
                interpolate(&pipeline, &request, [from, to], args.frames.get(), solver, steps, &cancelled);
            bar.finish_and_clear();
            made.map(|Interpolation { frames, ends }| (frames, Some(ends)))
        }
    };
    let (frames, ends) = match made {
        Err(PipelineError::Cancelled) => return Ok(interrupt::nothing_written(ui)),
        other => other?,
    };
    ensure!(!frames.is_empty(), "the model's samples are not images");
    let given = |endpoint: &Endpoint| match endpoint {
        Endpoint::Image(image) => Some(image.clone()),
        Endpoint::Seed(_) => None,
    };
    // Given images are shown at the size of the others.
    let side = frames.first().map_or([1, 1], |frame| [frame.height, frame.width]);
    let given = |endpoint| given(endpoint).map(|image| fitted(&image, side));
    let strip: Vec<Image> = given(from).into_iter().chain(frames.iter().cloned()).chain(given(to)).collect();
    write_png(&args.output, &enlarge(&grid(&strip, strip.len(), 2, PAPER), args.zoom), None)?;
    let mut text = Vec::new();
    for (end, name) in ends.iter().flatten().zip([&args.from, &args.to]) {
        if let Some(error) = end.round_trip {
            text.push(format!(
                "{}: encoding and decoding gives an RMS error of {error:.4}; the noise has an RMS of {:.3}",
                name, end.noise_rms
            ));
        }
    }
    text.push(args.output.display().to_string());
    if let (Some(path), Some(format)) = (&args.animation, animation) {
        let back = frames.iter().rev().skip(1).take(frames.len().saturating_sub(2));
        let sheets: Vec<Image> = frames.iter().chain(back).map(|f| enlarge(f, args.zoom)).collect();
        write_animation(path, &Animation { frames: &sheets, delay: 100, last_delay: 100 }, format)?;
        text.push(path.display().to_string());
    }
    let name = |endpoint: &Endpoint, text: &String| match endpoint {
        Endpoint::Seed(seed) => format!("seed {seed}"),
        Endpoint::Image(_) => text.clone(),
    };
    let summary = |index: usize, name: String| {
        let end = ends.as_ref().map(|ends: &[End; 2]| &ends[index]);
        json!({ "name": name, "round_trip_rms": end.and_then(|end| end.round_trip),
            "noise_rms": end.map(|end| end.noise_rms) })
    };
    ui.result(
        &json!({ "event": "finished", "output": args.output, "animation": args.animation,
            "frames": frames.len(), "from": summary(0, name(from, &args.from)),
            "to": summary(1, name(to, &args.to)) }),
        text.join("\n"),
    );
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Whether both ends are images whose embeddings the model reads.
    fn goes_between_embeddings(&self, pipeline: &Pipeline) -> Result<bool> {
        let seeds = [&self.from, &self.to].map(|end| end.parse::<u64>().is_ok());
        if !pipeline.reads_image() || seeds == [true; 2] {
            return Ok(false);
        }
        ensure!(
            seeds == [false; 2],
            "{} {}: this model goes between two images or two seeds; expected two of one kind",
            self.from,
            self.to
        );
        for (flag, given) in [("--prompt", self.prompt.is_some()), ("--class", self.class.is_some())] {
            ensure!(!given, "{flag}: between two images, this model only reads their embeddings");
        }
        Ok(true)
    }

    /// The images between two images.
    fn between(
        &self,
        pipeline: &Pipeline,
        images: [&Image; 2],
        ui: Ui,
        cancelled: &AtomicBool,
    ) -> Result<Vec<Image>, PipelineError> {
        let request = Request {
            guidance: self.guidance,
            steps: self.steps,
            solver: self.solver.clone(),
            seed: self.seed,
            ..Request::default()
        };
        let bar = ui.bar(0, "steps");
        let made = between(pipeline, &request, images, self.frames, cancelled, &mut |event| {
            if let Event::Step { index, of, .. } = event {
                bar.set_length(of as u64);
                bar.set_position(index as u64);
            }
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        made
    }

    fn request(&self, pipeline: &Pipeline, prompts: Vec<String>) -> Request {
        let known = pipeline.classes().count > 0;
        let null = pipeline.extras().null_class.map(ClassSelector::Index);
        let class = self.class.clone().or(null.filter(|_| known));
        Request {
            classes: class.map(|c| vec![c]),
            guidance: (known || pipeline.reads_texts()).then_some(self.guidance.unwrap_or(1.0)),
            prompts,
            ..Request::default()
        }
    }
}

/// An image at its own size.
fn whole(path: &str) -> Result<Endpoint> {
    let path = Path::new(path);
    let facts = image_facts(path)?;
    Ok(Endpoint::Image(open_sized(path, [facts.height, facts.width])?))
}

/// A seed, or an image at the model's size.
fn endpoint(text: &str, size: &[usize]) -> Result<Endpoint> {
    if let Ok(seed) = text.parse() {
        return Ok(Endpoint::Seed(seed));
    }
    let &[height, width] = size else { bail!("this model does not make images") };
    Ok(Endpoint::Image(open_sized(Path::new(text), [height, width])?))
}
