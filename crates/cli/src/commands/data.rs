//! `tweedie data`.

mod clips;
mod sounds;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::data::{DataConfig, EMOJI_ATTRIBUTION, Image, Rgb, Source, Video, grid, moving::Scene};

use super::sample::check_place;
use crate::{
    memory, source,
    ui::{Ui, counted},
};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// `emoji`, `moving-emoji`, a folder of images, of sounds or of clips, a zip or tar archive of such, IDX, CIFAR's batches, NPY, NPZ or
    /// Parquet.
    #[arg(default_value = "emoji")]
    source: String,
    /// Show clips. Without it, GIF, PNG and WebP animations and folders of numbered frames are images; a folder that only has
    /// other clips needs no flag.
    #[arg(long)]
    clips: bool,
    /// Frames of each clip that are shown [default: 16].
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Frames per second of clips that are shown [default: 8].
    #[arg(long, value_name = "RATE")]
    fps: Option<u32>,
    /// Width and height to resize images to. Spectrograms of sounds are three times as wide and twice as high.
    #[arg(long, default_value_t = 32, value_name = "PIXELS")]
    size: usize,
    /// Also write a grid of images, or of spectrograms of sounds. Of clips, a sheet with a row of frames for each, or an animation
    /// if the name ends in .gif, .webp, .y4m or .mp4.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Number of images, clips or spectrograms in the grid.
    #[arg(short = 'n', long, default_value = "100", value_name = "N")]
    count: std::num::NonZeroUsize,
    /// Columns of the grid [default: as many as rows].
    #[arg(long, value_name = "N", requires = "output")]
    columns: Option<std::num::NonZeroUsize>,
}

impl Args {
    /// Columns of a grid of `count` cells.
    fn columns(&self, count: usize) -> usize {
        self.columns
            .map_or((count as f64).sqrt().ceil() as usize, std::num::NonZeroUsize::get)
            .clamp(1, count.max(1))
    }
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let source = source::parse(&args.source);
    let emoji = matches!(source, Source::Emoji | Source::MovingEmoji);
    let moving = matches!(source, Source::MovingEmoji);
    let mut config = DataConfig { source, size: args.size, ..DataConfig::default() };
    for window in [&mut config.clips.frames, &mut config.moving.frames] {
        *window = args.frames.unwrap_or(*window);
    }
    for rate in [&mut config.clips.fps, &mut config.moving.fps] {
        *rate = args.fps.unwrap_or(*rate);
    }
    config.validate()?;
    if let Some(path) = &args.output {
        check_place(path)?;
    }
    if args.clips && !moving {
        return clips::run(&args, &config, ui);
    }
    if let Some(path) = args.output.as_deref().filter(|path| moving && !clips::is_sheet(path)) {
        Video::check(path)?;
    }
    let of_clips = args.frames.is_some() || args.fps.is_some();
    let set = match source::open(&config, ui) {
        Err(error) if source::has_sounds(&config) => {
            ui.event(&json!({ "event": "no_images", "reason": error.to_string() }));
            return sounds::run(&args, &config, ui);
        }
        Err(error) if source::has_clips(&config) => {
            ui.event(&json!({ "event": "no_images", "reason": error.to_string() }));
            return clips::run(&args, &config, ui);
        }
        other => other?,
    };
    ensure!(!of_clips || moving, "--frames and --fps have no effect on images; --clips shows clips");
    let classes = set.classes();
    let mut text = format!("{} images, resized to {}×{}", set.len(), args.size, args.size);
    let mut counts = Vec::new();
    for (index, name) in set.class_names().iter().enumerate() {
        let count = classes.iter().filter(|c| **c == Some(index)).count();
        text.push_str(&format!("\n  {index:>3}  {name:<24} {count}"));
        counts.push(json!({ "class": name, "images": count }));
    }
    let captioned = set.captioned().len();
    if captioned > 0 || set.words().all(|words| words.kinds.is_empty()) {
        text.push_str(&format!("\n{captioned} of {} with a caption", counted(set.len(), "image")));
    }
    if captioned > 0 && captioned < set.len() {
        let missing =
            set.words().zip(set.names()).filter(|(words, _)| words.is_silent()).map(|(_, name)| name);
        text.push_str(&format!(", none for {}", listed(missing)));
    }
    if emoji {
        text.push_str(&format!("\n{EMOJI_ATTRIBUTION}"));
    }
    if let Some(path) = args.output.as_deref().filter(|_| moving) {
        let count = args.count.get().min(config.moving.clips);
        memory::check_sheets(count, [args.size; 2], 1, config.moving.frames, "--count or --size")?;
        let scenes = (0..count as u64).map(|index| Scene::new(&config.moving, index));
        let all: Vec<Video> = scenes.map(|scene| scene.video(config.size, config.background)).collect();
        clips::write(&all, path).with_context(|| format!("cannot write {}", path.display()))?;
        text.push_str(&format!("\nclips: {}", path.display()));
    } else if let Some(path) = &args.output {
        let count = args.count.get().min(set.len());
        memory::check_sheets(count, [args.size; 2], 1, 1, "--count or --size")?;
        let step = set.len() as f64 / count as f64;
        let picks = (0..count).map(|i| (i as f64 * step) as usize);
        let images: Vec<Image> =
            picks.map(|i| set.get(i).map(|item| (*item.sample).clone())).collect::<Result<_, _>>()?;
        grid(&images, args.columns(images.len()), 4, Rgb([255, 255, 255]))
            .save_png(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        text.push_str(&format!("\ngrid: {}", path.display()));
    }
    ui.result(
        &json!({ "images": set.len(), "captioned": captioned, "classes": counts,
            "passed_over": set.passed_over(), "recognized_as": set.recognized_as(), "sheet": args.output }),
        text,
    );
    Ok(())
}

/// The first few of these names, and the number of others.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = names.collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
