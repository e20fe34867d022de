//! `DEISMultistepScheduler` and `SASolverScheduler`. Neither has `final_sigmas_type`: the last step ends at the table's
//! cleanest level, or, for spaced levels, where it started.

use tweedie_core::{
    Plan,
    solver::{AnySolver, Deis, FinalOrder, Form, SaSolver},
    spacing::Spacing,
};

use super::{
    Clamp, Process, Read, Scheduler, betas,
    keys::Keys,
    multistep::{Grid, GridRules},
};

const RULES: GridRules = GridRules {
    rescaled: false,
    spaced: true,
    lu: false,
    clipped: false,
    ends: false,
    unipc: false,
    repeats: true,
};

#[derive(Clone, Copy, Debug)]
enum Answers {
    Deis { order: usize, lower: bool },
    Sa(SaSolver),
}

#[derive(Debug)]
struct Multistep {
    grid: Grid,
    answers: Answers,
    clamp: Option<Clamp>,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let grid = Grid::read(keys, RULES)?;
    let order: usize = keys.take("solver_order", 2)?;
    if !(1..=3).contains(&order) {
        return Err(keys.error("solver_order", format!("{order} is not supported; expected 1, 2 or 3")));
    }
    // diffusers treats the later ones like the first.
    keys.choice("algorithm_type", "deis", &[("deis", ()), ("dpmsolver", ()), ("dpmsolver++", ())])?;
    let kinds = [("logrho", ()), ("midpoint", ()), ("heun", ()), ("bh1", ()), ("bh2", ())];
    keys.choice("solver_type", "logrho", &kinds)?;
    let lower = keys.flag("lower_order_final", true)?;
    let clamp = betas::threshold(keys, false)?;
    Ok(Box::new(Multistep { grid, answers: Answers::Deis { order, lower }, clamp }))
}

pub(super) fn read_sa(keys: &mut Keys) -> Read {
    let grid = Grid::read(keys, GridRules { clipped: true, ..RULES })?;
    let predictor: usize = keys.take("predictor_order", 2)?;
    let corrector: usize = keys.take("corrector_order", 2)?;
    for (key, order) in [("predictor_order", predictor), ("corrector_order", corrector)] {
        if !(1..=4).contains(&order) {
            return Err(keys.error(key, format!("{order} is not supported; expected 1 to 4")));
        }
    }
    let forms = [("data_prediction", Form::Data), ("noise_prediction", Form::Noise)];
    let form = keys.choice("algorithm_type", "data_prediction", &forms)?;
    // A Python function; by default it is 1 from timestep 200 to 800, otherwise 0.
    keys.only("tau_func", None::<serde_json::Value>, None)?;
    betas::learned_variance(keys)?;
    let lower = keys.flag("lower_order_final", true)?;
    let final_order = if lower { FinalOrder::Falling } else { FinalOrder::Full };
    let clamp = betas::threshold(keys, false)?;
    let times = Some((200.0, 800.0));
    let sa = SaSolver { form, times, final_order, simple: true, ..SaSolver::new(predictor, corrector, 1.0) };
    Ok(Box::new(Multistep { grid, answers: Answers::Sa(sa), clamp }))
}

impl Scheduler for Multistep {
    fn process(&self) -> &Process {
        &self.grid.table.process
    }

    fn solver(&self) -> &'static str {
        match self.answers {
            Answers::Deis { order: 1, .. } => "ddim",
            Answers::Deis { order: 2, .. } => "deis-2",
            Answers::Deis { .. } => "deis",
            Answers::Sa(_) => "sa-solver",
        }
    }

    fn with_options(&self, steps: usize) -> Option<AnySolver> {
        Some(match self.answers {
            Answers::Deis { order, lower } => {
                let few = lower && steps < 15;
                let final_order = if few { FinalOrder::Falling } else { FinalOrder::Full };
                Deis { order, final_order }.into()
            }
            Answers::Sa(solver) => solver.into(),
        })
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
