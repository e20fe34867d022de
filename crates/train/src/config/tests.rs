use super::*;
use crate::{LossConfig, Output, WeightingKind};

fn error(assignments: &[&str]) -> String {
    let set = |b: ConfigBuilder, a: &&str| b.set(a);
    let built = assignments
        .iter()
        .try_fold(ConfigBuilder::preset("emoji").unwrap(), set)
        .and_then(ConfigBuilder::build);
    built.unwrap_err().to_string()
}

#[test]
fn presets_build_and_survive_toml() {
    for p in PRESETS {
        let config = ConfigBuilder::preset(p.name).unwrap().build().unwrap();
        let text = config.to_toml().unwrap();
        let again: RunConfig = toml::from_str(&text).unwrap();
        assert_eq!(again, config, "{}", p.name);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
    }
    assert!(preset("nope").unwrap_err().to_string().contains("one of emoji, folder, tiny, cifar"));
}

/// The number is that of google/ddpm-cifar10-32 on the hub.
#[test]
fn the_preset_cifar_is_the_published_network() {
    let config = ConfigBuilder::preset("cifar").unwrap().build().unwrap();
    let unet = config.unet(10).unwrap();
    let device = tweedie_ops::device("cpu").unwrap();
    let model = tweedie_models::UNet2DModel::new(&unet, 0, &device).unwrap();
    assert_eq!(tweedie_models::count(&model), 35_746_307);
    assert_eq!((unet.norm_eps, unet.downsample_padding, unet.flip_sin_to_cos), (1e-6, 0, false));
}

#[test]
fn layers_override_key_by_key() {
    let text = "preset = \"tiny\"\n[run]\nbatch = 3\n[data]\nsource = { folder = \"x\" }\n";
    let config = ConfigBuilder::text(text, "mine.toml")
        .and_then(|b| b.set("loss.weighting=sigmoid")?.set("run.out=runs/a b")?.set("run.steps=7"))
        .and_then(ConfigBuilder::build)
        .unwrap();
    assert_eq!((config.run.batch, config.run.steps, config.run.log_every), (3, Some(7), 5));
    assert_eq!(config.loss, LossConfig { weighting: WeightingKind::Sigmoid, ..Default::default() });
    assert_eq!(config.data.source, tweedie_data::Source::Folder("x".into()));
    assert_eq!(config.run.out, PathBuf::from("runs/a b"));
    let minutes = ConfigBuilder::text("preset = \"tiny\"\n[run]\nminutes = 2.0", "mine.toml").unwrap();
    assert_eq!(minutes.clone().build().unwrap().run.steps, None);
    assert_eq!(minutes.set("run.steps=2").and_then(ConfigBuilder::build).unwrap().run.minutes, Some(2.0));
    let endless = ConfigBuilder::text("", "mine.toml").and_then(ConfigBuilder::build).unwrap_err();
    assert!(endless.to_string().contains("run.steps or run.minutes"));
}

#[test]
fn a_whole_network_replaces_the_compact_one() {
    let text = r#"
        preset = "tiny"
        [model.unet]
        block_out_channels = [16, 32]
        down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
        up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
        attention_head_dim = "null"
        norm_num_groups = 8
    "#;
    let config = ConfigBuilder::text(text, "mine.toml").and_then(ConfigBuilder::build).unwrap();
    let unet = config.model.unet(16, 3, Some(9), false).unwrap();
    assert_eq!((unet.attention_head_dim, unet.num_class_embeds), (None, Some(10)));
    assert_eq!(toml::from_str::<RunConfig>(&config.to_toml().unwrap()).unwrap(), config);
    let wrong = text.replace("norm_num_groups", "norm_groups");
    let message = ConfigBuilder::text(&wrong, "mine.toml").and_then(ConfigBuilder::build).unwrap_err();
    assert!(message.to_string().contains("norm_groups"), "{message}");
    let both = "[model]\nbase_channels = 8\nunet = { layers_per_block = 1 }";
    let message = ConfigBuilder::text(both, "mine.toml").unwrap_err().to_string();
    assert!(message.contains("`base_channels` cannot be combined with `model.unet`"), "{message}");
}

