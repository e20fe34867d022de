//! Word errors: what a speech recognizer hears in sounds, compared with the texts that they should say.
//!
//! The recognizer is a program of the user's. The rate is that of substitutions, deletions and insertions over all words
//! (Levenshtein 1966), with the standard error of a ratio of sums over the sounds.

use std::{io, path::Path, process::Command};

use serde::Serialize;
use tweedie_media::{Audio, MediaError, WavFormat, write_wav};

/// What stands for the sound file in a command.
const FILE: &str = "{}";

/// Why a recognizer cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecognizerError {
    /// The command is empty, has a quote without its end, or does not say where the file goes.
    #[error("`{command}`: {reason}")]
    Command {
        /// The command.
        command: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The program cannot be started.
    #[error("`{program}` cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// The error.
        source: io::Error,
    },
    /// The program has failed.
    #[error("`{command}` failed with {status}{}", said(.message))]
    Failed {
        /// The command with the file.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last line of its errors.
        message: String,
    },
    /// What the program has printed is not text.
    #[error("`{program}` printed what is not UTF-8")]
    Text {
        /// The program.
        program: String,
    },
    /// A sound cannot be written for it.
    #[error(transparent)]
    Sound(#[from] MediaError),
    /// A temporary file cannot be made.
    #[error("a temporary file: {0}")]
    Temporary(io::Error),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// A program that prints what it hears in a sound file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognizer {
    command: String,
    program: String,
    arguments: Vec<String>,
}

impl Recognizer {
    /// The program and its arguments, separated as by a shell, but never run by one; `{}` is the path of the sound.
    ///
    /// # Errors
    /// [`RecognizerError::Command`].
    pub fn parse(command: &str) -> Result<Self, RecognizerError> {
        let wrong = |reason| RecognizerError::Command { command: command.into(), reason };
        let parts = shlex::split(command).ok_or_else(|| wrong("a quote is not closed"))?;
        let Some((program, arguments)) = parts.split_first() else {
            return Err(wrong("expected a program and its arguments"));
        };
        if !arguments.iter().any(|argument| argument.contains(FILE)) {
            return Err(wrong("expected `{}` among the arguments, where the path of the sound goes"));
        }
        Ok(Self { command: command.into(), program: program.clone(), arguments: arguments.to_vec() })
    }

    /// What it hears in a sound, written as WAV of 16 bits for it.
    ///
    /// # Errors
    /// If the program cannot be started, fails, or prints no text.
    pub fn hear(&self, sound: &Audio) -> Result<String, RecognizerError> {
        let file = tempfile::Builder::new().prefix("tweedie-").suffix(".wav").tempfile();
        let file = file.map_err(RecognizerError::Temporary)?;
        write_wav(file.path(), sound, WavFormat::Pcm16, None)?;
        self.hear_file(file.path())
    }

    fn hear_file(&self, path: &Path) -> Result<String, RecognizerError> {
        let path = path.to_string_lossy();
        let arguments: Vec<String> = self.arguments.iter().map(|a| a.replace(FILE, &path)).collect();
        let program = || self.program.clone();
        let output = Command::new(&self.program).args(&arguments).stdin(std::process::Stdio::null()).output();
        let output = output.map_err(|source| RecognizerError::Start { program: program(), source })?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let message =
                errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().into();
            let command = format!("{} {}", self.program, arguments.join(" "));
            return Err(RecognizerError::Failed { command, status: output.status, message });
        }
        String::from_utf8(output.stdout).map_err(|_| RecognizerError::Text { program: program() })
    }
}

/// How well texts are heard in sounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WordErrors {
    /// The recognizer's command.
    pub recognizer: String,
    /// Number of sounds.
    pub sounds: usize,
    /// Number of words that they should say.
    pub words: usize,
    /// Number of words that are replaced, left out or added.
    pub errors: usize,
    /// `errors / words`.
    pub rate: f64,
    /// Its 95 % confidence interval.
    pub interval: [f64; 2],
    /// Sounds that are heard wrongly: the text, and what was heard; at most twenty.
    pub wrong: Vec<[String; 2]>,
    #[serde(skip)]
    each: Vec<[f64; 2]>,
}

impl WordErrors {
    /// None so far.
    pub fn new(recognizer: &Recognizer) -> Self {
        Self { recognizer: recognizer.command.clone(), ..Self::default() }
    }

