//! The problem: points of a mixture of three Gaussians in the plane, noised by DDPM's schedule.

use std::sync::Arc;

use anyhow::{Context, Result};
use tweedie_core::{
    Denoiser, Halt, Level, Move, NoiseSchedule, Plan, Prediction, Solver, lin,
    noise::{INITIAL, Noise, SeededNoise},
    oracle::{Gaussian, GaussianMixture},
    sample,
    schedule::TableSchedule,
    solver::{Adaptive, CLASSICAL, Curvature, DpmMultistep, DpmSinglestep, Form, Rule, SolverEntry},
    spacing::exponential,
    trajectory::Tolerance,
};

type Sample = Vec<f64>;

/// `sigma/alpha` at the end of the curves, and at the ends of the runs that measure the order.
const CLEANEST: f64 = 0.02;
const SMOOTH: (f64, f64) = (0.1, 10.0);
/// Trajectories whose errors are averaged, and samples whose moments are taken.
const STARTS: u64 = 24;
const ROWS: usize = 4000;
const MOST_STEPS: usize = 160;

/// A deterministic solver's curve.
pub struct Convergence {
    pub entry: &'static SolverEntry,
    /// The slope of its error; none for adaptive steps.
    pub order: Option<f64>,
    /// Evaluations from which on the error stays below 1 %.
    pub to_one_percent: Option<usize>,
    /// Evaluations and relative error.
    pub curve: Vec<(f64, f64)>,
}

/// How far the moments of a stochastic solver's samples are off.
pub struct Distribution {
    pub entry: &'static SolverEntry,
    /// For each of [`STEPS`]; none for samplers of consistency models.
    pub off: Option<[f64; 2]>,
}

/// The numbers of steps of [`Distribution::off`].
pub const STEPS: [usize; 2] = [10, 50];

pub struct Problem {
    schedule: Arc<dyn NoiseSchedule>,
    data: GaussianMixture,
    moments: [f64; 5],
    starts: Vec<Sample>,
    ends: Vec<Sample>,
}

/// Many points in one vector.
struct Rows<'a>(&'a GaussianMixture);

impl Denoiser<Sample> for Rows<'_> {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let mut out = Prediction::new(Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        for row in x.chunks(2) {
            let p = self.0.denoise(&row.to_vec(), at)?;
            out.x0.extend(p.x0);
            out.eps.extend(p.eps);
        }
        Ok(out)
    }
}

/// Mean and covariance of two-dimensional rows.
fn moments(x: &[f64]) -> [f64; 5] {
    let n = (x.len() / 2) as f64;
    let mean = [0, 1].map(|i| x.chunks(2).map(|r| r[i]).sum::<f64>() / n);
    let second =
        |i: usize, j: usize| x.chunks(2).map(|r| (r[i] - mean[i]) * (r[j] - mean[j])).sum::<f64>() / n;
    [mean[0], mean[1], second(0, 0), second(1, 1), second(0, 1)]
}

