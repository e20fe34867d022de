//! All samplers by name, for menus, help, docs and tests.

use super::*;
use crate::{
    plan::{Churn, NoiseRule, Restart},
    vector::Vector,
};

/// A named sampler: a solver, and the noise that its plan adds.
#[derive(Clone, Copy, Debug)]
pub struct SolverEntry {
    /// Unique name.
    pub name: &'static str,
    /// Other names for the same formula.
    pub aliases: &'static [&'static str],
    /// One-line description.
    pub summary: &'static str,
    /// Where the formula was published.
    pub paper: &'static str,
    /// Order of convergence; for a stochastic sampler, that of its solver.
    pub order: usize,
    /// Network evaluations per step. The first steps may take more, a step to a clean sample fewer.
    pub evaluations: usize,
    /// The noise that the plan adds: pass it to [`Plan::with_noise`](crate::Plan::with_noise).
    pub noise: NoiseRule,
    /// Whether the solver itself draws noise.
    pub stochastic: bool,
    /// Whether it takes its own steps between the plan's levels, each of `evaluations`.
    pub adaptive: bool,
    solver: fn() -> AnySolver,
}

impl SolverEntry {
    const fn new(name: &'static str, order: usize, evaluations: usize, solver: fn() -> AnySolver) -> Self {
        Self {
            name,
            aliases: &[],
            summary: "",
            paper: "",
            order,
            evaluations,
            noise: NoiseRule::None,
            stochastic: false,
            adaptive: false,
            solver,
        }
    }

    const fn of(self, paper: &'static str, summary: &'static str) -> Self {
        Self { paper, summary, ..self }
    }

    const fn also(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn with(self, noise: NoiseRule) -> Self {
        Self { noise, ..self }
    }

    const fn stochastic(self) -> Self {
        Self { stochastic: true, ..self }
    }

    /// The solver, without the noise that the plan adds.
    pub fn solver(&self) -> AnySolver {
        (self.solver)()
    }

    /// Creates the solver for one kind of sample.
    pub fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
        self.solver().build()
    }

    /// Whether neither the solver nor its plan adds noise.
    pub fn is_deterministic(&self) -> bool {
        !self.stochastic && self.noise == NoiseRule::None
    }

    /// Whether it adds back the unconditional noise, which requires guidance scales between 0 and 1.
    pub fn is_cfgpp(&self) -> bool {
        matches!(self.solver(), AnySolver::DdimCfg(_) | AnySolver::Dpmpp2mCfg(_))
    }

    /// The noise rule for `eta`, from 0 (none) to 1 (as in the reversed diffusion); `None` if the sampler does not
    /// support it. For TCD this is `gamma`. Multistep solvers do not support it, because noise would invalidate
    /// their past predictions.
    pub fn noise_of(&self, eta: f64) -> Option<NoiseRule> {
        match self.noise {
            _ if self.stochastic || self.adaptive => None,
            NoiseRule::Strategic { .. } => Some(NoiseRule::Strategic { gamma: eta }),
            NoiseRule::Consistency | NoiseRule::Churn(_) | NoiseRule::Restart(_) => None,
            _ if eta == 0.0 => Some(NoiseRule::None),
            _ if self.build::<f64>().memory() > 0 => None,
            _ => Some(NoiseRule::Ancestral { eta }),
        }
    }
}

const ANCESTRAL: NoiseRule = NoiseRule::Ancestral { eta: 1.0 };
/// The values for ImageNet in the paper's table 5.
const CHURN: NoiseRule = NoiseRule::Churn(Churn { s_churn: 40.0, s_min: 0.05, s_max: 50.0, s_noise: 1.003 });
const RESTART: NoiseRule = NoiseRule::Restart(Restart { s_min: 0.1, s_max: 2.0, times: 1 });

const DDPM: &str = "Ho et al. 2020, arXiv:2006.11239";
const EDM: &str = "Karras et al. 2022, arXiv:2206.00364, algorithm 1";
const EDM_CHURN: &str = "Karras et al. 2022, arXiv:2206.00364, algorithm 2";
const PNDM: &str = "Liu et al. 2022, arXiv:2202.09778";
const DEIS: &str = "Zhang & Chen 2022, arXiv:2204.13902";
const K: &str = "Crowson 2022, k-diffusion";
const DPM: &str = "Lu et al. 2022, arXiv:2206.00927";
const DPMPP: &str = "Lu et al. 2022, arXiv:2211.01095";
const UNIPC: &str = "Zhao et al. 2023, arXiv:2302.04867";
const RES: &str = "Zhang et al. 2023, arXiv:2308.02157";
const CFGPP: &str = "Chung et al. 2024, arXiv:2406.08070";
const KUTTA: &str = "Kutta 1901";

