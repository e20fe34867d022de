//! ControlNets, of `sample` and of a server.

use serde_json::{Value, json};

use crate::{
    common::Scratch,
    http::Served,
    latent::{fill, golden, model},
    serve_apis::pixels,
    tensors,
};

#[test]
fn controlnets_are_followed() {
    let scratch = Scratch::new();
    model(&scratch);
    for (name, from) in [("cn", "controlnet"), ("xl", "controlnet_sdxl"), ("wide", "controlnets_guess")] {
        scratch.copy(&golden().join(from).join("controlnet"), name);
        fill(&scratch, name, "diffusion_pytorch_model");
    }
    let run = ["sample", "-m", "sd", "-p", "a cat", "--steps", "4"];
    let sample = |flags: &[&str], file: &str| {
        let ran = scratch.ok(&[&run[..], flags, &["-o", file, "--save-tensors", "a.safetensors"]].concat());
        (tensors::only(&scratch.path("a.safetensors"), "samples"), ran)
    };
    let (plain, _) = sample(&[], "edges.png");
    let net = ["--controlnet", "cn", "--control-image", "edges.png"];
    // The grid is larger than the image.
    let (controlled, ran) = sample(&net, "a.png");
    ran.says(&["edges.png", "40×40", "resized to 16×16"]);
    assert_eq!(controlled.0, plain.0);
    assert_ne!(controlled.1, plain.1);
    // Without strength it does nothing.
    assert_eq!(sample(&[&net[..], &["--control-scale", "0"]].concat(), "b.png").0.1, plain.1);
    let part = [&net[..], &["--control-range", "0,0.5", "--control-scale", "0.7", "--guess"]].concat();
    let (partly, _) = sample(&part, "b.png");
    assert!(partly.1 != controlled.1 && partly.1 != plain.1);
    // The request is in the picture, with the ControlNet and the image.
    let again = ["sample", "-m", "sd", "--like", "b.png", "-o", "c.png", "--save-tensors", "c.safetensors"];
    scratch.ok(&again);
    assert_eq!(tensors::only(&scratch.path("c.safetensors"), "samples").1, partly.1);
    // The edges of an image instead of the image.
    let (edges, _) = sample(&[&net[..], &["--canny", "50,100"]].concat(), "d.png");
    assert!(edges.1 != controlled.1 && edges.1 != plain.1);
    assert_eq!(sample(&[&net[..], &["--canny", "none"]].concat(), "d.png").0.1, controlled.1);
    // Two of them, and a result with the aspect of the first image.
    let flags = ["--size", "32x8", "--singles", "wide-images"];
    sample(&flags, "d.png");
    let two = ["--controlnet", "cn", "--controlnet", "cn", "--control-image", "wide-images/0000.png"];
    let (both, ran) = sample(&[&two[..], &["--control-image", "edges.png"]].concat(), "d.png");
    assert_eq!(both.0, [1, 3, 8, 32]);
    ran.says(&["edges.png", "resized to 32×8", "cropped"]);
    // A LoRA changes the model, not the ControlNet.
    let stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let (down, up) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
    let big = (vec![32, 1], vec![9.0; 32]);
    scratch.write("lora.safetensors", tensors::file(&[(&down, tensors::ramp(&[1, 32])), (&up, big)]));
    let (changed, _) = sample(&[&net[..], &["--lora", "lora.safetensors"]].concat(), "d.png");
    assert!(changed.1 != controlled.1 && changed.1 != sample(&["--lora", "lora.safetensors"], "d.png").0.1);
    // A part of an image.
    scratch.ok(&[
        &["sample", "-m", "sd", "-p", "a cat", "--steps", "1", "-o", "e.png"][..],
        &["--zoom", "1"],
    ]
    .concat());
    let edit =
        ["edit", "e.png", "-m", "sd", "-p", "a cat", "--rect", "4,4,6,6", "--steps", "2", "-o", "f.png"];
    scratch.ok(&[&edit[..], &["--controlnet", "cn", "--control-image", "e.png"]].concat());

    let weights = "cn/diffusion_pytorch_model.safetensors";
    for (flags, words) in [
        (&["--controlnet", "cn"][..], &["0 control images", "1 ControlNet", "--control-image"][..]),
        (&["--control-image", "edges.png"], &["`controls`", "without a ControlNet"]),
        (
            &["--controlnet", "xl", "--control-image", "edges.png"],
            &["xl", "width 40", "24", "another family"],
        ),
        (&["--controlnet", "wide", "--control-image", "edges.png"], &["wide", "width 32", "24"]),
        (&["--controlnet", "sd/unet", "--control-image", "edges.png"], &["sd/unet", "not a ControlNet"]),
        (&["--controlnet", "none", "--control-image", "edges.png"], &["none"]),
        (&["--controlnet", weights, "--control-image", "edges.png"], &[weights, "expected the folder"]),
        (&["--controlnet", "cn", "--control-image", "none.png"], &["none.png"]),
        (&["--controlnet", "cn", "--control-image", weights], &["`controls`", weights]),
        (&[&net[..], &["--control-image", "a.png"]].concat(), &["2 control images for 1 ControlNet"]),
        (
            &[&net[..], &["--control-scale", "1", "--control-scale", "2"]].concat(),
            &["--control-scale", "found 2"],
        ),
        (&[&net[..], &["--control-scale", "nan"]].concat(), &["`scale` NaN"]),
        (&[&net[..], &["--control-range", "0.6,0.2"]].concat(), &["`range` [0.6, 0.2]", "from < to"]),
        (&[&net[..], &["--control-range", "0.4,0.45"]].concat(), &["none of the 4 steps"]),
        (&[&net[..], &["--canny", "200,100"]].concat(), &["`canny` [200, 100]", "low ≤ high"]),
        (&[&net[..], &["--canny", "sharp"]].concat(), &["--canny", "100,200"]),
        (&[&net[..], &["--control-range", "half"]].concat(), &["--control-range", "0,0.6"]),
        (&["--guess"], &["--control-image"]),
    ] {
        scratch.fails(&[&run[..], flags, &["-o", "no.png"]].concat(), words);
    }
    let wrong = [&edit[..], &["--controlnet", "cn", "--control-image", "edges.png"]].concat();
    scratch.fails(&wrong, &["edges.png", "40×40", "expected 20×20", "changed"]);
    scratch.fails(
        &["sample", "-m", crate::common::model(), "--controlnet", "cn", "--control-image", "edges.png"],
        &["cn", "family of Stable Diffusion"],
    );
    // A ControlNet that has changed since is another one.
    let mut bytes = scratch.read(weights);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    scratch.write(weights, bytes);
    scratch.fails(&again, &["cn", "has changed"]);
}

