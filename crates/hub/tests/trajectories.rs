//! Trajectories compared with diffusers' schedulers, with formulas as networks: every element of every row, or, with more
//! than seven calls of the network, of ten rows at the beginning, in the middle and at the end. The expected values were
//! written by `golden/make_trajectories.py`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;
use tweedie_hub::{
    Sampling, SchedulerConfig,
    scheduler_config::{Recipe, SampleScale, Trace},
};

const START: [f64; 4] = [0.9, -1.3, 0.4, 2.1];
const CLEAN: [f64; 4] = [0.5, -0.8, 0.1, -0.2];

/// Tolerance of each element, relative to its magnitude or a hundredth of its row's. diffusers ran in float64, so only
/// amplified rounding errors are left.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Case {
    config: Value,
    steps: usize,
    #[serde(default)]
    begin: Option<usize>,
    #[serde(default)]
    strength: Option<f64>,
    #[serde(default)]
    eta: Option<f64>,
    #[serde(default)]
    mu: Option<f64>,
    model: String,
    calls: usize,
    times: BTreeMap<usize, f64>,
    rows: BTreeMap<usize, Vec<f64>>,
}

fn wave(draw: i64) -> Vec<f64> {
    (0..4).map(|i| 1.3 * (12.9898 * f64::from(i + 1) + 78.233 * (draw + 1) as f64).sin()).collect()
}

fn linear(x: &[f64], t: f64) -> Vec<f64> {
    x.iter().map(|x| x * (t / (t + 1.0))).collect()
}

fn smooth(x: &[f64], t: f64) -> Vec<f64> {
    let f = |(i, x): (usize, &f64)| 0.7 * x + 0.3 * (2.0 * x).tanh() + 0.2 * (t / 37.0 + i as f64).sin();
    x.iter().enumerate().map(f).collect()
}

fn learned(x: &[f64], t: f64) -> Vec<f64> {
    let mut out = smooth(x, t);
    out.extend((0..x.len()).map(|i| 0.8 * (t / 50.0 + i as f64).sin()));
    out
}

fn recipe(case: &Case) -> Result<Recipe, String> {
    let text = case.config.to_string();
    let mut config = SchedulerConfig::from_json(&text, Path::new("case")).map_err(|e| e.to_string())?;
    if let Some(mu) = case.mu {
        config = config.with_mu(mu).map_err(|e| e.to_string())?;
    }
    let ask = Sampling { eta: case.eta, ..Sampling::steps(case.steps) };
    let recipe = config.resolve_with(&ask).map_err(|e| e.to_string())?;
    let kept = |strength: f64| ((case.steps as f64 * strength) as usize).min(case.steps);
    match case.begin.or(case.strength.map(|s| case.steps - kept(s))) {
        None | Some(0) => Ok(recipe),
        Some(begin) => recipe.begun_at(begin),
    }
}

fn run(case: &Case) -> Result<Trace, String> {
    let recipe = recipe(case)?;
    let start = match case.strength {
        // add_noise, in the scheduler's own coordinates.
        Some(_) => {
            let (level, noise) = (recipe.plan.start, wave(-2));
            let scale = recipe.scale.factor(level);
            CLEAN.iter().zip(noise).map(|(x, n)| scale * (level.alpha * x + level.sigma * n)).collect()
        }
        // diffusers' init_noise_sigma is that of the whole schedule.
        None => START.map(|x| x * init_noise(case, &recipe)).to_vec(),
    };
    let network = match &*case.model {
        "linear" => linear,
        "learned" => learned,
        _ => smooth,
    };
    recipe.trace(&start, &network, &mut |draw| Some(wave(draw as i64))).map_err(|e| e.to_string())
}

fn init_noise(case: &Case, recipe: &Recipe) -> f64 {
    let whole = match case.begin {
        None => recipe.clone(),
        Some(_) => self::recipe(&Case { begin: None, config: case.config.clone(), ..empty(case) }).unwrap(),
    };
    let class = case.config["_class_name"].as_str().unwrap();
    let in_sigma = ["EDM", "CosineDPM", "CMStochastic"].iter().any(|start| class.starts_with(start));
    if whole.scale == SampleScale::OverAlpha || in_sigma {
        whole.plan.start_std * whole.scale.factor(whole.plan.start)
    } else {
        1.0
    }
}

fn empty(case: &Case) -> Case {
    Case {
        config: Value::Null,
        steps: case.steps,
        begin: None,
        strength: None,
        eta: case.eta,
        mu: case.mu,
        model: case.model.clone(),
        calls: 0,
        times: BTreeMap::new(),
        rows: BTreeMap::new(),
    }
}

