//! The text `parameters` that AUTOMATIC1111's Stable Diffusion web UI and tools for its images read and write:
//!
//! ```text
//! a cat
//! Negative prompt: blurry
//! Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1, Size: 512x512, Model: sd15
//! ```
//!
//! and its names of samplers and schedules in terms of ours.

use std::num::NonZeroUsize;

use tweedie_core::{solver, spacing::Spacing};

use crate::Request;

/// Its samplers, with the solvers of the same formula.
pub const SAMPLERS: &[(&str, &str)] = &[
    ("DPM++ 2M", "dpmpp-2m"),
    ("DPM++ SDE", "dpmpp-sde"),
    ("DPM++ 2M SDE", "dpmpp-2m-sde"),
    ("DPM++ 2S a", "dpmpp-2s-ancestral"),
    ("DPM++ 3M SDE", "dpmpp-3m-sde"),
    ("Euler a", "euler-ancestral"),
    ("Euler", "euler"),
    ("LMS", "lms"),
    ("Heun", "heun"),
    ("DPM2", "dpm2"),
    ("DPM2 a", "dpm2-ancestral"),
    ("DPM adaptive", "dpm-adaptive"),
    ("Restart", "restart"),
    ("DDIM", "ddim"),
    ("PLMS", "plms"),
    ("UniPC", "unipc"),
    ("LCM", "lcm"),
    ("DDPM", "ddpm"),
];

/// Its schedules: the name in requests, the label in texts, and the spacing; `None` is the model's own.
pub const SCHEDULES: &[(&str, &str, Option<Spacing>)] = &[
    ("automatic", "Automatic", None),
    ("uniform", "Uniform", Some(Spacing::LinspaceFractional)),
    ("karras", "Karras", Some(Spacing::Karras { rho: 7.0 })),
    ("exponential", "Exponential", Some(Spacing::Exponential)),
    ("polyexponential", "Polyexponential", Some(Spacing::Polyexponential { rho: 1.0 })),
    ("sgm_uniform", "SGM Uniform", Some(Spacing::SgmUniform)),
    ("kl_optimal", "KL Optimal", Some(Spacing::KlOptimal)),
    ("ddim", "DDIM", Some(Spacing::Leading { offset: 1 })),
    ("beta", "Beta", Some(Spacing::Beta { a: 0.6, b: 0.6 })),
];

/// The solver for a sampler of this name. Names of our own solvers are accepted, too; older names end with the schedule.
pub fn sampler(name: &str) -> Option<(&'static str, Option<Spacing>)> {
    let named = |name: &str| {
        let own =
            SAMPLERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, solver)| *solver);
        own.or_else(|| solver::find(name).map(|entry| entry.name))
    };
    let name = name.trim();
    named(name).map(|solver| (solver, None)).or_else(|| {
        let (first, last) = name.rsplit_once(' ')?;
        Some((named(first)?, schedule(last)?))
    })
}

/// The spacing of the schedule of this name or label: `Some(None)` is the model's own.
pub fn schedule(name: &str) -> Option<Option<Spacing>> {
    let is = |known: &&str| known.eq_ignore_ascii_case(name.trim());
    SCHEDULES.iter().find(|(own, label, _)| is(own) || is(label)).map(|(_, _, spacing)| *spacing)
}

/// What the text contains beside the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The name of the model.
    pub model: &'a str,
    /// Number of steps.
    pub steps: usize,
    /// The name of the solver.
    pub solver: &'a str,
    /// The guidance scale.
    pub guidance: f64,
    /// Height and width.
    pub size: [usize; 2],
}

/// The text for the first image of a request.
pub fn text(request: &Request, facts: &Facts<'_>) -> String {
    let mut text = request.prompts.first().cloned().unwrap_or_default();
    if let Some(negative) = request.negative_prompt.as_deref().filter(|text| !text.is_empty()) {
        text += &format!("\nNegative prompt: {negative}");
    }
    let own = |name: &str| solver::find(name).map(|entry| entry.name);
    let sampler =
        SAMPLERS.iter().find(|(_, solver)| own(solver).is_some() && own(solver) == own(facts.solver));
    let sampler = sampler.map_or(facts.solver, |(name, _)| name);
    let schedule =
        SCHEDULES.iter().find(|(_, _, spacing)| *spacing == request.spacing).map(|(_, label, _)| *label);
    let [height, width] = facts.size;
    text += &format!("\nSteps: {}, Sampler: {sampler}", facts.steps);
    if let Some(label) = schedule {
        text += &format!(", Schedule type: {label}");
    }
    text += &format!(", CFG scale: {}, Seed: {}, Size: {width}x{height}", facts.guidance, request.seed);
    if !facts.model.is_empty() {
        text += &format!(", Model: {}", quoted(facts.model));
    }
    if let Some(strength) = request.strength {
        text += &format!(", Denoising strength: {strength}");
    }
    if let Some(skip) = request.clip_skip {
        text += &format!(", Clip skip: {}", skip + 1);
    }
    text + ", Version: tweedie"
}

/// Values with commas, colons or line breaks are JSON strings.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n', '"']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.into()
    }
}

/// What a text contains.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The request.
    pub request: Request,
    /// The entries that have no place in it.
    pub others: Vec<(String, String)>,
}

