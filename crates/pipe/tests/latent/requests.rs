//! Requests and their errors.

use serde_json::{Value, json};
use tweedie_models::{AutoencoderTiny, AutoencoderTinyConfig, HostTensor};
use tweedie_ops::{Batch, Device};
use tweedie_pipe::{EmbeddingFile, Image, LoadOptions, Pipeline, RecordedFile};

use super::{folder, load, picture, run, two_steps};

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

#[test]
fn pictures_that_are_not_square_are_encoded_and_decoded_in_tiles() {
    let dir = folder("sd1");
    let pipeline = load(dir.path()).unwrap();
    assert_eq!(pipeline.size_like([300, 300]), Some(vec![16, 16]));
    // Multiples of 4: the autoencoder's 2 times the U-Net's.
    assert_eq!(pipeline.size_like([300, 700]), Some(vec![12, 24]));
    assert_eq!(pipeline.size_like([10_000, 1]), Some(vec![64, 4]));
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
    let tiny = |channels| AutoencoderTiny::new(&config(channels), 0, &Device::flex()).unwrap();
    let job = pipeline.prepare(&serde_json::from_value(json!({"prompt": "cat"})).unwrap()).unwrap();
    let latents = Batch::from_host(vec![0.5; 2 * 4 * 8 * 4], 2, &[4, 8, 4].into(), &Device::flex());
    for pictures in [job.decode(&latents), job.decode_with(&tiny(4), &latents)] {
        assert_eq!(pictures.unwrap().shape, [2, 3, 16, 8]);
    }
    let error = job.decode_with(&tiny(16), &latents).unwrap_err().to_string();
    assert!(error.contains("16 latent channels") && error.contains("4"), "{error}");
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
fn learned_tokens_are_words_of_prompts_and_wrong_ones_are_refused() {
    let dir = folder("learned");
    let file = dir.path().join("learned.safetensors");
    let recorded = |token: Option<&str>| EmbeddingFile {
        file: RecordedFile::of(&file).unwrap(),
        token: token.map(str::to_owned),
    };
    let load = |embeddings: &[EmbeddingFile]| {
        let options = LoadOptions { embeddings, ..LoadOptions::default() };
        Pipeline::load_with(dir.path(), &options, &Device::flex())
    };
    let text = |pipeline: &Pipeline, prompt: &str| {
        let request = json!({"prompt": prompt, "guidance": 1, "steps": 1});
        let job = pipeline.prepare(&serde_json::from_value(request).unwrap()).unwrap();
        tweedie_ops::to_host(job.conditions(0..1).text().unwrap().clone())
    };
    // Without a name, the file's name is the token.
    let (named, unnamed, plain) =
        (load(&[recorded(Some("<Thing>"))]).unwrap(), load(&[recorded(None)]).unwrap(), load(&[]).unwrap());
    assert_eq!(text(&named, "a cat <Thing>"), text(&unnamed, "a cat learned"));
    assert_ne!(text(&named, "a cat <Thing>"), text(&plain, "a cat <Thing>"));
    assert_eq!(text(&named, "a cat"), text(&plain, "a cat"));
    assert!(named.model().save(&dir.path().join("x"), tweedie_hub::Precision::F32).is_err());

    let refused = |embeddings: &[EmbeddingFile]| load(embeddings).err().unwrap().to_string();
    let again = refused(&[recorded(None), recorded(None)]);
    assert!(again.contains("`learned` is already known"), "{again}");
    assert!(refused(&[recorded(Some("two words"))]).contains("without spaces"));
    let wide = HostTensor { shape: vec![2, 25], values: vec![0.0; 50] };
    let write = |tensors: &[(&str, &HostTensor)]| {
        let all = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone())).collect();
        tweedie_hub::weights::write(&file, &all, tweedie_hub::Precision::F32, &Default::default()).unwrap();
    };
    write(&[("<x>", &wide)]);
    let error = refused(&[recorded(None)]);
    assert!(error.contains("width [25]") && error.contains("[24]"), "{error}");
    write(&[("a", &wide), ("b", &wide)]);
    assert!(refused(&[recorded(None)]).contains("not a textual inversion"));
    write(&[("<x>", &HostTensor { shape: vec![24], values: vec![f32::NAN; 24] })]);
    assert!(refused(&[recorded(None)]).contains("not finite"));
    let pixels = folder("ldm");
    write(&[("<x>", &HostTensor { shape: vec![24], values: vec![0.0; 24] })]);
    let embeddings = [recorded(None)];
    let options = LoadOptions { embeddings: &embeddings, ..LoadOptions::default() };
    let error = Pipeline::load_with(pixels.path(), &options, &Device::flex()).err().unwrap().to_string();
    assert!(error.contains("does not read texts"), "{error}");
}
