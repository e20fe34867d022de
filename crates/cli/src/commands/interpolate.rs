//! `tweedie interpolate`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    data::{DataConfig, Image, Rgb, grid, open_image},
    ops::{Batch, Device, from_host},
    pipe::{
        ClassSelector, Pipeline, PipelineError, Request,
        interpolate::{Inversion, slerp},
        media::{Animation, enlarge, write_animation, write_png},
        study::{Study, distance, pictures},
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
    /// A model folder [default: the built-in emoji model].
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
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
    let pipeline = model::pipeline(args.model.as_deref(), &device, ui)?;
    model::tell_classes(pipeline.classes(), args.class.as_slice(), ui);
    if let Some(size) = pipeline.unet().config().sample_size {
        let sheets = if animation.is_some() { 3 } else { 1 };
        memory::check_sheets(args.frames.get() + 2, size.dims(), args.zoom, sheets, "--frames or --zoom")?;
    }
    let bar = ui.spinner("encoding and decoding");
    let made = args.make(&pipeline, &device, ui);
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
                "{}: encoding and decoding gives an RMS error of {error:.4} (values in -1..1); the noise has an RMS of {:.3}",
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
    noise: Batch<4>,
    noise_rms: f64,
    /// Root mean square difference between the image and its reconstruction.
    round_trip: Option<f64>,
}

impl Args {
    fn make(&self, pipeline: &Pipeline, device: &Device, ui: Ui) -> Result<(Vec<Image>, [End; 2])> {
        let known = pipeline.unet().config().num_class_embeds.is_some();
        let null = pipeline.extras().null_class.map(ClassSelector::Index);
        let class = self.class.clone().or(null.filter(|_| known));
        let request = |seed: u64, count: NonZeroUsize| Request {
            count,
            seed,
            classes: class.clone().map(|c| vec![c]),
            guidance: known.then_some(self.guidance),
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
            let (picture, x0) = open(Path::new(text), &study, device)?;
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
            frames.extend(pictures(&inversion.decode(&study, &noise)?));
        }
        Ok((frames, ends))
    }
}

/// An image at the model's size, and as a sample `[1, C, H, W]`.
fn open(path: &Path, study: &Study<'_>, device: &Device) -> Result<(Image, Batch<4>)> {
    let [channels, height, width] = study.resolved().shape;
    ensure!(
        height == width,
        "the model's images have {width}×{height} pixels, but only square images are supported here"
    );
    ensure!(
        matches!(channels, 1 | 3),
        "the model's samples have {channels} channels, so they are not images"
    );
    let picture = open_image(path, &DataConfig { size: height, ..DataConfig::default() })?;
    let mut values = picture.to_planes();
    if channels == 1 {
        let plane = height * width;
        values = (0..plane).map(|i| (values[i] + values[plane + i] + values[2 * plane + i]) / 3.0).collect();
    }
    Ok((picture, Batch(from_host(values, [1, channels, height, width], device))))
}
