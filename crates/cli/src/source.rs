//! Data sources as users name them.

use std::path::Path;

use tweedie::data::Source;

/// `emoji`, a Parquet file or a folder that holds one, or a folder of images.
pub fn parse(text: &str) -> Source {
    let path = Path::new(text);
    if text == "emoji" {
        Source::Emoji
    } else if is_parquet(path) || holds_parquet(path) {
        Source::Parquet(path.into())
    } else {
        Source::Folder(path.into())
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
    fn sources_are_told_apart() {
        assert_eq!(parse("emoji"), Source::Emoji);
        assert_eq!(parse("a/b.PARQUET"), Source::Parquet("a/b.PARQUET".into()));
        assert_eq!(parse("pictures"), Source::Folder("pictures".into()));
    }
}
