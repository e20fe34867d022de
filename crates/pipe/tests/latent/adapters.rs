//! T2I-Adapters and the upscaler of latents that do not fit, and results that do not depend on how they are made.

use std::fs;

use serde_json::{Value, json};
use tweedie_hub::Model;
use tweedie_ops::Device;
use tweedie_pipe::{Control, Inputs, Pipeline, RecordedFile, Request};

use super::{control_picture, folder, load, picture, run};

/// The request with a control image of this size for each of `count` adapters.
fn controlled(dir: &std::path::Path, request: Value, size: usize, count: usize) -> Request {
    let mut request: Request = serde_json::from_value(request).unwrap();
    let path = dir.join("control.png");
    control_picture(size, size, 0).save_png(&path).unwrap();
    request.controls = vec![Control::new(RecordedFile::of(&path).unwrap()); count];
    request
}

fn edit(file: &std::path::Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

#[test]
fn an_adapter_beside_a_model_is_that_of_its_pipeline() {
    let (own, plain) = (folder("t2i"), folder("sd1"));
    let request =
        json!({"prompt": "a photo of the cat", "guidance": 3, "steps": 3, "count": 3, "size": [16, 16]});
    let request = controlled(own.path(), request, 16, 1);
    let ours = run(&load(own.path()).unwrap(), &request, None, None).unwrap();
    let mut model = Model::load(plain.path(), &Device::flex()).unwrap();
    model.control(&own.path().join("adapter"), &Device::flex()).unwrap();
    // The schedulers are the same; so are images that are made one by one, and others without the adapter.
    let beside = Pipeline::of(model, &Device::flex());
    let one_by_one = Request { chunk: std::num::NonZeroUsize::new(1), ..request.clone() };
    assert_eq!(run(&beside, &one_by_one, None, None).unwrap().tensors, ours.tensors);
    let mut off = request.clone();
    off.controls[0].scale = 0.0;
    let off = run(&beside, &off, None, None).unwrap();
    let without = Request { controls: Vec::new(), ..request.clone() };
    assert_eq!(off.tensors, run(&load(plain.path()).unwrap(), &without, None, None).unwrap().tensors);
    assert_ne!(off.tensors, ours.tensors);

    let fails = |request: &Request, words: &[&str]| {
        let error = run(&beside, request, None, None).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    fails(&without, &["`controls`", "1 ControlNet or T2I-Adapter", "found 0"]);
    fails(&Request { guess: true, ..request.clone() }, &["`guess`", "no effect on T2I-Adapters"]);
    let mut range = request;
    range.controls[0].range = [0.5, 0.6];
    fails(&range, &["`controls`", "none of the 3 steps"]);
}

#[test]
fn adapters_of_other_models_are_refused() {
    let (sd, sdxl) = (folder("t2i"), folder("t2i_sdxl"));
    let mut model = Model::load(folder("sd1").path(), &Device::flex()).unwrap();
    let mut fails = |dir: &std::path::Path, words: &[&str]| {
        let error = model.control(dir, &Device::flex()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let other = ["16 at 1/4, 32 at 1/4", "blocks of the model have 16 at 1/2, 32 at 1/4", "another family"];
    fails(&sdxl.path().join("adapter"), &other);
    fails(&sd.path().join("vae"), &["is a AutoencoderKL, not a ControlNet or T2I-Adapter"]);
    let config = sd.path().join("adapter/config.json");
    edit(&config, |v| v["adapter_type"] = json!("wide_adapter"));
    fails(&sd.path().join("adapter"), &["adapter_type", "wide_adapter"]);
    edit(&config, |v| {
        v["adapter_type"] = json!("full_adapter");
        v["num_res_blocks"] = json!(7000);
    });
    fails(&sd.path().join("adapter"), &["num_res_blocks", "7000"]);
    // DiT has no blocks in which something could be added.
    let mut dit = Model::load(folder("dit").path(), &Device::flex()).unwrap();
    let error = dit.control(&sdxl.path().join("adapter"), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("DiTTransformer2DModel cannot be used with T2I-Adapters"), "{error}");
    // An adapter may need larger multiples than the autoencoder.
    let request = controlled(sdxl.path(), json!({"prompt": "cat", "steps": 1, "size": [16, 22]}), 16, 1);
    let error = run(&load(sdxl.path()).unwrap(), &request, None, None).unwrap_err().to_string();
    assert!(
        error.contains("`size`") && error.contains("22×16") && error.contains("multiples of 4"),
        "{error}"
    );
    // What diffusers writes for three adapters and does not find again.
    let pair = folder("t2i_pair");
    fs::rename(pair.path().join("adapter_1"), pair.path().join("adapter_1_2")).unwrap();
    let error = load(pair.path()).err().unwrap().to_string();
    assert!(error.contains("adapter_1_2") && error.contains("rename"), "{error}");
}

#[test]
fn images_of_any_size_are_enlarged_in_latents() {
    let dir = folder("latent_upscale");
    let pipeline = load(dir.path()).unwrap();
    let request = |keys: Value| -> Request { serde_json::from_value(keys).unwrap() };
    let made = |asked: &Request, sizes: [usize; 2]| {
        let small = control_picture(sizes[0], sizes[1], 0);
        let job = pipeline.prepare_with(asked, Inputs::enlarging(&[small])?)?;
        job.run(&false.into(), &mut |_| std::ops::ControlFlow::Continue(()))
    };
    let asked = pipeline.describing(request(json!({"steps": 2, "count": 2})), &[]);
    assert_eq!((asked.prompts.len(), asked.guidance), (1, Some(1.0)));
    let large = made(&asked, [9, 21]).unwrap();
    assert_eq!(large.tensors.shape, [2, 3, 18, 42]);
    let chunk = std::num::NonZeroUsize::new(1);
    assert_eq!(made(&Request { chunk, ..asked.clone() }, [9, 21]).unwrap().tensors, large.tensors);
    let fails = |asked: Request, words: &[&str]| {
        let error = made(&asked, [8, 8]).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    fails(request(json!({"steps": 2})), &["`prompt`"]);
    fails(Request { noise_level: Some(3), ..asked.clone() }, &["`noise_level`", "at most 0"]);
    fails(Request { size: Some(vec![8, 8]), ..asked.clone() }, &["`size`", "[16, 16]"]);
    let error = run(&pipeline, &asked, None, Some(&picture(8))).err().unwrap().to_string();
    assert!(error.contains("`image`"), "{error}");

    let damaged = |file: &str, key: &str, value: Value, words: &[&str]| {
        let dir = folder("latent_upscale");
        edit(&dir.path().join(file), |v| v[key] = value.clone());
        let error = load(dir.path()).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let scheduler = "scheduler/scheduler_config.json";
    damaged(scheduler, "prediction_type", json!("epsilon"), &["prediction_type", "expected `sample`"]);
    let unet = "unet/config.json";
    damaged(unet, "mid_block_type", json!("UNetMidBlock2DCrossAttn"), &["mid_block_type", "expected null"]);
    damaged(unet, "block_out_channels", json!([32, 64, 96]), &["block_out_channels"]);
    let mixed = json!(["KDownBlock2D", "DownBlock2D", "KCrossAttnDownBlock2D"]);
    damaged(unet, "down_block_types", mixed, &["down_block_types", "names with K", "expected all"]);
    damaged(unet, "conv_in_kernel", json!(2), &["conv_in_kernel", "odd"]);
    damaged(unet, "time_embedding_type", json!("learned"), &["time_embedding_type", "learned"]);
    let plain = |v: &mut Value| v["_class_name"] = json!("StableDiffusionPipeline");
    edit(&dir.path().join("model_index.json"), plain);
    let error = load(dir.path()).err().unwrap().to_string();
    assert!(error.contains("unet"), "{error}");
}
