//! Bits per dimension, and averages after training.

use serde_json::Value;

use crate::common::{RUN, Scratch, model};

#[test]
fn the_bound_of_a_model() {
    let scratch = Scratch::new();
    let command =
        ["eval", "--bound", "--model", model(), "--bound-images", "3", "--bound-levels", "4", "--json"];
    let report = |more: &[&str]| {
        let mut all = scratch.ok(&[&command[..], more].concat()).json();
        let mut value = all.pop().unwrap()["bound"].take();
        value["seconds"] = Value::Null;
        value
    };
    let found = report(&[]);
    let bits = |key: &str| found[key]["mean"].as_f64().unwrap();
    let parts = bits("prior") + bits("denoising") + bits("reconstruction");
    assert!((bits("total") - parts).abs() < 1e-9 && bits("total") > 0.0, "{found}");
    assert_eq!((found["images"].as_u64(), found["visited"].as_u64()), (Some(3), Some(4)));
    assert_eq!(found["per_level"].as_array().unwrap().len(), 4);
    assert!(scratch.path("bound.png").exists());
    assert_eq!(found, report(&["--threads", "1"]));
    assert_ne!(found, report(&["--seed", "1"]));
    assert_ne!(found, report(&["--bound-variance", "fixed-large"]));
    assert_eq!(found, report(&["--ode", "--ode-steps", "2"]), "the ODE stands beside the bound");
    let said =
        scratch.ok(&["eval", "--bound", "--model", model(), "--bound-images", "2", "--bound-levels", "2"]);
    assert!(
        said.stdout.contains("bits/dim") && said.stdout.contains("reconstruction, L(0)"),
        "{}",
        said.stdout
    );
}

#[test]
fn bounds_that_cannot_be() {
    let scratch = Scratch::new();
    let bound = |more: &[&'static str]| [&["eval", "--bound", "--model", model()][..], more].concat();
    scratch.fails(&bound(&["--bound-levels", "1"]), &["levels = 1", "2 to 1000"]);
    scratch.fails(&bound(&["--bound-variance", "learned-range"]), &["3 output channels", "6"]);
    scratch.fails(&bound(&["--holdout", "0"]), &["no image is held out", "--part all"]);
    scratch.fails(&bound(&["--bound-plot", "none/bound.png"]), &["none"]);
    scratch.fails(&["eval", "--model", model(), "--bound-levels", "9"], &["--bound"]);
}

#[test]
fn averages_of_any_length() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN.replace("[ema]", "[ema]\nsnapshot_every = 3"));
    scratch.ok(&["train", "run.toml", "--out", "run", "--steps", "12"]);
    let made = scratch.ok(&["ema", "run", "--std", "0.07", "--out", "made", "--json"]).json();
    let made = made.last().unwrap();
    assert_eq!((made["step"].as_u64(), made["snapshots"].as_u64()), (Some(12), Some(8)));
    assert!(made["error"].as_f64().unwrap() < 0.2, "{made}");
    scratch.ok(&["sample", "--model", "made", "--steps", "2", "-n", "1", "-o", "a.png"]);
    scratch.ok(&["ema", "run", "--std", "0.002", "--out", "short"]).says(&["only approximate an average"]);
    scratch.fails(&["ema", "run", "--std", "0.5", "--out", "x"], &["std = 0.5", "0.001"]);
    scratch.fails(&["ema", "run", "--std", "0.1", "--step", "4", "--out", "x"], &["step = 4", "3, 6, 9, 12"]);
    scratch.fails(&["ema", "nowhere", "--std", "0.1", "--out", "x"], &["nowhere"]);
    assert!(!scratch.path("x").exists());
}

#[test]
fn a_learned_variance_is_trained_sampled_and_measured() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    let set = ["diffusion.variance=learned-range", "loss.objective=hybrid", "loss.times=loss-second-moment"];
    let set: Vec<_> = set.into_iter().flat_map(|s| ["--set", s]).collect();
    scratch.ok(&[&["train", "run.toml", "--out", "run", "--steps", "4"][..], &set].concat());
    let sample = |out: &'static str, more: &[&'static str]| {
        scratch
            .ok(&[&["sample", "--model", "run/model", "--steps", "3", "-n", "2", "-o", out][..], more]
                .concat());
        scratch.read(out)
    };
    let learned = sample("a.png", &["--solver", "ddpm-learned"]);
    assert_ne!(learned, sample("b.png", &["--solver", "ddpm"]));
    let bound =
        ["eval", "--bound", "--model", "run/model", "--bound-images", "2", "--bound-levels", "3", "--json"];
    let found = scratch.ok(&bound).json().pop().unwrap();
    assert_eq!(found["bound"]["variance"], "learned-range");
}
