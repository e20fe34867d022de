//! The cost of the first image: CPU time, and the size of the binary, which has a limit.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

/// The limit for the release binary, in bytes. `docs/contributing.md` lists what is in it.
const MAX_BINARY: u64 = 51_000_000;

/// CPU time of all child processes that have ended, and of their children; Linux only.
///
/// Cargo replaces itself by this program, so the compilers that built this program count as its children.
pub fn cpu_of_children() -> Option<Duration> {
    cpu_in(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Reads `cutime` and `cstime` of `/proc/PID/stat`: fields 16 and 17, in hundredths of a second.
fn cpu_in(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses and may contain spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(13).map(|field| field.parse::<u64>().ok());
    let (user, system) = (fields.next()??, fields.next()??);
    Some(Duration::from_millis(10 * (user + system)))
}

/// The folder with the release programs, this one included.
fn folder() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find the running program")?;
    Ok(program.parent().context("the running program has no parent folder")?.into())
}

/// Whether the largest dependency is still to be compiled.
pub fn from_scratch() -> Result<bool> {
    let folder = folder()?.join("deps");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = files.flatten().map(|file| file.file_name());
    Ok(!names.any(|name| name.to_string_lossy().starts_with("libburn_flex")))
}

/// The lines to print after the README's first command. Fails if the binary is too large.
pub fn of_first_command(from_scratch: bool) -> Result<Vec<String>> {
    let binary = folder()?.join("tweedie").with_extension(env::consts::EXE_EXTENSION);
    let bytes = fs::metadata(&binary).with_context(|| format!("cannot read {}", binary.display()))?.len();
    let size = within(bytes, MAX_BINARY).with_context(|| binary.display().to_string())?;
    let cpu = match cpu_of_children() {
        Some(cpu) if from_scratch => {
            format!(
                "first image after {:.0} CPU-seconds, which include compiling everything and xtask",
                cpu.as_secs_f64()
            )
        }
        Some(_) => "CPU time to the first image: unknown, because dependencies were already compiled".into(),
        None => "CPU time to the first image: unknown, because only Linux reports it".into(),
    };
    println!("{size}\n{cpu}");
    Ok(vec![size, cpu])
}

fn within(bytes: u64, limit: u64) -> Result<String> {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    ensure!(bytes <= limit, "the binary has {:.1} MB, more than the limit of {:.1} MB", mb(bytes), mb(limit));
    Ok(format!("binary: {:.1} MB (limit {:.1} MB)", mb(bytes), mb(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times_of_children() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 10 11 1234 66 20 0 1 0 5 6 7";
        assert_eq!(cpu_in(stat), Some(Duration::from_secs(13)));
        assert_eq!(cpu_in("7 (a"), None);
    }

    #[test]
    fn a_binary_over_the_limit_fails() {
        assert_eq!(within(44_940_000, 45_000_000).unwrap(), "binary: 44.9 MB (limit 45.0 MB)");
        let error = within(73_031_512, 45_000_000).unwrap_err().to_string();
        assert_eq!(error, "the binary has 73.0 MB, more than the limit of 45.0 MB");
    }
}
