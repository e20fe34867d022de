//! Samples given a measurement, compared with the closed form: what each method does to Gaussian data step by step, and the
//! exact posterior of Gaussians and mixtures.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use tweedie_core::{
    Denoiser, Halt, Level, Move, NoiseSchedule, Plan, Prediction, Solver,
    forward::posterior,
    noise::{INITIAL, Noise, SeededNoise},
    oracle::{Gaussian, GaussianMixture},
    plan::Final,
    sample,
    schedule::{FlowSchedule, TableSchedule},
    solver, spacing,
};
use tweedie_pipe::{
    operators::{Mask, Matrix, Separable, boxes},
    posterior::{Ddnm, Ddrm, DiffPir, Dps, Measurement, Method, Particles, PiGdm, Posterior, Rows, Weight},
};

type Sample = Vec<f64>;

/// An exact denoiser with the gradient that a method needs: the Jacobian of `E[x0 | x]` is symmetric.
struct Pulled<'a> {
    data: &'a dyn Denoiser<Sample>,
    posterior: Option<&'a Posterior>,
}

impl Denoiser<Sample> for Pulled<'_> {
    fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
        let mut p = self.data.denoise(x, at)?;
        let v = self.posterior.and_then(|posterior| posterior.cotangent(&p.x0, at));
        if let Some(v) = v {
            let h = 1e-5;
            let moved = |by: f64| x.iter().zip(&v).map(|(x, v)| x + by * v).collect::<Sample>();
            let (up, down) = (self.data.denoise(&moved(h), at)?.x0, self.data.denoise(&moved(-h), at)?.x0);
            p.pulled = Some(up.iter().zip(&down).map(|(a, b)| (a - b) / (2.0 * h)).collect());
        }
        Ok(p)
    }
}

/// `steps` steps of a schedule that are closer at clean levels.
fn plan(steps: usize) -> Plan {
    let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap());
    Plan::descend(schedule, &spacing::trailing(1000, steps).unwrap(), Final::Clean).unwrap()
}

fn flow_plan(steps: usize) -> Plan {
    let schedule = Arc::new(FlowSchedule::new());
    let times: Vec<f64> = (0..steps).map(|i| 0.999 * (1.0 - i as f64 / steps as f64)).collect();
    assert!(schedule.level(0.5).alpha > 0.0);
    Plan::descend(schedule, &times, Final::Clean).unwrap()
}

/// One measured direction: `y = s·aᵀ·x` with a unit vector `a`.
const A: [f64; 2] = [0.8, 0.6];
const S: f64 = 0.7;

fn measurement(y: f64, sigma: f64) -> Measurement {
    let row = Matrix::new(2, vec![(0, vec![S * A[0], S * A[1]])]);
    Measurement { operator: Arc::new(Separable::new(&[2], vec![Some(row)])), y: vec![y], sigma }
}

fn run(plan: &Plan, solver: &dyn Solver<Sample>, model: &dyn Denoiser<Sample>, seed: u64) -> Sample {
    let mut noise = SeededNoise(seed);
    let x: Sample = noise.normal(&vec![0.0; 2], INITIAL);
    let x = x.iter().map(|v| v * plan.start_std).collect();
    sample(plan, solver, model, x, &mut noise).finish().unwrap()
}

/// Mean and covariance of vectors of two values.
#[derive(Clone, Copy, Debug)]
struct Moments {
    mean: [f64; 2],
    cov: [[f64; 2]; 2],
}

fn moments(samples: &[Sample]) -> Moments {
    let n = samples.len() as f64;
    let mean = [0, 1].map(|i| samples.iter().map(|x| x[i]).sum::<f64>() / n);
    let entry =
        |i: usize, j: usize| samples.iter().map(|x| (x[i] - mean[i]) * (x[j] - mean[j])).sum::<f64>() / n;
    Moments { mean, cov: [[entry(0, 0), entry(0, 1)], [entry(1, 0), entry(1, 1)]] }
}

