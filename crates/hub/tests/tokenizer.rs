//! Tokenizers learned from texts, compared with `tokenizers` and transformers (see `golden/make_tokenizer.py`).

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
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

/// What transformers reads in tokenizers to which tokens were added (`golden/make_added_tokens.py`).
#[derive(Deserialize)]
struct AddedTokens {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    files: Map<String, Value>,
    pad: u32,
    bound: u32,
    ids: Vec<Vec<u32>>,
}

fn plain() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipe/tests/golden/latent/tokenizer_files")
}

/// A folder with the vocabulary and these files. A `tokenizer.json` has the vocabulary in itself.
fn folder(files: &Map<String, Value>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let whole = files.contains_key("tokenizer");
    for file in ["vocab.json", "merges.txt"].iter().filter(|_| !whole) {
        fs::copy(plain().join(file), dir.path().join(file)).unwrap();
    }
    for (name, value) in files {
        let mut value = value.clone();
        if name == "tokenizer" {
            let text = |file: &str| fs::read_to_string(plain().join(file)).unwrap();
            let vocabulary: Value = serde_json::from_str(&text("vocab.json")).unwrap();
            let merges: Vec<_> = text("merges.txt").lines().skip(1).map(str::to_owned).collect();
            value["model"] =
                json!({"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": merges});
        }
        fs::write(dir.path().join(format!("{name}.json")), value.to_string()).unwrap();
    }
    dir
}

#[test]
fn added_tokens_are_found_wherever_they_are_kept() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/added_tokens.json");
    let golden: AddedTokens = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for case in &golden.cases {
        let dir = folder(&case.files);
        let opened = ClipTokenizer::open(dir.path()).unwrap();
        let written = tempfile::tempdir().unwrap();
        opened.save(written.path(), 77).unwrap();
        for tokenizer in [&opened, &ClipTokenizer::open(written.path()).unwrap()] {
            assert_eq!((tokenizer.pad, tokenizer.bound()), (case.pad, case.bound), "{}", case.name);
            for (text, ids) in golden.texts.iter().zip(&case.ids) {
                assert_eq!(tokenizer.encode(text), *ids, "{}: {text:?}", case.name);
            }
        }
    }
}

#[test]
fn added_tokens_that_contradict_each_other_are_refused() {
    let files = |value: Value| value.as_object().unwrap().clone();
    let decoder = json!({"added_tokens_decoder": {"600": {"content": "<a>"}}});
    for (value, words) in [
        (json!({"added_tokens": {"<a>": 570}, "tokenizer_config": decoder}), ["`<a>`", "600", "570"]),
        (json!({"added_tokens": {"": 570}}), ["added_tokens.json", "empty", ""]),
        (json!({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}), ["added_tokens_decoder", "", ""]),
    ] {
        let dir = folder(&files(value));
        let error = ClipTokenizer::open(dir.path()).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
}
