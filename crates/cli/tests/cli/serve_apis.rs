//! The OpenAI and A1111 APIs of `tweedie serve`, and its page. `benches/clients` checks the same with official clients.

use serde_json::{Value, json};

use crate::{
    common::Scratch,
    http::{Event, Served, form},
    tensors,
};

fn base64(text: &Value) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = text.as_str().unwrap().bytes().filter(|b| *b != b'=');
    let values: Vec<u32> = letters.map(|b| LETTERS.iter().position(|l| *l == b).unwrap() as u32).collect();
    let group = |group: &[u32]| -> Vec<u8> {
        let bits = group.iter().fold(0, |bits, value| bits << 6 | value) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    values.chunks(4).flat_map(group).collect()
}

pub fn pixels(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
    let image = image::load_from_memory(bytes).unwrap().into_rgb8();
    (image.width(), image.height(), image.into_raw())
}

/// A PNG without the chunks of this kind.
fn without_chunk(png: &[u8], kind: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (png[..8].to_vec(), &png[8..]);
    while !rest.is_empty() {
        let length = 12 + u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        if rest[4..8] != *kind {
            out.extend(&rest[..length]);
        }
        rest = &rest[length..];
    }
    out
}

#[test]
fn openai_requests_are_jobs() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let made = |request: Value| served.post("/v1/images/generations", &request).is(200).json();
    let own =
        json!({ "model": "emoji-32", "prompt": "cat-face", "n": 2, "seed": 7, "steps": 6, "size": "40x24" });
    let answer = made(own.clone());
    let id = served
        .order(&json!({ "classes": ["cat-face"], "count": 2, "seed": 7, "steps": 6, "size": [24, 40] }));
    let results = served.results(&id);
    for (image, result) in answer["data"].as_array().unwrap().iter().zip(&results) {
        assert_eq!(base64(&image["b64_json"]), *result);
    }
    assert_eq!((&answer["size"], &answer["seed"]), (&json!("40x24"), &json!(7)));
    // Without a name, a prompt that is no class of the first model selects the one that reads texts.
    let of_text = made(json!({ "prompt": "red heart", "steps": 2, "seed": 1 }));
    assert_eq!(pixels(&base64(&of_text["data"][0]["b64_json"])).0, 64);
    let of_class = made(json!({ "prompt": "heart", "steps": 2, "seed": 1 }));
    assert_eq!(pixels(&base64(&of_class["data"][0]["b64_json"])).0, 32);
    // Addresses, other formats, fields without effect.
    let mut request = own.clone();
    request["response_format"] = "url".into();
    request["output_format"] = "webp".into();
    request["style"] = "vivid".into();
    let answer = made(request);
    assert_eq!(answer["ignored"], json!(["style"]));
    let url = answer["data"][1]["url"].as_str().unwrap();
    let path = url.strip_prefix(&format!("http://{}", served.address)).unwrap();
    let webp = served.get(path).is(200);
    assert_eq!((webp.header("content-type"), &webp.body[..4]), (Some("image/webp"), &b"RIFF"[..]));
    assert_eq!(pixels(&webp.body), pixels(&results[1]));
    let mut request = own.clone();
    request["output_format"] = "jpeg".into();
    request["output_compression"] = 100.into();
    let jpeg = pixels(&base64(&made(request)["data"][0]["b64_json"]));
    let png = pixels(&results[0]);
    let errors = jpeg.2.iter().zip(&png.2).map(|(a, b)| u64::from(a.abs_diff(*b)));
    assert!(errors.sum::<u64>() < 8 * png.2.len() as u64, "JPEG is close");
    // An image to start from, as a form.
    let (kind, body) = form(("prompt", "food-fruit"), &[("image", &results[0])]);
    let edited = served.send("POST", "/v1/images/edits", &[("Content-Type", &kind)], &body).is(200).json();
    assert_eq!(pixels(&base64(&edited["data"][0]["b64_json"])).0, 40);
    for (path, request, words) in [
        ("generations", json!({ "prompt": "", "n": 0 }), "`n`: 0: expected an integer from 1 to"),
        ("generations", json!({ "prompt": "", "size": "big" }), "`size`: `big`"),
        ("generations", json!({ "prompt": "", "partial_images": 2 }), "needs `stream`"),
        ("generations", json!({ "prompt": 3 }), "`prompt`: 3: expected a text"),
        ("generations", json!({ "prompt": "", "count": 2 }), "`count`: 2: use `n`"),
        ("generations", json!({ "prompt": "", "image": { "path": "/a" } }), "`/v1/images/edits`"),
        ("generations", json!({ "prompt": "", "noise": { "path": "/a" } }), "cannot name a file"),
        (
            "generations",
            json!({ "prompt": "", "output_format": "webp", "output_compression": 3 }),
            "lossless",
        ),
        ("edits", json!({}), "form is invalid"),
    ] {
        let response = served.post(&format!("/v1/images/{path}"), &request).is(400);
        assert!(response.text().contains(words), "{request}: {}", response.text());
    }
}