impl Moments {
    /// Both agree within five standard errors of `count` samples, and `slack`.
    fn agree(&self, expected: &Self, count: usize, slack: f64, name: &str) {
        let n = count as f64;
        for i in 0..2 {
            let error = (self.mean[i] - expected.mean[i]).abs();
            assert!(
                error < 5.0 * (expected.cov[i][i] / n).sqrt() + slack + 1e-9,
                "{name}: {self:?} {expected:?}"
            );
            for j in 0..2 {
                let spread = expected.cov[i][i] * expected.cov[j][j] + expected.cov[i][j].powi(2);
                let error = (self.cov[i][j] - expected.cov[i][j]).abs();
                assert!(error < 5.0 * (spread / n).sqrt() + slack + 1e-9, "{name}: {self:?} {expected:?}");
            }
        }
    }
}

type Square = [[f64; 2]; 2];

fn times(a: Square, b: Square) -> Square {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..2).map(|k| a[i][k] * b[k][j]).sum()))
}

fn plus(a: Square, x: f64, b: Square, y: f64) -> Square {
    std::array::from_fn(|i| std::array::from_fn(|j| x * a[i][j] + y * b[i][j]))
}

fn apply(a: Square, v: [f64; 2]) -> [f64; 2] {
    std::array::from_fn(|i| a[i][0] * v[0] + a[i][1] * v[1])
}

const ONE: Square = [[1.0, 0.0], [0.0, 1.0]];
/// Projection onto the measured direction.
const P: Square = [[A[0] * A[0], A[0] * A[1]], [A[1] * A[0], A[1] * A[1]]];

/// An affine function of `x` with Gaussian noise: `m·x + c + n`, `n ~ N(0, q)`.
#[derive(Clone, Copy)]
struct Affine {
    m: Square,
    c: [f64; 2],
    q: Square,
}

impl Affine {
    fn lin(a: f64, x: Self, b: f64, y: Self) -> Self {
        Self {
            m: plus(x.m, a, y.m, b),
            c: std::array::from_fn(|i| a * x.c[i] + b * y.c[i]),
            q: plus(x.q, 1.0, y.q, 1.0),
        }
    }

    /// `r·x + d` for a function `x`.
    fn then(self, r: Square, d: [f64; 2]) -> Self {
        let c = apply(r, self.c);
        Self { m: times(r, self.m), c: [c[0] + d[0], c[1] + d[1]], q: self.q }
    }

    fn noise(q: Square) -> Self {
        Self { m: [[0.0; 2]; 2], c: [0.0; 2], q }
    }

    fn of(self, x: Moments) -> Moments {
        let mean = apply(self.m, x.mean);
        let turned = [[self.m[0][0], self.m[1][0]], [self.m[0][1], self.m[1][1]]];
        let cov = plus(times(times(self.m, x.cov), turned), 1.0, self.q, 1.0);
        Moments { mean: [mean[0] + self.c[0], mean[1] + self.c[1]], cov }
    }
}

/// Independent Gaussian values: mean and variance.
const MEAN: [f64; 2] = [0.4, -0.3];

