//! Latent models: their networks, and images for prompts. The folders are golden ones of the pipelines, with weights made
//! here.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use serde_json::{Value, json};

use crate::{
    common::Scratch,
    http::Served,
    serve_apis::pixels,
    tensors::{self, Tensor},
};

pub fn golden() -> &'static Path {
    static GOLDEN: LazyLock<std::path::PathBuf> =
        LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipe/tests/golden/latent"));
    &GOLDEN
}

/// The folder `sd1` with weights: the program says which tensors it misses.
pub fn model(scratch: &Scratch) {
    scratch.copy(&golden().join("sd1"), "sd");
    scratch.copy(&golden().join("tokenizer"), "sd/tokenizer");
    for (component, file) in
        [("vae", "diffusion_pytorch_model"), ("unet", "diffusion_pytorch_model"), ("text_encoder", "model")]
    {
        fill(scratch, &format!("sd/{component}"), file);
    }
}

/// The golden folder `from` as the model `name`, with weights and tokenizers.
fn pipeline(scratch: &Scratch, from: &str, name: &str) {
    scratch.copy(&golden().join(from), name);
    let index = fs::read_to_string(scratch.path(&format!("{name}/model_index.json"))).unwrap();
    for (part, class) in serde_json::from_str::<Value>(&index).unwrap().as_object().unwrap() {
        let folder = format!("{name}/{part}");
        let listed = class.as_array().is_some_and(|pair| pair.iter().all(Value::is_string));
        if listed && part.starts_with("tokenizer") {
            scratch.copy(&golden().join("tokenizer"), &folder);
        } else if listed && scratch.path(&format!("{folder}/config.json")).exists() {
            let stem = if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
            fill(scratch, &folder, stem);
        }
    }
}

