//! Draws the records of ranks (`TWEEDIE_TRACE`) one below the other.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use plotters::prelude::*;
use serde_json::Value;

const USAGE: &str = "expected OUT.png FIRST..END TITLE FILE.json … [TITLE FILE.json …], where FIRST..END are steps, as in \
                     `cargo xtask timeline ranks.png 3..5 \"two ranks\" trace-0.json trace-1.json`";

const WIDTH: u32 = 1800;
/// Heights in pixels: of a title, of each of a rank's two lanes, between ranks, and of what is below all.
const TITLE: i32 = 34;
const LANE: i32 = 17;
const GAP: i32 = 8;
const FOOT: i32 = 84;
/// Where time begins, and the margin at its end.
const LEFT: i32 = 90;
const RIGHT: i32 = 25;
/// What is drawn, in which colour, and whether below the rest, because the network is busy while the rank computes.
const KINDS: [(&str, RGBColor, bool); 7] = [
    ("compute", RGBColor(74, 125, 184), false),
    ("copy", RGBColor(229, 164, 53), false),
    ("sum", RGBColor(190, 75, 60), false),
    ("update", RGBColor(92, 150, 80), false),
    ("wait", RGBColor(222, 222, 222), false),
    ("validate", RGBColor(140, 100, 170), false),
    ("send and receive", RGBColor(60, 60, 60), true),
];

/// A part of a rank's time.
struct Span {
    kind: usize,
    /// Microseconds.
    time: Range<i64>,
}

/// The ranks of one run.
struct Group {
    title: String,
    ranks: Vec<Vec<Span>>,
}

/// Draws what `arguments` say.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let out = arguments.next().context(USAGE)?;
    let steps = arguments.next().context(USAGE)?;
    let (first, end) = steps.split_once("..").context(USAGE)?;
    let steps: Range<usize> = first.parse().context(USAGE)?..end.parse().context(USAGE)?;
    let mut groups: Vec<Group> = Vec::new();
    for argument in arguments {
        if argument.ends_with(".json") {
            let group = groups.last_mut().context(USAGE)?;
            group.ranks.push(read(&argument)?);
        } else {
            groups.push(Group { title: argument, ranks: Vec::new() });
        }
    }
    ensure!(!groups.is_empty() && groups.iter().all(|group| !group.ranks.is_empty()), USAGE);
    let mut longest = 0;
    let mut windows = Vec::new();
    for group in &groups {
        let starts = starts(&group.ranks[0]);
        let at = |step: usize| {
            starts.get(step).with_context(|| {
                format!("{}: step {step} is not recorded; there are {} of them", group.title, starts.len())
            })
        };
        let window = *at(steps.start)?..*at(steps.end)?;
        println!(
            "{}: {:.3} s per step",
            group.title,
            (window.end - window.start) as f64 / 1e6 / steps.len() as f64
        );
        longest = longest.max(window.end - window.start);
        windows.push(window);
    }
    let lanes: i32 = groups.iter().map(|group| group.ranks.len() as i32).sum();
    let height = groups.len() as i32 * TITLE + lanes * (2 * LANE + GAP) + FOOT;
    let mut pixels = vec![255; WIDTH as usize * height as usize * 3];
    paint(&groups, &windows, longest, height as u32, &mut pixels).map_err(|e| anyhow!("{e}"))?;
    image::save_buffer(&out, &pixels, WIDTH, height as u32, image::ExtendedColorType::Rgb8)
        .with_context(|| format!("cannot write {out}"))
}

/// The spans of a record.
fn read(path: &str) -> Result<Vec<Span>> {
    let text = fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))?;
    let text = text.trim_end();
    // The array is open if the process was killed.
    let closed = if text.ends_with(']') { text.to_owned() } else { format!("{text}]") };
    let events: Vec<Value> =
        serde_json::from_str(&closed).with_context(|| format!("{path}: not a record"))?;
    let span = |event: &Value| {
        let name = event.get("name")?.as_str()?;
        let kind = KINDS.iter().position(|(kind, ..)| *kind == name)?;
        let start = event.get("ts")?.as_i64()?;
        Some(Span { kind, time: start..start + event.get("dur")?.as_i64()? })
    };
    let mut spans: Vec<Span> = events.iter().filter_map(span).collect();
    spans.sort_by_key(|span| span.time.start);
    Ok(spans)
}

/// When each step starts: with the first pass after an update.
fn starts(spans: &[Span]) -> Vec<i64> {
    let mut starts = Vec::new();
    let mut updated = true;
    for span in spans {
        match KINDS[span.kind].0 {
            "compute" if updated => {
                starts.push(span.time.start);
                updated = false;
            }
            "update" => updated = true,
            _ => {}
        }
    }
    starts
}

fn paint(
    groups: &[Group],
    windows: &[Range<i64>],
    longest: i64,
    height: u32,
    pixels: &mut [u8],
) -> Result<(), Box<dyn std::error::Error>> {
    plotters::style::register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the font cannot be read")?;
    let area = BitMapBackend::with_buffer(pixels, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |text: String, at: (i32, i32), size: i32| {
        area.draw(&Text::new(text, at, ("sans-serif", size).into_font().color(&BLACK)))
    };
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / longest as f64;
    let mut y = 0;
    for (group, window) in groups.iter().zip(windows) {
        text(group.title.clone(), (10, y + 9), 19)?;
        y += TITLE;
        let x =
            |time: i64| LEFT + ((time.clamp(window.start, window.end) - window.start) as f64 * scale) as i32;
        for (rank, spans) in group.ranks.iter().enumerate() {
            text(format!("rank {rank}"), (10, y + 9), 15)?;
            for span in spans.iter().filter(|s| s.time.end > window.start && s.time.start < window.end) {
                let (_, color, below) = KINDS[span.kind];
                let top = if below { y + LANE } else { y };
                // Something short is seen, too.
                let right = x(span.time.end).max(x(span.time.start) + 1);
                let corners = [(x(span.time.start), top), (right, top + LANE - 2)];
                area.draw(&Rectangle::new(corners, color.filled()))?;
            }
            y += 2 * LANE + GAP;
        }
    }
    // A tick every power of ten, or twice or five times that.
    let seconds = longest as f64 / 1e6;
    let power = 10f64.powf((seconds / 10.0).log10().floor());
    let tick =
        [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|t| seconds / t <= 10.0).unwrap_or(power);
    for number in 0..=(seconds / tick) as i32 {
        let at = LEFT + (f64::from(number) * tick * 1e6 * scale) as i32;
        area.draw(&PathElement::new([(at, y), (at, y + 7)], BLACK))?;
        text(format!("{:.2} s", f64::from(number) * tick), (at - 20, y + 12), 15)?;
    }
    let mut left = LEFT;
    for (name, color, _) in KINDS {
        let shown = groups.iter().flat_map(|g| &g.ranks).flatten().any(|span| KINDS[span.kind].0 == name);
        if shown {
            area.draw(&Rectangle::new([(left, y + 48), (left + 16, y + 64)], color.filled()))?;
            text(name.to_owned(), (left + 23, y + 49), 15)?;
            left += 70 + 9 * name.len() as i32;
        }
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_starts_with_the_first_pass_after_an_update() {
        let span = |name: &str, time: Range<i64>| {
            let kind = KINDS.iter().position(|(kind, ..)| *kind == name).unwrap();
            Span { kind, time }
        };
        let spans = [
            span("compute", 1..4),
            span("send and receive", 3..6),
            span("compute", 4..9),
            span("update", 10..12),
            span("compute", 13..14),
            span("update", 15..16),
        ];
        assert_eq!(starts(&spans), [1, 13]);
    }
}
