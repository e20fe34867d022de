//! IDX, the format of MNIST and its likes: a type, the sizes, the values.

use super::{
    Found,
    arrays::{Pixels, row},
    members::{Files, Member},
};

/// The sizes of bytes in IDX; `None` for another format.
fn sizes(head: &[u8], name: &str) -> Option<Result<Vec<u64>, String>> {
    let &[0, 0, kind @ (8 | 9 | 11..=14), dims @ 1..=4, ref rest @ ..] = head else { return None };
    if kind != 8 {
        return Some(Err(format!("{name}: IDX of type {kind:#04x}; expected bytes, type 0x08")));
    }
    let size = |at: usize| {
        let bytes = rest.get(4 * at..4 * at + 4)?;
        Some(u64::from(u32::from_be_bytes(bytes.try_into().ok()?)))
    };
    let all: Option<Vec<u64>> = (0..usize::from(dims)).map(size).collect();
    Some(all.ok_or_else(|| format!("{name}: truncated within its header")))
}

/// An array: where its values begin, and its sizes.
struct Array {
    member: Member,
    start: u64,
    sizes: Vec<u64>,
}

fn array(member: &Member, files: &mut Files) -> Result<Option<Array>, String> {
    let Some(found) = sizes(&files.unpacked_head(member, 20), &member.name) else { return Ok(None) };
    let (sizes, member) = (found?, files.plain(member)?);
    let start = 4 + 4 * sizes.len() as u64;
    let expected = sizes.iter().try_fold(1_u64, |n, s| n.checked_mul(*s)).and_then(|n| n.checked_add(start));
    if expected != Some(member.len) {
        let shape: Vec<String> = sizes.iter().map(u64::to_string).collect();
        return Err(format!(
            "{}: {} bytes, expected {} for {} values",
            member.name,
            member.len,
            expected.map_or("more than there can be".into(), |n| n.to_string()),
            shape.join("×")
        ));
    }
    Ok(Some(Array { member, start, sizes }))
}

pub(super) fn find(members: &[Member], files: &mut Files) -> Result<Option<Found>, String> {
    let mut pictures = Vec::new();
    let mut labels = Vec::new();
    let is_training = |m: &Member| m.file_name().contains("train");
    let is_idx = |files: &Files, m: &Member| sizes(&files.unpacked_head(m, 20), &m.name).is_some();
    let some = members.iter().any(|m| is_training(m) && is_idx(files, m));
    let mut left_out = Vec::new();
    for member in members {
        if some && !is_training(member) {
            left_out.extend(is_idx(files, member).then(|| member.name.clone()));
            continue;
        }
        match array(member, files)? {
            Some(array) if array.sizes.len() == 1 => labels.push(array),
            Some(array) if array.sizes.len() == 3 => pictures.push(array),
            Some(array) => {
                let found = array.sizes.len();
                return Err(format!("{}: IDX of {found} sizes; images have 3, labels 1", array.member.name));
            }
            None => {}
        }
    }
    if pictures.is_empty() {
        return match labels.first() {
            Some(array) => {
                Err(format!("{}: labels without images (an IDX file of 3 sizes)", array.member.name))
            }
            None => Ok(None),
        };
    }
    let (mut images, mut classes) = (Vec::new(), Vec::new());
    for picture in &pictures {
        let [count, height, width] = [0, 1, 2].map(|at| picture.sizes[at] as usize);
        let pixels = Pixels { width, height, channels: 1, planar: false };
        let name = &picture.member.name;
        let step = pixels.bytes().map_err(|e| format!("{name}: {e}"))?;
        images.extend(row(
            name,
            picture.member.file,
            [picture.start + picture.member.start, step],
            count,
            pixels,
        )?);
        let stem = |name: &str| name.replace("labels", "images").replace("idx1", "idx3");
        let plain = |name: &str| name.strip_suffix(".gz").unwrap_or(name).to_owned();
        let Some(own) = labels.iter().find(|l| plain(&stem(&l.member.name)) == plain(name)) else { continue };
        let (found, member) = (own.sizes[0], &own.member);
        if found != count as u64 {
            return Err(format!("{}: {found} labels, expected {count} as {name} has images", member.name));
        }
        let values = files.read(member.file, member.start + own.start, found)?;
        classes.extend(values.into_iter().map(usize::from));
    }
    let classes = (classes.len() == images.len()).then_some(classes);
    let names: Vec<&str> = pictures.iter().map(|p| p.member.name.as_str()).collect();
    let with = if classes.is_some() { "labels" } else { "no labels" };
    let mut recognized_as = format!("IDX, {} images in {}, with {with}", images.len(), names.join(", "));
    if !left_out.is_empty() {
        recognized_as.push_str(&format!("; not read: {}", left_out.join(", ")));
    }
    Ok(Some(Found::new(images, classes, Vec::new(), recognized_as)))
}