/// A mask for 32×32 pixels: a rectangle of `[left, right)` × `[top, bottom)` is marked.
fn mask(marked: [u8; 4], kept: [u8; 4]) -> Vec<u8> {
    let pixel = |x, y| if (8..20).contains(&x) && (4..28).contains(&y) { marked } else { kept };
    let mask = image::RgbaImage::from_fn(32, 32, |x, y| image::Rgba(pixel(x, y)));
    let mut out = std::io::Cursor::new(Vec::new());
    mask.write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

fn base64_of(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= group.len() { letter } else { '=' });
        }
    }
    out
}

#[test]
fn masks_leave_the_rest_as_it_was() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &["--model", "emoji-32"]);
    let cat = served.results(&served.order(&json!({ "classes": ["cat-face"], "steps": 6 }))).remove(0);
    let (_, _, before) = pixels(&cat);
    let check = |answer: &Value| {
        let (width, height, after) = pixels(&base64(answer));
        assert_eq!((width, height), (32, 32));
        let changed = |x: usize, y: usize| before[3 * (32 * y + x)..][..3] != after[3 * (32 * y + x)..][..3];
        let inside = |x: usize, y: usize| (8..20).contains(&x) && (4..28).contains(&y);
        let all = || (0..32).flat_map(|y| (0..32).map(move |x| (x, y)));
        assert!(all().all(|(x, y)| inside(x, y) || !changed(x, y)));
        assert!(all().filter(|(x, y)| inside(*x, *y) && changed(*x, *y)).count() > 50);
    };
    // OpenAI's masks are transparent where the image is changed.
    let transparent = mask([0, 0, 0, 0], [0, 0, 0, 255]);
    let (kind, body) = form(("prompt", "food-fruit"), &[("image", &cat), ("mask", &transparent)]);
    let edited = served.send("POST", "/v1/images/edits", &[("Content-Type", &kind)], &body).is(200).json();
    check(&edited["data"][0]["b64_json"]);
    // Those of A1111 are white.
    for (mask, invert) in [(mask([255; 4], [0, 0, 0, 255]), 0), (mask([0, 0, 0, 255], [255; 4]), 1)] {
        let request = json!({ "init_images": [base64_of(&cat)], "mask": base64_of(&mask), "prompt": "food-fruit", "steps": 8,
                              "cfg_scale": 1, "inpainting_mask_invert": invert, "mask_blur": 2 });
        check(&served.post("/sdapi/v1/img2img", &request).is(200).json()["images"][0]);
    }
}