/// Keys that diffusers wrote, written again, are the same and sample the same.
fn written_back(case: &Case) {
    let path = Path::new("case");
    let config = SchedulerConfig::from_json(&case.config.to_string(), path).unwrap();
    let again: Value = serde_json::from_str(&config.to_json().replace("-Infinity", "\"-Infinity\"")).unwrap();
    assert_eq!(again, case.config);
    let twice = SchedulerConfig::from_json(&config.to_json(), path).unwrap();
    let moves = |c: &SchedulerConfig| c.resolve(case.steps).unwrap().plan.moves;
    assert_eq!(moves(&twice), moves(&config));
}

/// The largest error of the trajectory, or what else is wrong.
fn check(case: &Case) -> Result<f64, String> {
    let trace = run(case)?;
    if trace.times.len() != case.calls {
        return Err(format!("{} evaluations, expected {}", trace.times.len(), case.calls));
    }
    for (&call, expected) in &case.times {
        let found = trace.times[call];
        if (found - expected).abs() > 1e-6 * expected.abs().max(1.0) {
            return Err(format!("call {call} at time {found}, expected {expected}"));
        }
    }
    let mut worst: f64 = 0.0;
    for (&row, expected) in &case.rows {
        let rms = (expected.iter().map(|v| v * v).sum::<f64>() / expected.len() as f64).sqrt();
        for (found, expected) in trace.rows[row].iter().zip(expected) {
            let error = (found - expected).abs() / expected.abs().max(0.01 * rms).max(1e-12);
            if error.is_nan() || error >= TOLERANCE {
                let rows = &trace.rows[row];
                return Err(format!(
                    "row {row} is {rows:?}, expected {:?}: off by {error:.1e}",
                    case.rows[&row]
                ));
            }
            worst = worst.max(error);
        }
    }
    Ok(worst)
}

fn label(case: &Case) -> String {
    let begin = case.begin.map(|v| v as f64);
    let extra = [("begin", begin), ("strength", case.strength), ("eta", case.eta), ("mu", case.mu)];
    let extra: String = extra.iter().filter_map(|(n, v)| v.map(|v| format!(" {n} {v}"))).collect();
    format!("{} steps {}{extra} {}", case.config, case.steps, case.model)
}

fn class(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/trajectories/{name}.txt"));
    let text = fs::read_to_string(path).unwrap();
    let (mut faults, mut worst, mut count, mut full) = (Vec::new(), 0.0, 0, 0);
    for line in text.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        count += 1;
        if case.config.get("_diffusers_version").is_some() {
            written_back(&case);
            full += 1;
        }
        match check(&case) {
            Ok(error) => worst = f64::max(worst, error),
            Err(fault) => faults.push(format!("{}\n    {fault}", label(&case))),
        }
    }
    assert_eq!(full, 1, "{name}: the configuration with every key");
    println!("{name}: {count} trajectories, worst error {worst:.1e}");
    assert!(faults.is_empty(), "{name}: {} faults of {count}\n{}", faults.len(), faults.join("\n"));
}

macro_rules! classes {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            class($name);
        })+
    };
}

classes! {
    ddpm: "DDPMScheduler",
    ddpm_parallel: "DDPMParallelScheduler",
    unclip: "UnCLIPScheduler",
    ddim: "DDIMScheduler",
    ddim_parallel: "DDIMParallelScheduler",
    ddim_cogvideox: "CogVideoXDDIMScheduler",
    dpm_cogvideox: "CogVideoXDPMScheduler",
    ddim_inverse: "DDIMInverseScheduler",
    pndm: "PNDMScheduler",
    ipndm: "IPNDMScheduler",
    lms: "LMSDiscreteScheduler",
    euler: "EulerDiscreteScheduler",
    euler_ancestral: "EulerAncestralDiscreteScheduler",
    heun: "HeunDiscreteScheduler",
    kdpm2: "KDPM2DiscreteScheduler",
    kdpm2_ancestral: "KDPM2AncestralDiscreteScheduler",
    dpm_sde: "DPMSolverSDEScheduler",
    dpm_multistep: "DPMSolverMultistepScheduler",
    dpm_multistep_inverse: "DPMSolverMultistepInverseScheduler",
    dpm_singlestep: "DPMSolverSinglestepScheduler",
    deis: "DEISMultistepScheduler",
    unipc: "UniPCMultistepScheduler",
    sa_solver: "SASolverScheduler",
    edm_euler: "EDMEulerScheduler",
    edm_dpm: "EDMDPMSolverMultistepScheduler",
    cosine_dpm: "CosineDPMSolverMultistepScheduler",
    consistency: "CMStochasticIterativeScheduler",
    lcm: "LCMScheduler",
    tcd: "TCDScheduler",
    flow_euler: "FlowMatchEulerDiscreteScheduler",
    flow_heun: "FlowMatchHeunDiscreteScheduler",
    flow_lcm: "FlowMatchLCMScheduler",
}
