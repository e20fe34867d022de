//! `DPMSolverMultistepScheduler`, its inverse, and `DPMSolverSinglestepScheduler`, which takes the steps of the same levels
//! in groups of two or three.

use tweedie_core::{
    Plan,
    solver::{AnySolver, Curvature, DpmGrouped, DpmMultistep, FinalOrder, Form, Rule},
    spacing::Spacing,
};

use super::{
    Clamp, Process, Read, Scheduler, betas,
    keys::Keys,
    multistep::{Grid, GridRules},
};
use crate::error::HubError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Multistep,
    Inverse,
    Singlestep,
}

/// `algorithm_type`, `solver_order`, `solver_type` and the order at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct DpmOptions {
    pub(super) form: Form,
    pub(super) stochastic: bool,
    pub(super) order: usize,
    rule: Rule,
    lower: bool,
    euler: bool,
}

impl DpmOptions {
    pub(super) fn read(keys: &mut Keys, lower_default: bool, noise: bool) -> Result<Self, HubError> {
        let all = [
            ("dpmsolver++", (Form::Data, false)),
            ("sde-dpmsolver++", (Form::Data, true)),
            // As in diffusers.
            ("deis", (Form::Data, false)),
            ("dpmsolver", (Form::Noise, false)),
            ("sde-dpmsolver", (Form::Noise, true)),
        ];
        let choices = if noise { &all[..] } else { &all[..3] };
        let (form, stochastic) = keys.choice("algorithm_type", "dpmsolver++", choices)?;
        let order: usize = keys.take("solver_order", 2)?;
        if !(1..=3).contains(&order) {
            return Err(keys.error("solver_order", format!("{order} is not supported; expected 1, 2 or 3")));
        }
        if order == 3 && stochastic && form == Form::Noise {
            return Err(
                keys.error("solver_order", "3 is not supported with \"sde-dpmsolver\"; expected 1 or 2")
            );
        }
        // diffusers treats the last three as the midpoint rule.
        let rules = [
            ("midpoint", Rule::Midpoint),
            ("heun", Rule::Heun),
            ("logrho", Rule::Midpoint),
            ("bh1", Rule::Midpoint),
            ("bh2", Rule::Midpoint),
        ];
        let rule = keys.choice("solver_type", "midpoint", &rules)?;
        let lower = keys.flag("lower_order_final", lower_default)?;
        Ok(Self { form, stochastic, order, rule, lower, euler: false })
    }

    /// The reversed diffusion without a choice of algorithm.
    pub(super) fn read_sde(keys: &mut Keys) -> Result<Self, HubError> {
        let order: usize = keys.take("solver_order", 2)?;
        if !(1..=2).contains(&order) {
            return Err(keys.error("solver_order", format!("{order} is not supported; expected 1 or 2")));
        }
        let rule =
            keys.choice("solver_type", "midpoint", &[("midpoint", Rule::Midpoint), ("heun", Rule::Heun)])?;
        let lower = keys.flag("lower_order_final", true)?;
        Self { form: Form::Data, stochastic: true, order, rule, lower, euler: false }.with_euler(keys)
    }

    pub(super) fn with_euler(self, keys: &mut Keys) -> Result<Self, HubError> {
        Ok(Self { euler: keys.flag("euler_at_final", false)?, ..self })
    }

    fn tau(&self) -> f64 {
        if self.stochastic { 1.0 } else { 0.0 }
    }

    pub(super) fn name(&self) -> &'static str {
        match (self.form, self.stochastic, self.order, self.rule) {
            (_, false, 1, _) => "ddim",
            (Form::Data, false, 2, Rule::Heun) => "res-2m",
            (Form::Data, false, 2, _) => "dpmpp-2m",
            (Form::Data, false, ..) => "dpmpp-3m",
            (Form::Noise, false, 2, _) => "dpm-solver-2m",
            (Form::Noise, false, ..) => "dpm-solver-3m",
            (Form::Data, true, 1, _) => "ddpm",
            (Form::Data, true, 2, _) => "dpmpp-2m-sde",
            (Form::Data, true, ..) => "dpmpp-3m-sde",
            (Form::Noise, true, ..) => "dpm-solver-sde",
        }
    }

    pub(super) fn multistep(&self, steps: usize) -> DpmMultistep {
        let final_order = match (self.lower && steps < 15, self.euler) {
            (true, _) => FinalOrder::Falling,
            (false, true) => FinalOrder::Lower,
            (false, false) => FinalOrder::Full,
        };
        let (form, order, rule, tau) = (self.form, self.order, self.rule, self.tau());
        DpmMultistep { form, order, rule, curvature: Curvature::Published, tau, final_order }
    }
}

