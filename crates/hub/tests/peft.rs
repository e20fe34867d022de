//! Adapters of PEFT, diffusers, kohya's scripts and LyCORIS against what Python merges them into. `golden/peft` tells how
//! they were made.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tweedie_hub::{Lora, Precision, SafetensorsFile, weights};
use tweedie_models::{HostTensor, TensorSource};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft")
}

/// The tensors of `expected.safetensors` under `case/`, and the scale of the merge.
fn expected(case: &str) -> (BTreeMap<String, HostTensor>, f64) {
    let file = SafetensorsFile::open(&golden().join("expected.safetensors")).unwrap();
    let under = |name: String| {
        let own = name.strip_prefix(case)?.strip_prefix('/')?.to_owned();
        Some((own, file.read(&name).unwrap()))
    };
    let tensors = file.names().into_iter().filter_map(under).collect();
    (tensors, file.metadata()["scale"].parse().unwrap())
}

/// The largest difference of a merged weight to Python's, of the root mean square of what was changed.
fn difference(case: &str, file: &str) -> f64 {
    let (merged, scale) = expected(case);
    let (base, _) = expected(if case == "diffusers" { "unet" } else { "base" });
    // PEFT merges whole adapters.
    let scale = if file == "adapter_model" { 1.0 } else { scale };
    let lora = Lora::open(&golden().join(case).join(format!("{file}.safetensors")), scale).unwrap();
    let (mut worst, mut square, mut count) = (0f64, 0f64, 0usize);
    let ours = lora.merged("unet", &base);
    for (name, expected) in &merged {
        let found = ours.read(name).unwrap();
        assert_eq!(found.shape, expected.shape, "{case}: {name}");
        for ((found, expected), before) in found.values.iter().zip(&expected.values).zip(&base[name].values) {
            worst = worst.max(f64::from((found - expected).abs()));
            square += f64::from(expected - before).powi(2);
            count += 1;
        }
    }
    lora.check_used().unwrap();
    assert!(square > 0.0, "{case}");
    worst / (square / count as f64).sqrt()
}

