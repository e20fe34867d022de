//! Runs of the binary in a folder of their own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use serde_json::Value;

/// The binary under test.
pub const TWEEDIE: &str = env!("CARGO_BIN_EXE_tweedie");

/// The steps of [`RUN`].
pub const STEPS: u64 = 60;

/// A run of about a second in which everything that draws random values takes part.
pub const RUN: &str = r#"
preset = "tiny"
[run]
steps = 60
batch = 3
accumulation = 2
checkpoint_every = 5
preview_every = 0
validate_every = 25
log_every = 2
[data]
size = 8
[data.emoji]
classes = "group"
groups = ["Food & Drink", "Activities"]
[model]
base_channels = 8
norm_groups = 4
head_channels = 8
dropout = 0.1
[augment]
flip = 0.5
[augment.edm]
p = 0.5
[ema]
kind = "power"
stds = [0.05, 0.1]
[conditioning]
label_dropout = 0.3
"#;

/// The folder of [`RUN`], made once, never interrupted, on one thread.
pub static REFERENCE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("run.toml"), RUN).unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let run = at("run");
    finish(program(&folder, &["train", &at("run.toml"), "--out", &run, "--threads", "1"])).ok();
    run.into()
});

/// Its model.
pub fn model() -> &'static str {
    static MODEL: LazyLock<String> =
        LazyLock::new(|| REFERENCE.join("model").into_os_string().into_string().unwrap());
    &MODEL
}

/// The binary in folder `cwd`, ready to start, with its output caught.
pub fn program(cwd: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(TWEEDIE);
    command.args(args).current_dir(cwd).env_remove("RUST_BACKTRACE");
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for `command`.
pub fn finish(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran::new(format!("{command:?}"), &output)
}

/// A run that has ended.
pub struct Ran {
    command: String,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(command: String, output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ran = Self {
            command,
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert!(!ran.stderr.contains("panicked"), "{}", ran.told());
        ran
    }

    pub fn told(&self) -> String {
        format!("{}\ncode {:?}\n{}\n{}", self.command, self.code, self.stdout, self.stderr)
    }

    /// It must have succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.told());
        self
    }

    /// It must have failed by its own decision, with a message that holds `words`.
    pub fn failed(self, words: &[&str]) -> Self {
        assert!(self.code.is_some_and(|c| c == 1 || c == 2), "{}", self.told());
        self.says(words)
    }

    /// Its messages must hold `words`.
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "expected `{word}` of {}", self.told());
        }
        self
    }

    /// The lines of `--json`.
    pub fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A folder that lives as long as its test; commands run in it.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Copies a folder of the tests' into this one.
    pub fn copy(&self, from: &Path, name: &str) {
        for (path, bytes) in files(from) {
            if let Some(bytes) = bytes {
                self.write(&format!("{name}/{path}"), bytes);
            }
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        program(self.0.path(), args)
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    pub fn ok(&self, args: &[&str]) -> Ran {
        self.run(args).ok()
    }

    /// The command must fail, say `words`, and leave the folder as it was.
    pub fn fails(&self, args: &[&str], words: &[&str]) {
        self.fails_as(self.command(args), words);
    }

    /// Like [`Scratch::fails`], for a command that needs more than arguments.
    pub fn fails_as(&self, command: Command, words: &[&str]) {
        let before = self.files();
        let ran = finish(command).failed(words);
        let after = self.files();
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "{}", ran.told());
        assert!(before == after, "files were changed by {}", ran.told());
    }

    pub fn files(&self) -> Files {
        files(self.0.path())
    }
}

/// Everything below a folder by relative path; folders have no bytes.
pub type Files = BTreeMap<String, Option<Vec<u8>>>;

pub fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let is_dir = path.is_dir();
            found.insert(name, (!is_dir).then(|| fs::read(&path).unwrap()));
            open.extend(is_dir.then_some(path));
        }
    }
    found
}
