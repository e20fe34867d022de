//! Random captions of images: a network trained on "red heart", "a red heart" and "heart, love, red" generalizes better
//! than one trained on the first only.

use rand::{RngExt, seq::SliceRandom};
use serde::{Deserialize, Serialize};

use crate::{DataError, order::mix};

/// The description of an image in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// A description.
    pub caption: Option<String>,
    /// Keywords.
    pub keywords: Vec<String>,
    /// Categories, widest first.
    pub kinds: Vec<String>,
}

impl Words {
    /// Whether there is neither a caption nor a keyword.
    pub fn is_silent(&self) -> bool {
        self.caption.is_none() && self.keywords.is_empty()
    }
}

/// How captions are composed of [`Words`]: relative frequencies of the forms, and their variations. A form that needs
/// words which an image does not have is not drawn for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionConfig {
    /// Frequency of the caption only.
    pub caption: f64,
    /// Frequency of keywords only, in any order: `heart, love`.
    pub keywords: f64,
    /// Frequency of the caption followed by keywords: `red heart, love`.
    pub caption_and_keywords: f64,
    /// Frequency of the caption followed by a category: `red heart, symbols`.
    pub caption_and_kind: f64,
    /// Maximum number of keywords in a text, at least 1.
    pub most_keywords: usize,
    /// Probability, 0 to 1, of shuffling the parts of a caption between commas.
    pub shuffle: f64,
    /// One of these is put first, each as often as it is listed, for example `["", "", "a ", "a picture of "]`. None if the
    /// list is empty.
    pub prefixes: Vec<String>,
    /// What happens to an image that has neither a caption nor keywords.
    pub missing: NoCaption,
}

/// How a text-to-image model is trained on an image that has neither a caption nor keywords.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoCaption {
    /// Fail with an error.
    #[default]
    Fail,
    /// Skip the image.
    Skip,
    /// Use its narrowest category as the caption, for example the name of its folder.
    Class,
    /// Use an empty caption.
    Empty,
}

