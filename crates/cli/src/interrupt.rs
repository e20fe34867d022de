//! Handles Ctrl-C and termination requests.

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};

use crate::ui::Ui;

/// The exit code of an interrupted run.
pub const INTERRUPTED: u8 = 130;

type Answer = Box<dyn FnOnce() + Send>;

/// The action of the next interrupt, unless it ends the program.
static ANSWER: Mutex<Option<Answer>> = Mutex::new(None);

/// From now on an interrupt removes incomplete files and ends the program.
pub fn listen() -> Result<()> {
    let handle = || match ANSWER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(answer) => answer(),
        None => tweedie_system::files::exit(i32::from(INTERRUPTED)),
    };
    tweedie_system::signals::keeping_nohup(|| ctrlc::set_handler(handle)).context("cannot listen for Ctrl-C")
}

/// The next interrupt calls `stop` instead of ending the program; the one after that ends it. `then` describes what
/// happens before the program ends.
pub fn answer(ui: Ui, then: &'static str, stop: impl FnOnce() + Send + 'static) {
    let answer = move || {
        stop();
        ui.note(format!("interrupted: {then}; press Ctrl-C again to stop immediately"));
    };
    *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(answer));
}

/// Set by the next interrupt.
pub fn flag(ui: Ui) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    answer(ui, "ending", move || set.store(true, Ordering::Relaxed));
    flag
}

/// The exit code of a command that was interrupted before it wrote anything.
pub fn nothing_written(ui: Ui) -> ExitCode {
    ui.note("cancelled; nothing was written");
    ExitCode::from(INTERRUPTED)
}
