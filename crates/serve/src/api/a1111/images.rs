//! Images in answers, and what is asked about images.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use image::{DynamicImage, imageops::FilterType};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tweedie_pipe::a1111::{self, Facts};

use super::{Asked, Refusal, Web};
use crate::{
    Fault,
    api::body,
    asked::Fields,
    formats::{decoded, packed, texts, unpacked, with_text},
    journal::Record,
    service::{Service, blocking},
};

/// The keyword of its texts.
const KEYWORD: &str = "parameters";
/// Ways to enlarge.
pub const UPSCALERS: [(&str, FilterType); 3] =
    [("None", FilterType::Nearest), ("Lanczos", FilterType::Lanczos3), ("Nearest", FilterType::Nearest)];

/// The answer with the images of these jobs, each with its text.
pub async fn answer(
    service: &Arc<Service>,
    asked: &Asked,
    records: &[Record],
    interrupted: bool,
) -> Result<Value, Fault> {
    let (mut images, mut infos, mut seeds, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for record in records {
        for (_, stored) in &record.results {
            let gone = || Fault::missing("the result was deleted");
            let path = service.store.result(&stored.sha256, stored.ending).ok_or_else(gone)?;
            let order = record.order.clone();
            let made = blocking(move || {
                let png = std::fs::read(path).map_err(|_| gone())?;
                let (width, height) = sides(&png);
                let text = text_of(&order.request, &order.model, [height, width])?;
                Ok::<_, Fault>((packed(&with_text(&png, KEYWORD, &text)?), text, [width, height]))
            });
            let (image, text, size) = made.await??;
            images.push(image);
            infos.push(text);
            sizes.push(size);
            seeds.push(record.order.request["seed"].clone());
        }
    }
    let request = records.first().map(|record| &record.order.request);
    let [width, height] = sizes.first().copied().unwrap_or_default();
    let info = json!({
        "prompt": asked.prompt, "all_prompts": vec![&asked.prompt; images.len()],
        "negative_prompt": asked.negative, "all_negative_prompts": vec![&asked.negative; images.len()],
        "seed": seeds.first(), "all_seeds": seeds, "width": width, "height": height,
        "sampler_name": request.map(|request| request["solver"].clone()),
        "cfg_scale": request.map(|request| request["guidance"].clone()),
        "steps": request.map(|request| request["steps"].clone()), "batch_size": images.len(),
        "sd_model_name": records.first().map(|record| record.order.model.clone()),
        "infotexts": infos, "interrupted": interrupted, "ignored": asked.ignored,
        "jobs": records.iter().map(|record| record.order.id.clone()).collect::<Vec<_>>(),
    });
    let images = if asked.send { images } else { Vec::new() };
    // The text of JSON, as there.
    Ok(json!({ "images": images, "info": info.to_string() }))
}

/// Width and height of a PNG.
fn sides(png: &[u8]) -> (usize, usize) {
    let side = |from: usize| {
        let bytes = png.get(from..from + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| u32::from_be_bytes(bytes) as usize)
    };
    (side(16), side(20))
}

fn text_of(request: &Value, model: &str, size: [usize; 2]) -> Result<String, Fault> {
    let request = tweedie_pipe::Request::deserialize(request).map_err(|e| Fault::internal(e.to_string()))?;
    let facts = Facts {
        model,
        steps: request.steps.map_or(0, std::num::NonZeroUsize::get),
        solver: request.solver.as_deref().unwrap_or(""),
        guidance: request.guidance.unwrap_or(1.0),
        size,
    };
    Ok(a1111::text(&request, &facts))
}

/// The text in a PNG, and its entries.
pub async fn png_info(State(web): State<Web>, request: Request) -> Result<Json<Value>, Refusal> {
    let mut fields = Fields(body::json(request, body::most(&web.service)).await?);
    let image =
        fields.text("image")?.ok_or_else(|| Fault::field("image", "missing: expected a PNG in base 64"))?;
    let bytes = unpacked("image", &image)?;
    let all = blocking(move || texts(&bytes)).await??;
    let own = all.iter().find(|(keyword, _)| keyword == KEYWORD).map(|(_, text)| text.clone());
    let info = own.or_else(|| {
        // An image of ours says the same in another form.
        let (_, text) = all.iter().find(|(keyword, _)| keyword == "tweedie")?;
        text_of(&serde_json::from_str(text).ok()?, "", [0, 0]).ok()
    });
    let items: Map<String, Value> = all.into_iter().map(|(keyword, text)| (keyword, text.into())).collect();
    let read = info.as_deref().and_then(|text| a1111::parse(text).ok());
    let parameters = read.and_then(|read| {
        let mut json = serde_json::to_value(read.request).ok()?;
        read.others.into_iter().for_each(|(key, value)| json[key] = value.into());
        Some(json)
    });
    let parameters = parameters.unwrap_or_else(|| json!({}));
    Ok(Json(json!({ "info": info.unwrap_or_default(), "items": items, "parameters": parameters })))
}

/// Enlarges an image.
pub async fn extra(State(web): State<Web>, request: Request) -> Result<Json<Value>, Refusal> {
    let mut fields = Fields(body::json(request, body::most(&web.service)).await?);
    let image = fields
        .text("image")?
        .ok_or_else(|| Fault::field("image", "missing: expected an image in base 64"))?;
    let bytes = unpacked("image", &image)?;
    let name = fields.text("upscaler_1")?.unwrap_or_else(|| "None".into());
    let filter = UPSCALERS.iter().find(|(own, _)| own.eq_ignore_ascii_case(&name)).map(|(_, filter)| *filter);
    let filter = filter.ok_or_else(|| {
        let names: Vec<_> = UPSCALERS.iter().map(|(name, _)| *name).collect();
        Fault::field("upscaler_1", format!("unknown upscaler `{name}`; expected one of {}", names.join(", ")))
    })?;
    for field in ["gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"] {
        if fields.number(field)?.is_some_and(|value| value != 0.0) {
            return Err(Fault::field(field, "this server does not support it").into());
        }
    }
    let times = fields.number("upscaling_resize")?.unwrap_or(2.0);
    let given =
        [fields.whole("upscaling_resize_w", 0, 1 << 15)?, fields.whole("upscaling_resize_h", 0, 1 << 15)?];
    let to_size = fields.whole("resize_mode", 0, 1)? == Some(1);
    let most = web.service.config.limits.pixels;
    let enlarged = blocking(move || {
        let image = decoded(&bytes)?;
        let [width, height] = match (to_size, given, name.as_str()) {
            (_, _, "None") => [image.width() as usize, image.height() as usize],
            (true, [Some(width), Some(height)], _) => [width as usize, height as usize],
            (true, ..) => return Err(Fault::field("upscaling_resize_w", "expected width and height")),
            (false, ..) => {
                [image.width(), image.height()].map(|side| (f64::from(side) * times).round() as usize)
            }
        };
        if width == 0 || height == 0 || width.saturating_mul(height) > most {
            let reason = format!("{width}x{height} pixels: this server allows 1 to {most}");
            return Err(Fault::field("upscaling_resize", reason));
        }
        png_of(&image.resize_exact(width as u32, height as u32, filter))
    });
    Ok(Json(json!({ "html_info": "", "image": packed(&enlarged.await??) })))
}

fn png_of(image: &DynamicImage) -> Result<Vec<u8>, Fault> {
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, image::ImageFormat::Png).map_err(|e| Fault::internal(e.to_string()))?;
    Ok(out.into_inner())
}
