//! Single-file checkpoints compared with the results of diffusers' converters (`golden/original/make_original.py`).

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tweedie_hub::{
    ClipTokenizer, HubError, Lora, Model, OriginalCheckpoint, Precision, Prediction,
    original::{Family, Part},
    weights,
};
use tweedie_models::{
    AutoencoderKlConfig, ClipTextConfig, HostTensor, TensorSource, UNet2DConditionConfig, export,
};

struct Golden {
    tensors: BTreeMap<String, Vec<usize>>,
    components: BTreeMap<String, Value>,
}

fn golden(family: &str) -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/original/{family}.json"));
    let value: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    Golden {
        tensors: serde_json::from_value(value["tensors"].clone()).unwrap(),
        components: serde_json::from_value(value["components"].clone()).unwrap(),
    }
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

fn values(name: &str, shape: &[usize]) -> HostTensor {
    let start = fnv(name);
    let value = |i: usize| {
        let n = start.wrapping_add((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 40;
        (n as f64 / f64::from(1 << 24) - 0.5) as f32
    };
    HostTensor { shape: shape.to_vec(), values: (0..shape.iter().product()).map(value).collect() }
}

fn digest(part: &Part<'_>) -> String {
    part.names().into_iter().fold(String::new(), |h, name| {
        let tensor = part.read(&name).unwrap();
        assert_eq!(Some(&tensor.shape), part.shape(&name).as_ref(), "{name}");
        let numbers =
            tensor.values.iter().map(|v| ((f64::from(*v) + 0.5) * f64::from(1 << 24)).round() as u64);
        let total = numbers.zip(1u64..).fold(0u64, |sum, (n, i)| sum.wrapping_add(n.wrapping_mul(i)));
        let shape: Vec<_> = tensor.shape.iter().map(ToString::to_string).collect();
        format!("{:016x}", fnv(&format!("{h} {name} {} {total}", shape.join("x"))))
    })
}

/// A checkpoint in its own folder, with its tensors changed by `change`.
fn checkpoint(
    dir: &Path,
    family: &str,
    change: impl Fn(&mut BTreeMap<String, HostTensor>),
) -> (Golden, PathBuf) {
    let golden = golden(family);
    let mut tensors =
        golden.tensors.iter().map(|(name, shape)| (name.clone(), values(name, shape))).collect();
    change(&mut tensors);
    let path = dir.join("model.safetensors");
    weights::write(&path, &tensors, Precision::F32, &BTreeMap::new()).unwrap();
    (golden, path)
}

const FAMILIES: [(&str, Family); 3] = [("sd1", Family::Sd1), ("sd2", Family::Sd2), ("sdxl", Family::Sdxl)];

#[test]
fn components_are_what_diffusers_makes_of_them() {
    for (name, family) in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let (golden, path) = checkpoint(dir.path(), name, |_| {});
        let opened = OriginalCheckpoint::open(&path, None).unwrap();
        assert_eq!(opened.family(), family);
        for (component, expected) in &golden.components {
            let (described, part) = opened.component(component).unwrap();
            let (ours, theirs) = (described.config(), expected["config"].to_string());
            match component.as_str() {
                "unet" => assert_eq!(
                    UNet2DConditionConfig::from_json(ours).unwrap(),
                    UNet2DConditionConfig::from_json(&theirs).unwrap(),
                    "{name}"
                ),
                "vae" => assert_eq!(
                    AutoencoderKlConfig::from_json(ours).unwrap(),
                    AutoencoderKlConfig::from_json(&theirs).unwrap(),
                    "{name}"
                ),
                _ => assert_eq!(
                    ClipTextConfig::from_json(ours).unwrap(),
                    ClipTextConfig::from_json(&theirs).unwrap(),
                    "{name} {component}"
                ),
            }
            assert_eq!(digest(&part), expected["digest"], "{name} {component}");
        }
    }
}

/// A tokenizer of letters.
fn tokenizer(dir: &Path) {
    let letters = ('a'..='z').flat_map(|c| [c.to_string(), format!("{c}</w>")]);
    // As many as the encoders of the golden files have.
    let more = (0..5).map(|i| format!("more{i}"));
    let names = std::iter::once("!".to_owned()).chain(letters).chain(more);
    let names = names.chain(["<|startoftext|>".to_owned(), "<|endoftext|>".to_owned()]);
    let vocabulary: BTreeMap<String, usize> = names.enumerate().map(|(i, name)| (name, i)).collect();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("vocab.json"), serde_json::to_string(&vocabulary).unwrap()).unwrap();
    std::fs::write(dir.join("merges.txt"), "#version: 0.2\n").unwrap();
}

