//! What the user sees: progress bars for people, JSON lines for scripts, silence on request.

use std::{io::Write, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How much is said, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bars and sentences on stderr, results on stdout.
    Normal,
    /// Only results and errors.
    Quiet,
    /// One JSON object a line on stdout, nothing else.
    Json,
}

/// The user's terminal.
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

    pub fn is_json(self) -> bool {
        self.mode == Mode::Json
    }

    /// A remark on what is being done.
    pub fn note(self, text: impl AsRef<str>) {
        if self.mode == Mode::Normal {
            complain(text.as_ref());
        }
    }

    /// Something that the user should know although the work goes on.
    pub fn warn(self, text: impl AsRef<str>) {
        match self.mode {
            Mode::Json => self.emit(&serde_json::json!({ "warning": text.as_ref() })),
            _ => complain(&format!("warning: {}", text.as_ref())),
        }
    }

    /// What the command was asked for: `text` for people, `value` for scripts.
    pub fn result<T: Serialize>(self, value: &T, text: impl AsRef<str>) {
        match self.mode {
            Mode::Json => self.emit(value),
            _ => out(text.as_ref()),
        }
    }

    /// One JSON line; silent in the other modes.
    pub fn event<T: Serialize>(self, value: &T) {
        if self.is_json() {
            self.emit(value);
        }
    }

    fn emit<T: Serialize>(self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => out(&line),
            Err(e) => complain(&format!("warning: a message could not be written as JSON: {e}")),
        }
    }

    /// A progress bar with ETA; invisible unless for people.
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
            Mode::Quiet | Mode::Json => ProgressDrawTarget::hidden(),
        }
    }
}

/// `1 picture`, `2 pictures`.
pub fn counted(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// Prints a line. A closed pipe (`tweedie plan | head`) is not an error; a full disk is.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(e) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        complain(&format!("error: cannot write to the standard output: {e}"));
        std::process::exit(1);
    }
}

/// Prints a line to stderr, where nobody may be listening.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints an error with its causes.
pub fn error(error: &anyhow::Error, json: bool) {
    let text = chain(error);
    if json {
        out(&serde_json::json!({ "error": text }).to_string());
    } else {
        complain(&format!("error: {text}"));
    }
}

/// The error and its causes, without those that the one before has already told.
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

    use super::chain;

    #[test]
    fn causes_are_told_once() {
        let full = || anyhow::Error::new(Error::other("disk full"));
        assert_eq!(chain(&full().context("a.png")), "a.png: disk full");
        assert_eq!(chain(&full().context("cannot write a.png: disk full")), "cannot write a.png: disk full");
        assert_eq!(chain(&anyhow!("alone")), "alone");
    }
}
