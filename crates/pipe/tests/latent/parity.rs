//! Images, tokens and text features compared with diffusers and transformers.

use std::{
    fs,
    ops::{ControlFlow, Range},
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::{Value, json};
use tweedie_hub::{ClipTokenizer, Lora, Model, SafetensorsFile, weights};
use tweedie_models::{HostTensor, TensorSource};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{
    Event, Inputs, Media, NoiseOfRows, Pipeline, RecordedFile, Refinement, Request,
    known::{Known, MaskSpec},
};

use super::{common::noise, control_picture, copy, folder, folder_in, golden, load, picture, run};

/// Relative to the images' root mean square, after all steps and the decoder.
const TOLERANCE: f64 = 1e-3;

fn request(file: &SafetensorsFile) -> (Request, HostTensor) {
    let request = serde_json::from_str(&file.metadata()["request"]).unwrap();
    let shape: Vec<usize> = serde_json::from_str(&file.metadata()["latents"]).unwrap();
    let count = shape.iter().product();
    let values = noise("latents", count).map(|u| (3f64.sqrt() * u) as f32).collect();
    (request, HostTensor { shape, values })
}

/// The noise on the small image; there is no other.
struct SmallNoise;

impl NoiseOfRows for SmallNoise {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, _: u64, device: &Device) -> Batch {
        let values = noise("small", rows.len() * shape.len()).map(|u| (3f64.sqrt() * u) as f32).collect();
        Batch::from_host(values, rows.len(), shape, device)
    }
}

/// The noise of the stages of DALL·E 2, by the shape of their samples.
struct StageNoise;

impl NoiseOfRows for StageNoise {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        let stage = match shape.axes() {
            [] => "prior",
            [8, _] => "decoder",
            _ => "enlarger",
        };
        let name = match draw >> 63 {
            0 => format!("{stage} {}", draw & 0xffff_ffff),
            _ => format!("{stage} start"),
        };
        let values = noise(&name, rows.end * shape.len()).skip(rows.start * shape.len());
        let values = values.map(|u| (3f64.sqrt() * u) as f32).collect();
        Batch::from_host(values, rows.len(), shape, device)
    }
}

/// The largest difference from diffusers' images, relative to their RMS.
fn difference(name: &str, precision: weights::Precision) -> f64 {
    let dir = folder_in(name, precision);
    let answer = SafetensorsFile::open(&golden().join(name).join("answer.safetensors")).unwrap();
    let (request, latents) = request(&answer);
    // The arguments of `set_adapters`.
    let loras = match dir.path().join("lora.safetensors") {
        file if file.exists() => vec![Lora::open(&file, 0.4).unwrap()],
        _ => Vec::new(),
    };
    let device = Device::flex();
    let mut model = Model::load_with(dir.path(), &loras, &device).unwrap();
    if name == "learned" {
        model.learn(&dir.path().join("learned.safetensors"), Some("<thing>")).unwrap();
    }
    let pipeline = Pipeline::of(model, &device);
    let mut request = request;
    let latents_size = latents.shape.get(2..).unwrap_or_default().to_vec();
    let mut inputs = Inputs { noise: Some(latents), ..Inputs::default() };
    for (i, control) in request.controls.iter_mut().enumerate() {
        let path = dir.path().join(&control.image.path);
        control_picture(2 * latents_size[0], 2 * latents_size[1], i).save_png(&path).unwrap();
        control.image = RecordedFile::of(&path).unwrap();
    }
    match name {
        "img2img" | "controlnet_img2img" | "refiner" => inputs.image = Some(picture(16)),
        "inpaint" | "sdxl_inpaint" | "controlnet_inpaint" => {
            let path = dir.path().join("image.png");
            picture(16).save_png(&path).unwrap();
            let mask = MaskSpec { rectangles: vec![[4, 3, 10, 8]], ..MaskSpec::default() };
            request.known = Some(Known {
                image: RecordedFile::of(&path).unwrap(),
                mask: Some(mask),
                degradations: Vec::new(),
                noise: 0.0,
                method: None,
            });
        }
        "variation" => {
            let draws = Some(Arc::new(StageNoise) as _);
            inputs = Inputs { draws, image: Some(picture(16)), ..Inputs::default() };
        }
        "unclip" => inputs = Inputs { draws: Some(Arc::new(StageNoise)), ..Inputs::default() },
        "ldm_upscale" => inputs.small = Inputs::enlarging(&[picture(32)]).unwrap().small,
        "latent_upscale" => {
            inputs.small = Inputs::enlarging(&[picture(16)]).unwrap().small;
            inputs.draws = Some(Arc::new(SmallNoise));
        }
        "upscale" => {
            inputs.small = Inputs::enlarging(&[picture(8)]).unwrap().small;
            inputs.draws = Some(Arc::new(SmallNoise));
        }
        "svd" => {
            inputs.image = Some(control_picture(16, 24, 0));
            inputs.draws = Some(Arc::new(SmallNoise));
        }
        "wan_image" => inputs.image = Some(control_picture(16, 32, 0)),
        _ => {}
    }
    let job = pipeline.prepare_with(&request, inputs).unwrap();
    let output = job.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(())).unwrap();
    let expected = answer.read("pictures").unwrap();
    match &output.media {
        Media::Clips(clips) => assert_eq!(clips[0].frames.len(), expected.shape[2], "{name}"),
        _ => assert_eq!(output.images.len(), expected.shape[0], "{name}"),
    }
    let worst = worst(&expected, &output.tensors);
    eprintln!("{name}: {worst:.1e} of RMS");
    worst
}