#[test]
fn whole_models_load() {
    let device = tweedie_ops::device("cpu").unwrap();
    for (name, family) in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let (_, path) = checkpoint(dir.path(), name, |_| {});
        let opened = OriginalCheckpoint::open(&path, None).unwrap();
        let error = Model::load_original(&opened, None, &[], &device).unwrap_err().to_string();
        assert!(error.contains("tokenizer"), "{error}");
        tokenizer(&dir.path().join("tokenizer"));
        let model = Model::load_original(&opened, None, &[], &device).unwrap();
        let xl = family == Family::Sdxl;
        assert_eq!(model.kind.name == "StableDiffusionXLPipeline", xl);
        assert_eq!(model.texts.len(), if xl { 2 } else { 1 });
        let pads: Vec<_> = model.texts.iter().map(|text| text.tokenizer.pad).collect();
        assert_eq!(
            pads,
            match family {
                Family::Sd1 => vec![59],
                Family::Sd2 => vec![0],
                Family::Sdxl => vec![59, 0],
            }
        );
        let class = model.scheduler.class_name();
        assert_eq!(class, if xl { "EulerDiscreteScheduler" } else { "PNDMScheduler" });

        // The same as a folder.
        let folder = dir.path().join("folder");
        model.save(&folder, Precision::F32).unwrap();
        let again = Model::load(&folder, &device).unwrap();
        assert_eq!((again.kind, again.scheduler.class_name()), (model.kind, class));
        assert_eq!(again.scheduler.to_json(), model.scheduler.to_json());
        assert_eq!(again.zeros_for_no_negative, model.zeros_for_no_negative);
        let unet = |model: &Model| (model.network.config_json(), model.network.tensors());
        assert!(unet(&again) == unet(&model), "{name}");
        let vae = |model: &Model| {
            let codec = model.codec.as_ref().expect("an autoencoder");
            assert_eq!(codec.spec().class, "AutoencoderKL");
            (codec.config_json(), codec.tensors())
        };
        assert!(vae(&again) == vae(&model), "{name}");
        for (a, b) in again.texts.iter().zip(&model.texts) {
            assert_eq!(a.encoder.config(), b.encoder.config());
            assert!(export(&a.encoder) == export(&b.encoder), "{name}");
            let tokens_of = |t: &ClipTokenizer| (t.begin, t.end, t.pad, t.encode("a cat!"));
            assert_eq!(tokens_of(&a.tokenizer), tokens_of(&b.tokenizer));
        }
        // Nothing is written over other content.
        let error = model.save(dir.path(), Precision::F32).unwrap_err().to_string();
        assert!(error.contains("model_index.json"), "{error}");
        assert!(path.exists());
    }
}

