//! Model folders: reading, writing, variants, damage.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tweedie_hub::{Lora, Model, SafetensorsFile, weights};
use tweedie_models::{TensorSource, UNetMotionConfig, VideoUNet};
use tweedie_ops::Device;
use tweedie_pipe::Pipeline;

use super::{copy, fill, folder, folder_in, formula, golden, load, picture, run, two_steps};

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
    let variant = |name: &str| Model::load_variant(dir.path(), Some(name), &[], &Device::flex());
    let pictures = |model| two_steps(&Pipeline::of(model, &Device::flex()), "sd1");
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

/// The adapter has the weights of the motion modules in the pipeline `motion`, and `sd1` the others.
#[test]
fn a_motion_adapter_makes_a_model_of_clips() {
    let device = Device::flex();
    let (images, clips, adapter) = (folder("sd1"), folder("motion"), tempfile::tempdir().unwrap());
    copy(&golden().join("adapter"), adapter.path());
    let text = fs::read_to_string(clips.path().join("unet/config.json")).unwrap();
    let config = UNetMotionConfig::from_json(&text).unwrap();
    let mut modules = formula(&VideoUNet::new(&config, 0, &device).unwrap(), "");
    modules.retain(|name, _| name.contains("motion_modules"));
    let file = adapter.path().join("diffusion_pytorch_model.safetensors");
    weights::write(&file, &modules, weights::Precision::F32, &Default::default()).unwrap();

    let model = Model::load(images.path(), &device).unwrap().animated(adapter.path(), &device).unwrap();
    assert_eq!(model.kind.name, "AnimateDiffPipeline");
    assert_eq!(UNetMotionConfig::from_json(&model.network.config_json()).unwrap(), config);
    let expected = Model::load(clips.path(), &device).unwrap().network.tensors();
    assert!(model.network.tensors() == expected);

    let refused = |model: &str, adapter: &Path| {
        let model = Model::load(folder(model).path(), &device).unwrap();
        model.animated(adapter, &device).err().unwrap().to_string()
    };
    let error = refused("sdxl", adapter.path());
    assert!(error.contains("needs a StableDiffusionPipeline, not a StableDiffusionXLPipeline"), "{error}");
    let error = refused("sd1", &images.path().join("unet"));
    assert!(error.contains("`_class_name`") && error.contains("expected MotionAdapter"), "{error}");
    modules.pop_last();
    weights::write(&file, &modules, weights::Precision::F32, &Default::default()).unwrap();
    let error = refused("sd1", adapter.path());
    assert!(error.contains("does not fit the network of the model") && error.contains("missing"), "{error}");
}

#[test]
fn every_pipeline_is_written_as_it_was_read() {
    let json = |file: &Path| -> Value { serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap() };
    let index = |dir: &Path| {
        let mut index = json(&dir.join("model_index.json"));
        // diffusers does not find the class that it writes for the first; the second has several names.
        for name in ["text_proj", "feature_extractor"] {
            index.get_mut(name).map(|entry| entry[0].take());
            index.get_mut(name).map(|entry| entry[1].take());
        }
        index
    };
    for name in [
        "sd1",
        "sd2",
        "sdxl",
        "controlnet_sdxl",
        "controlnets_guess",
        "t2i_pair",
        "t2i_sdxl",
        "refiner",
        "lora",
        "dit",
        "ldm",
        "video",
        "motion",
        "svd",
        "unclip",
    ] {
        let dir = folder(name);
        let loras = match name {
            "lora" => vec![Lora::open(&dir.path().join("lora.safetensors"), 0.4).unwrap()],
            _ => Vec::new(),
        };
        let pipeline =
            Pipeline::of(Model::load_with(dir.path(), &loras, &Device::flex()).unwrap(), &Device::flex());
        let written = tempfile::tempdir().unwrap();
        let out = written.path().join("out");
        pipeline.model().save(&out, weights::Precision::F32).unwrap();
        assert_eq!(index(&out), index(dir.path()), "{name}");
        // Everything that diffusers wrote is written again. The padding is the tokenizer's.
        let parts =
            ["vae", "vqvae", "unet", "transformer", "text_encoder", "text_encoder_2", "image_encoder"];
        let of_unclip = ["prior", "decoder", "text_proj", "super_res_first", "super_res_last"];
        for part in
            parts.into_iter().chain(["controlnet", "controlnet_1", "adapter", "adapter_1"]).chain(of_unclip)
        {
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
        let scheduler = |pipeline: &Pipeline| pipeline.model().scheduler.to_json();
        assert_eq!(scheduler(&again), scheduler(&pipeline));
        let (labels, expected) = (&again.extras().class_names, &pipeline.extras().class_names);
        assert_eq!(labels, expected);

        again.model().save(&out, weights::Precision::BF16).unwrap();
        let (half, whole) = (two_steps(&load(&out).unwrap(), name), two_steps(&pipeline, name));
        let off = half.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off > 0.0 && off < 1.0, "{name}: {off}");
        assert_eq!(fs::read_dir(written.path()).unwrap().count(), 1);
    }
    // It makes images of images alone.
    let (dir, written) = (folder("variation"), tempfile::tempdir().unwrap());
    let out = written.path().join("out");
    let varied = |dir: &Path| {
        let request = serde_json::from_value(json!({"steps": 2})).unwrap();
        run(&load(dir).unwrap(), &request, None, Some(&picture(8))).unwrap().tensors.values
    };
    load(dir.path()).unwrap().model().save(&out, weights::Precision::F32).unwrap();
    assert_eq!(index(&out), index(dir.path()));
    assert_eq!(varied(&out), varied(dir.path()));
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