    /// Adds a sound.
    pub fn add(&mut self, text: &str, heard: &str) {
        /// Most examples.
        const MOST: usize = 20;
        let (expected, found) = (words(text), words(heard));
        let errors = distance(&expected, &found);
        if errors > 0 && self.wrong.len() < MOST {
            self.wrong.push([expected.join(" "), found.join(" ")]);
        }
        self.sounds += 1;
        self.words += expected.len();
        self.errors += errors;
        self.each.push([errors as f64, expected.len() as f64]);
        (self.rate, self.interval) = self.estimate();
    }

    fn estimate(&self) -> (f64, [f64; 2]) {
        let (n, words) = (self.each.len() as f64, self.words.max(1) as f64);
        let rate = self.errors as f64 / words;
        if self.errors == 0 {
            // Of no error in so many words: the exact interval.
            return (rate, [0.0, 1.0 - 0.025f64.powf(1.0 / words)]);
        }
        let squares: f64 = self.each.iter().map(|[e, w]| (e - rate * w).powi(2)).sum();
        let error = (squares * n / (n - 1.0).max(1.0)).sqrt() / words;
        (rate, [(rate - 1.96 * error).max(0.0), rate + 1.96 * error])
    }

    /// The rate and its interval in percent, and of how much.
    pub fn summary(&self) -> String {
        let [low, high] = self.interval.map(|v| 100.0 * v);
        let rate = 100.0 * self.rate;
        format!("{rate:.1} % ({low:.1} to {high:.1}) of {} words in {} sounds", self.words, self.sounds)
    }
}

/// The words of a text in lower case, without signs except within words.
fn words(text: &str) -> Vec<String> {
    let bare = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    text.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect()
}

/// The least number of words to replace, leave out or add.
fn distance(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, word) in a.iter().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let replaced = before + usize::from(word != other);
            before = row[j + 1];
            row[j + 1] = replaced.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        words(text)
    }

    #[test]
    fn errors_are_the_fewest_changes() {
        for (text, heard, errors) in [
            ("Three, one four!", "three one four", 0),
            ("three one four", "three four", 1),
            ("three one four", "tree one for four", 2),
            ("three one", "", 2),
            ("", "one two", 2),
            ("it's five", "its five", 1),
        ] {
            assert_eq!(distance(&split(text), &split(heard)), errors, "{text}: {heard}");
        }
    }

    #[test]
    fn rates_have_intervals() {
        let recognizer = Recognizer::parse("cat {}").unwrap();
        let mut none = WordErrors::new(&recognizer);
        (0..100).for_each(|_| none.add("one", "one"));
        // The exact interval of 0 of 100: 0 to 3.62 %.
        assert!(none.rate == 0.0 && (none.interval[1] - 0.0362).abs() < 1e-4, "{none:?}");
        let mut some = WordErrors::new(&recognizer);
        (0..100).for_each(|i| some.add("one", if i % 10 == 0 { "two" } else { "one" }));
        // One word each: the interval of a share, with the standard error sqrt(0.1·0.9/99).
        assert_eq!((some.errors, some.words, some.wrong.len()), (10, 100, 10));
        assert!((some.interval[0] - (0.1 - 1.96 * (0.09f64 / 99.0).sqrt())).abs() < 1e-12, "{some:?}");
        assert_eq!(some.summary(), "10.0 % (4.1 to 15.9) of 100 words in 100 sounds");
    }

    #[test]
    fn commands_are_checked_and_run_without_a_shell() {
        let error = |command: &str| Recognizer::parse(command).unwrap_err().to_string();
        assert!(error("").contains("expected a program"));
        assert!(error("cat 'x {}").contains("a quote is not closed"));
        assert!(error("cat x").contains("expected `{}`"));
        let sound = Audio { channels: vec![vec![0.0, 0.5]], rate: 8000, guessed: false };
        let heard = |command: &str| Recognizer::parse(command).unwrap().hear(&sound);
        assert_eq!(heard("printf '%s' 'a; b $HOME {}' ").unwrap().split(' ').nth(2), Some("$HOME"));
        assert!(
            heard("no-such-program {}")
                .unwrap_err()
                .to_string()
                .contains("`no-such-program` cannot be started")
        );
        let failed = heard("ls {}.not-there").unwrap_err().to_string();
        assert!(failed.contains("failed with exit status") && failed.contains("not-there"), "{failed}");
    }
}