impl Problem {
    pub fn new() -> Result<Self> {
        let parts: [(f64, [f64; 2], [f64; 2]); 3] = [
            (0.5, [1.0, 0.6], [0.05, 0.1]),
            (0.3, [-0.9, 0.7], [0.1, 0.04]),
            (0.2, [0.1, -1.1], [0.06, 0.06]),
        ];
        let components = parts.iter().map(|(w, m, v)| Ok((*w, Gaussian::new(m.to_vec(), v.to_vec())?)));
        let data = GaussianMixture::new(components.collect::<Result<_>>()?)?;
        let mean = [0, 1].map(|i| parts.iter().map(|(w, m, _)| w * m[i]).sum::<f64>());
        let second = |i: usize, j: usize| -> f64 {
            let own = |v: &[f64; 2]| if i == j { v[i] } else { 0.0 };
            parts.iter().map(|(w, m, v)| w * (own(v) + (m[i] - mean[i]) * (m[j] - mean[j]))).sum()
        };
        let moments = [mean[0], mean[1], second(0, 0), second(1, 1), second(0, 1)];
        let schedule: Arc<dyn NoiseSchedule> = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02)?);
        let starts: Vec<Sample> =
            (0..STARTS).map(|seed| SeededNoise(seed).normal(&vec![0.0; 2], INITIAL)).collect();
        let mut problem = Self { schedule, data, moments, starts, ends: Vec::new() };
        let fine = problem.plan((CLEANEST, problem.noisiest()), 4000)?;
        problem.ends = problem.run(&fine, &CLASSICAL)?.0;
        Ok(problem)
    }

    fn noisiest(&self) -> f64 {
        self.schedule.level(self.schedule.times().max()).nsr()
    }

    /// `n` steps, even in `lambda`.
    fn plan(&self, (clean, noisy): (f64, f64), n: usize) -> Result<Plan> {
        let nsrs = exponential(clean, noisy, n + 1)?;
        let levels: Vec<Level> = nsrs.into_iter().map(|u| self.schedule.at_nsr(u)).collect();
        Ok(Plan::through(self.schedule.clone(), &levels)?)
    }

    /// The same, its first step cut into shorter ones: they are of lower order in multistep solvers.
    fn graded(&self, ends: (f64, f64), n: usize) -> Result<Plan> {
        let mut plan = self.plan(ends, n)?;
        let first = plan.start.lambda();
        let h = (ends.1 / ends.0).ln() / n as f64;
        let cuts = [0.5 * h * h, 0.5 * h * h + 0.5 * h.powf(4.0 / 3.0)];
        plan.moves.splice(0..0, cuts.map(|cut| Move::Solve(self.schedule.at_lambda(first + cut))));
        Ok(plan)
    }

    /// The ends of all starts, and the evaluations of one.
    fn run(&self, plan: &Plan, solver: &dyn Solver<Sample>) -> Result<(Vec<Sample>, f64)> {
        let (mut ends, mut evals) = (Vec::new(), 0);
        for (seed, x) in self.starts.iter().enumerate() {
            let x = lin![plan.start.alpha.hypot(plan.start.sigma) => x];
            let mut noise = SeededNoise(seed as u64);
            let last = sample(plan, solver, &self.data, x, &mut noise).last().context("an empty plan")??;
            evals += last.evals;
            ends.push(last.x);
        }
        Ok((ends, evals as f64 / self.starts.len() as f64))
    }

    fn error(ends: &[Sample], exact: &[Sample]) -> f64 {
        let square = |x: &Sample| x.iter().map(|v| v * v).sum::<f64>();
        let apart: f64 = ends.iter().zip(exact).map(|(a, b)| square(&lin![1.0 => a, -1.0 => b])).sum();
        (apart / exact.iter().map(square).sum::<f64>()).sqrt()
    }

    fn slope(&self, solver: &dyn Solver<Sample>, multistep: bool) -> Result<f64> {
        let (few, many) = (96, 192);
        let exact = self.run(&self.plan(SMOOTH, 3000)?, &CLASSICAL)?.0;
        let error = |n| -> Result<f64> {
            let plan = if multistep { self.graded(SMOOTH, n) } else { self.plan(SMOOTH, n) }?;
            Ok(Self::error(&self.run(&plan, solver)?.0, &exact))
        };
        Ok((error(few)? / error(many)?).log2())
    }

    /// The curve of a deterministic solver.
    pub fn convergence(&self, entry: &'static SolverEntry) -> Result<Convergence> {
        let ends = (CLEANEST, self.noisiest());
        let at = |plan: Plan, solver: &dyn Solver<Sample>| -> Result<(f64, f64)> {
            let (x, evals) = self.run(&plan, solver)?;
            Ok((evals, Self::error(&x, &self.ends)))
        };
        if entry.adaptive {
            let solver = DpmSinglestep { form: Form::Noise, order: 3, rule: Rule::Midpoint };
            let mut curve = Vec::new();
            for k in 0..17 {
                let relative = 10f64.powf(-f64::from(k) / 3.0);
                let tolerance = Tolerance { relative, absolute: 0.1 * relative, ..Tolerance::K_DIFFUSION };
                let solver = Adaptive { solver, tolerance };
                curve.push(at(self.plan(ends, 1)?, &solver)?);
            }
            let fewest = curve.iter().filter(|(_, e)| *e <= 0.01).map(|(n, _)| *n).reduce(f64::min);
            let to_one_percent = fewest.map(|n| n.ceil() as usize);
            return Ok(Convergence { entry, order: None, to_one_percent, curve });
        }
        let solver = entry.build::<Sample>();
        let mut all = Vec::new();
        for n in 1..=MOST_STEPS {
            all.push(at(self.plan(ends, n)?, &*solver)?);
        }
        let last_bad =
            all.iter().rposition(|(_, error)| error.is_nan() || *error > 0.01).map_or(0, |i| i + 1);
        let to_one_percent = all.get(last_bad).map(|(evals, _)| evals.ceil() as usize);
        let shown = [2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 24, 30, 36, 48, 60, 78, 96, 120, 156];
        let curve = shown.iter().filter_map(|n| all.get(n - 1)).copied().collect();
        let multistep = solver.memory() > 0 && !entry.name.contains("grouped");
        let order = Some(self.slope(&*solver, multistep)?);
        Ok(Convergence { entry, order, to_one_percent, curve })
    }

    /// The moments that a stochastic solver reaches.
    pub fn distribution(&self, entry: &'static SolverEntry) -> Result<Distribution> {
        if ["lcm", "tcd"].contains(&entry.name) {
            return Ok(Distribution { entry, off: None });
        }
        let mut off = [0.0; 2];
        for (off, steps) in off.iter_mut().zip(STEPS) {
            let mut plan = self.plan((CLEANEST, self.noisiest()), steps - 1)?;
            plan.moves.push(Move::Solve(Level::CLEAN));
            let plan = plan.with_noise(entry.noise);
            let mut noise = SeededNoise(1);
            let x: Sample = noise.normal(&vec![0.0; 2 * ROWS], INITIAL);
            let x = sample(&plan, &*entry.build(), &Rows(&self.data), x, &mut noise).finish()?;
            *off = moments(&x).iter().zip(self.moments).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        }
        Ok(Distribution { entry, off: Some(off) })
    }

    /// The measured order of DPM-Solver++(3M) with the published weight of its curvature, and of the exact one.
    pub fn published_third_order(&self) -> Result<[f64; 2]> {
        let solver = |curvature| DpmMultistep { curvature, ..DpmMultistep::new(Form::Data, 3) };
        let published = self.slope(&solver(Curvature::Published), true)?;
        Ok([published, self.slope(&solver(Curvature::Exact), true)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_moments_are_found() {
        let problem = Problem::new().unwrap();
        let entry = |name| tweedie_core::solver::find(name).unwrap();
        let ddim = problem.convergence(entry("ddim")).unwrap();
        assert!((ddim.order.unwrap() - 1.0).abs() < 0.1);
        let first = ddim.curve[0].1;
        assert!(ddim.curve.last().unwrap().1 < 0.05 * first);
        let sde = problem.distribution(entry("dpmpp-2m-sde")).unwrap();
        assert!(sde.off.unwrap()[1] < 0.1);
    }
}
