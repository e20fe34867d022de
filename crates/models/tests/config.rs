//! Configurations: what is read, written and rejected.

#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor};
use serde_json::{Value, json};
use tweedie_core::noise::generator;
use tweedie_models::{Conditions, Mode, UNet2DConfig, UNet2DModel, unet::DownBlockType};

/// A small network with some keys replaced.
fn with(changes: Value) -> String {
    let mut keys = json!({
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 8,
    });
    for (key, value) in changes.as_object().unwrap() {
        keys[key] = value.clone();
    }
    keys.to_string()
}

#[test]
fn keys_left_out_have_the_defaults() {
    assert_eq!(UNet2DConfig::from_json("{}").unwrap(), UNet2DConfig::default());
    let c = UNet2DConfig::default();
    assert_eq!((c.block_out_channels[0], c.attention_head_dim, c.norm_eps), (224, Some(8), 1e-5));
    assert!(c.flip_sin_to_cos && c.add_attention);
}

#[test]
fn what_is_written_is_read_back() {
    let text = with(json!({
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "_name_or_path": "somewhere",
        "inv_gamma": 1.0,
        "sample_size": [8, 16],
        "down_block_types": ["UNetResDownBlock2D", "AttnDownBlock2D"],
        "act_fn": "Swish",
        "downsample_type": null,
        "norm_eps": 1e-6,
        "mid_block_type": null,
        "num_class_embeds": 10,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "fourier",
    }));
    let config = UNet2DConfig::from_json(&text).unwrap();
    assert_eq!(config.down_block_types[0], DownBlockType::DownBlock2D);
    let written = config.to_json();
    assert_eq!(UNet2DConfig::from_json(&written).unwrap(), config);

    let keys: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(keys["_class_name"], "UNet2DModel");
    assert_eq!(keys["act_fn"], "silu");
    assert_eq!(keys["mid_block_type"], Value::Null);
    assert_eq!(keys["sample_size"], json!([8, 16]));
    assert_eq!(keys["resnet_time_scale_shift"], "scale_shift");
}

