//! A plot of a score against the length of the weight average.

use std::{path::Path, sync::Once};

use plotters::prelude::*;
use serde::Serialize;
use tweedie_data::{Image, MediaError};

use crate::quality::{Outcome, Quality};

const SIZE: (u32, u32) = (960, 540);

/// The scores for one length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Relative standard deviation of the average.
    pub std: f64,
    /// Fraction of its profile that the snapshots cannot represent, 0 to 1.
    pub missing: f64,
    /// Scores of the images.
    pub quality: Quality,
}

impl Point {
    fn kid(&self) -> Option<(f64, f64)> {
        match &self.quality.kid {
            Outcome::Scored { value, standard_error, .. } => {
                Some((*value, 1.96 * standard_error.unwrap_or(0.0)))
            }
            Outcome::Refused { .. } => None,
        }
    }
}

/// Why the plot cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// There are no scores.
    #[error("no length has a score: {0}")]
    Empty(String),
    /// It cannot be drawn.
    #[error("cannot draw the plot: {0}")]
    Drawing(String),
    /// It cannot be written.
    #[error(transparent)]
    Writing(#[from] MediaError),
}

/// Plots KID with its intervals against the length, on a logarithmic axis, to the PNG file `path`.
///
/// # Errors
/// If there are no scores, or the file cannot be written.
pub fn plot(points: &[Point], path: &Path) -> Result<(), SweepError> {
    let scores: Vec<(f64, f64, f64)> =
        points.iter().filter_map(|p| p.kid().map(|(value, half)| (p.std, value, half))).collect();
    if scores.is_empty() {
        let refused = points.iter().find_map(|p| match &p.quality.kid {
            Outcome::Refused { refused } => Some(refused.clone()),
            Outcome::Scored { .. } => None,
        });
        return Err(SweepError::Empty(refused.unwrap_or_else(|| "there are no lengths".into())));
    }
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(&scores, &mut pixels).map_err(|e| SweepError::Drawing(e.to_string()))?;
    let image = Image { width: SIZE.0 as usize, height: SIZE.1 as usize, pixels };
    Ok(image.save_png(path)?)
}

fn draw(scores: &[(f64, f64, f64)], pixels: &mut [u8]) -> Result<(), Box<dyn std::error::Error>> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        let _ = plotters::style::register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    let ends = |f: fn(f64, f64) -> f64, at: &dyn Fn(&(f64, f64, f64)) -> f64| scores.iter().map(at).reduce(f);
    let (low, high) =
        (ends(f64::min, &|s| s.1 - s.2).unwrap_or(0.0), ends(f64::max, &|s| s.1 + s.2).unwrap_or(1.0));
    let (left, right) = (ends(f64::min, &|s| s.0).unwrap_or(0.01), ends(f64::max, &|s| s.0).unwrap_or(0.1));
    let room = 0.08 * (high - low).max(1e-9);
    let area = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .caption("quality against the length of the average", ("sans-serif", 20))
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d((left / 1.2..right * 1.2).log_scale(), low - room..high + room)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc("standard deviation of the average, as a fraction of the run")
        .y_desc("KID, lower is better")
        .x_labels(6)
        .x_label_formatter(&|v| format!("{v:.3}").trim_end_matches('0').to_owned())
        .y_label_formatter(&|v| format!("{v:.4}"))
        .label_style(("sans-serif", 15))
        .draw()?;
    let blue = RGBColor(60, 90, 200);
    chart.draw_series(LineSeries::new(scores.iter().map(|s| (s.0, s.1)), blue.stroke_width(2)))?;
    let bars = scores.iter().map(|&(std, value, half)| {
        ErrorBar::new_vertical(std, value - half, value, value + half, blue.filled(), 8)
    });
    chart.draw_series(bars)?;
    area.present()?;
    Ok(())
}
