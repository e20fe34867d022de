//! Autoencoders, text encoders, the text-conditional U-Net and the diffusion transformer compared with diffusers and
//! transformers. The files were made by `golden/latent/make_latent.py`, which documents the format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use burn::{module::Module, tensor::Tensor};
use common::{hash, sample, weight};
use safetensors::SafeTensors;
use serde_json::Value;
use tweedie_models::{
    AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig, ClipTextConfig,
    ClipTextModel, ClipVisionConfig, ClipVisionModel, Codec, Conditions, ControlNetConfig, ControlNetModel,
    DitConfig, DitTransformer, EmbeddingProjection, EmbeddingProjectionConfig, Encoded, Entry, ExecContext,
    HostTensor, Mode, Network, Precision, PriorConfig, PriorTransformer, T2iAdapter, T2iAdapterConfig,
    UNet2DConditionConfig, UNet2DConditionModel, VqModel, VqModelConfig,
    conditions::{CLASSES, EMBEDDING, LENGTHS, POOLED, SIZES, TEXT, WITH_TIME},
    params,
    vae::Tiles,
};
use tweedie_ops::{Batch, to_host};

/// Relative to the output's root mean square.
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
        sample(name, shape.try_into().unwrap(), &common::device())
    }

    fn given<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.given.get(name).map(|v| serde_json::from_value(v.clone()).unwrap())
    }

    /// Checks that names and shapes of the parameters are the peer's; the weights follow from the formula.
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

    fn has(&self, output: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(output).is_ok()
    }

    /// The same except for positions where `left_out` returns true.
    fn expect_but(&self, output: &str, found: Tensor<4>, left_out: impl Fn(usize, usize) -> bool) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let values = |bytes: &[u8]| -> Vec<f64> {
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
        };
        let expected = values(file.tensor(output).unwrap().data());
        let [_, _, h, w] = found.dims();
        assert_eq!(found.dims().to_vec(), file.tensor(output).unwrap().shape());
        let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
        let mut seen = 0;
        for (i, (e, f)) in expected.iter().zip(to_host(found)).enumerate() {
            if !left_out(i / w % h, i % w) {
                let off = (e - f64::from(f)).abs() / rms;
                assert!(off < TOLERANCE, "{}: {output} differs by {off:.1e} of RMS at {i}", self.name);
                seen += 1;
            }
        }
        assert!(4 * seen > 3 * expected.len(), "{output}");
    }

    fn conditions(&self) -> Conditions {
        let has = |name: &str| self.shapes.get(name).is_some();
        let ids: Option<Vec<Vec<f32>>> = self.given("time_ids");
        let text = "encoder_hidden_states";
        let mut pooled = ["text_embeds", "proj_embedding"].into_iter();
        Conditions::none()
            .with_some(CLASSES, self.given("class_labels").map(Entry::Indices))
            .with_some(TEXT, has(text).then(|| Entry::Tokens(self.input(text))))
            .with_some(POOLED, pooled.find(|name| has(name)).map(|name| Entry::Vectors(self.input(name))))
            .with_some(SIZES, ids.map(Entry::Numbers))
            .with_some(LENGTHS, self.given("lengths").map(Entry::Indices))
            .with_some(WITH_TIME, has("timestep_cond").then(|| Entry::Vectors(self.input("timestep_cond"))))
            .with_some(EMBEDDING, has("class_labels").then(|| Entry::Vectors(self.input("class_labels"))))
    }

    fn run(&self, network: &dyn Network) {
        let (x, times): (Tensor<4>, Vec<f32>) = (self.input("sample"), self.given("timestep").unwrap());
        let (x, conditions) = (Batch::of(x), self.conditions());
        network.check(x.len(), x.shape(), &times, &conditions).unwrap();
        self.expect("sample", network.forward(x, &times, &conditions, Mode::Eval).tensor::<4>());
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
    let device = common::device();
    let goldens = goldens("vae_");
    assert!(goldens.len() >= 9);
    for golden in goldens {
        let config = AutoencoderKlConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&AutoencoderKl::new(&config, 1, &device).unwrap());
        let vae = AutoencoderKl::load(&config, &weights, &device).unwrap();
        if golden.name == "vae_tiled" {
            let codec: &dyn Codec = &vae;
            let latents = Batch::of(golden.input::<4>("latents"));
            golden
                .expect("decoded_tiled", codec.decode_tiled(&latents, Tiles::new(16)).unwrap().tensor::<4>());
            continue;
        }
        if golden.name == "vae_tiled_2d" {
            let codec: &dyn Codec = &vae;
            // Tiles of 8 latent pixels overlap by 2. Where four tiles meet, diffusers applies the weight of the upper right one
            // twice.
            let corner = |pixels: usize| {
                let fades = move |at: usize| at >= 6 * pixels && (at % (6 * pixels)) < 2 * pixels;
                move |y: usize, x: usize| fades(y) && fades(x)
            };
            let [sample, latents] = ["sample", "latents"].map(|name| Batch::of(golden.input::<4>(name)));
            let Encoded { mean, logvar } = codec.encode_tiled(&sample, Tiles::new(8)).unwrap();
            golden.expect_but("latent_mean_tiled", mean.tensor::<4>(), corner(1));
            golden.expect_but("latent_logvar_tiled", logvar.unwrap().tensor::<4>(), corner(1));
            let decoded = codec.decode_tiled(&latents, Tiles::new(8)).unwrap();
            golden.expect_but("decoded_tiled", decoded.tensor::<4>(), corner(2));
            continue;
        }
        let posterior = vae.encode(golden.input("sample")).unwrap();
        if golden.has("latent_scaled") {
            let codec: &dyn Codec = &vae;
            let scaled = codec.scaled(&Batch::of(posterior.mean.clone()));
            golden.expect("latent_scaled", scaled.tensor::<4>());
            golden.expect("latent_mean", codec.unscaled(&scaled).tensor::<4>());
        }
        golden.expect("latent_mean", posterior.mean);
        golden.expect("latent_logvar", posterior.logvar);
        golden.expect("decoded", vae.decode(golden.input("latents")).unwrap());
    }
}