#[derive(Debug)]
struct DpmSolver {
    kind: Kind,
    grid: Grid,
    options: DpmOptions,
    clamp: Option<Clamp>,
}

fn read_as(keys: &mut Keys, kind: Kind) -> Read {
    let grid = Grid::read(
        keys,
        GridRules {
            rescaled: kind == Kind::Multistep,
            spaced: kind != Kind::Singlestep,
            lu: kind == Kind::Multistep,
            clipped: true,
            ends: kind != Kind::Inverse,
            unipc: false,
            repeats: false,
        },
    )?;
    betas::learned_variance(keys)?;
    let mut options = DpmOptions::read(keys, kind != Kind::Singlestep, true)?;
    if kind == Kind::Inverse {
        keys.only("use_flow_sigmas", false, false)?;
        if options.stochastic && options.order == 3 {
            let reason = "3 is not supported with noise; expected 1 or 2";
            return Err(keys.error("solver_order", reason));
        }
    }
    if kind == Kind::Singlestep && options.stochastic && options.form == Form::Noise {
        let reason = "\"sde-dpmsolver\" is not supported; expected dpmsolver++, sde-dpmsolver++ or dpmsolver";
        return Err(keys.error("algorithm_type", reason));
    }
    if kind != Kind::Singlestep {
        options = options.with_euler(keys)?;
    }
    if options.form == Form::Noise && grid.clean {
        let reason = "\"zero\" is not supported with `algorithm_type` dpmsolver; expected sigma_min";
        return Err(keys.error("final_sigmas_type", reason));
    }
    let clamp = betas::threshold(keys, false)?;
    Ok(Box::new(DpmSolver { kind, grid, options, clamp }))
}

pub(super) fn read(keys: &mut Keys) -> Read {
    read_as(keys, Kind::Multistep)
}

pub(super) fn read_inverse(keys: &mut Keys) -> Read {
    read_as(keys, Kind::Inverse)
}

pub(super) fn read_singlestep(keys: &mut Keys) -> Read {
    read_as(keys, Kind::Singlestep)
}

impl Scheduler for DpmSolver {
    fn process(&self) -> &Process {
        &self.grid.table.process
    }

    fn solver(&self) -> &'static str {
        let DpmOptions { form, stochastic, order, .. } = self.options;
        match (self.kind, form, order) {
            (Kind::Singlestep, Form::Data, 2) if !stochastic => "dpmpp-grouped-2",
            (Kind::Singlestep, Form::Data, 3) if !stochastic => "dpmpp-grouped-3",
            (Kind::Singlestep, Form::Data, 2 | 3) => "dpmpp-grouped-sde",
            (Kind::Singlestep, Form::Noise, 2) => "dpm-solver-grouped-2",
            (Kind::Singlestep, Form::Noise, 3) => "dpm-solver-grouped-3",
            _ => self.options.name(),
        }
    }

    fn with_options(&self, steps: usize) -> Option<AnySolver> {
        let o = self.options;
        if self.kind != Kind::Singlestep {
            return Some(o.multistep(steps).into());
        }
        // diffusers lowers the order at the end if the number of steps is not a multiple of the order, or to a clean sample.
        let lower_final = o.lower || self.grid.clean || !steps.is_multiple_of(o.order);
        let (form, order, rule, tau) = (o.form, o.order, o.rule, o.tau());
        let curvature = Curvature::Published;
        Some(DpmGrouped { form, order, rule, curvature, tau, lower_final, steps: None }.into())
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        if self.kind == Kind::Inverse { self.grid.inverse_plan(steps) } else { self.grid.plan(steps) }
    }

    fn set_mu(&mut self, mu: f64) -> Result<(), String> {
        self.grid.set_mu(mu)
    }

    fn spacing(&self) -> Spacing {
        self.grid.general()
    }
}
