//! Keys of other classes. Configurations pass from class to class and carry keys that the current class does not have;
//! diffusers ignores them. Mostly that is harmless: the value is a default, or an option of another solver. But if such a
//! key changes levels, process or range, users should know that it is ignored.

use serde_json::Value;

/// Options of a solver, and keys without an effect of their own.
const OPTIONS: &[&str] = &[
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "clip_denoised",
    "clip_sample",
    "clip_sample_range",
    "corrector_order",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "interpolation_type",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "noise_sampler_seed",
    "original_inference_steps",
    "predict_x0",
    "predictor_order",
    "s_noise",
    "sample_max_value",
    "set_alpha_to_one",
    "set_alpha_to_zero",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "tau_func",
    "tensor_format",
    "time_shift_type",
    "timestep_scaling",
];

/// Keys of the process, the levels and the range of samples, with their usual default values as JSON. Null and false have
/// no effect.
const PROCESS: &[(&str, &[&str])] = &[
    ("beta_end", &["0.02", "0.012"]),
    ("beta_schedule", &["\"linear\"", "\"scaled_linear\""]),
    ("beta_start", &["0.0001", "0.00085"]),
    ("final_sigmas_type", &["\"zero\""]),
    ("flow_shift", &["1"]),
    ("invert_sigmas", &[]),
    ("lambda_min_clipped", &["\"-Infinity\""]),
    ("num_train_timesteps", &["1000"]),
    ("prediction_type", &["\"epsilon\""]),
    ("rescale_betas_zero_snr", &[]),
    ("rho", &["7"]),
    ("scale_factors", &[]),
    ("shift", &["1"]),
    ("shift_terminal", &[]),
    ("sigma_data", &["0.5"]),
    ("sigma_max", &["80"]),
    ("sigma_min", &["0.002"]),
    ("sigma_schedule", &["\"karras\""]),
    ("snr_shift_scale", &["3", "1"]),
    ("steps_offset", &["0"]),
    ("stochastic_sampling", &[]),
    ("thresholding", &[]),
    ("timestep_spacing", &["\"leading\"", "\"linspace\""]),
    ("timestep_type", &["\"discrete\""]),
    ("trained_betas", &[]),
    ("upscale_mode", &["\"bicubic\""]),
    ("use_beta_sigmas", &[]),
    ("use_dynamic_shifting", &[]),
    ("use_exponential_sigmas", &[]),
    ("use_flow_sigmas", &[]),
    ("use_karras_sigmas", &[]),
    ("use_lu_lambdas", &[]),
    ("variance_type", &["\"fixed_small\"", "\"fixed_small_log\""]),
];

fn usual(key: &str) -> Option<&'static [&'static str]> {
    PROCESS.iter().find(|(name, _)| *name == key).map(|(_, usual)| *usual)
}

/// Whether any class has the key.
pub(super) fn known(key: &str) -> bool {
    OPTIONS.contains(&key) || usual(key).is_some()
}

/// Whether the value would change levels, process or range in a class that has the key.
pub(super) fn asks(key: &str, value: &Value) -> bool {
    if matches!(value, Value::Null | Value::Bool(false)) {
        return false;
    }
    let same = |text: &&str| match (serde_json::from_str::<Value>(text), value.as_f64()) {
        (Ok(usual), Some(number)) => usual.as_f64() == Some(number),
        (Ok(usual), None) => usual == *value,
        (Err(_), _) => false,
    };
    usual(key).is_some_and(|usual| !usual.iter().any(same))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_usual_asks_for_nothing() {
        for (key, value) in [
            ("prediction_type", json!("epsilon")),
            ("shift", json!(1)),
            ("shift", json!(1.0)),
            ("use_karras_sigmas", json!(false)),
            ("trained_betas", json!(null)),
            ("skip_prk_steps", json!(true)),
            ("lambda_min_clipped", json!("-Infinity")),
        ] {
            assert!(known(key) && !asks(key, &value), "{key} {value}");
        }
        for (key, value) in [
            ("prediction_type", json!("v_prediction")),
            ("shift", json!(3.0)),
            ("use_karras_sigmas", json!(true)),
            ("trained_betas", json!([0.1])),
            ("lambda_min_clipped", json!(-5.1)),
        ] {
            assert!(known(key) && asks(key, &value), "{key} {value}");
        }
        assert!(!known("sigmas"));
    }

    #[test]
    fn defaults_are_json() {
        let texts = PROCESS.iter().flat_map(|(_, usual)| usual.iter());
        assert!(texts.clone().all(|text| serde_json::from_str::<Value>(text).is_ok()));
        assert!(texts.count() > 20);
    }
}
