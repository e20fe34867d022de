//! Choosing a solver: the list, the sheet, learned steps, ways through noise.

use serde_json::Value;

use crate::common::{Scratch, model};

#[test]
fn every_solver_by_name_and_alias() {
    let scratch = Scratch::new();
    let listed = scratch.ok(&["sample", "--solvers", "--json"]).json().pop().unwrap();
    let listed = listed["solvers"].as_array().unwrap();
    assert!(listed.len() > 50);
    let said = scratch.ok(&["sample", "--solvers"]).stdout;
    for entry in listed {
        let names = [&entry["name"]].into_iter().chain(entry["aliases"].as_array().unwrap());
        for name in names.map(|n| n.as_str().unwrap()) {
            assert!(said.contains(name), "{name}");
            scratch.ok(&["plan", "--schedule", "linear", "--solver", name, "--steps", "4"]);
        }
        assert!(said.contains(entry["paper"].as_str().unwrap()));
    }
    assert!(!scratch.path("tweedie.png").exists());
}

#[test]
fn what_does_not_fit_a_solver_is_refused() {
    let scratch = Scratch::new();
    let sample = |more: &[&'static str], words: &[&str]| {
        scratch
            .fails(&[&["sample", "--model", model(), "-n", "2", "--steps", "3"][..], more].concat(), words);
    };
    sample(
        &["--solver", "dpmpp-2m", "--eta", "0.5"],
        &["eta = 0.5", "`dpmpp-2m` does not support eta", "ddim"],
    );
    sample(&["--solver", "dpmpp-2m-sde", "--eta", "0"], &["eta = 0", "`dpmpp-2m-sde` does not support eta"]);
    sample(&["--solver", "lcm", "--eta", "1"], &["eta = 1", "`lcm` does not support eta"]);
    sample(
        &["--solver", "cfgpp", "--guidance", "1.5"],
        &["guidance", "1.5", "`ddim-cfgpp` needs a value in 0..=1"],
    );
    sample(
        &["--solver", "ddpm-learned"],
        &["`solver`", "`ddpm-learned` needs", "learned variance", "`ddpm`"],
    );
    sample(&["--mu", "0.5"], &["`mu`", "use_dynamic_shifting"]);
    sample(&["--spacing", "karras=-1"], &["`karras` = -1", "> 0"]);
    sample(&["--spacing", "beta=0.5"], &["`beta` = 0.5", "two finite numbers"]);
    sample(&["--spacing", "trailing=2"], &["`trailing` = 2", "no parameters"]);
    sample(&["--solver", "tuned"], &["solver", "`tuned`", "3 evaluations", "none"]);
    scratch.ok(&["sample", "--model", model(), "-n", "1", "--steps", "3", "--spacing", "shifted=3"]);
    for more in [["--solver", "tcd", "--eta", "0.7"], ["--solver", "heun", "--eta", "0.5"]] {
        scratch.ok(&[&["sample", "--model", model(), "-n", "2", "--steps", "3"][..], &more].concat());
    }
    scratch.ok(&[
        "sample",
        "--model",
        model(),
        "-n",
        "1",
        "--steps",
        "3",
        "--solver",
        "cfgpp",
        "--guidance",
        "0.6",
    ]);
}

#[test]
fn solvers_side_by_side() {
    let scratch = Scratch::new();
    let command = ["compare", "--model", model(), "-n", "3", "--reference-steps", "24", "--evals", "3,8"];
    let more = ["--solvers", "ddim,heun,unipc,ddpm", "--json"];
    let found = scratch.ok(&[&command[..], &more].concat()).json().pop().unwrap();
    let rows = found["rows"].as_array().unwrap();
    let row = |solver: &str, budget: u64| {
        rows.iter().find(|r| r["solver"] == solver && r["budget"] == budget).unwrap()
    };
    assert_eq!(rows.len(), 8);
    let error = |solver: &str, budget: u64| row(solver, budget)["error"].as_f64().unwrap();
    assert!(error("ddim", 8) < error("ddim", 3) && error("unipc", 8) > 0.0, "{found}");
    let heun = |key: &str| row("heun", 8)[key].as_u64().unwrap();
    assert_eq!((heun("steps"), heun("evaluations")), (4, 7));
    assert_eq!(row("ddpm", 3)["error"], Value::Null);
    assert!(scratch.path("compare.png").exists());
    let fails = |more: &[&str], words: &[&str]| scratch.fails(&[&command[..], more].concat(), words);
    fails(&["--solvers", "eular"], &["unknown solver `eular`"]);
    fails(&["--solvers", "dpm-adaptive"], &["is adaptive"]);
    fails(&["--solvers", "tuned"], &["none of these solvers"]);
    fails(&["-o", "none/a.png"], &["none"]);
}

