//! Whole latent pipelines compared with diffusers, and rejected requests. `golden/latent` documents how its folders were
//! made.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../models/tests/common/mod.rs"]
mod common;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use burn::module::Module;
use common::{noise, weight};
use serde_json::{Value, json};
use tempfile::TempDir;
use tweedie_hub::{ClipTokenizer, LatentModel, Lora, SafetensorsFile, weights};
use tweedie_models::{
    Autoencoder, AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig, ClipTextConfig,
    ClipTextModel, DitConfig, DitTransformer, HostTensor, TensorSource, UNet2DConditionConfig,
    UNet2DConditionModel, UNet2DConfig, UNet2DModel, params,
};
use tweedie_ops::Device;
use tweedie_pipe::{Image, LatentPipeline, Output, PipelineError, Request};

/// Relative to the images' root mean square, after all steps and the decoder.
const TOLERANCE: f64 = 1e-3;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/latent")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn formula<M: Module>(model: &M) -> std::collections::BTreeMap<String, HostTensor> {
    params::shapes(model).iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect()
}

/// Writes the weights of the component in `dir`.
fn fill(dir: &Path, precision: weights::Precision) {
    let text = fs::read_to_string(dir.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let device = Device::flex();
    let (stem, tensors) = match config["_class_name"].as_str() {
        Some("AutoencoderKL") => {
            let config = AutoencoderKlConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&AutoencoderKl::new(&config, 0, &device).unwrap()))
        }
        Some("AutoencoderTiny") => {
            let config = AutoencoderTinyConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&AutoencoderTiny::new(&config, 0, &device).unwrap()))
        }
        Some("UNet2DConditionModel") => {
            let config = UNet2DConditionConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&UNet2DConditionModel::new(&config, 0, &device).unwrap()))
        }
        Some("UNet2DModel") => {
            let config = UNet2DConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&UNet2DModel::new(&config, 0, &device).unwrap()))
        }
        Some("DiTTransformer2DModel") => {
            let config = DitConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&DitTransformer::new(&config, 0, &device).unwrap()))
        }
        _ => {
            let config = ClipTextConfig::from_json(&text).unwrap();
            ("model", formula(&ClipTextModel::new(&config, 0, &device).unwrap()))
        }
    };
    let half = if precision == weights::Precision::F32 { "" } else { ".fp16" };
    let file = dir.join(format!("{stem}{half}.safetensors"));
    weights::write(&file, &tensors, precision, &Default::default()).unwrap();
}

/// The golden folder `name` with weights and tokenizers.
fn folder_in(name: &str, precision: weights::Precision) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden().join(name), dir.path());
    let index: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("model_index.json")).unwrap()).unwrap();
    for (key, value) in index.as_object().unwrap() {
        if key.starts_with("tokenizer") {
            // One that fills texts up with `!`.
            let padded = name == "sdxl_skip" && key == "tokenizer_2";
            let from = if padded { "tokenizer_files" } else { "tokenizer" };
            copy(&golden().join(from), &dir.path().join(key));
        } else if value.is_array() && dir.path().join(key).join("config.json").exists() {
            fill(&dir.path().join(key), precision);
        }
    }
    dir
}

fn folder(name: &str) -> TempDir {
    folder_in(name, weights::Precision::F32)
}

fn load(dir: &Path) -> Result<LatentPipeline, PipelineError> {
    LatentPipeline::load(dir, &Device::flex())
}

fn run(
    pipeline: &LatentPipeline,
    request: &Request,
    latents: Option<&HostTensor>,
    image: Option<&Image>,
) -> Result<Output, PipelineError> {
    let never = AtomicBool::new(false);
    pipeline.run_from(request, latents, image, &never, &mut |_| ControlFlow::Continue(()))
}

fn picture(size: usize) -> Image {
    let mut image = Image::filled(size, size, tweedie_data::Rgb([0, 0, 0]));
    image.pixels.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 37 % 256) as u8);
    image
}

