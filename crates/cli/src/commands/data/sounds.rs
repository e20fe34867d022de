//! `tweedie data` on a folder of sounds.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::json;
use tweedie::{
    data::{Audio, DataConfig, Dataset, Image, Rgb, Sounds, counted_endings, grid},
    media::spectrogram,
};

use super::{Args, listed};
use crate::{
    memory,
    ui::{Ui, counted},
};

/// Seconds of a sound that its spectrogram shows at most.
const SHOWN: f64 = 4.0;
/// Values at least this large may have been clipped by the recorder.
const FULL: f32 = 0.9999;

/// What is counted over all sounds.
#[derive(Default)]
struct Counts {
    seconds: Vec<f64>,
    rates: BTreeMap<u32, usize>,
    channels: BTreeMap<usize, usize>,
    silent: Vec<String>,
    full: Vec<String>,
}

impl Counts {
    fn add(&mut self, name: &str, sound: &Audio) {
        self.seconds.push(sound.seconds());
        *self.rates.entry(sound.rate).or_default() += 1;
        *self.channels.entry(sound.channels.len()).or_default() += 1;
        let values = || sound.channels.iter().flatten().map(|v| v.abs());
        if values().all(|v| v == 0.0) {
            self.silent.push(name.to_owned());
        }
        // A single one may be the peak of a normalized sound.
        if values().filter(|v| *v >= FULL).count() > 2 {
            self.full.push(name.to_owned());
        }
    }
}

/// Describes the sounds of `config`, and writes the sheet of spectrograms.
pub fn run(args: &Args, config: &DataConfig, ui: Ui) -> Result<()> {
    let set = Dataset::open_by(config, Sounds)?;
    if !set.recognized_as().is_empty() {
        ui.note(format!("{}: {}", config.source, set.recognized_as()));
    }
    if !set.passed_over().is_empty() {
        let found = counted_endings(set.passed_over());
        ui.warn(format!("{}: ignoring files that are not sounds: {found}", config.source));
    }
    let mut counts = Counts::default();
    let names: Vec<String> = set.names().map(str::to_owned).collect();
    let bar = ui.bar(names.len() as u64, "sounds");
    for (index, name) in names.iter().enumerate() {
        let item = set.get(index)?;
        // A file that cannot be read is replaced by the next one.
        if item.name == *name {
            counts.add(name, &item.sample);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for skipped in set.skipped() {
        ui.warn(format!("skipped {}: {}", skipped.path.display(), skipped.reason));
    }
    let mut sorted = counts.seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    let total: f64 = sorted.iter().sum();
    let rates: Vec<String> = counts.rates.iter().map(|(rate, n)| format!("{n} of {rate} Hz")).collect();
    let kinds = |n: usize| match n {
        1 => "mono".to_owned(),
        2 => "stereo".to_owned(),
        n => format!("{n} channels"),
    };
    let channels: Vec<String> =
        counts.channels.iter().map(|(channels, n)| format!("{n} {}", kinds(*channels))).collect();
    let mut text = format!(
        "{}, {:.1} minutes in all\nduration: {:.2} to {:.2} s, median {:.2} s, 95 % up to {:.2} s\nrates: {}\nchannels: {}",
        counted(sorted.len(), "sound"),
        total / 60.0,
        sorted[0],
        at(1.0),
        at(0.5),
        at(0.95),
        rates.join(", "),
        channels.join(", ")
    );
    for (names, what) in [(&counts.silent, "silent"), (&counts.full, "clipped, or at full scale")] {
        if !names.is_empty() {
            text.push_str(&format!("\n{} {what}: {}", names.len(), listed(names.iter().map(String::as_str))));
        }
    }
    let classes = set.classes();
    let mut by_class = Vec::new();
    for (index, name) in set.class_names().iter().enumerate() {
        let count = classes.iter().filter(|c| **c == Some(index)).count();
        text.push_str(&format!("\n  {index:>3}  {name:<24} {count}"));
        by_class.push(json!({ "class": name, "sounds": count }));
    }
    let captioned = set.captioned().len();
    text.push_str(&format!("\n{captioned} of {} with a text", counted(set.len(), "sound")));
    if let Some(path) = &args.output {
        let count = args.count.get().min(set.len());
        let [width, height] = [3 * args.size, 2 * args.size];
        memory::check_sheets(count, [height, width], 1, 1, "--count or --size")?;
        let step = set.len() as f64 / count as f64;
        let picks: Vec<_> =
            (0..count).map(|i| set.get((i as f64 * step) as usize)).collect::<Result<_, _>>()?;
        let longest = picks.iter().map(|item| item.sample.seconds()).fold(0.0, f64::max).min(SHOWN);
        let images: Vec<Image> =
            picks.iter().map(|item| spectrogram(&item.sample, width, height, longest)).collect();
        grid(&images, args.columns(images.len()), 4, Rgb([255, 255, 255]))
            .save_png(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        text.push_str(&format!("\nspectrograms of the first {longest:.2} s: {}", path.display()));
    }
    let rates: BTreeMap<String, usize> = counts.rates.iter().map(|(k, n)| (k.to_string(), *n)).collect();
    let channels: BTreeMap<String, usize> =
        counts.channels.iter().map(|(k, n)| (k.to_string(), *n)).collect();
    ui.result(
        &json!({ "sounds": sorted.len(), "seconds": total, "median": at(0.5), "longest": at(1.0), "rates": rates,
            "channels": channels, "captioned": captioned, "classes": by_class, "silent": counts.silent,
            "full_scale": counts.full, "passed_over": set.passed_over(), "recognized_as": set.recognized_as(),
            "sheet": args.output }),
        text,
    );
    Ok(())
}