#[test]
fn tiny_autoencoders() {
    let device = common::device();
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
fn autoencoders_with_a_table() {
    let device = common::device();
    let goldens = goldens("vq_");
    assert!(goldens.len() >= 2);
    for golden in goldens {
        let config = VqModelConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&VqModel::new(&config, 1, &device).unwrap());
        let vq = VqModel::load(&config, &weights, &device).unwrap();
        golden.expect("latent_mean", vq.encode(golden.input("sample")).unwrap());
        golden.expect("decoded", vq.decode(golden.input("latents")).unwrap());
        assert_eq!(VqModelConfig::from_json(&config.to_json()).unwrap(), config);
    }
}

#[test]
fn text_encoders() {
    let device = common::device();
    let goldens = goldens("text_");
    assert!(goldens.len() >= 3);
    for golden in goldens {
        let config = ClipTextConfig::from_json(&golden.config).unwrap();
        let mut weights = golden.weights(&ClipTextModel::new(&config, 1, &device).unwrap());
        if golden.name == "text_clip_l" {
            // As in files written by transformers 4.30.
            let ids = HostTensor { shape: vec![1, 12], values: (0..12u8).map(f32::from).collect() };
            weights.insert("text_model.embeddings.position_ids".into(), ids);
        } else if golden.name == "text_openclip_h" {
            // As in files written by transformers 5.
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
    let device = common::device();
    let goldens = goldens("unet_");
    assert!(goldens.len() >= 11);
    for golden in goldens {
        let config = UNet2DConditionConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&UNet2DConditionModel::new(&config, 1, &device).unwrap());
        golden.run(&UNet2DConditionModel::load(&config, &weights, &device).unwrap());
    }
}

#[test]
fn priors_of_image_embeddings() {
    let device = common::device();
    let goldens = goldens("prior");
    assert!(goldens.len() >= 2);
    for golden in goldens {
        let config = PriorConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&PriorTransformer::new(&config, 1, &device).unwrap());
        let prior = PriorTransformer::load(&config, &weights, &device).unwrap();
        let (x, times): (Tensor<2>, Vec<f32>) = (golden.input("sample"), golden.given("timestep").unwrap());
        let (x, conditions) = (Batch::of(x), golden.conditions());
        prior.check(x.len(), x.shape(), &times, &conditions).unwrap();
        golden.expect("sample", prior.forward(x, &times, &conditions, Mode::Eval).tensor::<2>());
    }
}