fn request(file: &SafetensorsFile) -> (Request, HostTensor) {
    let request = serde_json::from_str(&file.metadata()["request"]).unwrap();
    let shape: Vec<usize> = serde_json::from_str(&file.metadata()["latents"]).unwrap();
    let count = shape.iter().product();
    let values = noise("latents", count).map(|u| (3f64.sqrt() * u) as f32).collect();
    (request, HostTensor { shape, values })
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
    let pipeline = LatentPipeline::load_with(dir.path(), &loras, &Device::flex()).unwrap();
    let image = (name == "img2img").then(|| picture(16));
    let output = run(&pipeline, &request, Some(&latents), image.as_ref()).unwrap();
    let expected = answer.read("pictures").unwrap();
    assert_eq!(output.tensors.shape, expected.shape, "{name}");
    assert_eq!(output.images.len(), expected.shape[0], "{name}");
    let square: f64 = expected.values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let rms = (square / expected.values.len() as f64).sqrt();
    let each = expected.values.iter().zip(&output.tensors.values);
    let worst = each.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / rms;
    eprintln!("{name}: {worst:.1e} of RMS");
    worst
}

#[test]
fn pictures_are_those_of_diffusers() {
    let mut wrong = Vec::new();
    for name in ["sd1", "sd2", "sdxl", "sdxl_skip", "distilled", "img2img", "lora", "dit", "ldm"] {
        let worst = difference(name, weights::Precision::F32);
        if worst.is_nan() || worst >= TOLERANCE {
            wrong.push(format!("{name} differs by {worst:.1e} of RMS"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
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
        let plan = pipeline.resolve(&serde_json::from_value(request).unwrap(), false).unwrap();
        plan.condition(0..1).text.unwrap().into_data().iter::<f32>().collect::<Vec<_>>()
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

#[test]
fn every_variant_of_weights_is_found() {
    let dir = folder_in("sd1", weights::Precision::F16);
    let halves = load(dir.path()).unwrap();
    // Beside them those without a variant come first, and another that only one component has.
    for part in ["vae", "unet", "text_encoder"] {
        fill(&dir.path().join(part), weights::Precision::F32);
    }
    let (unet, stem) = (dir.path().join("unet"), "diffusion_pytorch_model");
    let (plain, other) =
        (unet.join(format!("{stem}.safetensors")), unet.join(format!("{stem}.non_ema.safetensors")));
    fs::copy(&plain, &other).unwrap();
    let wholes = two_steps(&load(dir.path()).unwrap(), "sd1");
    assert_ne!(wholes, two_steps(&halves, "sd1"));
    let variant = |name: &str| LatentModel::load_variant(dir.path(), Some(name), &[], &Device::flex());
    let pictures = |model| two_steps(&LatentPipeline::of(model, &Device::flex()), "sd1");
    let half = variant("fp16").unwrap();
    assert!(half.remarks.is_empty());
    assert_eq!(pictures(half), two_steps(&halves, "sd1"));
    let mixed = variant("non_ema").unwrap();
    assert_eq!(mixed.remarks.len(), 2, "{:?}", mixed.remarks);
    assert!(mixed.remarks.iter().all(|remark| remark.contains("non_ema")), "{:?}", mixed.remarks);
    assert_eq!(pictures(mixed), wholes);
    let error = variant("bf16").err().unwrap().to_string();
    assert!(error.contains("no component") && error.contains("`bf16`"), "{error}");
    // In shards, as diffusers names them.
    let half = unet.join(format!("{stem}.fp16.safetensors"));
    let names = SafetensorsFile::open(&half).unwrap().names();
    let shard = format!("{stem}.fp16-00001-of-00001.safetensors");
    let map: serde_json::Map<_, _> = names.into_iter().map(|n| (n, json!(shard))).collect();
    fs::write(
        unet.join(format!("{stem}.safetensors.index.fp16.json")),
        json!({"weight_map": map}).to_string(),
    )
    .unwrap();
    fs::rename(&half, unet.join(shard)).unwrap();
    assert_eq!(pictures(variant("fp16").unwrap()), two_steps(&halves, "sd1"));
}

#[test]
fn a_network_that_is_told_the_guidance_follows_it() {
    let dir = folder("distilled");
    let pipeline = load(dir.path()).unwrap();
    let make = |guidance: f64| {
        let request = json!({"prompt": "red hat", "guidance": guidance, "steps": 2, "seed": 5});
        run(&pipeline, &serde_json::from_value(request).unwrap(), None, None).unwrap()
    };
    assert_ne!(make(2.0).tensors, make(8.0).tensors);
    // Its rows are not doubled, and 1 and less are none.
    assert_eq!(make(0.5).tensors, make(1.0).tensors);
    for (field, value) in [("negative_prompt", json!("dog")), ("guidance_rescale", json!(0.5))] {
        let mut request = json!({"prompt": "red hat"});
        request[field] = value;
        let error = run(&pipeline, &serde_json::from_value(request).unwrap(), None, None).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn rows_are_the_same_in_every_batch_and_prompts_matter() {
    let dir = folder("sd1");
    let pipeline = load(dir.path()).unwrap();
    let told = |count: usize, prompt: Value, chunk: usize| {
        let text = json!({"count": count, "prompt": prompt, "steps": 2, "seed": 3, "chunk": chunk});
        run(&pipeline, &serde_json::from_value(text).unwrap(), None, None).unwrap().tensors.values
    };
    let make = |count: usize, prompt: &str, chunk: usize| told(count, json!(prompt), chunk);
    let two = make(2, "red hat", 4);
    assert_eq!(two[..two.len() / 2], make(1, "red hat", 4));
    assert_eq!(two, make(2, "red hat", 1));
    assert_ne!(two, make(2, "blue hat", 4));
    assert_ne!(two, make(2, "(red:1.4) hat", 4));
    assert_eq!(two, make(2, "(red:1.0) hat", 4));
    // Longer than the 75 tokens that one chunk holds.
    let long = "cat ".repeat(90);
    assert_ne!(make(1, &long, 4), make(1, &"cat ".repeat(75), 4));
    // Prompts are used in turn; a long one does not affect the others.
    let half = two.len() / 2;
    for other in ["blue hat", &long] {
        let both = told(2, json!(["red hat", other]), 4);
        assert_eq!(both[..half], two[..half]);
        assert_eq!(both[half..], make(2, other, 4)[half..]);
    }
}

/// Images of two steps.
fn two_steps(pipeline: &LatentPipeline, name: &str) -> Vec<f32> {
    let request = match name {
        "dit" => json!({"classes": [1], "steps": 2}),
        "ldm" => json!({"steps": 2}),
        _ => json!({"prompt": "a red hat", "steps": 2, "seed": 5}),
    };
    run(pipeline, &serde_json::from_value(request).unwrap(), None, None).unwrap().tensors.values
}

#[test]
fn every_pipeline_is_written_as_it_was_read() {
    let json = |file: &Path| -> Value { serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap() };
    for name in ["sd1", "sd2", "sdxl", "lora", "dit", "ldm"] {
        let dir = folder(name);
        let loras = match name {
            "lora" => vec![Lora::open(&dir.path().join("lora.safetensors"), 0.4).unwrap()],
            _ => Vec::new(),
        };
        let pipeline = LatentPipeline::load_with(dir.path(), &loras, &Device::flex()).unwrap();
        let written = tempfile::tempdir().unwrap();
        let out = written.path().join("out");
        pipeline.model().save(&out, weights::Precision::F32).unwrap();
        let index = "model_index.json";
        assert_eq!(json(&out.join(index)), json(&dir.path().join(index)), "{name}");
        // Everything that diffusers wrote is written again. The padding is the tokenizer's.
        for part in ["vae", "vqvae", "unet", "transformer", "text_encoder", "text_encoder_2"] {
            let file = format!("{part}/config.json");
            if !dir.path().join(&file).exists() {
                assert!(!out.join(&file).exists(), "{name}: {file}");
                continue;
            }
            let (ours, theirs) = (json(&out.join(&file)), json(&dir.path().join(&file)));
            let told = ours.as_object().unwrap().iter().filter(|(key, _)| *key != "pad_token_id");
            for (key, value) in told {
                let expected = theirs.get(key).unwrap_or(value);
                let same = match (value.as_f64(), expected.as_f64()) {
                    (Some(a), Some(b)) => a == b,
                    _ => value == expected,
                };
                assert!(same, "{name}: {file}: {key}: {value} {expected}");
            }
        }
        // The LoRA is now part of the weights.
        let again = load(&out).unwrap();
        assert_eq!(two_steps(&again, name), two_steps(&pipeline, name), "{name}");
        let scheduler = |pipeline: &LatentPipeline| pipeline.model().scheduler.to_json();
        assert_eq!(scheduler(&again), scheduler(&pipeline));
        let (labels, expected) = (&again.model().class_names, &pipeline.model().class_names);
        assert_eq!(labels, expected);

        again.model().save(&out, weights::Precision::BF16).unwrap();
        let (half, whole) = (two_steps(&load(&out).unwrap(), name), two_steps(&pipeline, name));
        let off = half.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off > 0.0 && off < 1.0, "{name}: {off}");
        assert_eq!(fs::read_dir(written.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_tiny_autoencoder_is_written_too_and_a_failure_leaves_what_was_there() {
    let dir = folder("ldm");
    let vqvae = dir.path().join("vqvae");
    fs::remove_dir_all(&vqvae).unwrap();
    fs::create_dir(&vqvae).unwrap();
    let own: Value =
        serde_json::from_str(&fs::read_to_string(golden().join("ldm/vqvae/config.json")).unwrap()).unwrap();
    let config = json!({
        "_class_name": "AutoencoderTiny", "latent_channels": own["latent_channels"],
        "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1], "scaling_factor": 0.5, "shift_factor": 0.25,
    });
    fs::write(vqvae.join("config.json"), config.to_string()).unwrap();
    fill(&vqvae, weights::Precision::F32);
    let pipeline = load(dir.path()).unwrap();
    let out = dir.path().join("out");
    pipeline.model().save(&out, weights::Precision::F32).unwrap();
    let index = fs::read_to_string(out.join("model_index.json")).unwrap();
    assert!(index.contains("AutoencoderTiny"), "{index}");
    assert_eq!(two_steps(&load(&out).unwrap(), "ldm"), two_steps(&pipeline, "ldm"));

    // A weight that is too large for half precision.
    let file = vqvae.join("diffusion_pytorch_model.safetensors");
    let mut tensors: std::collections::BTreeMap<_, _> = {
        let read = SafetensorsFile::open(&file).unwrap();
        read.names().into_iter().map(|n| (n.clone(), read.read(&n).unwrap())).collect()
    };
    tensors.values_mut().next().unwrap().values[0] = 1e6;
    weights::write(&file, &tensors, weights::Precision::F32, &Default::default()).unwrap();
    let error =
        load(dir.path()).unwrap().model().save(&out, weights::Precision::F16).unwrap_err().to_string();
    assert!(error.contains("too large for F16") && error.contains("out/vqvae"), "{error}");
    assert_eq!(two_steps(&load(&out).unwrap(), "ldm"), two_steps(&pipeline, "ldm"));
}

#[test]
fn pictures_that_are_not_square_are_encoded_and_decoded_in_tiles() {
    let dir = folder("sd1");
    let pipeline = load(dir.path()).unwrap();
    assert_eq!(pipeline.size_like([300, 300]), Some([16, 16]));
    // Multiples of 4: the autoencoder's 2 times the U-Net's.
    assert_eq!(pipeline.size_like([300, 700]), Some([12, 24]));
    assert_eq!(pipeline.size_like([10_000, 1]), Some([64, 4]));
    let mut image = Image::filled(48, 32, tweedie_data::Rgb([0, 0, 0]));
    image.pixels.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 37 % 256) as u8);
    let make = |tile: Option<usize>| {
        let text = json!({"prompt": "cat", "steps": 4, "strength": 0.25, "size": [32, 48], "vae_tile": tile});
        run(&pipeline, &serde_json::from_value(text).unwrap(), None, Some(&image)).unwrap().tensors
    };
    let (whole, tiled) = (make(None), make(Some(16)));
    assert_eq!((whole.shape.as_slice(), tiled.shape.as_slice()), (&[1, 3, 32, 48][..], &[1, 3, 32, 48][..]));
    let rms = |v: &[f32]| (v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32).sqrt();
    let off: Vec<f32> = whole.values.iter().zip(&tiled.values).map(|(a, b)| a - b).collect();
    assert!(rms(&off) > 0.0 && rms(&off) < rms(&whole.values), "{} {}", rms(&off), rms(&whole.values));
    // Whole if the tile is as large as the image.
    assert_eq!(make(Some(48)), whole);
}

#[test]
fn moments_are_decoded_by_the_models_own_autoencoder_or_another() {
    let dir = folder("sd1");
    let pipeline = load(dir.path()).unwrap();
    let config = |channels: usize| {
        let text = json!({"latent_channels": channels, "encoder_block_out_channels": [8, 8],
            "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]});
        AutoencoderTinyConfig::from_json(&text.to_string()).unwrap()
    };
    let tiny = |channels| {
        Autoencoder::Tiny(Box::new(AutoencoderTiny::new(&config(channels), 0, &Device::flex()).unwrap()))
    };
    let latents = HostTensor { shape: vec![2, 4, 8, 4], values: vec![0.5; 2 * 4 * 8 * 4] };
    for small in [None, Some(tiny(4))] {
        let pictures = pipeline.pictures(&latents, small.as_ref()).unwrap();
        assert_eq!(pictures.len(), 2);
        assert_eq!((pictures[0].height, pictures[0].width), (16, 8));
    }
    let error = pipeline.pictures(&latents, Some(&tiny(16))).unwrap_err().to_string();
    assert!(error.contains("16 channels") && error.contains("4"), "{error}");
}

/// Makes one value of a weight of the component `part` not finite.
fn break_weight(dir: &Path, part: &str, name: &str) {
    let stem = if part.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
    let file = dir.join(part).join(format!("{stem}.safetensors"));
    let mut tensors: std::collections::BTreeMap<_, _> = {
        let read = SafetensorsFile::open(&file).unwrap();
        read.names().into_iter().map(|n| (n.clone(), read.read(&n).unwrap())).collect()
    };
    tensors.get_mut(name).unwrap().values[0] = f32::NAN;
    weights::write(&file, &tensors, weights::Precision::F32, &Default::default()).unwrap();
}

#[test]
fn a_weight_that_is_not_finite_is_named_with_its_component() {
    let norm = "text_model.final_layer_norm.bias";
    for (part, weight, image) in [
        ("vae", "decoder.conv_out.bias", false),
        ("vae", "encoder.conv_in.bias", true),
        ("text_encoder_2", norm, false),
        ("text_encoder", "text_model.embeddings.position_embedding.weight", false),
        ("unet", "conv_out.bias", false),
    ] {
        let dir = folder("sdxl");
        break_weight(dir.path(), part, weight);
        let pipeline = load(dir.path()).unwrap();
        let request = json!({"prompt": "red hat", "steps": 2, "strength": image.then_some(0.5)});
        let image = image.then(|| picture(16));
        let result = run(&pipeline, &serde_json::from_value(request).unwrap(), None, image.as_ref());
        let error = result.err().unwrap_or_else(|| panic!("{part} {weight}")).to_string();
        let named = part == "unet" || error.contains(&format!("`{part}`"));
        assert!(named && error.contains("not finite") && error.contains(weight), "{error}");
        // Nor is it written.
        let error = pipeline.model().save(&dir.path().join("out"), weights::Precision::F32).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(part) && error.contains(weight) && error.contains("not finite"), "{error}");
        assert!(!dir.path().join("out").exists());
    }
}

/// As in diffusers; the picture of the golden folder `sd2` is one of guidance 1.
#[test]
fn guidance_of_one_and_less_is_none() {
    for (name, what) in [("sd2", json!({"prompt": "red hat"})), ("dit", json!({"classes": [1]}))] {
        let pipeline = load(folder(name).path()).unwrap();
        let make = |guidance: f64, solver: Option<&str>| {
            let mut request = what.clone();
            request["guidance"] = json!(guidance);
            request["solver"] = json!(solver);
            request["steps"] = json!(3);
            run(&pipeline, &serde_json::from_value(request).unwrap(), None, None).unwrap().tensors.values
        };
        let plain = make(1.0, None);
        assert_eq!(make(0.0, None), plain, "{name}");
        assert_eq!(make(0.7, None), plain, "{name}");
        assert_ne!(make(1.5, None), plain, "{name}");
        assert_ne!(make(0.0, Some("cfgpp")), make(0.7, Some("cfgpp")), "{name}");
    }
    let ldm = load(folder("ldm").path()).unwrap();
    let request = serde_json::from_value(json!({"guidance": 0.5, "steps": 2})).unwrap();
    assert_eq!(run(&ldm, &request, None, None).unwrap().tensors.values, two_steps(&ldm, "ldm"));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let (sd, dit, ldm) = (folder("sd1"), folder("dit"), folder("ldm"));
    let (sd, dit, ldm) = (load(sd.path()).unwrap(), load(dit.path()).unwrap(), load(ldm.path()).unwrap());
    let long = "cat ".repeat(2500);
    for (pipeline, request, words) in [
        (&sd, json!({}), &["`prompt`"][..]),
        (&sd, json!({"prompt": long}), &["`prompt`", "2500 tokens", "1200"]),
        (&sd, json!({"prompt": "x".repeat(100_000)}), &["`prompt`", "bytes"]),
        (&sd, json!({"prompt": "(cat:200)"}), &["`prompt`", "200"]),
        (&sd, json!({"prompt": "cat", "negative_prompt": long}), &["`negative_prompt`"]),
        (&sd, json!({"prompt": "cat", "size": [16, 17]}), &["`size`", "16×17", "multiples of 2"]),
        (&sd, json!({"prompt": "cat", "size": [0, 16]}), &["`size`"]),
        (&sd, json!({"prompt": "cat", "clip_skip": 9}), &["`clip_skip`", "3"]),
        (&sd, json!({"prompt": "cat", "strength": 0.5}), &["`strength`", "initial image"]),
        (&sd, json!({"prompt": "cat", "guidance_rescale": 2}), &["`guidance_rescale`"]),
        (&sd, json!({"prompt": "cat", "dynamic_threshold": 0}), &["`dynamic_threshold`", "> 0"]),
        (&sd, json!({"prompt": "cat", "classes": [1]}), &["`classes`"]),
        (&sd, json!({"prompt": "cat", "guidance": -1}), &["`guidance`", "≥ 0"]),
        (
            &sd,
            json!({"prompt": "cat", "solver": "cfgpp"}),
            &["`guidance`", "7.5 (the model's default)", "0..=1"],
        ),
        (
            &sd,
            json!({"prompt": "cat", "guidance": 1, "negative_prompt": "dog"}),
            &["`negative_prompt`", "guidance"],
        ),
        (
            &sd,
            json!({"prompt": "cat", "guidance": 0, "guidance_rescale": 0.7}),
            &["`guidance_rescale`", "guidance"],
        ),
        (&dit, json!({"prompt": "cat"}), &["`prompt`", "not support prompts"]),
        (&dit, json!({"classes": [1000]}), &["`classes`", "999"]),
        (&dit, json!({"classes": [1], "size": [32, 32]}), &["`size`"]),
        (&ldm, json!({"guidance": 2}), &["`guidance`"]),
    ] {
        let text = request.to_string();
        let error = run(pipeline, &serde_json::from_value(request).unwrap(), None, None).unwrap_err();
        let error = error.to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{}: {error}", &text[..text.len().min(80)]);
    }
    let request = serde_json::from_value(json!({"prompt": "cat", "steps": 5, "strength": 0.1})).unwrap();
    let error = run(&sd, &request, None, Some(&picture(16))).unwrap_err().to_string();
    assert!(error.contains("`strength`"), "{error}");
    let request = serde_json::from_value(json!({"prompt": "cat"})).unwrap();
    let error = run(&sd, &request, None, Some(&picture(24))).unwrap_err().to_string();
    assert!(error.contains("`image`") && error.contains("24×24"), "{error}");
    let named = serde_json::from_value(json!({"classes": ["Name 2", "thing 0"], "count": 3, "steps": 1}));
    assert_eq!(run(&dit, &named.unwrap(), None, None).unwrap().classes.unwrap(), [2, 0, 2]);
}

#[test]
fn folders_that_are_not_whole_are_refused() {
    let damage = |name: &str, damage: &dyn Fn(&Path)| {
        let dir = folder(name);
        damage(dir.path());
        load(dir.path()).err().unwrap().to_string()
    };
    let edit = |file: &Path, change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        change(&mut value);
        fs::write(file, value.to_string()).unwrap();
    };
    let index =
        |change: &'static dyn Fn(&mut Value)| move |dir: &Path| edit(&dir.join("model_index.json"), change);
    let error = damage("sd1", &|dir| fs::remove_dir_all(dir.join("vae")).unwrap());
    assert!(error.contains("vae") && error.contains("missing"), "{error}");
    let error = damage("sd1", &index(&|v| v["unet"] = json!([null, null])));
    assert!(error.contains("`unet`") && error.contains("missing"), "{error}");
    let error = damage("sd1", &index(&|v| v["controlnet"] = json!(["diffusers", "ControlNetModel"])));
    assert!(error.contains("`controlnet`"), "{error}");
    let error = damage("sd1", &index(&|v| v["_class_name"] = json!("FluxPipeline")));
    assert!(error.contains("FluxPipeline") && error.contains("StableDiffusionXLPipeline"), "{error}");
    // A tokenizer with more tokens than its encoder's vocabulary.
    let error = damage("sd1", &|dir| {
        edit(&dir.join("tokenizer/tokenizer.json"), &|v| v["added_tokens"][0]["id"] = json!(60_000));
    });
    assert!(error.contains("60000") && error.contains("text_encoder"), "{error}");
    // One with another end token.
    let error = damage("sd1", &|dir| {
        edit(&dir.join("text_encoder/config.json"), &|v| v["eos_token_id"] = json!(568));
    });
    assert!(["569", "568", "eos_token_id", "tokenizer"].iter().all(|w| error.contains(w)), "{error}");
    let error = damage("sd1", &|dir| {
        edit(&dir.join("tokenizer/tokenizer.json"), &|v| v["model"]["end_of_word_suffix"] = json!(null));
    });
    assert!(error.contains("tokenizer.json") && error.contains("CLIP"), "{error}");
    let error = damage("sd1", &|dir| {
        let file = dir.join("unet/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    });
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
    let error =
        damage("sd1", &|dir| edit(&dir.join("unet/config.json"), &|v| v["attention_type"] = json!("gated")));
    assert!(error.contains("attention_type") && error.contains("gated"), "{error}");
    // A shard that the index lists is missing, then truncated.
    let sharded = |dir: &Path| {
        let unet = dir.join("unet");
        let stem = "diffusion_pytorch_model";
        let whole = unet.join(format!("{stem}.safetensors"));
        let names = SafetensorsFile::open(&whole).unwrap().names();
        let shard = format!("{stem}-00001-of-00001.safetensors");
        let map: serde_json::Map<_, _> = names.into_iter().map(|n| (n, json!(shard))).collect();
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(unet.join(format!("{stem}.safetensors.index.json")), index.to_string()).unwrap();
        fs::rename(whole, unet.join(&shard)).unwrap();
        unet.join(shard)
    };
    let error = damage("sd1", &|dir| fs::remove_file(sharded(dir)).unwrap());
    assert!(error.contains("00001-of-00001"), "{error}");
    let error = damage("sd1", &|dir| {
        let shard = sharded(dir);
        let bytes = fs::read(&shard).unwrap();
        fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(error.contains("00001-of-00001"), "{error}");
    let dir = folder("sd1");
    sharded(dir.path());
    load(dir.path()).unwrap();
}
