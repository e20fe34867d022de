//! RoBERTa's tokenizer (Liu et al. 2019, arXiv:1907.11692): byte-pair encoding of words with the space before them, as in
//! GPT-2. CLAP's text encoder reads its tokens.

use std::{collections::HashMap, path::Path, sync::LazyLock};

use regex::Regex;
use serde_json::{Map, Value};

use super::{
    LONGEST_WORD,
    added::{Finder, Piece},
    bpe::{BpeFiles, Merges, byte_letters},
};
use crate::{error::HubError, files};

/// Words with a space before them. Of several spaces before a word, the last is not part of the others: see [`words`].
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
    Regex::new(PATTERN).expect("the pattern is a constant")
});
const BEGIN: &str = "<s>";
const END: &str = "</s>";
const UNKNOWN: &str = "<unk>";
/// The file that says whether a space comes before a text.
const CONFIG: &str = "tokenizer_config.json";
const PREFIX: &str = "add_prefix_space";

/// The tokenizer of a text encoder.
#[derive(Clone, Debug)]
pub struct RobertaTokenizer {
    vocabulary: HashMap<String, u32>,
    merges: Merges,
    added: Finder,
    bytes: [char; 256],
    /// Whether a space comes before a text.
    prefix: bool,
    begin: u32,
    end: u32,
}

impl RobertaTokenizer {
    /// Reads the tokenizer in the folder `dir`: `tokenizer.json`, or `vocab.json` and `merges.txt`, and the files of its special
    /// tokens.
    ///
    /// # Errors
    /// If the files are missing or invalid, or belong to another kind of tokenizer.
    pub fn open(dir: &Path) -> Result<Self, HubError> {
        let BpeFiles { file, vocabulary, pairs, found, described } = BpeFiles::read(dir)?;
        let mut prefix = None;
        if let Some(described) = described {
            let cut = &described.pre_tokenizer;
            let is_bpe = described.kind.as_deref().is_none_or(|kind| kind == "BPE");
            let by_bytes = cut["type"] == "ByteLevel" && cut["use_regex"] != Value::Bool(false);
            if !is_bpe || !described.suffix.is_empty() || !described.normalizer.is_null() || !by_bytes {
                let reason =
                    "not RoBERTa's tokenizer; expected a BPE model of bytes without a suffix of words";
                return Err(HubError::key(&described.file, "model", reason));
            }
            prefix = cut[PREFIX].as_bool();
        }
        let config = dir.join(CONFIG);
        if prefix.is_none() && config.exists() {
            let entries: Map<String, Value> = files::read_json(&config)?;
            prefix = entries.get(PREFIX).and_then(Value::as_bool);
        }
        for (key, token) in [("cls_token", BEGIN), ("sep_token", END)] {
            if let Some(other) = found.named.get(key).filter(|other| *other != token) {
                return Err(HubError::key(dir, key, format!("is `{other}`, expected `{token}`")));
            }
        }
        let next = vocabulary.values().max().map_or(0, |last| last.saturating_add(1));
        let added = Finder::with(found.settle(&|token| vocabulary.get(token).copied(), next)?, str::to_owned);
        let id = |token: &str| {
            let special = added.tokens().iter().find(|known| known.content == token);
            let id = special.and_then(|known| known.id).or_else(|| vocabulary.get(token).copied());
            id.ok_or_else(|| HubError::format(&file, format!("token `{token}` is not in the vocabulary")))
        };
        let merges = Merges::of(&pairs, &id)?;
        let (begin, end) = (id(BEGIN)?, id(END)?);
        let (bytes, prefix) = (byte_letters(), prefix.unwrap_or(false));
        Ok(Self { merges, bytes, prefix, begin, end, added, vocabulary })
    }

    /// Upper bound of token ids (exclusive).
    pub fn bound(&self) -> u32 {
        let added = self.added.tokens().iter().filter_map(|token| token.id);
        self.vocabulary.values().copied().chain(added).max().map_or(0, |last| last.saturating_add(1))
    }

    /// The tokens of a text, with those for its start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = vec![self.begin];
        for piece in self.added.split(text) {
            match piece {
                Piece::Token(id) => out.push(id),
                Piece::Text(text) => {
                    let space = self.prefix && !text.starts_with(char::is_whitespace);
                    let text = if space { format!(" {text}") } else { text };
                    words(&text).for_each(|word| self.split(word, &mut out));
                }
            }
        }
        out.push(self.end);
        out
    }

    fn split(&self, word: &str, out: &mut Vec<u32>) {
        let unknown = self.vocabulary.get(UNKNOWN).copied();
        let of = |b: u8| {
            let letter = self.bytes[usize::from(b)];
            self.vocabulary.get(&*letter.encode_utf8(&mut [0; 4])).copied().or(unknown)
        };
        for part in word.as_bytes().chunks(LONGEST_WORD) {
            let mut symbols: Vec<u32> = part.iter().filter_map(|b| of(*b)).collect();
            self.merges.join(&mut symbols);
            out.extend(symbols);
        }
    }
}

/// The words of a text. The last of several spaces before a word belongs to the word, if it is one that words begin with.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let found = WORDS.find_at(text, at)?;
        let mut word = found.as_str();
        if found.end() < text.len() && word.chars().all(char::is_whitespace) {
            let (last, _) = word.char_indices().next_back()?;
            word = if last > 0 { &word[..last] } else { word };
        }
        at = found.start() + word.len();
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn the_last_space_belongs_to_the_word() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("rain on  a\t roof 12!"), ["rain", " on", " ", " a", "\t", " roof", " 12", "!"]);
        assert_eq!(cut("it's\n\nlate  "), ["it", "'s", "\n", "\n", "late", "  "]);
        assert!(cut("").is_empty());
    }
}