#[test]
fn a_server_has_controlnets_by_name() {
    let scratch = Scratch::new();
    model(&scratch);
    scratch.copy(&golden().join("controlnet").join("controlnet"), "cn");
    fill(&scratch, "cn", "diffusion_pytorch_model");
    let fixed = ["sample", "-m", "sd", "-p", "a cat", "--steps", "3"];
    scratch.ok(&[&fixed[..], &["-o", "edges.png", "--zoom", "1"]].concat());
    let net = ["--controlnet", "cn", "--control-image", "edges.png", "--canny", "50,100"];
    scratch.ok(&[&fixed[..], &net, &["--singles", "own", "-o", "grid.png"]].concat());

    let served = Served::start(&scratch.path(""), &["--model", "sd", "--controlnet", "cn"]);
    assert_eq!(served.get("/v1/limits").is(200).json()["controlnets"], json!(["cn"]));
    let edges = served.send("POST", "/v1/uploads", &[], &scratch.read("edges.png")).is(201).json();
    let plain = json!({ "prompt": "a cat", "steps": 3 });
    let asked = |control: Value| {
        let mut request = plain.clone();
        request["controls"] = json!([control]);
        request
    };
    let image = json!({ "sha256": edges["sha256"] });
    let controlled = asked(json!({ "image": image, "net": "cn", "canny": [50, 100] }));
    // Both at once: the ControlNet belongs to one of them.
    let ids = [&controlled, &plain].map(|request| served.order(request));
    let [made, other] = ids.map(|id| served.results(&id).remove(0));
    assert!(pixels(&made) == pixels(&scratch.read("own/0000.png")));
    assert!(pixels(&made) != pixels(&other));
    // The result says what it needs.
    scratch.write("made.png", &made);
    scratch.fails(
        &["sample", "-m", "sd", "--like", "made.png", "-o", "no.png"],
        &["made.png: it was made with `", "--control-image and --controlnet"],
    );
    for (control, words) in [
        (json!({ "image": image, "net": "depth" }), "expected one of: `cn`"),
        (json!({ "image": image, "net": { "sha256": edges["sha256"] } }), "a ControlNet without a name"),
        (json!({ "image": image, "net": "cn", "canny": [9, 1] }), "0 ≤ low ≤ high"),
        (json!({ "image": { "path": "edges.png" }, "net": "cn" }), "cannot name a file"),
        (json!({ "net": "cn" }), "missing field `image`"),
    ] {
        let text = served.post("/v1/jobs", &asked(control)).is(400).text();
        assert!(text.contains(words), "{text}");
    }
}