/// A step of a method as its paper says it, in matrices; `x0` and `eps` are the exact predictions as functions of `x`.
fn step(method: Method, weight: Weight, [from, to]: [Level; 2], v: [f64; 2], y: f64, sigma_y: f64) -> Affine {
    let (alpha, sigma) = (from.alpha, from.sigma);
    let gain = |i: usize| alpha * v[i] / (alpha * alpha * v[i] + sigma * sigma);
    let d = [[gain(0), 0.0], [0.0, gain(1)]];
    let none = [[0.0; 2]; 2];
    let x = Affine { m: ONE, c: [0.0; 2], q: none };
    let x0 = Affine { m: d, c: std::array::from_fn(|i| (1.0 - alpha * gain(i)) * MEAN[i]), q: none };
    let eps = |x0: Affine| Affine::lin(1.0 / sigma, x, -alpha / sigma, x0);
    let ybar = y / S;
    let along = |k: f64| A.map(|a| k * a);
    let ancestral = posterior(from, to);
    let var = ancestral.variance;
    match method {
        Method::Ddnm => {
            let limit =
                if sigma_y == 0.0 { 1.0 } else { (var.sqrt() * S / (ancestral.x0 * sigma_y)).min(1.0) };
            let corrected = x0.then(plus(ONE, 1.0, P, -limit), along(limit * ybar));
            let part = var - (ancestral.x0 * limit * sigma_y / S).powi(2);
            let noise = plus(plus(ONE, var, P, -var), 1.0, P, part.max(0.0));
            Affine::lin(1.0, Affine::lin(ancestral.x0, corrected, ancestral.x, x), 1.0, Affine::noise(noise))
        }
        Method::Ddrm { eta } => {
            let s = to.nsr();
            let kept = (1.0 - eta * eta).sqrt() * s;
            let rest = plus(ONE, 1.0, P, -1.0);
            let free = Affine::lin(1.0, x0, kept, eps(x0)).then(rest, [0.0; 2]);
            let noisy = sigma_y / S;
            let (measured, var) = match s < noisy {
                true => (
                    x0.then(plus(P, 1.0 - kept / noisy, P, 0.0), along(kept / noisy * ybar)),
                    (eta * s).powi(2),
                ),
                false => (x0.then(none, along(ybar)), s * s - noisy * noisy),
            };
            let noise = plus(plus(ONE, 1.0, P, -1.0), (eta * s).powi(2), P, var);
            let all = Affine::lin(1.0, Affine::lin(1.0, free, 1.0, measured), 1.0, Affine::noise(noise));
            let scaled = Affine::lin(to.alpha, all, 0.0, x);
            Affine { q: plus(all.q, to.alpha * to.alpha, none, 0.0), ..scaled }
        }
        Method::DiffPir { lambda, zeta } => {
            let rho = lambda * sigma_y.max(1e-3).powi(2) / from.nsr().powi(2);
            let weight = S / (S * S + rho);
            let corrected = x0.then(plus(ONE, 1.0, P, -weight * S), along(weight * y));
            let noise = plus(ONE, to.sigma * to.sigma * zeta, ONE, 0.0);
            let kept = to.sigma * (1.0 - zeta).sqrt();
            Affine::lin(
                1.0,
                Affine::lin(to.alpha, corrected, kept, eps(corrected)),
                1.0,
                Affine::noise(noise),
            )
        }
        Method::PiGdm { eta } => {
            let r2 = sigma * sigma / (sigma * sigma + alpha * alpha);
            let gain = S / (r2 * S * S + sigma_y * sigma_y);
            // g = J·s·a·(y − s·aᵀ·x0)/(r²s² + σ_y²) with J = D.
            let g = x0.then(plus(P, -gain * S, P, 0.0), along(gain * y)).then(d, [0.0; 2]);
            let up = eta * eta * var;
            let kept = (to.sigma * to.sigma - up).max(0.0).sqrt();
            let noise = Affine::noise(plus(ONE, up, ONE, 0.0));
            let next = match weight {
                Weight::Tweedie => {
                    let corrected = Affine::lin(1.0, x0, sigma * sigma / alpha, g);
                    Affine::lin(to.alpha, corrected, kept, Affine::lin(1.0, eps(x0), -sigma, g))
                }
                Weight::Paper => {
                    Affine::lin(1.0, Affine::lin(to.alpha, x0, kept, eps(x0)), to.alpha * alpha * r2, g)
                }
            };
            Affine::lin(1.0, next, 1.0, noise)
        }
        other => panic!("{other}"),
    }
}

