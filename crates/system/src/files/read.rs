//! Reading. Pipes and devices are never opened: a pipe could block, and a device may have no end.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Opens the regular file at `path`; links are followed.
///
/// # Errors
/// Those of the system; anything that is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before opening, because opening a pipe waits for its writer.
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

fn regular(found: &fs::Metadata) -> io::Result<()> {
    match found {
        m if m.is_file() => Ok(()),
        m if m.is_dir() => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a folder, expected a file"))
        }
        _ => {
            let reason = "this is a pipe, socket or device, expected a regular file";
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        }
    }
}

/// The content of the regular file at `path`, of at most `most` bytes.
///
/// # Errors
/// Those of [`open`]; a longer file.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    let long = |length: u64| {
        let reason = format!("the file has {length} bytes or more, expected at most {most}");
        io::Error::new(io::ErrorKind::FileTooLarge, reason)
    };
    if length > most {
        return Err(long(length));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may grow while it is read.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(long(bytes.len() as u64)) } else { Ok(bytes) }
}

/// The content as UTF-8 text.
///
/// # Errors
/// Those of [`read`]; bytes that are not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|e| {
        let reason = format!("not UTF-8 text: byte {} is invalid", e.utf8_error().valid_up_to());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_expected_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert!(read(&path, 3).unwrap_err().to_string().contains("at most 3"));
        assert!(read(dir.path(), 3).unwrap_err().to_string().contains("a folder"));
        fs::write(&path, [b'a', b'b', 0xff]).unwrap();
        assert!(read_text(&path, 9).unwrap_err().to_string().contains("byte 2"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_not_read() {
        let error = read(Path::new("/dev/zero"), 9).unwrap_err();
        assert!(error.to_string().contains("device"), "{error}");
    }
}
