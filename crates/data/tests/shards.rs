//! Data that is read in long runs: tar archives of WebDataset, and Parquet files larger than the buffer.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, sync::Arc};

use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use tweedie_data::{DataConfig, Dataset, Source, is_packed};

/// An image whose pixels say its number, and which hardly compresses.
fn png(number: usize, side: u32) -> Vec<u8> {
    let mut state = number as u32;
    let image = image::RgbImage::from_fn(side, side, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (x, y) {
            (0, 0) => image::Rgb([number as u8, (number >> 8) as u8, 0]),
            _ => image::Rgb([24, 16, 8].map(|shift| (state >> shift) as u8)),
        }
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::from(image).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn number(set: &Dataset, index: usize) -> usize {
    let [low, high, _] = set.get(index).unwrap().sample.pixel(0, 0);
    usize::from(low) + (usize::from(high) << 8)
}

fn tar(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}

fn packed(path: &Path) -> DataConfig {
    DataConfig { source: Source::Packed(path.into()), size: 8, cache_mb: 0, ..DataConfig::default() }
}

#[test]
fn archives_of_webdataset_have_captions_and_classes() {
    let dir = tempfile::tempdir().unwrap();
    for shard in 0..3usize {
        let members: Vec<_> = (0..4usize)
            .flat_map(|i| {
                let (n, key) = (4 * shard + i, format!("{i:04}.v1"));
                let mut members = vec![(format!("{key}.png"), png(n, 8))];
                match shard {
                    0 => members.push((format!("{i:04}.txt"), format!("picture {n}\n").into_bytes())),
                    1 => members.push((
                        format!("{i:04}.json"),
                        format!("{{\"caption\": \"c{n}\", \"label\": {i}}}").into(),
                    )),
                    _ => members.push((format!("{i:04}.cls"), b"2".to_vec())),
                }
                members
            })
            .collect();
        tar(&dir.path().join(format!("{shard:05}.tar")), &members);
    }
    assert!(is_packed(dir.path()));
    let set = Dataset::open(&packed(dir.path())).unwrap();
    assert_eq!(set.recognized_as(), "tar archives (3) of 12 images, 12 of them with text or label");
    assert_eq!((0..12).map(|i| number(&set, i)).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    assert_eq!(set.names().nth(5), Some("00001.tar/0001.v1.png"));
    let captions: Vec<_> = set.words().map(|words| words.caption.as_deref().unwrap_or("")).collect();
    assert_eq!(captions[..6], ["picture 0", "picture 1", "picture 2", "picture 3", "c4", "c5"]);
    assert_eq!(
        set.classes()[3..],
        [None, Some(0), Some(1), Some(2), Some(3), Some(2), Some(2), Some(2), Some(2)]
    );
    assert_eq!(set.class_names(), ["0", "1", "2", "3"]);

    // An archive beside images is one of the files that a folder of images passes over.
    fs::write(dir.path().join("more.png"), png(1, 8)).unwrap();
    assert!(!is_packed(dir.path()));
}

#[test]
fn what_is_wrong_in_an_archive_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let error = |name: &str, bytes: &[u8]| {
        tar(&path, &[("x.png".into(), png(0, 8)), (name.into(), bytes.to_vec())]);
        Dataset::open(&packed(&path)).map(|set| set.len()).unwrap_err().to_string()
    };
    assert!(error("x.cls", b"cat").ends_with("a.tar: x.cls: `cat`, expected the number of a class"));
    assert!(error("x.cls", b"100000").ends_with("x.cls: the label is 100000, expected a class below 100000"));
    assert!(error("x.json", b"{").contains("x.json: not JSON: "));
    assert!(error("x.txt", &[0xff]).contains("x.txt: not UTF-8 text: "));
    let config = DataConfig { shuffle: 8, ..DataConfig::default() };
    let refused = Dataset::open(&config).map(|set| set.len()).unwrap_err().to_string();
    assert!(refused.starts_with("data.shuffle = 8: expected 0"), "{refused}");
}

/// Files of four row groups of 25 images of about 12 KB.
fn tables(folder: &Path) -> DataConfig {
    let schema = Arc::new(parse_message_type("message schema { required binary image; }").unwrap());
    for table in 0..3 {
        let file = fs::File::create(folder.join(format!("{table}.parquet"))).unwrap();
        let properties = Arc::new(WriterProperties::builder().set_dictionary_enabled(false).build());
        let mut file = SerializedFileWriter::new(file, schema.clone(), properties).unwrap();
        for group in 0..4 {
            let images: Vec<ByteArray> =
                (0..25).map(|i| png(100 * table + 25 * group + i, 64).into()).collect();
            let mut row_group = file.next_row_group().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&images, None, None).unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
        }
        file.close().unwrap();
    }
    let source = Source::Parquet(folder.into());
    DataConfig { source, size: 64, cache_mb: 0, shuffle: 25, buffer_mb: 1, ..DataConfig::default() }
}

#[test]
fn parquet_is_read_once_per_epoch_within_the_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let config = DataConfig { holdout: 0.0, ..tables(dir.path()) };
    let set = Dataset::open(&config).unwrap();
    let order = set.order(3);
    let epoch = |e: u64| (0..300).map(|n| number(&set, order.index(300 * e + n))).collect::<Vec<_>>();
    let first = epoch(0);
    let used = set.buffer_use();
    // Four megabytes of images went through one.
    assert!(used.most <= 1 << 20 && used.most > 1 << 19, "{used:?}");
    assert_eq!(used.reads, 12, "each row group once");
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..300).collect::<Vec<_>>());
    assert!(first.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() < 40);
    assert_ne!(epoch(1), first);
    // Any place can be asked for at once, as when a run resumes.
    let again = Dataset::open(&config).unwrap();
    assert_eq!(number(&again, again.order(3).index(217)), first[217]);

    let error = Dataset::open(&DataConfig { shuffle: 100, ..config }).map(|set| set.len()).unwrap_err();
    let expected = "data.buffer_mb = 1: expected at least 2 for data.shuffle = 100";
    assert!(error.to_string().starts_with(expected), "{error}");
}