/// The exact posterior of independent Gaussian values.
fn exact(v: [f64; 2], y: f64, sigma_y: f64) -> Moments {
    let h = A.map(|a| S * a);
    let hv = [h[0] * v[0], h[1] * v[1]];
    let total = h[0] * hv[0] + h[1] * hv[1] + sigma_y * sigma_y;
    let rest = y - h[0] * MEAN[0] - h[1] * MEAN[1];
    let mean = std::array::from_fn(|i| MEAN[i] + hv[i] / total * rest);
    let cov = std::array::from_fn(|i| {
        std::array::from_fn(|j| if i == j { v[i] } else { 0.0 } - hv[i] * hv[j] / total)
    });
    Moments { mean, cov }
}

const Y: f64 = 0.9;
const COUNT: usize = 2000;
/// For every method.
const FEW: usize = 700;

fn solver_of(method: Method, weight: Weight, measurement: Measurement) -> Box<dyn Solver<Sample>> {
    match method {
        Method::Ddnm => Box::new(Ddnm(measurement)),
        Method::Ddrm { eta } => Box::new(Ddrm { measurement, eta, eta_b: 1.0 }),
        Method::DiffPir { lambda, zeta } => Box::new(DiffPir { measurement, lambda, zeta }),
        Method::PiGdm { eta } => Box::new(PiGdm { measurement, eta, weight }),
        other => panic!("{other}"),
    }
}

/// Every sampler has exactly the moments that its formulas give for Gaussian data: no constant, factor or case is wrong. The
/// bias against the posterior, which is what the method's approximation costs, is printed.
#[test]
fn samples_have_the_moments_of_the_papers_formulas() {
    let v = [0.6, 0.1];
    let data = Gaussian::new(MEAN.to_vec(), v.to_vec()).unwrap();
    let methods = ["ddnm", "ddrm=0.85", "ddrm=0.3", "diffpir=2,0.5", "diffpir=8,1", "pigdm=1"];
    let exact_pigdm = [("pigdm=1", Weight::Tweedie), ("pigdm=0.4", Weight::Tweedie)];
    for (name, plan) in [("table", plan(25)), ("flow", flow_plan(25))] {
        for sigma_y in [0.0, 0.2] {
            for (name_of, weight) in methods.map(|name| (name, Weight::Paper)).into_iter().chain(exact_pigdm)
            {
                let method: Method = name_of.parse().unwrap();
                let measurement = measurement(Y, sigma_y);
                let posterior = Posterior { measurement: measurement.clone(), method };
                let model = Pulled { data: &data, posterior: Some(&posterior) };
                let solver = solver_of(method, weight, measurement);
                let samples: Vec<Sample> = (0..FEW).map(|i| run(&plan, &*solver, &model, i as u64)).collect();
                let start = plan.start_std * plan.start_std;
                let begin = Moments { mean: [0.0; 2], cov: plus(ONE, start, ONE, 0.0) };
                let expected = plan.steps().fold(begin, |x, (from, to)| match to {
                    Move::Solve(to) => step(method, weight, [from, to], v, Y, sigma_y).of(x),
                    _ => panic!("only steps of the solver"),
                });
                let found = moments(&samples);
                let label = format!("{method}, {name}, sigma_y = {sigma_y}");
                // ΠGDM without noise has a floor that the formula leaves out.
                found.agree(&expected, FEW, 1e-6, &label);
                let truth = exact(v, Y, sigma_y);
                println!("{label}: {expected:.3?}, posterior {truth:.3?}");
            }
        }
    }
}