#[test]
fn wrong_keys_and_values_are_named() {
    for (assignments, parts) in [
        (&["run.stepz=3"][..], &["stepz"][..]),
        (&["model.chanels=3"], &["chanels"]),
        (&["loss.weighting=snr"], &["snr", "min-snr"]),
        (&["run.batch=0"], &["run.batch = 0", "at least 1"]),
        (&["run.batch=-1"], &["batch", "-1"]),
        (&["run.minutes=nan"], &["run.minutes = NaN"]),
        (&["optimizer.beta2=1.0"], &["optimizer.beta2 = 1"]),
        (&["learning_rate.peak=0"], &["learning_rate.peak = 0"]),
        (&["learning_rate.decay=cosine"], &["learning_rate.decay = cosine", "run.steps"]),
        (&["ema.half_life=-3"], &["ema.half_life = -3"]),
        (&["ema.kind=power", "ema.stds=[]"], &["ema.stds"]),
        (&["ema.snapshot_every=5"], &["ema.snapshot_every = 5", "ema.kind = power"]),
        (&["conditioning.label_dropout=1.5"], &["conditioning.label_dropout = 1.5"]),
        (&["diffusion.parameterization=flow"], &["diffusion.parameterization = flow", "eps, x0 or v"]),
        (&["diffusion.train_steps=1"], &["diffusion.train_steps = 1"]),
        (&["diffusion.zero_terminal_snr=true", "diffusion.parameterization=eps"], &["zero_terminal_snr"]),
        (&["model.attention_levels=[3]"], &["model.attention_levels = 3", "0 to 2"]),
        (&["model.base_channels=33"], &["33"]),
        (&["data.holdout=1.0"], &["holdout = 1"]),
        (&["augment.edm.p=2"], &["p = 2"]),
        (&["diffusion.variance=learned"], &["learned", "learned-range"]),
        (
            &["diffusion.schedule=flow", "diffusion.parameterization=flow", "diffusion.variance=fixed-large"],
            &["diffusion.variance = fixed-large", "fixed-small"],
        ),
        (&["diffusion.variance=learned-range"], &["loss.objective = simple", "hybrid or vlb"]),
        (&["loss.objective=hybrid"], &["loss.objective = hybrid", "diffusion.variance = learned-range"]),
        (&["loss.objective=vlb", "loss.times=logit-normal"], &["loss.times = logit-normal", "uniform"]),
        (&["loss.objective=vlb", "loss.times=uniform", "loss.continuous=true"], &["loss.continuous = true"]),
        (
            &["diffusion.schedule=edm", "diffusion.parameterization=edm", "loss.objective=vlb"],
            &["loss.objective = vlb", "schedule of betas"],
        ),
        (
            &["diffusion.schedule=flow", "diffusion.parameterization=flow", "loss.times=loss-second-moment"],
            &["loss.times = loss-second-moment", "schedule of betas"],
        ),
        (&["loss.vlb_weight=0"], &["loss.vlb_weight = 0"]),
        (&["run"], &["run.steps=1000"]),
        (&["=3"], &["unknown field ``"]),
    ] {
        let message = error(assignments);
        for part in parts {
            assert!(message.contains(part), "{assignments:?}: {message}");
        }
    }
    let file = ConfigBuilder::text("[data]\nsise = 3\n", "mine.toml").unwrap_err().to_string();
    assert!(file.contains("mine.toml") && file.contains("sise") && file.contains("line 2"), "{file}");
}

#[test]
fn only_what_changes_the_bits_makes_a_difference() {
    let config = |a: &[&str]| {
        a.iter()
            .try_fold(ConfigBuilder::preset("tiny").unwrap(), |b, a| b.set(a))
            .and_then(ConfigBuilder::build)
            .unwrap()
    };
    let base = config(&[]);
    let longer = config(&["run.steps=9", "run.log_every=2", "run.keep_last=9", "run.out=elsewhere"]);
    assert_eq!(base.differences(&longer), [""; 0]);
    let other = config(&["diffusion.parameterization=eps", "run.batch=4"]);
    assert_eq!(
        base.differences(&other),
        ["diffusion.parameterization (\"eps\" instead of \"v\")", "run.batch (4 instead of 8)"]
    );
    assert_eq!(other.diffusion.parameterization, Output::Eps);
}

/// The dotted keys of `table`, without those of lists.
fn keys(prefix: &str, table: &toml::Table, found: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => keys(&format!("{prefix}{key}."), inner, found),
            _ => found.push(format!("{prefix}{key}")),
        }
    }
}

#[test]
fn no_value_of_any_key_panics() {
    let values = [
        "0",
        "-1",
        "1",
        "3",
        "4097",
        "1000000000",
        "1000000000000000000",
        "9223372036854775807",
        "nan",
        "-inf",
        "1e300",
        "-1e300",
        "1e-300",
        "0.5",
        "true",
        "\"\"",
        "\"x\"",
        "[]",
        "[0]",
        "[1000000000000]",
        "[nan]",
        "{}",
    ];
    let mut built = 0;
    for p in PRESETS {
        let base = ConfigBuilder::preset(p.name).unwrap();
        let text = base.clone().build().unwrap().to_toml().unwrap();
        // Without a look at the data for each.
        let base = if p.follows_data { ConfigBuilder::text(&text, p.name).unwrap() } else { base };
        let mut all = Vec::new();
        keys("", &text.parse().unwrap(), &mut all);
        for key in &all {
            for value in values {
                let assignment = format!("{key}={value}");
                let made = std::panic::catch_unwind(|| base.clone().set(&assignment)?.build());
                match made.unwrap_or_else(|_| panic!("{}: {assignment}", p.name)) {
                    Ok(_) => built += 1,
                    Err(e) => {
                        let last = key.rsplit('.').next().unwrap();
                        let table = key.split('.').next().unwrap();
                        let said = e.to_string();
                        assert!(said.contains(last) || said.contains(table), "{assignment}: {said}");
                    }
                }
            }
        }
        assert!(all.len() > 50, "{}", all.len());
    }
    assert!(built > 500, "{built}");
}

