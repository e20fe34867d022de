//! Archives and arrays as NumPy, Python's zipfile and tarfile write them: `packed/make_packed.py` made the files.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use tweedie_data::{DataConfig, DataError, Dataset, Source, is_packed, survey};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packed").join(name)
}

fn config(path: &Path, size: usize) -> DataConfig {
    DataConfig { source: Source::Packed(path.into()), size, ..DataConfig::default() }
}

/// Held in memory, and read when asked for.
fn both(path: &Path, size: usize, check: impl Fn(&Dataset)) {
    for cache_mb in [0, 64] {
        check(&Dataset::open(&DataConfig { cache_mb, ..config(path, size) }).unwrap());
    }
}

/// As the script that made the files has it.
fn byte(n: usize, x: usize, y: usize, c: usize) -> u8 {
    ((50 * n + 7 * y + 3 * x + 80 * c) % 256) as u8
}

fn shows(set: &Dataset, index: usize, n: usize, grey: bool) {
    let image = set.get(index).unwrap().sample;
    for (x, y) in (0..set.size().pow(2)).map(|i| (i % set.size(), i / set.size())) {
        let expected = [0, 1, 2].map(|c| byte(n, x, y, if grey { 0 } else { c }));
        assert_eq!(image.pixel(x, y), expected, "image {index} at {x}, {y}");
    }
}

fn classes(set: &Dataset) -> Vec<usize> {
    set.classes().into_iter().flatten().collect()
}

fn refused(path: &Path) -> String {
    let error = Dataset::open(&config(path, 4)).map(|set| set.len()).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    error.to_string()
}

const LABELS: [usize; 6] = [2, 0, 1, 1, 0, 2];

#[test]
fn idx_with_the_labels_beside_it() {
    both(&golden("train-images-idx3-ubyte.gz"), 4, |set| {
        (0..6).for_each(|n| shows(set, n, n, true));
        assert_eq!(
            (classes(set), set.class_names()),
            (LABELS.to_vec(), &["0", "1", "2"].map(String::from)[..])
        );
        assert_eq!(set.recognized_as(), "IDX, 6 images in train-images-idx3-ubyte.gz, with labels");
    });
    // A folder of training and test images is its training images.
    let dir = tempfile::tempdir().unwrap();
    for name in ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"] {
        for part in ["train", "t10k"] {
            fs::copy(golden(&format!("train-{name}")), dir.path().join(format!("{part}-{name}"))).unwrap();
        }
    }
    assert!(is_packed(dir.path()));
    let set = Dataset::open(&config(dir.path(), 4)).unwrap();
    assert_eq!((set.len(), classes(&set)), (6, LABELS.to_vec()));
    assert!(set.recognized_as().contains("not read: t10k-images-idx3-ubyte.gz"), "{}", set.recognized_as());
    let found = survey(&config(dir.path(), 4)).unwrap();
    assert_eq!((found.images, found.classes, found.side, found.grey), (6, 3, 4, true));
}

#[test]
fn numpy_arrays() {
    both(&golden("colour.npy"), 4, |set| {
        (0..6).for_each(|n| shows(set, n, n, false));
        assert!(set.class_names().is_empty() && set.get(3).unwrap().name == "colour#3");
    });
    both(&golden("set.npz"), 4, |set| {
        (0..6).for_each(|n| shows(set, n, n, true));
        assert_eq!(classes(set), LABELS);
        assert_eq!(
            set.recognized_as(),
            "NumPy's arrays, 6 images in train_images, with labels; not read: 1 other arrays of images"
        );
    });
}

#[test]
fn archives_of_images() {
    for name in ["photos.zip", "photos.tar.gz"] {
        both(&golden(name), 4, |set| {
            // Sorted by name: photos/cat/1, 3, 5, photos/dog/0, 2, 4.
            [1, 3, 5, 0, 2, 4].into_iter().enumerate().for_each(|(index, n)| shows(set, index, n, false));
            assert_eq!(set.class_names(), ["cat", "dog"]);
            assert_eq!(classes(set), [0, 0, 0, 1, 1, 1]);
            assert_eq!(set.recognized_as(), "an archive of 6 image files");
        });
    }
}

#[test]
fn cifars_batches() {
    both(&golden("cifar.tar.gz"), 32, |set| {
        (0..4).for_each(|n| shows(set, n, n, false));
        assert_eq!((classes(set), set.class_names().len()), (vec![3, 2, 1, 0], 4));
        assert_eq!(set.get(1).unwrap().words.kinds, ["bird"]);
        assert_eq!(
            set.recognized_as(),
            "CIFAR-10's binary batches, 4 images; not read: cifar-10-batches-bin/test_batch.bin"
        );
    });
}

/// A grey image of a data set in colour is brought to grey by its luma.
#[test]
fn colours_are_taken_away_where_one_channel_is_asked_for() {
    let set = Dataset::open(&DataConfig { channels: 1, ..config(&golden("colour.npy"), 4) }).unwrap();
    let [r, g, b] = [0, 1, 2].map(|c| f64::from(byte(2, 1, 3, c)));
    let luma = (0.299 * r + 0.587 * g + 0.114 * b).round() as u8;
    assert_eq!(set.get(2).unwrap().sample.pixel(1, 3), [luma; 3]);
}

#[test]
fn what_is_broken_or_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let part = |name: &str, share: f64| {
        let bytes = fs::read(golden(name)).unwrap();
        let cut = (bytes.len() as f64 * share) as usize;
        write(&format!("cut-{name}"), &bytes[..cut])
    };
    for name in
        ["photos.zip", "photos.tar.gz", "set.npz", "colour.npy", "train-images-idx3-ubyte.gz", "cifar.tar.gz"]
    {
        for share in [0.3, 0.7, 0.95] {
            let said = refused(&part(name, share));
            assert!(said.contains("truncated") || said.contains("damaged"), "{name}: {said}");
        }
    }
    let labels = write("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 1, 7]);
    assert!(refused(&labels).contains("labels without images"));
    let floats = write("x-idx3-ubyte", &[0, 0, 13, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert!(refused(&floats).contains("expected bytes"));
    assert!(refused(&write("data_batch_1", b"\x80\x02}q\x01")).contains("pickles"));
    assert!(refused(&write("a.csv", b"1,2,3")).contains("but a.csv"));
    assert!(refused(&write("empty", b"")).contains("neither images nor supported arrays"));
    let missing = Dataset::open(&config(&dir.path().join("none"), 4)).map(|_| ()).unwrap_err();
    assert!(matches!(missing, DataError::Missing { .. }));
    // More labels than images.
    fs::copy(golden("train-images-idx3-ubyte.gz"), dir.path().join("b-images-idx3-ubyte.gz")).unwrap();
    write("b-labels-idx1-ubyte.gz", &fs::read(golden("train-labels-idx1-ubyte.gz")).unwrap());
    assert_eq!(
        Dataset::open(&config(&dir.path().join("b-images-idx3-ubyte.gz"), 4)).unwrap().class_names().len(),
        3
    );
    write("b-labels-idx1-ubyte.gz", &[0, 0, 8, 1, 0, 0, 0, 2, 7, 8]);
    assert!(refused(&dir.path().join("b-images-idx3-ubyte.gz")).contains("2 labels, expected 6"));
}