/// Reads a text.
///
/// # Errors
/// Says which entry is wrong.
pub fn parse(text: &str) -> Result<Parsed, String> {
    let (above, entries) = match text.trim_end().rsplit_once('\n') {
        Some((above, last)) if last.starts_with("Steps:") => (above, last),
        None if text.starts_with("Steps:") => ("", text),
        _ => return Err("expected a last line that begins with `Steps:`".into()),
    };
    let (prompt, negative) = match above.split_once("\nNegative prompt:") {
        Some((prompt, negative)) => (prompt, negative.trim()),
        None => (above.strip_prefix("Negative prompt:").map_or(above, |_| ""), ""),
    };
    let negative = above.strip_prefix("Negative prompt:").map_or(negative, str::trim);
    let mut request = Request::default();
    if !prompt.trim().is_empty() {
        request.prompts = vec![prompt.trim().to_owned()];
    }
    request.negative_prompt = (!negative.is_empty()).then(|| negative.to_owned());
    let mut others = Vec::new();
    for (key, value) in split(entries) {
        let wrong = |expected: &str| format!("`{key}: {value}`: expected {expected}");
        let number = || value.parse::<f64>().map_err(|_| wrong("a number"));
        match &*key {
            "Steps" => {
                let steps = value.parse::<NonZeroUsize>().map_err(|_| wrong("an integer > 0"))?;
                request.steps = Some(steps);
            }
            "Sampler" => {
                let (solver, spacing) =
                    sampler(&value).ok_or_else(|| wrong("the name of a sampler that we have"))?;
                request.solver = Some(solver.into());
                request.spacing = spacing.or(request.spacing);
            }
            "Schedule type" => {
                let spacing = schedule(&value).ok_or_else(|| wrong("the name of a schedule that we have"))?;
                request.spacing = spacing.or(request.spacing);
            }
            "CFG scale" => request.guidance = Some(number()?),
            "Seed" => request.seed = value.parse().map_err(|_| wrong("an integer ≥ 0"))?,
            "Size" => {
                let sides =
                    value.split_once('x').and_then(|(w, h)| Some(vec![h.parse().ok()?, w.parse().ok()?]));
                request.size = Some(sides.ok_or_else(|| wrong("width and height like 512x768"))?);
            }
            "Clip skip" => {
                let layers = value.parse::<usize>().map_err(|_| wrong("an integer > 0"))?;
                request.clip_skip = layers.checked_sub(1).filter(|skip| *skip > 0);
            }
            _ => others.push((key, value)),
        }
    }
    Ok(Parsed { request, others })
}

/// The entries `Key: value` of a line; values may be JSON strings.
fn split(line: &str) -> Vec<(String, String)> {
    let (mut entries, mut rest) = (Vec::new(), line.trim());
    while let Some((key, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let (value, left) = match after.strip_prefix('"') {
            Some(_) => {
                let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
                match values.next() {
                    Some(Ok(value)) => (value, &after[values.byte_offset()..]),
                    _ => (after.to_owned(), ""),
                }
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        entries.push((key.trim().to_owned(), value));
        rest = left.trim_start().strip_prefix(',').unwrap_or("").trim_start();
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of A1111's wiki, with its quoting of hashes.
    const EXAMPLE: &str = "a (cat:1.2), sitting\nNegative prompt: blurry,\nlow quality\nSteps: 20, Sampler: DPM++ 2M Karras, \
                           CFG scale: 7.5, Seed: 3042316147, Size: 512x768, Model hash: 6ce0161689, Model: v1-5, \
                           Clip skip: 2, Lora hashes: \"a: 1, b: 2\", Version: v1.6.0";

    #[test]
    fn its_texts_are_read() {
        let Parsed { request, others } = parse(EXAMPLE).unwrap();
        assert_eq!(request.prompts, ["a (cat:1.2), sitting"]);
        assert_eq!(request.negative_prompt.as_deref(), Some("blurry,\nlow quality"));
        assert_eq!(
            (request.steps.unwrap().get(), request.seed, request.clip_skip),
            (20, 3_042_316_147, Some(1))
        );
        assert_eq!((request.solver.as_deref(), request.guidance), (Some("dpmpp-2m"), Some(7.5)));
        assert_eq!(request.spacing, Some(Spacing::Karras { rho: 7.0 }));
        assert_eq!(request.size, Some(vec![768, 512]));
        let keys: Vec<_> = others.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["Model hash", "Model", "Lora hashes", "Version"]);
        assert_eq!(others[2].1, "a: 1, b: 2");
    }

    #[test]
    fn our_texts_are_read_again() {
        let request = parse(EXAMPLE).unwrap().request;
        let facts = Facts { model: "a, b", steps: 20, solver: "dpmpp-2m", guidance: 7.5, size: [768, 512] };
        let text = text(&request, &facts);
        assert!(text.contains("Sampler: DPM++ 2M, Schedule type: Karras"), "{text}");
        let Parsed { request: again, others } = parse(&text).unwrap();
        assert_eq!(again, request);
        assert_eq!(others[0], ("Model".to_owned(), "a, b".to_owned()));
    }

    #[test]
    fn what_is_unknown_is_told() {
        for (text, words) in [
            ("no entries", "begins with `Steps:`"),
            ("Steps: many", "`Steps: many`"),
            ("a\nSteps: 3, Sampler: Magic", "`Sampler: Magic`"),
            ("a\nSteps: 3, Size: 3", "`Size: 3`"),
            ("a\nSteps: 3, Seed: -1", "`Seed: -1`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let request = parse("Negative prompt: a\nSteps: 3").unwrap().request;
        assert_eq!((request.prompts.len(), request.negative_prompt.as_deref()), (0, Some("a")));
    }

    #[test]
    fn every_sampler_is_one_of_ours() {
        for (name, own) in SAMPLERS {
            assert!(solver::find(own).is_some(), "{name}");
            assert_eq!(sampler(name).map(|(solver, _)| solver), Some(*own));
        }
        assert_eq!(sampler("Euler a Karras"), Some(("euler-ancestral", Some(Spacing::Karras { rho: 7.0 }))));
        assert_eq!(sampler("nothing"), None);
    }
}
