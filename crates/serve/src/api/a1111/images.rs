//! Images in answers, and the text in images.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tweedie_pipe::a1111::{self, Facts};

use super::{Asked, Refusal, Web};
use crate::{
    Fault,
    api::body,
    asked::Fields,
    formats::{packed, texts, unpacked, with_text},
    journal::Record,
    service::{Service, blocking},
};

/// The keyword of its texts.
const KEYWORD: &str = "parameters";

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