#[test]
fn another_encoders_tokenizer_is_refused() {
    let device = tweedie_ops::device("cpu").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = checkpoint(dir.path(), "sd2", |_| {});
    let tokens = dir.path().join("tokenizer");
    tokenizer(&tokens);
    let file = tokens.join("vocab.json");
    let whole: BTreeMap<String, usize> =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let opened = OriginalCheckpoint::open(&path, None).unwrap();
    for (change, words) in [(-3i64, ["57 tokens", "vocabulary of 60"]), (1, ["up to 60", "vocabulary of 60"])]
    {
        let moved = |(name, id): (&String, &usize)| {
            let by = if *id > 55 || change > 0 { change } else { 0 };
            (name.clone(), (*id as i64 + by) as usize)
        };
        let vocabulary: BTreeMap<String, usize> = whole.iter().map(moved).collect();
        std::fs::write(&file, serde_json::to_string(&vocabulary).unwrap()).unwrap();
        let error = Model::load_original(&opened, None, &[], &device).unwrap_err().to_string();
        assert!(error.contains("text_encoder") && words.iter().all(|w| error.contains(w)), "{error}");
    }
}

#[test]
fn the_prediction_is_given_or_follows_from_the_family() {
    use tweedie_core::Parameterization;
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = checkpoint(dir.path(), "sd2", |_| {});
    for (given, expected) in [(None, Parameterization::V), (Some(Prediction::Eps), Parameterization::Eps)] {
        let opened = OriginalCheckpoint::open(&path, given).unwrap();
        assert_eq!(opened.scheduler().unwrap().process().parameterization, expected);
    }
}

/// The checkpoint of a family with empty tensors of these names and this header.
fn marked(dir: &Path, family: &str, marks: &[&str], metadata: &[(&str, &str)]) -> PathBuf {
    let (golden, path) = checkpoint(dir, family, |_| {});
    let mut tensors: BTreeMap<String, HostTensor> =
        golden.tensors.iter().map(|(name, shape)| (name.clone(), values(name, shape))).collect();
    let empty = |name: &&str| ((*name).to_owned(), HostTensor { shape: vec![0], values: Vec::new() });
    tensors.extend(marks.iter().map(empty));
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    weights::write(&path, &tensors, Precision::F32, &metadata).unwrap();
    path
}

