//! `tweedie interpolate`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{Image, Rgb, grid, open_sized},
    ops::Batch,
    pipe::{
        ClassSelector, Pipeline, PipelineError, Request,
        interpolate::{Inversion, slerp},
        media::{Animation, enlarge, write_animation, write_png},
        study::{Study, distance},
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
    let bar = ui.spinner("encoding and decoding");
    let made = args.make(&pipeline, prompts, ui);
    bar.finish_and_clear();
    let (frames, ends) = match made {
        Err(e) if matches!(e.downcast_ref(), Some(PipelineError::Cancelled)) => {
            return Ok(interrupt::nothing_written(ui));
        }
        other => other?,
    };
    ensure!(!frames.is_empty(), "the model's samples are not images");
    let strip: Vec<Image> =
        (ends[0].picture.iter().chain(&frames).chain(&ends[1].picture)).cloned().collect();
    write_png(&args.output, &enlarge(&grid(&strip, strip.len(), 2, PAPER), args.zoom), None)?;
    let mut text = Vec::new();
    for end in &ends {
        if let Some(error) = end.round_trip {
            text.push(format!(
                "{}: encoding and decoding gives an RMS error of {error:.4}; the noise has an RMS of {:.3}",
                end.name, end.noise_rms
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
    let summary =
        |end: &End| json!({ "name": end.name, "round_trip_rms": end.round_trip, "noise_rms": end.noise_rms });
    ui.result(
        &json!({ "event": "finished", "output": args.output, "animation": args.animation,
            "frames": frames.len(), "from": summary(&ends[0]), "to": summary(&ends[1]) }),
        text.join("\n"),
    );
    Ok(ExitCode::SUCCESS)
}

/// One end of the interpolation.
struct End {
    name: String,
    /// The given image, if any.
    picture: Option<Image>,
    noise: Batch,
    noise_rms: f64,
    /// Root mean square difference between the image and its reconstruction.
    round_trip: Option<f64>,
}

impl Args {
    fn make(&self, pipeline: &Pipeline, prompts: Vec<String>, ui: Ui) -> Result<(Vec<Image>, [End; 2])> {
        let known = pipeline.classes().count > 0;
        let null = pipeline.extras().null_class.map(ClassSelector::Index);
        let class = self.class.clone().or(null.filter(|_| known));
        let request = |seed: u64, count: NonZeroUsize| Request {
            count,
            seed,
            classes: class.clone().map(|c| vec![c]),
            guidance: (known || pipeline.reads_texts()).then_some(self.guidance),
            prompts: prompts.clone(),
            untuned: true,
            ..Request::default()
        };
        let cancelled = interrupt::flag(ui);
        let study = Study::new(pipeline, &request(0, self.frames), &cancelled)?;
        let inversion = Inversion::new(&study, &self.solver, self.steps.get())?;
        let end = |text: &String| -> Result<End> {
            if let Ok(seed) = text.parse() {
                let own = Study::new(pipeline, &request(seed, NonZeroUsize::MIN), &cancelled)?;
                let noise = own.noise(&(0..1));
                let noise_rms = distance(&noise, &tweedie::core::lin![0.0 => &noise]);
                return Ok(End {
                    name: format!("seed {seed}"),
                    picture: None,
                    noise,
                    noise_rms,
                    round_trip: None,
                });
            }
            let (picture, x0) = open(Path::new(text), &study)?;
            let noise = inversion.encode(&study, &x0)?;
            let noise_rms = distance(&noise, &tweedie::core::lin![0.0 => &noise]);
            let round_trip = Some(distance(&inversion.decode(&study, &noise)?, &x0));
            Ok(End { name: text.clone(), picture: Some(picture), noise, noise_rms, round_trip })
        };
        let ends = [end(&self.from)?, end(&self.to)?];
        let last = (self.frames.get() - 1) as f64;
        let mut frames = Vec::new();
        for index in 0..self.frames.get() {
            let noise = slerp(&ends[0].noise, &ends[1].noise, index as f64 / last);
            frames.extend(study.job().pictures(&inversion.decode(&study, &noise)?)?);
        }
        Ok((frames, ends))
    }
}

/// An image at the model's size, and as a sample.
fn open(path: &Path, study: &Study<'_>) -> Result<(Image, Batch)> {
    let &[height, width] = study.job().size() else { bail!("this model does not make images") };
    let picture = open_sized(path, [height, width])?;
    let sample = study.job().sample_of(&picture)?;
    Ok((picture, sample))
}
