//! SentencePiece's table that normalizes letters, `precompiled_charsmap`: a trie of bytes as a double array (Aoe 1989), whose
//! leaves point at replacements. Applied as in the library `tokenizers`.

use base64::{Engine, engine::general_purpose::STANDARD};
use unicode_segmentation::UnicodeSegmentation;

/// Longer graphemes, in bytes, are replaced letter by letter.
const LONGEST: usize = 5;
/// The bit that marks a value in an entry of the array.
const IS_VALUE: u32 = 1 << 31;

/// The table.
#[derive(Clone)]
pub(super) struct Charsmap {
    trie: Vec<u32>,
    /// Texts that end in a byte of 0.
    replacements: Vec<u8>,
}

impl Charsmap {
    /// Decodes the table in base 64.
    pub(super) fn decode(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("`precompiled_charsmap` is damaged: {why}");
        let bytes = STANDARD.decode(text).map_err(|e| wrong(&e.to_string()))?;
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| wrong("it is too short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (trie, replacements) = rest.split_at_checked(length).ok_or_else(|| wrong("it is too short"))?;
        let (units, remainder) = trie.as_chunks::<4>();
        if units.is_empty() || !remainder.is_empty() {
            return Err(wrong(&format!("its trie has {length} bytes")));
        }
        if std::str::from_utf8(replacements).is_err() {
            return Err(wrong("its replacements are not UTF-8"));
        }
        Ok(Self {
            trie: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_vec(),
        })
    }

    /// The text with all replacements.
    pub(super) fn normalize(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for grapheme in text.graphemes(true) {
            match self.replacement(grapheme).filter(|_| grapheme.len() <= LONGEST) {
                Some(by) => out.push_str(by),
                None => {
                    for letter in grapheme.chars() {
                        match self.replacement(letter.encode_utf8(&mut [0; 4])) {
                            Some(by) => out.push_str(by),
                            None => out.push(letter),
                        }
                    }
                }
            }
        }
        out
    }

    /// The replacement of the shortest beginning that has one.
    fn replacement(&self, text: &str) -> Option<&str> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut at = offset(*self.trie.first()?);
        for byte in text.bytes().take_while(|byte| *byte != 0) {
            at ^= u32::from(byte);
            let unit = *self.trie.get(at as usize)?;
            if unit & (IS_VALUE | 0xff) != u32::from(byte) {
                return None;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let from = (self.trie.get(at as usize)? & !IS_VALUE) as usize;
                let rest = self.replacements.get(from..)?;
                return std::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_tables_are_errors_or_replace_nothing() {
        for text in ["", "AAA", "%%%", "AAAA", "AAAAAA==", "BAAAAA==", "AwAAAAAAAA=="] {
            assert!(Charsmap::decode(text).is_err(), "{text}");
        }
        // One entry that points far outside.
        let table = STANDARD.encode([4, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(Charsmap::decode(&table).unwrap().normalize("añb e\u{301}"), "añb e\u{301}");
    }
}
