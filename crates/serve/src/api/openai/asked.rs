//! OpenAI's fields as a request.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    Fault,
    asked::{Fields, Reads, model_for, random_seed, reads, set_prompt, size},
    formats::Format,
    service::Service,
};

/// Fields that tell OpenAI's models what ours have no word for. A response lists those that were set.
pub(super) const IGNORED: [&str; 7] =
    ["quality", "style", "user", "moderation", "input_fidelity", "safety_identifier", "prompt_cache_key"];
/// How much of an image is changed by default: edits without a mask, and variations.
const STRENGTHS: [f64; 2] = [0.8, 0.6];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Images from a prompt.
    Generation,
    /// A change of an image.
    Edit,
    /// Images like an image.
    Variation,
}

impl Kind {
    /// The start of the names of its events.
    pub fn event(self) -> &'static str {
        if self == Self::Generation { "image_generation" } else { "image_edit" }
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is asked for.
    pub kind: Kind,
    /// The name of the model.
    pub model: Option<String>,
    /// Our request.
    pub request: Map<String, Value>,
    /// Whether events are sent.
    pub stream: bool,
    /// Number of previews.
    pub partials: usize,
    /// Whether addresses are sent instead of content.
    pub url: bool,
    /// The format.
    pub format: Format,
    /// Fields that have no effect.
    pub ignored: Vec<String>,
}

impl Asked {
    /// Reads the fields.
    ///
    /// # Errors
    /// [`Fault`] naming the field.
    pub async fn of(service: &Arc<Service>, mut fields: Fields, kind: Kind) -> Result<Self, Fault> {
        let model = fields.text("model")?.filter(|model| !model.is_empty());
        let prompt = fields.text("prompt")?.unwrap_or_default();
        let count = fields.whole("n", 1, 1 << 16)?.unwrap_or(1);
        refuse(&mut fields, "count", "use `n`")?;
        let sides = fields.text("size")?.filter(|text| text != "auto");
        let sides = sides.map(|text| size("size", &text)).transpose()?;
        let stream = fields.flag("stream")?;
        let partials = fields.whole("partial_images", 0, 3)?.unwrap_or(0) as usize;
        if partials > 0 && !stream {
            return Err(Fault::field("partial_images", "needs `stream`"));
        }
        let url = match fields.text("response_format")?.as_deref() {
            None | Some("b64_json") => false,
            Some("url") if stream => {
                return Err(Fault::field("response_format", "`url`: not supported with `stream`"));
            }
            Some("url") => true,
            Some(other) => {
                return Err(Fault::field(
                    "response_format",
                    format!("`{other}`: expected `url` or `b64_json`"),
                ));
            }
        };
        let format = format(&mut fields)?;
        if let Some(background) = fields.text("background")?.filter(|text| text != "auto" && text != "opaque")
        {
            let reason =
                format!("`{background}`: expected `auto` or `opaque`; these models make opaque images");
            return Err(Fault::field("background", reason));
        }
        let ignored = fields.ignored(&IGNORED);
        let mut request = Map::new();
        let model = model_for(service, model, &prompt).await;
        let reads = reads(service, model.as_deref()).await?;
        set_image(&mut request, &mut fields, kind)?;
        own_fields(&mut request, &mut fields)?;
        let negative = request.get("negative_prompt").and_then(Value::as_str) == Some("");
        if reads == Reads::Texts || !prompt.trim().is_empty() {
            set_prompt(&mut request, reads, &prompt)?;
        }
        if negative {
            request.remove("negative_prompt");
        }
        request.insert("count".into(), count.into());
        if let Some(sides) = sides {
            request.insert("size".into(), json!(sides));
        }
        if !request.contains_key("seed") {
            request.insert("seed".into(), random_seed().into());
        }
        Ok(Self { kind, model, request, stream, partials, url, format, ignored })
    }

    /// The size that was asked for, in OpenAI's form.
    pub fn size(&self) -> String {
        match self.request.get("size").and_then(Value::as_array).map(Vec::as_slice) {
            Some([height, width]) => format!("{width}x{height}"),
            _ => "auto".into(),
        }
    }
}

fn format(fields: &mut Fields) -> Result<Format, Fault> {
    let name = fields.text("output_format")?;
    let quality = fields.whole("output_compression", 0, 100)?;
    let format = match name.as_deref() {
        None => Format::default(),
        Some(name) => Format::named(name).ok_or_else(|| {
            Fault::field("output_format", format!("`{name}`: expected `png`, `webp` or `jpeg`"))
        })?,
    };
    match (format, quality) {
        (Format::Jpeg(_), Some(quality)) => Ok(Format::Jpeg(quality.clamp(1, 100) as u8)),
        // 100 is OpenAI's default.
        (_, None | Some(100)) => Ok(format),
        _ => Err(Fault::field(
            "output_compression",
            "only has an effect on `jpeg`; the other formats are lossless",
        )),
    }
}

/// The image to start from.
fn set_image(request: &mut Map<String, Value>, fields: &mut Fields, kind: Kind) -> Result<(), Fault> {
    let (image, mask) = (fields.take("image"), fields.take("mask"));
    match (kind, image, mask) {
        (Kind::Generation, None, None) => {}
        (Kind::Generation, ..) => {
            return Err(Fault::field("image", "use `/v1/images/edits` to start from an image"));
        }
        (_, None, _) => return Err(Fault::field("image", "missing: expected a file in the form")),
        (Kind::Edit, Some(image), Some(mask)) => {
            // Transparent pixels are changed, in OpenAI's masks and in ours.
            request.insert("known".into(), json!({ "image": image, "mask": { "files": [mask] } }));
        }
        (Kind::Variation, _, Some(_)) => return Err(Fault::field("mask", "variations have no mask")),
        (_, Some(image), None) => {
            request.insert("image".into(), image);
            let strength = STRENGTHS[usize::from(kind == Kind::Variation)];
            request.insert("strength".into(), strength.into());
        }
    }
    Ok(())
}

/// Refuses a field of our own requests for which another one stands here.
pub(super) fn refuse(fields: &mut Fields, name: &str, instead: &str) -> Result<(), Fault> {
    fields.take(name).map_or(Ok(()), |value| Err(Fault::field(name, format!("{value}: {instead}"))))
}

/// The fields of our own requests. In a form they are texts.
pub(super) fn own_fields(request: &mut Map<String, Value>, fields: &mut Fields) -> Result<(), Fault> {
    for name in ["negative_prompt", "solver", "spacing", "precision", "prompt_weights"] {
        if let Some(Value::String(text)) = fields.0.get(name) {
            let spacing = || {
                text.parse::<tweedie_core::spacing::Spacing>().map_err(|e| Fault::field(name, e.to_string()))
            };
            let value = if name == "spacing" { json!(spacing()?) } else { json!(text) };
            request.insert(name.into(), value);
            fields.0.remove(name);
        }
    }
    for (name, value) in std::mem::take(&mut fields.0) {
        let value = match &value {
            Value::Null => continue,
            Value::String(text) => serde_json::from_str(text).unwrap_or(value),
            _ => value,
        };
        request.insert(name, value);
    }
    Ok(())
}
