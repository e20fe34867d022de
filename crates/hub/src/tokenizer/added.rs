//! Tokens that are matched in a text before it is split into words: special tokens, and those that textual inversions
//! and trainers add to a vocabulary.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{error::HubError, files};

/// An added token in the format of transformers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added {
    #[serde(default, skip_serializing)]
    pub(super) id: Option<u32>,
    pub(super) content: String,
    /// Whether whitespace before it belongs to it.
    #[serde(default)]
    lstrip: bool,
    /// Whether it is matched in the normalized text.
    #[serde(default = "yes")]
    normalized: bool,
    /// Whether whitespace after it belongs to it.
    #[serde(default)]
    rstrip: bool,
    /// Whether it is only matched as a whole word.
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    special: bool,
}

fn yes() -> bool {
    true
}

impl Added {
    pub(super) fn plain(content: &str, id: u32) -> Self {
        let (content, id) = (content.into(), Some(id));
        Self {
            id,
            content,
            lstrip: false,
            normalized: true,
            rstrip: false,
            single_word: false,
            special: false,
        }
    }

    pub(super) fn special(content: &str, id: Option<u32>) -> Self {
        Self {
            id,
            content: content.into(),
            lstrip: false,
            normalized: false,
            rstrip: false,
            single_word: false,
            special: true,
        }
    }
}

/// The added tokens in the files of a tokenizer's folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    tokens: Vec<(PathBuf, Added)>,
    /// The special tokens by their keys, such as `pad_token`.
    pub(super) named: BTreeMap<&'static str, String>,
}

const ADDED: &str = "added_tokens.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const DECODER: &str = "added_tokens_decoder";
/// Keys of [`CONFIG`] and [`SPECIAL`] with one special token, and with several.
const SINGLE: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token"];
const SEVERAL: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

impl Found {
    /// Reads all files in which transformers stores them except `tokenizer.json`, whose tokens are `listed`.
    pub(super) fn read(dir: &Path, listed: Vec<Added>) -> Result<Self, HubError> {
        let json = dir.join("tokenizer.json");
        let mut found = Self::default();
        found.tokens.extend(listed.into_iter().map(|token| (json.clone(), token)));
        let read = |name: &str| -> Result<(PathBuf, Map<String, Value>), HubError> {
            let path = dir.join(name);
            let entries = if path.exists() { files::read_json(&path)? } else { Map::new() };
            Ok((path, entries))
        };
        // If several files contain a token, the first one counts, so files without flags come last.
        let (special, config, added) = (read(SPECIAL)?, read(CONFIG)?, read(ADDED)?);
        if let Some(listed) = config.1.get(DECODER) {
            let wrong = |e: serde_json::Error| HubError::key(&config.0, DECODER, e.to_string());
            let listed: BTreeMap<u32, Added> = serde_json::from_value(listed.clone()).map_err(wrong)?;
            let numbered = |(id, token)| (config.0.clone(), Added { id: Some(id), ..token });
            found.tokens.extend(listed.into_iter().map(numbered));
        }
        found.read_special(&special.0, &special.1)?;
        found.read_special(&config.0, &config.1)?;
        for (name, id) in &added.1 {
            let wrong = |e: serde_json::Error| HubError::key(&added.0, name, e.to_string());
            let id = serde_json::from_value(id.clone()).map_err(wrong)?;
            found.tokens.push((added.0.clone(), Added::plain(name, id)));
        }
        Ok(found)
    }

    fn read_special(&mut self, path: &Path, entries: &Map<String, Value>) -> Result<(), HubError> {
        let wrong = |key: &str, e: serde_json::Error| HubError::key(path, key, e.to_string());
        let mut special = |key: &'static str, value: &Value| -> Result<(), HubError> {
            let token = match value {
                Value::String(text) => Added::special(text, None),
                // Flags that are not given have the defaults of plain text.
                Value::Object(_) => {
                    let read: Added = serde_json::from_value(value.clone()).map_err(|e| wrong(key, e))?;
                    let normalized = value.get("normalized").and_then(Value::as_bool).unwrap_or(false);
                    Added { normalized, special: true, ..read }
                }
                _ => return Ok(()),
            };
            if SINGLE.contains(&key) {
                self.named.entry(key).or_insert_with(|| token.content.clone());
            }
            self.tokens.push((path.to_path_buf(), token));
            Ok(())
        };
        for key in SINGLE {
            entries.get(key).map_or(Ok(()), |value| special(key, value))?;
        }
        for key in SEVERAL {
            let values: Vec<&Value> = match entries.get(key) {
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(named)) => named.values().collect(),
                _ => Vec::new(),
            };
            values.into_iter().try_for_each(|value| special(key, value))?;
        }
        Ok(())
    }

    /// Each token once, with an id: from its file, or else from the vocabulary (`number`), or else after all others, from
    /// `next`.
    pub(super) fn settle(
        self,
        number: &dyn Fn(&str) -> Option<u32>,
        mut next: u32,
    ) -> Result<Vec<Added>, HubError> {
        let mut settled: Vec<Added> = Vec::new();
        for (path, token) in self.tokens {
            if token.content.is_empty() {
                return Err(HubError::format(&path, "an added token is empty"));
            }
            match settled.iter_mut().find(|known| known.content == token.content) {
                Some(known) => match (known.id, token.id) {
                    (Some(a), Some(b)) if a != b => {
                        let reason =
                            format!("token `{}` has the id {b}, but {a} in another file", token.content);
                        return Err(HubError::format(&path, reason));
                    }
                    (number, other) => known.id = number.or(other),
                },
                None => settled.push(token),
            }
        }
        next =
            settled.iter().filter_map(|token| token.id).fold(next, |next, id| next.max(id.saturating_add(1)));
        for token in settled.iter_mut().filter(|token| token.id.is_none()) {
            token.id = number(&token.content);
            if token.id.is_none() {
                token.id = Some(next);
                next = next.saturating_add(1);
            }
        }
        settled.sort_by_key(|token| token.id);
        Ok(settled)
    }

    /// The id of a token in the files.
    pub(super) fn numbered(&self, content: &str) -> Option<u32> {
        self.tokens.iter().find(|(_, token)| token.content == content && token.id.is_some())?.1.id
    }
}

