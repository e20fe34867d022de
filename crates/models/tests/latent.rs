//! Autoencoders, text encoders, the U-Net that reads a text and the diffusion transformer against diffusers
//! and transformers. The files were made by `golden/latent/make_latent.py`, which tells the format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use common::{hash, sample, weight};
use safetensors::SafeTensors;
use serde_json::Value;
use tweedie_models::{
    Added, Autoencoder, AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig,
    ClipTextConfig, ClipTextModel, Condition, DitConfig, DitTransformer, HostTensor, Mode, Network,
    UNet2DConditionConfig, UNet2DConditionModel, params, vae::Tiles,
};
use tweedie_ops::to_host;

/// Of the output's root mean square.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    name: String,
    bytes: Vec<u8>,
    config: String,
    shapes: Value,
    given: Value,
    names: String,
}

impl Golden {
    fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let json = |key: &str| serde_json::from_str(&metadata[key]).unwrap();
        Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            config: metadata["config"].clone(),
            shapes: json("shapes"),
            given: json("given"),
            names: metadata["names"].clone(),
            bytes,
        }
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        let shape: Vec<usize> = serde_json::from_value(self.shapes[name].clone()).unwrap();
        sample(name, shape.try_into().unwrap(), &Device::flex())
    }

    fn given<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.given.get(name).map(|v| serde_json::from_value(v.clone()).unwrap())
    }

    /// Names and shapes of the parameters are the peer's; the weights by the formula.
    fn weights<M: Module>(&self, model: &M) -> BTreeMap<String, HostTensor> {
        let shapes = params::shapes(model);
        let listing: String = shapes.iter().map(|(name, shape)| format!("{name} {shape:?}\n")).collect();
        assert_eq!(format!("{:016x}", hash(&listing)), self.names, "{}: we have\n{listing}", self.name);
        shapes.iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect()
    }

    fn expect<const D: usize>(&self, output: &str, found: Tensor<D>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(output).unwrap();
        assert_eq!(found.dims().to_vec(), tensor.shape(), "{}: {output}", self.name);
        let bytes = tensor.data().as_chunks::<4>().0;
        let expected: Vec<f64> = bytes.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
        let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
        let worst = expected.iter().zip(to_host(found)).map(|(e, f)| (e - f64::from(f)).abs());
        let worst = worst.fold(0.0, |a: f64, d| if d.is_nan() { f64::INFINITY } else { a.max(d) }) / rms;
        eprintln!("{}: {output}: {worst:.1e} of RMS", self.name);
        assert!(worst < TOLERANCE, "{}: {output} differs by {worst:.1e} of RMS", self.name);
    }

    fn condition(&self) -> Condition {
        let has = |name: &str| self.shapes.get(name).is_some();
        let added = |time_ids| Added { text_embeds: self.input("text_embeds"), time_ids };
        Condition {
            classes: self.given("class_labels"),
            text: has("encoder_hidden_states").then(|| self.input("encoder_hidden_states")),
            added: self.given("time_ids").map(added),
            ..Condition::default()
        }
    }

    fn run(&self, network: &dyn Network) {
        let (x, times): (Tensor<4>, Vec<f32>) = (self.input("sample"), self.given("timestep").unwrap());
        let condition = self.condition();
        network.check(x.dims(), &times, &condition).unwrap();
        self.expect("sample", network.forward(x, &times, &condition, Mode::Eval));
    }
}

fn goldens(prefix: &str) -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/latent");
    let mut found: Vec<Golden> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| Golden::open(&path))
        .filter(|golden| golden.name.starts_with(prefix))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[test]
fn variational_autoencoders() {
    let device = Device::flex();
    let goldens = goldens("vae_");
    assert!(goldens.len() >= 5);
    for golden in goldens {
        let config = AutoencoderKlConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&AutoencoderKl::new(&config, 1, &device).unwrap());
        let vae = AutoencoderKl::load(&config, &weights, &device).unwrap();
        if golden.name == "vae_tiled" {
            let vae = Autoencoder::Kl(Box::new(vae));
            golden
                .expect("decoded_tiled", vae.decode_tiled(golden.input("latents"), Tiles::new(16)).unwrap());
            continue;
        }
        let posterior = vae.encode(golden.input("sample")).unwrap();
        golden.expect("latent_mean", posterior.mean);
        golden.expect("latent_logvar", posterior.logvar);
        golden.expect("decoded", vae.decode(golden.input("latents")).unwrap());
    }
}

#[test]
fn tiny_autoencoders() {
    let device = Device::flex();
    let goldens = goldens("tiny_");
    assert!(goldens.len() >= 2);
    for golden in goldens {
        let config = AutoencoderTinyConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&AutoencoderTiny::new(&config, 1, &device).unwrap());
        let vae = AutoencoderTiny::load(&config, &weights, &device).unwrap();
        golden.expect("latent_mean", vae.encode(golden.input("sample")).unwrap());
        golden.expect("decoded", vae.decode(golden.input("latents")).unwrap());
    }
}

#[test]
fn text_encoders() {
    let device = Device::flex();
    let goldens = goldens("text_");
    assert!(goldens.len() >= 3);
    for golden in goldens {
        let config = ClipTextConfig::from_json(&golden.config).unwrap();
        let mut weights = golden.weights(&ClipTextModel::new(&config, 1, &device).unwrap());
        if golden.name == "text_clip_l" {
            // As transformers 4.30 wrote files.
            let ids = HostTensor { shape: vec![1, 12], values: (0..12u8).map(f32::from).collect() };
            weights.insert("text_model.embeddings.position_ids".into(), ids);
        } else if golden.name == "text_openclip_h" {
            // As transformers 5 does.
            let bare = |(name, t): (String, _)| (name.trim_start_matches("text_model.").to_owned(), t);
            weights = weights.into_iter().map(bare).collect();
        }
        let model = ClipTextModel::load(&config, &weights, &device).unwrap();
        let ids: Vec<Vec<u32>> = golden.given("input_ids").unwrap();
        let features = model.encode(&ids, 1).unwrap();
        golden.expect("last_hidden_state", features.last);
        golden.expect("penultimate", features.hidden);
        golden.expect(if config.projects() { "text_embeds" } else { "pooler_output" }, features.pooled);
    }
}

#[test]
fn text_conditioned_unets() {
    let device = Device::flex();
    let goldens = goldens("unet_");
    assert!(goldens.len() >= 7);
    for golden in goldens {
        let config = UNet2DConditionConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&UNet2DConditionModel::new(&config, 1, &device).unwrap());
        golden.run(&UNet2DConditionModel::load(&config, &weights, &device).unwrap());
    }
}

#[test]
fn diffusion_transformers() {
    let device = Device::flex();
    let goldens = goldens("dit");
    assert!(goldens.len() >= 2);
    for golden in goldens {
        let config = DitConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&DitTransformer::new(&config, 1, &device).unwrap());
        golden.run(&DitTransformer::load(&config, &weights, &device).unwrap());
    }
}
