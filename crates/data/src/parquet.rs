//! Parquet files of encoded images in the format of Hugging Face datasets: a struct column with the field `bytes`, an
//! integer label with names in the footer, a text.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use parquet::{
    basic::Type as Physical,
    column::reader::{ColumnReaderImpl, get_typed_column_reader},
    data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    file::{
        metadata::ParquetMetaData,
        properties::ReaderProperties,
        reader::{FileReader, RowGroupReader},
        serialized_reader::{SerializedFileReader, SerializedRowGroupReader},
    },
};
use rayon::prelude::*;
use serde_json::Value;
use tweedie_system::files;

use crate::{
    DataConfig, DataError, OnError, ParquetConfig, Skipped, Words,
    buffer::{Buffer, BufferUse},
    guard::guarded,
    source::{Collection, Entry, Place, ending},
};

/// The reader checks most of a malicious file; where it panics instead, the file is at fault.
const INVALID: &str = "not a valid Parquet file";
/// Number of images decoded at once when a whole file is read; limits the encoded data in memory.
const CHUNK: usize = 256;
/// Labels must be class indices, not identifiers.
const MAX_CLASSES: i64 = 100_000;

/// The opened files; images are read when needed.
pub(crate) struct Tables {
    tables: Vec<Table>,
    /// Row groups read ahead: their images, encoded.
    buffer: Option<Buffer<[usize; 2], Group>>,
}

type Group = Vec<Option<ByteArray>>;

struct Table {
    path: PathBuf,
    metadata: Arc<ParquetMetaData>,
    image: usize,
}

/// A row of a file; `row` counts within the row group, `number` within the file.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub file: usize,
    pub group: usize,
    row: usize,
    number: usize,
}

pub(crate) fn open(root: &Path, data: &DataConfig) -> Result<Collection, DataError> {
    let (config, on_error) = (&data.parquet, data.on_error);
    if !root.exists() {
        return Err(DataError::Missing { what: "the Parquet file or folder", path: root.into() });
    }
    let (mut paths, mut passed_over) = (Vec::new(), BTreeMap::new());
    if root.is_dir() {
        list(root, &mut paths, &mut passed_over)?
    } else {
        paths.push(root.to_path_buf())
    }
    let mut tables = Vec::new();
    let mut entries = Vec::new();
    let (mut class_names, mut skipped) = (Vec::new(), Vec::new());
    let mut most = None;
    for (file, path) in paths.into_iter().enumerate() {
        let wrong = |reason| DataError::Parquet { path: path.clone(), reason };
        let content = guarded(INVALID, || read_table(&path, config)).map_err(wrong)?;
        if class_names.is_empty() {
            class_names = content.class_names;
        } else if !content.class_names.is_empty() && content.class_names != class_names {
            return Err(wrong("the class names differ from those in other files".into()));
        }
        let relative = path.strip_prefix(root).ok().filter(|p| !p.as_os_str().is_empty());
        let shown = relative.or(path.file_name().map(Path::new)).unwrap_or(&path);
        let shown = shown.to_string_lossy().replace('\\', "/");
        for (number, (group, row, class, caption)) in content.rows.into_iter().enumerate() {
            most = most.max(class);
            let caption = match caption {
                Ok(caption) => caption,
                Err(reason) if on_error == OnError::Fail => {
                    return Err(wrong(format!("row {number}: {reason}")));
                }
                Err(reason) => {
                    let path = format!("{}#{number}", path.display()).into();
                    skipped.push(Skipped { path, reason });
                    continue;
                }
            };
            let place = Place::Row(Row { file, group, row, number });
            let words = Arc::new(Words { caption, ..Words::default() });
            let name = format!("{shown}#{number}");
            entries.push(Entry { name, family: None, held_out: false, class, words, place });
        }
        if let Some(most) = most.filter(|most| !class_names.is_empty() && *most >= class_names.len()) {
            let named = class_names.len();
            return Err(wrong(format!("a label is {most}, but the footer has {named} class names")));
        }
        tables.push(Table { path, metadata: content.metadata, image: content.image });
    }
    for entry in entries.iter_mut().filter(|_| !class_names.is_empty()) {
        let kind: Option<&String> = entry.class.and_then(|class| class_names.get(class));
        Arc::make_mut(&mut entry.words).kinds.extend(kind.cloned());
    }
    if class_names.is_empty() {
        class_names = most.map_or(Vec::new(), |most| (0..=most).map(|i| i.to_string()).collect());
    }
    Ok(Collection {
        entries,
        class_names,
        place: root.display().to_string(),
        looked_for: "rows of .parquet files in it and in its subfolders".into(),
        tables: Some(Tables::new(tables, root, data)?),
        skipped,
        passed_over,
        ..Collection::default()
    })
}

