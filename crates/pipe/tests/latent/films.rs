//! Stable Video Diffusion and Wan: requests, their errors, and broken folders.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tweedie_hub::Model;
use tweedie_ops::Device;
use tweedie_pipe::{Inputs, RecordedFile, Request};

use super::{control_picture, folder, load, picture, run};

/// A request for a clip of 16×24 pixels, with these fields.
fn request(fields: Value) -> Request {
    let mut request = json!({"steps": 2, "frames": 3, "seed": 4, "size": [16, 24]});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(request).unwrap()
}

#[test]
fn clips_of_an_image_depend_on_all_that_is_told_and_not_on_the_batch() {
    let dir = folder("svd");
    let pipeline = load(dir.path()).unwrap();
    let image = control_picture(16, 24, 0);
    let make = |fields: Value| run(&pipeline, &request(fields), None, Some(&image)).unwrap().tensors.values;
    let two = make(json!({"count": 2}));
    let one = make(json!({}));
    assert_eq!(two[..one.len()], one);
    assert_ne!(two[one.len()..], one);
    assert_eq!(make(json!({"count": 2, "chunk": 1})), two);
    // diffusers' values are the defaults.
    let told = json!({"motion": 127, "fps": 7, "noise_level": 20, "guidance": 3, "min_guidance": 1});
    assert_eq!(make(told), one);
    for other in [
        json!({"motion": 30}),
        json!({"fps": 12}),
        json!({"noise_level": 300}),
        json!({"guidance": 2}),
        json!({"min_guidance": 2}),
        json!({"guidance": 1}),
        json!({"vae_frames": 1}),
    ] {
        assert_ne!(make(other.clone()), one, "{other}");
    }
    assert_eq!(make(json!({"vae_frames": 9})), one);
    assert_ne!(
        run(&pipeline, &request(json!({})), None, Some(&control_picture(16, 24, 1))).unwrap().tensors.values,
        one
    );

    // Without a size, the clip has the aspect ratio of the image and the model's area; without frames, its own number.
    let file = dir.path().join("wide.png");
    control_picture(20, 80, 0).save_png(&file).unwrap();
    let image = RecordedFile::of(&file).unwrap();
    let own = Request { image: Some(image.clone()), ..serde_json::from_value(json!({"steps": 1})).unwrap() };
    let job = pipeline.prepare(&own).unwrap();
    assert_eq!(job.size(), [4, 8, 32]);
    assert_eq!(job.notes().len(), 1);
    assert!(
        job.notes()[0].contains("wide.png: the image of 80×20 pixels was resized to 32×8"),
        "{:?}",
        job.notes()
    );
    assert_eq!(
        (pipeline.rate(), Request::default().sampling(&pipeline.extras().sampling).steps),
        (Some(7), 25)
    );
}

