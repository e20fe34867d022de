//! `tweedie eval --bound`.

use std::{num::NonZeroUsize, ops::ControlFlow, path::PathBuf, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use indicatif::HumanDuration;
use serde_json::json;
use tweedie::{
    core::{bound::ReverseVariance, schedule::Times},
    data::Dataset,
    eval::bound::{Estimate, Options, Report, Row, evaluate, ode, plot},
    ops::Device,
    pipe::Pipeline,
};

use crate::{commands::sample::check_place, source, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Compute the variational bound of the data in bits per dimension instead of scoring generated images.
    #[arg(long, help_heading = "Bits per dimension")]
    pub bound: bool,
    /// Score generated images: the default, except with --bound, where this puts both in one report.
    #[arg(long, help_heading = "Bits per dimension")]
    pub quality: bool,
    /// Which part of the data to use.
    #[arg(long, value_enum, default_value_t = Part::HeldOut, requires = "bound", value_name = "PART",
        help_heading = "Bits per dimension")]
    part: Part,
    /// Maximum number of images, evenly spread over the part.
    #[arg(
        long,
        default_value = "256",
        requires = "bound",
        value_name = "N",
        help_heading = "Bits per dimension"
    )]
    bound_images: NonZeroUsize,
    /// Number of noise levels per image, one from each of as many strata [default: all].
    #[arg(long, requires = "bound", value_name = "N", help_heading = "Bits per dimension")]
    bound_levels: Option<usize>,
    /// Number of noise levels of a continuous process; a table has its own.
    #[arg(
        long,
        default_value = "1000",
        requires = "bound",
        value_name = "N",
        help_heading = "Bits per dimension"
    )]
    bound_steps: NonZeroUsize,
    /// Variance of the reverse process [default: the model's].
    #[arg(
        long,
        value_enum,
        requires = "bound",
        value_name = "VARIANCE",
        help_heading = "Bits per dimension"
    )]
    bound_variance: Option<Variance>,
    /// Do not clamp predictions, even if the model's sampler does.
    #[arg(long, requires = "bound", help_heading = "Bits per dimension")]
    no_clamp: bool,
    /// Also compute the density of the deterministic sampler, the probability-flow ODE. Its predictions are never clamped:
    /// compare it with the bound under --no-clamp.
    #[arg(long, requires = "bound", help_heading = "Bits per dimension")]
    ode: bool,
    /// Runge-Kutta steps of the ODE, each with four network evaluations and their gradients. Too few give results that are
    /// too good; check with twice as many.
    #[arg(
        long,
        default_value = "64",
        requires = "ode",
        value_name = "N",
        help_heading = "Bits per dimension"
    )]
    ode_steps: NonZeroUsize,
    /// Image file with the plot of the terms by noise level.
    #[arg(
        long,
        default_value = "bound.png",
        requires = "bound",
        value_name = "FILE.png",
        help_heading = "Bits per dimension"
    )]
    bound_plot: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    HeldOut,
    Train,
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Variance {
    FixedSmall,
    FixedLarge,
    LearnedRange,
}

impl From<Variance> for ReverseVariance {
    fn from(v: Variance) -> Self {
        match v {
            Variance::FixedSmall => Self::FixedSmall,
            Variance::FixedLarge => Self::FixedLarge,
            Variance::LearnedRange => Self::LearnedRange,
        }
    }
}

/// The results.
pub struct Computed {
    pub report: Report,
    pub ode: Option<ode::Report>,
    part: &'static str,
    data: String,
    plot: PathBuf,
}

impl Computed {
    /// The results as text.
    pub fn text(&self) -> String {
        let mut text = table(&self.report, self.part);
        if let Some(ode) = &self.ode {
            text.push_str(&format!("\n{}", ode_table(ode)));
        }
        text.push_str(&format!("\nterms by noise level: {}", self.plot.display()));
        text
    }
}

pub fn run(args: &super::Args, ui: Ui, pipeline: &Pipeline, device: &Device, size: usize) -> Result<()> {
    let found = compute(args, ui, pipeline, device, size)?;
    ui.result(
        &json!({ "bound": found.report, "ode": found.ode, "data": found.data, "part": found.part,
            "plot": found.plot }),
        found.text(),
    );
    Ok(())
}

