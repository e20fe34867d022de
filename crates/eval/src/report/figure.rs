//! Figures of the page, as SVG with the page's colours.

use std::fmt::Write;

use crate::{
    bound::Report,
    neighbours::{Memorisation, Neighbour},
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 28.0;

fn open() -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\">\n\
         <path class=\"axis\" fill=\"none\" d=\"M{LEFT} {TOP}V{0}H{WIDTH}\"/>\n",
        HEIGHT - BOTTOM
    )
}

fn x(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - 28.0)
}

fn y(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn legend(svg: &mut String, entries: &[(&str, &str)]) {
    for (i, (class, name)) in entries.iter().enumerate() {
        let left = LEFT + 12.0 + 250.0 * i as f64;
        let _ =
            writeln!(svg, "<rect class=\"{class} bar\" x=\"{left}\" y=\"6\" width=\"12\" height=\"12\"/>");
        text(svg, left + 18.0, 16.0, "start", name);
    }
}

/// Distances of generated and held-out images to their nearest training image.
pub fn distances(found: &Memorisation, unit: &str) -> String {
    const BINS: usize = 24;
    let all = || found.generated.iter().chain(&found.held_out).map(|n| n.distance);
    let most = all().fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let shares = |set: &[Neighbour]| {
        let mut bins = [0.0; BINS];
        for n in set {
            bins[((n.distance / most * BINS as f64) as usize).min(BINS - 1)] += 1.0 / set.len() as f64;
        }
        bins
    };
    let sets = [("a", shares(&found.generated)), ("b", shares(&found.held_out))];
    let high = sets.iter().flat_map(|(_, bins)| bins).fold(0.0, |a: f64, b| a.max(*b));
    let mut svg = open();
    for (class, bins) in sets {
        for (i, share) in bins.into_iter().enumerate().filter(|(_, share)| *share > 0.0) {
            let (left, right) = (x(i as f64 / BINS as f64), x((i + 1) as f64 / BINS as f64));
            let (width, top) = (right - left - 1.0, y(share / high));
            let height = y(0.0) - top;
            let _ = writeln!(
                svg,
                "<rect class=\"{class} bar\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            );
        }
    }
    for tick in 0..=4 {
        let part = f64::from(tick) / 4.0;
        text(&mut svg, x(part), y(0.0) + 16.0, "middle", &format!("{:.3}", part * most));
    }
    text(&mut svg, x(0.5), HEIGHT - 8.0, "middle", unit);
    text(&mut svg, LEFT - 6.0, y(1.0) + 4.0, "end", &format!("{:.0} %", 100.0 * high));
    legend(&mut svg, &[("a", "generated"), ("b", "held out")]);
    svg.push_str("</svg>\n");
    svg
}

/// The bound's terms by noise level, on logarithmic axes.
pub fn terms(report: &Report) -> String {
    let shown: Vec<_> = report.per_level.iter().filter(|t| t.bits > 0.0).collect();
    let most = shown.iter().map(|t| t.bits).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let least = shown.iter().map(|t| t.bits).fold(most, f64::min).max(1e-9 * most);
    let (low, high) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    let across = |level: usize| x((level as f64).ln() / (report.levels as f64 + 1.0).ln());
    let up = |bits: f64| y(((bits.log10() - low) / (high - low)).clamp(0.0, 1.0));
    let mut svg = open();
    let mut line = String::new();
    for term in &shown {
        let (left, right) = (across(term.first + 1), across(term.last + 2));
        if let Some(half) = term.standard_error.map(|e| 1.96 * e) {
            let (top, bottom) = (up(term.bits + half), up((term.bits - half).max(10f64.powf(low))));
            let (width, height) = (right - left, bottom - top);
            let _ = writeln!(
                svg,
                "<rect class=\"a band\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            );
        }
        match term.first {
            0 => {
                let _ = writeln!(
                    svg,
                    "<circle class=\"b\" cx=\"{left:.1}\" cy=\"{:.1}\" r=\"4\"/>",
                    up(term.bits)
                );
            }
            _ => {
                let command = if line.is_empty() { 'M' } else { 'L' };
                let height = up(term.bits);
                let _ = write!(line, "{command}{left:.1} {height:.1}H{right:.1}");
            }
        }
    }
    let _ = writeln!(svg, "<path class=\"a line\" d=\"{line}\"/>");
    let mut decade = low;
    while decade <= high {
        text(&mut svg, LEFT - 6.0, up(10f64.powf(decade)) + 4.0, "end", &format!("1e{decade:.0}"));
        decade += ((high - low) / 6.0).ceil().max(1.0);
    }
    let mut level = 1;
    while level <= report.levels {
        text(&mut svg, across(level), y(0.0) + 16.0, "middle", &level.to_string());
        level *= 10;
    }
    text(&mut svg, x(0.5), HEIGHT - 8.0, "middle", "noise level t, cleanest first");
    legend(&mut svg, &[("a", "denoising, bits/dim of one level"), ("b", "reconstruction, L(0)")]);
    svg.push_str("</svg>\n");
    svg
}