/// Writes the weights of the component `folder` into a file.
pub fn fill(scratch: &Scratch, folder: &str, file: &str) {
    let shapes = shapes(&scratch.path(&format!("{folder}/config.json")));
    let tensors: Vec<(String, Tensor)> = shapes.into_iter().map(|(n, s)| (n, tensors::ramp(&s))).collect();
    let borrowed: Vec<(&str, Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    scratch.write(&format!("{folder}/{file}.safetensors"), tensors::file(&borrowed));
}

/// Names and shapes of a component's tensors.
fn shapes(config: &Path) -> BTreeMap<String, Vec<usize>> {
    use tweedie::{models::*, ops::Device};
    let text = fs::read_to_string(config).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let device = Device::flex();
    match value["_class_name"].as_str() {
        Some("AutoencoderKL") => {
            let config = AutoencoderKlConfig::from_json(&text).unwrap();
            params::shapes(&AutoencoderKl::new(&config, 0, &device).unwrap())
        }
        Some("AutoencoderTiny") => {
            let config = AutoencoderTinyConfig::from_json(&text).unwrap();
            params::shapes(&AutoencoderTiny::new(&config, 0, &device).unwrap())
        }
        Some("VQModel") => {
            let config = VqModelConfig::from_json(&text).unwrap();
            params::shapes(&VqModel::new(&config, 0, &device).unwrap())
        }
        Some("UNet2DModel") => {
            let config = UNet2DConfig::from_json(&text).unwrap();
            params::shapes(&UNet2DModel::new(&config, 0, &device).unwrap())
        }
        Some("ControlNetModel") => {
            let config = ControlNetConfig::from_json(&text).unwrap();
            params::shapes(&ControlNetModel::new(&config, 0, &device).unwrap())
        }
        Some("PriorTransformer") => {
            let config = PriorConfig::from_json(&text).unwrap();
            params::shapes(&PriorTransformer::new(&config, 0, &device).unwrap())
        }
        Some("UnCLIPTextProjModel") => {
            let config = EmbeddingProjectionConfig::from_json(&text).unwrap();
            params::shapes(&EmbeddingProjection::new(&config, 0, &device))
        }
        Some(_) => {
            let config = UNet2DConditionConfig::from_json(&text).unwrap();
            params::shapes(&UNet2DConditionModel::new(&config, 0, &device).unwrap())
        }
        None => {
            let config = ClipTextConfig::from_json(&text).unwrap();
            params::shapes(&ClipTextModel::new(&config, 0, &device).unwrap())
        }
    }
}

/// Names and shapes of the outputs of `debug run`.
fn answer(scratch: &Scratch, component: &str, inputs: &[(&str, Tensor)]) -> Vec<(String, Vec<usize>)> {
    scratch.write("in.safetensors", tensors::file(inputs));
    scratch.ok(&["debug", "run", component, "--inputs", "in.safetensors", "--outputs", "out.safetensors"]);
    let mut found: Vec<_> = (tensors::unpack(&scratch.path("out.safetensors")).into_iter())
        .map(|(name, shape, bytes)| {
            assert!(tensors::values(&bytes).iter().all(|v| v.is_finite()), "{name}");
            (name, shape)
        })
        .collect();
    found.sort();
    found
}

fn named(name: &str, shape: &[usize]) -> (String, Vec<usize>) {
    (name.to_owned(), shape.to_vec())
}

/// The latents' own size shifts the levels; the weights are not needed.
#[test]
fn plans_of_latents_have_their_shift() {
    let scratch = Scratch::new();
    scratch.copy(&golden().join("sd1"), "sd");
    let config = fs::read_to_string(scratch.path("sd/unet/config.json")).unwrap();
    let side = serde_json::from_str::<Value>(&config).unwrap()["sample_size"].as_u64().unwrap();
    let dynamic = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#;
    scratch.write("sd/scheduler/scheduler_config.json", dynamic);
    let plan = |more: &[&str]| scratch.ok(&[&["plan", "--model", "sd", "--json"][..], more].concat()).json();
    let mu = 0.5 + (side.div_ceil(2).pow(2) as f64 - 256.0) * (1.15 - 0.5) / (4096.0 - 256.0);
    assert_eq!(plan(&[]), plan(&["--mu", &mu.to_string()]));
}

#[test]
fn networks_answer_by_name() {
    let scratch = Scratch::new();
    model(&scratch);
    let found = answer(&scratch, "sd/vae", &[("sample", tensors::ramp(&[1, 3, 8, 12]))]);
    let latents = [1, 4, 4, 6];
    let expected =
        [named("decoded", &[1, 3, 8, 12]), named("latent_logvar", &latents), named("latent_mean", &latents)];
    assert_eq!(found, expected);
    let found = answer(&scratch, "sd/vae", &[("latents", tensors::ramp(&latents))]);
    assert_eq!(found, [named("decoded", &[1, 3, 8, 12])]);
    let ids = ("input_ids", (vec![1, 3], vec![5.0, 7.0, 9.0]));
    let found = answer(&scratch, "sd/text_encoder", &[ids]);
    let hidden = [1, 3, 24];
    let expected = [
        named("last_hidden_state", &hidden),
        named("penultimate_hidden_state", &hidden),
        named("pooler_output", &[1, 24]),
    ];
    assert_eq!(found, expected);
    let unet = [
        ("sample", tensors::ramp(&[2, 4, 8, 8])),
        ("timestep", (vec![], vec![7.0])),
        ("encoder_hidden_states", tensors::ramp(&[2, 5, 24])),
    ];
    assert_eq!(answer(&scratch, "sd/unet", &unet), [named("sample", &[2, 4, 8, 8])]);

    for (component, inputs, words) in [
        ("sd/unet", &unet[..2], &["text"][..]),
        ("sd/vae", &unet[..1], &["4 channels", "3"]),
        ("sd/vae", &[("latents", tensors::ramp(&[1, 3, 4, 4]))], &["latents", "3 channels", "4"]),
        ("sd/vae", &[("sample", tensors::ramp(&[1, 3, 7, 8]))], &["7×8", "multiples of 2"]),
        ("sd/vae", &[], &["`sample` or `latents`"]),
        ("sd/text_encoder", &[("input_ids", (vec![1, 1], vec![1e6]))], &["token id 1000000"]),
        ("sd/text_encoder", &[("input_ids", (vec![1, 80], vec![1.0; 80]))], &["80 tokens", "77"]),
        ("sd/text_encoder", &unet[..1], &["`sample`", "input_ids"]),
    ] {
        scratch.write("in.safetensors", tensors::file(inputs));
        let run = ["debug", "run", component, "--inputs", "in.safetensors", "--outputs", "none.safetensors"];
        scratch.fails(&run, words);
    }
}

#[test]
fn prompts_make_pictures() {
    let scratch = Scratch::new();
    model(&scratch);
    let run = ["sample", "-m", "sd", "-p", "a (red:1.2) cat", "--negative-prompt", "hat", "--steps", "2"];
    let ran =
        scratch
            .ok(&[&run[..], &["--json", "-n", "2", "-o", "a.png", "--save-tensors", "a.safetensors"]]
                .concat());
    let last = ran.json().pop().unwrap();
    assert_eq!(last["request"]["prompt"], json!("a (red:1.2) cat"));
    let (shape, first) = tensors::only(&scratch.path("a.safetensors"), "samples");
    assert_eq!(shape, [2, 3, 16, 16]);
    // The request is in the picture.
    scratch.ok(&["sample", "-m", "sd", "--like", "a.png", "-o", "b.png", "--save-tensors", "b.safetensors"]);
    assert_eq!(tensors::only(&scratch.path("b.safetensors"), "samples").1, first);
    // From a picture.
    let begin = ["--image", "a.png", "--strength", "0.5", "--steps", "4", "-o", "c.png", "--vae-tile", "16"];
    scratch.ok(&[&["sample", "-m", "sd", "-p", "a cat"][..], &begin].concat());
    assert!(scratch.path("c.png").exists());

    // Of another aspect: a picture's own, or what is asked for.
    let wide = ["sample", "-m", "sd", "-p", "a cat", "--steps", "2", "--size", "32x8", "-o", "wide.png"];
    scratch.ok(&[&wide[..], &["--save-tensors", "wide.safetensors", "--singles", "wide"]].concat());
    assert_eq!(tensors::only(&scratch.path("wide.safetensors"), "samples").0, [1, 3, 8, 32]);
    let begin =
        ["sample", "-m", "sd", "-p", "a cat", "--steps", "4", "--image", "wide/0000.png", "-o", "c.png"];
    for (size, shape) in [(&[][..], [1, 3, 8, 32]), (&["--size", "16x24"], [1, 3, 24, 16])] {
        scratch.ok(&[&begin[..], &["--save-tensors", "c.safetensors"], size].concat());
        assert_eq!(tensors::only(&scratch.path("c.safetensors"), "samples").0, shape);
    }

    // The moments of a run.
    let film =
        ["--filmstrip", "film.png", "--animation", "film.gif", "--preview-vae", "sd/vae", "-o", "e.png"];
    scratch.ok(&[&run[..], &film].concat());
    scratch.ok(&[&run[..], &["--filmstrip", "own.png", "--noisy", "-o", "e.png"]].concat());
    assert!(scratch.path("film.gif").exists() && scratch.path("own.png").exists());

    // Changed weights make another picture; a change of nothing makes the same.
    let stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let change = |scale: f32| {
        let (down, up) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
        let big = (vec![32, 1], vec![scale; 32]);
        scratch.write("lora.safetensors", tensors::file(&[(&down, tensors::ramp(&[1, 32])), (&up, big)]));
        let flags =
            ["--lora", "lora.safetensors:0.5", "-n", "2", "-o", "d.png", "--save-tensors", "d.safetensors"];
        scratch.ok(&[&run[..], &flags].concat());
        tensors::only(&scratch.path("d.safetensors"), "samples").1
    };
    assert_eq!(change(0.0), first);
    assert_ne!(change(9.0), first);
    scratch.write("bad.safetensors", tensors::file(&[("strange", tensors::ramp(&[1]))]));

    for (flags, words) in [
        (&["-p", "cat", "--lora", "bad.safetensors"][..], &["bad.safetensors", "`strange`"][..]),
        (&["-p", "cat", "--size", "17"], &["`size`", "multiples of 2"]),
        (&["-p", "cat", "--size", "16x17"], &["`size`", "17×16", "multiples of 2"]),
        (&["-p", "cat", "--size", "16x"], &["--size", "768x512"]),
        (&["-p", "cat", "--preview-vae", "sd/vae"], &["--preview-vae", "--filmstrip"]),
        (&["-p", "cat", "--preview-vae", "sd/unet", "--filmstrip", "f.png"], &["sd/unet", "AutoencoderTiny"]),
        (&[], &["`prompt`"]),
        (&["-p", "cat", "--image", "none.png"], &["none.png"]),
        (&["-p", "cat", "--image", "a.png", "--strength", "0"], &["`strength`", "≤ 1"]),
        (&["-p", "cat", "--image", "a.png", "--strength", "1.01"], &["`strength`", "1.01", "≤ 1"]),
        (&["-p", "cat", "--image", "a.png", "--strength=-0.5"], &["`strength`", "-0.5", "> 0"]),
        (&["-p", "cat", "--image", "a.png", "--strength", "nan"], &["`strength`", "NaN"]),
        (&["-p", "cat", "--image", "a.png", "--strength", "inf"], &["`strength`", "inf"]),
        (&["-p", "cat", "--solver", "ddpm-learned"], &["`solver`", "`ddpm-learned` needs"]),
    ] {
        scratch.fails(&[&["sample", "-m", "sd", "-o", "d.png"][..], flags].concat(), words);
    }
    scratch.fails(
        &["sample", "-m", crate::common::model(), "-p", "cat"],
        &["`prompt`", "does not support prompts"],
    );
    fs::remove_dir_all(scratch.path("sd/vae")).unwrap();
    scratch.fails(&["sample", "-m", "sd", "-p", "cat"], &["vae", "missing"]);
}

#[test]
fn a_refiner_makes_the_last_steps() {
    let scratch = Scratch::new();
    model(&scratch);
    pipeline(&scratch, "sdxl", "xl");
    pipeline(&scratch, "refiner", "refiner");
    let run = ["sample", "-m", "xl", "-p", "a cat", "--steps", "5"];
    let sample = |flags: &[&str]| {
        let out = ["-o", "a.png", "--json", "--save-tensors", "a.safetensors"];
        let ran = scratch.ok(&[&run[..], &out, flags].concat());
        (tensors::only(&scratch.path("a.safetensors"), "samples").1, ran.json().pop().unwrap())
    };
    let (plain, _) = sample(&[]);
    let (refined, told) = sample(&["--refiner", "refiner", "--refine-from", "0.6"]);
    assert_ne!(refined, plain);
    assert_eq!((&told["steps"], &told["request"]["refiner"]), (&json!(5), &json!("refiner")));
    let again = ["sample", "-m", "xl", "--like", "a.png", "-o", "b.png", "--save-tensors", "b.safetensors"];
    scratch.ok(&again);
    assert_eq!(tensors::only(&scratch.path("b.safetensors"), "samples").1, refined);
    let score = ["--refiner", "refiner", "--refine-from", "0.6", "--aesthetic-score", "2"];
    assert_ne!(sample(&score).0, refined);
    let film = ["--filmstrip", "film.png", "--refiner", "refiner", "-o", "c.png"];
    scratch.ok(&[&run[..], &film].concat());
    // It also works alone.
    let alone = ["sample", "-m", "refiner", "-p", "a cat", "--image", "a.png", "--steps", "3", "-o", "c.png"];
    scratch.ok(&alone);
    for (flags, words) in [
        (&["--refiner", "refiner", "--refine-from", "1"][..], &["`refine_from`", "< 1"][..]),
        (
            &["--refiner", "refiner", "--refine-from", "0.01"],
            &["`refine_from`", "none of the 5 steps", "the model"],
        ),
        (&["--refine-from", "0.5"], &["--refiner"]),
        (&["--refiner", "none"], &["none"]),
        (&["--refiner", "sd"], &["`refiner`", "noise level", "same schedule"]),
        (&["--aesthetic-score", "6"], &["`aesthetic_score`", "only refiners"]),
    ] {
        scratch.fails(&[&run[..], flags, &["-o", "no.png"]].concat(), words);
    }
}

#[test]
fn a_latent_model_enlarges_without_a_text() {
    let scratch = Scratch::new();
    pipeline(&scratch, "ldm_upscale", "ldm");
    let mut small = tweedie::media::Image::filled(11, 6, tweedie::media::Rgb([200, 30, 90]));
    small.pixels[..15].fill(7);
    small.save_png(scratch.path("small.png")).unwrap();
    let run = ["sample", "-m", "ldm", "--image", "small.png", "--steps", "2", "-o", "a.png"];
    scratch.ok(&[&run[..], &["--save-tensors", "a.safetensors"]].concat());
    assert_eq!(tensors::only(&scratch.path("a.safetensors"), "samples").0, [1, 3, 12, 22]);
    scratch.ok(&["restore", "small.png", "-m", "ldm", "--enlarge", "2", "--steps", "2", "-o", "b.png"]);
    scratch.fails(&[&run[..], &["--noise-level", "3"]].concat(), &["`noise_level`", "at most 0"]);
    scratch.fails(&["sample", "-m", "ldm", "-o", "no.png"], &["`image`", "expected one"]);
}

/// The program carries the very model of the folder.
#[test]
fn the_built_in_model_reads_prompts() {
    let scratch = Scratch::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji-text-64");
    let samples = |flags: &[&str], out: &str| {
        let run = ["sample", "--steps", "2", "-o", "out.png", "--save-tensors", out];
        scratch.ok(&[&run[..], flags].concat());
        tensors::only(&scratch.path(out), "samples")
    };
    let prompts = ["-p", "red heart", "-p", "a cat"];
    let own = samples(&prompts, "own.safetensors");
    assert_eq!(own.0, [2, 3, 64, 64]);
    assert_eq!(own, samples(&[&prompts[..], &["-m", folder]].concat(), "folder.safetensors"));
    assert_eq!(own, samples(&["--like", "out.png"], "again.safetensors"));
    let half = own.1.len() / 2;
    assert_eq!(own.1[..half], samples(&["-p", "red heart"], "first.safetensors").1);
    scratch.fails(&["sample", "-p", "a cat", "--lora", "none.safetensors"], &["none.safetensors"]);
}

#[test]
fn models_are_converted() {
    let scratch = Scratch::new();
    model(&scratch);
    let stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let (down, up) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
    let change = [(&*down, tensors::ramp(&[1, 32])), (&*up, (vec![32, 1], vec![9.0; 32]))];
    scratch.write("lora.safetensors", tensors::file(&change));
    let sample = |model: &str, more: &[&str]| {
        let run = ["sample", "-m", model, "-p", "cat", "--steps", "2", "-o", "a.png"];
        scratch.ok(&[&run[..], &["--save-tensors", "a.safetensors"], more].concat());
        tensors::only(&scratch.path("a.safetensors"), "samples").1
    };
    let lora = ["--lora", "lora.safetensors:0.5"];
    let ran = scratch.ok(&[&["convert", "-m", "sd", "--out", "merged", "--json"][..], &lora].concat());
    assert_eq!(ran.json().pop().unwrap()["pipeline"], json!("StableDiffusionPipeline"));
    assert_eq!(sample("merged", &[]), sample("sd", &lora));
    scratch.ok(&["convert", "-m", "merged", "--out", "half", "--precision", "bf16"]);
    scratch.ok(&["convert", "-m", "sd", "--out", "half", "--precision", "f16"]);
    scratch.ok(&["info", "half"]);
    // Models without latents, too.
    scratch.ok(&["convert", "-m", crate::common::model(), "--out", "pixels", "--precision", "f16"]);
    scratch.ok(&["sample", "-m", "pixels", "-n", "1", "--steps", "1", "-o", "p.png"]);

    scratch.write("pickle.ckpt", b"PK\x03\x04 and more");
    scratch.write("own/notes.txt", b"mine");
    let whole = scratch.read("merged/unet/diffusion_pytorch_model.safetensors");
    for (flags, words) in [
        (&["-m", "none", "--out", "x"][..], &["none"][..]),
        (&["-m", "sd", "--out", "own"], &["own", "model_index.json"]),
        (&["-m", "sd", "--out", "no/x"], &["no/x"]),
        (&["-m", "sd", "--out", "sd"], &["--out sd", "another"]),
        (&["-m", "sd", "--out", "x", "--lora", "none.safetensors"], &["none.safetensors"]),
        (&["-m", "sd", "--out", "x", "--tokenizer", "sd/tokenizer"], &["--tokenizer"]),
        (&["-m", "sd", "--out", "x", "--precision", "f8"], &["--precision", "f16"]),
        (&["-m", "pickle.ckpt", "--out", "x"], &["pickle.ckpt", "never read", "torch.load"]),
        (&["-m", "lora.safetensors", "--out", "x"], &["lora.safetensors", "Stable Diffusion"]),
    ] {
        scratch.fails(&[&["convert"][..], flags].concat(), words);
    }
    scratch
        .fails(&["sample", "-m", "pickle.ckpt", "-p", "cat"], &["pickle.ckpt", "never read", "torch.load"]);
    assert!(!scratch.path("x").exists());
    // A component that cannot be read leaves what was there.
    fs::remove_file(scratch.path("sd/vae/config.json")).unwrap();
    scratch.fails(&["convert", "-m", "sd", "--out", "merged"], &["vae"]);
    assert!(scratch.read("merged/unet/diffusion_pytorch_model.safetensors") == whole);
}

#[test]
fn what_is_passed_over_or_understood_is_said() {
    let scratch = Scratch::new();
    model(&scratch);
    let ones = |shape: &[usize]| tensors::ramp(shape);
    let layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let (down, up) = (format!("{layer}.lora_A.default.weight"), format!("{layer}.lora_B.default.weight"));
    let lora = [
        (down.as_str(), ones(&[1, 32])),
        (up.as_str(), ones(&[32, 1])),
        ("bundle_emb.toy.clip_l", ones(&[2, 24])),
    ];
    scratch.write("l.safetensors", tensors::file(&lora));
    let run = ["sample", "-m", "sd", "-p", "a cat", "--steps", "1"];
    scratch.ok(&[&run[..], &["--lora", "l.safetensors"]].concat()).says(&[
        "warning",
        "l.safetensors",
        "`toy`",
    ]);
    let unet = "sd/unet/diffusion_pytorch_model";
    scratch.write(&format!("{unet}.fp16.safetensors"), scratch.read(&format!("{unet}.safetensors")));
    let words = ["warning", "`vae` has no variant `fp16`", "`text_encoder`"];
    scratch.ok(&[&run[..], &["--variant", "fp16"]].concat()).says(&words);
    scratch.fails(&[&run[..], &["--variant", "bf16", "-o", "no.png"]].concat(), &["no component", "`bf16`"]);
    scratch.fails(
        &[&run[..], &["--guidance", "1", "--negative-prompt", "dog", "-o", "no.png"]].concat(),
        &["`negative_prompt`", "`guidance`"],
    );
    // A number where classes have names.
    let run = ["sample", "-m", crate::common::model(), "--class", "1", "-n", "1", "--steps", "1"];
    scratch.ok(&run).says(&["class 1", "class number 1"]);
}

#[test]
fn results_that_a_model_enlarges_are_told_at_their_final_size() {
    let scratch = Scratch::new();
    pipeline(&scratch, "unclip", "cascade");
    scratch.write("limits.toml", "[limits]\npixels = 255\n");
    let request = json!({ "prompt": "a cat", "steps": 2, "seed": 1 });
    {
        let served = Served::start(&scratch.path(""), &["--model", "cascade"]);
        let facts = served.get("/v1/models/cascade").is(200).json();
        assert_eq!((&facts["size"], &facts["result_size"]), (&json!([8, 8]), &json!([16, 16])));
        let made = pixels(&served.results(&served.order(&request))[0]);
        assert_eq!((made.0, made.1), (16, 16));
    }
    // The limit is for what is made in the end.
    let served = Served::start(&scratch.path(""), &["--model", "cascade", "--config", "limits.toml"]);
    let refused = served.post("/v1/jobs", &request).is(400).text();
    assert!(refused.contains("1 × 16 × 16 pixels"), "{refused}");
}
