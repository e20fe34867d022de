//! SentencePiece's unigram tokenizer (Kudo 2018, arXiv:1804.10959), read from `tokenizer.json`: words are cut into the tokens
//! with the largest sum of scores. The text encoders of T5 and UMT5 read its tokens.

use std::{collections::HashMap, path::Path};

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    LONGEST_WORD,
    added::{Added, Finder, Found, Piece},
    charsmap::Charsmap,
};
use crate::{error::HubError, files};

const FILE: &str = "tokenizer.json";
/// The file with the length of texts.
const CONFIG: &str = "tokenizer_config.json";
const LENGTH: &str = "model_max_length";
/// Larger lengths mean that there is none; scores of attention grow with their squares.
const MOST: u64 = 1 << 11;
const END: &str = "</s>";
/// How much less than the least score an unknown letter has.
const PENALTY: f64 = 10.0;

#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    vocab: Value,
}

/// A step that normalizes a text.
#[derive(Clone)]
enum Normal {
    Precompiled(Charsmap),
    Strip { left: bool, right: bool },
    Replace(Regex, String),
}

/// A step that cuts a text into words.
#[derive(Clone, Debug)]
enum Cut {
    /// At whitespace, which is left out.
    Whitespace,
    /// Before marks, which stand for spaces.
    Mark { mark: String, prefix: Prefix },
}

/// Where a mark is added.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Prefix {
    Always,
    First,
    Never,
}

/// The tokenizer of a text encoder.
#[derive(Clone)]
pub struct UnigramTokenizer {
    /// Ids and scores.
    vocabulary: HashMap<String, (u32, f64)>,
    /// Length of the longest token in bytes.
    longest: usize,
    unknown: u32,
    /// Whether unknown letters become tokens of their bytes, as far as there are such.
    bytes: bool,
    least: f64,
    end: u32,
    normal: Vec<Normal>,
    cuts: Vec<Cut>,
    added: Finder,
    length: usize,
}

impl std::fmt::Debug for UnigramTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnigramTokenizer").field("tokens", &self.vocabulary.len()).finish_non_exhaustive()
    }
}

impl UnigramTokenizer {
    /// Reads the tokenizer in the folder `dir`: `tokenizer.json`, and the length of texts in `tokenizer_config.json`.
    ///
    /// # Errors
    /// If the files are missing or invalid, belong to another kind of tokenizer, or have steps that are not supported.
    pub fn open(dir: &Path) -> Result<Self, HubError> {
        let tokenizer = Self::open_for(dir, 0)?;
        let config = dir.join(CONFIG);
        let entries: Map<String, Value> = files::read_json(&config)?;
        let length = entries.get(LENGTH).and_then(Value::as_f64).filter(|n| (2.0..=MOST as f64).contains(n));
        let length = length.ok_or_else(|| {
            HubError::key(
                &config,
                LENGTH,
                format!("expected the number of tokens of a text, from 2 to {MOST}"),
            )
        })?;
        Ok(Self { length: length as usize, ..tokenizer })
    }

