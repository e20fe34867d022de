//! Learns a tokenizer from texts: the most frequent pair of neighbouring symbols is repeatedly replaced by a new symbol
//! (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    path::Path,
};

use serde_json::json;

use super::{
    BEGIN, ClipTokenizer, END, LONGEST_WORD, SUFFIX,
    added::{self, Finder},
    bpe::{Merges, byte_letters},
    words_of,
};
use crate::{error::HubError, files};

/// All bytes, within a word and at its end, and the tokens for start and end of a text.
pub const LEAST_ENTRIES: usize = 2 * 256 + 2;
/// Pairs that occur less often are not merged.
const LEAST_COUNT: u64 = 2;

type Pair = (u32, u32);

/// Words as symbols, and the counts of pairs in them.
struct Words {
    words: Vec<(Vec<u32>, u64)>,
    counts: HashMap<Pair, u64>,
    places: HashMap<Pair, BTreeSet<usize>>,
    /// Pairs by current or earlier counts, smaller ids first among equals.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Words {
    fn new(words: Vec<(Vec<u32>, u64)>) -> Self {
        let (counts, places, queue) = Default::default();
        let mut all = Self { words, counts, places, queue };
        (0..all.words.len()).for_each(|word| all.enter(word));
        all
    }

    fn pairs(&self, word: usize) -> Vec<Pair> {
        self.words[word].0.windows(2).map(|w| (w[0], w[1])).collect()
    }

    fn enter(&mut self, word: usize) {
        for pair in self.pairs(word) {
            let count = self.counts.entry(pair).or_default();
            *count += self.words[word].1;
            self.queue.push((*count, Reverse(pair)));
            self.places.entry(pair).or_default().insert(word);
        }
    }

    fn leave(&mut self, word: usize) {
        for pair in self.pairs(word) {
            if let Some(count) = self.counts.get_mut(&pair) {
                *count -= self.words[word].1;
            }
        }
    }

    /// The most frequent pair.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let present = self.counts.get(&pair).copied().unwrap_or(0);
            if present == count && count >= LEAST_COUNT {
                return Some(pair);
            }
            if present >= LEAST_COUNT && present < count {
                self.queue.push((present, Reverse(pair)));
            }
        }
        None
    }

    fn join(&mut self, pair: Pair, joined: u32) {
        for word in self.places.remove(&pair).unwrap_or_default() {
            self.leave(word);
            let symbols = &mut self.words[word].0;
            let mut i = 0;
            while i + 1 < symbols.len() {
                if (symbols[i], symbols[i + 1]) == pair {
                    symbols[i] = joined;
                    symbols.remove(i + 1);
                }
                i += 1;
            }
            self.enter(word);
        }
    }
}

impl ClipTokenizer {
    /// Learns a vocabulary of at most `entries` tokens, fewer if no more pairs occur twice, and at least [`LEAST_ENTRIES`].
    /// The order of the texts does not matter.
    pub fn train<'a>(texts: impl IntoIterator<Item = &'a str>, entries: usize) -> Self {
        let bytes = byte_letters();
        let mut letters = bytes;
        letters.sort_unstable();
        let number: HashMap<char, u32> = letters.iter().copied().zip(0..).collect();
        let mut names: Vec<String> = letters.iter().map(char::to_string).collect();
        names.extend(letters.iter().map(|c| format!("{c}{SUFFIX}")));

        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for text in texts {
            for word in words_of(text).iter().filter(|word| ![BEGIN, END].contains(&word.as_str())) {
                word.as_bytes()
                    .chunks(LONGEST_WORD)
                    .for_each(|part| *counts.entry(part.into()).or_default() += 1);
            }
        }
        let symbols = |word: Vec<u8>| -> Vec<u32> {
            let last = word.len().saturating_sub(1);
            let of = |(i, b): (usize, &u8)| number[&bytes[usize::from(*b)]] + if i == last { 256 } else { 0 };
            word.iter().enumerate().map(of).collect()
        };
        let mut words = Words::new(counts.into_iter().map(|(word, count)| (symbols(word), count)).collect());

        let mut merges = HashMap::new();
        let mut known: HashMap<String, u32> = names.iter().cloned().zip(0..).collect();
        while names.len() + 2 < entries {
            let Some(pair) = words.most_frequent() else { break };
            let name = format!("{}{}", names[pair.0 as usize], names[pair.1 as usize]);
            // Two pairs may give the same symbol.
            let joined = *known.entry(name.clone()).or_insert_with(|| {
                names.push(name);
                names.len() as u32 - 1
            });
            merges.insert(pair, (merges.len() as u32, joined));
            words.join(pair, joined);
        }
        let (begin, end) = (names.len() as u32, names.len() as u32 + 1);
        known.extend([(BEGIN.to_owned(), begin), (END.to_owned(), end)]);
        let (added, several) = (Finder::default(), HashMap::new());
        Self { vocabulary: known, merges: Merges(merges), added, several, bytes, begin, end, pad: end }
    }

    /// A number that differs where the tokens of texts do.
    pub fn fingerprint(&self) -> String {
        let mut entries: Vec<_> = self.vocabulary.iter().collect();
        entries.sort_unstable();
        let mut merges: Vec<_> = self.merges.0.iter().collect();
        merges.sort_unstable();
        let special = [self.begin, self.end, self.pad];
        format!("{:08x}", crc32c::crc32c(format!("{entries:?} {merges:?} {special:?}").as_bytes()))
    }

    /// Writes `vocab.json`, `merges.txt` and the files beside them to the folder `dir`, for texts of at most `length` tokens.
    /// transformers opens it as `CLIPTokenizer`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path, length: usize) -> Result<(), HubError> {
        let mut names = vec![""; self.bound() as usize];
        self.vocabulary.iter().for_each(|(name, id)| names[*id as usize] = name);
        let numbered: serde_json::Map<_, _> = (names.iter().zip(0u32..))
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, id)| ((*name).to_owned(), id.into()))
            .collect();
        files::write_json(&dir.join("vocab.json"), &numbered)?;
        let mut ranked: Vec<(u32, Pair)> =
            self.merges.0.iter().map(|(pair, (rank, _))| (*rank, *pair)).collect();
        ranked.sort_unstable();
        let line = |(_, (a, b)): &(u32, Pair)| format!("{} {}\n", names[*a as usize], names[*b as usize]);
        let lines: String = ranked.iter().map(line).collect();
        files::write_atomic(&dir.join("merges.txt"), format!("#version: 0.2\n{lines}").as_bytes())?;
        let tokens = self.added.tokens();
        let pad = tokens.iter().find(|token| token.id == Some(self.pad));
        let pad = pad.map_or(names[self.pad as usize], |token| &token.content);
        let special = json!({ "bos_token": BEGIN, "eos_token": END, "pad_token": pad, "unk_token": END });
        files::write_json(&dir.join("special_tokens_map.json"), &special)?;
        let mut config = json!({
            "add_prefix_space": false,
            "bos_token": BEGIN,
            "do_lower_case": true,
            "eos_token": END,
            "errors": "replace",
            "model_max_length": length,
            "pad_token": pad,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": END,
        });
        added::save(tokens, &|token| self.vocabulary.contains_key(token), dir, &mut config)?;
        files::write_json(&dir.join("tokenizer_config.json"), &config)
    }
}
