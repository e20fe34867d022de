//! `tweedie data` on clips.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde_json::json;
use tweedie::data::{Clips, ClipsConfig, DataConfig, Dataset, Image, Rgb, Video, counted_endings, grid};

use super::{Args, listed};
use crate::{
    memory, source,
    ui::{Ui, counted},
};

/// Describes the clips of `config`, and writes the sheet or the animation.
pub fn run(args: &Args, config: &DataConfig, ui: Ui) -> Result<()> {
    if let Some(path) = args.output.as_deref().filter(|path| !is_sheet(path)) {
        Video::check(path)?;
    }
    let set = Dataset::open_by(config, Clips::of(config))?;
    if !set.passed_over().is_empty() {
        let found = counted_endings(set.passed_over());
        ui.warn(format!("{}: ignoring files that are not clips: {found}", config.source));
    }
    let ClipsConfig { frames: window, fps } = config.window();
    let names: Vec<String> = set.names().map(str::to_owned).collect();
    let (mut seconds, mut frames, mut good) = (Vec::new(), 0, Vec::new());
    let (mut rates, mut sizes) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    let mut short = Vec::new();
    let bar = ui.bar(names.len() as u64, "clips");
    for (index, name) in names.iter().enumerate() {
        if let Some(facts) = set.read(index, |film| film.facts())? {
            seconds.push(facts.seconds);
            frames += facts.frames;
            good.push(index);
            let rate = facts.frames as f64 / facts.seconds.max(1e-3);
            *rates.entry(format!("{}", (rate * 100.0).round() / 100.0)).or_default() += 1;
            *sizes.entry(format!("{}×{}", facts.width, facts.height)).or_default() += 1;
            if facts.seconds * f64::from(fps) + 1e-6 <= (window - 1) as f64 {
                short.push(name.as_str());
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    source::warn_of_skipped(&set, 0, ui);
    if good.is_empty() {
        return Err(set.none_left().into());
    }
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    let total: f64 = sorted.iter().sum();
    let counts = |all: &BTreeMap<String, usize>, of: &str| {
        listed(
            all.iter()
                .map(|(what, n)| format!("{n} of {what}{of}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
    };
    let mut text = format!(
        "{}, {frames} frames, {:.1} minutes in all\nduration: {:.2} to {:.2} s, median {:.2} s\nrates: {}\nsizes: {}",
        counted(good.len(), "clip"),
        total / 60.0,
        sorted[0],
        at(1.0),
        at(0.5),
        counts(&rates, " frames per second"),
        counts(&sizes, " pixels")
    );
    if !short.is_empty() {
        text.push_str(&format!(
            "\n{} shorter than {window} frames at {fps} per second, which training skips: {}",
            short.len(),
            listed(short.iter().copied())
        ));
    }
    let classes = set.classes();
    let mut by_class = Vec::new();
    for (index, name) in set.class_names().iter().enumerate() {
        let count = good.iter().filter(|clip| classes[**clip] == Some(index)).count();
        text.push_str(&format!("\n  {index:>3}  {name:<24} {count}"));
        by_class.push(json!({ "class": name, "clips": count }));
    }
    let captioned = set.captioned().len();
    text.push_str(&format!("\n{captioned} of {} with a caption", counted(set.len(), "clip")));
    if let Some(path) = &args.output {
        let count = args.count.get().min(good.len());
        memory::check_sheets(count, [args.size; 2], 1, window, "--count, --size or --frames")?;
        let step = good.len() as f64 / count as f64;
        let mut clips = Vec::new();
        for i in 0..count {
            clips.extend(set.read(good[(i as f64 * step) as usize], |film| film.video(window))?);
        }
        write(&clips, path).with_context(|| format!("cannot write {}", path.display()))?;
        text.push_str(&format!("\nclips: {}", path.display()));
    }
    ui.result(
        &json!({ "clips": good.len(), "frames": frames, "seconds": total, "median": at(0.5), "longest": at(1.0),
            "rates": rates, "sizes": sizes, "short": short, "captioned": captioned, "classes": by_class,
            "passed_over": set.passed_over(), "sheet": args.output }),
        text,
    );
    Ok(())
}

/// Whether a name is that of a still sheet.
pub fn is_sheet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png"))
}

/// Writes clips as a sheet with a row of frames for each, or as an animation of all.
pub fn write(clips: &[Video], path: &Path) -> Result<()> {
    const COLUMNS: usize = 8;
    const GAP: usize = 4;
    const PAPER: Rgb = Rgb([235, 235, 235]);
    let Some(first) = clips.first() else { return Ok(()) };
    let frames = clips.iter().map(|clip| clip.frames.len()).max().unwrap_or(0);
    // Shorter clips end with their last frame.
    let frame = |clip: &Video, at: usize| clip.frames.get(at).or(clip.frames.last()).cloned();
    if is_sheet(path) {
        let columns = COLUMNS.min(frames).max(1);
        let row = |clip| (0..columns).filter_map(move |i| frame(clip, i * frames / columns));
        let images: Vec<Image> = clips.iter().flat_map(row).collect();
        return Ok(grid(&images, columns, GAP, PAPER).save_png(path)?);
    }
    let columns = (clips.len() as f64).sqrt().ceil() as usize;
    let sheet = |at: usize| {
        let images: Vec<Image> = clips.iter().filter_map(|clip| frame(clip, at)).collect();
        grid(&images, columns, GAP, PAPER)
    };
    let video = Video { frames: (0..frames).map(sheet).collect(), delay: first.delay };
    Ok(video.write(path, None)?)
}
