//! CLIP's tokenizer: byte-pair encoding of lower-case words (Sennrich et al. 2016, arXiv:1508.07909), read from
//! `tokenizer.json` or from `vocab.json` and `merges.txt`, or learned from texts.

mod added;
mod bpe;
mod charsmap;
mod roberta;
mod train;
mod unigram;

use std::{collections::HashMap, path::Path, sync::LazyLock};

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

pub use roberta::RobertaTokenizer;
pub use train::LEAST_ENTRIES;
pub use unigram::UnigramTokenizer;

use self::{
    added::{Added, Finder, Found, Piece},
    bpe::{BpeFiles, Merges, byte_letters, pairs_of},
};
use crate::error::HubError;

/// Suffix of the last token of a word.
const SUFFIX: &str = "</w>";
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    const PATTERN: &str =
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+";
    Regex::new(PATTERN).expect("the pattern is a constant")
});
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Longer words are cut.
const LONGEST_WORD: usize = 1024;

/// The tokenizer of a text encoder.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    vocabulary: HashMap<String, u32>,
    merges: Merges,
    added: Finder,
    /// Number of consecutive ids of learned tokens with several vectors, by the first id.
    several: HashMap<u32, u32>,
    bytes: [char; 256],
    /// Token at the start of a text.
    pub begin: u32,
    /// Token at the end of a text.
    pub end: u32,
    /// Padding token.
    pub pad: u32,
}

impl ClipTokenizer {
    /// Reads the tokenizer in the folder `dir`, with added and special tokens from `tokenizer.json`, `added_tokens.json`,
    /// `tokenizer_config.json` and `special_tokens_map.json`. They are matched before a text is split into words; the
    /// padding token is one of them.
    ///
    /// # Errors
    /// If the files are missing or invalid, or belong to another kind of tokenizer.
    pub fn open(dir: &Path) -> Result<Self, HubError> {
        let BpeFiles { file, vocabulary, pairs, found, described } = BpeFiles::read(dir)?;
        if let Some(described) = described
            && (described.kind.as_deref().is_some_and(|kind| kind != "BPE") || described.suffix != SUFFIX)
        {
            let reason = format!("not CLIP's tokenizer; expected a BPE model whose words end in `{SUFFIX}`");
            return Err(HubError::key(&described.file, "model", reason));
        }
        Self::build(&file, vocabulary, pairs, found)
    }

    /// Creates the tokenizer from the contents of `vocab.json` and `merges.txt`; errors name `name`. It pads with the end
    /// token.
    ///
    /// # Errors
    /// If a text is invalid.
    pub fn from_texts(name: &str, vocabulary: &str, merges: &str) -> Result<Self, HubError> {
        let path = Path::new(name);
        let vocabulary = serde_json::from_str(vocabulary)
            .map_err(|e| HubError::format(path, format!("invalid JSON: {e}")))?;
        Self::build(path, vocabulary, pairs_of(path, merges)?, Found::default())
    }

    fn build(
        file: &Path,
        mut vocabulary: HashMap<String, u32>,
        pairs: Vec<[String; 2]>,
        mut found: Found,
    ) -> Result<Self, HubError> {
        // They may be in the vocabulary or added to it.
        for token in [BEGIN, END] {
            if let Some(number) = found.numbered(token) {
                vocabulary.insert(token.into(), number);
            }
        }
        let id = |token: &str| {
            let reason = || HubError::format(file, format!("token `{token}` is not in the vocabulary"));
            vocabulary.get(token).copied().ok_or_else(reason)
        };
        let merges = Merges::of(&pairs, &id)?;
        let (begin, end) = (id(BEGIN)?, id(END)?);
        let pad = found.named.remove("pad_token");
        let next = vocabulary.values().max().map_or(0, |last| last.saturating_add(1));
        let mut added = found.settle(&|token| vocabulary.get(token).copied(), next)?;
        added.retain(|token| ![BEGIN, END].contains(&token.content.as_str()));
        let added = Finder::new(added);
        let (bytes, several) = (byte_letters(), HashMap::new());
        let mut tokenizer = Self { vocabulary, merges, added, several, bytes, begin, end, pad: end };
        tokenizer.pad = pad.and_then(|token| tokenizer.id(&token)).unwrap_or(end);
        Ok(tokenizer)
    }

    /// The same with another padding token, which, as in transformers, is then no longer a word.
    #[must_use]
    pub fn padded_with(self, token: &str) -> Self {
        let Some(pad) = self.id(token) else { return self };
        let mut tokens = self.added.tokens().to_vec();
        if !tokens.iter().any(|known| known.content == token) {
            tokens.push(Added::special(token, Some(pad)));
        }
        Self { pad, added: Finder::new(tokens), ..self }
    }

    /// The same with a learned token, which stands for `count` ids from `first` on. `None` if it already has that token.
    #[must_use]
    pub fn with_learned(&self, token: &str, first: u32, count: u32) -> Option<Self> {
        if self.id(token).is_some() {
            return None;
        }
        let mut tokens = self.added.tokens().to_vec();
        tokens.push(Added::plain(token, first));
        let mut several = self.several.clone();
        several.insert(first, count.max(1));
        Some(Self { added: Finder::new(tokens), several, ..self.clone() })
    }

    /// Upper bound of token ids (exclusive).
    pub fn bound(&self) -> u32 {
        let added = self.added.tokens().iter().filter_map(|token| token.id);
        self.vocabulary.values().copied().chain(added).max().map_or(0, |last| last.saturating_add(1))
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        let added = self.added.tokens().iter().find(|known| known.content == token);
        added.and_then(|known| known.id).or_else(|| self.vocabulary.get(token).copied())
    }

    /// The tokens of a text, without those for its start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        for piece in self.added.split(text) {
            let text = match piece {
                Piece::Token(id) => {
                    out.extend(id..=id + self.several.get(&id).map_or(0, |count| count - 1));
                    continue;
                }
                Piece::Text(text) => text,
            };
            for word in WORDS.find_iter(&text) {
                match word.as_str() {
                    BEGIN => out.push(self.begin),
                    END => out.push(self.end),
                    word => self.split(word, &mut out),
                }
            }
        }
        out
    }

    fn split(&self, word: &str, out: &mut Vec<u32>) {
        let letters: Vec<char> = word.bytes().map(|b| self.bytes[usize::from(b)]).collect();
        for part in letters.chunks(LONGEST_WORD) {
            let known = |token: &str| self.vocabulary.get(token).copied().unwrap_or(self.end);
            let mut symbols: Vec<u32> = part.iter().map(|c| known(c.encode_utf8(&mut [0; 4]))).collect();
            if let (Some(last), Some(c)) = (symbols.last_mut(), part.last()) {
                *last = known(&format!("{c}{SUFFIX}"));
            }
            self.merges.join(&mut symbols);
            out.extend(symbols);
        }
    }
}

/// A text in composed Unicode form and lower case.
fn lowered(text: &str) -> String {
    text.nfc().flat_map(char::to_lowercase).collect()
}

/// The words of a text, in composed Unicode form and lower case.
fn words_of(text: &str) -> Vec<String> {
    WORDS.find_iter(&lowered(text)).map(|word| word.as_str().to_owned()).collect()
}
