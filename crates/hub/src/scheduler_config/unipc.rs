//! `UniPCMultistepScheduler`.

use tweedie_core::{
    Plan,
    solver::{AnySolver, Bh, FinalOrder, Form, Uncorrected, UniPc},
    spacing::Spacing,
};

use super::{
    Clamp, Process, Read, Scheduler, betas,
    keys::Keys,
    multistep::{Grid, GridRules},
};

const RULES: GridRules = GridRules {
    rescaled: true,
    spaced: true,
    lu: false,
    clipped: false,
    ends: true,
    unipc: true,
    repeats: true,
};

#[derive(Debug)]
struct UniPcScheduler {
    grid: Grid,
    solver: UniPc,
    clamp: Option<Clamp>,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let grid = Grid::read(keys, RULES)?;
    let order: usize = keys.take("solver_order", 2)?;
    if !(1..=4).contains(&order) {
        return Err(keys.error("solver_order", format!("{order} is not supported; expected 1 to 4")));
    }
    // diffusers treats the last three as bh2.
    let kinds =
        [("bh1", Bh::Bh1), ("bh2", Bh::Bh2), ("midpoint", Bh::Bh2), ("heun", Bh::Bh2), ("logrho", Bh::Bh2)];
    let bh = keys.choice("solver_type", "bh2", &kinds)?;
    let form = if keys.flag("predict_x0", true)? { Form::Data } else { Form::Noise };
    let mut bits = 0u64;
    for step in keys.take("disable_corrector", Vec::<u64>::new())? {
        if step >= 64 {
            return Err(keys.error("disable_corrector", format!("{step}: expected steps from 0 to 63")));
        }
        bits |= 1 << step;
    }
    keys.only("solver_p", None::<serde_json::Value>, None)?;
    let lower = keys.flag("lower_order_final", true)?;
    if !lower && grid.clean && order > 1 {
        let reason = "false is not supported, because the last step to a clean sample has order 1; expected true, or \
                      `final_sigmas_type` sigma_min";
        return Err(keys.error("lower_order_final", reason));
    }
    if form == Form::Noise && grid.clean {
        let reason = "\"zero\" is not supported without `predict_x0`; expected sigma_min";
        return Err(keys.error("final_sigmas_type", reason));
    }
    let final_order = if lower { FinalOrder::Falling } else { FinalOrder::Full };
    let clamp = if form == Form::Data { betas::threshold(keys, false)? } else { ignored_threshold(keys)? };
    let solver = UniPc { form, order, bh, uncorrected: Uncorrected::Steps(bits), final_order };
    Ok(Box::new(UniPcScheduler { grid, solver, clamp }))
}

/// Without `predict_x0` thresholding has no effect.
fn ignored_threshold(keys: &mut Keys) -> Result<Option<Clamp>, crate::error::HubError> {
    match betas::threshold(keys, false)? {
        None => Ok(None),
        Some(_) => {
            Err(keys.error("thresholding", "true is not supported without `predict_x0`; expected false"))
        }
    }
}

impl Scheduler for UniPcScheduler {
    fn process(&self) -> &Process {
        &self.grid.table.process
    }

    fn solver(&self) -> &'static str {
        match (self.solver.order, self.solver.bh) {
            (1, _) => "unipc-1",
            (2, Bh::Bh1) => "unipc-bh1",
            (2, Bh::Bh2) => "unipc",
            _ => "unipc-3",
        }
    }

    fn with_options(&self, _: usize) -> Option<AnySolver> {
        Some(self.solver.into())
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.grid.plan(steps)
    }

    fn set_mu(&mut self, mu: f64) -> Result<(), String> {
        self.grid.set_mu(mu)
    }

    fn spacing(&self) -> Spacing {
        self.grid.general()
    }
}