    /// Reads `tokenizer.json` in the folder `dir`, for texts that are filled up to `length` tokens.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_for(dir: &Path, length: usize) -> Result<Self, HubError> {
        let path = dir.join(FILE);
        if !path.exists() {
            let reason = format!("{FILE} is missing; transformers writes it when it saves a T5TokenizerFast");
            return Err(HubError::format(dir, reason));
        }
        let read: TokenizerJson = files::read_json(&path)?;
        let wrong = |key: &str, reason: String| HubError::key(&path, key, reason);
        if read.model.kind.as_deref() != Some("Unigram") {
            let reason = "not T5's tokenizer; expected a Unigram model";
            return Err(wrong("model", reason.into()));
        }
        let listed: Vec<(String, f64)> = serde_json::from_value(read.model.vocab)
            .map_err(|e| wrong("model", format!("its vocabulary: {e}")))?;
        if let Some((token, score)) = listed.iter().find(|(_, score)| !score.is_finite()) {
            return Err(wrong("model", format!("the token `{token}` has the score {score}")));
        }
        let unknown = read.model.unk_id.filter(|id| (*id as usize) < listed.len());
        let unknown = unknown
            .ok_or_else(|| wrong("model", "expected a token for unknown letters (`unk_id`)".into()))?;
        let least = listed.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min) - PENALTY;
        let longest = listed.iter().map(|(token, _)| token.len()).max().unwrap_or(0);
        let vocabulary: HashMap<String, (u32, f64)> =
            listed.into_iter().zip(0u32..).map(|((token, score), id)| (token, (id, score))).collect();
        let mut normal = Vec::new();
        normals(&read.normalizer, &mut normal).map_err(|reason| wrong("normalizer", reason))?;
        let mut cuts = Vec::new();
        cuts_of(&read.pre_tokenizer, &mut cuts).map_err(|reason| wrong("pre_tokenizer", reason))?;

        let found = Found::read(dir, read.added_tokens)?;
        let number = |token: &str| vocabulary.get(token).map(|(id, _)| *id);
        let added = Finder::with(found.settle(&number, vocabulary.len() as u32)?, str::to_owned);
        let end = added.tokens().iter().find(|token| token.content == END).and_then(|token| token.id);
        let end = end.or_else(|| number(END));
        let end = end.ok_or_else(|| wrong("model", format!("token `{END}` is not in the vocabulary")))?;

        let bytes = read.model.byte_fallback;
        Ok(Self { vocabulary, longest, unknown, bytes, least, end, normal, cuts, added, length })
    }

    /// Upper bound of token ids (exclusive).
    pub fn bound(&self) -> u32 {
        let added = self.added.tokens().iter().filter_map(|token| token.id);
        self.vocabulary
            .values()
            .map(|(id, _)| *id)
            .chain(added)
            .max()
            .map_or(0, |last| last.saturating_add(1))
    }

    /// The number of tokens to which texts are filled up.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The tokens of a text, with that for its end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        for (i, piece) in self.added.split(text).into_iter().enumerate() {
            match piece {
                Piece::Token(id) => out.push(id),
                Piece::Text(text) => {
                    for word in self.words(&text, i == 0) {
                        self.split(&word, &mut out);
                    }
                }
            }
        }
        out.push(self.end);
        out
    }

    /// The words of a text, `first` if it is the beginning.
    fn words(&self, text: &str, first: bool) -> Vec<String> {
        let text = self.normal.iter().fold(text.to_owned(), |text, step| match step {
            Normal::Precompiled(table) => table.normalize(&text),
            Normal::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { &text };
                if *right { text.trim_end() } else { text }.to_owned()
            }
            Normal::Replace(pattern, by) => pattern.replace_all(&text, regex::NoExpand(by)).into_owned(),
        });
        let mut words = if text.is_empty() { Vec::new() } else { vec![(text, first)] };
        for cut in &self.cuts {
            words = words.into_iter().flat_map(|(text, first)| cut.apply(&text, first)).collect();
        }
        words.into_iter().map(|(word, _)| word).collect()
    }

    /// The tokens with the largest sum of scores (Viterbi). Neighbouring unknown letters are one token, or tokens of their bytes.
    fn split(&self, word: &str, out: &mut Vec<u32>) {
        let mut rest = word;
        while !rest.is_empty() {
            let end = rest.char_indices().nth(LONGEST_WORD).map_or(rest.len(), |(end, _)| end);
            let (part, more) = rest.split_at(end);
            self.best(part, out);
            rest = more;
        }
    }

    fn best(&self, word: &str, out: &mut Vec<u32>) {
        // For each place: the best sum of scores up to it, the place before it, and the token between both.
        let mut best: Vec<Option<(f64, usize, u32)>> = vec![None; word.len() + 1];
        best[0] = Some((0.0, 0, self.unknown));
        for (from, letter) in word.char_indices() {
            let Some((sum, ..)) = best[from] else { continue };
            let next = from + letter.len_utf8();
            let mut enter = |to: usize, score: f64, id: u32| {
                let all = sum + score;
                if best[to].is_none_or(|(known, ..)| all > known) {
                    best[to] = Some((all, from, id));
                }
            };
            let mut alone = false;
            let most = word.len().min(from + self.longest);
            for to in (next..=most).filter(|to| word.is_char_boundary(*to)) {
                if let Some((id, score)) = self.vocabulary.get(&word[from..to]) {
                    enter(to, *score, *id);
                    alone |= to == next;
                }
            }
            if !alone {
                enter(next, self.least, self.unknown);
            }
        }
        // From the last to the first: where each begins and ends, and its number.
        let mut tokens: Vec<(usize, usize, u32)> = Vec::new();
        let mut at = word.len();
        while at > 0 {
            let Some((_, from, id)) = best[at] else { break };
            match tokens.last_mut() {
                Some((start, _, last)) if id == self.unknown && *last == id => *start = from,
                _ => tokens.push((from, at, id)),
            }
            at = from;
        }
        for (from, to, id) in tokens.into_iter().rev() {
            match self.bytes_of(&word[from..to]).filter(|_| id == self.unknown) {
                Some(bytes) => out.extend(bytes),
                None => out.push(id),
            }
        }
    }

    /// The tokens of the bytes of a text, if the tokenizer has them.
    fn bytes_of(&self, text: &str) -> Option<Vec<u32>> {
        let token = |byte: u8| self.vocabulary.get(&format!("<0x{byte:02X}>")).map(|(id, _)| *id);
        self.bytes.then(|| text.bytes().map(token).collect()).flatten()
    }
}