pub fn compute(
    args: &super::Args,
    ui: Ui,
    pipeline: &Pipeline,
    device: &Device,
    size: usize,
) -> Result<Computed> {
    let bound = &args.bound;
    check_place(&bound.bound_plot)?;
    let config = source::of_model(pipeline.extras(), args.data.as_deref(), size, args.holdout)?;
    let all = source::open(&config, ui)?;
    let (train, held_out) = all.split();
    let (part, name) = match bound.part {
        Part::HeldOut => (held_out, "held-out"),
        Part::Train => (train, "training"),
        Part::All => (all, "all"),
    };
    if part.is_empty() {
        bail!("no image is held out from {} (--holdout {}); try --part all", config.source, config.holdout);
    }
    let rows = rows(&part, pipeline, bound.bound_images.get())?;
    let unknown = rows.iter().filter(|r| r.class.is_none()).count();
    if pipeline.network().spec().classes.count.is_some() && unknown > 0 {
        let null = pipeline.extras().null_class.is_some();
        ensure!(
            null,
            "{unknown} images have classes that the model does not have, and the model has no null class"
        );
        ui.warn(format!(
            "{unknown} images have classes that the model does not have; evaluating them without a class"
        ));
    }
    let options = Options {
        levels: bound.bound_levels,
        steps: bound.bound_steps.get(),
        variance: bound.bound_variance.map(Into::into),
        clamp: !bound.no_clamp,
        seed: args.seed,
        ..Options::default()
    };
    let levels = match pipeline.scheduler().process().schedule.times() {
        Times::Table { steps } => steps,
        Times::Interval { .. } => options.steps,
    };
    let bar = ui.bar((rows.len() * options.levels.unwrap_or(levels)) as u64, "evaluations");
    let report = evaluate(pipeline, device, &rows, &options, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    let flow = match bound.ode {
        false => None,
        true => {
            let bar = ui.bar(rows.len() as u64, "images through the ODE");
            let steps = bound.ode_steps.get();
            let flow = ode::evaluate(pipeline, device, &rows, steps, &options, &mut |done, _| {
                bar.set_position(done as u64);
                ControlFlow::Continue(())
            })?;
            bar.finish_and_clear();
            Some(flow)
        }
    };
    plot(&report, &bound.bound_plot)?;
    let (data, plot) = (config.source.to_string(), bound.bound_plot.clone());
    Ok(Computed { report, ode: flow, part: name, data, plot })
}

/// At most `most` images, evenly spread, with the model's class indices.
fn rows(part: &Dataset, pipeline: &Pipeline, most: usize) -> Result<Vec<Row>> {
    let n = most.min(part.len());
    let names = &pipeline.extras().class_names;
    let row = |i: usize| {
        let item = part.get(i * part.len() / n)?;
        let name = item.class.and_then(|c| part.class_names().get(c));
        let class = name.and_then(|name| names.iter().position(|n| n == name));
        Ok(Row { image: (*item.sample).clone(), class })
    };
    (0..n).map(row).collect()
}

fn line(name: &str, e: &Estimate) -> String {
    match e.half_width() {
        Some(half) => format!("{name:<28} {:>9.4} ± {half:.4}", e.mean),
        None => format!("{name:<28} {:>9.4}", e.mean),
    }
}

fn ode_table(report: &ode::Report) -> String {
    let [images, evaluations, steps] = [report.images, report.evaluations, report.steps];
    [
        format!("density of the probability-flow ODE, same images and decoder, {steps} steps"),
        line("total", &report.total),
        line("  cleanest noise level", &report.density),
        line("  reconstruction, L(0)", &report.reconstruction),
        format!(
            "{images} × {evaluations} network evaluations with gradients in {}",
            HumanDuration(Duration::from_secs_f64(report.seconds))
        ),
    ]
    .join("\n")
}

fn table(report: &Report, part: &str) -> String {
    let variance = serde_json::to_value(report.variance).unwrap_or_default();
    let clamp =
        report.clamp.map_or("predictions not clamped".into(), |c| format!("predictions clamped to ±{c}"));
    let [images, visited, levels] = [report.images, report.visited, report.levels];
    let all = if visited < levels { format!(" (all levels: {})", images * levels) } else { String::new() };
    [
        format!(
            "variational bound, bits/dim with 95 % intervals: {images} images ({part}) with {} values each, seed {}",
            report.dims, report.seed
        ),
        line("total", &report.total),
        line("  prior, L(T)", &report.prior),
        line("  denoising, L(1) … L(T-1)", &report.denoising),
        line("  reconstruction, L(0)", &report.reconstruction),
        format!("variance {}, {clamp}", variance.as_str().unwrap_or_default()),
        format!(
            "{visited} of {levels} noise levels for each image: {} network evaluations{all} in {}",
            images * visited,
            HumanDuration(Duration::from_secs_f64(report.seconds)),
        ),
    ]
    .join("\n")
}
