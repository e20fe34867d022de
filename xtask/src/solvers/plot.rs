//! docs/solvers.png: error against evaluations, on logarithmic axes.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use super::measure::Convergence;

const SIZE: (u32, u32) = (1800, 1000);
const EVALUATIONS: std::ops::Range<f64> = 2.0..160.0;
const ERRORS: std::ops::Range<f64> = 1e-6..1.0;
/// Space for the names, and between them, in pixels.
const NAMES: u32 = 235;
const LINE: f64 = 23.0;
const SHOWN: [f64; 10] = [2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0];

/// Two panels: solvers of one evaluation a step, and of several. DDIM is in both.
pub fn draw(curves: &[Convergence], path: &Path) -> Result<()> {
    let mut pixels = vec![255; (SIZE.0 * SIZE.1 * 3) as usize];
    paint(curves, &mut pixels).map_err(|e| anyhow!("{e}"))?;
    image::save_buffer(path, &pixels, SIZE.0, SIZE.1, image::ExtendedColorType::Rgb8)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Families share a hue.
fn color(name: &str, place: usize) -> RGBColor {
    let families = [
        ("dpmpp", 215.0),
        ("dpm", 265.0),
        ("res", 185.0),
        ("unipc", 0.0),
        ("deis", 30.0),
        ("ipndm", 90.0),
        ("plms", 110.0),
        ("pndm", 125.0),
        ("lms", 150.0),
        ("heun", 310.0),
        ("midpoint", 325.0),
        ("rk4", 340.0),
    ];
    let hue = families.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, hue)| hue / 360.0);
    let light = [0.38, 0.52, 0.30, 0.45, 0.60][place % 5];
    let (r, g, b) = match hue {
        Some(hue) => HSLColor(hue, 0.75, light).rgb(),
        None => HSLColor(0.0, 0.0, light).rgb(),
    };
    RGBColor(r, g, b)
}

fn paint(curves: &[Convergence], pixels: &mut [u8]) -> Result<(), Box<dyn std::error::Error>> {
    plotters::style::register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the font cannot be read")?;
    let area = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    // Without guidance CFG++ is the solver itself.
    let plain = || curves.iter().filter(|c| !c.entry.name.contains("cfgpp"));
    let once: Vec<_> = plain().filter(|c| c.entry.evaluations == 1).collect();
    let often: Vec<_> = plain().filter(|c| c.entry.evaluations > 1 || c.entry.name == "ddim").collect();
    panel(&left, "one evaluation a step", &once)?;
    panel(&right, "several evaluations a step", &often)?;
    area.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<BitMapBackend<'_>, Shift>,
    title: &str,
    curves: &[&Convergence],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin(20)
        .margin_right(NAMES)
        .caption(title, ("sans-serif", 22))
        .x_label_area_size(50)
        .y_label_area_size(70)
        .build_cartesian_2d(EVALUATIONS.log_scale().with_key_points(SHOWN.to_vec()), ERRORS.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(228, 228, 228))
        .x_desc("network evaluations")
        .y_desc("relative error (RMS)")
        .y_labels(8)
        .y_label_formatter(&|v| format!("{v:.0e}"))
        .x_label_formatter(&|v| format!("{v:.0}"))
        .label_style(("sans-serif", 17))
        .draw()?;
    let mut ends = Vec::new();
    for (place, c) in curves.iter().enumerate() {
        let color = color(c.entry.name, place);
        let seen = |(n, e): &(f64, f64)| EVALUATIONS.contains(n) && ERRORS.contains(e);
        let points: Vec<(f64, f64)> = c.curve.iter().copied().filter(seen).collect();
        let Some(&last) = points.last() else { continue };
        chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, color.filled())))?;
        ends.push((chart.backend_coord(&last), c.entry.name, color));
    }
    drop(chart);
    ends.sort_by_key(|((_, y), ..)| *y);
    // Lines were placed on the whole picture, names are within the panel.
    let origin = area.get_base_pixel();
    let x = area.dim_in_pixel().0 as i32 - NAMES as i32 + 44;
    for (((from, at), name, color), y) in ends.iter().zip(spread(&ends)) {
        let (from, at, y) = (from - origin.0 + 4, at - origin.1, y as i32 - origin.1);
        area.draw(&PathElement::new([(from, at), (x - 30, y), (x - 4, y)], color.mix(0.45)))?;
        let style = ("sans-serif", 17).into_font().color(color);
        area.draw(&Text::new((*name).to_string(), (x, y - 9), style))?;
    }
    Ok(())
}

/// Heights for the names, in order and apart, each as near to its line's end as that allows.
fn spread<T, U>(ends: &[((i32, i32), T, U)]) -> Vec<f64> {
    let mut heights: Vec<f64> = ends.iter().map(|((_, y), ..)| f64::from(*y)).collect();
    let (top, bottom) = (30.0, f64::from(SIZE.1) - 40.0);
    for _ in 0..2000 {
        for i in 1..heights.len() {
            let overlap = LINE - (heights[i] - heights[i - 1]);
            if overlap > 0.0 {
                heights[i - 1] -= 0.5 * overlap;
                heights[i] += 0.5 * overlap;
            }
        }
        let count = heights.len();
        for (i, height) in heights.iter_mut().enumerate() {
            let (above, below) = (i as f64 * LINE, (count - 1 - i) as f64 * LINE);
            *height = height.clamp(top + above, (bottom - below).max(top + above));
        }
    }
    heights
}
