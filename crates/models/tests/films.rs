//! Networks of video models compared with diffusers and transformers. `golden/films/make_films.py` documents the files.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;
#[path = "common/golden.rs"]
mod golden;

use burn::tensor::{Device, Tensor};
use golden::Golden;
use serde_json::json;
use tweedie_models::{
    AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig, AutoencoderKlWan,
    AutoencoderKlWanConfig, CODECS, Codec, Conditions, Entry, ExecContext, Mode, Network, Precision,
    T5Config, T5Encoder, WanTransformer, WanTransformerConfig,
    conditions::{IMAGE, TEXT},
    registry,
};
use tweedie_ops::{Batch, SampleShape, to_host};

#[test]
fn frames_are_encoded_alone_and_decoded_together() {
    let device = Device::flex();
    for name in ["temporal_decoder", "temporal_decoder_plain"] {
        let golden = Golden::open("films", name);
        let config = AutoencoderKlTemporalDecoderConfig::from_json(&golden.config).unwrap();
        let empty = AutoencoderKlTemporalDecoder::new(&config, 0, &device).unwrap();
        let weights = golden.weights(&empty, str::to_owned);
        let model = AutoencoderKlTemporalDecoder::load(&config, &weights, &device).unwrap();
        let [mean, logvar] = model.encode(golden.input("sample")).unwrap();
        golden.expect("latent_mean", mean);
        golden.expect("latent_logvar", logvar);
        let latents: Tensor<5> = golden.input("latents");
        let decoded = model.decode(latents.clone()).unwrap();
        golden.expect("decoded", decoded.clone());

        // Rows do not depend on each other, but frames do.
        let second = model.decode(latents.clone().narrow(0, 1, 1)).unwrap();
        assert_eq!(to_host(second), to_host(decoded.clone().narrow(0, 1, 1)));
        let alone = model.decode(latents.narrow(2, 0, 1)).unwrap();
        assert_ne!(to_host(alone), to_host(decoded.narrow(2, 0, 1)));

        let entry = CODECS.iter().find(|entry| entry.class == model.spec().class).unwrap();
        let codec = (entry.load)(&model.config_json(), &Codec::tensors(&model), &device).unwrap();
        assert_eq!(
            (codec.latent_axes(&[5, 8, 12]), codec.media_axes(&[5, 4, 6])),
            (vec![5, 4, 6], vec![5, 8, 12])
        );
        let image = Batch::of(Tensor::<4>::zeros([1, 3, 8, 8], &device));
        let error = codec.encode(image).unwrap_err().to_string();
        assert!(error.contains("expected channels×frames×height×width"), "{error}");
    }
    for (changes, expected) in [
        (json!({"block_out_channels": [48]}), "`block_out_channels` is [48]: expected multiples of 32"),
        (json!({"up_block_types": []}), "unknown key `up_block_types`"),
        (json!({"scaling_factor": 0}), "`scaling_factor` is 0"),
    ] {
        let error = AutoencoderKlTemporalDecoderConfig::from_json(&changes.to_string()).unwrap_err();
        assert!(error.to_string().contains(expected), "{changes}: {error}");
    }
}