#[test]
fn openai_streams_have_partial_images() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let request =
        json!({ "prompt": "", "n": 2, "seed": 1, "steps": 12, "stream": true, "partial_images": 2 });
    let events = served.stream("POST", "/v1/images/generations", &request);
    let of = |name: &str, image: u64| -> Vec<&Event> {
        events.iter().filter(|e| e.name == name && e.data["image"] == json!(image)).collect()
    };
    assert_eq!(events.len(), 6, "{events:?}");
    for image in 0..2 {
        let partial = of("image_generation.partial_image", image);
        let steps: Vec<u64> = partial.iter().map(|event| event.data["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [4, 8]);
        assert_eq!(partial[1].data["partial_image_index"], 1);
        let done = of("image_generation.completed", image);
        assert_eq!((done.len(), &done[0].data["type"]), (1, &json!("image_generation.completed")));
        assert_eq!(pixels(&base64(&done[0].data["b64_json"])).0, 32);
        assert_ne!(partial[1].data["b64_json"], done[0].data["b64_json"]);
    }
}

#[test]
fn a1111_requests_are_jobs_with_seeds_of_their_own() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &["--model", "emoji-text-64", "--model", "emoji-32"]);
    let post = |path: &str, request: Value| served.post(&format!("/sdapi/v1/{path}"), &request);
    let request = json!({ "prompt": "red heart", "negative_prompt": "blue", "width": 64, "height": 64, "cfg_scale": 3, "steps": 5,
                          "seed": 5, "batch_size": 2, "sampler_name": "DPM++ 2M", "scheduler": "karras", "eta": 1.0 });
    let answer = post("txt2img", request.clone()).is(200).json();
    let second = base64(&answer["images"][1]);
    let mut alone = request.clone();
    (alone["seed"], alone["n_iter"], alone["batch_size"]) = (6.into(), 1.into(), 1.into());
    assert_eq!(base64(&post("txt2img", alone).is(200).json()["images"][0]), second);
    // The text in the image is read by the server, and by `sample`.
    let info = post("png-info", json!({ "image": answer["images"][1] })).is(200).json();
    let text = info["info"].as_str().unwrap();
    let expected = "red heart\nNegative prompt: blue\nSteps: 5, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, \
                    Seed: 6, Size: 64x64, Model: emoji-text-64, Version: tweedie";
    assert_eq!(text, expected);
    assert_eq!(info["parameters"]["seed"], 6);
    scratch.write("a.png", &second);
    scratch.ok(&[
        "sample",
        "--model",
        "emoji-text-64",
        "--like",
        "a.png",
        "-o",
        "b.png",
        "--zoom",
        "1",
        "--singles",
        "s",
    ]);
    assert_eq!(pixels(&scratch.read("s/0000.png")), pixels(&second));
    // Without our own text, `sample` reads the other one.
    scratch.write("c.png", without_chunk(&second, b"iTXt"));
    let args = ["sample", "--model", "emoji-text-64", "--like", "c.png", "-o", "b.png", "--singles", "t"];
    scratch.ok(&args).says(&["c.png: ignoring Model: emoji-text-64, Version: tweedie"]);
    assert_eq!(pixels(&scratch.read("t/0000.png")), pixels(&second));
    // An image to start from, and a larger one.
    post("options", json!({ "sd_model_checkpoint": "emoji-32" })).is(200);
    assert_eq!(served.get("/sdapi/v1/options").is(200).json()["sd_model_checkpoint"], "emoji-32");
    let image = answer["images"][0].clone();
    let changed = json!({ "init_images": [image], "prompt": "cat-face", "cfg_scale": 1, "width": 32, "height": 32,
                          "denoising_strength": 0.5, "steps": 6 });
    assert_eq!(pixels(&base64(&post("img2img", changed).is(200).json()["images"][0])).0, 32);
    let larger = json!({ "image": image, "upscaler_1": "Lanczos", "upscaling_resize": 2 });
    assert_eq!(pixels(&base64(&post("extra-single-image", larger).is(200).json()["image"])).1, 128);
    for (path, request, status, words) in [
        (
            "txt2img",
            json!({ "sampler_name": "Magic" }),
            422,
            "unknown sampler `Magic`; expected one of DPM++ 2M",
        ),
        ("txt2img", json!({ "scheduler": "x" }), 422, "unknown scheduler"),
        ("txt2img", json!({ "tiling": true }), 422, "`tiling`: true: this server does not support it"),
        ("txt2img", json!({ "wdth": 32 }), 422, "`wdth`: 32: unknown field"),
        ("txt2img", json!({ "width": 32 }), 422, "both `width` and `height`"),
        ("txt2img", json!({ "batch_size": 9, "n_iter": 9 }), 422, "81 images"),
        ("img2img", json!({ "init_images": ["%%"] }), 422, "base 64"),
        ("img2img", json!({}), 422, "init_images"),
        ("options", json!({ "sd_vae": "x" }), 422, "only has the option"),
        ("options", json!({ "sd_model_checkpoint": "x" }), 404, "unknown model `x`"),
        ("png-info", json!({ "image": "YWJj" }), 422, "not a PNG"),
        (
            "extra-single-image",
            json!({ "image": image, "upscaler_1": "Lanczos", "upscaling_resize": 1e6 }),
            422,
            "allows",
        ),
    ] {
        let detail = post(path, request.clone()).is(status).json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{request}: {detail}");
    }
    for name in
        ["samplers", "schedulers", "upscalers", "sd-models", "loras", "embeddings", "memory", "progress"]
    {
        served.get(&format!("/sdapi/v1/{name}")).is(200);
    }
}

