//! Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909): the files of its tokenizers, and the merging of symbols.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::added::{Added, Found};
use crate::{error::HubError, files};

/// What the folder of a tokenizer has in `tokenizer.json`, or in `vocab.json` and `merges.txt`, and its added tokens.
pub(super) struct BpeFiles {
    /// The file with the merges.
    pub(super) file: PathBuf,
    pub(super) vocabulary: HashMap<String, u32>,
    /// The pairs that are merged, the first ones before the others.
    pub(super) pairs: Vec<[String; 2]>,
    pub(super) found: Found,
    /// What `tokenizer.json` says of the tokenizer, if there is one.
    pub(super) described: Option<Described>,
}

/// What `tokenizer.json` says of a tokenizer.
pub(super) struct Described {
    pub(super) file: PathBuf,
    /// The class of the model.
    pub(super) kind: Option<String>,
    /// What the last token of a word ends in.
    pub(super) suffix: String,
    /// How texts are normalized; null if not.
    pub(super) normalizer: Value,
    /// How texts are cut into words.
    pub(super) pre_tokenizer: Value,
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
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

impl BpeFiles {
    /// Reads the files in the folder `dir`.
    ///
    /// # Errors
    /// If they are missing or invalid.
    pub(super) fn read(dir: &Path) -> Result<Self, HubError> {
        let (json, vocabulary) = (dir.join("tokenizer.json"), dir.join("vocab.json"));
        let read: Option<TokenizerJson> = if json.exists() { Some(files::read_json(&json)?) } else { None };
        let (mut model, mut listed, mut described) = (None, Vec::new(), None);
        if let Some(read) = read {
            described = Some(Described {
                file: json.clone(),
                kind: read.model.kind.clone(),
                suffix: read.model.end_of_word_suffix.clone().unwrap_or_default(),
                normalizer: read.normalizer,
                pre_tokenizer: read.pre_tokenizer,
            });
            (model, listed) = (Some(read.model), read.added_tokens);
        }
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
            (json, model.vocab, pairs)
        } else {
            return Err(HubError::format(
                dir,
                "contains neither tokenizer.json nor vocab.json and merges.txt",
            ));
        };
        Ok(Self { file, vocabulary, pairs, found: Found::read(dir, listed)?, described })
    }
}

/// Rank of a pair, and the token it becomes.
#[derive(Clone, Debug, Default)]
pub(super) struct Merges(pub(super) HashMap<(u32, u32), (u32, u32)>);

impl Merges {
    /// The merges of `pairs`, whose tokens have the ids `id`.
    ///
    /// # Errors
    /// Those of `id`.
    pub(super) fn of(
        pairs: &[[String; 2]],
        id: &dyn Fn(&str) -> Result<u32, HubError>,
    ) -> Result<Self, HubError> {
        let mut merges = HashMap::new();
        for (rank, [a, b]) in pairs.iter().enumerate() {
            merges.entry((id(a)?, id(b)?)).or_insert((rank as u32, id(&format!("{a}{b}"))?));
        }
        Ok(Self(merges))
    }

    /// Merges the pair with the lowest rank everywhere, until none is left.
    pub(super) fn join(&self, symbols: &mut Vec<u32>) {
        loop {
            let ranked = symbols.windows(2).filter_map(|w| self.0.get(&(w[0], w[1])));
            let Some(&(rank, joined)) = ranked.min_by_key(|(rank, _)| *rank) else { return };
            let mut next = Vec::with_capacity(symbols.len());
            let mut i = 0;
            while i < symbols.len() {
                let pair = symbols.get(i + 1).and_then(|b| self.0.get(&(symbols[i], *b)));
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

/// Parses merges, one per line.
pub(super) fn pairs_of(path: &Path, text: &str) -> Result<Vec<[String; 2]>, HubError> {
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
pub(super) fn byte_letters() -> [char; 256] {
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
