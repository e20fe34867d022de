//! The binary batches of CIFAR-10 and CIFAR-100: records of one label byte, or a coarse and a fine one, and three
//! planes of 32×32.

use super::{
    Found,
    arrays::{Pixels, row},
    members::{Files, Member},
};

const PIXELS: Pixels = Pixels { width: 32, height: 32, channels: 3, planar: true };
const IMAGE: u64 = 3072;
/// Records that are read at once.
const CHUNK: u64 = 1000;

pub(super) fn find(members: &[Member], files: &mut Files) -> Result<Option<Found>, String> {
    let named = |m: &&Member| {
        let name = m.file_name();
        name.ends_with(".bin")
            && (name.starts_with("data_batch") || ["test_batch.bin", "train.bin", "test.bin"].contains(&name))
    };
    let batches: Vec<&Member> = members.iter().filter(named).collect();
    if batches.is_empty() {
        return Ok(None);
    }
    let list = |name: &str, files: &mut Files| -> Result<Option<Vec<String>>, String> {
        let Some(member) = members.iter().find(|m| m.file_name() == name) else { return Ok(None) };
        let member = files.plain(member)?;
        let text = String::from_utf8_lossy(&files.read(member.file, member.start, member.len)?).into_owned();
        Ok(Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect()))
    };
    let ten = list("batches.meta.txt", files)?;
    let hundred = list("fine_label_names.txt", files)?;
    let fits = |labels: u64| batches.iter().all(|m| m.len.is_multiple_of(IMAGE + labels) && m.len > 0);
    let labels = match (&ten, &hundred) {
        (None, Some(_)) => 2,
        (Some(_), _) => 1,
        _ if fits(1) => 1,
        _ => 2,
    };
    let is_test = |m: &Member| m.file_name().starts_with("test");
    let only_tests = batches.iter().all(|m| is_test(m));
    let (mut images, mut classes, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for batch in &batches {
        if is_test(batch) && !only_tests {
            left_out.push(batch.name.clone());
            continue;
        }
        let record = IMAGE + labels;
        let batch = files.plain(batch)?;
        if batch.len == 0 || !batch.len.is_multiple_of(record) {
            return Err(format!(
                "{}: {} bytes are no records of {record}: truncated, or not CIFAR's",
                batch.name, batch.len
            ));
        }
        let count = batch.len / record;
        for first in (0..count).step_by(CHUNK as usize) {
            let some = CHUNK.min(count - first);
            let bytes = files.read(batch.file, batch.start + first * record, some * record)?;
            classes.extend(bytes.chunks_exact(record as usize).map(|r| usize::from(r[labels as usize - 1])));
        }
        images.extend(row(&batch.name, batch.file, [batch.start + labels, record], count as usize, PIXELS)?);
    }
    let which = if labels == 1 { "CIFAR-10" } else { "CIFAR-100" };
    let mut recognized_as = format!("{which}'s binary batches, {} images", images.len());
    if !left_out.is_empty() {
        recognized_as.push_str(&format!("; not read: {}", left_out.join(", ")));
    }
    let names = if labels == 1 { ten } else { hundred };
    Ok(Some(Found::new(images, Some(classes), names.unwrap_or_default(), recognized_as)))
}
