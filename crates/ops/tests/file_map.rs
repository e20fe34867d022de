//! Mapped files that other programs change.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{env, fs, process::Command};

use tweedie_ops::FileMap;

const FILE: &str = "TWEEDIE_TEST_TRUNCATE";

#[test]
fn a_truncated_file_ends_the_process_with_a_message() {
    if let Some(path) = env::var_os(FILE) {
        // The child: maps the file, and reads what another program has cut off.
        tweedie_ops::init();
        let map = FileMap::open(path.as_ref()).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        let sum: u64 = map.iter().map(|b| u64::from(*b)).sum();
        panic!("read {sum}");
    }
    let path = env::temp_dir().join(format!("tweedie-truncated-{}", std::process::id()));
    fs::write(&path, vec![1; 1 << 16]).unwrap();
    let test = "a_truncated_file_ends_the_process_with_a_message";
    let mut child = Command::new(env::current_exe().unwrap());
    let ended = child.args(["--exact", test, "--nocapture"]).env(FILE, &path).output().unwrap();
    fs::remove_file(&path).unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("error: {}: truncated by another program", path.display())), "{said}");
}
