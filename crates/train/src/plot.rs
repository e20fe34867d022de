//! A plot of the loss curves.

use std::{path::Path, sync::Once};

use plotters::prelude::*;
use tweedie_data::Image;

use crate::{error::TrainError, log::Curves};

const SIZE: (u32, u32) = (960, 540);

/// Plots training and held-out losses against steps to the PNG file `path`.
pub(crate) fn loss_curve(curves: &Curves, path: &Path) -> Result<(), TrainError> {
    let wrong = |reason: String| TrainError::Drawing { path: path.into(), reason };
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(curves, &mut pixels).map_err(|e| wrong(e.to_string()))?;
    Image { width: SIZE.0 as usize, height: SIZE.1 as usize, pixels }.save_png(path)?;
    Ok(())
}

fn draw(curves: &Curves, pixels: &mut [u8]) -> Result<(), Box<dyn std::error::Error>> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let _ = plotters::style::register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    let [trained, held_out, averaged] =
        [&curves.train, &curves.held_out, &curves.held_out_ema].map(|points| {
            let finite = points.iter().filter(|p| p.1.abs() < f64::from(f32::MAX));
            finite.copied().collect::<Vec<_>>()
        });
    let train = thinned(&trained);
    let smooth = smoothed(&train);
    let held_out = [&held_out, &averaged];

    let steps = held_out.into_iter().chain([&train]).flatten().map(|p| p.0).max().unwrap_or(0).max(1);
    // The first losses would compress everything else.
    let mut shown: Vec<f64> = held_out.into_iter().chain([&smooth]).flatten().map(|p| p.1).collect();
    shown.extend(train.iter().skip(train.len() / 10).map(|p| p.1));
    shown.sort_by(f64::total_cmp);
    let low = shown.first().copied().unwrap_or(0.0);
    let high = shown.get(shown.len().saturating_sub(1) * 49 / 50).copied().unwrap_or(1.0);
    let margin = (0.08 * (high - low)).max(1e-6 * high.abs()).max(1e-12);

    let area = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0..steps, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc("step")
        .y_desc("loss")
        .y_label_formatter(&|v| format!("{v:.3}"))
        .label_style(("sans-serif", 15))
        .draw()?;

    let (blue, red, green) = (RGBColor(60, 90, 200), RGBColor(200, 60, 50), RGBColor(30, 140, 80));
    chart.draw_series(LineSeries::new(train.iter().copied(), blue.mix(0.25)))?;
    for (points, name, color) in [
        (&smooth, "training", blue),
        (held_out[0], "held out", red),
        (held_out[1], "held out, averaged weights", green),
    ] {
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 15))
        .draw()?;
    area.present()?;
    Ok(())
}

/// At most two points per column of the image, each a mean.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let size = points.len().div_ceil(2 * SIZE.0 as usize).max(1);
    let mean = |c: &[(u64, f64)]| c.iter().map(|p| p.1).sum::<f64>() / c.len() as f64;
    points.chunks(size).filter_map(|c| Some((c.last()?.0, mean(c)))).collect()
}

/// An exponential average over a fiftieth of the points, with bias correction.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let decay = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|&(step, v)| {
            sum = decay * sum + (1.0 - decay) * v;
            weight = decay * weight + (1.0 - decay);
            (step, sum / weight)
        })
        .collect()
}
