//! Parquet: a file written by Hugging Face, and unusual or broken files made here.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, sync::Arc};

use parquet::{
    data_type::{ByteArray, ByteArrayType, Int32Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use tweedie_data::{DataConfig, Dataset, ParquetConfig, Source};

fn config(path: impl AsRef<Path>) -> DataConfig {
    DataConfig { source: Source::Parquet(path.as_ref().into()), size: 6, ..DataConfig::default() }
}

fn message(config: &DataConfig) -> String {
    Dataset::open(config).err().unwrap().to_string()
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/animals.parquet")
}

fn png(color: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(6, 6, image::Rgb(color));
    image::DynamicImage::from(image).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes one row group: a required binary `picture`, a required int32 `kind`.
fn write(path: &Path, rows: &[(&[u8], i32)]) {
    let schema = "message schema { required binary picture; required int32 kind; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let pictures: Vec<ByteArray> = rows.iter().map(|(b, _)| b.to_vec().into()).collect();
    let kinds: Vec<i32> = rows.iter().map(|(_, kind)| *kind).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&pictures, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&kinds, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
}

fn named() -> ParquetConfig {
    ParquetConfig { image: Some("picture".into()), label: Some("kind".into()), text: None }
}

#[test]
fn a_file_of_hugging_face_in_memory_and_on_demand() {
    for cache_mb in [1024, 0] {
        let dataset = Dataset::open(&DataConfig { cache_mb, ..config(golden()) }).unwrap();
        assert_eq!(dataset.class_names(), ["cat", "dog", "owl"]);
        assert_eq!(dataset.classes(), [Some(0), Some(1), Some(2), Some(1), Some(0), None, Some(2)]);
        for i in (0..7).rev() {
            let item = dataset.get(i).unwrap();
            assert_eq!(item.name, format!("animals.parquet#{i}"));
            assert_eq!(item.words.caption, (i != 3).then(|| format!("picture {i} – é")));
            for (x, y) in (0..36).map(|k| (k % 6, k / 6)) {
                assert_eq!(item.sample.pixel(x, y), [30 * i, 20 * x, 20 * y].map(|v| v as u8));
            }
        }
        assert!(dataset.skipped().is_empty());
    }
}

#[test]
fn other_names_other_types_and_a_corrupt_row() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let (red, blue) = (png([255, 0, 0]), png([0, 0, 255]));
    write(&dir.path().join("data/b.parquet"), &[(&blue, 4)]);
    write(&dir.path().join("data/a.parquet"), &[(&red, 1), (b"nonsense", 0), (&blue, 0)]);
    let whole = DataConfig { parquet: named(), ..config(dir.path()) };
    let dataset = Dataset::open(&whole).unwrap();
    let names = ["data/a.parquet#0", "data/a.parquet#2", "data/b.parquet#0"];
    assert_eq!(dataset.names().collect::<Vec<_>>(), names);
    assert_eq!(dataset.class_names(), ["0", "1", "2", "3", "4"]);
    assert_eq!(dataset.get(2).unwrap().sample.pixel(0, 0), [0, 0, 255]);
    assert!(dataset.skipped()[0].path.ends_with("data/a.parquet#1"), "{:?}", dataset.skipped());

    let error = message(&config(dir.path()));
    assert!(error.contains("a.parquet") && error.contains("picture, kind"), "{error}");
    let text = ParquetConfig { text: Some("words".into()), ..named() };
    assert!(message(&DataConfig { parquet: text, ..whole.clone() }).contains("no column `words`"));
    write(&dir.path().join("c.parquet"), &[(&red, i32::MAX)]);
    assert!(message(&whole).contains("label"));
}

#[test]
fn missing_empty_truncated_and_garbled() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message(&config(dir.path().join("no.parquet"))).contains("no.parquet does not exist"));
    assert!(message(&config(dir.path())).contains(".parquet files"));
    let empty = dir.path().join("empty.parquet");
    write(&empty, &[]);
    assert!(message(&DataConfig { parquet: named(), ..config(&empty) }).contains("empty.parquet"));

    let whole = fs::read(golden()).unwrap();
    let path = dir.path().join("x.parquet");
    for length in [0, 3, 4, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(message(&config(&path)).contains("x.parquet"), "cut to {length}");
    }
    // A flipped byte gives a result or an error, never a panic.
    for at in (0..whole.len()).step_by(5) {
        let mut garbled = whole.clone();
        garbled[at] ^= 0x55;
        fs::write(&path, &garbled).unwrap();
        for cache_mb in [1024, 0] {
            match Dataset::open(&DataConfig { cache_mb, ..config(&path) }) {
                Ok(dataset) => drop(dataset.get(0)),
                Err(error) => assert!(error.to_string().contains("x.parquet"), "byte {at}: {error}"),
            }
        }
    }
}
