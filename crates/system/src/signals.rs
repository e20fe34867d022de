//! Handling of signals.

/// Calls `install`, which sets handlers, and ignores hang-ups again if they were ignored before: `nohup` means that the
/// program goes on when its terminal is closed.
#[cfg(unix)]
pub fn keeping_nohup<T>(install: impl FnOnce() -> T) -> T {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only reads the current action, into memory for which zeros are valid.
    let asked = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: see above.
    let before = unsafe { action.assume_init() };
    let made = install();
    if asked == 0 && before.sa_sigaction == libc::SIG_IGN {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    made
}

/// Calls `install`.
#[cfg(not(unix))]
pub fn keeping_nohup<T>(install: impl FnOnce() -> T) -> T {
    install()
}