/// ΠGDM with Tweedie's weight is exact for Gaussian data with independent values of variance 1, in the limit of small steps.
#[test]
fn pigdm_samples_the_posterior_of_isotropic_data() {
    let v = [1.0; 2];
    let data = Gaussian::new(MEAN.to_vec(), v.to_vec()).unwrap();
    let method = Method::PiGdm { eta: 1.0 };
    let measurement = measurement(Y, 0.3);
    let posterior = Posterior { measurement: measurement.clone(), method };
    let model = Pulled { data: &data, posterior: Some(&posterior) };
    let solver = solver_of(method, Weight::Tweedie, measurement);
    let plan = plan(120);
    let samples: Vec<Sample> = (0..COUNT).map(|i| run(&plan, &*solver, &model, i as u64)).collect();
    moments(&samples).agree(&exact(v, Y, 0.3), COUNT, 0.02, "pigdm");
    // For narrower data the assumed variance is too large, so the measurement counts less than it should: closer to the
    // prior's mean.
    let v = [0.05; 2];
    let data = Gaussian::new(MEAN.to_vec(), v.to_vec()).unwrap();
    let model = Pulled { data: &data, posterior: Some(&posterior) };
    let samples: Vec<Sample> = (0..COUNT).map(|i| run(&plan, &*solver, &model, i as u64)).collect();
    let truth = exact(v, Y, 0.3);
    let along = |x: [f64; 2]| x[0] * A[0] + x[1] * A[1];
    let (found, prior, right) = (along(moments(&samples).mean), along(MEAN), along(truth.mean));
    assert!(prior < found && found < right - 0.005, "{prior} {found} {right}");
}

/// A population of rows: each is one sample.
#[derive(Clone)]
struct Population(Vec<Sample>);

impl tweedie_core::Vector for Population {
    fn lin(terms: &[(f64, &Self)]) -> Self {
        let row = |i: usize| {
            let rows: Vec<(f64, &Sample)> = terms.iter().map(|(c, v)| (*c, &v.0[i])).collect();
            Sample::lin(&rows)
        };
        Self((0..terms[0].1.0.len()).map(row).collect())
    }

    fn rms(&self) -> f64 {
        self.0.concat().rms()
    }

    fn dot(&self, other: &Self) -> f64 {
        self.0.concat().dot(&other.0.concat())
    }

    fn times_exp(&self, log: &Self) -> Self {
        Self(self.0.iter().zip(&log.0).map(|(x, l)| x.times_exp(l)).collect())
    }
}

impl Rows for Population {
    fn rows(&self) -> Vec<Vec<f64>> {
        self.0.clone()
    }

    fn with(&self, rows: Vec<Vec<f64>>) -> Self {
        Self(rows)
    }
}

struct Each<'a>(&'a dyn Denoiser<Sample>);

impl Denoiser<Population> for Each<'_> {
    fn denoise(&self, x: &Population, at: Level) -> Result<Prediction<Population>, Halt> {
        let all: Vec<Prediction<Sample>> =
            x.0.iter().map(|row| self.0.denoise(row, at)).collect::<Result<_, _>>()?;
        let take =
            |f: fn(&Prediction<Sample>) -> &Sample| Population(all.iter().map(|p| f(p).clone()).collect());
        Ok(Prediction::new(take(|p| &p.x0), take(|p| &p.eps)))
    }
}

/// `runs` populations of `count` particles each.
fn populations(
    data: &dyn Denoiser<Sample>,
    measured: &Measurement,
    plan: &Plan,
    [runs, count]: [usize; 2],
) -> Vec<Sample> {
    let mut all = Vec::new();
    for seed in 0..runs as u64 {
        let draws = |stream: u64| SeededNoise(seed * 7919 + 1).normal(&vec![0.0; 2], u64::MAX / 2 + stream);
        let solver = Particles::new(measured.clone(), plan, |i| draws(i as u64));
        let mut noise = |like: &Population, draw: u64| {
            let row = |i: usize| SeededNoise(seed * 1_000_003 + i as u64).normal(&vec![0.0; 2], draw);
            Population((0..like.0.len()).map(row).collect())
        };
        let like = Population(vec![vec![0.0; 2]; count]);
        let x = tweedie_core::lin![plan.start_std => &noise(&like, INITIAL)];
        let done = sample(plan, &solver, &Each(data), x, &mut noise).finish().unwrap();
        all.extend(done.0);
    }
    all
}