/// The largest difference, relative to the RMS of what is expected.
fn worst(expected: &HostTensor, found: &HostTensor) -> f64 {
    assert_eq!(found.shape, expected.shape);
    let square: f64 = expected.values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let rms = (square / expected.values.len() as f64).sqrt();
    let each = expected.values.iter().zip(&found.values);
    each.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / rms
}

#[test]
fn pictures_are_those_of_diffusers() {
    let mut wrong = Vec::new();
    for name in [
        "sd1",
        "sd2",
        "sdxl",
        "sdxl_skip",
        "distilled",
        "img2img",
        "inpaint",
        "sdxl_inpaint",
        "upscale",
        "latent_upscale",
        "unclip",
        "variation",
        "controlnet",
        "controlnets_guess",
        "controlnet_sdxl",
        "controlnet_img2img",
        "controlnet_inpaint",
        "t2i",
        "t2i_pair",
        "t2i_sdxl",
        "refiner",
        "ldm_upscale",
        "lora",
        "learned",
        "dit",
        "ldm",
        "video",
        "motion",
        "svd",
        "wan",
        "wan_image",
    ] {
        let worst = difference(name, weights::Precision::F32);
        if worst.is_nan() || worst >= TOLERANCE {
            wrong.push(format!("{name} differs by {worst:.1e} of RMS"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// SDXL begins and its refiner ends, as with diffusers' `denoising_end` and `denoising_start`.
#[test]
fn a_refiner_makes_the_last_steps() {
    let (base, refiner) = (folder("sdxl"), folder("refiner"));
    // The refiner decodes, here with the autoencoder of both.
    fs::remove_dir_all(refiner.path().join("vae")).unwrap();
    copy(&base.path().join("vae"), &refiner.path().join("vae"));
    let other = folder("refiner");
    let answer = SafetensorsFile::open(&golden().join("refined/answer.safetensors")).unwrap();
    let (request, latents) = request(&answer);
    let (base, refiner) = (load(base.path()).unwrap(), load(refiner.path()).unwrap());
    let inputs = Inputs { noise: Some(latents), ..Inputs::default() };
    let both = Refinement::prepare_with(&base, &refiner, &request, inputs).unwrap();
    assert_eq!(both.steps(), 10);
    let mut seen = Vec::new();
    let output = both
        .run(&AtomicBool::new(false), &mut |event| {
            if let Event::Step { index, of, .. } = event {
                seen.push((index, of));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, (1..=10).map(|i| (i, 10)).collect::<Vec<_>>());
    let worst = worst(&answer.read("pictures").unwrap(), &output.tensors);
    eprintln!("refined: {worst:.1e} of RMS");
    assert!(worst < TOLERANCE, "{worst}");

    let fails = |change: &dyn Fn(&mut Request), words: &[&str]| {
        let mut request = request.clone();
        change(&mut request);
        let error = Refinement::prepare(&base, &refiner, &request).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    fails(&|r| r.refine_from = Some(1.0), &["`refine_from`", "< 1"]);
    fails(&|r| r.refine_from = Some(0.999), &["`refine_from`", "none of the 10 steps", "refiner"]);
    fails(&|r| r.aesthetic_score = Some(f64::NAN), &["`aesthetic_score`", "finite"]);
    // Another schedule has other noise levels.
    let file = other.path().join("scheduler/scheduler_config.json");
    let schedule = fs::read_to_string(&file).unwrap().replace("0.012", "0.02");
    fs::write(&file, schedule).unwrap();
    let error = Refinement::prepare(&base, &load(other.path()).unwrap(), &request).err().unwrap().to_string();
    assert!(error.contains("`refiner`") && error.contains("same schedule"), "{error}");
    let error = base.prepare(&request).err().unwrap().to_string();
    assert!(error.contains("`refine") && error.contains("last steps"), "{error}");
    let scored = Request { refine_from: None, ..request };
    let error = base.prepare(&scored).err().unwrap().to_string();
    assert!(error.contains("`aesthetic_score`") && error.contains("refiners"), "{error}");
}

#[test]
fn networks_compute_in_bf16_and_in_eight_bits() {
    let request = |name: &str, precision: &str| -> Request {
        let mut keys = json!({"steps": 4, "count": 2, "seed": 3, "precision": precision});
        match name {
            "sd1" => keys["prompt"] = "cat".into(),
            "dit" => keys["classes"] = json!([0, 1]),
            _ => {}
        }
        serde_json::from_value(keys).unwrap()
    };
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|d| d * d).sum::<f32>().sqrt();
    // All layers of this transformer are too narrow for 8 bits.
    for (name, precisions) in [("sd1", &["bf16", "int8"][..]), ("ldm", &["bf16", "int8"]), ("dit", &["bf16"])]
    {
        let pipeline = load(folder(name).path()).unwrap();
        let sample = |p: &str| run(&pipeline, &request(name, p), None, None).unwrap().tensors.values;
        let f32s = sample("f32");
        for precision in precisions {
            let other = sample(precision);
            let off =
                norm(&mut f32s.iter().zip(&other).map(|(a, b)| a - b)) / norm(&mut f32s.iter().copied());
            eprintln!("{name}: {precision} off by {off:.1e} of RMS");
            assert!(off > 0.0 && off < 0.1, "{name}, {precision}: {off}");
        }
    }
}

#[test]
fn half_precision_is_read() {
    let worst = difference("sdxl", weights::Precision::F16);
    assert!(worst > 0.0 && worst < 0.1, "{worst}");
}

#[test]
fn tokens_are_those_of_transformers() {
    let data: Value =
        serde_json::from_str(&fs::read_to_string(golden().join("tokens.json")).unwrap()).unwrap();
    for form in ["tokenizer", "tokenizer_files"] {
        let tokenizer = ClipTokenizer::open(&golden().join(form)).unwrap();
        // In files `!` fills texts up, and so is no word of them.
        let ids = if form == "tokenizer" { "input_ids" } else { "padded_ids" };
        for (text, ids) in data["texts"].as_array().unwrap().iter().zip(data[ids].as_array().unwrap()) {
            let mut found = vec![tokenizer.begin];
            found.extend(tokenizer.encode(text.as_str().unwrap()));
            found.push(tokenizer.end);
            assert_eq!(json!(found), *ids, "{form}: {text}");
        }
        let exclamation = tokenizer.encode("!").len();
        assert_eq!((tokenizer.pad == tokenizer.end, exclamation), (form == "tokenizer", 1));
    }
}

/// `make_latent_pipelines.py` has the formulas.
#[test]
fn weighted_words_are_those_of_each_convention() {
    let answer = SafetensorsFile::open(&golden().join("weighted.safetensors")).unwrap();
    let pipeline = load(folder("sd1").path()).unwrap();
    let features = |prompt: &str, weights: Option<&str>| {
        let request = json!({"prompt": prompt, "prompt_weights": weights, "guidance": 1});
        let job = pipeline.prepare(&serde_json::from_value(request).unwrap()).unwrap();
        tweedie_ops::to_host(job.conditions(0..1).text().unwrap().clone())
    };
    let weighted = "a photo of the (cat:1.3) with (red hat:0.6) on hills";
    let plain = "a photo of the cat with red hat on hills";
    for (name, found) in [
        ("plain", features(plain, None)),
        ("comfyui", features(weighted, None)),
        ("comfyui", features(weighted, Some("comfyui"))),
        ("a1111", features(weighted, Some("a1111"))),
        ("a1111-no-norm", features(weighted, Some("a1111-no-norm"))),
    ] {
        let expected = answer.read(name).unwrap().values;
        let rms = (expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32).sqrt();
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / rms;
        assert!(worst < 1e-4, "{name}: {worst}");
    }
    // Only what is weighted moves, and weights of 1 move nothing.
    let (found, plain) = (features(weighted, None), features(plain, None));
    assert_eq!(found[..5 * 24], plain[..5 * 24]);
    assert_eq!(features("a photo of the (cat:1) with red hat on hills", None), plain);
}