#[test]
fn merged_weights_are_those_of_python() {
    let mut wrong = Vec::new();
    for (file, cases) in [
        (
            "adapter_model",
            &[
                "patterns",
                "rslora",
                "named",
                "dora",
                "dora_named",
                "loha",
                "loha_tucker",
                "lokr",
                "lokr_tucker",
                "lokr_whole",
            ][..],
        ),
        ("pytorch_lora_weights", &["diffusers"]),
        ("lora", &["locon_tucker", "dora_by_output", "dora_by_input", "lokr_kohya"]),
    ] {
        for case in cases {
            let worst = difference(case, file);
            if worst.is_nan() || worst > 1e-5 {
                wrong.push(format!("{case}: {worst:.1e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A copy of the case with another configuration.
fn configured(dir: &Path, case: &str, change: impl Fn(&mut Value)) -> PathBuf {
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(golden().join(case).join(name), dir.join(name)).unwrap();
    }
    let config = dir.join("adapter_config.json");
    let mut value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    change(&mut value);
    fs::write(&config, value.to_string()).unwrap();
    dir.join("adapter_model.safetensors")
}

#[test]
fn what_a_configuration_asks_for_and_is_not_done_is_refused() {
    for (key, value, words) in [
        ("peft_type", json!("OFT"), ["peft_type", "LORA, LOHA, LOKR"]),
        ("fan_in_fan_out", json!(true), ["fan_in_fan_out", "transposed"]),
        (
            "init_lora_weights",
            json!("pissa_niter_4"),
            ["pissa_niter_4", "path_initial_model_for_weight_conversion"],
        ),
        ("alpha_pattern", json!({"(?!x)to_q": 3}), ["alpha_pattern", "(?!x)to_q"]),
        ("alpha_pattern", json!({"to_q": "3"}), ["alpha_pattern", "a number"]),
        ("rank_pattern", json!([3]), ["rank_pattern", "an object"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = configured(dir.path(), "patterns", |config| config[key] = value.clone());
        let error = Lora::open(&path, 1.0).unwrap_err().to_string();
        let named = error.contains("adapter_config.json") && words.iter().all(|w| error.contains(w));
        assert!(named, "{key}: {error}");
    }
}

fn written(dir: &Path, tensors: &[(&str, &[usize])]) -> PathBuf {
    let of = |(name, shape): &(&str, &[usize])| {
        let values = vec![0.5; shape.iter().product()];
        ((*name).to_owned(), HostTensor { shape: shape.to_vec(), values })
    };
    let path = dir.join("lora.safetensors");
    weights::write(&path, &tensors.iter().map(of).collect(), Precision::F32, &BTreeMap::new()).unwrap();
    path
}

#[test]
fn changes_that_do_not_hold_together_are_refused() {
    let layer = "unet.mid_block.attn1.to_q";
    let full = |ends: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        ends.iter().map(|(end, shape)| (format!("{layer}.{end}"), shape.to_vec())).collect()
    };
    for (ends, words) in [
        (&[("hada_w1_a", &[4, 2][..]), ("hada_w1_b", &[2, 3]), ("hada_w2_a", &[4, 2])][..], "hada_w2_b"),
        (&[("lokr_w1", &[2, 2]), ("lokr_w2_a", &[2, 1])], "lokr_w2_b"),
        (&[("lora_A.weight", &[2, 3]), ("lora_B.weight", &[4, 2]), ("lokr_w1", &[2, 2])], "another format"),
        (
            &[("hada_w1_a", &[4, 2]), ("hada_w1_b", &[2, 3]), ("hada_w2_a", &[4, 2]), ("hada_w2_b", &[2, 4])],
            "[4, 4]",
        ),
        (
            &[("lora_down.weight", &[2, 3]), ("lora_mid.weight", &[3, 3, 1, 1]), ("lora_up.weight", &[4, 2])],
            "[3, 3, 1, 1]",
        ),
        (&[("dora_scale", &[4, 1])], "dora_scale"),
        (&[("alpha", &[])], "without LoRA weights"),
        (&[("lora_A.a.weight", &[2, 3]), ("lora_B.b.weight", &[4, 2])], "adapters a, b"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let named = full(ends);
        let named: Vec<(&str, &[usize])> = named.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
        let error = Lora::open(&written(dir.path(), &named), 1.0).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    // Found only beside the weights.
    let dir = tempfile::tempdir().unwrap();
    let named = full(&[("lora_A.weight", &[2, 3]), ("lora_B.weight", &[4, 2]), ("dora_scale", &[5, 1])]);
    let named: Vec<(&str, &[usize])> = named.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let lora = Lora::open(&written(dir.path(), &named), 1.0).unwrap();
    let weight = HostTensor { shape: vec![4, 3], values: vec![1.0; 12] };
    let base: BTreeMap<_, _> = [("mid_block.attn1.to_q.weight".to_owned(), weight)].into();
    let error = lora.merged("unet", &base).read("mid_block.attn1.to_q.weight").unwrap_err();
    assert!(error.contains("DoRA has 5 outputs"), "{error}");
}

#[test]
fn values_that_are_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let name = "unet.mid_block.attn1.to_q.lora_A.weight";
    let tensor = |values: Vec<f32>| HostTensor { shape: vec![1, 2], values };
    let tensors = [
        (name.to_owned(), tensor(vec![1.0, f32::INFINITY])),
        (name.replace("_A", "_B"), HostTensor { shape: vec![2, 1], values: vec![1.0; 2] }),
    ];
    let path = dir.path().join("lora.safetensors");
    weights::write(&path, &tensors.into(), Precision::F32, &BTreeMap::new()).unwrap();
    let error = Lora::open(&path, 1.0).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("inf"), "{error}");
}

#[test]
fn embeddings_that_come_with_a_change_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let layer = "lora_unet_mid_block_attn1_to_q";
    let (down, up) = (format!("{layer}.lora_down.weight"), format!("{layer}.lora_up.weight"));
    let path = written(
        dir.path(),
        &[
            (&down, &[1, 2]),
            (&up, &[2, 1]),
            ("bundle_emb.my cat.clip_l", &[2, 8]),
            ("bundle_emb.my cat.clip_g", &[2, 8]),
            ("bundle_emb.toy.string_to_param.*", &[1, 8]),
        ],
    );
    let lora = Lora::open(&path, 1.0).unwrap();
    let said = lora.remarks().join("\n");
    assert!(said.contains("`my cat`, `toy`") && said.contains("skipped the embedding"), "{said}");
}