#[test]
fn image_encoders() {
    let device = common::device();
    let golden = goldens("vision").pop().unwrap();
    let config = ClipVisionConfig::from_json(&golden.config).unwrap();
    let weights = golden.weights(&ClipVisionModel::new(&config, 1, &device).unwrap());
    let encoder = ClipVisionModel::load(&config, &weights, &device).unwrap();
    golden.expect("image_embeds", encoder.encode(golden.input("pixel_values")).unwrap());
}

#[test]
fn projections_of_image_embeddings() {
    let device = common::device();
    let golden = goldens("projection").pop().unwrap();
    let config = EmbeddingProjectionConfig::from_json(&golden.config).unwrap();
    let weights = golden.weights(&EmbeddingProjection::new(&config, 1, &device));
    let projection = EmbeddingProjection::load(&config, &weights, &device).unwrap();
    let [image, text] = ["image_embeddings", "prompt_embeds"].map(|name| golden.input(name));
    let made = projection.project(image, text, golden.input("text_encoder_hidden_states")).unwrap();
    golden.expect("tokens", made.tokens);
    golden.expect("embedding", made.embedding);
}

#[test]
fn controlnets() {
    let device = common::device();
    let goldens = goldens("controlnet_");
    assert!(goldens.len() >= 3);
    for golden in goldens {
        let config = ControlNetConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&ControlNetModel::new(&config, 1, &device).unwrap());
        let net = ControlNetModel::load(&config, &weights, &device).unwrap();
        let hint = net.embed(golden.input("controlnet_cond"));
        let times: Vec<f32> = golden.given("timestep").unwrap();
        let maps = net.forward(golden.input("sample"), &times, &golden.conditions(), hint, Mode::Eval);
        assert_eq!(maps.len(), net.outputs());
        for (i, map) in maps.into_iter().enumerate() {
            // Averages are the same for all pixels.
            let pooled = config.global_pool_conditions;
            let map = if pooled { map.narrow(2, 0, 1).narrow(3, 1, 1) } else { map };
            golden.expect(&format!("map_{i}"), map);
        }
        // Its own text is that of diffusers.
        assert_eq!(ControlNetConfig::from_json(&config.to_json()).unwrap(), config);
    }
}

#[test]
fn adapters() {
    let device = common::device();
    let goldens = goldens("adapter_");
    assert_eq!(goldens.len(), 3);
    for golden in goldens {
        let config = T2iAdapterConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&T2iAdapter::new(&config, 1, &device).unwrap());
        let adapter = T2iAdapter::load(&config, &weights, &device).unwrap();
        let image: Tensor<4> = golden.input("sample");
        let [_, _, height, width] = image.dims();
        let maps = adapter.forward(image);
        assert_eq!(maps.len(), config.outputs().len());
        for (i, (map, (channels, side))) in maps.into_iter().zip(config.outputs()).enumerate() {
            assert_eq!(map.dims()[1..], [channels, height.div_ceil(side), width.div_ceil(side)]);
            golden.expect(&format!("map_{i}"), map);
        }
        assert_eq!(T2iAdapterConfig::from_json(&config.to_json()).unwrap(), config);
    }
}