/// Finds the tables, and counts other files by extension.
fn list(
    folder: &Path,
    paths: &mut Vec<PathBuf>,
    passed_over: &mut BTreeMap<String, usize>,
) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.into(), source };
    let mut children = Vec::new();
    for child in std::fs::read_dir(folder).map_err(io)? {
        children.push(child.map_err(io)?);
    }
    children.sort_by_key(|child| child.file_name());
    for child in children {
        let path = child.path();
        if child.file_name().to_string_lossy().starts_with('.') {
            continue;
        } else if child.file_type().map_err(io)?.is_dir() {
            list(&path, paths, passed_over)?;
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet")) {
            paths.push(path);
        } else {
            *passed_over.entry(ending(&path)).or_default() += 1;
        }
    }
    Ok(())
}

/// A caption, if there is one, or why it cannot be read.
type Caption = Result<Option<String>, String>;

struct Content {
    metadata: Arc<ParquetMetaData>,
    image: usize,
    class_names: Vec<String>,
    /// Row group, row in it, class and caption.
    rows: Vec<(usize, usize, Option<usize>, Caption)>,
}

/// Reads everything except the images.
fn read_table(path: &Path, config: &ParquetConfig) -> Result<Content, String> {
    let file = files::open(path).map_err(|e| e.to_string())?;
    let bytes = file.metadata().map_err(|e| e.to_string())?.len();
    let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
    let metadata = Arc::new(reader.metadata().clone());
    let claimed: i64 = metadata.row_groups().iter().map(|g| g.num_rows().max(0)).fold(0, i64::saturating_add);
    if u64::try_from(claimed).is_ok_and(|rows| rows > bytes) {
        return Err(format!("the header says {claimed} rows, but the file has {bytes} bytes"));
    }
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let (start, length) = column.byte_range();
        if start.checked_add(length).is_none_or(|end| end > bytes) {
            let name = column.column_path();
            return Err(format!("truncated: column {name} extends beyond the end at {bytes} bytes"));
        }
    }
    let columns = Columns::find(&metadata, config)?;
    let mut rows = Vec::new();
    for (group, meta) in metadata.row_groups().iter().enumerate() {
        let count = usize::try_from(meta.num_rows()).map_err(|_| "the number of rows is negative")?;
        let reader = reader.get_row_group(group).map_err(|e| e.to_string())?;
        let labels = match columns.label {
            Some((at, Physical::INT32)) => {
                widen(read_column::<Int32Type>(reader.as_ref(), at, count)?, i64::from)
            }
            Some((at, _)) => read_column::<Int64Type>(reader.as_ref(), at, count)?,
            None => vec![None; count],
        };
        let texts = match columns.text {
            Some(at) => read_column::<ByteArrayType>(reader.as_ref(), at, count)?,
            None => vec![None; count],
        };
        for (row, (label, text)) in labels.into_iter().zip(texts).enumerate() {
            let text = text.map(|t| String::from_utf8(t.data().to_vec()));
            let caption = text.transpose().map_err(|e| format!("its caption is not UTF-8 text: {e}"));
            rows.push((group, row, class(label, row)?, caption));
        }
    }
    Ok(Content { image: columns.image, class_names: columns.class_names, metadata, rows })
}

/// Negative labels mean unlabelled rows.
fn class(label: Option<i64>, row: usize) -> Result<Option<usize>, String> {
    match label {
        Some(label) if label >= MAX_CLASSES => Err(format!(
            "the label of row {row} in its row group is {label}, expected a class below {MAX_CLASSES}"
        )),
        Some(label) => Ok(usize::try_from(label).ok()),
        None => Ok(None),
    }
}

fn widen<T, U>(values: Vec<Option<T>>, to: impl Fn(T) -> U) -> Vec<Option<U>> {
    values.into_iter().map(|v| v.map(&to)).collect()
}

/// The leaf columns to read.
struct Columns {
    image: usize,
    label: Option<(usize, Physical)>,
    text: Option<usize>,
    class_names: Vec<String>,
}

