//! Failures of devices other than the CPU: an allocation that does not fit, a shader that does not compile, a card that is
//! gone.
//!
//! Burn panics there, partly on threads of its own, whose results then are never computed. Both are reported as an error by
//! [`guarded`].

use std::{
    cell::Cell,
    error::Error,
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind},
    sync::{Once, OnceLock},
    thread,
};

/// The device failed; what it computed since is lost. The process must be restarted to use it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {0}")]
pub struct DeviceFailure(pub String);

static FAILED: OnceLock<DeviceFailure> = OnceLock::new();

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// How Burn begins the message of a panic for an error of the device.
const READING: &str = "Error while reading data";

/// The failure of a device of this process, if there was one.
pub fn failure() -> Option<DeviceFailure> {
    FAILED.get().cloned()
}

/// Records panics that are failures of a device, from now on. Those that [`guarded`] reports are not printed.
#[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
pub(crate) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if is_of_device(panic) {
                let message = panic.payload_as_str().unwrap_or("of unknown cause");
                let _ = FAILED.set(DeviceFailure(brief(message)));
            }
            if FAILED.get().is_none() || !(GUARDED.get() || runs_device()) {
                before(panic);
            }
        }));
    });
}

/// Whether this thread submits work to a device: CubeCL names it so.
fn runs_device() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("DS"))
}

/// Whether a panic is the failure of a device.
fn is_of_device(panic: &PanicHookInfo<'_>) -> bool {
    runs_device() || panic.payload_as_str().is_some_and(|message| message.starts_with(READING))
}

/// The causes in a message, in one line, without the stack.
fn brief(message: &str) -> String {
    if let Some((_, rest)) = message.split_once(ALLOCATION) {
        let bytes: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        return format!(
            "it cannot allocate a buffer of {bytes} bytes; lower the size of the samples, or how many are computed at once"
        );
    }
    let said = |line: &&str| !line.is_empty() && !HEADINGS.iter().any(|heading| line.starts_with(heading));
    let lines = message.lines().map(str::trim).take_while(|line| !line.starts_with("0: ")).filter(said);
    let text = lines.take(4).collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What CubeCL says of a buffer that does not fit, before its size.
const ALLOCATION: &str = "can't allocate buffer of size:";

/// Lines that name no cause.
const HEADINGS: &[&str] =
    &[READING, "An error happened during execution", "Caused by", "Several failures at once", "Backtrace"];

/// Characters of a message.
const MOST: usize = 400;

/// The result of `run`, unless a device has failed.
///
/// # Errors
/// The first failure of a device in this process.
///
/// # Panics
/// If `run` panics for another reason.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, DeviceFailure> {
    let before = GUARDED.replace(true);
    let found = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    match (failure(), found) {
        (Some(failure), _) => Err(failure),
        (None, Ok(found)) => Ok(found),
        (None, Err(payload)) => resume_unwind(payload),
    }
}

/// Panics if a device has failed, because then its results must not be used.
///
/// # Panics
/// With the reason; see [`guarded`].
pub(crate) fn check() {
    if let Some(failure) = FAILED.get() {
        panic!("{failure}");
    }
}

/// Records an error of a device.
///
/// # Panics
/// With the reason; see [`guarded`].
pub(crate) fn fail(error: &dyn Error) -> ! {
    panic!("{}", FAILED.get_or_init(|| DeviceFailure(brief(&error.to_string()))));
}