/// The particle filter has no bias but that of finitely many particles and steps, whatever the prior.
#[test]
fn particles_sample_the_posterior() {
    let v = [0.6, 0.1];
    let data = Gaussian::new(MEAN.to_vec(), v.to_vec()).unwrap();
    for sigma_y in [0.0, 0.2] {
        let samples = populations(&data, &measurement(Y, sigma_y), &plan(60), [40, 80]);
        // The particles of a run share its path, so the runs count.
        moments(&samples).agree(
            &exact(v, Y, sigma_y),
            40 * 8,
            0.03,
            &format!("particles, sigma_y = {sigma_y}"),
        );
    }
}

/// Two modes, of which the known first value nearly decides.
fn modes() -> (GaussianMixture, Mask, f64) {
    let mode = |at: f64| Gaussian::new(vec![0.3 * at, at], vec![0.04, 0.02]).unwrap();
    let mixture = GaussianMixture::new(vec![(0.5, mode(-1.0)), (0.5, mode(1.0))]).unwrap();
    let known = 0.15;
    // p(mode 1 | y) by Bayes' rule.
    let density = |at: f64| (-0.5 * (known - 0.3 * at).powi(2) / 0.04f64).exp();
    (mixture, Mask::new(&[true, false]), density(1.0) / (density(1.0) + density(-1.0)))
}

/// The known value of a mixture: particles find the mode as often as the closed form says, replacement does not quite,
/// and RePaint's repetitions bring it nearer.
#[test]
fn modes_are_found_as_often_as_they_are_likely() {
    let (data, mask, right) = modes();
    let upper = |all: &[Sample]| all.iter().filter(|x| x[1] > 0.0).count() as f64 / all.len() as f64;
    let measured = Measurement { y: vec![0.15], operator: Arc::new(mask), sigma: 0.0 };
    let samples = populations(&data, &measured, &plan(60), [40, 80]);
    let found = upper(&samples);
    assert!((found - right).abs() < 0.04, "{found} {right}");
    assert!(samples.iter().all(|x| (x[0] - 0.15).abs() < 1e-6));

    /// Replaces the known first value in every prediction.
    struct Known<'a>(&'a GaussianMixture);
    impl Denoiser<Sample> for Known<'_> {
        fn denoise(&self, x: &Sample, at: Level) -> Result<Prediction<Sample>, Halt> {
            let mut p = self.0.denoise(x, at)?;
            p.x0[0] = 0.15;
            p.eps[0] = (x[0] - at.alpha * 0.15) / at.sigma;
            Ok(p)
        }
    }
    let ddim = solver::solver::<Sample>("ddim").unwrap();
    let share = |plan: Plan| {
        let all: Vec<Sample> = (0..COUNT).map(|i| run(&plan, &*ddim, &Known(&data), i as u64)).collect();
        assert!(all.iter().all(|x| (x[0] - 0.15).abs() < 1e-9));
        upper(&all)
    };
    let once = share(plan(40).ancestral(1.0));
    let again = share(plan(40).resampled(10, 10).unwrap().ancestral(1.0));
    println!("mode: posterior {right:.3}, particles {found:.3}, replacement {once:.3}, repaint {again:.3}");
    let error = 5.0 * (right * (1.0 - right) / COUNT as f64).sqrt();
    assert!(once < right - error, "replacement sees too little of the known value: {once} {right}");
    assert!((again - right).abs() < (once - right).abs(), "{once} {again} {right}");
}