impl Cut {
    fn apply(&self, text: &str, first: bool) -> Vec<(String, bool)> {
        match self {
            Self::Whitespace => {
                let starts = !text.starts_with(char::is_whitespace);
                let words = text.split_whitespace().enumerate();
                words.map(|(i, word)| (word.to_owned(), first && starts && i == 0)).collect()
            }
            Self::Mark { mark, prefix } => {
                let mut text = text.replace(' ', mark);
                let adds = *prefix == Prefix::Always || *prefix == Prefix::First && first;
                if adds && !text.starts_with(mark) {
                    text.insert_str(0, mark);
                }
                let mut places: Vec<usize> = text.match_indices(mark).map(|(place, _)| place).collect();
                if places.first() != Some(&0) {
                    places.insert(0, 0);
                }
                let ends = places.iter().skip(1).copied().chain([text.len()]);
                let words = places.iter().zip(ends).filter(|(from, to)| *from < to);
                words.map(|(from, to)| (text[*from..to].to_owned(), first && *from == 0)).collect()
            }
        }
    }
}

/// The class and the steps of a part of `tokenizer.json`, which may be a sequence of steps called `list`.
fn steps<'a>(step: &'a Value, list: &str) -> Result<Vec<&'a Value>, String> {
    match (step.get("type").and_then(Value::as_str), step.get(list).and_then(Value::as_array)) {
        _ if step.is_null() => Ok(Vec::new()),
        (Some("Sequence"), Some(list)) => Ok(list.iter().collect()),
        (Some(_), _) => Ok(vec![step]),
        (None, _) => Err("expected a step with a `type`".into()),
    }
}

fn normals(value: &Value, out: &mut Vec<Normal>) -> Result<(), String> {
    for step in steps(value, "normalizers")? {
        let flag = |key: &str| step.get(key).and_then(Value::as_bool).unwrap_or(true);
        out.push(match step["type"].as_str().unwrap_or_default() {
            "Precompiled" => match step["precompiled_charsmap"].as_str() {
                None | Some("") => continue,
                Some(table) => Normal::Precompiled(Charsmap::decode(table)?),
            },
            "Strip" => Normal::Strip { left: flag("strip_left"), right: flag("strip_right") },
            "Replace" => {
                let pattern = &step["pattern"];
                let pattern = match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
                    (Some(pattern), _) => pattern.to_owned(),
                    (None, Some(text)) => regex::escape(text),
                    (None, None) => return Err("`Replace` has no pattern".into()),
                };
                let by = step["content"].as_str().ok_or("`Replace` has no content")?.to_owned();
                Normal::Replace(Regex::new(&pattern).map_err(|e| e.to_string())?, by)
            }
            other => {
                return Err(format!("`{other}` is not supported; expected Precompiled, Strip or Replace"));
            }
        });
    }
    Ok(())
}

fn cuts_of(value: &Value, out: &mut Vec<Cut>) -> Result<(), String> {
    for step in steps(value, "pretokenizers")? {
        out.push(match step["type"].as_str().unwrap_or_default() {
            "WhitespaceSplit" => Cut::Whitespace,
            "Metaspace" if step["split"] == Value::Bool(false) => {
                return Err("`Metaspace` without `split` is not supported".into());
            }
            "Metaspace" => {
                let mark = step["replacement"].as_str().filter(|mark| !mark.is_empty());
                let mark = mark.ok_or("`Metaspace` has no `replacement`")?.to_owned();
                let old = step.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
                let prefix = match step.get("prepend_scheme").and_then(Value::as_str) {
                    Some("always") => Prefix::Always,
                    Some("first") => Prefix::First,
                    Some("never") => Prefix::Never,
                    Some(other) => return Err(format!("`prepend_scheme` is `{other}`")),
                    None if old => Prefix::Always,
                    None => Prefix::Never,
                };
                Cut::Mark { mark, prefix }
            }
            other => {
                return Err(format!("`{other}` is not supported; expected WhitespaceSplit or Metaspace"));
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// é has the bytes C3 A9 in UTF-8, and € E2 82 AC, of which the last is no token here.
    #[test]
    fn unknown_letters_become_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = ["<unk>", "</s>", "<0xC3>", "<0xA9>", "<0xE2>", "<0x82>", "a", "b"];
        let write = |fallback: bool| {
            let vocab: Vec<_> = tokens.iter().map(|token| json!([token, -1.0])).collect();
            let model = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": fallback});
            std::fs::write(dir.path().join(FILE), json!({"model": model}).to_string()).unwrap();
            UnigramTokenizer::open_for(dir.path(), 9).unwrap()
        };
        let tokenizer = write(true);
        assert_eq!(tokenizer.encode("aéb"), [6, 2, 3, 7, 1]);
        assert_eq!(tokenizer.encode("ééa"), [2, 3, 2, 3, 6, 1]);
        assert_eq!(tokenizer.encode("a€é"), [6, 0, 1]);
        assert_eq!(write(false).encode("aéb"), [6, 0, 7, 1]);
        assert_eq!(tokenizer.length(), 9);
    }
}
