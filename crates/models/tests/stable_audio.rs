//! The networks of Stable Audio compared with diffusers and transformers. The files were made by
//! `golden/stable_audio/make_stable_audio.py`, which documents the format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;
#[path = "common/golden.rs"]
mod golden;

use burn::tensor::{Device, Tensor};
use common::sample;
use golden::Golden;
use tweedie_models::{
    AutoencoderOobleck, AutoencoderOobleckConfig, Codec, Conditions, Entry, Mode, Network, StableAudioDit,
    StableAudioDitConfig, StableAudioProjection, StableAudioProjectionConfig, T5Config, T5Encoder,
    conditions::{EMBEDDING, TEXT},
    stable_audio::ProjectedSound,
};
use tweedie_ops::Batch;

fn open(name: &str) -> Golden {
    Golden::open("stable_audio", name)
}

#[test]
fn text_encoders() {
    let device = Device::flex();
    for name in ["t5", "t5_gated"] {
        let golden = open(name);
        let config = T5Config::from_json(&golden.config).unwrap();
        let new = T5Encoder::new(&config, 1, &device).unwrap();
        let encoder = T5Encoder::load(&config, &golden.weights(&new, T5Encoder::peer_name), &device).unwrap();
        let texts: Vec<Vec<u32>> = serde_json::from_value(golden.given["input_ids"].clone()).unwrap();
        let features = texts.iter().map(|ids| {
            let text: Vec<u32> = ids.iter().copied().filter(|id| *id != 0).collect();
            let zeros = Tensor::<3>::zeros([1, ids.len() - text.len(), config.d_model], &device);
            let features = encoder.encode(&text).unwrap();
            if text.len() < ids.len() { Tensor::cat(vec![features, zeros], 1) } else { features }
        });
        golden.expect("features", Tensor::cat(features.collect(), 0));
        assert!(encoder.encode(&[]).unwrap_err().to_string().contains("no tokens"));
        assert!(encoder.encode(&[0, 60]).unwrap_err().to_string().contains("token id 60"));
    }
    for (json, words) in [
        (r#"{"feed_forward_proj": "gated-silu"}"#, "feed_forward_proj"),
        (r#"{"relative_attention_num_buckets": 2}"#, "relative_attention_num_buckets"),
        (r#"{"relative_attention_max_distance": 8}"#, "relative_attention_max_distance"),
        (r#"{"d_modle": 3}"#, "unknown key `d_modle`"),
    ] {
        let error = T5Config::from_json(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}

#[test]
fn transformers() {
    let device = Device::flex();
    for name in ["dit", "dit_equal_heads"] {
        let golden = open(name);
        let config = StableAudioDitConfig::from_json(&golden.config).unwrap();
        let new = StableAudioDit::new(&config, 1, &device).unwrap();
        let dit = StableAudioDit::load(&config, &golden.weights(&new, str::to_owned), &device).unwrap();
        let times: Vec<f32> = serde_json::from_value(golden.given["timestep"].clone()).unwrap();
        let x = Batch::of(golden.input::<3>("sample"));
        let vectors: Tensor<2> = golden.input::<3>("global_hidden_states").reshape([2, 28]);
        let text = Entry::Tokens(golden.input("encoder_hidden_states"));
        let given = Conditions::none().with(EMBEDDING, Entry::Vectors(vectors)).with(TEXT, text);
        dit.check(2, x.shape(), &times, &given).unwrap();
        golden.expect("sample", dit.forward(x, &times, &given, Mode::Eval).tensor::<3>());

        for (shape, conditions, words) in [
            ([6, 8], given.clone(), "expected 6×9"),
            ([6, 9], given.without(&[TEXT]), "text features"),
            ([6, 9], given.without(&[EMBEDDING]), "the embedding"),
        ] {
            let error = dit.check(2, &shape.into(), &times, &conditions).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
    for (json, words) in [
        (r#"{"attention_head_dim": 6}"#, "attention_head_dim"),
        (r#"{"num_key_value_attention_heads": 5}"#, "num_key_value_attention_heads"),
        (r#"{"time_proj_dim": 3}"#, "time_proj_dim"),
    ] {
        let error = StableAudioDitConfig::from_json(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}

#[test]
fn autoencoders_of_waveforms() {
    let device = Device::flex();
    let golden = open("oobleck");
    let config = AutoencoderOobleckConfig::from_json(&golden.config).unwrap();
    let codec = AutoencoderOobleck::load(&config, &golden.all_weights(), &device).unwrap();
    let encoded = codec.encode(Batch::of(golden.input::<3>("sample"))).unwrap();
    golden.expect("latent_mean", encoded.mean.tensor::<3>());
    golden.expect("latent_logvar", encoded.logvar.unwrap().tensor::<3>());
    golden.expect("decoded", codec.decode(Batch::of(golden.input::<3>("latents"))).unwrap().tensor::<3>());
    let spec = codec.spec();
    assert_eq!((spec.stride, spec.media, spec.latents, codec.rate()), (8, 2, 6, Some(4000)));
    // What is written without weight normalization is read again.
    let again = AutoencoderOobleck::load(&config, &codec.tensors(), &device).unwrap();
    assert_eq!(again.tensors(), codec.tensors());
    let x = Batch::of(sample("x", [1, 2, 12], &device));
    assert!(codec.encode(x).unwrap_err().to_string().contains("multiple of 8"));
    let mut weights = golden.all_weights();
    weights.remove("encoder.conv1.weight_g");
    let error = AutoencoderOobleck::load(&config, &weights, &device).unwrap_err().to_string();
    assert!(error.contains("encoder.conv1.weight_g"), "{error}");
    for (json, words) in [
        (r#"{"downsampling_ratios": [2, 3, 4, 8, 8]}"#, "even"),
        (r#"{"downsampling_ratios": [2]}"#, "downsampling_ratios"),
        (r#"{"downsampling_ratios": [512, 512, 512, 2, 2]}"#, "product is at most"),
        (r#"{"encoder_hidden_size": 64}"#, "encoder_hidden_size"),
        (r#"{"audio_channels": 3}"#, "audio_channels"),
    ] {
        let error = AutoencoderOobleckConfig::from_json(json).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}

#[test]
fn projections() {
    let device = Device::flex();
    for name in ["projection", "projection_identity"] {
        let golden = open(name);
        let config = StableAudioProjectionConfig::from_json(&golden.config).unwrap();
        let new = StableAudioProjection::new(&config, 1, &device).unwrap();
        let layers = StableAudioProjection::load(&config, &golden.weights(&new, str::to_owned), &device);
        let seconds: [f64; 2] = serde_json::from_value(golden.given["seconds"].clone()).unwrap();
        let ProjectedSound { text, start, end } = layers.unwrap().project(golden.input("text"), seconds);
        golden.expect("text", text);
        golden.expect("start", start);
        golden.expect("end", end);
    }
    let error = StableAudioProjectionConfig::from_json("{}").unwrap_err().to_string();
    assert!(error.contains("text_encoder_dim"), "{error}");
}
