//! Structured logs.

use tracing::level_filters::LevelFilter;

/// Writes logs to the standard error output: what, when, and with which values; as JSON if asked.
pub fn log(json: bool, quiet: bool) {
    let level = if quiet { LevelFilter::ERROR } else { LevelFilter::INFO };
    let logs =
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    // A second call in one process keeps the first logs.
    let _ = if json { logs.json().flatten_event(true).try_init() } else { logs.with_ansi(false).try_init() };
}