#[test]
fn requests_for_clips_of_an_image_that_do_not_fit_are_refused() {
    let dir = folder("svd");
    let pipeline = load(dir.path()).unwrap();
    let file = dir.path().join("image.png");
    picture(16).save_png(&file).unwrap();
    let image = json!({"path": file, "sha256": RecordedFile::of(&file).unwrap().sha256});
    for (fields, words) in [
        (json!({}), ["`image`", "makes clips of an image; expected one"]),
        (json!({"image": image, "motion": 1024}), ["`motion`: 1024", "at most 1023"]),
        (json!({"image": image, "noise_level": 10001}), ["`noise_level`: 10001", "at most 10000"]),
        (json!({"image": image, "strength": 0.5}), ["`strength`", "makes a clip of the image"]),
        (json!({"image": image, "prompt": "cat"}), ["`prompt`", "does not support prompts"]),
        (json!({"image": image, "min_guidance": -1}), ["`min_guidance`: -1", "finite value ≥ 0"]),
        (json!({"image": image, "min_guidance": 2, "guidance": 1}), ["`min_guidance`", "without guidance"]),
        (json!({"image": image, "vae_tile": 8}), ["`vae_tile`", "use `vae_frames` instead"]),
        (json!({"image": image, "size": [15, 24]}), ["`size`", "multiples of 2"]),
        (json!({"known": {"image": image}}), ["`known`", "changes no existing clips"]),
    ] {
        let error = pipeline.prepare(&request(fields.clone())).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{fields}: {error}");
    }
    let inputs = Inputs { frames: vec![picture(16)], ..Inputs::default() };
    let error = pipeline.prepare_with(&request(json!({})), inputs).err().unwrap().to_string();
    assert!(error.contains("`continue`"), "{error}");
    let error = run(&pipeline, &request(json!({})), None, Some(&picture(16))).unwrap_err().to_string();
    assert!(error.contains("16×16 pixels, expected 24×16"), "{error}");

    // Fields that other models do not read.
    let other = load(folder("sd1").path()).unwrap();
    for (field, value, reason) in [
        ("motion", 3, "models like Stable Video Diffusion"),
        ("min_guidance", 2, "models like Stable Video Diffusion"),
        ("noise_level", 3, "does not enlarge"),
        ("vae_frames", 3, "does not decode clips in parts"),
    ] {
        let request = json!({"prompt": "cat", field: value});
        let error = other.prepare(&serde_json::from_value(request).unwrap()).err().unwrap().to_string();
        assert!(error.contains(field) && error.contains(reason), "{error}");
    }
}

#[test]
fn broken_folders_of_models_of_clips_name_what_is_wrong() {
    let broken = |change: &dyn Fn(&Path)| {
        let dir = folder("svd");
        change(dir.path());
        Model::load(dir.path(), &Device::flex()).err().unwrap().to_string()
    };
    let edit = |dir: &Path, file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(dir.join(file), text.replace(from, to)).unwrap();
    };
    let error = broken(&|dir| fs::remove_dir_all(dir.join("image_encoder")).unwrap());
    assert!(error.contains("image_encoder") && error.contains("but missing"), "{error}");
    let error = broken(&|dir| edit(dir, "model_index.json", "\"image_encoder\"", "\"_image_encoder\""));
    assert!(error.contains("`image_encoder`") && error.contains("required but missing"), "{error}");
    let error =
        broken(&|dir| fs::remove_file(dir.join("feature_extractor/preprocessor_config.json")).unwrap());
    assert!(error.contains("preprocessor_config.json"), "{error}");
    let error = broken(&|dir| edit(dir, "unet/config.json", "\"in_channels\": 8", "\"in_channels\": 4"));
    assert!(error.contains("conv_in.weight"), "{error}");
    let error = broken(&|dir| edit(dir, "unet/config.json", "\"num_frames\": 4", "\"num_frames\": \"four\""));
    assert!(error.contains("`num_frames`") && error.contains("four"), "{error}");
    let error = broken(&|dir| {
        edit(dir, "unet/config.json", "\"cross_attention_dim\": 12", "\"cross_attention_dim\": 10");
        super::fill(&dir.join("unet"), tweedie_hub::weights::Precision::F32);
    });
    assert!(error.contains("`image_encoder`") && error.contains("width 12, but unet reads 10"), "{error}");
}

/// A request for a clip of 16×32 pixels for Wan, with these fields.
fn told(fields: Value) -> Request {
    let mut request = json!({"prompt": "the cat", "steps": 2, "frames": 5, "seed": 4, "size": [16, 32]});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(request).unwrap()
}