#[test]
fn the_openapi_document_is_complete() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let text = served.get("/openapi.json").is(200).text();
    let document: Value = serde_json::from_str(&text).unwrap();
    let schemas = &document["components"]["schemas"];
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas[name].is_object(), "{name}");
    }
    let mut names = std::collections::HashSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} of {method} {path} is also that of another operation");
            // Every path is one of the server.
            let plain = path.replace("{id}", "x").replace("{name}", "x").replace("{sha256}", "x");
            let answer = served.send(&method.to_uppercase(), &plain, &[], b"");
            let told = &operation["responses"];
            let status = answer.status.to_string();
            assert!(
                told[&status].is_object() || told["4XX"].is_object() && status.starts_with('4'),
                "{method} {path}: {status}"
            );
            assert!(!answer.text().contains("there is no `/") && answer.status != 405, "{method} {path}");
        }
    }
    // The fields of requests are those that are read, but for what other commands do.
    let elsewhere = ["refiner", "refine_from", "enlarge", "continue", "keep"];
    let error =
        serde_json::from_value::<tweedie::pipe::Request>(json!({ "unknown": 1 })).unwrap_err().to_string();
    let (_, read) = error.split_once("expected one of ").unwrap();
    let mut read: Vec<&str> =
        read.split('`').skip(1).step_by(2).filter(|name| !elsewhere.contains(name)).collect();
    read.extend(["model", "priority", "deadline"]);
    read.sort_unstable();
    let mut told: Vec<&String> = schemas["JobRequest"]["properties"].as_object().unwrap().keys().collect();
    told.sort_unstable();
    assert_eq!(told, read);
}