impl Default for CaptionConfig {
    fn default() -> Self {
        Self {
            caption: 1.0,
            keywords: 0.0,
            caption_and_keywords: 0.0,
            caption_and_kind: 0.0,
            most_keywords: 4,
            shuffle: 0.0,
            prefixes: Vec::new(),
            missing: NoCaption::Fail,
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Caption,
    Keywords,
    CaptionAndKeywords,
    CaptionAndKind,
}

impl CaptionConfig {
    /// Checks all values.
    ///
    /// # Errors
    /// [`DataError::Config`] naming the key and the allowed values.
    pub fn validate(&self) -> Result<(), DataError> {
        let wrong = |key, value: String, expected| Err(DataError::Config { key, value, expected });
        for (key, value) in [
            ("text.captions.caption", self.caption),
            ("text.captions.keywords", self.keywords),
            ("text.captions.caption_and_keywords", self.caption_and_keywords),
            ("text.captions.caption_and_kind", self.caption_and_kind),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return wrong(key, value.to_string(), "a frequency ≥ 0");
            }
        }
        if !(0.0..=1.0).contains(&self.shuffle) {
            return wrong("text.captions.shuffle", self.shuffle.to_string(), "a probability in 0..=1");
        }
        if self.most_keywords == 0 {
            return wrong("text.captions.most_keywords", "0".into(), "at least 1");
        }
        Ok(())
    }

    /// The text that goes with the `counter`-th sample of the run with this seed. A pure function. If no form
    /// with a positive frequency fits the words, it is the caption, or else the keywords, or else determined by `missing`.
    pub fn compose(&self, words: &Words, seed: u64, counter: u64) -> String {
        // A separate seed keeps these draws independent of others with the same seed and counter.
        let mut rng = tweedie_core::noise::generator(mix(seed ^ 0x6361_7074_696f_6e21), counter);
        let (has_caption, has_keywords) = (words.caption.is_some(), !words.keywords.is_empty());
        let forms = [
            (Form::Caption, self.caption, has_caption),
            (Form::Keywords, self.keywords, has_keywords),
            (Form::CaptionAndKeywords, self.caption_and_keywords, has_caption && has_keywords),
            (Form::CaptionAndKind, self.caption_and_kind, has_caption && !words.kinds.is_empty()),
        ];
        let usable = || forms.iter().filter(|(_, frequency, suits)| *suits && *frequency > 0.0);
        let total: f64 = usable().map(|(_, frequency, _)| frequency).sum();
        let coin: f64 = rng.random::<f64>() * total;
        let mut below = 0.0;
        let drawn = usable().find(|(_, frequency, _)| {
            below += frequency;
            coin < below
        });
        let form = match drawn.or(usable().next_back()) {
            Some((form, ..)) => *form,
            None if has_caption => Form::Caption,
            None => Form::Keywords,
        };
        let mut parts = Vec::new();
        if let (Form::Caption | Form::CaptionAndKeywords | Form::CaptionAndKind, Some(caption)) =
            (form, &words.caption)
        {
            let mut pieces: Vec<&str> = vec![caption];
            if self.shuffle > 0.0 && rng.random::<f64>() < self.shuffle {
                pieces = caption.split(',').map(str::trim).filter(|piece| !piece.is_empty()).collect();
                pieces.shuffle(&mut rng);
            }
            parts.extend(pieces);
        }
        if let Form::Keywords | Form::CaptionAndKeywords = form {
            let mut keywords: Vec<&str> = words.keywords.iter().map(String::as_str).collect();
            keywords.shuffle(&mut rng);
            keywords.truncate(rng.random_range(1..=self.most_keywords));
            parts.extend(keywords);
        }
        if let Form::CaptionAndKind = form {
            parts.extend(words.kinds.get(rng.random_range(0..words.kinds.len().max(1))).map(String::as_str));
        }
        if parts.is_empty() && self.missing == NoCaption::Class {
            parts.extend(words.kinds.last().map(String::as_str));
        }
        let text = parts.join(", ");
        match self.prefixes.len() {
            0 => text,
            _ if text.is_empty() => text,
            n => format!("{}{text}", self.prefixes[rng.random_range(0..n)]),
        }
    }

    /// All texts that captions of `words` are composed of, with multiplicities proportional to their expected frequency. A
    /// tokenizer learns from these.
    pub fn vocabulary<'a>(&'a self, words: &'a Words) -> impl Iterator<Item = &'a str> {
        let caption = words.caption.iter().chain(&words.caption);
        let more = words.keywords.iter().chain(&words.kinds).chain(&self.prefixes);
        caption.chain(more).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heart() -> Words {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Words {
            caption: Some("red heart".into()),
            keywords: list(&["love", "emotion", "card"]),
            kinds: list(&["symbols", "heart"]),
        }
    }

    #[test]
    fn forms_are_as_frequent_as_asked() {
        let config = CaptionConfig {
            caption: 2.0,
            keywords: 1.0,
            caption_and_keywords: 1.0,
            caption_and_kind: 1.0,
            most_keywords: 2,
            ..CaptionConfig::default()
        };
        let words = heart();
        let (mut alone, mut starts, mut kinds) = (0, 0, 0);
        for counter in 0..5000 {
            let text = config.compose(&words, 3, counter);
            assert_eq!(text, config.compose(&words, 3, counter));
            alone += usize::from(text == "red heart");
            starts += usize::from(text.starts_with("red heart"));
            kinds += usize::from(text == "red heart, symbols" || text == "red heart, heart");
            let keywords = text.split(", ").filter(|part| words.keywords.contains(&(*part).to_owned()));
            assert!(keywords.count() <= 2, "{text}");
        }
        // Four standard deviations of 5000 draws.
        for (found, share) in [(alone, 0.4), (starts, 0.8), (kinds, 0.2)] {
            let expected = 5000.0 * share;
            assert!((f64::from(found as u32) - expected).abs() < 4.0 * (expected * (1.0 - share)).sqrt());
        }
        assert_ne!(
            (0..50).map(|i| config.compose(&words, 0, i)).collect::<Vec<_>>(),
            (0..50).map(|i| config.compose(&words, 1, i)).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn what_is_missing_is_not_drawn() {
        let config = CaptionConfig { caption: 0.0, keywords: 1.0, ..CaptionConfig::default() };
        let bare = Words { caption: Some("cat".into()), ..Words::default() };
        assert_eq!(config.compose(&bare, 0, 0), "cat");
        let kind = Words { kinds: vec!["animals".into(), "birds".into()], ..Words::default() };
        assert_eq!(config.compose(&kind, 0, 0), "");
        let of_class = CaptionConfig { missing: NoCaption::Class, ..config.clone() };
        assert_eq!(of_class.compose(&kind, 0, 0), "birds");
        let prefixes = CaptionConfig { prefixes: vec!["a ".into()], ..config };
        assert_eq!(prefixes.compose(&bare, 0, 9), "a cat");
        assert_eq!(prefixes.compose(&Words::default(), 0, 9), "");
    }

    #[test]
    fn parts_between_commas_are_shuffled() {
        let config = CaptionConfig { shuffle: 1.0, ..CaptionConfig::default() };
        let words = Words { caption: Some("one girl, hat,, sea".into()), ..Words::default() };
        let texts: std::collections::BTreeSet<_> = (0..100).map(|i| config.compose(&words, 0, i)).collect();
        assert_eq!(texts.len(), 6);
        assert!(texts.contains("sea, one girl, hat"));
    }

    #[test]
    fn bad_values_are_named() {
        let config = CaptionConfig { shuffle: 2.0, ..CaptionConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("text.captions.shuffle = 2"));
        let config = CaptionConfig { keywords: f64::NAN, ..CaptionConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("text.captions.keywords = NaN"));
        assert!(toml::from_str::<CaptionConfig>("prefix = 1").unwrap_err().to_string().contains("prefix"));
    }
}
