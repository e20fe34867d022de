//! `tweedie forward`.

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args as ClapArgs;
use plotters::prelude::*;
use serde_json::json;
use tweedie::{
    core::NoiseSchedule,
    data::{DataConfig, Image, Rgb, grid, open_image, open_sized},
    pipe::{forward, media},
};

use super::sample::check_place;
use crate::{model, process, sheet, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Image file: png, jpeg, gif, bmp, webp or tiff.
    picture: PathBuf,
    /// Image file to write.
    #[arg(short, long, value_name = "FILE.png", default_value = "forward.png")]
    output: PathBuf,
    /// Forward process.
    #[arg(long, value_name = "NAME", default_value = "linear", value_parser = process::names())]
    schedule: String,
    /// Show the process of this model instead: of latents, which are decoded, if it works on latents.
    #[arg(short, long, value_name = "MODEL", conflicts_with = "schedule")]
    model: Option<PathBuf>,
    /// Number of noise levels to show.
    #[arg(long, value_name = "N", default_value = "8")]
    frames: NonZeroUsize,
    /// Width and height of each image in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 160)]
    size: usize,
    /// Seed of the noise.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub fn run(args: Args, ui: Ui, device: &str) -> Result<()> {
    anyhow::ensure!((8..=2048).contains(&args.size), "--size {}: expected a value from 8 to 2048", args.size);
    anyhow::ensure!(args.frames.get() <= 64, "--frames {}: expected at most 64", args.frames);
    check_place(&args.output)?;
    let (schedule, times, images, name) = match &args.model {
        None => {
            let picture =
                open_image(&args.picture, &DataConfig { size: args.size, ..DataConfig::default() })?;
            let schedule = process::scheduler(&args.schedule)?.process().schedule.clone();
            let times = forward::even_times(&*schedule, args.frames.get());
            let images = forward::noised(&picture, &*schedule, &times, args.seed);
            (schedule, times, images, args.schedule.clone())
        }
        Some(path) => {
            let pipeline = model::pipeline(Some(path), &tweedie::ops::device(device)?, ui)?;
            let size = pipeline.native_size().context("the model has no default size")?;
            let &[height, width] = &*size else { bail!("this model does not make images") };
            let picture = open_sized(&args.picture, [height, width])?;
            let schedule = pipeline.scheduler().process().schedule.clone();
            let times = forward::even_times(&*schedule, args.frames.get());
            let images = forward::noised_by(&pipeline, &picture, &times, args.seed)?;
            (schedule, times, images, path.display().to_string())
        }
    };
    let strip = grid(&images, times.len(), 4, Rgb([255; 3]));
    let chart = chart(&*schedule, &times, strip.width, &name)
        .map_err(|reason| anyhow!("{}: {reason}", args.output.display()))?;
    media::write_png(&args.output, &stacked(&strip, &chart), None)
        .with_context(|| format!("cannot draw {}", args.picture.display()))?;
    let snr = forward::log_snr(&*schedule, &times);
    ui.result(
        &json!({ "output": args.output, "times": times, "log_snr": snr }),
        format!("wrote {} noise levels of the {name} process to {}", times.len(), args.output.display()),
    );
    Ok(())
}

/// Puts one image above another of the same width.
fn stacked(above: &Image, below: &Image) -> Image {
    let pixels = [above.pixels.as_slice(), &below.pixels].concat();
    Image { width: above.width, height: above.height + below.height, pixels }
}

const HEIGHT: u32 = 300;

/// The log signal-to-noise ratio over time, with a mark for each image of the strip.
fn chart(schedule: &dyn NoiseSchedule, times: &[f64], width: usize, name: &str) -> Result<Image, String> {
    let mut pixels = vec![255; 3 * width * HEIGHT as usize];
    draw(schedule, times, width as u32, name, &mut pixels).map_err(|e| e.to_string())?;
    Ok(Image { width, height: HEIGHT as usize, pixels })
}

fn draw(
    schedule: &dyn NoiseSchedule,
    times: &[f64],
    width: u32,
    name: &str,
    pixels: &mut [u8],
) -> Result<(), Box<dyn std::error::Error + 'static>> {
    sheet::font();
    let points = |times: &[f64]| -> Vec<(f64, f64)> {
        let snr = forward::log_snr(schedule, times);
        times.iter().copied().zip(snr).filter(|p| p.1.is_finite()).collect()
    };
    let curve = points(&forward::even_times(schedule, 400));
    let low = curve.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = curve.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let span = schedule.times();
    let blue = RGBColor(60, 90, 200);
    let area = BitMapBackend::with_buffer(pixels, (width, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(span.min()..span.max(), low - 0.5..high + 0.5)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(format!("t ({name})"))
        .y_desc("ln SNR")
        .label_style(("sans-serif", 15))
        .draw()?;
    chart.draw_series(LineSeries::new(curve, blue.stroke_width(2)))?;
    chart.draw_series(points(times).into_iter().map(|p| Circle::new(p, 4, blue.filled())))?;
    area.present()?;
    Ok(())
}