#[test]
fn steps_are_learned_and_taken() {
    let scratch = Scratch::new();
    scratch.copy(model().as_ref(), "model");
    let tune = ["tune-steps", "model", "--evals", "3", "--seeds", "16", "--held-out", "8"];
    let tune =
        [&tune[..], &["--reference-steps", "24", "--sweeps", "4", "--iterations", "1", "--json"]].concat();
    let before = scratch.files();
    let dry = scratch.ok(&[&tune[..], &["--dry-run"]].concat()).json().pop().unwrap();
    assert!(before == scratch.files(), "a dry run writes nothing");
    let learned = scratch.ok(&tune).json().pop().unwrap();
    assert_eq!(learned["weights"], dry["weights"], "the same seed learns the same");
    let report = &learned["report"];
    let number = |value: &Value| value.as_f64().unwrap();
    let untuned = report["untuned"].as_array().unwrap();
    assert!(
        !untuned.is_empty() && number(&report["error"]) <= number(&untuned[0]["error"]) * 1.5,
        "{report}"
    );
    let solver_of = |steps: &str, more: &[&str]| {
        let command = ["sample", "--model", "model", "-n", "2", "--steps", steps, "--json", "-o", "a.png"];
        scratch.ok(&[&command[..], more].concat()).json().pop().unwrap()["solver"].clone()
    };
    let solver = |more: &[&str]| solver_of("3", more);
    assert_eq!(solver(&[]), "tuned");
    assert_eq!(solver(&["--solver", "tuned"]), "tuned");
    assert_ne!(solver(&["--untuned"]), "tuned");
    assert_eq!(solver(&["--solver", "ddim"]), "ddim");
    assert_ne!(solver_of("4", &[]), "tuned");
    let planned = |more: &[&str]| {
        let command = ["plan", "--model", "model", "--steps", "3", "--json"];
        scratch.ok(&[&command[..], more].concat()).json().pop().unwrap()["solver"].clone()
    };
    assert_eq!(planned(&[]), "tuned");
    assert_eq!(planned(&["--untuned"]), solver(&["--untuned"]));
    let command = ["compare", "--model", "model", "-n", "2", "--reference-steps", "9", "--evals", "3,5"];
    let rows = scratch.ok(&[&command[..], &["--json"]].concat()).json().pop().unwrap();
    assert!(rows["rows"].as_array().unwrap().iter().any(|r| r["solver"] == "tuned" && r["budget"] == 3));

    let spread = ["error", "mean", "median"].map(|key| number(&report[key]));
    assert!(spread[0] >= spread[1] && spread[1] > 0.0 && spread[2] > 0.0, "{report}");
    let told = scratch.ok(&tune[..tune.len() - 1]).stdout;
    assert!(told.contains("median") && told.contains("times closer"), "{told}");

    let mut extras: Value = serde_json::from_slice(&scratch.read("model/tweedie.json")).unwrap();
    extras["tuned"][0]["sampler"]["start_std"] = (-1.0).into();
    scratch.write("model/tweedie.json", extras.to_string());
    scratch.fails(&["sample", "--model", "model"], &["tweedie.json", "`tuned`", "start_std = -1"]);
    scratch.fails(&["tune-steps", "model", "--evals", "1"], &["--evals 1", "2 to 64"]);
    scratch.fails(&["tune-steps", "none"], &["none"]);
}

/// Its few evaluations are learned ones.
#[test]
fn the_built_in_model_is_tuned() {
    let scratch = Scratch::new();
    for steps in ["5", "6", "8"] {
        let solver = |more: &[&str]| {
            let plan = ["plan", "--steps", steps, "--json"];
            scratch.ok(&[&plan[..], more].concat()).json().pop().unwrap()["solver"].clone()
        };
        assert_eq!((solver(&[]), solver(&["--untuned"])), ("tuned".into(), "dpmpp-2m".into()), "{steps}");
    }
    let sample = ["sample", "-n", "1", "--steps", "6", "--json"];
    assert_eq!(scratch.ok(&sample).json().pop().unwrap()["solver"], "tuned");
}

/// Where levels follow the size of the picture, the plan and the solvers side by side have them as `sample` does.
#[test]
fn shifts_follow_the_size() {
    let scratch = Scratch::new();
    scratch.copy(model().as_ref(), "model");
    let dynamic = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#;
    scratch.write("model/scheduler/scheduler_config.json", dynamic);
    // Levels are the scheduler's own, not those of the model's defaults.
    scratch.write("model/tweedie.json", "{}");
    let plan =
        |more: &[&str]| scratch.ok(&[&["plan", "--model", "model", "--json"][..], more].concat()).json();
    // 8×8 pixels are 16 patches, on the line through 0.5 at 256 and 1.15 at 4096.
    assert_eq!(plan(&[]), plan(&["--mu", "0.459375"]));
    assert_ne!(plan(&[]), plan(&["--mu", "0.5"]));
    let compare = ["compare", "--model", "model", "-n", "1", "--reference-steps", "8", "--evals", "3"];
    scratch.ok(&[&compare[..], &["--solvers", "ddim"]].concat());
    scratch.fails(&["plan", "--model", "model", "--mu", "inf"], &["mu = inf", "finite"]);
    scratch.fails(&["plan", "--schedule", "flow", "--mu", "1"], &["--mu"]);
}

#[test]
fn from_one_picture_to_another() {
    let scratch = Scratch::new();
    scratch.ok(&["sample", "--model", model(), "-n", "1", "--steps", "4", "--singles", "s"]);
    let base = ["interpolate", "--model", model(), "-n", "3", "--steps", "12"];
    let go = |more: &[&str]| scratch.ok(&[&base[..], &["--json"], more].concat()).json().pop().unwrap();
    let found = go(&["s/0000.png", "7", "--animation", "way.gif"]);
    assert!(found["from"]["round_trip_rms"].as_f64().unwrap() < 0.3, "{found}");
    assert_eq!(found["to"]["round_trip_rms"], Value::Null);
    assert!(scratch.path("interpolation.png").exists() && scratch.path("way.gif").exists());
    go(&["3", "4", "--class", "1", "--guidance", "1.5", "-o", "b.png"]);
    let fails = |more: &[&str], words: &[&str]| scratch.fails(&[&base[..], more].concat(), words);
    fails(&["1", "none.png"], &["none.png"]);
    fails(&["1", "2", "--solver", "ddpm"], &["`ddpm` cannot be inverted"]);
    scratch.fails(&["interpolate", "--model", model(), "1", "2", "--frames", "1"], &["--frames 1"]);
    fails(&["1", "2", "--animation", "a.mp4"], &["a.mp4"]);
}
