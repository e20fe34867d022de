//! The layers that LoRA names mean. All names of SDXL are compared with diffusers in `original.rs`.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tweedie_hub::{Lora, Precision, weights};
use tweedie_models::{HostTensor, TensorSource};

/// PEFT's configuration is read from the header, where diffusers stores it, or from PEFT's own file.
#[test]
fn how_much_is_changed_is_told_by_pefts_configuration() {
    let layer = "mid_block.attentions.0.to_q";
    let tensors = |prefix: &str| -> BTreeMap<String, HostTensor> {
        let four = |shape: [usize; 2]| HostTensor { shape: shape.to_vec(), values: vec![1.0; 4] };
        [("A", four([4, 1])), ("B", four([1, 4]))]
            .map(|(factor, tensor)| (format!("{prefix}{layer}.lora_{factor}.weight"), tensor))
            .into()
    };
    let found = |path: &Path| {
        let base = [(format!("{layer}.weight"), HostTensor { shape: vec![1, 1], values: vec![0.0] })].into();
        let lora = Lora::open(path, 0.5).unwrap();
        let base: BTreeMap<String, HostTensor> = base;
        lora.merged("unet", &base).read(&format!("{layer}.weight")).unwrap().values[0]
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("diffusers.safetensors");
    // The change is 4·scale·factor.
    for (header, expected) in [
        (r#"{}"#, 2.0),
        (r#"{"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.lora_alpha": 1}"#, 4.0),
        (r#"{"unet.lora_alpha": 8, "unet.use_rslora": true}"#, 8.0),
        (r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attentions.0.to_q": 2}}"#, 1.0),
        (r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"0.to_k": 2}}"#, 4.0),
    ] {
        let metadata = [("lora_adapter_metadata".to_owned(), header.to_owned())].into();
        weights::write(&path, &tensors("unet."), Precision::F32, &metadata).unwrap();
        assert_eq!(found(&path), expected, "{header}");
    }
    let metadata = [("lora_adapter_metadata".to_owned(), "[".to_owned())].into();
    weights::write(&path, &tensors("unet."), Precision::F32, &metadata).unwrap();
    let error = Lora::open(&path, 1.0).unwrap_err().to_string();
    assert!(error.contains("lora_adapter_metadata"), "{error}");

    let path = dir.path().join("adapter_model.safetensors");
    weights::write(&path, &tensors("base_model.model."), Precision::F32, &Default::default()).unwrap();
    assert_eq!(found(&path), 2.0);
    std::fs::write(dir.path().join("adapter_config.json"), r#"{"lora_alpha": 16, "r": 4}"#).unwrap();
    assert_eq!(found(&path), 8.0);
}

fn file(dir: &Path, tensors: &[(String, HostTensor)]) -> PathBuf {
    let path = dir.join("lora.safetensors");
    let named = tensors.iter().cloned().collect();
    weights::write(&path, &named, Precision::F32, &Default::default()).unwrap();
    path
}

/// The tensor that a change of the layer `stem` applies to.
fn reached(dir: &Path, component: &'static str, stem: &str, names: &[&str]) -> Option<String> {
    let one = HostTensor { shape: vec![1, 1], values: vec![1.0] };
    let (down, up) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
    let (down, up) = match stem.starts_with("lora_") {
        true => (down.replace("lora_A", "lora_down"), up.replace("lora_B", "lora_up")),
        false => (down, up),
    };
    let lora = Lora::open(&file(dir, &[(down, one.clone()), (up, one)]), 1.0).unwrap();
    let zero = HostTensor { shape: vec![1, 1], values: vec![0.0] };
    let base: BTreeMap<_, _> = names.iter().map(|n| (format!("{n}.weight"), zero.clone())).collect();
    let merged = lora.merged(component, &base);
    let mut changed = base.keys().filter(|name| merged.read(name).unwrap().values != [0.0]);
    let first = changed.next().cloned();
    assert_eq!((changed.next(), lora.check_used().is_ok()), (None, first.is_some()), "{stem}");
    first.map(|name| name.trim_end_matches(".weight").to_owned())
}

#[test]
fn text_encoders_have_names_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let q = "encoder.layers.0.self_attn.q_proj";
    let out = "encoder.layers.0.self_attn.out_proj";
    for prefix in ["text_model.", ""] {
        let (q, out) = (format!("{prefix}{q}"), format!("{prefix}{out}"));
        let names = [q.as_str(), out.as_str(), "text_projection"];
        for (component, stem, expected) in [
            ("text_encoder", "lora_te_text_model_encoder_layers_0_self_attn_q_proj", 0),
            ("text_encoder", "lora_te1_text_model_encoder_layers_0_self_attn_out_proj", 1),
            ("text_encoder_2", "lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 0),
            ("text_encoder_2", "lora_te2_text_projection", 2),
            ("text_encoder", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 0),
            ("text_encoder", "text_encoder.text_model.encoder.layers.0.self_attn.to_q", 0),
            ("text_encoder_2", "text_encoder_2.text_model.encoder.layers.0.self_attn.to_out", 1),
            ("text_encoder", "base_model.model.text_model.encoder.layers.0.self_attn.q_proj", 0),
        ] {
            assert_eq!(
                reached(dir.path(), component, stem, &names).as_deref(),
                Some(names[expected]),
                "{stem}"
            );
        }
        for (component, stem) in [
            ("text_encoder_2", "lora_te_text_model_encoder_layers_0_self_attn_q_proj"),
            ("text_encoder", "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"),
            ("text_encoder", "lora_te1_text_model_encoder_layers_1_self_attn_q_proj"),
        ] {
            assert_eq!(reached(dir.path(), component, stem, &names), None, "{stem}");
        }
    }
}

#[test]
fn an_upsampler_without_attention_before_it_is_second() {
    let dir = tempfile::tempdir().unwrap();
    let names =
        ["down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1", "up_blocks.0.upsamplers.0.conv"];
    let stem = |part: usize| format!("lora_unet_output_blocks_2_{part}_conv");
    assert_eq!(reached(dir.path(), "unet", &stem(1), &names).as_deref(), Some(names[2]));
    assert_eq!(reached(dir.path(), "unet", &stem(2), &names), None);
    // PEFT with the U-Net alone.
    let stem = "base_model.model.up_blocks.0.upsamplers.0.conv";
    assert_eq!(reached(dir.path(), "unet", stem, &names).as_deref(), Some(names[2]));
}