/// Every layer rounds to eight bits of precision. `int8` does not affect networks with narrow layers only.
#[test]
fn outputs_in_fewer_bits_are_close() {
    let device = common::device();
    if !tweedie_ops::is_cpu(&device) {
        // Only the CPU computes in fewer bits.
        return;
    }
    let off = |golden: &Golden, output: &str, precision: Precision, found: Tensor<4>| {
        let file = SafeTensors::deserialize(&golden.bytes).unwrap();
        let bytes = file.tensor(output).unwrap().data().as_chunks::<4>().0.to_vec();
        let expected: Vec<f64> = bytes.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|d| d * d).sum::<f64>().sqrt();
        let differences = &mut expected.iter().zip(to_host(found)).map(|(e, f)| e - f64::from(f));
        let off = norm(differences) / norm(&mut expected.iter().copied());
        eprintln!("{}: {output}: {precision} off by {off:.1e} of RMS", golden.name);
        let most = if precision == Precision::Int8 { 0.06 } else { 0.03 };
        assert!(off < most, "{}: {output}: {precision} off by {off:.1e} of RMS", golden.name);
        assert!(off > 1e-4 || precision == Precision::Int8, "{}: {output}", golden.name);
        off > 1e-4
    };
    let mut changed = false;
    for precision in [Precision::Bf16, Precision::Int8] {
        for golden in goldens("unet_") {
            let config = UNet2DConditionConfig::from_json(&golden.config).unwrap();
            let weights = golden.weights(&UNet2DConditionModel::new(&config, 1, &device).unwrap());
            let unet = UNet2DConditionModel::load(&config, &weights, &device).unwrap();
            let unet = unet.with_context(ExecContext::default().with_precision(precision));
            let (x, times): (Tensor<4>, Vec<f32>) =
                (golden.input("sample"), golden.given("timestep").unwrap());
            let found = unet.forward(x, &times, &golden.conditions(), Mode::Eval);
            changed |= off(&golden, "sample", precision, found) && precision == Precision::Int8;
        }
        for golden in goldens("dit") {
            let config = DitConfig::from_json(&golden.config).unwrap();
            let weights = golden.weights(&DitTransformer::new(&config, 1, &device).unwrap());
            let dit = DitTransformer::load(&config, &weights, &device)
                .unwrap()
                .with_context(ExecContext::default().with_precision(precision));
            let (x, times): (Tensor<4>, Vec<f32>) =
                (golden.input("sample"), golden.given("timestep").unwrap());
            off(&golden, "sample", precision, dit.forward(x, &times, &golden.conditions(), Mode::Eval));
        }
    }
    assert!(changed);
    for golden in goldens("vae_s").into_iter().filter(|g| g.has("decoded")) {
        let config = AutoencoderKlConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&AutoencoderKl::new(&config, 1, &device).unwrap());
        let vae = AutoencoderKl::load(&config, &weights, &device)
            .unwrap()
            .with_context(ExecContext::default().with_precision(Precision::Bf16));
        off(&golden, "latent_mean", Precision::Bf16, vae.encode(golden.input("sample")).unwrap().mean);
        off(&golden, "decoded", Precision::Bf16, vae.decode(golden.input("latents")).unwrap());
    }
}

/// The golden networks are too narrow for `int8`.
#[test]
fn a_wide_transformer_in_eight_bits_is_close() {
    let device = common::device();
    if !tweedie_ops::is_cpu(&device) {
        // Only the CPU computes in fewer bits.
        return;
    }
    let config = r#"{"num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4,
        "num_layers": 2, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 3, "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate", "attention_bias": true, "norm_elementwise_affine": false}"#;
    let config = DitConfig::from_json(config).unwrap();
    let dit = DitTransformer::new(&config, 7, &device).unwrap();
    let x = tweedie_ops::from_host((0..512).map(|i| (i as f32).sin()).collect(), [2, 4, 8, 8], &device);
    let outputs = [Precision::F32, Precision::Int8].map(|precision| {
        let dit = dit.clone().with_context(ExecContext::default().with_precision(precision));
        to_host(dit.forward(x.clone(), &[10.0, 500.0], &Conditions::of_classes(vec![0, 2]), Mode::Eval))
    });
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|d| d * d).sum::<f32>().sqrt();
    let [full, fewer] = &outputs;
    let off = norm(&mut full.iter().zip(fewer).map(|(a, b)| a - b)) / norm(&mut full.iter().copied());
    assert!(off > 1e-5 && off < 0.03, "off by {off:.1e} of RMS");
}

#[test]
fn diffusion_transformers() {
    let device = common::device();
    let goldens = goldens("dit");
    assert!(goldens.len() >= 2);
    for golden in goldens {
        let config = DitConfig::from_json(&golden.config).unwrap();
        let weights = golden.weights(&DitTransformer::new(&config, 1, &device).unwrap());
        golden.run(&DitTransformer::load(&config, &weights, &device).unwrap());
    }
}