#[test]
fn the_page_and_its_files_are_there() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &[]);
    let page = served.get("/").is(200);
    assert!(page.header("content-security-policy").unwrap().contains("script-src 'self'"));
    let text = page.text();
    let mut open: Vec<String> =
        text.split('"').filter(|part| part.starts_with("/studio/")).map(str::to_owned).collect();
    let mut seen = Vec::new();
    while let Some(path) = open.pop() {
        if !seen.contains(&path) {
            let text = served.get(&path).is(200).text();
            // Modules import each other.
            let imports = text.split('\'').filter_map(|part| part.strip_prefix("./"));
            open.extend(imports.map(|name| format!("/studio/{name}")));
            seen.push(path);
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
    served.get("/studio/none.js").is(404);
}

#[test]
fn requests_have_loras_of_their_own() {
    let scratch = Scratch::new();
    let stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0";
    let (down, up) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
    let change = [(&*down, tensors::ramp(&[1, 96])), (&*up, tensors::ramp(&[96, 1]))];
    scratch.write("style.safetensors", tensors::file(&change));
    let served =
        Served::start(&scratch.path(""), &["--model", "emoji-text-64", "--lora", "style.safetensors"]);
    let plain = json!({ "prompt": "red heart", "seed": 4, "steps": 4, "guidance": 2 });
    let with = |loras: Value| {
        let mut request = plain.clone();
        request["loras"] = loras;
        request
    };
    // All at once: each has its own weights.
    let named = with(json!([{ "name": "style", "scale": 3 }]));
    let ids = [&plain, &named, &plain].map(|request| served.order(request));
    let files = ids.map(|id| served.results(&id).remove(0));
    let [first, changed, second] = files.each_ref().map(|file| pixels(file));
    assert!(first == second && first != changed);
    // The result says which LoRA it needs to be made again, and how strong it was.
    scratch.write("made.png", &files[1]);
    let again =
        ["sample", "-m", "emoji-text-64", "--like", "made.png", "--singles", "again", "-o", "grid.png"];
    let lacks = ["made.png: it was made with `loras/style.safetensors`", "--lora style.safetensors"];
    scratch.fails(&again, &lacks);
    scratch.ok(&[&again[..], &["--lora", "style.safetensors"]].concat());
    assert!(pixels(&scratch.read("again/0000.png")) == changed);
    let args = [
        "sample",
        "-m",
        "emoji-text-64",
        "-p",
        "red heart",
        "--seed",
        "4",
        "--steps",
        "4",
        "--guidance",
        "2",
    ];
    let more = ["--lora", "style.safetensors:3", "--singles", "s", "-o", "grid.png"];
    scratch.ok(&[&args[..], &more].concat());
    assert!(pixels(&scratch.read("s/0000.png")) == changed);
    // Uploaded, and as AUTOMATIC1111's clients name it.
    let uploaded = served.send("POST", "/v1/uploads", &[], &scratch.read("style.safetensors")).is(201).json();
    let uploaded = with(json!([{ "file": { "sha256": uploaded["sha256"] }, "scale": 3 }]));
    assert!(pixels(&served.results(&served.order(&uploaded))[0]) == changed);
    let a1111 = json!({ "prompt": "red heart <lora:style:3>", "seed": 4, "steps": 4, "cfg_scale": 2 });
    let answer = served.post("/sdapi/v1/txt2img", &a1111).is(200).json();
    assert!(pixels(&base64(&answer["images"][0])) == changed);
    assert_eq!(served.get("/sdapi/v1/loras").is(200).json()[0]["name"], "style");
    assert_eq!(served.get("/v1/limits").is(200).json()["loras"], json!(["style"]));
    let refused = served.post("/v1/jobs", &with(json!([{ "name": "other" }]))).is(400).text();
    assert!(refused.contains("unknown LoRA") && refused.contains("`style`"), "{refused}");
    let other = tensors::file(&[("unet.strange.lora_A.weight", tensors::ramp(&[1, 4]))]);
    let other = served.send("POST", "/v1/uploads", &[], &other).is(201).json();
    let refused =
        served.post("/v1/jobs", &with(json!([{ "file": { "sha256": other["sha256"] }, "scale": 1 }])));
    let refused = refused.is(400).text();
    assert!(refused.contains("strange") && !refused.contains("/inputs/"), "{refused}");
}

#[test]
fn images_are_enlarged_and_restored() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &["--model", "emoji-32"]);
    let models = served.get("/v1/models").is(200).json();
    let enlarges = |name: &str| {
        let all = models["data"].as_array().unwrap();
        all.iter().find(|model| model["id"] == name).unwrap()["enlarges"].clone()
    };
    assert_eq!((enlarges("emoji-32"), enlarges("emoji-x4")), (Value::Null, json!(4)));
    let facts = served.get("/v1/models/emoji-32").is(200).json();
    assert_eq!(
        (&facts["changes"], &facts["restores"], &facts["medium"]),
        (&json!(true), &json!(true), &json!("image"))
    );
    let id = served.order(&json!({ "seed": 1, "steps": 4, "classes": ["cat-face"] }));
    let cat = served.results(&id).remove(0);
    scratch.write("cat.png", &cat);
    let file = json!({ "sha256": served.ended(&id)["images"][0]["sha256"] });

    // As a job, and as the other API does it.
    let id = served.order(&json!({ "model": "emoji-x4", "image": file, "steps": 2 }));
    let large = pixels(&served.results(&id)[0]);
    scratch.ok(&["restore", "cat.png", "--enlarge", "4", "--steps", "2", "-o", "large.png"]);
    assert!(large == pixels(&scratch.read("large.png")) && (large.0, large.1) == (128, 128));
    let extra = |upscaler: &str, times: f64| {
        let request = json!({ "image": base64_of(&cat), "upscaler_1": upscaler, "upscaling_resize": times });
        served.post("/sdapi/v1/extra-single-image", &request)
    };
    let whole = extra("emoji-x4", 4.0).is(200).json();
    scratch.ok(&["restore", "cat.png", "--enlarge", "4", "-o", "large.png"]);
    assert!(pixels(&base64(&whole["image"])) == pixels(&scratch.read("large.png")));
    assert_eq!(whole["html_info"], "enlarged 4 times by emoji-x4");
    let half = extra("emoji-x4", 2.0).is(200).json();
    assert_eq!(pixels(&base64(&half["image"])).0, 64);
    assert_eq!(half["html_info"], "enlarged 4 times by emoji-x4, then resized to 64x64 by Lanczos");
    assert_eq!(pixels(&base64(&extra("Lanczos", 3.0).is(200).json()["image"])).0, 96);
    let refused = extra("R-ESRGAN 4x+", 4.0).is(422).text();
    assert!(refused.contains("expected one of None, Lanczos, Nearest, emoji-x4"), "{refused}");
    let upscalers = served.get("/sdapi/v1/upscalers").is(200).json();
    let last = upscalers.as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["name"], &last["scale"]), (&json!("emoji-x4"), &json!(4)));
    assert_eq!(served.get("/sdapi/v1/sd-models").is(200).json().as_array().unwrap().len(), 1);

    // What an image has lost.
    let unconditional = facts["null_class"].clone();
    let known = json!({ "image": file, "degradations": [{ "kind": "blur", "sigma": 1.5 }], "noise": 1 });
    let id = served.order(&json!({ "known": known, "classes": [unconditional], "guidance": 1, "steps": 4 }));
    scratch.ok(&["restore", "cat.png", "--deblur", "1.5", "--steps", "4", "-o", "sharp.png"]);
    assert!(pixels(&served.results(&id)[0]) == pixels(&scratch.read("sharp.png")));
    for (request, words) in [
        (json!({ "model": "emoji-x4" }), "`image`: this model enlarges an image; expected one"),
        (json!({ "model": "emoji-x4", "known": { "image": file } }), "it does not edit them"),
        (
            json!({ "known": { "image": file, "degradations": [{ "kind": "blur", "sigma": -1 }] } }),
            "expected > 0",
        ),
        (json!({ "known": { "image": file, "degradations": [{ "kind": "fog" }] } }), "unknown variant `fog`"),
        (json!({ "controls": [{ "image": file }] }), "loaded without a ControlNet"),
        (
            json!({ "controls": [{ "image": file, "net": "canny" }] }),
            "unknown ControlNet \\\"canny\\\"; expected one of: this server has none",
        ),
    ] {
        let text = served.post("/v1/jobs", &request).is(400).text();
        assert!(text.contains(words), "{request}: {text}");
    }
}

