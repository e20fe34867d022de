//! Arrays of NumPy: NPY, and NPZ, which is a zip archive of such.

use super::{
    Found,
    arrays::{Pixels, row},
    members::{Files, Member},
};

const MAGIC: &[u8] = b"\x93NUMPY";
/// As many classes as a data set may have.
const MAX_CLASSES: u64 = 1 << 16;

/// An array, as its header says.
struct Array {
    member: Member,
    /// The member's name without its ending.
    name: String,
    start: u64,
    /// Such as `|u1`.
    kind: String,
    shape: Vec<u64>,
}

impl Array {
    /// Bytes of a value.
    fn width(&self) -> u64 {
        self.kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
    }

    fn is_integer(&self) -> bool {
        self.kind.contains(['i', 'u']) && !self.kind.starts_with('>') && [1, 2, 4, 8].contains(&self.width())
    }

    fn is_bytes(&self) -> bool {
        self.kind.ends_with("u1")
    }

    /// How images lie in it, if they are images of bytes: `[N, H, W]`, `[N, H, W, C]`, `[N, C, H, W]`, or `[N, D]` of
    /// squares.
    fn pixels(&self) -> Option<Pixels> {
        let size = |at: usize| usize::try_from(self.shape[at]).ok();
        let pixels = |width, height, channels, planar| Some(Pixels { width, height, channels, planar });
        match *self.shape.as_slice() {
            [_, _, _] => pixels(size(2)?, size(1)?, 1, false),
            [_, _, _, 1 | 3 | 4] => pixels(size(2)?, size(1)?, size(3)?, false),
            [_, 1 | 3 | 4, _, _] => pixels(size(3)?, size(2)?, size(1)?, true),
            [_, 3072] => pixels(32, 32, 3, true),
            [_, values] if values >= 4 && values.isqrt().pow(2) == values => {
                let side = values.isqrt() as usize;
                pixels(side, side, 1, false)
            }
            _ => None,
        }
    }

    fn shown(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        format!("{} ({}, {})", self.name, self.kind, shape.join("×"))
    }
}

pub(super) fn find(members: &[Member], files: &mut Files) -> Result<Option<Found>, String> {
    let mut arrays = Vec::new();
    for member in members.iter().filter(|m| m.has_extension(&["npy"])) {
        arrays.push(array(member, files)?);
    }
    // A single file may have any name.
    if let ([member], true) = (members, arrays.is_empty())
        && files.begins_with(member, MAGIC)
    {
        arrays.push(array(member, files)?);
    }
    if arrays.is_empty() {
        return Ok(None);
    }
    let of = |words: &[&str], name: &str| words.iter().any(|w| name.to_lowercase().contains(w));
    let mut images: Vec<&Array> = arrays.iter().filter(|a| a.is_bytes() && a.pixels().is_some()).collect();
    // Labels may be bytes in two dimensions, too.
    if images.iter().any(|a| a.shape.len() > 2) {
        images.retain(|a| a.shape.len() > 2);
    }
    let total = images.len();
    if images.iter().any(|a| of(&["train"], &a.name)) {
        images.retain(|a| of(&["train"], &a.name));
    } else if images.iter().any(|a| !of(&["test", "val"], &a.name)) {
        images.retain(|a| !of(&["test", "val"], &a.name));
    }
    if images.is_empty() {
        let found: Vec<String> = arrays.iter().map(Array::shown).collect();
        return Err(format!(
            "expected an array of images: bytes (u1) of N×H×W, N×H×W×C or N×C×H×W; found {}",
            found.join(", ")
        ));
    }
    let (mut entries, mut classes, mut class_names) = (Vec::new(), Vec::new(), Vec::new());
    for (class, image) in images.iter().enumerate() {
        let Some(pixels) = image.pixels() else { continue };
        let step = pixels.bytes().map_err(|e| format!("{}: {e}", image.name))?;
        let count = image.shape[0] as usize;
        let start = image.member.start + image.start;
        entries.extend(row(&image.name, image.member.file, [start, step], count, pixels)?);
        if images.len() > 1 {
            classes.extend(std::iter::repeat_n(class, count));
            class_names.push(image.name.clone());
        }
    }
    if let [image] = images[..]
        && let Some(own) = labels_of(image, &arrays)
    {
        classes = values(own, files)?;
    }
    let with = match (images.len(), classes.is_empty()) {
        (1, true) => "no labels".to_owned(),
        (1, false) => "labels".to_owned(),
        (n, _) => format!("{n} arrays as classes"),
    };
    let names: Vec<&str> = images.iter().take(3).map(|a| a.name.as_str()).collect();
    let more = if images.len() > 3 { " and more" } else { "" };
    let mut recognized_as =
        format!("NumPy's arrays, {} images in {}{more}, with {with}", entries.len(), names.join(", "));
    if total > images.len() {
        recognized_as.push_str(&format!("; not read: {} other arrays of images", total - images.len()));
    }
    let classes = (!classes.is_empty()).then_some(classes);
    Ok(Some(Found::new(entries, classes, class_names, recognized_as)))
}

