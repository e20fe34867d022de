//! Runs the target named by `TWEEDIE_FUZZ`, or else the one selected by the first byte of the input.

#![no_main]

#[path = "../targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let named = std::env::var("TWEEDIE_FUZZ").ok();
    let target = match &named {
        Some(name) => targets::TARGETS.iter().find(|(target, _)| target == name).map(|(_, run)| (*run, bytes)),
        None => bytes
            .split_first()
            .map(|(first, rest)| (targets::TARGETS[usize::from(*first) % targets::TARGETS.len()].1, rest)),
    };
    if let Some((run, input)) = target {
        let folder = tempfile::tempdir().expect("a temporary folder");
        run(input, folder.path());
    }
});