/// Finds added tokens in texts.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    tokens: Vec<Added>,
    /// Tokens matched in the original text, and in the normalized text; longest first.
    raw: Option<Regex>,
    lowered: Option<Regex>,
    /// Normalizes texts: to composed Unicode form and lower case, unless the tokenizer does otherwise.
    normal: fn(&str) -> String,
}

impl Default for Finder {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Token(u32),
    /// In normalized form.
    Text(String),
}

impl Finder {
    pub(super) fn new(tokens: Vec<Added>) -> Self {
        Self::with(tokens, super::lowered)
    }

    /// One for texts that are normalized by `normal`.
    pub(super) fn with(tokens: Vec<Added>, normal: fn(&str) -> String) -> Self {
        let of = |normalized: bool| {
            let mut contents: Vec<String> = tokens
                .iter()
                .filter(|token| token.normalized == normalized)
                .map(|token| if normalized { normal(&token.content) } else { token.content.clone() })
                .collect();
            contents.sort_by_key(|content| std::cmp::Reverse(content.len()));
            let any = contents.iter().map(|content| regex::escape(content)).collect::<Vec<_>>().join("|");
            (!any.is_empty()).then(|| Regex::new(&any).ok()).flatten()
        };
        let (raw, lowered) = (of(false), of(true));
        Self { tokens, raw, lowered, normal }
    }

    pub(super) fn tokens(&self) -> &[Added] {
        &self.tokens
    }

    /// The added tokens in `text` and the text between them.
    pub(super) fn split(&self, text: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        for piece in self.cut(text, self.raw.as_ref(), false) {
            match piece {
                Piece::Text(text) => {
                    out.extend(self.cut(&(self.normal)(&text), self.lowered.as_ref(), true));
                }
                token => out.push(token),
            }
        }
        out
    }

    fn cut(&self, text: &str, regex: Option<&Regex>, normalized: bool) -> Vec<Piece> {
        let Some(regex) = regex else { return vec![Piece::Text(text.into())] };
        let (mut out, mut from, mut at) = (Vec::new(), 0, 0);
        while let Some(found) = regex.find_at(text, at) {
            let is = |token: &&Added| {
                token.normalized == normalized
                    && match normalized {
                        true => (self.normal)(&token.content) == found.as_str(),
                        false => token.content == found.as_str(),
                    }
            };
            let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let within =
                word(text[..found.start()].chars().next_back()) || word(text[found.end()..].chars().next());
            at = found.end();
            let Some(token) = self.tokens.iter().find(is).filter(|token| !(token.single_word && within))
            else {
                continue;
            };
            let mut before = &text[from..found.start()];
            if token.lstrip {
                before = before.trim_end();
            }
            if !before.is_empty() {
                out.push(Piece::Text(before.into()));
            }
            out.extend(token.id.map(Piece::Token));
            from = found.end();
            if token.rstrip {
                from = text.len() - text[from..].trim_start().len();
                at = from;
            }
        }
        if from < text.len() {
            out.push(Piece::Text(text[from..].into()));
        }
        out
    }
}

/// Writes the tokens that are not in the vocabulary to two files, because versions of transformers read different ones.
pub(super) fn save(
    tokens: &[Added],
    own: &dyn Fn(&str) -> bool,
    dir: &Path,
    config: &mut Value,
) -> Result<(), HubError> {
    let added: Vec<&Added> = tokens.iter().filter(|token| !own(&token.content)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let plain: Map<String, Value> =
        added.iter().filter_map(|token| Some((token.content.clone(), token.id?.into()))).collect();
    files::write_json(&dir.join(ADDED), &plain)?;
    let numbered: Map<String, Value> = added
        .iter()
        .filter_map(|token| Some((token.id?.to_string(), serde_json::to_value(token).ok()?)))
        .collect();
    config[DECODER] = Value::Object(numbered);
    Ok(())
}
