//! Output: progress bars for people, JSON lines for scripts, or nothing but results.

use std::{
    io::{ErrorKind, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Amount and format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Progress and messages on stderr, results on stdout.
    Normal,
    /// Only results and errors.
    Quiet,
    /// One JSON object per line on stdout, nothing else.
    Json,
    /// Nothing, as another rank prints.
    Silent,
}

/// The user interface.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    mode: Mode,
}

impl Ui {
    pub fn new(quiet: bool, json: bool) -> Self {
        let mode = if json {
            Mode::Json
        } else if quiet {
            Mode::Quiet
        } else {
            Mode::Normal
        };
        Self { mode }
    }

    /// Prints nothing.
    pub fn silent() -> Self {
        Self { mode: Mode::Silent }
    }

    pub fn is_json(self) -> bool {
        self.mode == Mode::Json
    }

    #[cfg(feature = "serve")]
    pub fn is_quiet(self) -> bool {
        self.mode == Mode::Quiet
    }

    /// Prints a message.
    pub fn note(self, text: impl AsRef<str>) {
        if self.mode == Mode::Normal {
            complain(text.as_ref());
        }
    }

    /// Prints a warning.
    pub fn warn(self, text: impl AsRef<str>) {
        match self.mode {
            Mode::Json => self.emit(&serde_json::json!({ "warning": text.as_ref() })),
            Mode::Silent => {}
            _ => complain(&format!("warning: {}", text.as_ref())),
        }
    }

    /// Prints a result: `text` for people, `value` for scripts.
    pub fn result<T: Serialize>(self, value: &T, text: impl AsRef<str>) {
        match self.mode {
            Mode::Json => self.emit(value),
            Mode::Silent => {}
            _ => out(&printable(text.as_ref())),
        }
    }

    /// Prints a JSON line; silent in the other modes.
    pub fn event<T: Serialize>(self, value: &T) {
        if self.is_json() && !OUTPUT_ENDED.load(Ordering::Relaxed) {
            self.emit(value);
            if OUTPUT_ENDED.load(Ordering::Relaxed) {
                complain("warning: standard output was closed; continuing without it");
            }
        }
    }

    fn emit<T: Serialize>(self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => out(&line),
            Err(e) => complain(&format!("warning: cannot write a message as JSON: {e}")),
        }
    }

    /// A progress bar with ETA; hidden unless in normal mode.
    pub fn bar(self, total: u64, unit: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), self.target());
        let template =
            format!("{{bar:32.cyan/dim}} {{pos}}/{{len}} {unit}  {{elapsed}} · {{eta}} left  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar
    }

    /// A spinner for work of unknown length.
    pub fn spinner(self, text: impl Into<String>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.target());
        bar.set_message(text.into());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    fn target(self) -> ProgressDrawTarget {
        match self.mode {
            Mode::Normal => ProgressDrawTarget::stderr(),
            Mode::Quiet | Mode::Json | Mode::Silent => ProgressDrawTarget::hidden(),
        }
    }
}

/// `1 image`, `2 images`.
pub fn counted(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// Set after a failure: nothing more is written to standard output.
static OUTPUT_ENDED: AtomicBool = AtomicBool::new(false);
/// Set if the failure was not a closed pipe.
static OUTPUT_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line. If this fails, the program continues without printing. A closed pipe (`tweedie plan | head`) is not an
/// error; [`output_failed`] reports others, such as a full disk.
pub fn out(text: &str) {
    if OUTPUT_ENDED.load(Ordering::Relaxed) {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    if let Err(e) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        OUTPUT_ENDED.store(true, Ordering::Relaxed);
        if e.kind() != ErrorKind::BrokenPipe {
            OUTPUT_FAILED.store(true, Ordering::Relaxed);
            complain(&format!("error: cannot write to standard output: {e}"));
        }
    }
}

/// Whether printing failed for a reason other than a closed pipe.
pub fn output_failed() -> bool {
    OUTPUT_FAILED.load(Ordering::Relaxed)
}

/// Prints a line to stderr, ignoring failures.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(&clipped(text)));
}

/// Escapes control characters, which file names and files may contain, so that they do not control the terminal.
fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let escaped = |c: char| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() };
    if text.contains(steers) { text.chars().map(escaped).collect() } else { text.into() }
}

/// Shortens very long lines by their middle.
fn clipped(text: &str) -> String {
    const LONGEST: usize = 2000;
    let clip = |line: &str| {
        let length = line.chars().count();
        if length <= LONGEST {
            return line.to_owned();
        }
        let part = |from: usize, n: usize| line.chars().skip(from).take(n).collect::<String>();
        format!("{} … {}", part(0, LONGEST / 2), part(length - LONGEST / 4, LONGEST / 4))
    };
    text.split('\n').map(clip).collect::<Vec<_>>().join("\n")
}

/// Prints an error with its causes.
pub fn error(error: &anyhow::Error, json: bool) {
    let text = clipped(&chain(error));
    if json {
        out(&serde_json::json!({ "error": text }).to_string());
    } else {
        complain(&format!("error: {text}"));
    }
}

/// The error and its causes, without causes that the previous message already contains.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use anyhow::anyhow;

    use super::{chain, clipped, printable};

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[31mb.png\nc\td"), "a\\u{1b}[31mb.png\nc\td");
        assert_eq!(printable("\u{9b}2J gnp.\u{202e}"), "\\u{9b}2J gnp.\\u{202e}");
        assert_eq!(printable("日本 ü"), "日本 ü");
    }

    #[test]
    fn long_lines_lose_their_middle() {
        let text = format!("begin {} end\nnext", "ü".repeat(50_000));
        let short = clipped(&text);
        assert!(short.chars().count() < 2000, "{}", short.len());
        assert!(short.starts_with("begin ü") && short.ends_with("ü end\nnext") && short.contains(" … "));
    }

    #[test]
    fn causes_are_printed_once() {
        let full = || anyhow::Error::new(Error::other("disk full"));
        assert_eq!(chain(&full().context("a.png")), "a.png: disk full");
        assert_eq!(chain(&full().context("cannot write a.png: disk full")), "cannot write a.png: disk full");
        assert_eq!(chain(&anyhow!("alone")), "alone");
    }
}
