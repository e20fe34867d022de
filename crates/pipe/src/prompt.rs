//! Prompts with word weights, and texts longer than an encoder's limit.
//!
//! `a (red:1.3) house` weights the features of `red` by 1.3 ([`Weighting`]); weights of nested parentheses multiply.
//! Parentheses without a number are text, as are `\(` and `\)`. A text with more tokens than an encoder accepts is
//! divided into chunks, which are encoded separately and whose features are concatenated.

use burn::tensor::Tensor;
use tweedie_hub::TextPart;
use tweedie_models::ExecContext;

use crate::weighting::{Weighting, weigh};

/// A piece of text and its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// The text.
    pub text: String,
    /// The weight; 1 has no effect.
    pub weight: f64,
}

/// Maximum length of a prompt in bytes.
pub const MOST_BYTES: usize = 1 << 14;
/// Maximum nesting depth of weights.
const MOST_NESTED: usize = 32;
/// Maximum number of chunks of a prompt.
pub const MOST_CHUNKS: usize = 16;

/// Parses the weights of a prompt.
///
/// # Errors
/// If a weight is out of range, weights are nested too deeply, or the text is too long.
pub fn parse(prompt: &str) -> Result<Vec<Weighted>, String> {
    if prompt.len() > MOST_BYTES {
        return Err(format!("the prompt has {} bytes, expected at most {MOST_BYTES}", prompt.len()));
    }
    let letters: Vec<char> = prompt.chars().collect();
    let mut out = Vec::new();
    stretch(&letters, 1.0, MOST_NESTED, &mut out)?;
    Ok(out)
}

fn stretch(letters: &[char], weight: f64, levels: usize, out: &mut Vec<Weighted>) -> Result<(), String> {
    let Some(levels) = levels.checked_sub(1) else {
        return Err(format!("weights are nested more than {MOST_NESTED} levels deep"));
    };
    let mut text = String::new();
    let mut i = 0;
    let flush = |text: &mut String, out: &mut Vec<Weighted>| {
        if !text.is_empty() {
            out.push(Weighted { text: std::mem::take(text), weight });
        }
    };
    while i < letters.len() {
        match letters[i] {
            '\\' if matches!(letters.get(i + 1), Some('(' | ')')) => {
                text.push(letters[i + 1]);
                i += 2;
                continue;
            }
            '(' => {
                if let Some(inside) = weighted(letters, i)? {
                    flush(&mut text, out);
                    stretch(inside.letters, weight * inside.factor, levels, out)?;
                    i = inside.end;
                    continue;
                }
            }
            _ => {}
        }
        text.push(letters[i]);
        i += 1;
    }
    flush(&mut text, out);
    Ok(())
}

/// The content of a parenthesis with a number.
struct Parenthesis<'a> {
    letters: &'a [char],
    factor: f64,
    /// Where the text continues.
    end: usize,
}

/// Parses the parenthesis at `start`; `None` if it does not end with a number.
fn weighted(letters: &[char], start: usize) -> Result<Option<Parenthesis<'_>>, String> {
    let mut depth = 0;
    let mut colon = None;
    let mut i = start;
    while i < letters.len() {
        match letters[i] {
            '\\' => i += 1,
            '(' => depth += 1,
            ')' if depth == 1 => break,
            ')' => depth -= 1,
            ':' if depth == 1 => colon = Some(i),
            _ => {}
        }
        i += 1;
    }
    let (Some(colon), true) = (colon, i < letters.len()) else { return Ok(None) };
    let number: String = letters[colon + 1..i].iter().collect();
    let Ok(factor) = number.trim().parse::<f64>() else { return Ok(None) };
    if !(-10.0..=10.0).contains(&factor) {
        return Err(format!("weight {factor}: expected a value from -10 to 10"));
    }
    Ok(Some(Parenthesis { letters: &letters[start + 1..colon], factor, end: i + 1 }))
}

/// Tokens and their weights, in chunks of the encoder's length.
struct Chunks {
    tokens: Vec<Vec<u32>>,
    weights: Vec<Vec<f64>>,
    /// Number of tokens of the first that are not padding.
    length: usize,
}

/// Features of one prompt.
pub(crate) struct Encoded {
    /// `[1, tokens, width]`.
    pub(crate) hidden: Tensor<3>,
    /// Features of the first chunk, `[1, width]`.
    pub(crate) pooled: Tensor<2>,
    /// Number of tokens of the first chunk that are not padding.
    pub(crate) length: usize,
}

/// The layer whose output is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    /// Number of layers after it.
    pub(crate) skip: usize,
    /// Whether the final normalization is applied to it.
    pub(crate) normalize: bool,
}