#[test]
fn integers_out_of_range_are_named() {
    assert_eq!(
        error(&["run.seed=9223372036854775808"]),
        "run.seed = 9223372036854775808: expected an integer from -9223372036854775808 to 9223372036854775807"
    );
    let long = format!("data.background=\"{}\"", "#".repeat(50_000));
    let said = error(&[&long]);
    let builder = ConfigBuilder::text(&format!("[run]\nseed = \"{}\"", "9".repeat(50_000)), "mine.toml");
    let of_file = builder.unwrap_err().to_string();
    assert!(of_file.len() < 400 && of_file.starts_with("mine.toml: line 2: "), "{of_file}");
    assert!(said.len() < 60_000, "{}", said.len());
}

#[test]
fn floats_survive_both_formats_bit_for_bit() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut peaks =
        vec![0.00018973011986515774, 0.1 + 0.2, 5e-324, f64::MIN_POSITIVE, 1.0 - f64::EPSILON / 2.0];
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Any sign-less number from 2⁻⁶⁰ to 2⁶⁰.
        let exponent = 1023 - 60 + (state >> 52) % 120;
        peaks.push(f64::from_bits(exponent << 52 | (state.rotate_left(23) & ((1 << 52) - 1))));
    }
    let mut config = ConfigBuilder::preset("tiny").unwrap().build().unwrap().learning_rate;
    for peak in peaks {
        config.peak = peak;
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<LearningRateConfig>(&json).unwrap().peak.to_bits(), peak.to_bits());
        let value = serde_json::to_value(&config).unwrap();
        assert_eq!(
            serde_json::from_value::<LearningRateConfig>(value).unwrap().peak.to_bits(),
            peak.to_bits()
        );
        let toml = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<LearningRateConfig>(&toml).unwrap().peak.to_bits(), peak.to_bits());
    }
}

/// Images of one colour each, in two classes.
fn pictures(n: usize, side: usize, pixel: impl Fn(usize) -> [u8; 3]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..n {
        let class = dir.path().join(["a", "b"][i % 2]);
        std::fs::create_dir_all(&class).unwrap();
        let image = tweedie_data::Image::filled(side, side, tweedie_data::Rgb(pixel(i)));
        image.save_png(class.join(format!("{i}.png"))).unwrap();
    }
    dir
}

#[test]
fn the_preset_folder_follows_the_data_and_what_is_given() {
    let suited = |data: &tempfile::TempDir, set: &[&str]| {
        let source = format!("data.source={{ folder = {:?} }}", data.path());
        let base = ConfigBuilder::preset("folder").unwrap().set(&source).unwrap();
        let (builder, said) = set.iter().try_fold(base, |b, a| b.set(a)).unwrap().suited().unwrap();
        (builder.build().unwrap(), said)
    };
    let grey = pictures(8, 28, |i| [i as u8 * 20; 3]);
    let (config, said) = suited(&grey, &["run.minutes=5.0"]);
    assert_eq!((config.data.size, config.data.channels, config.augment.edm.p), (28, 1, 0.25));
    assert_eq!(config.augment.padding, tweedie_data::Padding::Reflect);
    assert_eq!((config.conditioning.guidance, Conditioning::default().guidance), (1.0, 2.0));
    let unet = config.unet(2).unwrap();
    assert_eq!((unet.in_channels, unet.out_channels, unet.block_out_channels.len()), (1, 1, 3));
    assert_eq!(said.data, "8 images of 28 pixels a side, grey, 2 classes");
    let keys: Vec<_> = said.choices.iter().map(|c| c.key).collect();
    assert_eq!(keys[..3], ["data.size", "data.channels", "augment.edm.p"]);
    // What was chosen is stored, and is not chosen again.
    let again = ConfigBuilder::text(&config.to_toml().unwrap(), "config.toml").unwrap();
    assert_eq!(again.build().unwrap(), config);

    let given = ["run.minutes=5.0", "data.size=16", "augment.edm.p=0.0", "model.base_channels=16"];
    let (config, said) = suited(&grey, &given);
    assert_eq!((config.data.size, config.augment.edm.p), (16, 0.0));
    assert_eq!(config.unet(2).unwrap().block_out_channels, [16, 32, 64]);
    assert!(said.choices.iter().all(|c| !given.iter().any(|g| g.starts_with(&format!("{}=", c.key)))));

    let coloured = pictures(4, 70, |i| [9, 20, i as u8]);
    let (short, _) = suited(&coloured, &["run.minutes=5.0"]);
    let (long, _) = suited(&coloured, &["run.minutes=600.0"]);
    assert_eq!((short.data.size, short.data.channels), (32, 3));
    assert_eq!((long.data.size, long.unet(2).unwrap().block_out_channels.len()), (64, 4));
    let empty = tempfile::tempdir().unwrap();
    let source = format!("data.source={{ folder = {:?} }}", empty.path());
    let none = ConfigBuilder::preset("folder").unwrap().set(&source).unwrap().build().unwrap_err();
    assert!(none.to_string().contains("no images in"), "{none}");
}