/// The labels of some images: of the same number, with a name that fits, or the only ones.
fn labels_of<'a>(images: &Array, arrays: &'a [Array]) -> Option<&'a Array> {
    let fits = |a: &&Array| {
        a.is_integer() && a.shape[..1] == images.shape[..1] && matches!(a.shape.as_slice(), [_] | [_, 1])
    };
    let all: Vec<&Array> = arrays.iter().filter(fits).collect();
    let name = images.name.to_lowercase();
    let wanted =
        [name.replace("images", "labels"), name.replace("image", "label"), name.replacen('x', "y", 1)];
    let named = all.iter().find(|a| wanted.contains(&a.name.to_lowercase()) && a.name != images.name);
    named.copied().or(if let [only] = all[..] { Some(only) } else { None })
}

fn values(labels: &Array, files: &Files) -> Result<Vec<usize>, String> {
    let width = labels.width();
    let len = labels.shape[0] * width;
    let bytes = files.read(labels.member.file, labels.member.start + labels.start, len)?;
    let one = |(at, bytes): (usize, &[u8])| {
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        match u64::from_le_bytes(all) {
            class if class < MAX_CLASSES => Ok(class as usize),
            _ => Err(format!("{}: label {at} is negative or not below {MAX_CLASSES}", labels.name)),
        }
    };
    bytes.chunks_exact(width as usize).enumerate().map(one).collect()
}

/// Reads a header: `{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }`.
fn array(member: &Member, files: &mut Files) -> Result<Array, String> {
    let wrong = |what: &str| format!("{}: {what}", member.name);
    let member = files.plain(member)?;
    let head = files.head(&member, 65_536);
    let cut_off = || wrong("truncated, or not an NPY file");
    if !head.starts_with(MAGIC) {
        return Err(cut_off());
    }
    let number = |range: std::ops::Range<usize>| {
        let bytes = head.get(range)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    };
    let first = if head.get(6) == Some(&1) { 10 } else { 12 };
    let len = number(8..first).ok_or_else(cut_off)?;
    let text = head.get(first..first.saturating_add(len)).ok_or_else(cut_off)?;
    let text = String::from_utf8_lossy(text);
    let after = |key: &str| {
        let rest = text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
        rest.ok_or_else(|| wrong(&format!("its header has no `{key}`")))
    };
    if after("fortran_order")?.starts_with("True") {
        return Err(wrong("Fortran order is not supported; save numpy.ascontiguousarray(array)"));
    }
    let kind = after("descr")?.trim_start_matches('\'').split('\'').next().unwrap_or_default().to_owned();
    let shape = after("shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
    let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::parse);
    let shape = sizes.collect::<Result<Vec<u64>, _>>().map_err(|_| wrong("its shape is not understood"))?;
    let name = member.file_name().trim_end_matches(".npy").to_owned();
    let array = Array { name, start: (first + len) as u64, kind, shape, member };
    let values = array.shape.iter().try_fold(array.width().max(1), |n, s| n.checked_mul(*s));
    let room = array.member.len.saturating_sub(array.start);
    if array.is_integer() && values != Some(room) {
        let found = array.shown();
        return Err(wrong(&format!("{room} bytes of values do not make {found}: truncated?")));
    }
    Ok(array)
}
