//! `tweedie interpolate`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{Image, Rgb, grid, open_sized},
    pipe::{
        ClassSelector, Pipeline, PipelineError, Request,
        interpolate::{End, Endpoint, Interpolation, interpolate},
        media::{Animation, enlarge, write_animation, write_png},
    },
};

use super::sample::{animation_format, check_place};
use crate::{interrupt, memory, model, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Start: a seed, or an image, which is encoded as noise.
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
    /// Guidance scale; 1 means no guidance. Larger values make the encoding of images less exact.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    guidance: f64,
    /// Number of solver steps in each direction.
    #[arg(long, value_name = "N", default_value = "60")]
    steps: NonZeroUsize,
    /// Deterministic solver.
    #[arg(long, value_name = "NAME", default_value = "dpmpp-2m")]
    solver: String,
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
    if let Some(&[height, width]) = pipeline.native_size().as_deref() {
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
    let endpoints = [endpoint(&args.from, &size)?, endpoint(&args.to, &size)?];
    let cancelled = interrupt::flag(ui);
    let bar = ui.spinner("encoding and decoding");
    let (from, to) = (&endpoints[0], &endpoints[1]);
    let (frames, steps) = (args.frames.get(), args.steps.get());
    let request = args.request(&pipeline, prompts);
    let made = interpolate(&pipeline, &request, [from, to], frames, &args.solver, steps, &cancelled);
    bar.finish_and_clear();
    let Interpolation { frames, ends } = match made {
        Err(PipelineError::Cancelled) => return Ok(interrupt::nothing_written(ui)),
        other => other?,
    };
    ensure!(!frames.is_empty(), "the model's samples are not images");
    let given = |endpoint: &Endpoint| match endpoint {
        Endpoint::Image(image) => Some(image.clone()),
        Endpoint::Seed(_) => None,
    };
    let strip: Vec<Image> = given(from).into_iter().chain(frames.iter().cloned()).chain(given(to)).collect();
    write_png(&args.output, &enlarge(&grid(&strip, strip.len(), 2, PAPER), args.zoom), None)?;
    let mut text = Vec::new();
    for (end, name) in ends.iter().zip([&args.from, &args.to]) {
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
    let summary = |end: &End, name: String| json!({ "name": name, "round_trip_rms": end.round_trip, "noise_rms": end.noise_rms });
    ui.result(
        &json!({ "event": "finished", "output": args.output, "animation": args.animation,
            "frames": frames.len(), "from": summary(&ends[0], name(from, &args.from)),
            "to": summary(&ends[1], name(to, &args.to)) }),
        text.join("\n"),
    );
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn request(&self, pipeline: &Pipeline, prompts: Vec<String>) -> Request {
        let known = pipeline.classes().count > 0;
        let null = pipeline.extras().null_class.map(ClassSelector::Index);
        let class = self.class.clone().or(null.filter(|_| known));
        Request {
            classes: class.map(|c| vec![c]),
            guidance: (known || pipeline.reads_texts()).then_some(self.guidance),
            prompts,
            ..Request::default()
        }
    }
}

/// A seed, or an image at the model's size.
fn endpoint(text: &str, size: &[usize]) -> Result<Endpoint> {
    if let Ok(seed) = text.parse() {
        return Ok(Endpoint::Seed(seed));
    }
    let &[height, width] = size else { bail!("this model does not make images") };
    Ok(Endpoint::Image(open_sized(Path::new(text), [height, width])?))
}