fn singlestep(form: Form, order: usize, rule: Rule) -> AnySolver {
    DpmSinglestep { form, order, rule }.into()
}

fn sde(order: usize) -> AnySolver {
    DpmMultistep { tau: 1.0, ..DpmMultistep::new(Form::Data, order) }.into()
}

fn deis(order: usize) -> AnySolver {
    Deis { order, final_order: FinalOrder::LowerIfFew }.into()
}

const TWO_M: Dpmpp2m = Dpmpp2m { final_order: FinalOrder::LowerIfFew };
const RES_2M: DpmMultistep = DpmMultistep { rule: Rule::Heun, ..DpmMultistep::new(Form::Data, 2) };
const DPM_23: DpmSinglestep = DpmSinglestep { form: Form::Noise, order: 3, rule: Rule::Midpoint };

/// Every sampler.
#[rustfmt::skip]
pub static SOLVERS: &[SolverEntry] = &[
    // Deterministic, one evaluation per step.
    SolverEntry::new("ddim", 1, 1, || Ddim.into())
        .also(&["euler", "flow-euler", "edm-euler", "dpmpp-1", "dpm-solver-1", "deis-1", "ipndm-1", "lms-1"])
        .of("Song et al. 2021, arXiv:2010.02502", "first order; the same formula as Euler and DPM-Solver(++)-1"),
    SolverEntry::new("dpmpp-2m", 2, 1, || TWO_M.into()).also(&["dpm++2m", "edm-dpm"])
        .of("Lu et al. 2022, arXiv:2211.01095, algorithm 2", "multistep DPM-Solver++; good from 15 steps on"),
    SolverEntry::new("dpmpp-3m", 3, 1, || DpmMultistep::new(Form::Data, 3).into()).also(&["dpm++3m"])
        .of(DPMPP, "multistep DPM-Solver++, third order"),
    SolverEntry::new("dpm-solver-2m", 2, 1, || DpmMultistep::new(Form::Noise, 2).into())
        .of(DPM, "multistep DPM-Solver"),
    SolverEntry::new("dpm-solver-3m", 3, 1, || DpmMultistep::new(Form::Noise, 3).into())
        .of(DPM, "multistep DPM-Solver, third order"),
    SolverEntry::new("dpmpp-grouped-2", 2, 1, || DpmGrouped::new(Form::Data, 2).into())
        .of(DPMPP, "singlestep DPM-Solver++ over pairs of the plan's steps"),
    SolverEntry::new("dpmpp-grouped-3", 3, 1, || DpmGrouped::new(Form::Data, 3).into())
        .of(DPMPP, "singlestep DPM-Solver++ over triples of the plan's steps"),
    SolverEntry::new("dpm-solver-grouped-2", 2, 1, || DpmGrouped::new(Form::Noise, 2).into())
        .of(DPM, "singlestep DPM-Solver over pairs of the plan's steps"),
    SolverEntry::new("dpm-solver-grouped-3", 3, 1, || DpmGrouped::new(Form::Noise, 3).into())
        .of(DPM, "singlestep DPM-Solver over triples of the plan's steps"),
    SolverEntry::new("res-2m", 2, 1, || RES_2M.into()).also(&["dpmpp-2m-heun"])
        .of(RES, "exponential Adams-Bashforth on x0; DPM-Solver++(2M) with exact weights"),
    SolverEntry::new("unipc-1", 2, 1, || UniPc::new(1, Bh::Bh2).into())
        .of(UNIPC, "predictor of order 1 with corrector"),
    SolverEntry::new("unipc", 3, 1, || UniPc::new(2, Bh::Bh2).into()).also(&["unipc-2", "unipc-bh2"])
        .of(UNIPC, "predictor of order 2 with corrector, B(h) = e^h - 1; good from 5 steps on"),
    SolverEntry::new("unipc-bh1", 3, 1, || UniPc::new(2, Bh::Bh1).into())
        .of(UNIPC, "predictor of order 2 with corrector, B(h) = h"),
    SolverEntry::new("unipc-3", 4, 1, || UniPc::new(3, Bh::Bh2).into())
        .of(UNIPC, "predictor of order 3 with corrector"),
    SolverEntry::new("deis-2", 2, 1, || deis(2)).of(DEIS, "exponential Adams-Bashforth on eps"),
    SolverEntry::new("deis", 3, 1, || deis(3)).also(&["deis-3"]).of(DEIS, "exponential Adams-Bashforth on eps, third order"),
    SolverEntry::new("plms", 2, 1, || Pndm { start: Start::Heun }.into())
        .of(PNDM, "equal-step Adams-Bashforth on eps, started by Heun's method"),
    SolverEntry::new("pndm", 2, 1, || Pndm { start: Start::RungeKutta }.into())
        .of(PNDM, "equal-step Adams-Bashforth on eps, started by three Runge-Kutta steps of 4 evaluations"),
    SolverEntry::new("ipndm-2", 2, 1, || Ipndm::new(2).into()).of(DEIS, "equal-step Adams-Bashforth with 2 predictions"),
    SolverEntry::new("ipndm-3", 2, 1, || Ipndm::new(3).into()).of(DEIS, "equal-step Adams-Bashforth with 3 predictions"),
    SolverEntry::new("ipndm", 2, 1, || Ipndm::new(4).into()).also(&["ipndm-4"])
        .of(DEIS, "equal-step Adams-Bashforth with 4 predictions"),
    SolverEntry::new("lms-2", 2, 1, || Lms::new(2).into()).of(K, "Adams-Bashforth with 2 predictions for unequal steps"),
    SolverEntry::new("lms-3", 3, 1, || Lms::new(3).into()).of(K, "Adams-Bashforth with 3 predictions for unequal steps"),
    SolverEntry::new("lms", 4, 1, || Lms::new(4).into()).also(&["lms-4"])
        .of(K, "Adams-Bashforth with 4 predictions for unequal steps"),
    SolverEntry::new("gradient-estimation", 1, 1, || GradientEstimation { gamma: 2.0 }.into())
        .also(&["ge", "gradient-estimation-euler"])
        .of("Permenter & Yuan 2024, arXiv:2306.04848", "DDIM with eps extrapolated beyond its last difference"),
    SolverEntry::new("ddim-cfgpp", 1, 1, || CfgPlusPlus(Ddim).into()).also(&["euler-cfgpp", "cfgpp"])
        .of(CFGPP, "DDIM that adds the unconditional eps back; guidance scales of 0 to 1"),
    SolverEntry::new("dpmpp-2m-cfgpp", 2, 1, || CfgPlusPlus(TWO_M).into())
        .of(CFGPP, "DPM-Solver++(2M) that adds the unconditional eps back; guidance scales of 0 to 1"),
    // Deterministic, several evaluations per step.
    SolverEntry::new("heun", 2, 2, || HEUN.into()).also(&["edm", "flow-heun"])
        .of(EDM, "trapezoidal rule; one evaluation in the last step (Heun's method)"),
    SolverEntry::new("midpoint", 2, 2, || MIDPOINT.into()).of(KUTTA, "midpoint rule"),
    SolverEntry::new("rk4", 4, 4, || CLASSICAL.into()).of(KUTTA, "the classical Runge-Kutta method"),
    SolverEntry::new("dpm2", 2, 2, || Dpm2.into()).also(&["kdpm2"]).of(K, "midpoint rule, with the midpoint in lambda"),
    SolverEntry::new("dpmpp-2s", 2, 2, || singlestep(Form::Data, 2, Rule::Midpoint)).also(&["dpm++2s"])
        .of("Lu et al. 2022, arXiv:2211.01095, algorithm 1", "DPM-Solver++ with a stage at the midpoint"),
    SolverEntry::new("dpmpp-3s", 3, 3, || singlestep(Form::Data, 3, Rule::Midpoint)).of(DPMPP, "DPM-Solver++ with two stages"),
    SolverEntry::new("dpm-solver-2s", 2, 2, || singlestep(Form::Noise, 2, Rule::Midpoint)).also(&["dpm-solver-2"])
        .of("Lu et al. 2022, arXiv:2206.00927, algorithm 1", "DPM-Solver with a stage at the midpoint"),
    SolverEntry::new("dpm-solver-3s", 3, 3, || singlestep(Form::Noise, 3, Rule::Midpoint)).also(&["dpm-solver-3"])
        .of("Lu et al. 2022, arXiv:2206.00927, algorithm 2", "DPM-Solver with two stages"),
    SolverEntry::new("res-2s", 2, 2, || singlestep(Form::Data, 2, Rule::Heun)).of(RES, "exponential Runge-Kutta on x0"),
    SolverEntry::new("res-3s", 3, 3, || singlestep(Form::Data, 3, Rule::Heun)).of(RES, "exponential Runge-Kutta on x0, third order"),
    SolverEntry { adaptive: true, ..SolverEntry::new("dpm-adaptive", 3, 3, || Adaptive::new(DPM_23).into())
        .also(&["dpm-solver-23"]).of(DPM, "DPM-Solver-23 with adaptive steps; needs only 2 levels") },
    // Stochastic plans.
    SolverEntry::new("ddpm", 1, 1, || Ddim.into()).with(ANCESTRAL).also(&["euler-ancestral", "euler-a", "dpmpp-1-sde"])
        .of(DDPM, "ancestral sampling with the posterior's variance; needs many steps"),
    SolverEntry::new("ddpm-large", 1, 1, || Ddim.into()).with(NoiseRule::FixedLarge)
        .of(DDPM, "ddpm with the larger variance, beta"),
    SolverEntry::new("euler-ancestral-cfgpp", 1, 1, || CfgPlusPlus(Ddim).into()).with(ANCESTRAL).also(&["euler-a-cfgpp"])
        .of(CFGPP, "ddpm that adds the unconditional eps back; guidance scales of 0 to 1"),
    SolverEntry::new("dpm2-ancestral", 2, 2, || Dpm2.into()).with(ANCESTRAL).also(&["dpm2-a", "kdpm2-ancestral"])
        .of(K, "dpm2 with ancestral noise"),
    SolverEntry::new("dpmpp-2s-ancestral", 2, 2, || singlestep(Form::Data, 2, Rule::Midpoint)).with(ANCESTRAL).also(&["dpmpp-2s-a"])
        .of(K, "dpmpp-2s with ancestral noise"),
    SolverEntry::new("euler-churn", 1, 1, || Ddim.into()).with(CHURN).of(EDM_CHURN, "Euler with noise added before each step"),
    SolverEntry::new("heun-churn", 2, 2, || HEUN.into()).with(CHURN).also(&["edm-churn"])
        .of(EDM_CHURN, "Heun with noise added before each step"),
    SolverEntry::new("restart", 2, 2, || HEUN.into()).with(RESTART)
        .of("Xu et al. 2023, arXiv:2306.14878", "Heun, with noise levels from 2 to 0.1 run twice"),
    SolverEntry::new("lcm", 1, 1, || Ddim.into()).with(NoiseRule::Consistency).also(&["consistency"])
        .of("Luo et al. 2023, arXiv:2310.04378", "predicts the clean sample and adds noise again; for consistency models"),
    SolverEntry::new("tcd", 1, 1, || Ddim.into()).with(NoiseRule::Strategic { gamma: 0.3 })
        .of("Zheng et al. 2024, arXiv:2402.19159", "steps below the next level and adds noise back; for consistency models"),
    // Stochastic solvers.
    SolverEntry::new("ddpm-learned", 1, 1, || LearnedVariance.into()).stochastic()
        .of("Nichol & Dhariwal 2021, arXiv:2102.09672", "ddpm with the variance that the network predicts"),
    SolverEntry::new("dpmpp-2m-sde", 2, 1, || sde(2)).stochastic().also(&["sde-dpmpp-2m"])
        .of(DPMPP, "DPM-Solver++(2M) for the reversed diffusion"),
    SolverEntry::new("dpmpp-3m-sde", 3, 1, || sde(3)).stochastic().also(&["sde-dpmpp-3m"])
        .of(K, "DPM-Solver++(3M) for the reversed diffusion"),
    SolverEntry::new("dpmpp-grouped-sde", 2, 1, || DpmGrouped { tau: 1.0, ..DpmGrouped::new(Form::Data, 2) }.into())
        .stochastic().of(DPMPP, "dpmpp-grouped-2 for the reversed diffusion"),
    SolverEntry::new("dpmpp-sde", 2, 2, || DpmppSde { eta: 1.0 }.into()).stochastic()
        .of(K, "DPM-Solver++ with a stochastic stage at the midpoint"),
    SolverEntry::new("sa-solver", 2, 1, || SaSolver::new(2, 2, 1.0).into()).stochastic().also(&["sa"])
        .of("Xue et al. 2023, arXiv:2309.05019", "stochastic Adams predictor with corrector"),
    SolverEntry::new("er-sde-2", 2, 1, || ErSde::new(2).into()).stochastic()
        .of("Cui et al. 2023, arXiv:2309.06169", "reversed diffusion with its own noise scale"),
    SolverEntry::new("er-sde", 3, 1, || ErSde::new(3).into()).stochastic().also(&["er-sde-3"])
        .of("Cui et al. 2023, arXiv:2309.06169", "reversed diffusion with its own noise scale, third order"),
];

/// The entry with this name or alias.
pub fn find(name: &str) -> Option<&'static SolverEntry> {
    SOLVERS.iter().find(|entry| entry.name == name || entry.aliases.contains(&name))
}

/// The solver with this name or alias, without its noise rule; [`find`] returns both.
pub fn solver<V: Vector + 'static>(name: &str) -> Option<Box<dyn Solver<V>>> {
    find(name).map(SolverEntry::build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_orders_agree() {
        let names: Vec<_> = SOLVERS.iter().flat_map(|e| e.aliases.iter().chain([&e.name])).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name} twice");
            assert!(find(name).is_some());
        }
        for entry in SOLVERS {
            assert_eq!(entry.build::<f64>().order(), entry.order, "{}", entry.name);
            assert!(!entry.paper.is_empty() && !entry.summary.is_empty(), "{}", entry.name);
        }
        assert!(solver::<f64>("euler").is_some() && solver::<f64>("none such").is_none());
    }
}