#[test]
fn a_file_says_what_its_network_predicts_and_from_where() {
    let (v, eps) = ("v_prediction", "epsilon");
    let key = "modelspec.prediction_type";
    let none: &[(&str, &str)] = &[];
    for (family, marks, metadata, told, expected) in [
        ("sdxl", &[][..], none, None, (eps, "EulerDiscreteScheduler", false)),
        ("sdxl", &["v_pred"], none, None, (v, "EulerDiscreteScheduler", false)),
        ("sdxl", &["v_pred", "ztsnr"], none, None, (v, "EulerDiscreteScheduler", true)),
        ("sdxl", &["v_pred", "ztsnr"], none, Some(Prediction::Eps), (eps, "EulerDiscreteScheduler", false)),
        ("sdxl", &["ztsnr"], none, Some(Prediction::V), (v, "EulerDiscreteScheduler", true)),
        ("sdxl", &["ztsnr"], &[(key, "v")], None, (v, "EulerDiscreteScheduler", true)),
        ("sdxl", &["v_pred"], &[("ss_zero_terminal_snr", "True")], None, (v, "EulerDiscreteScheduler", true)),
        (
            "sdxl",
            &["v_pred"],
            &[("ss_zero_terminal_snr", "False")],
            None,
            (v, "EulerDiscreteScheduler", false),
        ),
        ("sdxl", &[], &[(key, "epsilon")], None, (eps, "EulerDiscreteScheduler", false)),
        ("sdxl", &["v_pred"], &[(key, "epsilon")], Some(Prediction::V), (v, "EulerDiscreteScheduler", false)),
        ("sd1", &["v_pred", "ztsnr"], none, None, (v, "DDIMScheduler", true)),
        ("sd1", &[], &[(key, "v")], None, (v, "PNDMScheduler", false)),
        ("sd2", &[], &[(key, "epsilon")], None, (eps, "PNDMScheduler", false)),
        (
            "sd2",
            &[],
            &[("modelspec.architecture", "stable-diffusion-v2-512")],
            None,
            (eps, "PNDMScheduler", false),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let opened = OriginalCheckpoint::open(&marked(dir.path(), family, marks, metadata), told).unwrap();
        let scheduler = opened.scheduler().unwrap();
        let found: Value = serde_json::from_str(&scheduler.to_json()).unwrap();
        let zero_snr = found["rescale_betas_zero_snr"] == true;
        let context = format!("{family} {marks:?} {metadata:?} {told:?}");
        assert_eq!(
            (found["prediction_type"].as_str().unwrap(), scheduler.class_name(), zero_snr),
            expected,
            "{context}"
        );
        // Pure noise is where a plan begins, and only there.
        let start = scheduler.resolve(7).unwrap().plan.start;
        assert_eq!(start.alpha < 1e-3, zero_snr, "{context}: {start:?}");
        let said = opened.remarks().join("\n");
        let by_file = told.is_none() && !(marks.is_empty() && metadata.is_empty());
        let usual = (family == "sd2") == (expected.0 == v);
        assert_eq!(said.contains("according to"), zero_snr || by_file && !usual, "{context}: {said}");
    }
}

#[test]
fn what_a_file_says_and_nobody_can_follow_is_an_error() {
    let key = "modelspec.prediction_type";
    for (marks, metadata, words) in [
        (&["v_pred"][..], &[(key, "epsilon")][..], [key, "--prediction"]),
        (&[], &[(key, "flow")], [key, "flow"]),
        (&["edm_vpred.sigma_max"], &[], ["edm_vpred.sigma_max", "EDM"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = marked(dir.path(), "sdxl", marks, metadata);
        let error = OriginalCheckpoint::open(&path, None).err().unwrap().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
}

#[test]
fn a_file_says_for_which_size_it_was_trained() {
    let key = "modelspec.resolution";
    for (text, expected) in
        [("768x512", "[64,96]"), ("1536x1536", "192"), ("large", "128"), ("7x7", "128"), ("1000x1001", "128")]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = marked(dir.path(), "sdxl", &[], &[(key, text)]);
        let opened = OriginalCheckpoint::open(&path, None).unwrap();
        let config: Value = serde_json::from_str(opened.component("unet").unwrap().0.config()).unwrap();
        assert_eq!(config["sample_size"].to_string(), expected, "{text}");
    }
}

#[test]
fn leftovers_are_passed_over_and_said() {
    let device = tweedie_ops::device("cpu").unwrap();
    for (family, leftovers) in [
        ("sd1", &["cond_stage_model.transformer.text_projection.weight", "betas", "model_ema.decay"][..]),
        ("sd2", &["first_stage_model.loss.logvar", "cond_stage_model.model.visual.conv1.weight"]),
        (
            "sdxl",
            &["conditioner.embedders.0.transformer.text_projection.weight", "first_stage_model.loss.logvar"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (golden, path) = checkpoint(dir.path(), family, |tensors| {
            tensors.extend(leftovers.iter().map(|name| ((*name).to_owned(), values(name, &[2, 2]))));
        });
        tokenizer(dir.path());
        let opened = OriginalCheckpoint::open(&path, None).unwrap();
        for (component, expected) in &golden.components {
            assert_eq!(digest(&opened.component(component).unwrap().1), expected["digest"], "{component}");
        }
        Model::load_original(&opened, None, &[], &device).unwrap();
        let said = opened.remarks();
        assert_eq!(said.len(), leftovers.len(), "{said:?}");
        for name in leftovers {
            let named = |remark: &String| {
                let quoted = remark.split('`').nth(1).unwrap();
                if quoted.ends_with('.') { name.starts_with(quoted) } else { *name == quoted }
            };
            assert!(said.iter().any(named), "{name}: {said:?}");
        }
    }
}

/// A change of a checkpoint's tensors.
type Change<'a> = &'a dyn Fn(&mut BTreeMap<String, HostTensor>);

#[test]
fn what_is_wrong_is_named() {
    let error = |family: &str, change: Change<'_>| -> HubError {
        let dir = tempfile::tempdir().unwrap();
        let (_, path) = checkpoint(dir.path(), family, change);
        let device = tweedie_ops::device("cpu").unwrap();
        tokenizer(dir.path());
        let opened = match OriginalCheckpoint::open(&path, None) {
            Ok(opened) => opened,
            Err(e) => return e,
        };
        Model::load_original(&opened, None, &[], &device).unwrap_err()
    };
    let cases: [(&str, Change<'_>, &str); 5] = [
        ("sd2", &|t| t.retain(|name, _| !name.starts_with("first_stage_model.")), "`first_stage_model.`"),
        ("sd2", &|t| t.retain(|name, _| !name.starts_with("cond_stage_model.")), "no text encoder"),
        ("sd2", &|t| drop(t.remove("model.diffusion_model.out.2.weight")), "out.2.weight"),
        (
            "sd2",
            &|t| drop(t.remove("model.diffusion_model.middle_block.0.in_layers.2.bias")),
            "mid_block.resnets.0.conv1.bias",
        ),
        (
            "sd2",
            &|t| drop(t.insert("model.diffusion_model.control.weight".into(), values("x", &[2]))),
            "unexpected tensor `model.diffusion_model.control.weight`",
        ),
    ];
    for (family, change, expected) in cases {
        let found = error(family, change).to_string();
        assert!(found.contains("model.safetensors") && found.contains(expected), "{found}");
    }
}

/// Expected values are from diffusers, by `golden/original/make_lora.py`.
#[test]
fn kohyas_names_mean_what_diffusers_makes_of_them() {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/original/lora.json"),
    );
    let golden: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let pairs: BTreeMap<String, String> = serde_json::from_value(golden["layers"].clone()).unwrap();
    assert!(pairs.len() > 150);
    let number = |n: usize| HostTensor { shape: vec![1, 1], values: vec![n as f32] };
    let mut tensors = BTreeMap::new();
    for (i, stem) in pairs.keys().enumerate() {
        tensors.insert(format!("{stem}.lora_down.weight"), number(1));
        tensors.insert(format!("{stem}.lora_up.weight"), number(i + 1));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    weights::write(&path, &tensors, Precision::F32, &BTreeMap::new()).unwrap();
    let lora = Lora::open(&path, 1.0).unwrap();
    let mut left: BTreeMap<usize, &str> = pairs.keys().map(String::as_str).enumerate().collect();

    let (_, sdxl) = checkpoint(dir.path(), "sdxl", |_| {});
    let sdxl = OriginalCheckpoint::open(&sdxl, None).unwrap();
    for component in ["unet", "text_encoder", "text_encoder_2"] {
        let names = sdxl.component(component).unwrap().1.names();
        let base: BTreeMap<String, HostTensor> = names.into_iter().map(|name| (name, number(0))).collect();
        let merged = lora.merged(component, &base);
        for name in base.keys() {
            let found = merged.read(name).unwrap().values[0] as usize;
            let Some(i) = found.checked_sub(1) else { continue };
            let stem = left.remove(&i).expect(name);
            // The names of diffusers' attention before version 0.22.
            let theirs = pairs[stem].replace(".processor.", ".").replace("to_out_lora", "to_out.0");
            let theirs = match component {
                "unet" => theirs.replace("_lora", ""),
                _ => theirs.replace("attn.to_out.0", "attn.out_proj").replace("attn.to_", "attn."),
            };
            let theirs = if component == "unet" { theirs } else { theirs.replace("_lora", "_proj") };
            assert_eq!(format!("{component}.{name}"), format!("{theirs}.weight"), "{stem}");
        }
    }
    assert!(left.is_empty(), "{left:?}");
    lora.check_used().unwrap();
}
