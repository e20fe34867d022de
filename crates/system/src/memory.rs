//! Available memory, and an allocator that reports when there is too little.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// An error for work that needs more memory than is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLittle {
    /// Estimate of the bytes that the work needs.
    pub needed: u64,
    /// Bytes that are available.
    pub available: u64,
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needed, available) = (gigabytes(self.needed), gigabytes(self.available));
        write!(f, "needs about {needed} GB of memory, but {available} GB are available")
    }
}

impl std::error::Error for TooLittle {}

fn gigabytes(bytes: u64) -> String {
    let n = bytes as f64 / 1e9;
    if n < 10.0 { format!("{n:.1}") } else { format!("{n:.0}") }
}

/// Checks that `needed` bytes are available. Always succeeds where this is unknown, as outside Linux.
///
/// # Errors
/// [`TooLittle`] if they are not.
pub fn check(needed: u64) -> Result<(), TooLittle> {
    match available() {
        Some(available) if needed > available => Err(TooLittle { needed, available }),
        _ => Ok(()),
    }
}

/// Bytes that this process can still allocate, including swap: the free memory of the machine, within the limits of its
/// control groups and of the process (`ulimit -v`). `None` if unknown.
pub fn available() -> Option<u64> {
    let root = Path::new("/");
    let groups = control_groups(root);
    [machine(root), groups, address_space(root)].into_iter().flatten().min()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn machine(root: &Path) -> Option<u64> {
    let text = read(root.join("proc/meminfo"))?;
    let value = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    Some(value("MemAvailable")? + value("SwapFree").unwrap_or(0))
}

/// The bytes that the tightest group leaves: a limit also applies to nested groups.
fn control_groups(root: &Path) -> Option<u64> {
    let text = read(root.join("proc/self/cgroup"))?;
    let left = |line: &str| -> Option<u64> {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let [mount, limit, usage] = match controllers {
            "" => ["sys/fs/cgroup", "memory.max", "memory.current"],
            all if all.split(',').any(|c| c == "memory") => {
                ["sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"]
            }
            _ => return None,
        };
        let mount = root.join(mount);
        let own = mount.join(path.trim_start_matches('/'));
        let groups = own.ancestors().take_while(|group| group.starts_with(&mount));
        let left_in = |group: &Path| -> Option<u64> {
            let number = |file: &str| read(group.join(file))?.trim().parse::<u64>().ok();
            // The system reclaims pages of files when memory is short.
            let stat = read(group.join("memory.stat")).unwrap_or_default();
            let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok());
            let used = number(usage).unwrap_or(0).saturating_sub(files.unwrap_or(0));
            Some(number(limit)?.saturating_sub(used))
        };
        groups.filter_map(left_in).min()
    };
    text.lines().filter_map(left).min()
}

#[cfg(target_os = "linux")]
fn address_space(root: &Path) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    if unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } != 0
        || limit.rlim_cur == libc::RLIM_INFINITY
    {
        return None;
    }
    let pages: u64 = read(root.join("proc/self/statm"))?.split(' ').next()?.parse().ok()?;
    // SAFETY: only returns a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(limit.rlim_cur.saturating_sub(pages * u64::try_from(page).ok()?))
}

#[cfg(not(target_os = "linux"))]
fn address_space(_: &Path) -> Option<u64> {
    None
}

/// The system's allocator, except that a failed allocation ends the program with a message instead of aborting it.
pub struct Allocator;

/// Reports that an allocation of `size` bytes failed, and ends the program.
fn refused(size: usize) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if !ENDING.swap(true, Ordering::Relaxed) {
        use std::io::Write;
        let megabytes = size.div_ceil(1 << 20);
        let _ = writeln!(
            std::io::stderr(),
            "error: out of memory: cannot allocate {megabytes} MiB; use smaller images, or fewer at once"
        );
        super::files::exit(1);
    }
    std::process::abort()
}

fn checked(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() { refused(size) } else { pointer }
}

// SAFETY: forwards to the system's allocator; a null pointer is never returned.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: guaranteed by the caller.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: guaranteed by the caller.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: guaranteed by the caller.
        checked(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn what_the_machine_has_left() {
        let info = "MemTotal:  100 kB\nMemFree: 10 kB\nMemAvailable:   40 kB\nSwapFree: 2 kB\n";
        assert_eq!(machine(root(&[("proc/meminfo", info)]).path()), Some(42 << 10));
        assert_eq!(machine(root(&[]).path()), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = root(&[
            ("proc/self/cgroup", "3:cpu,memory:/old\n2:cpuset:/\n0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "70\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "300\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 250\ninactive_file 50\n"),
        ]);
        assert_eq!(control_groups(root.path()), Some(750));
        let at = |file: &str| root.path().join("sys/fs/cgroup/memory/old").join(file);
        std::fs::create_dir_all(at("")).unwrap();
        std::fs::write(at("memory.limit_in_bytes"), "500").unwrap();
        std::fs::write(at("memory.usage_in_bytes"), "100").unwrap();
        assert_eq!(control_groups(root.path()), Some(400));
    }

    #[test]
    fn more_than_there_is_is_refused() {
        assert_eq!(check(0), Ok(()));
        if available().is_some() {
            let error = check(1 << 60).unwrap_err();
            assert!(error.to_string().contains("about 1152921505 GB"), "{error}");
        }
    }
}