#[test]
fn clips_of_wan_depend_on_their_texts_and_not_on_the_batch() {
    let dir = folder("wan");
    let pipeline = load(dir.path()).unwrap();
    let make = |fields: Value| run(&pipeline, &told(fields), None, None).unwrap().tensors.values;
    let one = make(json!({}));
    let two = make(json!({"count": 2, "prompt": ["the cat", "red hat"]}));
    assert_eq!(two[..one.len()], one);
    assert_eq!(make(json!({"count": 2, "prompt": ["the cat", "red hat"], "chunk": 1})), two);
    assert_eq!(make(json!({"prompt": " the \n cat "})), one);
    assert_eq!(make(json!({"negative_prompt": ""})), one);
    assert_eq!(make(json!({"guidance": 5})), one);
    for other in [json!({"negative_prompt": "hat"}), json!({"prompt": "the hat"}), json!({"guidance": 1})] {
        assert_ne!(make(other.clone()), one, "{other}");
    }
    // One frame is an image; the first frames of a longer clip see no later ones only in the autoencoder.
    assert_eq!(make(json!({"frames": 1})).len() * 5, one.len());
    assert_eq!((pipeline.rate(), pipeline.native_size()), (Some(16), Some(vec![81, 240, 416])));
    let error = pipeline.model().save(&dir.path().join("out"), tweedie_hub::weights::Precision::F32);
    assert!(error.unwrap_err().to_string().contains("writing the folder of a WanPipeline is not supported"));
}

#[test]
fn requests_for_wan_that_do_not_fit_are_refused() {
    let dir = folder("wan");
    let pipeline = load(dir.path()).unwrap();
    let file = dir.path().join("image.png");
    picture(16).save_png(&file).unwrap();
    let long = "cat ".repeat(600);
    for (fields, words) in [
        (json!({"prompt": []}), ["`prompt`", "a model of clips with texts; expected a prompt"]),
        (json!({"prompt": long}), ["`prompt`", "tokens, expected at most 512"]),
        (json!({"prompt": "(cat:1.3)"}), ["`prompt`", "does not support weights of words"]),
        (json!({"negative_prompt": long}), ["`negative_prompt`", "at most 512"]),
        (json!({"frames": 6}), ["`frames`: 6", "for example of 5"]),
        (json!({"size": [12, 32]}), ["`size`", "8×3 latents, expected multiples of 2"]),
        (json!({"size": [16, 30]}), ["`size`", "multiples of 4"]),
        (json!({"clip_skip": 1}), ["`clip_skip`", "does not support it"]),
        (json!({"vae_tile": 64}), ["`vae_tile`", "has no tiles; remove it"]),
        (json!({"vae_frames": 4}), ["`vae_frames`", "does not decode clips in parts"]),
        (json!({"motion": 4}), ["`motion`", "models like Stable Video Diffusion"]),
        (json!({"image": {"path": file}}), ["`image`", "does not make images"]),
    ] {
        let error = pipeline.prepare(&told(fields.clone())).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{fields}: {error}");
    }
}

#[test]
fn folders_of_wan_that_are_broken_or_newer_name_what_is_wrong() {
    let broken = |file: &str, from: &str, to: &str| {
        let dir = folder("wan");
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        if file.ends_with("config.json") {
            super::fill(path.parent().unwrap(), tweedie_hub::weights::Precision::F32);
        }
        Model::load(dir.path(), &Device::flex()).err().unwrap().to_string()
    };
    let index = "model_index.json";
    for (file, from, to, words) in [
        (index, "\"boundary_ratio\": null", "\"boundary_ratio\": 0.9", ["`boundary_ratio`", "Wan 2.2"]),
        (
            index,
            "\"expand_timesteps\": false",
            "\"expand_timesteps\": true",
            ["`expand_timesteps`", "Wan 2.2"],
        ),
        (
            index,
            "\"transformer_2\": [\n    null,\n    null",
            "\"transformer_2\": [\n    \"diffusers\",\n    \"WanTransformer3DModel\"",
            ["`transformer_2`", "two transformers"],
        ),
        (index, "\"text_encoder\"", "\"_text_encoder\"", ["`text_encoder`", "required but missing"]),
        (
            "text_encoder/config.json",
            "\"vocab_size\": 29",
            "\"vocab_size\": 28",
            ["token ids up to 28", "28"],
        ),
        (
            "transformer/config.json",
            "\"text_dim\": 20",
            "\"text_dim\": 22",
            ["width 20", "transformer reads 22"],
        ),
        (
            "transformer/config.json",
            "\"in_channels\": 6",
            "\"in_channels\": 8",
            ["8 input", "the latents have 6"],
        ),
        (
            "tokenizer/tokenizer.json",
            "\"Unigram\"",
            "\"BPE\"",
            ["tokenizer.json", "expected a Unigram model"],
        ),
    ] {
        let error = broken(file, from, to);
        assert!(words.iter().all(|word| error.contains(word)), "{file}: {to}: {error}");
    }
    // T5's encoder has one table of distances for all layers.
    let dir = folder("wan");
    let path = dir.path().join("text_encoder/config.json");
    let text = fs::read_to_string(&path).unwrap().replace("UMT5EncoderModel", "T5EncoderModel");
    fs::write(&path, text).unwrap();
    let error = Model::load(dir.path(), &Device::flex()).err().unwrap().to_string();
    assert!(error.contains("relative_attention_bias"), "{error}");
}

