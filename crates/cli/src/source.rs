//! Parses data sources.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use tweedie::{
    data::{Clips, DataConfig, Dataset, Decode, Sounds, Source, counted_endings, is_packed},
    hub::Extras,
};

use crate::ui::Ui;

/// `emoji`, `moving-emoji`, a Parquet file or a folder that contains one, an archive or arrays, or a folder of images.
pub fn parse(text: &str) -> Source {
    let path = Path::new(text);
    if text == "emoji" {
        Source::Emoji
    } else if text == "moving-emoji" {
        Source::MovingEmoji
    } else if is_parquet(path) || holds_parquet(path) {
        Source::Parquet(path.into())
    } else if is_packed(path) {
        Source::Packed(path.into())
    } else {
        Source::Folder(path.into())
    }
}

/// The data set `named` by the user, or else the model's training data, or else the emoji, at `size` pixels. `holdout`
/// overrides the held-out fraction.
pub fn of_model(
    extras: &Extras,
    named: Option<&str>,
    size: usize,
    holdout: Option<f64>,
) -> Result<DataConfig> {
    let recorded = extras.training.get("config").and_then(|c| c.get("data"));
    let mut config = match (named, recorded) {
        (None, Some(data)) => DataConfig::deserialize(data)
            .context("tweedie.json: training.config.data is not a valid data set; give one with --data")?,
        (named, _) => {
            DataConfig { source: named.map_or(Source::Emoji, parse), holdout: 0.05, ..DataConfig::default() }
        }
    };
    config.size = size;
    config.holdout = holdout.unwrap_or(config.holdout);
    config.validate()?;
    Ok(config)
}

/// Opens a data set, and warns about ignored files and skipped images.
pub fn open(config: &DataConfig, ui: Ui) -> Result<Dataset> {
    let set = Dataset::open(config)?;
    if !set.recognized_as().is_empty() {
        ui.note(format!("{}: {}", config.source, set.recognized_as()));
    }
    if !set.passed_over().is_empty() {
        let found = counted_endings(set.passed_over());
        ui.warn(format!("{}: ignoring files that are not images: {found}", config.source));
    }
    warn_of_skipped(&set, 0, ui);
    Ok(set)
}

/// Whether a data set without images has sounds.
pub fn has_sounds(config: &DataConfig) -> bool {
    matches!(config.source, Source::Folder(_) | Source::Packed(_)) && Dataset::open_by(config, Sounds).is_ok()
}

/// Whether a data set without images has clips: one whose first frame can be read.
pub fn has_clips(config: &DataConfig) -> bool {
    let first = |set: &Dataset<Clips>| {
        (0..set.len()).any(|at| set.read(at, |film| film.video(1)).is_ok_and(|video| video.is_some()))
    };
    matches!(config.source, Source::Folder(_))
        && Dataset::open_by(config, Clips::of(config)).is_ok_and(|set| first(&set))
}

/// Warns about the skipped items of `set`, from number `first` on.
pub fn warn_of_skipped<D: Decode>(set: &Dataset<D>, first: usize, ui: Ui) {
    for skipped in set.skipped_from(first) {
        ui.warn(format!("skipped {}: {}", skipped.path.display(), skipped.reason));
    }
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
}

fn holds_parquet(folder: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder) else { return false };
    entries.any(|entry| entry.is_ok_and(|e| is_parquet(&e.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_knows_its_data() {
        let mut extras = Extras::default();
        assert_eq!(of_model(&extras, None, 8, None).unwrap().source, Source::Emoji);
        let trained =
            DataConfig { source: Source::Folder("mine".into()), holdout: 0.25, ..DataConfig::default() };
        extras.training.insert("config".into(), serde_json::json!({ "data": trained }));
        let config = of_model(&extras, None, 8, None).unwrap();
        assert_eq!((&config.source, config.size, config.holdout), (&trained.source, 8, 0.25));
        assert_eq!(of_model(&extras, None, 8, Some(0.5)).unwrap().holdout, 0.5);
        let other = of_model(&extras, Some("b.parquet"), 8, None).unwrap();
        assert_eq!((other.source, other.holdout), (Source::Parquet("b.parquet".into()), 0.05));
        extras.training.insert("config".into(), serde_json::json!({ "data": 3 }));
        assert!(of_model(&extras, None, 8, None).is_err());
    }

    #[test]
    fn sources_are_told_apart() {
        assert_eq!(parse("emoji"), Source::Emoji);
        assert_eq!(parse("a/b.PARQUET"), Source::Parquet("a/b.PARQUET".into()));
        assert_eq!(parse("pictures"), Source::Folder("pictures".into()));
    }
}
