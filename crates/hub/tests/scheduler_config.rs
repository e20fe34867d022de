//! Scheduler configurations: whatever is invalid is an error that names it; whatever is written is read back. Whole
//! trajectories are compared with diffusers in `trajectories.rs`.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use tweedie_core::{Parameterization, spacing::Spacing};
use tweedie_hub::{
    Sampling, SchedulerConfig,
    scheduler_config::{BetaCurve, TableProcess},
};

fn read(json: &str) -> Result<SchedulerConfig, String> {
    SchedulerConfig::from_json(json, Path::new("dir/scheduler_config.json")).map_err(|e| e.to_string())
}

#[test]
fn errors_name_file_key_value_and_what_is_supported() {
    for (json, words) in [
        (r#"[1]"#, vec!["JSON object"]),
        (r#"{"beta_start": 1}"#, vec!["`_class_name`", "missing"]),
        (r#"{"_class_name": "KarrasVeScheduler"}"#, vec!["KarrasVe", "DDPMScheduler", "EDMEulerScheduler"]),
        (
            r#"{"_class_name": "DDPMScheduler", "beta_strat": 1}"#,
            vec!["`beta_strat`", "unknown", "beta_start"],
        ),
        (r#"{"_class_name": "DDPMScheduler", "beta_start": "x"}"#, vec!["`beta_start`", "\"x\"", "a number"]),
        (r#"{"_class_name": "DDPMScheduler", "beta_start": -1}"#, vec!["`beta_schedule`", "betas[0]"]),
        (r#"{"_class_name": "DDPMScheduler", "num_train_timesteps": -3}"#, vec!["-3", "integer"]),
        (r#"{"_class_name": "DDPMScheduler", "num_train_timesteps": 1000000000000000}"#, vec!["at most"]),
        (r#"{"_class_name": "DDPMScheduler", "num_train_timesteps": 0}"#, vec!["at least one step"]),
        (r#"{"_class_name": "DDPMScheduler", "variance_type": "learned"}"#, vec!["learned", "fixed_small"]),
        (r#"{"_class_name": "DDIMScheduler", "prediction_type": "flow"}"#, vec!["flow", "epsilon", "sample"]),
        (r#"{"_class_name": "DDIMScheduler", "clip_sample_range": -1}"#, vec!["`clip_sample_range`", "-1"]),
        (
            r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true, "use_beta_sigmas": true}"#,
            vec!["`use_beta_sigmas`", "at most one"],
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver+"}"#,
            vec!["`algorithm_type`", "\"dpmsolver+\"", "one of dpmsolver++, sde-dpmsolver++"],
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}"#,
            vec!["`solver_order`", "4", "1, 2 or 3"],
        ),
        (
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": true}"#,
            vec!["`invert_sigmas`", "true"],
        ),
        (
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "time_shift_type": "cubic"}"#,
            vec!["`time_shift_type`", "cubic", "exponential, linear"],
        ),
        (
            r#"{"_class_name": "PNDMScheduler", "prediction_type": "sample"}"#,
            vec!["`prediction_type`", "sample"],
        ),
        (
            r#"{"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "sample"}"#,
            vec!["`prediction_type`", "epsilon, v_prediction"],
        ),
        (
            r#"{"_class_name": "DDIMInverseScheduler", "timestep_spacing": "linspace"}"#,
            vec!["`timestep_spacing`", "leading or trailing"],
        ),
        (r#"{"_class_name": "IPNDMScheduler", "trained_betas": [0.1]}"#, vec!["`trained_betas`", "0.1"]),
        (
            r#"{"_class_name": "LCMScheduler", "original_inference_steps": 1001}"#,
            vec!["`original_inference_steps`", "1001", "1000"],
        ),
        (
            r#"{"_class_name": "DPMSolverMultistepInverseScheduler", "lambda_min_clipped": 100}"#,
            vec!["`lambda_min_clipped`", "excludes all timesteps"],
        ),
        (r#"{"_class_name": "TCDScheduler", "clip_sample": true}"#, vec!["`clip_sample`", "true"]),
        (
            r#"{"_class_name": "UniPCMultistepScheduler", "disable_corrector": [1, 64]}"#,
            vec!["`disable_corrector`", "64", "0 to 63"],
        ),
        (
            r#"{"_class_name": "SASolverScheduler", "corrector_order": 5}"#,
            vec!["`corrector_order`", "1 to 4"],
        ),
        (r#"{"_class_name": "DEISMultistepScheduler", "solver_type": "x"}"#, vec!["`solver_type`", "logrho"]),
        (
            r#"{"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}"#,
            vec!["`algorithm_type`", "dpmsolver++"],
        ),
    ] {
        let error = read(json).err().unwrap_or_else(|| panic!("accepted {json}"));
        assert!(error.contains("dir/scheduler_config.json"), "{error}");
        for word in words {
            assert!(error.contains(word), "{json}: {error}");
        }
    }
}

#[test]
fn keys_that_contradict_each_other_are_errors() {
    for (class, keys, words) in [
        ("DPMSolverMultistep", r#""algorithm_type": "dpmsolver""#, ["final_sigmas_type", "sigma_min"]),
        (
            "DPMSolverMultistep",
            r#""algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min""#,
            ["solver_order", "1 or 2"],
        ),
        (
            "DPMSolverMultistep",
            r#""prediction_type": "flow_prediction""#,
            ["prediction_type", "use_flow_sigmas"],
        ),
        (
            "DEISMultistep",
            r#""prediction_type": "v_prediction", "use_flow_sigmas": true"#,
            ["prediction_type", "use_flow_sigmas"],
        ),
        ("UniPCMultistep", r#""shift_terminal": 0.1"#, ["shift_terminal", "use_flow_sigmas"]),
        ("UniPCMultistep", r#""lower_order_final": false"#, ["lower_order_final", "final_sigmas_type"]),
        ("UniPCMultistep", r#""predict_x0": false"#, ["final_sigmas_type", "sigma_min"]),
        ("UniPCMultistep", r#""use_dynamic_shifting": true"#, ["use_dynamic_shifting", "use_flow_sigmas"]),
        (
            "DPMSolverSinglestep",
            r#""use_flow_sigmas": true, "use_beta_sigmas": true"#,
            ["use_flow_sigmas", "spacing"],
        ),
        (
            "DPMSolverSinglestep",
            r#""algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min""#,
            ["algorithm_type", "dpmsolver++"],
        ),
    ] {
        let error = read(&format!(r#"{{"_class_name": "{class}Scheduler", {keys}}}"#)).err();
        let error = error.unwrap_or_else(|| panic!("accepted {keys}"));
        for word in words {
            assert!(error.contains(word), "{keys}: {error}");
        }
    }
}

#[test]
fn keys_of_other_classes_and_notes_are_harmless() {
    let config = read(
        r#"{"_class_name": "DDIMScheduler", "_diffusers_version": "0.6.0", "skip_prk_steps": true,
            "solver_order": 3, "lambda_min_clipped": -Infinity, "clip_sample": null}"#,
    )
    .unwrap();
    assert!(config.resolve(10).unwrap().clamp.is_none());
    assert!(config.to_json().contains("\"lambda_min_clipped\": -Infinity"));
}

#[test]
fn values_that_nobody_chose_are_the_class_defaults() {
    let config = read(
        r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing",
            "_use_default_values": ["timestep_spacing"]}"#,
    )
    .unwrap();
    assert_eq!(config.resolve(10).unwrap().plan.start.t, 900.0);
}

const CLASSES: &[&str] = &[
    r#"{"_class_name": "DDIMInverseScheduler"}"#,
    r#"{"_class_name": "PNDMScheduler"}"#,
    r#"{"_class_name": "IPNDMScheduler"}"#,
    r#"{"_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": true}"#,
    r#"{"_class_name": "KDPM2AncestralDiscreteScheduler"}"#,
    r#"{"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": true}"#,
    r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true}"#,
    r#"{"_class_name": "DPMSolverMultistepInverseScheduler", "timestep_spacing": "leading"}"#,
    r#"{"_class_name": "DPMSolverMultistepInverseScheduler", "use_beta_sigmas": true}"#,
    r#"{"_class_name": "DPMSolverSinglestepScheduler"}"#,
    r#"{"_class_name": "DEISMultistepScheduler"}"#,
    r#"{"_class_name": "UniPCMultistepScheduler", "timestep_spacing": "trailing"}"#,
    r#"{"_class_name": "SASolverScheduler"}"#,
    r#"{"_class_name": "EDMDPMSolverMultistepScheduler"}"#,
    r#"{"_class_name": "LCMScheduler"}"#,
    r#"{"_class_name": "TCDScheduler"}"#,
    r#"{"_class_name": "FlowMatchHeunDiscreteScheduler"}"#,
];

fn config_without_shift() -> SchedulerConfig {
    read(r#"{"_class_name": "DDPMScheduler"}"#).unwrap()
}

#[test]
fn plans_that_cannot_be_are_errors() {
    let config = read(r#"{"_class_name": "DDPMScheduler"}"#).unwrap();
    let error = |ask: Sampling| config.resolve_with(&ask).err().unwrap().to_string();
    assert!(error(Sampling::steps(0)).contains("0"));
    assert!(error(Sampling::steps(1001)).contains("1001"));
    let karras = Sampling { spacing: Some(Spacing::Karras { rho: 7.0 }), ..Sampling::steps(usize::MAX) };
    assert!(error(karras).contains("at most"));
    let ask = Sampling { solver: Some("eulr".into()), ..Sampling::steps(5) };
    assert!(error(ask).contains("`eulr`"));
    assert!(error(Sampling { eta: Some(2.0), ..Sampling::steps(5) }).contains("eta"));

    let fails = |json: &str, steps: usize, words: &[&str]| {
        let error = read(json).unwrap().resolve(steps).err().unwrap().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    };
    fails(r#"{"_class_name": "PNDMScheduler"}"#, 3, &["at least 4", "skip_prk_steps"]);
    fails(r#"{"_class_name": "LCMScheduler"}"#, 51, &["51", "original_inference_steps = 50"]);
    fails(r#"{"_class_name": "UniPCMultistepScheduler"}"#, 1000, &["1000", "at most 999"]);
    let dynamic = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#;
    fails(dynamic, 4, &["use_dynamic_shifting", "mu"]);
    let shifted = read(dynamic).unwrap().with_mu(0.8).unwrap();
    assert!(shifted.resolve(4).is_ok());
    // Flux's line: 0.5 at 256 tokens, 1.15 at 4096.
    let starts = |config: &SchedulerConfig| config.resolve(4).unwrap().plan.moves;
    for (tokens, mu) in [(256, 0.5), (4096, 1.15), (2176, 0.825), (64, 0.4675)] {
        let by_size = read(dynamic).unwrap().of_tokens(tokens).unwrap().unwrap();
        let by_mu = read(dynamic).unwrap().with_mu(mu).unwrap();
        for (a, b) in starts(&by_size).into_iter().zip(starts(&by_mu)) {
            assert!((a.to().sigma - b.to().sigma).abs() < 1e-12, "{tokens}");
        }
    }
    assert!(config_without_shift().of_tokens(256).unwrap().is_none());
    let flat = dynamic.replace('}', r#", "max_image_seq_len": 256}"#);
    let error = read(&flat).unwrap().of_tokens(256).unwrap_err().to_string();
    assert!(error.contains("max_image_seq_len") && error.contains("base_image_seq_len"), "{error}");
    assert!(config_without_shift().with_mu(0.8).unwrap_err().to_string().contains("use_dynamic_shifting"));
    for json in CLASSES {
        fails(json, 0, &["at least 1"]);
    }
    let recipe = config.resolve(5).unwrap();
    assert_eq!(recipe.clone().begun_at(4).unwrap().plan.solves(), 1);
    assert!(recipe.begun_at(5).unwrap_err().contains("begin = 5"));

    let zero_snr = r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true,
                       "timestep_spacing": "trailing"}"#;
    let error = read(zero_snr).unwrap().resolve(5).err().unwrap().to_string();
    assert!(error.contains("pure noise") && error.contains("v_prediction"), "{error}");
}

#[test]
fn another_solver_keeps_the_process() {
    let config = read(r#"{"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}"#).unwrap();
    let spacing = Some(Spacing::Karras { rho: 7.0 });
    let ask = Sampling { solver: Some("heun".into()), spacing, ..Sampling::steps(6) };
    let recipe = config.resolve_with(&ask).unwrap();
    assert_eq!((recipe.solver.name(), recipe.plan.solves()), ("heun", 6));
    assert_eq!(recipe.parameterization, Parameterization::V);
    assert!(recipe.plan.moves.last().unwrap().to().is_clean());
    assert!((recipe.plan.start.t - 999.0).abs() < 1e-9);
    // Its own solver by name gives its own plan.
    let own = config.resolve_with(&Sampling { solver: Some("ddpm".into()), ..Sampling::steps(6) }).unwrap();
    assert_eq!(own.plan.moves, config.resolve(6).unwrap().plan.moves);
}

#[test]
fn a_ddim_pipeline_samples_with_ddim() {
    let learned = read(r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#).unwrap();
    assert_eq!(learned.resolve(20).unwrap().solver.name(), "ddpm-learned");
    let config = read(r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}"#).unwrap();
    let ddim = config.convert("DDIMScheduler").unwrap();
    assert_eq!(ddim.class_name(), "DDIMScheduler");
    let recipe = ddim.resolve(10).unwrap();
    assert_eq!((recipe.solver.name(), recipe.plan.moves.len()), ("ddim", 10));
}

#[test]
fn trained_processes_are_written_and_read_back() {
    let curves = [
        BetaCurve::Linear { start: 1e-4, end: 0.02 },
        BetaCurve::ScaledLinear { start: 8.5e-4, end: 0.012 },
        BetaCurve::SquaredCosine,
        BetaCurve::Sigmoid { start: 1e-4, end: 0.02 },
        BetaCurve::Betas { betas: (0..400).map(|i| 1e-4 * (i + 1) as f64).collect() },
    ];
    for curve in curves {
        for parameterization in [Parameterization::Eps, Parameterization::X0, Parameterization::V] {
            let zero_terminal_snr = parameterization != Parameterization::Eps;
            let process = TableProcess { steps: 400, curve: curve.clone(), zero_terminal_snr };
            let written = SchedulerConfig::ddpm(&process, parameterization).unwrap();
            let back = read(&written.to_json()).unwrap();
            assert_eq!(back.process().parameterization, parameterization);
            let schedule = process.schedule().unwrap();
            for t in [0.0, 200.0, 399.0] {
                use tweedie_core::NoiseSchedule;
                assert_eq!(back.process().schedule.level(t), schedule.level(t), "{curve:?}");
            }
            assert_eq!(back.resolve(20).unwrap().plan.start.t, 399.0);
        }
    }
    let flow = read(&SchedulerConfig::flow(1000, 3.0).unwrap().to_json()).unwrap();
    assert_eq!(flow.process().parameterization, Parameterization::Flow);
    assert_eq!(flow.resolve(4).unwrap().plan.start.t, 1000.0);
    let edm = read(&SchedulerConfig::edm(0.002, 80.0, 0.5).unwrap().to_json()).unwrap();
    assert_eq!(edm.process().parameterization, Parameterization::Edm { sigma_data: 0.5 });
    let table = TableProcess { steps: 10, curve: BetaCurve::SquaredCosine, zero_terminal_snr: false };
    assert!(SchedulerConfig::ddpm(&table, Parameterization::Flow).unwrap_err().to_string().contains("Flow"));
}

/// Of nothing but noise, predicted noise says nothing; some classes have an `alpha` of 2^-12 in place of zero.
#[test]
fn predicted_noise_is_not_asked_for_at_pure_noise() {
    let mut classes = 0;
    for class in [
        "DDPMScheduler",
        "DDIMScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ] {
        let config = |prediction: &str, spacing: &str| {
            let text = format!(
                r#"{{"_class_name": "{class}", "rescale_betas_zero_snr": true, "timestep_spacing": "{spacing}",
                    "prediction_type": "{prediction}", "num_train_timesteps": 1000}}"#
            );
            read(&text)
        };
        // Not all classes have the key.
        let Ok(v) = config("v_prediction", "trailing") else { continue };
        let start = v.resolve(7).unwrap().plan.start;
        if start.alpha > 1e-3 {
            continue;
        }
        classes += 1;
        let error = config("epsilon", "trailing").unwrap().resolve(7).unwrap_err().to_string();
        assert!(error.contains("pure noise") && error.contains("`v_prediction`"), "{class}: {error}");
        // Other solvers, too; spacings that leave the last time out are as they were.
        let ask = Sampling { solver: Some("dpmpp-2m".into()), ..Sampling::steps(7) };
        let error = config("epsilon", "trailing").unwrap().resolve_with(&ask).unwrap_err().to_string();
        assert!(error.contains("pure noise"), "{class}: {error}");
        if ["DDIMScheduler", "EulerDiscreteScheduler"].contains(&class) {
            config("epsilon", "leading").unwrap().resolve(7).unwrap();
        }
    }
    assert!(classes >= 4, "{classes}");
}

/// diffusers' float32 has 998.9999 for the first time here and cuts it off to 998.
#[test]
fn times_that_are_whole_but_for_rounding_are_not_cut_off() {
    for class in ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"] {
        for switch in ["use_exponential_sigmas", "use_beta_sigmas"] {
            for curve in ["linear", "scaled_linear", "squaredcos_cap_v2"] {
                let text = format!(
                    r#"{{"_class_name": "{class}", "{switch}": true, "beta_schedule": "{curve}",
                        "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}}"#
                );
                let config = read(&text).unwrap();
                for steps in [2, 7, 20, 50, 333] {
                    let plan = config.resolve(steps).unwrap().plan;
                    assert_eq!(plan.start.t, 999.0, "{class} {switch} {curve} {steps}");
                    let whole = plan.steps().all(|(from, _)| from.t.fract() == 0.0);
                    assert!(whole, "{class} {switch} {curve} {steps}");
                }
            }
        }
    }
}