/// One step of DPS by hand: DDPM's, minus ζ times the gradient of the residual's norm, which for one measured direction is
/// `J·s·a` with the residual's sign.
#[test]
fn dps_steps_along_the_gradient_of_the_residual() {
    let v = [0.6, 0.1];
    let data = Gaussian::new(MEAN.to_vec(), v.to_vec()).unwrap();
    let method = Method::Dps { zeta: 0.3 };
    let posterior_ = Posterior { measurement: measurement(Y, 0.0), method };
    let model = Pulled { data: &data, posterior: Some(&posterior_) };
    let solver = Dps { measurement: measurement(Y, 0.0), zeta: 0.3 };
    let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap());
    let (from, to) = (schedule.level(500.0), schedule.level(400.0));
    let plan = Plan::through(schedule, &[from, to]).unwrap();
    let x = vec![0.3, -0.2];
    let mut noise = SeededNoise(3);
    let found = sample(&plan, &solver, &model, x.clone(), &mut noise).finish().unwrap();
    let n: Sample = SeededNoise(3).normal(&x, 0);
    let x0 = data.denoise(&x, from).unwrap().x0;
    let rest = Y - S * (A[0] * x0[0] + A[1] * x0[1]);
    let step = posterior(from, to);
    for i in 0..2 {
        let jacobian = from.alpha * v[i] / (from.alpha * from.alpha * v[i] + from.sigma * from.sigma);
        let expected = step.x0 * x0[i]
            + step.x * x[i]
            + step.variance.sqrt() * n[i]
            + 0.3 * jacobian * S * A[i] * rest.signum();
        assert!((found[i] - expected).abs() < 1e-8, "{found:?} {expected}");
    }
    // Over all steps the measurement is met about as well as the last gradient step is long.
    let plan = self::plan(200);
    let all: Vec<Sample> = (0..300).map(|i| run(&plan, &solver, &model, i)).collect();
    let mean = moments(&all).mean;
    let operator = measurement(Y, 0.0).operator;
    assert!((operator.apply(&mean)[0] - Y).abs() < 0.1, "{mean:?}");
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Single steps of azula, whose gradients come from torch, on a mixture with the same noise: every value.
#[test]
fn steps_are_those_of_azula() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/posterior/azula.json");
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let component = |i: usize| {
        let gaussian = Gaussian::new(numbers(&golden["means"][i]), numbers(&golden["variances"][i])).unwrap();
        (golden["weights"][i].as_f64().unwrap(), gaussian)
    };
    let data = GaussianMixture::new(vec![component(0), component(1)]).unwrap();
    let operator = Arc::new(boxes(&[1, 6], 2));
    let (x, noise) = (numbers(&golden["x"]), numbers(&golden["noise"]));
    let measured = |sigma| Measurement { operator: operator.clone(), y: numbers(&golden["y"]), sigma };
    let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02).unwrap());
    for case in golden["steps"].as_array().unwrap() {
        let level = |key: &str| {
            let [alpha, sigma] = <[f64; 2]>::try_from(numbers(&case[key])).unwrap();
            Level { alpha, sigma, t: 0.0 }
        };
        let (from, to) = (level("from"), level("to"));
        let check = |key: &str, method: Method, solver: &dyn Solver<Sample>, to: Level| {
            let posterior = Posterior { measurement: measured(0.0), method };
            let model = Pulled { data: &data, posterior: Some(&posterior) };
            let plan = Plan::through(schedule.clone(), &[from, to]).unwrap();
            let mut draw = |_: &Sample, _: u64| noise.clone();
            let found = sample(&plan, solver, &model, x.clone(), &mut draw).finish().unwrap();
            for (found, expected) in found.iter().zip(numbers(&case[key])) {
                assert!((found - expected).abs() < 1e-7, "{key}: {found} {expected}");
            }
        };
        check("dps", Method::Dps { zeta: 0.7 }, &Dps { measurement: measured(0.0), zeta: 0.7 }, to);
        for (key, eta) in [("pigdm_0", 0.0), ("pigdm_1", 1.0)] {
            // Its η is a share of the variance; both agree at 0 and 1. Its levels need not preserve the variance, but r² then
            // cancels.
            let solver = PiGdm { measurement: measured(0.0), eta, weight: Weight::Paper };
            check(key, Method::PiGdm { eta }, &solver, to);
        }
        // A last step returns the corrected prediction.
        let solver = DiffPir { measurement: measured(0.1), lambda: 5.0, zeta: 0.5 };
        check("diffpir_x0", Method::DiffPir { lambda: 5.0, zeta: 0.5 }, &solver, Level::CLEAN);
    }
}
