//! Whole latent pipelines compared with diffusers, and rejected requests. `golden/latent` documents how its folders were
//! made.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod adapters;
#[path = "../../../models/tests/common/mod.rs"]
mod common;
mod films;
mod folders;
mod parity;
mod requests;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use burn::module::Module;
use common::weight;
use serde_json::{Value, json};
use tempfile::TempDir;
use tweedie_hub::weights;
use tweedie_models::{
    AutoencoderKl, AutoencoderKlConfig, AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig,
    AutoencoderKlWan, AutoencoderKlWanConfig, AutoencoderTiny, AutoencoderTinyConfig, ClipTextConfig,
    ClipTextModel, ClipVisionConfig, ClipVisionModel, ControlNetConfig, ControlNetModel, DitConfig,
    DitTransformer, EmbeddingProjection, EmbeddingProjectionConfig, HostTensor, PriorConfig,
    PriorTransformer, T2iAdapter, T2iAdapterConfig, T5Config, T5Encoder, UNet2DConditionConfig,
    UNet2DConditionModel, UNet2DConfig, UNet2DModel, UNet3DConfig, UNetMotionConfig,
    UNetSpatioTemporalConfig, VideoUNet, VqModel, VqModelConfig, WanTransformer, WanTransformerConfig,
    params,
};
use tweedie_ops::Device;
use tweedie_pipe::{Control, Image, Inputs, Output, Pipeline, PipelineError, RecordedFile, Request};

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

fn formula<M: Module>(model: &M, prefix: &str) -> std::collections::BTreeMap<String, HostTensor> {
    let filled =
        |(name, shape): (&String, &Vec<usize>)| (name.clone(), weight(&format!("{prefix}{name}"), shape));
    params::shapes(model).iter().map(filled).collect()
}

