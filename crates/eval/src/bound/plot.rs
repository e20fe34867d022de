//! A plot of the terms by noise level.

use std::{path::Path, sync::Once};

use plotters::prelude::*;
use tweedie_data::Image;

use super::{BoundError, Report};

const SIZE: (u32, u32) = (960, 540);

/// Plots the terms of each level, in bits per dimension on logarithmic axes, to the PNG file `path`.
///
/// # Errors
/// [`BoundError::Drawing`] if it cannot be written.
pub fn plot(report: &Report, path: &Path) -> Result<(), BoundError> {
    let wrong = |reason: String| BoundError::Drawing { path: path.into(), reason };
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(report, &mut pixels).map_err(|e| wrong(e.to_string()))?;
    let image = Image { width: SIZE.0 as usize, height: SIZE.1 as usize, pixels };
    image.save_png(path).map_err(|e| wrong(e.to_string()))
}

fn draw(report: &Report, pixels: &mut [u8]) -> Result<(), Box<dyn std::error::Error>> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let _ = plotters::style::register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    // Levels are counted from 1, because a logarithmic axis has no 0; terms are only negative by chance.
    let shown: Vec<_> = report.per_level.iter().filter(|t| t.bits > 0.0).collect();
    let least = shown.iter().map(|t| t.bits).fold(f64::INFINITY, f64::min);
    let most = shown.iter().map(|t| t.bits).fold(0.0, f64::max);
    let (low, high) = if shown.is_empty() { (1e-6, 1.0) } else { (least.max(1e-9 * most) / 1.5, most * 1.5) };

    let area = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let title = match report.total.half_width() {
        Some(half) => format!("{:.3} ± {half:.3} bits/dim", report.total.mean),
        None => format!("{:.3} bits/dim", report.total.mean),
    };
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .caption(title, ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d((1.0..report.levels as f64 + 1.0).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc("noise level t, cleanest first")
        .y_desc("bits/dim of one level")
        .x_label_formatter(&|v| format!("{v:.0}"))
        .y_label_formatter(&|v| format!("{v:.0e}"))
        .label_style(("sans-serif", 15))
        .draw()?;
    let (blue, red) = (RGBColor(60, 90, 200), RGBColor(200, 60, 50));
    let ends = |first: usize, last: usize| (first as f64 + 1.0, last as f64 + 2.0);
    for term in &shown {
        let Some(half) = term.standard_error.map(|e| 1.96 * e) else { continue };
        let (left, right) = ends(term.first, term.last);
        let (bottom, top) = ((term.bits - half).max(low), (term.bits + half).min(high));
        let band = Rectangle::new([(left, bottom), (right, top)], blue.mix(0.2).filled());
        chart.draw_series(std::iter::once(band))?;
    }
    let steps = shown.iter().filter(|t| t.first > 0).flat_map(|term| {
        let (left, right) = ends(term.first, term.last);
        [(left, term.bits), (right, term.bits)]
    });
    chart
        .draw_series(LineSeries::new(steps, blue.stroke_width(2)))?
        .label("denoising, L(t-1)")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], blue.stroke_width(2)));
    let first = shown.iter().filter(|t| t.first == 0).map(|t| Circle::new((1.0, t.bits), 5, red.filled()));
    chart
        .draw_series(first)?
        .label("reconstruction, L(0)")
        .legend(move |(x, y)| Circle::new((x + 10, y), 5, red.filled()));
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
