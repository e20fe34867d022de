//! Networks of video models compared with diffusers and transformers. `golden/films/make_films.py` documents the files.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;
#[path = "common/golden.rs"]
mod golden;

use burn::tensor::{Device, Tensor};
use golden::Golden;
use serde_json::json;
use tweedie_models::{AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig, CODECS, Codec};
use tweedie_ops::{Batch, to_host};

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
