//! The fields of `txt2img` and `img2img` as requests.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tweedie_pipe::a1111;

use crate::{
    Fault,
    asked::{Fields, model_for, random_seed, reads, set_prompt},
    formats::{grey, unpacked},
    service::{Service, blocking},
};

/// Fields without a meaning here. A response lists those that were set to something.
const IGNORED: [&str; 18] = [
    "do_not_save_samples",
    "do_not_save_grid",
    "save_images",
    "send_images",
    "override_settings_restore_afterwards",
    "script_args",
    "include_init_images",
    "initial_noise_multiplier",
    "image_cfg_scale",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "subseed",
    "s_tmin",
    "s_tmax",
    "s_noise",
    "s_min_uncond",
    "sampler_index",
    "latent_mask",
];
/// Fields that would change the images in a way that this server does not offer, with the values that do not.
const UNSUPPORTED: [&str; 12] = [
    "enable_hr",
    "restore_faces",
    "tiling",
    "script_name",
    "subseed_strength",
    "s_churn",
    "styles",
    "refiner_checkpoint",
    "comments",
    "custom_sigmas",
    "inpaint_full_res_padding",
    "resize_mode",
];

/// What is asked for.
pub struct Asked {
    /// The name of the model.
    pub model: Option<String>,
    /// One request per image.
    pub requests: Vec<Map<String, Value>>,
    /// The prompts, for the answer.
    pub prompt: String,
    /// The negative prompt, for the answer.
    pub negative: String,
    /// Fields that have no effect.
    pub ignored: Vec<String>,
    /// Whether images are returned.
    pub send: bool,
}

/// The prompt without `<lora:NAME:SCALE>`, and these LoRAs.
fn without_loras(prompt: &str) -> Result<(String, Vec<Value>), Fault> {
    const START: &str = "<lora:";
    let (mut text, mut loras, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some((before, after)) = rest.split_once(START) {
        let wrong = |part: &str| {
            Fault::field(
                "prompt",
                format!("`{START}{part}`: expected `{START}NAME>` or `{START}NAME:SCALE>`"),
            )
        };
        let (tag, after) = after.split_once('>').ok_or_else(|| wrong(after))?;
        let (name, scale) = match tag.split_once(':') {
            None => (tag, 1.0),
            Some((name, scale)) => (name, scale.trim().parse::<f64>().map_err(|_| wrong(tag))?),
        };
        if !scale.is_finite() {
            return Err(wrong(tag));
        }
        loras.push(json!({ "name": name.trim(), "scale": scale }));
        text.push_str(before);
        rest = after;
    }
    text.push_str(rest);
    let text = if loras.is_empty() { text } else { text.trim().to_owned() };
    Ok((text, loras))
}

/// Whether a value asks for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "None",
        Value::Array(values) => values.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) => false,
    }
}