/// Number of chunks of a prompt.
pub(crate) fn chunks_of(part: &TextPart, prompt: &[Weighted]) -> Result<usize, String> {
    let count: usize = prompt.iter().map(|w| part.tokenizer.encode(&w.text).len()).sum();
    let room = part.encoder.config().max_position_embeddings.saturating_sub(2).max(1);
    let chunks = count.div_ceil(room).max(1);
    if chunks > MOST_CHUNKS {
        return Err(format!("the prompt has {count} tokens, expected at most {}", room * MOST_CHUNKS));
    }
    Ok(chunks)
}

fn cut(part: &TextPart, prompt: &[Weighted], chunks: usize) -> Chunks {
    let tokenizer = &part.tokenizer;
    let length = part.encoder.config().max_position_embeddings;
    let room = length.saturating_sub(2).max(1);
    let all: Vec<(u32, f64)> = prompt
        .iter()
        .flat_map(|w| tokenizer.encode(&w.text).into_iter().map(|token| (token, w.weight)))
        .collect();
    let mut out = Chunks { tokens: Vec::new(), weights: Vec::new(), length: all.len().min(room) + 2 };
    for i in 0..chunks {
        let part = all.get(i * room..).unwrap_or(&[]);
        let part = &part[..part.len().min(room)];
        let mut tokens = vec![tokenizer.begin];
        let mut weights = vec![1.0];
        tokens.extend(part.iter().map(|(token, _)| token));
        weights.extend(part.iter().map(|(_, weight)| weight));
        tokens.push(tokenizer.end);
        tokens.resize(length, tokenizer.pad);
        weights.resize(length, 1.0);
        out.tokens.push(tokens);
        out.weights.push(weights);
    }
    out
}

/// The features of a prompt, in the given number of chunks.
pub(crate) fn encode(
    part: &TextPart,
    prompt: &[Weighted],
    chunks: usize,
    layer: Layer,
    weighting: Weighting,
) -> Result<Encoded, String> {
    let mut cut = cut(part, prompt, chunks);
    let weighted = cut.weights.iter().flatten().any(|w| *w != 1.0);
    if weighted {
        cut.tokens.extend(self::cut(part, &[], 1).tokens);
    }
    let context = ExecContext { once: true, ..ExecContext::default() };
    let features = context.run(|| part.encoder.encode(&cut.tokens, layer.skip)).map_err(|e| e.to_string())?;
    let mut hidden = match layer {
        Layer { skip: 0, normalize: true } => features.last,
        Layer { normalize: true, .. } => part.encoder.normalize(features.hidden),
        Layer { normalize: false, .. } => features.hidden,
    };
    if weighted {
        let (texts, empty) = (hidden.clone().narrow(0, 0, chunks), hidden.narrow(0, chunks, 1));
        hidden = weigh(weighting, texts, empty, &cut.weights)?;
    }
    let [n, length, width] = hidden.dims();
    let hidden = hidden.reshape([1, n * length, width]);
    Ok(Encoded { hidden, pooled: features.pooled.narrow(0, 0, 1), length: cut.length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prompt: &str) -> Vec<(String, f64)> {
        parse(prompt).unwrap().into_iter().map(|w| (w.text, w.weight)).collect()
    }

    #[test]
    fn weights_are_read() {
        let pair = |text: &str, weight| (text.to_owned(), weight);
        assert_eq!(read("a cat"), [pair("a cat", 1.0)]);
        assert_eq!(read("a (red:1.5) cat"), [pair("a ", 1.0), pair("red", 1.5), pair(" cat", 1.0)]);
        assert_eq!(read("(a (b:2):0.5)"), [pair("a ", 0.5), pair("b", 1.0)]);
        assert_eq!(read("a (cat) at 10:30"), [pair("a (cat) at 10:30", 1.0)]);
        assert_eq!(read(r"\(a:2\)"), [pair("(a:2)", 1.0)]);
        assert_eq!(read("(open:1.2"), [pair("(open:1.2", 1.0)]);
        assert_eq!(read("(a:b:1.2)"), [pair("a:b", 1.2)]);
        assert_eq!(read(""), []);
        assert!(parse("(a:99)").unwrap_err().contains("99"));
    }

    #[test]
    fn long_and_deep_prompts_are_refused() {
        let nested = |n| format!("{}x{}", "(".repeat(n), ":1)".repeat(n));
        assert_eq!(read(&nested(20)), [("x".to_owned(), 1.0)]);
        assert!(parse(&nested(300)).unwrap_err().contains("nested"));
        assert_eq!(read(&"(".repeat(10_000)).len(), 1);
        assert!(parse(&"a".repeat(100_000)).unwrap_err().contains("bytes"));
    }
}