#[test]
fn the_first_frame_of_wan_is_an_image() {
    let dir = folder("wan_image");
    let pipeline = load(dir.path()).unwrap();
    let make = |fields: Value, picture: usize| {
        let image = control_picture(16, 32, picture);
        run(&pipeline, &told(fields), None, Some(&image)).unwrap().tensors.values
    };
    let one = make(json!({}), 0);
    assert_eq!(make(json!({"count": 2}), 0)[..one.len()], one);
    assert_ne!(make(json!({}), 1), one);
    assert_ne!(make(json!({"prompt": "red hat"}), 0), one);
    let file = dir.path().join("wide.png");
    control_picture(20, 80, 0).save_png(&file).unwrap();
    let wide = told(json!({"image": {"path": file}, "size": null}));
    let job = pipeline.prepare(&wide).unwrap();
    // Multiples of the size of a token, about as wide as the image, with the model's area.
    assert_eq!(job.size(), [5, 160, 632]);
    assert!(job.notes()[0].contains("wide.png: the image of 80×20 pixels"), "{:?}", job.notes());
    for (fields, words) in [
        (json!({}), ["`image`", "makes clips of an image; expected one"]),
        (json!({"image": {"path": file}, "strength": 0.5}), ["`strength`", "makes a clip of the image"]),
        (json!({"image": {"path": file}, "noise_level": 5}), ["`noise_level`", "does not enlarge"]),
        (json!({"image": {"path": file}, "min_guidance": 2}), ["`min_guidance`", "Stable Video Diffusion"]),
        (json!({"image": {"path": file}, "prompt": []}), ["`prompt`", "expected a prompt"]),
    ] {
        let error = pipeline.prepare(&told(fields.clone())).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{fields}: {error}");
    }

    // The image's features, and pipelines without them.
    let refused = |change: &dyn Fn(&Path)| {
        let dir = folder("wan_image");
        change(dir.path());
        Model::load(dir.path(), &Device::flex()).err().unwrap().to_string()
    };
    let edit = |file: std::path::PathBuf, from: &str, to: &str| {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
    };
    let error = refused(&|dir| edit(dir.join("model_index.json"), "WanImageToVideoPipeline", "WanPipeline"));
    assert!(
        error.contains("`image_processor`") && error.contains("not a component of WanPipeline"),
        "{error}"
    );
    let error =
        refused(&|dir| edit(dir.join("model_index.json"), "\"image_processor\"", "\"_image_processor\""));
    assert!(error.contains("`image_processor`") && error.contains("required but missing"), "{error}");
    let error = refused(&|dir| {
        edit(dir.join("transformer/config.json"), "\"image_dim\": 16", "\"image_dim\": 18");
        super::fill(&dir.join("transformer"), tweedie_hub::weights::Precision::F32);
    });
    assert!(
        error.contains("`image_encoder`") && error.contains("width 16, but transformer reads 18"),
        "{error}"
    );
}