#[test]
fn texts_are_spoken_in_one_sound() {
    let scratch = Scratch::new();
    let served = Served::start(&scratch.path(""), &["--model", "spoken-digits"]);
    let asked = json!({ "model": "spoken-digits", "input": "three one, four one five nine", "voice": "theo", "seed": 1, "steps": 2 });
    let spoken = served.post("/v1/audio/speech", &asked).is(200);
    assert_eq!(spoken.header("content-type"), Some("audio/wav"));
    assert_eq!(spoken.header("x-ignored"), None);
    let args = [
        "sample",
        "-m",
        "spoken-digits",
        "-p",
        "three one, four one five nine",
        "--voice",
        "theo",
        "--seed",
        "1",
    ];
    scratch.ok(&[&args[..], &["--steps", "2", "-o", "own.wav"]].concat());
    let own = scratch.read("own.wav");
    // Both end in the same samples; what is stored with them differs.
    let samples = |wav: &[u8]| {
        let start = wav.windows(4).position(|four| four == b"data").unwrap() + 8;
        let length = u32::from_le_bytes(wav[start - 4..start].try_into().unwrap()) as usize;
        wav[start..start + length].to_vec()
    };
    assert!(samples(&spoken.body) == samples(&own));
    let mut raw = asked.clone();
    (raw["response_format"], raw["instructions"]) = ("pcm".into(), "slowly".into());
    let answer = served.post("/v1/audio/speech", &raw).is(200);
    assert!(answer.body == samples(&own));
    assert_eq!(answer.header("x-ignored"), Some("instructions"));
    // While it is made: the same samples in chunks, or in events.
    let mut streamed = asked.clone();
    streamed["stream_format"] = "audio".into();
    let chunked = served.post("/v1/audio/speech", &streamed).is(200);
    assert_eq!((chunked.header("content-type"), chunked.header("content-length")), (Some("audio/wav"), None));
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert!(chunked.body.starts_with(b"RIFF\xff\xff\xff\xff") && chunked.body[44..] == samples(&own));
    streamed["stream_format"] = "sse".into();
    streamed["response_format"] = "pcm".into();
    let mut parts = served.stream("POST", "/v1/audio/speech", &streamed);
    let done = parts.pop().unwrap();
    assert_eq!((&*done.name, &done.data["type"]), ("speech.audio.done", &json!("speech.audio.done")));
    // Four words, then the other two.
    assert_eq!(parts.len(), 2);
    assert!(parts.iter().all(|part| part.name == "speech.audio.delta"));
    let decoded = parts.iter().flat_map(|part| base64(&part.data["audio"]));
    assert!(decoded.collect::<Vec<u8>>() == samples(&own));
    streamed["loudness"] = (-16).into();
    assert!(served.post("/v1/audio/speech", &streamed).is(400).text().contains("needs the whole sound"));
    for (field, value, words) in [
        ("stream_format", json!("video"), "expected `audio` or `sse`"),
        ("input", json!("cat"), "does not know the word `cat`"),
        ("input", json!(" "), "expected a text"),
        ("voice", json!("alloy"), "expected one of"),
        ("response_format", json!("mp3"), "expected `wav` or `pcm`"),
        ("speed", json!(2), "one speed"),
        ("model", json!("tts-1"), "expected `spoken-digits`"),
    ] {
        let mut wrong = asked.clone();
        wrong[field] = value;
        let refused = served.post("/v1/audio/speech", &wrong);
        let text = refused.text();
        assert!((400..500).contains(&refused.status) && text.contains(words), "{field}: {text}");
    }
}