#[test]
fn errors_name_key_and_value() {
    let cases = [
        (json!({"block_channels": 3}), "unknown key `block_channels`"),
        (json!({"_class_name": "UNet2DConditionModel"}), "`_class_name` is \"UNet2DConditionModel\""),
        (json!({"in_channels": "three"}), "`in_channels` is \"three\": invalid type"),
        (json!({"in_channels": -3}), "`in_channels` is -3: invalid value"),
        (json!({"act_fn": "tanh"}), "`act_fn` is \"tanh\": unknown activation `tanh`"),
        (json!({"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}), "`down_block_types` is ["),
        (json!({"up_block_types": ["UpBlock2D"]}), "`up_block_types` is [\"UpBlock2D\"]: expected 2 blocks"),
        (json!({"block_out_channels": []}), "`block_out_channels` is []"),
        (json!({"block_out_channels": [0, 8]}), "`block_out_channels` is [0,8]"),
        (json!({"block_out_channels": [16, 1u64 << 60]}), "`block_out_channels` is ["),
        (json!({"block_out_channels": [1 << 20, 1 << 20]}), "parameters, more than the limit"),
        (json!({"norm_num_groups": 5}), "`norm_num_groups` is 5: the 16 channels of down_blocks.0.resnets.0"),
        (json!({"norm_num_groups": 0}), "`norm_num_groups` is 0"),
        (json!({"norm_num_groups": null}), "`norm_num_groups` is null"),
        (json!({"attn_norm_num_groups": 3}), "`attn_norm_num_groups` is 3: the 32 channels of mid_block"),
        (json!({"attention_head_dim": 64}), "`attention_head_dim` is 64"),
        (json!({"attention_head_dim": 0}), "`attention_head_dim` is 0"),
        (json!({"layers_per_block": 0}), "`layers_per_block` is 0"),
        (json!({"layers_per_block": 1u64 << 40}), "`layers_per_block` is 1099511627776"),
        (json!({"dropout": 1.5}), "`dropout` is 1.5"),
        (json!({"norm_eps": -1.0}), "`norm_eps` is -1.0"),
        (json!({"mid_block_scale_factor": 0}), "`mid_block_scale_factor` is 0.0"),
        (
            json!({"downsample_padding": 2, "down_block_types": ["DownBlock2D", "DownBlock2D"]}),
            "`downsample_padding` is 2",
        ),
        (json!({"sample_size": [0, 8]}), "`sample_size` is [0,8]"),
        (json!({"sample_size": [8, 8, 8]}), "`sample_size` is [8,8,8]"),
        (json!({"time_embedding_type": "learned"}), "`num_train_timesteps` is null"),
        (json!({"num_class_embeds": 0}), "`num_class_embeds` is 0"),
        (
            json!({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"], "in_channels": 1}),
            "`in_channels` is 1: expected 3",
        ),
        (
            json!({"up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D"], "out_channels": 1}),
            "`out_channels` is 1: expected 3",
        ),
        (json!({"up_block_types": ["SkipUpBlock2D", "UpBlock2D"]}), "`up_block_types` is [\"SkipUpBlock2D\""),
        (
            json!({"block_out_channels": [32, 64], "down_block_types": ["KDownBlock2D", "KDownBlock2D"]}),
            "`up_block_types` is [\"AttnUpBlock2D\"",
        ),
    ];
    for (changes, expected) in cases {
        let error = UNet2DConfig::from_json(&with(changes.clone())).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes} gives: {error}\nexpected: {expected}");
    }
    for text in ["", "[]", "{", "null", "{\"in_channels\": 3"] {
        assert!(UNet2DConfig::from_json(text).unwrap_err().to_string().contains("JSON object"), "{text}");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let config = |changes| UNet2DConfig::from_json(&with(changes)).unwrap();
    let none = Conditions::none();
    let classes = |c: &[usize]| Conditions::of_classes(c.to_vec());
    let plain = config(json!({}));
    let labelled = config(json!({"num_class_embeds": 4}));
    let learned = config(json!({"time_embedding_type": "learned", "num_train_timesteps": 10}));
    let given = config(json!({"class_embed_type": "identity"}));
    let refused = [
        (&plain, [1, 1, 8, 8], vec![0.0], none.clone(), "the images have 1 channels, expected 3"),
        (
            &plain,
            [1, 3, 8, 7],
            vec![0.0],
            none.clone(),
            "the images have 8×7 pixels, expected multiples of 2",
        ),
        (&plain, [1, 3, 0, 8], vec![0.0], none.clone(), "the images have 0×8 pixels"),
        (&plain, [2, 3, 8, 8], vec![0.0], none.clone(), "1 times for 2 images"),
        (&plain, [1, 3, 8, 8], vec![0.0], classes(&[0]), "this network has no classes"),
        (&labelled, [1, 3, 8, 8], vec![0.0], none.clone(), "this network needs classes"),
        (&labelled, [1, 3, 8, 8], vec![0.0], classes(&[4]), "class 4 is out of range, expected 0..4"),
        (&labelled, [1, 3, 8, 8], vec![0.0], classes(&[1, 2]), "2 classes for 1 images"),
        (&learned, [1, 3, 8, 8], vec![10.0], none.clone(), "time 10, expected an integer in 0..10"),
        (&learned, [1, 3, 8, 8], vec![0.5], none.clone(), "time 0.5"),
        (&learned, [1, 3, 8, 8], vec![-1.0], none.clone(), "time -1"),
        (&learned, [1, 3, 8, 8], vec![f32::NAN], none.clone(), "time NaN"),
        (&given, [1, 3, 8, 8], vec![0.0], none.clone(), "needs a class embedding"),
    ];
    for (config, shape, times, condition, expected) in refused {
        let error = config.check_input(shape, &times, &condition).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    assert!(plain.check_input([1, 3, 6, 10], &[0.5], &none).is_ok());
    assert!(labelled.check_input([2, 3, 8, 8], &[0.5, 1.0], &classes(&[0, 3])).is_ok());
    assert!(learned.check_input([1, 3, 8, 8], &[9.0], &none).is_ok());
}

/// Accepted configurations run; all others give errors and never panic.
#[test]
fn accepted_configurations_run() {
    use rand_distr::{Distribution, StandardUniform};
    let mut rng = generator(20, 0);
    let mut below = |n: usize| {
        let u: f64 = StandardUniform.sample(&mut rng);
        (u * n as f64) as usize
    };
    let down = ["Down", "AttnDown", "ResnetDownsample", "SkipDown", "AttnSkipDown", "KDown"];
    let up = ["Up", "AttnUp", "ResnetUpsample", "SkipUp", "AttnSkipUp", "KUp"];
    let device = Device::flex();
    let (mut accepted, mut refused) = (0, 0);
    while accepted < 60 {
        let n = 1 + below(3);
        // Mostly from one family, because blocks of different families seldom match.
        let (from, of) = [(0, 3), (3, 2), (5, 1), (0, 6)][below(4)];
        let mut pick = |names: &[&str]| -> Vec<String> {
            (0..n).map(|_| format!("{}Block2D", names[from + below(of)])).collect()
        };
        let (down, up) = (pick(&down), pick(&up));
        let channels: Vec<usize> = (0..n).map(|_| [32, 32, 64, 64, 96, 40][below(6)]).collect();
        let text = json!({
            "down_block_types": down,
            "up_block_types": up,
            "block_out_channels": channels,
            "layers_per_block": 1 + below(2),
            "norm_num_groups": ([Some(8), Some(16), None][below(3)]),
            "attention_head_dim": ([Some(8), Some(24), None, Some(40)][below(4)]),
            "resnet_time_scale_shift": (["default", "scale_shift"][below(2)]),
            "downsample_padding": below(3),
            "mid_block_type": ([Some("UNetMidBlock2D"), None][below(2)]),
        });
        let Ok(config) = UNet2DConfig::from_json(&text.to_string()) else {
            refused += 1;
            continue;
        };
        accepted += 1;
        let model = UNet2DModel::new(&config, 0, &device).unwrap();
        let x = Tensor::<4>::ones([1, 3, 8, 8], (&device, DType::F32));
        let y = model.forward(x, &[3.0], &Conditions::none(), Mode::Eval);
        assert_eq!(y.dims(), [1, 3, 8, 8], "{text}");
        let values: Vec<f32> = y.into_data().try_into_vec().unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{text}");
    }
    assert!(refused > 10);
}
