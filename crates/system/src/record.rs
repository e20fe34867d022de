//! What this process does when, as a file for <https://ui.perfetto.dev> or `chrome://tracing`.
//!
//! Nothing is recorded, and nothing costs time, until [`begin`].

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime},
};

static RECORD: OnceLock<Record> = OnceLock::new();
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

struct Record {
    rank: usize,
    path: PathBuf,
    /// The same moment on both clocks: the records of several processes of one machine have a common time.
    zero: (Instant, SystemTime),
    file: Mutex<BufWriter<File>>,
}

/// Records the spans of this process from now on, in the file `path`, or for `rank` `n` of several in one with `-n` before the
/// ending. Returns its path. A second call changes nothing.
///
/// # Errors
/// If the file cannot be created.
pub fn begin(path: &Path, rank: Option<usize>) -> std::io::Result<PathBuf> {
    let path = rank.map_or_else(|| path.to_path_buf(), |rank| of_rank(path, rank));
    let mut file = BufWriter::new(File::create(&path)?);
    let rank = rank.unwrap_or_default();
    // An array need not be closed, so whatever was written is valid when a process is killed.
    write!(
        file,
        "[{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{rank},\"args\":{{\"name\":\"rank {rank}\"}}}}"
    )?;
    let zero = (Instant::now(), SystemTime::now());
    let record = RECORD.get_or_init(|| Record { rank, path, zero, file: Mutex::new(file) });
    Ok(record.path.clone())
}

fn of_rank(path: &Path, rank: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{rank}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

/// Writes what is still in memory.
///
/// # Errors
/// If the file cannot be written; the error names it.
pub fn end() -> std::io::Result<()> {
    let Some(record) = RECORD.get() else { return Ok(()) };
    let mut file = record.file.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = writeln!(file, "]").and_then(|()| file.flush());
    ended.map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", record.path.display())))
}

/// Something that takes time, until it is dropped.
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<(&'static str, Instant)>);

/// Begins a span, which is recorded if [`begin`] was called.
pub fn span(what: &'static str) -> Span {
    Span(RECORD.get().map(|_| (what, Instant::now())))
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(record), Some((what, start))) = (RECORD.get(), self.0) else { return };
        let (rank, thread) = (record.rank, THREAD.with(|thread| *thread));
        let since = record.zero.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = (since + start.saturating_duration_since(record.zero.0)).as_micros();
        let takes = start.elapsed().as_micros();
        let mut line = String::new();
        let _ = write!(
            line,
            ",\n{{\"name\":\"{what}\",\"ph\":\"X\",\"pid\":{rank},\"tid\":{thread},\"ts\":{at},\"dur\":{takes}}}"
        );
        let mut file = record.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A disk that is full is told by `end`.
        let _ = file.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_a_file() {
        assert_eq!(of_rank(Path::new("a/trace.json"), 3), Path::new("a/trace-3.json"));
        assert_eq!(of_rank(Path::new("trace"), 0), Path::new("trace-0"));
    }

    #[test]
    fn spans_are_written_with_their_times() {
        drop(span("before"));
        let folder = tempfile::tempdir().unwrap();
        let path = begin(&folder.path().join("x.json"), Some(2)).unwrap();
        assert_eq!(path, folder.path().join("x-2.json"));
        let outer = span("outer");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(span("inner")));
        });
        drop(outer);
        end().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let value = |line: &str, key: &str| -> u128 {
            let rest = line.split_once(&format!("\"{key}\":")).unwrap().1;
            rest.split([',', '}']).next().unwrap().parse().unwrap()
        };
        let line = |name: &str| text.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap();
        let (inner, outer) = (line("inner"), line("outer"));
        assert!(text.starts_with('[') && text.ends_with("]\n") && !text.contains("before"));
        assert!(value(outer, "pid") == 2 && value(inner, "tid") != value(outer, "tid"));
        assert!(value(outer, "ts") <= value(inner, "ts"));
        assert!(value(inner, "ts") + value(inner, "dur") <= value(outer, "ts") + value(outer, "dur") + 1);
        let folder = folder.path().join("none/x.json");
        assert!(begin(&folder, None).is_err());
    }
}
