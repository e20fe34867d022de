//! The commands that show things.

use std::path::Path;

use serde_json::Value;

use crate::common::{RUN, Scratch, model};

const COMMANDS: &[&str] = &[
    "sample",
    "interpolate",
    "tune-steps",
    "compare",
    "train",
    "convert",
    "info",
    "models",
    "plan",
    "forward",
    "data",
    "eval",
    "ema",
    "bench",
    "devices",
    "completions",
    "debug",
];

#[test]
fn help_lists_every_command() {
    let scratch = Scratch::new();
    let help = scratch.ok(&["--help"]).stdout;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let own = scratch.ok(&[command, "--help"]).stdout;
        assert!(own.contains("Usage: tweedie") && own.contains("--threads"), "{own}");
    }
    for command in ["interpolate", "tune-steps", "compare", "eval"] {
        let own = scratch.ok(&[command, "--help"]).stdout;
        assert!(own.contains("--prompt") && own.contains("`tweedie models`"), "{own}");
    }
    assert!(help.contains("Compare with other programs:"));
    assert!(scratch.ok(&["sample", "--help"]).stdout.contains("dpmpp-2m"));
    assert!(scratch.ok(&["--version"]).stdout.starts_with("tweedie "));
    assert_eq!(scratch.run(&[]).code, Some(2));
}

#[test]
fn completions_know_the_commands() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = scratch.ok(&["completions", shell]).stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

/// `sigma/alpha` at the end of every step, from the start on.
fn levels(plan: &Value) -> Vec<f64> {
    let nsr = |level: &Value| level["sigma"].as_f64().unwrap() / level["alpha"].as_f64().unwrap();
    let mut levels = vec![nsr(&plan["start"])];
    for step in plan["moves"].as_array().unwrap() {
        if step["move"] == "renoise" {
            levels.pop();
        }
        levels.push(nsr(step));
    }
    levels
}

#[test]
fn plans_descend_and_end_clean() {
    let scratch = Scratch::new();
    for process in ["linear", "scaled-linear", "cosine", "sigmoid", "flow", "edm"] {
        for steps in ["1", "2", "7"] {
            let ran = scratch.ok(&["plan", "--json", "--schedule", process, "--steps", steps]);
            let levels = levels(&ran.json()[0]);
            assert!(levels.windows(2).all(|w| w[0] > w[1]), "{process}, {steps}: {levels:?}");
            assert_eq!(*levels.last().unwrap(), 0.0, "{process}, {steps}");
        }
    }
    for solver in ["ddpm", "ddim", "heun", "dpmpp-2m"] {
        let ask = ["plan", "--json", "--model", model(), "--steps", "8", "--solver", solver];
        let levels = levels(&scratch.ok(&ask).json()[0]);
        assert!(levels.windows(2).all(|w| w[0] > w[1]) && levels.ends_with(&[0.0]), "{solver}: {levels:?}");
    }
    let text = scratch.ok(&["plan", "--schedule", "linear", "--steps", "4", "--solver", "ddim"]).stdout;
    assert!(text.starts_with("ddim · 4 steps") && text.contains("log-SNR"), "{text}");
}

#[test]
fn info_tells_what_a_folder_holds() {
    let scratch = Scratch::new();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/emoji-32");
    for folder in [built_in.to_str().unwrap(), model()] {
        let info = scratch.ok(&["info", folder, "--tensors", "--json"]).json().remove(0);
        let tensors = info["tensors"].as_array().unwrap();
        let size =
            |t: &Value| t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
        assert_eq!(info["parameters"].as_u64().unwrap(), tensors.iter().map(size).sum::<u64>());
        assert_eq!((&info["pipeline"], &info["config"]["in_channels"]), (&"DDPMPipeline".into(), &3.into()));
        let text = scratch.ok(&["info", folder]).stdout;
        assert!(text.contains(&format!("{} parameters", info["parameters"])), "{text}");
    }
    let classes = scratch.ok(&["info", model(), "--json"]).json()[0]["classes"].clone();
    assert_eq!(classes, serde_json::json!(["Food & Drink", "Activities"]));
}

#[test]
fn data_is_counted_and_drawn() {
    let scratch = Scratch::new();
    let json = scratch.ok(&["data", "--json", "--size", "16", "-n", "9", "-o", "sheet.png"]).json().remove(0);
    let classes = json["classes"].as_array().unwrap();
    let sum: u64 = classes.iter().map(|c| c["images"].as_u64().unwrap()).sum();
    assert!(sum > 1000 && json["images"] == sum, "{json}");
    let sheet = image::open(scratch.path("sheet.png")).unwrap().to_rgb8();
    // Three by three of 16 pixels, 4 pixels between and around them.
    assert_eq!(sheet.dimensions(), (64, 64));
    assert!(scratch.ok(&["data"]).stdout.contains("CC-BY 4.0"));
}

#[test]
fn a_picture_is_taken_through_the_forward_process() {
    let scratch = Scratch::new();
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([6 * x as u8, 8 * y as u8, 90]))
        .save(scratch.path("in.png"))
        .unwrap();
    let ask = ["forward", "in.png", "--frames", "5", "--size", "64", "--schedule", "cosine", "--json"];
    let json = scratch.ok(&ask).json().remove(0);
    let snr: Vec<Option<f64>> = serde_json::from_value(json["log_snr"].clone()).unwrap();
    // Without noise there is no finite ratio.
    let finite: Vec<f64> = snr.iter().flatten().copied().collect();
    assert!(snr.len() == 5 && finite.len() >= 3 && finite.windows(2).all(|w| w[0] > w[1]), "{snr:?}");
    let drawn = image::open(scratch.path("forward.png")).unwrap();
    assert_eq!(drawn.width(), 5 * (64 + 4) + 4);
    assert!(drawn.height() > 64 + 8);
}

#[test]
fn devices_are_listed() {
    let devices = Scratch::new().ok(&["devices", "--json"]).json().remove(0);
    assert_eq!(devices["devices"][0], "cpu");
    assert!(devices["threads"].as_u64().unwrap() >= 1);
}

#[test]
fn a_dry_run_prints_a_configuration_that_can_be_run() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    let text = scratch.ok(&["train", "run.toml", "--dry-run", "--seed", "5", "--steps", "2"]).stdout;
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["run"]["seed"].as_integer(), Some(5));
    assert!(text.contains("parameters") && text.contains("memory about"), "{text}");
    scratch.write("again.toml", &text);
    assert_eq!(scratch.ok(&["train", "again.toml", "--dry-run"]).stdout, text);
    assert_eq!(scratch.files().len(), 2, "a dry run writes nothing");
    scratch.ok(&["train", "again.toml", "--out", "run", "--quiet"]);
    for preset in ["emoji", "tiny"] {
        scratch.ok(&["train", "--preset", preset, "--dry-run", "--json"]);
    }
}