/// Writes the weights of the component in `dir`.
fn fill(dir: &Path, precision: weights::Precision) {
    let text = fs::read_to_string(dir.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let device = Device::flex();
    let prefix = if dir.ends_with("super_res_last") { "last." } else { "" };
    let class = config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str());
    let (stem, tensors) = match class {
        Some("AutoencoderKL") => {
            let config = AutoencoderKlConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&AutoencoderKl::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("VQModel") => {
            let config = VqModelConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&VqModel::new(&config, 0, &device).unwrap(), ""))
        }
        Some("AutoencoderTiny") => {
            let config = AutoencoderTinyConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&AutoencoderTiny::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("UNet2DConditionModel") => {
            let config = UNet2DConditionConfig::from_json(&text).unwrap();
            (
                "diffusion_pytorch_model",
                formula(&UNet2DConditionModel::new(&config, 0, &device).unwrap(), prefix),
            )
        }
        Some("ControlNetModel") => {
            let config = ControlNetConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&ControlNetModel::new(&config, 0, &device).unwrap(), ""))
        }
        Some("T2IAdapter") => {
            let config = T2iAdapterConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&T2iAdapter::new(&config, 0, &device).unwrap(), ""))
        }
        Some("UNet3DConditionModel") => {
            let config = UNet3DConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&VideoUNet::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("UNetMotionModel") => {
            let config = UNetMotionConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&VideoUNet::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("UNetSpatioTemporalConditionModel") => {
            let config = UNetSpatioTemporalConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&VideoUNet::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("WanTransformer3DModel") => {
            let config = WanTransformerConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&WanTransformer::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("AutoencoderKLWan") => {
            let config = AutoencoderKlWanConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&AutoencoderKlWan::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("UMT5EncoderModel") => {
            let config = T5Config::from_umt5_json(&text).unwrap();
            let shapes = params::shapes(&T5Encoder::new(&config, 0, &device).unwrap());
            let names = shapes.iter().map(|(name, shape)| (T5Encoder::peer_name(name), shape));
            ("model", names.map(|(name, shape)| (name.clone(), weight(&name, shape))).collect())
        }
        Some("AutoencoderKLTemporalDecoder") => {
            let config = AutoencoderKlTemporalDecoderConfig::from_json(&text).unwrap();
            let model = AutoencoderKlTemporalDecoder::new(&config, 0, &device).unwrap();
            ("diffusion_pytorch_model", formula(&model, prefix))
        }
        Some("UNet2DModel") => {
            let config = UNet2DConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&UNet2DModel::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("DiTTransformer2DModel") => {
            let config = DitConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&DitTransformer::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("PriorTransformer") => {
            let config = PriorConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&PriorTransformer::new(&config, 0, &device).unwrap(), prefix))
        }
        Some("UnCLIPTextProjModel") => {
            let config = EmbeddingProjectionConfig::from_json(&text).unwrap();
            ("diffusion_pytorch_model", formula(&EmbeddingProjection::new(&config, 0, &device), prefix))
        }
        Some("CLIPVisionModelWithProjection" | "CLIPVisionModel") => {
            let config = ClipVisionConfig::from_json(&text).unwrap();
            ("model", formula(&ClipVisionModel::new(&config, 0, &device).unwrap(), prefix))
        }
        _ => {
            let config = ClipTextConfig::from_json(&text).unwrap();
            ("model", formula(&ClipTextModel::new(&config, 0, &device).unwrap(), prefix))
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
        if key.starts_with("tokenizer") && !dir.path().join(key).exists() {
            // One that fills texts up with `!`.
            let padded = name == "sdxl_skip" && key == "tokenizer_2";
            let from = if padded { "tokenizer_files" } else { "tokenizer" };
            copy(&golden().join(from), &dir.path().join(key));
        } else if value.is_array() && dir.path().join(key).join("config.json").exists() {
            fill(&dir.path().join(key), precision);
        }
    }
    // Those of several ControlNets or adapters.
    for further in ["controlnet_1", "adapter_1"].map(|name| dir.path().join(name)) {
        if further.exists() {
            fill(&further, precision);
        }
    }
    dir
}

fn folder(name: &str) -> TempDir {
    folder_in(name, weights::Precision::F32)
}

fn load(dir: &Path) -> Result<Pipeline, PipelineError> {
    Pipeline::load(dir, &Device::flex())
}

fn run(
    pipeline: &Pipeline,
    request: &Request,
    latents: Option<&HostTensor>,
    image: Option<&Image>,
) -> Result<Output, PipelineError> {
    let never = AtomicBool::new(false);
    let inputs = Inputs { image: image.cloned(), noise: latents.cloned(), ..Inputs::default() };
    pipeline.prepare_with(request, inputs)?.run(&never, &mut |_| ControlFlow::Continue(()))
}

/// The picture that ControlNet `i` reads.
fn control_picture(height: usize, width: usize, i: usize) -> Image {
    let mut image = Image::filled(width, height, tweedie_data::Rgb([0, 0, 0]));
    image.pixels.iter_mut().enumerate().for_each(|(at, v)| *v = (at * (53 + 10 * i) % 256) as u8);
    image
}

fn picture(size: usize) -> Image {
    let mut image = Image::filled(size, size, tweedie_data::Rgb([0, 0, 0]));
    image.pixels.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 37 % 256) as u8);
    image
}

/// Images of two steps.
fn two_steps(pipeline: &Pipeline, name: &str) -> Vec<f32> {
    if name == "svd" {
        let request = json!({"steps": 2, "frames": 2, "size": [8, 8]});
        let request = serde_json::from_value(request).unwrap();
        return run(pipeline, &request, None, Some(&picture(8))).unwrap().tensors.values;
    }
    let request = match name {
        "dit" => json!({"classes": [1], "steps": 2}),
        "ldm" => json!({"steps": 2}),
        _ => json!({"prompt": "a red hat", "steps": 2, "seed": 5}),
    };
    let mut request: Request = serde_json::from_value(request).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for i in 0..pipeline.model().controls.len() {
        let path = dir.path().join(format!("{i}.png"));
        control_picture(16, 16, i).save_png(&path).unwrap();
        request.controls.push(Control::new(RecordedFile::of(&path).unwrap()));
    }
    run(pipeline, &request, None, None).unwrap().tensors.values
}
