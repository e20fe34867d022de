//! The text of docs/solvers.md.

use tweedie_core::{
    plan::NoiseRule,
    solver::{SOLVERS, SolverEntry},
    spacing::SPACINGS,
};

use super::measure::{Convergence, Distribution, STEPS};

/// Values that the notes quote.
pub struct Notes {
    /// The measured order of DPM-Solver++(3M) as published, and with exact weights.
    pub published: [f64; 2],
}

pub fn markdown(exact: &[Convergence], noisy: &[Distribution], notes: &Notes) -> String {
    let mut rows = String::new();
    for c in exact {
        let order = c.order.map_or("—".into(), |order| format!("{order:.2}"));
        let evals = c.to_one_percent.map_or("> 160 steps".into(), |n| n.to_string());
        let (name, e) = (c.entry.name, c.entry);
        let steps = if e.adaptive { "adaptive".into() } else { e.evaluations.to_string() };
        rows += &format!("| `{name}` | {} | {} | {order} | {steps} | {evals} |\n", e.paper, e.order);
    }
    let mut random = String::new();
    for d in noisy {
        let off = d.off.map_or("— | —".into(), |[a, b]| format!("{a:.3} | {b:.3}"));
        let (name, e) = (d.entry.name, d.entry);
        random += &format!("| `{name}` | {} | {} | {} | {off} |\n", e.paper, noise(e), e.evaluations);
    }
    let spacings: Vec<String> = SPACINGS.iter().map(|(name, _)| format!("`{name}`")).collect();
    let aliases: Vec<String> = SOLVERS.iter().filter(|e| !e.aliases.is_empty()).map(aliases).collect();
    let ([few, many], [published, right]) = (STEPS, notes.published);
    format!(
        "# Solvers

Written by `cargo xtask solvers`, which measures every solver on a mixture of three Gaussians in the plane, whose exact
denoiser is known. `tweedie sample --solver NAME` accepts each name and alias.

## Deterministic

All of these converge to the same solution of the probability-flow ODE. *Order* is the declared order, *measured* the
slope of the error between 96 and 192 steps over `sigma/alpha` from 10 to 0.1, uniform in `lambda`; multistep solvers
start with shorter steps, because their first steps are of lower order. *To 1 %* is the number of network evaluations from
which on the error stays below 1 % of the samples' size, over DDPM's whole schedule from pure noise down to
`sigma/alpha` = 0.02.

| solver | paper | order | measured | evaluations per step | to 1 % |
|---|---|---|---|---|---|
{rows}
![Error against evaluations](solvers.png)

## Stochastic

*Error* is the largest deviation of the samples' means and covariances from those of the data, whose variances are about
0.7, over 4000 samples; random variation alone is about 0.02. Noise of the *plan* is added between steps and works with
any solver; noise of the *solver* follows one Brownian path, whatever the step size.

| solver | paper | noise | evaluations per step | error, {few} steps | error, {many} steps |
|---|---|---|---|---|---|
{random}
`lcm` and `tcd` need a consistency model.

## Aliases

{aliases}.

## Spacings

{spacings}.

{}",
        include_str!("notes.md")
            .replace("{published}", &format!("{published:.1}"))
            .replace("{exact}", &format!("{right:.1}")),
        spacings = spacings.join(", "),
        aliases = aliases.join("; "),
    )
}

fn aliases(entry: &SolverEntry) -> String {
    let aliases: Vec<String> = entry.aliases.iter().map(|alias| format!("`{alias}`")).collect();
    format!("`{}`: {}", entry.name, aliases.join(", "))
}

fn noise(entry: &SolverEntry) -> &'static str {
    match entry.noise {
        _ if entry.stochastic => "solver",
        NoiseRule::None => "none",
        NoiseRule::Ancestral { .. } => "plan: ancestral",
        NoiseRule::FixedLarge => "plan: ancestral, larger",
        NoiseRule::Consistency => "plan: from clean",
        NoiseRule::Strategic { .. } => "plan: from below",
        NoiseRule::Churn(_) => "plan: churn",
        NoiseRule::Restart(_) => "plan: restart",
    }
}