impl Asked {
    /// Reads the fields; `model` is the client's own.
    ///
    /// # Errors
    /// [`Fault`] naming the field.
    pub async fn of(
        service: &Arc<Service>,
        mut fields: Fields,
        model: Option<String>,
        from_image: bool,
    ) -> Result<Self, Fault> {
        fields.0.retain(|_, value| !value.is_null());
        // Settings of the second pass, which is not asked for.
        if fields.0.get("enable_hr").is_none_or(is_nothing) {
            fields.0.retain(|name, _| !name.starts_with("hr_") && !name.starts_with("firstphase_"));
        }
        let mask = fields.0.contains_key("mask");
        if !mask {
            let of_masks = [
                "inpaint_full_res_padding",
                "inpainting_fill",
                "inpaint_full_res",
                "mask_blur",
                "inpainting_mask_invert",
            ];
            fields.ignored(&[&of_masks[..], &["mask_blur_x", "mask_blur_y", "mask_round"]].concat());
        }
        for name in UNSUPPORTED {
            if let Some(value) = fields.take(name).filter(|value| !is_nothing(value)) {
                return Err(Fault::field(name, format!("{value}: this server does not support it")));
            }
        }
        let model = overridden(&mut fields)?.or(model);
        if let Some(scripts) = fields.take("alwayson_scripts").filter(|scripts| !is_nothing(scripts)) {
            return Err(Fault::field("alwayson_scripts", format!("{scripts}: this server has no scripts")));
        }
        let send = fields.0.get("send_images") != Some(&Value::Bool(false));
        let (prompt, negative) =
            (fields.text("prompt")?.unwrap_or_default(), fields.text("negative_prompt")?.unwrap_or_default());
        let mut request = Map::new();
        let (text, loras) = without_loras(&prompt)?;
        if !loras.is_empty() {
            request.insert("loras".into(), loras.into());
        }
        let model = model_for(service, model, &text).await;
        set_prompt(&mut request, reads(service, model.as_deref()).await?, &text)?;
        if !negative.is_empty() {
            request.insert("negative_prompt".into(), negative.clone().into());
        }
        set_sampler(&mut request, &mut fields)?;
        request.insert("steps".into(), fields.whole("steps", 1, 1 << 16)?.unwrap_or(20).into());
        request.insert("guidance".into(), fields.number("cfg_scale")?.unwrap_or(7.0).into());
        let (width, height) = (fields.whole("width", 1, 1 << 16)?, fields.whole("height", 1, 1 << 16)?);
        if let (Some(width), Some(height)) = (width, height) {
            request.insert("size".into(), json!([height, width]));
        } else if width.is_some() != height.is_some() {
            return Err(Fault::field("height", "expected both `width` and `height`, or neither"));
        }
        let strength = fields.number("denoising_strength")?;
        if from_image {
            set_image(service, &mut request, &mut fields, strength).await?;
        }
        let most = service.config.limits.count as i64;
        let counts = [fields.whole("batch_size", 1, most)?, fields.whole("n_iter", 1, most)?];
        let count = counts.iter().flatten().product::<i64>();
        if count > most {
            return Err(Fault::field("n_iter", format!("{count} images: this server allows at most {most}")));
        }
        let seed = fields.whole("seed", -1, i64::MAX)?.filter(|seed| *seed >= 0);
        let seed = seed.map_or_else(random_seed, |seed| seed as u64);
        let ignored = fields.ignored(&IGNORED);
        if let Some((name, value)) = fields.0.iter().find(|(_, value)| !is_nothing(value)) {
            return Err(Fault::field(name, format!("{value}: unknown field")));
        }
        let of_seed = |i: u64| {
            let mut request = request.clone();
            request.insert("seed".into(), seed.wrapping_add(i).into());
            request
        };
        let requests = (0..count.max(1) as u64).map(of_seed).collect();
        Ok(Self { model, requests, prompt, negative, ignored, send })
    }
}

/// The model of `override_settings`.
fn overridden(fields: &mut Fields) -> Result<Option<String>, Fault> {
    let Some(settings) = fields.take("override_settings") else { return Ok(None) };
    let Value::Object(settings) = settings else {
        return Err(Fault::field("override_settings", "expected an object"));
    };
    let mut settings = Fields(settings);
    let model = settings.text("sd_model_checkpoint")?.filter(|model| !model.is_empty());
    settings.ignored(&["samples_format", "live_previews_enable"]);
    match settings.0.iter().next() {
        Some((name, _)) => {
            Err(Fault::field("override_settings", format!("`{name}`: this server does not have it")))
        }
        None => Ok(model),
    }
}

