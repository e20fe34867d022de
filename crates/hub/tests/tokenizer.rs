//! Tokenizers learned from texts, compared with `tokenizers` and transformers (see `golden/make_tokenizer.py`).

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs};

use serde::Deserialize;
use tweedie_hub::{ClipTokenizer, tokenizer::LEAST_ENTRIES};

#[derive(Deserialize)]
struct Golden {
    counts: BTreeMap<String, usize>,
    merges: Vec<String>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(golden: &Golden) -> impl Iterator<Item = &str> {
    golden.counts.iter().flat_map(|(word, n)| std::iter::repeat_n(word.as_str(), *n))
}

#[test]
fn merges_are_those_of_tokenizers_and_tokens_those_of_transformers() {
    let golden = golden();
    let trained = ClipTokenizer::train(texts(&golden), LEAST_ENTRIES + golden.merges.len());
    let dir = tempfile::tempdir().unwrap();
    trained.save(dir.path(), 32).unwrap();
    let merges = fs::read_to_string(dir.path().join("merges.txt")).unwrap();
    assert_eq!(merges.lines().skip(1).collect::<Vec<_>>(), golden.merges);
    let opened = ClipTokenizer::open(dir.path()).unwrap();
    for tokenizer in [&trained, &opened] {
        assert_eq!(tokenizer.bound() as usize, LEAST_ENTRIES + golden.merges.len());
        assert_eq!((tokenizer.begin + 1, tokenizer.pad), (tokenizer.end, tokenizer.end));
        for (text, ids) in golden.texts.iter().zip(&golden.ids) {
            assert_eq!(tokenizer.encode(text), *ids, "{text:?}");
        }
    }
}

#[test]
fn the_order_of_texts_does_not_matter_and_patterns_end() {
    let golden = golden();
    let mut shuffled: Vec<&str> = texts(&golden).collect();
    shuffled.reverse();
    let (a, b) = (ClipTokenizer::train(texts(&golden), 2048), ClipTokenizer::train(shuffled, 2048));
    assert_eq!(a.bound(), b.bound());
    assert!((a.bound() as usize) < 1024, "there are no more pairs");
    for (word, _) in golden.counts.iter().filter(|(word, _)| word.chars().all(char::is_alphabetic)) {
        assert_eq!(a.encode(word), b.encode(word));
        assert_eq!(a.encode(word).len(), 1, "{word} is one token");
    }
    let nothing = ClipTokenizer::train([], 0);
    assert_eq!(nothing.bound() as usize, LEAST_ENTRIES);
    assert_eq!(nothing.encode("ab").len(), 2);
}
