//! Catches panics of decoders, so that the file counts as corrupt.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `read`, or the error `otherwise` if it panics.
pub(crate) fn guarded<T>(otherwise: &str, read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let found = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(otherwise.into()));
    GUARDED.set(before);
    found
}

/// Whether a panic on this thread is caught and reported as a corrupt file, so that a panic hook can stay silent.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_errors() {
        let read = || -> Result<(), String> {
            assert!(is_guarded());
            panic!("a decoder");
        };
        assert_eq!(guarded("corrupt", read), Err("corrupt".into()));
        assert!(!is_guarded());
        assert_eq!(guarded("corrupt", || Ok(3)), Ok(3));
    }
}
