//! The networks of AudioLDM compared with diffusers and transformers. The files were made by
//! `golden/audio_ldm/make_audio_ldm.py`, which documents the format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;
#[path = "common/golden.rs"]
mod golden;

use burn::tensor::{Device, Tensor};
use common::sample;
use golden::Golden;
use tweedie_models::{
    AutoencoderKl, AutoencoderKlConfig, ClapTextConfig, ClapTextModel, Conditions, Entry, HifiGan,
    HifiGanConfig, Mode, Network, UNet2DConditionConfig, UNet2DConditionModel,
    conditions::{EMBEDDING, TEXT},
};
use tweedie_ops::Batch;

#[test]
fn vocoders() {
    let device = Device::flex();
    for name in ["vocoder", "vocoder_normalized"] {
        let golden = Golden::open("audio_ldm", name);
        let config = HifiGanConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&HifiGan::new(&config, 1, &device).unwrap(), str::to_owned);
        let vocoder = HifiGan::load(&config, &weights, &device).unwrap();
        let spectrogram = golden.input::<3>("spectrogram");
        let [_, columns, bands] = spectrogram.dims();
        let waveform = vocoder.forward(spectrogram.clone()).unwrap();
        assert_eq!(waveform.dims()[2], columns * config.stride());
        golden.expect("waveform", waveform);
        let error = vocoder.forward(spectrogram.narrow(2, 0, bands - 1)).unwrap_err().to_string();
        assert!(error.contains(&format!("{} bands", bands - 1)), "{error}");
    }
}

#[test]
fn text_encoders() {
    let device = Device::flex();
    let golden = Golden::open("audio_ldm", "clap_text");
    let config = ClapTextConfig::from_json(&golden.config).unwrap();
    let weights = golden.weights(&ClapTextModel::new(&config, 1, &device).unwrap(), ClapTextModel::peer_name);
    let encoder = ClapTextModel::load(&config, &weights, &device).unwrap();
    let texts: Vec<Vec<u32>> = serde_json::from_value(golden.given["input_ids"].clone()).unwrap();
    let features = texts.iter().map(|ids| {
        let text: Vec<u32> = ids.iter().copied().filter(|id| *id != config.pad_token_id).collect();
        encoder.encode(&text).unwrap()
    });
    golden.expect("text_embeds", Tensor::cat(features.collect(), 0));
    assert!(encoder.encode(&[]).unwrap_err().to_string().contains("expected 1 to 18"));
    assert!(encoder.encode(&[0; 19]).unwrap_err().to_string().contains("19 tokens"));
    assert!(encoder.encode(&[0, 60, 2]).unwrap_err().to_string().contains("token id 60"));
}

#[test]
fn autoencoders_of_one_channel() {
    let device = Device::flex();
    let golden = Golden::open("audio_ldm", "vae_mel");
    let config = AutoencoderKlConfig::from_json(&golden.config).unwrap();
    let weights = golden.weights(&AutoencoderKl::new(&config, 1, &device).unwrap(), str::to_owned);
    let vae = AutoencoderKl::load(&config, &weights, &device).unwrap();
    let posterior = vae.encode(golden.input("sample")).unwrap();
    golden.expect("latent_mean", posterior.mean);
    golden.expect("latent_logvar", posterior.logvar);
    golden.expect("decoded", vae.decode(golden.input("latents")).unwrap());
}

#[test]
fn unets_of_a_vector_instead_of_a_text() {
    let device = Device::flex();
    for name in ["unet_simple_projection", "unet_projection"] {
        let golden = Golden::open("audio_ldm", name);
        let config = UNet2DConditionConfig::from_json(&golden.config).unwrap();
        let new = UNet2DConditionModel::new(&config, 1, &device).unwrap();
        let unet =
            UNet2DConditionModel::load(&config, &golden.weights(&new, str::to_owned), &device).unwrap();
        let spec = Network::spec(&unet);
        assert_eq!((spec.text, spec.embedding, spec.classes.other), (None, Some(12), Some("vectors")));
        let times: Vec<f32> = serde_json::from_value(golden.given["timestep"].clone()).unwrap();
        let x = Batch::of(golden.input::<4>("sample"));
        let given = Conditions::none().with(EMBEDDING, Entry::Vectors(golden.input("class_labels")));
        unet.check(x.len(), x.shape(), &times, &given).unwrap();
        let y = Network::forward(&unet, x.clone(), &times, &given, Mode::Eval);
        golden.expect("sample", y.tensor::<4>());

        let text = Entry::Tokens(sample("text", [2, 3, 32], &device));
        for (conditions, words) in [
            (Conditions::none(), "needs an embedding"),
            (Conditions::none().with(EMBEDDING, Entry::Vectors(sample("e", [2, 11], &device))), "[2, 12]"),
            (given.with(TEXT, text), "does not read text features"),
        ] {
            let error = unet.check(2, x.shape(), &times, &conditions).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
    for (json, words) in [
        (r#"{"class_embed_type": "projection"}"#, "projection_class_embeddings_input_dim"),
        (r#"{"class_embeddings_concat": true}"#, "class_embeddings_concat"),
    ] {
        let error = UNet2DConditionConfig::from_json(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}

#[test]
fn configurations_that_describe_no_vocoder_are_errors() {
    for (json, words) in [
        (r#"{"upsample_rates": []}"#, "upsample_rates"),
        (r#"{"upsample_rates": [1024, 1024, 1024, 1024]}"#, "product is at most"),
        (r#"{"upsample_rates": [4], "upsample_kernel_sizes": [3]}"#, "upsample_kernel_sizes"),
        (r#"{"upsample_rates": [4], "upsample_kernel_sizes": [7]}"#, "upsample_kernel_sizes"),
        (r#"{"upsample_initial_channel": 40}"#, "upsample_initial_channel"),
        (r#"{"resblock_kernel_sizes": [3, 4, 5]}"#, "resblock_kernel_sizes"),
        (r#"{"resblock_dilation_sizes": [[1], [0], [1]]}"#, "resblock_dilation_sizes"),
        (r#"{"model_in_dim": 0}"#, "model_in_dim"),
        (r#"{"upsample": 3}"#, "unknown key `upsample`"),
    ] {
        let error = HifiGanConfig::from_json(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}
