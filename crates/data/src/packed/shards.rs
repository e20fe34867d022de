//! Tar archives with texts and labels beside their images, as of WebDataset: members with the same name up to the first dot
//! belong together. One archive, or a folder of many.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    Found,
    arrays::Stretch,
    members::{Files, Member},
};
use crate::{
    Words,
    source::{Entry, Place},
};

/// Most bytes of a text or a label.
const LONGEST: u64 = 1 << 20;
/// Labels must be class indices, not identifiers.
const MAX_CLASSES: usize = 100_000;

/// What lies beside an image.
#[derive(Default)]
struct Beside<'a> {
    text: Option<&'a Member>,
    label: Option<&'a Member>,
    json: Option<&'a Member>,
}

/// The images of several archives, or of one with texts or labels; `None` for another archive.
pub(super) fn find(images: &[&Member], members: &[Member], files: &Files) -> Result<Option<Found>, String> {
    let mut beside: BTreeMap<&str, Beside<'_>> = BTreeMap::new();
    for member in members {
        let slot = beside.entry(member.key()).or_default();
        match member.ending() {
            "txt" | "caption" => slot.text = Some(member),
            "cls" => slot.label = Some(member),
            "json" => slot.json = Some(member),
            _ => {}
        }
    }
    let is_told = |beside: &Beside<'_>| beside.text.or(beside.label).or(beside.json).is_some();
    let archives: std::collections::BTreeSet<usize> = images.iter().map(|image| image.file).collect();
    let told = images.iter().filter(|image| beside.get(image.key()).is_some_and(is_told)).count();
    if archives.len() < 2 && told == 0 {
        return Ok(None);
    }
    let mut entries = Vec::with_capacity(images.len());
    let mut most = None;
    for image in images {
        let beside = beside.get(image.key());
        let (class, caption) = beside.map_or(Ok((None, None)), |beside| beside.read(files))?;
        most = most.max(class);
        let words = Arc::new(Words { caption, ..Words::default() });
        let place = Place::Stretch(Stretch::file(image));
        entries.push(Entry { name: image.name.clone(), family: None, held_out: false, class, words, place });
    }
    let class_names = most.map_or(Vec::new(), |most| (0..=most).map(|class| class.to_string()).collect());
    let (images, archives) = (entries.len(), archives.len());
    let recognized_as =
        format!("tar archives ({archives}) of {images} images, {told} of them with text or label");
    Ok(Some(Found { entries, class_names, recognized_as }))
}

impl Beside<'_> {
    /// The class and the caption.
    fn read(&self, files: &Files) -> Result<(Option<usize>, Option<String>), String> {
        let text = |member: &Member| -> Result<String, String> {
            let named = |e: String| format!("{}: {e}", member.name);
            if member.len > LONGEST {
                return Err(named(format!(
                    "{} bytes are more than the {LONGEST} allowed for a text",
                    member.len
                )));
            }
            let bytes = files.read(member.file, member.start, member.len).map_err(named)?;
            let text = String::from_utf8(bytes).map_err(|e| named(format!("not UTF-8 text: {e}")))?;
            Ok(text.trim().to_owned())
        };
        let (mut class, mut caption) = (None, None);
        if let Some(member) = self.json {
            let json: Value = serde_json::from_str(&text(member)?)
                .map_err(|e| format!("{}: not JSON: {e}", member.name))?;
            let key = |keys: [&str; 2]| keys.into_iter().find_map(|key| json.get(key));
            caption = key(["caption", "text"]).and_then(Value::as_str).map(str::to_owned);
            class =
                key(["label", "cls"]).and_then(Value::as_u64).and_then(|class| usize::try_from(class).ok());
        }
        if let Some(member) = self.text {
            caption = Some(text(member)?);
        }
        if let Some(member) = self.label {
            let found = text(member)?;
            let parsed = found
                .parse()
                .map_err(|_| format!("{}: `{found}`, expected the number of a class", member.name))?;
            class = Some(parsed);
        }
        match class.filter(|class| *class >= MAX_CLASSES) {
            Some(class) => {
                let member = self.label.or(self.json).map(|member| member.name.as_str()).unwrap_or_default();
                Err(format!("{member}: the label is {class}, expected a class below {MAX_CLASSES}"))
            }
            None => Ok((class, caption.filter(|caption| !caption.is_empty()))),
        }
    }
}