impl Columns {
    fn find(metadata: &ParquetMetaData, config: &ParquetConfig) -> Result<Self, String> {
        let schema = metadata.file_metadata().schema_descr();
        let flat = |leaf: &usize| schema.column(*leaf).max_rep_level() == 0;
        let leaf = |path: &[&str], types: &[Physical]| {
            (0..schema.num_columns()).filter(flat).find(|&i| {
                let column = schema.column(i);
                column.path().parts().iter().eq(path.iter()) && types.contains(&column.physical_type())
            })
        };
        let any = |named: &Option<String>,
                   usual: &[&str],
                   what: &str,
                   find: &dyn Fn(&str) -> Option<usize>| match named {
            Some(name) => find(name).map(Some).ok_or_else(|| {
                let columns: Vec<_> =
                    (0..schema.num_columns()).map(|i| schema.column(i).path().string()).collect();
                format!("no column `{name}` with {what}; the columns are {}", columns.join(", "))
            }),
            None => Ok(usual.iter().find_map(|name| find(name))),
        };
        let binary = [Physical::BYTE_ARRAY];
        let as_image = |name: &str| leaf(&[name, "bytes"], &binary).or_else(|| leaf(&[name], &binary));
        let as_label = |name: &str| leaf(&[name], &[Physical::INT32, Physical::INT64]);
        let as_text = |name: &str| leaf(&[name], &binary);
        // If no column has the usual name, any struct with the field `bytes` is used.
        let as_any = || {
            (0..schema.num_columns()).filter(flat).find(|&i| {
                let column = schema.column(i);
                matches!(column.path().parts(), [_, field] if field == "bytes")
                    && column.physical_type() == Physical::BYTE_ARRAY
            })
        };
        let features = features(metadata);
        let labelled: Vec<&str> =
            features.iter().filter(|(_, names)| !names.is_empty()).map(|(name, _)| name.as_str()).collect();
        let usual: Vec<&str> = ["label", "labels", "class"].into_iter().chain(labelled).collect();
        let image = any(&config.image, &["image", "img"], "encoded images", &as_image)?.or_else(as_any);
        let image = image.ok_or_else(|| {
            let columns: Vec<_> =
                (0..schema.num_columns()).map(|i| schema.column(i).path().string()).collect();
            format!(
                "no column of encoded images; expected image.bytes, img.bytes or any struct with the field \
                 bytes; the columns are {}",
                columns.join(", ")
            )
        })?;
        let label = any(&config.label, &usual, "integer labels", &as_label)?;
        let text = any(&config.text, &["text", "caption"], "text", &as_text)?;
        let name = label.map(|i| schema.column(i).name().to_owned());
        let class_names = features.into_iter().find(|(feature, _)| Some(feature) == name.as_ref());
        Ok(Self {
            image,
            label: label.map(|i| (i, schema.column(i).physical_type())),
            text,
            class_names: class_names.map(|(_, names)| names).unwrap_or_default(),
        })
    }
}

/// The features in the footer's `huggingface` key, with their class names if they have any.
fn features(metadata: &ParquetMetaData) -> Vec<(String, Vec<String>)> {
    let pairs = metadata.file_metadata().key_value_metadata();
    let text = pairs.and_then(|p| p.iter().find(|kv| kv.key == "huggingface")?.value.as_deref());
    let json: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    let features = json.as_ref().and_then(|json| json.pointer("/info/features")?.as_object());
    let names = |feature: &Value| {
        let names = feature.get("names").and_then(Value::as_array);
        names.map(|n| n.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()).unwrap_or_default()
    };
    features.into_iter().flatten().map(|(name, feature)| (name.clone(), names(feature))).collect()
}

/// All values of a column in a row group; `None` for missing values.
fn read_column<T: DataType>(
    group: &dyn RowGroupReader,
    at: usize,
    count: usize,
) -> Result<Vec<Option<T::T>>, String> {
    let mut reader = get_typed_column_reader::<T>(group.get_column_reader(at).map_err(|e| e.to_string())?);
    let present = group.metadata().column(at).column_descr().max_def_level();
    let mut out = Vec::new();
    while out.len() < count {
        let read = read_some(&mut reader, present, count - out.len())?;
        if read.is_empty() {
            return Err(format!("only {} of {count} rows were read", out.len()));
        }
        out.extend(read);
    }
    Ok(out)
}

/// Up to `most` further rows; `present` is the definition level of a present value.
fn read_some<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    present: i16,
    most: usize,
) -> Result<Vec<Option<T::T>>, String> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let read = reader.read_records(most, Some(&mut levels), None, &mut values).map_err(|e| e.to_string())?;
    if present == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    levels.truncate(read.0);
    Ok(levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect())
}

impl Tables {
    fn new(tables: Vec<Table>, root: &Path, data: &DataConfig) -> Result<Self, DataError> {
        if data.shuffle == 0 {
            return Ok(Self { tables, buffer: None });
        }
        let groups = || {
            tables.iter().flat_map(|table| (0..table.metadata.num_row_groups()).map(move |g| table.group(g)))
        };
        let largest = groups().map(|[_, bytes]| bytes).max().unwrap_or(0);
        let fewest = groups().map(|[rows, _]| rows).filter(|rows| *rows > 0).min().unwrap_or(1);
        // A window that begins and ends within row groups.
        let together = (data.shuffle.div_ceil(fewest) + 1).min(groups().count());
        let needed = together.saturating_mul(largest).div_ceil(1 << 20).max(1);
        if needed > data.buffer_mb {
            let (found, shuffle, largest) = (data.buffer_mb, data.shuffle, largest.div_ceil(1 << 20));
            return Err(DataError::Buffer { found, needed, shuffle, largest, path: root.into() });
        }
        Ok(Self { tables, buffer: Some(Buffer::new(data.buffer_mb << 20)) })
    }

