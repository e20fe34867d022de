//! The OpenAI and A1111 APIs of `tweedie serve`, and its page. `benches/clients` checks the same with official clients.

use serde_json::{Value, json};

use crate::{
    common::Scratch,
    http::{Event, Served, form},
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

fn pixels(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
    let image = image::load_from_memory(bytes).unwrap().into_rgb8();
    (image.width(), image.height(), image.into_raw())
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
    let (kind, body) = form(("prompt", "food-fruit"), ("image", &results[0]));
    let edited = served.send("POST", "/v1/images/edits", &[("Content-Type", &kind)], &body).is(200).json();
    assert_eq!(pixels(&base64(&edited["data"][0]["b64_json"])).0, 40);
    for (path, request, words) in [
        ("generations", json!({ "prompt": "", "n": 0 }), "`n`: 0: expected an integer from 1 to"),
        ("generations", json!({ "prompt": "", "size": "big" }), "`size`: `big`"),
        ("generations", json!({ "prompt": "", "partial_images": 2 }), "needs `stream`"),
        ("generations", json!({ "prompt": 3 }), "`prompt`: 3: expected a text"),
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