fn set_sampler(request: &mut Map<String, Value>, fields: &mut Fields) -> Result<(), Fault> {
    let first = fields.text("sampler_name")?.filter(|name| !name.is_empty());
    // An older name of the field. It may also be a number, which has no meaning any more.
    let name = match (first, fields.0.get("sampler_index")) {
        (None, Some(Value::String(name))) if !name.is_empty() => Some(name.clone()),
        (first, _) => first,
    };
    let schedule = fields.text("scheduler")?.filter(|name| !name.is_empty());
    let mut spacing = None;
    if let Some(name) = &name {
        let found = a1111::sampler(name);
        let (solver, own) = found.ok_or_else(|| {
            let names: Vec<_> = a1111::SAMPLERS.iter().map(|(name, _)| *name).collect();
            Fault::field(
                "sampler_name",
                format!("unknown sampler `{name}`; expected one of {}", names.join(", ")),
            )
        })?;
        request.insert("solver".into(), solver.into());
        spacing = own;
    }
    set_eta(request, fields)?;
    if let Some(name) = schedule {
        let found = a1111::schedule(&name).ok_or_else(|| {
            let names: Vec<_> = a1111::SCHEDULES.iter().map(|(name, ..)| *name).collect();
            Fault::field(
                "scheduler",
                format!("unknown scheduler `{name}`; expected one of {}", names.join(", ")),
            )
        })?;
        spacing = found.or(spacing);
    }
    if let Some(spacing) = spacing {
        request.insert("spacing".into(), json!(spacing));
    }
    Ok(())
}

/// The amount of noise, for the samplers that read it there; clients send it with all.
fn set_eta(request: &mut Map<String, Value>, fields: &mut Fields) -> Result<(), Fault> {
    const READ_ETA: [(&str, f64); 4] =
        [("euler-ancestral", 1.0), ("dpm2-ancestral", 1.0), ("dpmpp-2s-ancestral", 1.0), ("ddim", 0.0)];
    let Some(eta) = fields.number("eta")? else { return Ok(()) };
    let solver = request.get("solver").and_then(Value::as_str);
    let usual = READ_ETA.iter().find(|(name, _)| Some(*name) == solver).map(|(_, usual)| *usual);
    if usual.is_some_and(|usual| usual != eta) {
        request.insert("eta".into(), eta.into());
    }
    Ok(())
}

/// The initial image, and the mask: white is changed.
async fn set_image(
    service: &Arc<Service>,
    request: &mut Map<String, Value>,
    fields: &mut Fields,
    strength: Option<f64>,
) -> Result<(), Fault> {
    let images = match fields.take("init_images") {
        Some(Value::Array(images)) => images,
        _ => return Err(Fault::field("init_images", "expected a list with an image in base 64")),
    };
    let [Value::String(image)] = &*images else {
        return Err(Fault::field("init_images", format!("{} images, expected one", images.len())));
    };
    let image = service.upload(unpacked("init_images", image)?.into()).await?;
    let image = json!({ "sha256": image });
    request.insert("strength".into(), strength.unwrap_or(0.75).into());
    let Some(mask) = fields.text("mask")? else {
        request.insert("image".into(), image);
        return Ok(());
    };
    let invert = fields.whole("inpainting_mask_invert", 0, 1)? == Some(1);
    let mask = unpacked("mask", &mask)?;
    let mask = blocking(move || grey(&mask, invert)).await??;
    let mask = service.upload(mask.into()).await?;
    let feather = fields.whole("mask_blur", 0, 256)?.unwrap_or(0);
    // 1 begins with the image itself, 2 with noise. The other two fill the part before it is changed, which ours does not
    // need: they begin with noise as well.
    if fields.whole("inpainting_fill", 0, 3)?.unwrap_or(0) != 1 {
        request.remove("strength");
    }
    fields.ignored(&["inpaint_full_res", "mask_blur_x", "mask_blur_y", "mask_round"]);
    // The result has the size of the image.
    request.remove("size");
    let mask = json!({ "files": [{ "sha256": mask }], "feather": feather });
    request.insert("known".into(), json!({ "image": image, "mask": mask }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_in_prompts_are_taken_out() {
        let (text, loras) = without_loras("a cat <lora:style:0.8>, <lora:lcm>").unwrap();
        assert_eq!(text, "a cat ,");
        assert_eq!(loras, [json!({ "name": "style", "scale": 0.8 }), json!({ "name": "lcm", "scale": 1.0 })]);
        assert_eq!(without_loras(" a < b ").unwrap(), (" a < b ".to_owned(), Vec::new()));
        for wrong in ["<lora:a", "<lora:a:much>", "<lora:a:inf>"] {
            assert!(without_loras(wrong).unwrap_err().message.contains("NAME:SCALE"), "{wrong}");
        }
    }
}