    /// How much was read ahead.
    pub fn used(&self) -> BufferUse {
        self.buffer.as_ref().map(Buffer::used).unwrap_or_default()
    }

    /// The name of a row in messages.
    pub fn path(&self, row: Row) -> PathBuf {
        let mut name = self.tables[row.file].path.clone().into_os_string();
        name.push(format!("#{}", row.number));
        name.into()
    }

    /// Decodes the bytes of one row: of a row group that is read ahead, or skipping earlier pages by their headers.
    pub fn decode<T>(&self, row: Row, decode: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, String> {
        let table = &self.tables[row.file];
        if let Some(buffer) = &self.buffer {
            let [_, bytes] = table.group(row.group);
            let read = || guarded(INVALID, || table.read_group(row.group));
            let group = buffer.get([row.file, row.group], bytes, read)?;
            return decode(content(group.get(row.row))?);
        }
        let value = guarded(INVALID, || {
            let (mut reader, present) = table.images(row.group)?;
            reader.skip_records(row.row).map_err(|e| e.to_string())?;
            read_some(&mut reader, present, 1)
        })?;
        decode(content(value.first())?)
    }

    /// Decodes every row, in order, in parallel.
    pub fn decode_all<T: Send>(
        &self,
        decode: &(impl Fn(&[u8]) -> Result<T, String> + Sync),
    ) -> Vec<Result<T, String>> {
        let mut images = Vec::new();
        for table in &self.tables {
            for group in 0..table.metadata.num_row_groups() {
                let end = images.len() + table.metadata.row_group(group).num_rows() as usize;
                let mut open = guarded(INVALID, || table.images(group));
                while images.len() < end {
                    let most = CHUNK.min(end - images.len());
                    let read = match &mut open {
                        Ok((reader, present)) => guarded(INVALID, || read_some(reader, *present, most)),
                        Err(reason) => Err(reason.clone()),
                    };
                    match read {
                        Ok(read) if !read.is_empty() => images.par_extend(
                            read.par_iter().map(|v| decode(content(Some(v))?)).collect::<Vec<_>>(),
                        ),
                        Ok(_) => images.resize_with(end, || Err("the row is missing".into())),
                        Err(reason) => images.resize_with(end, || Err(reason.clone())),
                    }
                }
            }
        }
        images
    }
}

impl Table {
    /// The number of rows of a row group, and the bytes of its encoded images.
    fn group(&self, group: usize) -> [usize; 2] {
        let metadata = self.metadata.row_group(group);
        let bytes = metadata.column(self.image).uncompressed_size();
        [metadata.num_rows(), bytes].map(|n| usize::try_from(n).unwrap_or(0))
    }

    /// All encoded images of a row group.
    fn read_group(&self, group: usize) -> Result<Group, String> {
        let (mut reader, present) = self.images(group)?;
        let [rows, _] = self.group(group);
        let mut all = Vec::new();
        while all.len() < rows {
            let read = read_some(&mut reader, present, rows - all.len())?;
            if read.is_empty() {
                return Err(format!("only {} of {rows} rows were read", all.len()));
            }
            all.extend(read);
        }
        Ok(all)
    }

    /// The column of images, with a separate file handle because cloned handles share their position.
    fn images(&self, group: usize) -> Result<(ColumnReaderImpl<ByteArrayType>, i16), String> {
        let file = Arc::new(files::open(&self.path).map_err(|e| e.to_string())?);
        let metadata = self.metadata.row_group(group);
        let pages = self.metadata.page_index_for_row_group(group);
        let properties = Arc::new(ReaderProperties::builder().build());
        let reader = SerializedRowGroupReader::new(file, metadata, pages, properties);
        let column = reader.and_then(|r| r.get_column_reader(self.image)).map_err(|e| e.to_string())?;
        let present = metadata.column(self.image).column_descr().max_def_level();
        Ok((get_typed_column_reader(column), present))
    }
}

fn content(value: Option<&Option<ByteArray>>) -> Result<&[u8], String> {
    match value {
        Some(Some(bytes)) => Ok(bytes.data()),
        Some(None) => Err("the image is not embedded in the file (no bytes)".into()),
        None => Err("the row is missing".into()),
    }
}
