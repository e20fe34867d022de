//! diffusers' pipelines of sounds with texts: folders are read, and make the same sounds. `golden/sounds/make_sounds.py` wrote
//! the expected ones.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../models/tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use common::{sample, weight};
use serde_json::{Value, json};
use tempfile::TempDir;
use tweedie_hub::{Precision, RobertaTokenizer, SafetensorsFile, UnigramTokenizer, weights};
use tweedie_models::{HostTensor, TensorSource};
use tweedie_ops::{Batch, SampleShape, to_host};
use tweedie_pipe::{Inputs, NoiseOfRows, Pipeline, Request, media::Media};

/// Relative to the sounds' root mean square.
const TOLERANCE: f64 = 1e-3;

/// Fresh noise of zeros, as in the golden files, so that stochastic samplers can be compared.
struct Still;

impl NoiseOfRows for Still {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, _: u64, device: &Device) -> Batch {
        Batch::from_host(vec![0.0; rows.len() * shape.len()], rows.len(), shape, device)
    }
}

/// A pipeline of diffusers, its folder, and what it makes.
struct Published {
    golden: SafetensorsFile,
    dir: TempDir,
}

impl Published {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sounds");
        let golden = SafetensorsFile::open(&path.join(format!("{name}.safetensors"))).unwrap();
        let published = Self { golden, dir: tempfile::tempdir().unwrap() };
        let files: BTreeMap<String, String> = serde_json::from_value(published.json("files")).unwrap();
        for (name, text) in files {
            let path = published.path(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let names: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
            serde_json::from_value(published.json("names")).unwrap();
        let index: Value =
            serde_json::from_str(&fs::read_to_string(published.path("model_index.json")).unwrap()).unwrap();
        for (component, shapes) in names {
            let tensors = shapes.iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect();
            let stem =
                if index[&component][0] == "transformers" { "model" } else { "diffusion_pytorch_model" };
            let file = published.path(&format!("{component}/{stem}.safetensors"));
            weights::write(&file, &tensors, Precision::F32, &BTreeMap::new()).unwrap();
        }
        published
    }

    fn json(&self, key: &str) -> Value {
        serde_json::from_str(&self.golden.metadata()[key]).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes a file of JSON.
    fn change(&self, name: &str, change: impl Fn(&mut Value)) {
        let mut value = serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(name), value.to_string()).unwrap();
    }

    fn load(&self) -> Pipeline {
        Pipeline::load(self.dir.path(), &Device::flex()).unwrap()
    }

    fn refusal(&self) -> String {
        match Pipeline::load(self.dir.path(), &Device::flex()) {
            Ok(_) => panic!("the folder is loaded"),
            Err(e) => e.to_string(),
        }
    }

    /// The request of a case, and its noise.
    fn case(&self, name: &str) -> (Request, HostTensor) {
        let case = &self.json("cases")[name];
        let shape: Vec<usize> = serde_json::from_value(self.json("shapes")[name].clone()).unwrap();
        let values = match *shape {
            [a, b, c] => to_host(sample(&format!("{name}.noise"), [a, b, c], &Device::flex())),
            [a, b, c, d] => to_host(sample(&format!("{name}.noise"), [a, b, c, d], &Device::flex())),
            _ => panic!("{shape:?}"),
        };
        let number = |key: &str| case.get(key).and_then(Value::as_f64);
        let start = number("audio_start_in_s");
        let lasting = number("audio_end_in_s").map(|end| end - start.unwrap_or(0.0));
        let request = Request {
            count: NonZeroUsize::new(2).unwrap(),
            steps: NonZeroUsize::new(4),
            prompts: serde_json::from_value(self.json("prompts")).unwrap(),
            negative_prompt: case.get("negative_prompt").and_then(Value::as_str).map(str::to_owned),
            guidance: number("guidance_scale"),
            seconds: number("audio_length_in_s").or(lasting),
            start,
            ..Request::default()
        };
        (request, HostTensor { shape, values })
    }

    fn compare(&self, pipeline: &Pipeline, name: &str) {
        let (request, noise) = self.case(name);
        let inputs = Inputs { noise: Some(noise), draws: Some(Arc::new(Still)), ..Inputs::default() };
        let job = pipeline.prepare_with(&request, inputs).unwrap();
        let output = job.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(())).unwrap();
        let expected = self.golden.read(name).unwrap();
        assert_eq!(output.tensors.values.len(), expected.values.len(), "{name}: {:?}", output.tensors.shape);
        assert_eq!(output.tensors.shape.last(), expected.shape.last(), "{name}");
        let n = expected.values.len() as f64;
        let rms = (expected.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n).sqrt();
        let pairs = output.tensors.values.iter().zip(&expected.values);
        let worst = pairs.map(|(f, e)| f64::from((f - e).abs()));
        let worst = worst.fold(0.0, |a: f64, d| if d.is_nan() { f64::INFINITY } else { a.max(d) }) / rms;
        eprintln!("{name}: {worst:.1e} of RMS");
        assert!(worst < TOLERANCE, "{name}: {worst:.1e}");
        assert!(matches!(&output.media, Media::Audio(sounds) if sounds.len() == 2));
    }
}

