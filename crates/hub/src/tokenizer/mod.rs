//! CLIP's tokenizer: byte-pair encoding of lower-case words (Sennrich et al. 2016, arXiv:1508.07909), read from
//! `tokenizer.json` or from `vocab.json` and `merges.txt`, or learned from texts.

mod added;
mod train;

use std::{collections::HashMap, path::Path, sync::LazyLock};

use regex::Regex;
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

pub use train::LEAST_ENTRIES;

use self::added::{Added, Finder, Found, Piece};
use crate::{error::HubError, files};

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
    /// Rank of a pair, and the token it becomes.
    merges: HashMap<(u32, u32), (u32, u32)>,
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

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair([String; 2]),
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    end_of_word_suffix: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

impl ClipTokenizer {
    /// Reads the tokenizer in the folder `dir`, with added and special tokens from `tokenizer.json`, `added_tokens.json`,
    /// `tokenizer_config.json` and `special_tokens_map.json`. They are matched before a text is split into words; the
    /// padding token is one of them.
    ///
    /// # Errors
    /// If the files are missing or invalid, or belong to another kind of tokenizer.
    pub fn open(dir: &Path) -> Result<Self, HubError> {
        let (json, vocabulary) = (dir.join("tokenizer.json"), dir.join("vocab.json"));
        let read: Option<TokenizerJson> = if json.exists() { Some(files::read_json(&json)?) } else { None };
        if let Some(TokenizerJson { model, .. }) = &read {
            let suffix = model.end_of_word_suffix.as_deref();
            if model.kind.as_deref().is_some_and(|kind| kind != "BPE") || suffix != Some(SUFFIX) {
                let reason =
                    format!("not CLIP's tokenizer; expected a BPE model whose words end in `{SUFFIX}`");
                return Err(HubError::key(&json, "model", reason));
            }
        }
        let (model, listed) = read.map_or((None, Vec::new()), |read| (Some(read.model), read.added_tokens));
        let (file, vocabulary, pairs) = if vocabulary.exists() {
            let merges = dir.join("merges.txt");
            let pairs = pairs_of(&merges, &files::read_text(&merges)?)?;
            (merges, files::read_json(&vocabulary)?, pairs)
        } else if let Some(model) = model {
            let pair = |merge| match merge {
                Merge::Pair(pair) => Ok(pair),
                Merge::Line(line) => pair_of(&json, &line),
            };
            let pairs = model.merges.into_iter().map(pair).collect::<Result<_, _>>()?;
            (json.clone(), model.vocab, pairs)
        } else {
            return Err(HubError::format(
                dir,
                "contains neither tokenizer.json nor vocab.json and merges.txt",
            ));
        };
        Self::build(&file, vocabulary, pairs, Found::read(dir, listed)?)
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
        let mut merges = HashMap::new();
        for (rank, [a, b]) in pairs.iter().enumerate() {
            merges.entry((id(a)?, id(b)?)).or_insert((rank as u32, id(&format!("{a}{b}"))?));
        }
        let (begin, end) = (id(BEGIN)?, id(END)?);
        let pad = found.pad.take();
        let next = vocabulary.values().max().map_or(0, |last| last.saturating_add(1));
        let added = Finder::new(found.settle(&|token| vocabulary.get(token).copied(), next)?);
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
            self.join(&mut symbols);
            out.extend(symbols);
        }
    }

    /// Merges the pair with the lowest rank everywhere, until none is left.
    fn join(&self, symbols: &mut Vec<u32>) {
        loop {
            let ranked = symbols.windows(2).filter_map(|w| self.merges.get(&(w[0], w[1])));
            let Some(&(rank, joined)) = ranked.min_by_key(|(rank, _)| *rank) else { return };
            let mut next = Vec::with_capacity(symbols.len());
            let mut i = 0;
            while i < symbols.len() {
                let pair = symbols.get(i + 1).and_then(|b| self.merges.get(&(symbols[i], *b)));
                if pair.is_some_and(|(r, _)| *r == rank) {
                    next.push(joined);
                    i += 2;
                } else {
                    next.push(symbols[i]);
                    i += 1;
                }
            }
            *symbols = next;
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

/// Parses merges, one per line.
fn pairs_of(path: &Path, text: &str) -> Result<Vec<[String; 2]>, HubError> {
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    lines.map(|line| pair_of(path, line)).collect()
}

fn pair_of(path: &Path, line: &str) -> Result<[String; 2], HubError> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        [a, b] => Ok([a.into(), b.into()]),
        _ => Err(HubError::format(path, format!("invalid merge `{line}`; expected two tokens"))),
    }
}

/// A visible letter for each byte: Latin-1 if visible, otherwise from U+0100 on.
fn byte_letters() -> [char; 256] {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100u32;
    let mut letter = |b: u8| {
        if visible(b) {
            return char::from(b);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or('\u{fffd}')
    };
    let mut out = ['\0'; 256];
    (0..=255u8).for_each(|b| out[usize::from(b)] = letter(b));
    out
}