#[test]
fn tokens_of_all_frames_attend_to_each_other() {
    let device = Device::flex();
    for name in ["wan", "wan_image"] {
        let golden = Golden::open("films", name);
        let config = WanTransformerConfig::from_json(&golden.config).unwrap();
        let empty = WanTransformer::new(&config, 0, &device).unwrap();
        let model = WanTransformer::load(&config, &golden.weights(&empty, str::to_owned), &device).unwrap();
        let times: Vec<f32> = serde_json::from_value(golden.given["timestep"].clone()).unwrap();
        let image = config.image_dim.map(|_| Entry::Tokens(golden.input("image")));
        let given =
            Conditions::none().with(TEXT, Entry::Tokens(golden.input("text"))).with_some(IMAGE, image);
        let x: Tensor<5> = golden.input("sample");
        let found = model.forward(x.clone(), &times, &given, Mode::Eval);
        golden.expect("sample", found.clone());

        // A row is the same in every batch.
        let first = model.forward(x.clone().narrow(0, 0, 1), &times[..1], &given.rows(0..1), Mode::Eval);
        assert_eq!(to_host(first), to_host(found.clone().narrow(0, 0, 1)));
        let entry = registry::find(WanTransformerConfig::CLASS).unwrap();
        let network = (entry.load)(&model.config_json(), &model.tensors(), &device).unwrap();
        assert_eq!(network.spec().native, Some(vec![21, 60, 104]));
        let half = model.clone().with_context(ExecContext::default().with_precision(Precision::Bf16));
        let off = half.forward(x, &times, &given, Mode::Eval) - found.clone();
        let rms = |x: Tensor<5>| to_host(x).iter().map(|v| v * v).sum::<f32>().sqrt();
        let off = rms(off) / rms(found);
        assert!(off > 0.0 && off < 0.07, "{name}: {off}");

        let check = |shape: [usize; 4], given: &Conditions| {
            let shape = SampleShape::from(shape);
            network.check(2, &shape, &times, given).err().map_or(String::new(), |e| e.to_string())
        };
        let channels = config.in_channels;
        assert_eq!(check([channels, 3, 4, 6], &given), "");
        assert!(check([channels, 3, 5, 6], &given).contains("6×5 latents, expected multiples of 2"));
        assert!(check([channels, 33, 4, 6], &given).contains("33 tokens along an axis, expected at most 32"));
        assert!(check([channels, 3, 4, 6], &given.without(&[TEXT])).contains("needs text features"));
    }
    for (changes, expected) in [
        (json!({"patch_size": [2, 2, 2]}), "`patch_size` is [2,2,2]: expected [1, p, p]"),
        (json!({"qk_norm": "layer_norm"}), "`qk_norm` is \"layer_norm\": only"),
        (json!({"pos_embed_seq_len": 514}), "`pos_embed_seq_len` is 514: only null"),
        (json!({"image_dim": 1280}), "`added_kv_proj_dim` is null: expected 5120"),
        (json!({"attention_head_dim": 5}), "`attention_head_dim` is 5"),
        (json!({"heads": 5}), "unknown key `heads`"),
    ] {
        let error = WanTransformerConfig::from_json(&changes.to_string()).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn frames_only_see_those_before_them() {
    let device = Device::flex();
    for name in ["wan_vae", "wan_vae_wide"] {
        let golden = Golden::open("films", name);
        let config = AutoencoderKlWanConfig::from_json(&golden.config).unwrap();
        let empty = AutoencoderKlWan::new(&config, 0, &device).unwrap();
        let model = AutoencoderKlWan::load(&config, &golden.weights(&empty, str::to_owned), &device).unwrap();
        let x: Tensor<5> = golden.input("sample");
        let [mean, logvar] = model.encode(x.clone()).unwrap();
        golden.expect("latent_mean", mean.clone());
        golden.expect("latent_logvar", logvar);
        let z: Tensor<5> = golden.input("latents");
        let decoded = model.decode(z.clone()).unwrap();
        golden.expect("decoded", decoded.clone());

        let [fewer, _] = model.encode(x.clone().narrow(2, 0, 5)).unwrap();
        assert_eq!(to_host(fewer), to_host(mean.narrow(2, 0, 2)));
        let fewer = model.decode(z.narrow(2, 0, 2)).unwrap();
        assert_eq!(to_host(fewer), to_host(decoded.narrow(2, 0, 5)));

        let error = model.encode(x.narrow(2, 0, 4)).unwrap_err().to_string();
        assert!(error.contains("4 frames, expected 1, 5, 9"), "{error}");
        let entry = CODECS.iter().find(|entry| entry.class == AutoencoderKlWanConfig::CLASS).unwrap();
        let codec = (entry.load)(&model.config_json(), &Codec::tensors(&model), &device).unwrap();
        assert_eq!(
            (codec.latent_axes(&[9, 16, 24]), codec.media_axes(&[3, 2, 3])),
            (vec![3, 2, 3], vec![9, 16, 24])
        );
    }
    for (changes, expected) in [
        (json!({"is_residual": true}), "`is_residual` is true: only false"),
        (json!({"patch_size": 2}), "`patch_size` is 2: only null"),
        (json!({"temperal_downsample": [true, true, true]}), "expected 3 entries, of which two are true"),
        (json!({"scale_factor_spatial": 16}), "`scale_factor_spatial` is 16: expected 8"),
        (json!({"latents_std": [1.0]}), "`latents_std` is [1.0]: expected 16 finite values above 0"),
        (json!({"dim_mult": [1]}), "`dim_mult` is [1]"),
    ] {
        let error = AutoencoderKlWanConfig::from_json(&changes.to_string()).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn each_layer_of_umt5_has_its_own_distances() {
    let (device, golden) = (Device::flex(), Golden::open("films", "umt5"));
    let config = T5Config::from_umt5_json(&golden.config).unwrap();
    let empty = T5Encoder::new(&config, 0, &device).unwrap();
    let encoder = T5Encoder::load(&config, &golden.weights(&empty, T5Encoder::peer_name), &device).unwrap();
    let texts: Vec<Vec<u32>> = serde_json::from_value(golden.given["input_ids"].clone()).unwrap();
    let features = texts.iter().map(|ids| {
        let text: Vec<u32> = ids.iter().copied().filter(|id| *id != 0).collect();
        let features = encoder.encode(&text).unwrap();
        let rest = ids.len() - text.len();
        let zeros = Tensor::<3>::zeros([1, rest.max(1), config.d_model], &device);
        if rest > 0 { Tensor::cat(vec![features, zeros], 1) } else { features }
    });
    golden.expect("features", Tensor::cat(features.collect(), 0));
    let plain = T5Config::from_json(&golden.config).unwrap();
    let error = T5Encoder::load(&plain, &golden.all_weights(), &device).unwrap_err().to_string();
    assert!(error.contains("unexpected tensor") && error.contains("relative_attention_bias"), "{error}");
}