fn error(pipeline: &Pipeline, request: &Request) -> String {
    match pipeline.prepare(request) {
        Ok(_) => panic!("accepted: {request:?}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn roberta_tokens_are_those_of_transformers() {
    let published = Published::new("audio_ldm");
    let texts: Vec<String> = serde_json::from_value(published.json("texts")).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(published.json("ids")).unwrap();
    let folder = published.path("tokenizer");
    let compare = || {
        let tokenizer = RobertaTokenizer::open(&folder).unwrap();
        for (text, ids) in texts.iter().zip(&ids) {
            assert_eq!(tokenizer.encode(text), *ids, "{text:?}");
        }
    };
    compare();
    // The same in the older files.
    let file = folder.join("tokenizer.json");
    let json: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let lines: Vec<String> = (json["model"]["merges"].as_array().unwrap().iter())
        .map(|pair| format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    fs::write(folder.join("vocab.json"), json["model"]["vocab"].to_string()).unwrap();
    fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}", lines.concat())).unwrap();
    fs::remove_file(&file).unwrap();
    compare();
    let clip = json!({ "model": { "type": "BPE", "end_of_word_suffix": "</w>", "vocab": {}, "merges": [] } });
    fs::write(&file, clip.to_string()).unwrap();
    let reason = RobertaTokenizer::open(&folder).unwrap_err().to_string();
    assert!(reason.contains("not RoBERTa's tokenizer"), "{reason}");
}

#[test]
fn unigram_tokens_are_those_of_transformers() {
    let published = Published::new("stable_audio");
    let texts: Vec<String> = serde_json::from_value(published.json("texts")).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(published.json("ids")).unwrap();
    let folder = published.path("tokenizer");
    let tokenizer = UnigramTokenizer::open(&folder).unwrap();
    assert_eq!(tokenizer.length(), 16);
    for (text, ids) in texts.iter().zip(&ids) {
        assert_eq!(tokenizer.encode(text), *ids, "{text:?}");
    }
    let refusal = || UnigramTokenizer::open(&folder).unwrap_err().to_string();
    published.change("tokenizer/tokenizer_config.json", |json| json["model_max_length"] = json!(1e30));
    assert!(refusal().contains("`model_max_length`"), "{}", refusal());
    published.change("tokenizer/tokenizer.json", |json| json["pre_tokenizer"] = json!({ "type": "Digits" }));
    assert!(refusal().contains("`Digits` is not supported"), "{}", refusal());
    published.change("tokenizer/tokenizer.json", |json| json["model"]["type"] = json!("BPE"));
    assert!(refusal().contains("not T5's tokenizer"), "{}", refusal());
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert!(refusal().contains("tokenizer.json is missing"), "{}", refusal());
}

#[test]
fn stable_audio_makes_the_sounds_of_diffusers() {
    let published = Published::new("stable_audio");
    let pipeline = published.load();
    assert_eq!((pipeline.axes(), pipeline.rate(), pipeline.native_size()), (1, Some(400), Some(vec![192])));
    for name in ["guided", "default", "later"] {
        published.compare(&pipeline, name);
    }
}

#[test]
fn what_stable_audio_cannot_do_is_said() {
    let published = Published::new("stable_audio");
    let pipeline = published.load();
    let (request, _) = published.case("guided");
    for (request, words) in [
        (
            Request { seconds: Some(0.5), ..request.clone() },
            "until second 0.50, but this model's last until 0.48",
        ),
        (Request { start: Some(0.3), ..request.clone() }, "until second 0.55"),
        (Request { start: Some(-0.1), ..request.clone() }, "-0.1: expected 0 or more seconds"),
        (Request { start: Some(1.0), seconds: None, ..request.clone() }, "until second 1.00"),
        (Request { prompts: vec!["rain ".repeat(30)], ..request.clone() }, "expected at most 16"),
        (Request { size: Some(vec![96]), seconds: None, ..request.clone() }, "only makes sounds of 192"),
    ] {
        let found = error(&pipeline, &request);
        assert!(found.contains(words), "{found}");
    }
    let ldm = Published::new("audio_ldm");
    let request = Request { start: Some(0.1), ..ldm.case("guided").0 };
    let found = error(&ldm.load(), &request);
    assert!(found.contains("does not make parts of longer sounds"), "{found}");
    let published = Published::new("stable_audio");
    published.change("projection_model/config.json", |json| json["max_value"] = json!(0.2));
    let found = error(&published.load(), &published.case("guided").0);
    assert!(found.contains("knows those from 0 to 0.2"), "{found}");
}

#[test]
fn audio_ldm_makes_the_sounds_of_diffusers() {
    let published = Published::new("audio_ldm");
    let pipeline = published.load();
    assert!(pipeline.reads_texts());
    assert_eq!((pipeline.axes(), pipeline.rate(), pipeline.native_size()), (1, Some(4000), Some(vec![640])));
    for name in ["guided", "default", "unguided"] {
        published.compare(&pipeline, name);
    }
}

#[test]
fn a_sound_is_the_same_in_every_batch() {
    let pipeline = Published::new("audio_ldm").load();
    let (request, _) = Published::new("audio_ldm").case("guided");
    let run = |request: &Request| pipeline.run(request, &mut |_| ControlFlow::Continue(())).unwrap().tensors;
    let both = run(&request);
    let first = run(&Request { count: NonZeroUsize::MIN, ..request.clone() });
    let chunked = run(&Request { chunk: NonZeroUsize::new(1), ..request });
    assert_eq!(both.values[..first.values.len()], first.values);
    assert_eq!(both.values, chunked.values);
}

#[test]
fn what_audio_ldm_cannot_do_is_said() {
    let published = Published::new("audio_ldm");
    let pipeline = published.load();
    let (request, _) = published.case("guided");
    let prompt = |text: &str| vec![text.to_owned()];
    for (request, words) in [
        (Request { prompts: Vec::new(), ..request.clone() }, "expected a prompt"),
        (Request { prompts: prompt("a (loud:1.4) dog"), ..request.clone() }, "`loud` has the weight 1.4"),
        (Request { prompts: prompt(&"rain ".repeat(40)), ..request.clone() }, "expected 1 to 32"),
        (Request { clip_skip: Some(1), ..request.clone() }, "clip_skip"),
        (Request { seconds: Some(f64::NAN), ..request.clone() }, "expected a positive number of seconds"),
        (Request { seconds: Some(-1.0), ..request.clone() }, "-1: expected a positive number"),
        (Request { seconds: Some(1e9), ..request.clone() }, "expected at most"),
        (Request { size: Some(vec![800]), ..request.clone() }, "expected one of both"),
        (Request { size: Some(vec![801]), seconds: None, ..request.clone() }, "multiples of 80"),
        (Request { classes: Some(vec!["1".parse().unwrap()]), ..request.clone() }, "no classes"),
        (Request { voice: Some("ann".into()), ..request }, "does not speak"),
    ] {
        let found = error(&pipeline, &request);
        assert!(found.contains(words), "{found}");
    }
}

#[test]
fn folders_whose_parts_do_not_fit_are_refused() {
    let published = Published::new("audio_ldm");
    published.change("vae/config.json", |config| config["out_channels"] = json!(3));
    assert!(published.refusal().contains("vae"), "{}", published.refusal());
    let published = Published::new("audio_ldm");
    fs::remove_dir_all(published.path("vocoder")).unwrap();
    assert!(published.refusal().contains("vocoder"), "{}", published.refusal());
    let published = Published::new("audio_ldm");
    published.change("model_index.json", |index| index["vocoder"] = json!([null, null]));
    assert!(published.refusal().contains("`vocoder`"), "{}", published.refusal());
    let published = Published::new("audio_ldm");
    published.change("tokenizer/tokenizer.json", |json| json["model"]["vocab"]["zz"] = json!(5000));
    assert!(published.refusal().contains("up to 5000"), "{}", published.refusal());
}
