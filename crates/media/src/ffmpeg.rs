//! Containers and codecs that this program leaves to `ffmpeg`, if it is installed.

use std::{
    env,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
};

use crate::{MediaError, Y4mReader};

/// File extensions that `ffmpeg` writes, and its name of the container.
const CONTAINERS: [(&str, &str); 3] = [("mp4", "mp4"), ("webm", "webm"), ("mkv", "matroska")];

/// The container for a file extension.
pub(crate) fn container(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_lowercase();
    CONTAINERS.iter().find(|(known, _)| *known == ending).map(|(_, name)| *name)
}

/// The program, searched like a command.
pub(crate) fn program() -> Option<PathBuf> {
    let name = format!("ffmpeg{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(&name)).find(|path| path.is_file())
}

fn needed(path: &Path, what: &str) -> Result<PathBuf, MediaError> {
    program().ok_or_else(|| {
        let reason = format!(
            "{what} this format needs the program `ffmpeg`, which was not found in PATH; install it, or use .gif, .png, \
             .webp or .y4m"
        );
        MediaError::format(path, reason)
    })
}

/// Checks before the work whether `path` can be written.
///
/// # Errors
/// If `ffmpeg` is needed and missing.
pub(crate) fn check(path: &Path) -> Result<(), MediaError> {
    if container(path).is_some() { needed(path, "writing").map(drop) } else { Ok(()) }
}

/// Encodes a YUV4MPEG2 stream as AV1 in the container of `path`, with `text` as its comment.
pub(crate) fn encode(path: &Path, y4m: Vec<u8>, text: Option<&str>) -> Result<Vec<u8>, MediaError> {
    let name = container(path).unwrap_or("mp4");
    let program = needed(path, "writing")?;
    let mut command = Command::new(program);
    command.args(["-v", "error", "-f", "yuv4mpegpipe", "-i", "pipe:0", "-c:v", "libaom-av1", "-crf", "18"]);
    command.args(["-b:v", "0", "-cpu-used", "6", "-pix_fmt", "yuv420p"]);
    if let Some(text) = text {
        command.arg("-metadata").arg(format!("comment={text}"));
    }
    if name == "mp4" {
        // Pieces that need no way back in the file, which is a pipe.
        command.args(["-movflags", "frag_keyframe+empty_moov+default_base_moof"]);
    }
    command.args(["-f", name, "pipe:1"]);
    let mut child = spawn(command, path)?;
    // A full pipe blocks each end until the other reads.
    let feed = child.stdin.take().map(|mut to| thread::spawn(move || to.write_all(&y4m)));
    let mut out = Vec::new();
    if let Some(mut from) = child.stdout.take() {
        from.read_to_end(&mut out).map_err(|source| MediaError::Read { path: path.into(), source })?;
    }
    let fed = feed.map(thread::JoinHandle::join);
    finished(child, path)?;
    match fed {
        Some(Ok(Ok(()))) => Ok(out),
        _ => Err(MediaError::format(path, "ffmpeg did not take all frames")),
    }
}

/// A file that `ffmpeg` decodes, frame by frame.
pub struct FfmpegReader {
    reader: Y4mReader<BufReader<ChildStdout>>,
    child: Child,
    path: PathBuf,
}

impl FfmpegReader {
    /// Starts decoding `path`.
    ///
    /// # Errors
    /// If `ffmpeg` is missing, or cannot read the file; with its own message.
    pub fn open(path: &Path) -> Result<Self, MediaError> {
        let mut command = Command::new(needed(path, "reading")?);
        // With the protocol, a name that begins with a dash or has a colon is only a name.
        let mut file = std::ffi::OsString::from("file:");
        file.push(path);
        // Damage is an error instead of a shorter film.
        command.args(["-v", "error", "-xerror", "-nostdin", "-i"]).arg(file);
        command.args(["-an", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-strict", "-1", "pipe:1"]);
        let mut child = spawn(command, path)?;
        let from = child.stdout.take();
        match from.map(|from| Y4mReader::new(BufReader::new(from))) {
            Some(Ok(reader)) => Ok(Self { reader, child, path: path.into() }),
            other => {
                finished(child, path)?;
                let reason = other.and_then(Result::err).unwrap_or_else(|| "no frames".into());
                Err(MediaError::format(path, reason))
            }
        }
    }

    /// Milliseconds per frame.
    pub fn delay(&self) -> f64 {
        self.reader.delay()
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn frame(&mut self) -> Result<Option<crate::Image>, MediaError> {
        let found = self.reader.frame();
        if matches!(found, Ok(Some(_))) {
            return found.map_err(|e| MediaError::format(&self.path, e));
        }
        // A file that ends too early has no more frames either; ffmpeg knows why.
        let status = self.child.wait().map_err(|e| MediaError::format(&self.path, e))?;
        let mut told = Vec::new();
        if let Some(mut from) = self.child.stderr.take() {
            from.read_to_end(&mut told).map_err(|e| MediaError::format(&self.path, e))?;
        }
        succeeded(status, &told, &self.path)?;
        found.map_err(|e| MediaError::format(&self.path, e))
    }
}

impl Drop for FfmpegReader {
    fn drop(&mut self) {
        // It may still be decoding what nobody wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(mut command: Command, path: &Path) -> Result<Child, MediaError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| MediaError::format(path, format!("ffmpeg cannot be started: {e}")))
}

/// Waits for the end; its first message is the error.
fn finished(child: Child, path: &Path) -> Result<(), MediaError> {
    let out = child.wait_with_output().map_err(|e| MediaError::format(path, e))?;
    succeeded(out.status, &out.stderr, path)
}

fn succeeded(status: ExitStatus, told: &[u8], path: &Path) -> Result<(), MediaError> {
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(told);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a message");
    Err(MediaError::format(path, format!("ffmpeg: {}", line.trim())))
}