#[test]
fn latents_are_scaled_as_configured() {
    let device = common::device();
    let small =
        r#""block_out_channels": [4], "norm_num_groups": 2, "latent_channels": 2, "scaling_factor": 0.5"#;
    for (more, expected) in [
        ("", [1.0, 1.0]),
        (r#", "shift_factor": 0.25"#, [0.875, 0.875]),
        (r#", "latents_mean": [1, 0], "latents_std": [2, 0.5]"#, [0.25, 2.0]),
    ] {
        let config = AutoencoderKlConfig::from_json(&format!("{{{small}{more}}}")).unwrap();
        let codec: &dyn Codec = &AutoencoderKl::new(&config, 0, &device).unwrap();
        let scaled = codec.scaled(&Batch::from_host(vec![2.0; 2], 1, &[2, 1, 1].into(), &device));
        assert_eq!(scaled.to_host(), expected, "{more}");
        assert_eq!(codec.unscaled(&scaled).to_host(), [2.0, 2.0], "{more}");
    }
}

#[test]
fn a_posterior_is_sampled_by_its_mean_and_variance() {
    let device = common::device();
    let tensor = |values: [f32; 2]| tweedie_ops::from_host(values.to_vec(), [1, 2, 1, 1], &device);
    let logvar = tensor([0.0, 2.0 * 3f32.ln()]);
    let posterior = tweedie_models::vae::Posterior { mean: tensor([1.0, -1.0]), logvar };
    let found = to_host(posterior.sample(tensor([0.5, 2.0])));
    assert!((found[0] - 1.5).abs() < 1e-6 && (found[1] - 5.0).abs() < 1e-5, "{found:?}");
}

#[test]
fn configurations_that_describe_no_network_are_refused() {
    let vae = |text: &str| AutoencoderKlConfig::from_json(text).err().map(|e| e.to_string());
    let unet = |text: &str| UNet2DConditionConfig::from_json(text).err().map(|e| e.to_string());
    let dit = |text: &str| DitConfig::from_json(text).err().map(|e| e.to_string());
    let clip = |text: &str| ClipTextConfig::from_json(text).err().map(|e| e.to_string());
    let tiny = |text: &str| AutoencoderTinyConfig::from_json(text).err().map(|e| e.to_string());
    for (error, words) in [
        (vae("[]"), ["JSON", "object"]),
        (vae(r#"{"latent_chanels": 4}"#), ["unknown", "latent_chanels"]),
        (vae(r#"{"block_out_channels": [30]}"#), ["norm_num_groups", "30"]),
        (vae(r#"{"block_out_channels": [32, 64]}"#), ["down_block_types", "2 blocks"]),
        (
            vae(r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#),
            ["down_block_types", "DownEncoderBlock2D"],
        ),
        (vae(r#"{"scaling_factor": 0}"#), ["scaling_factor", "other than 0"]),
        (vae(r#"{"latents_mean": [0.5]}"#), ["latents_mean", "4 values"]),
        (tiny(r#"{"num_encoder_blocks": [1]}"#), ["num_encoder_blocks", "4 values"]),
        (unet(r#"{"encoder_hid_dim": 4096}"#), ["encoder_hid_dim", "null"]),
        (unet(r#"{"attention_head_dim": 7}"#), ["attention_head_dim", "320"]),
        (unet(r#"{"attention_head_dim": [8, 8]}"#), ["attention_head_dim", "without an entry in the list"]),
        (unet(r#"{"layers_per_block": 0}"#), ["layers_per_block", "1 to 256"]),
        (unet(r#"{"addition_embed_type": "text_time"}"#), ["addition_time_embed_dim", "width"]),
        (unet(r#"{"mid_block_type": "UNetMidBlock2D"}"#), ["mid_block_type", "CrossAttn"]),
        (dit(r#"{"patch_size": 3}"#), ["patch_size", "32"]),
        (dit(r#"{"norm_type": "ada_norm_single"}"#), ["norm_type", "ada_norm_zero"]),
        (clip(r#"{"architectures": ["T5EncoderModel"]}"#), ["architectures", "CLIPTextModel"]),
        (clip(r#"{"num_attention_heads": 7}"#), ["num_attention_heads", "512"]),
    ] {
        let error = error.expect(words[0]);
        assert!(words.iter().all(|w| error.contains(w)), "{words:?}: {error}");
    }
    // The published values.
    assert_eq!(unet(r#"{"cross_attention_dim": 768, "attention_head_dim": 8}"#), None);
    assert_eq!(dit("{}"), None);
    assert_eq!(clip("{}"), None);
}
