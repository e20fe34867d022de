//! Properties of every solver: order, exactness, and which of them coincide.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::sync::Arc;

use common::{Sample, ddpm, distance, end, no_noise, slope};
use tweedie_core::{
    Denoiser, Halt, Level, Move, NoiseSchedule, Plan, Prediction, Vector, lin,
    noise::SeededNoise,
    oracle::{Gaussian, GaussianMixture},
    plan::Final,
    sample,
    schedule::{Axis, CosineSchedule, EdmSchedule, FlowSchedule, TableSchedule},
    solver::{
        Bh, CLASSICAL, Curvature, Ddim, DpmGrouped, DpmMultistep, DpmSinglestep, Dpmpp2m, DpmppSde, ErSde,
        FinalOrder, Form, Rule, SOLVERS, SaSolver, Solver, SolverEntry, Uncorrected, UniPc,
    },
    spacing::{Spacing, exponential},
    trajectory::Step,
};

/// What converges to the probability-flow ODE in steps of the plan.
fn deterministic() -> impl Iterator<Item = &'static SolverEntry> {
    SOLVERS.iter().filter(|e| e.is_deterministic() && !e.adaptive)
}

fn gaussian() -> Gaussian {
    Gaussian::new(vec![0.5, -1.0, 0.2], vec![0.3, 1.0, 0.02]).unwrap()
}

fn mixture() -> GaussianMixture {
    let near = Gaussian::new(vec![1.0, 1.0, 0.0], vec![0.1, 0.2, 0.3]).unwrap();
    let far = Gaussian::new(vec![-1.0, 0.5, 0.5], vec![0.2, 0.1, 0.2]).unwrap();
    GaussianMixture::new(vec![(1.0, near), (2.0, far)]).unwrap()
}

fn schedules() -> Vec<Arc<dyn NoiseSchedule>> {
    vec![
        ddpm(),
        Arc::new(EdmSchedule::default()),
        Arc::new(FlowSchedule::new()),
        Arc::new(CosineSchedule::new()),
    ]
}

/// The plan of [`plan`] with its first step cut into shorter ones, for solvers whose first steps are of
/// lower order: of lengths `h²/2`, `h^(4/3)/2` and the rest.
fn graded(schedule: &Arc<dyn NoiseSchedule>, n: usize) -> Plan {
    let mut plan = plan(schedule, n);
    let (first, second) = (plan.start.lambda(), plan.moves[0].to().lambda());
    let h = second - first;
    let cuts = [0.5 * h * h, 0.5 * h * h + 0.5 * h.powf(4.0 / 3.0)];
    plan.moves.splice(0..0, cuts.map(|cut| Move::Solve(schedule.at_lambda(first + cut))));
    plan
}

/// `n` steps between two noise-to-signal ratios, evenly in their logarithm.
fn plan(schedule: &Arc<dyn NoiseSchedule>, n: usize) -> Plan {
    let levels: Vec<Level> =
        exponential(0.1, 10.0, n + 1).unwrap().into_iter().map(|nsr| schedule.at_nsr(nsr)).collect();
    Plan::through(schedule.clone(), &levels).unwrap()
}

fn start(at: Level) -> Sample {
    vec![0.3 * at.alpha + 1.1 * at.sigma, -0.7 * at.sigma, 0.4 * at.sigma]
}

#[test]
fn errors_fall_with_the_declared_order() {
    // Whole groups of two and three.
    let sizes = [24, 48, 96, 192];
    for schedule in schedules() {
        let (from, to) = (schedule.at_nsr(10.0), schedule.at_nsr(0.1));
        let x = start(from);
        let (gaussian, mixture) = (gaussian(), mixture());
        let cases: [(&str, &dyn Denoiser<Sample>, Sample); 2] = [
            ("gaussian", &gaussian, gaussian.flow(&x, from, to)),
            ("mixture", &mixture, end(&plan(&schedule, 2000), &CLASSICAL, &mixture, &x)),
        ];
        for (data, model, exact) in cases {
            for entry in deterministic() {
                let (name, solver) = (entry.name, entry.build());
                let several = solver.memory() > 0 && !name.contains("grouped");
                let plan = |n| if several { graded(&schedule, n) } else { plan(&schedule, n) };
                let error = |&n: &usize| distance(&end(&plan(n), &*solver, model, &x), &exact);
                let errors: Vec<f64> = sizes.iter().map(error).collect();
                let slope = slope(&sizes[1..], &errors[1..]);
                println!("{name:20} {data:9} order {} slope {slope:.3} last {:.1e}", entry.order, errors[3]);
                // The midpoint rule happens to gain an order on a Gaussian.
                let (order, gain) = (entry.order as f64, if data == "gaussian" { 1.2 } else { 0.4 });
                let loss = if entry.order > 2 { 0.4 } else { 0.1 };
                assert!(slope > order - loss && slope < order + gain, "{name} on a {data}: slope {slope}");
            }
        }
    }
}

#[test]
fn options_have_their_order_too() {
    let unipc = |form, order, bh| UniPc { form, ..UniPc::new(order, bh) };
    let multistep =
        |form, order, rule, curvature| DpmMultistep { rule, curvature, ..DpmMultistep::new(form, order) };
    let (exact, published) = (Curvature::Exact, Curvature::Published);
    let ode = |order| ErSde { order, scale: |u| u };
    let cases: Vec<(f64, Box<dyn Solver<Sample>>)> = vec![
        (3.0, Box::new(unipc(Form::Noise, 2, Bh::Bh1))),
        (3.0, Box::new(unipc(Form::Noise, 2, Bh::Bh2))),
        (4.0, Box::new(unipc(Form::Noise, 3, Bh::Bh2))),
        (2.0, Box::new(UniPc { uncorrected: Uncorrected::All, ..UniPc::new(2, Bh::Bh1) })),
        (2.0, Box::new(SaSolver::new(2, 2, 0.0))),
        (3.0, Box::new(SaSolver::new(3, 3, 0.0))),
        (3.0, Box::new(SaSolver { form: Form::Noise, ..SaSolver::new(2, 3, 0.0) })),
        (1.0, Box::new(ode(1))),
        (2.0, Box::new(ode(2))),
        (3.0, Box::new(ode(3))),
        (2.0, Box::new(multistep(Form::Noise, 2, Rule::Heun, exact))),
        (2.0, Box::new(multistep(Form::Data, 3, Rule::Midpoint, published))),
        (2.0, Box::new(multistep(Form::Noise, 3, Rule::Midpoint, published))),
        (3.0, Box::new(DpmSinglestep { form: Form::Noise, order: 3, rule: Rule::Heun })),
        (3.0, Box::new(DpmGrouped { rule: Rule::Heun, ..DpmGrouped::new(Form::Data, 3) })),
        (2.0, Box::new(DpmppSde { eta: 0.0 })),
    ];
    let schedule: Arc<dyn NoiseSchedule> = ddpm();
    let x = start(schedule.at_nsr(10.0));
    let exact = end(&plan(&schedule, 2000), &CLASSICAL, &mixture(), &x);
    let sizes = [48, 96, 192];
    for (i, (order, solver)) in cases.iter().enumerate() {
        let errors: Vec<f64> = sizes
            .iter()
            .map(|&n| {
                // The grouped solver is the one whose memory is of whole steps of the plan.
                let plan = if i == 14 { plan(&schedule, n) } else { graded(&schedule, n) };
                let run = sample(&plan, &**solver, &mixture(), x.clone(), &mut SeededNoise(0)).finish();
                distance(&run.unwrap(), &exact)
            })
            .collect();
        let slope = slope(&sizes, &errors);
        println!("case {i}: order {order} slope {slope:.3} last {:.1e}", errors[2]);
        assert!(slope > order - 0.35 && slope < order + 0.7, "case {i}: slope {slope}, not {order}");
    }
}

/// A denoiser that always answers the same.
struct Constant(Prediction<Sample>);

impl Denoiser<Sample> for Constant {
    fn denoise(&self, _: &Sample, _: Level) -> Result<Prediction<Sample>, Halt> {
        Ok(self.0.clone())
    }
}

#[test]
fn constant_predictions_are_followed_exactly() {
    let p = Prediction::new(vec![1.0, -0.3], vec![0.2, 0.9]);
    let at = |l: Level| lin![l.alpha => &p.x0, l.sigma => &p.eps];
    for schedule in schedules() {
        for entry in deterministic() {
            let solver = entry.build::<Sample>();
            let spacing = Spacing::Trailing;
            let mut levels = spacing.levels(&*schedule, 7).unwrap();
            levels.push(Level::CLEAN);
            let plan = Plan::through(schedule.clone(), &levels).unwrap();
            let mut noise = no_noise();
            let model = Constant(p.clone());
            for moment in sample(&plan, &*solver, &model, at(plan.start), &mut noise) {
                let moment = moment.unwrap();
                let error = distance(&moment.x, &at(moment.level)) / moment.level.sigma.max(1.0);
                assert!(error < 1e-13, "{} on {schedule:?}: {error:e}", entry.name);
            }
        }
    }
}

/// The names that mean one formula, each written as its source writes it.
struct Written(fn(&Sample, &Prediction<Sample>, Level, Level) -> Sample);

impl Solver<Sample> for Written {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, Sample>) -> Result<Sample, Halt> {
        let p = s.predict()?;
        Ok(self.0(&s.x, &p, s.from, s.to))
    }
}

#[test]
fn euler_ddim_and_dpmpp_1_are_one_formula() {
    // Karras et al.: x/alpha moves along d = (x/alpha − x0)/nsr.
    let euler = Written(|x, p, from, to| {
        let d = lin![1.0 / (from.alpha * from.nsr()) => x, -1.0 / from.nsr() => &p.x0];
        lin![to.alpha / from.alpha => x, to.alpha * (to.nsr() - from.nsr()) => &d]
    });
    // Lu et al.: exponential in lambda.
    let dpmpp = Written(|x, p, from, to| {
        let h = to.lambda() - from.lambda();
        lin![to.sigma / from.sigma => x, -to.alpha * (-h).exp_m1() => &p.x0]
    });
    for schedule in schedules() {
        let plan = plan(&schedule, 12);
        let model = mixture();
        let x = start(plan.start);
        let ddim = end(&plan, &Ddim, &model, &x);
        for other in [&euler, &dpmpp] {
            assert!(distance(&ddim, &end(&plan, other, &model, &x)) < 1e-14);
        }
    }
    // Euler's step of a flow: x moves along eps − x0.
    let flow = Written(|x, p, from, to| {
        let dt = to.sigma - from.sigma;
        lin![1.0 => x, dt => &p.eps, -dt => &p.x0]
    });
    let schedule: Arc<dyn NoiseSchedule> = Arc::new(FlowSchedule::new());
    let plan = plan(&schedule, 12);
    let x = start(plan.start);
    assert!(distance(&end(&plan, &Ddim, &mixture(), &x), &end(&plan, &flow, &mixture(), &x)) < 1e-14);
}

#[test]
fn processes_agree_after_rescaling() {
    let schedules = schedules();
    for entry in deterministic().filter(|e| e.name != "pndm") {
        let ends: Vec<(Axis, Sample)> = schedules
            .iter()
            .map(|schedule| {
                let plan = plan(schedule, 10);
                let x = end(&plan, &*entry.build(), &mixture(), &start(plan.start));
                let last = plan.moves[9].to();
                (schedule.axis(), lin![1.0 / last.alpha => &x])
            })
            .collect();
        for (a, x) in &ends {
            for (b, y) in &ends {
                // These integrate along the axis; PNDM starts at the middle in time.
                let along = ["heun", "midpoint", "rk4", "lms-2", "lms-3", "lms"].contains(&entry.name);
                if !along || a == b {
                    assert!(distance(x, y) < 1e-13, "{}: {a:?} against {b:?}", entry.name);
                }
            }
        }
    }
}

#[test]
fn evaluations_are_as_declared() {
    for entry in SOLVERS.iter().filter(|e| !e.adaptive) {
        let mut levels = Spacing::Trailing.levels(&*ddpm(), 9).unwrap();
        levels.push(ddpm().level(0.0));
        let plan = Plan::through(ddpm(), &levels).unwrap();
        let (mut noise, model) = (SeededNoise(1), gaussian());
        let solver = entry.build();
        let x = start(plan.start);
        let last = sample(&plan, &*solver, &model, x, &mut noise).last().unwrap().unwrap();
        let starting = match entry.name {
            "plms" => 1,
            "pndm" => 9,
            _ => 0,
        };
        assert_eq!(last.evals, 9 * entry.evaluations + starting, "{}", entry.name);
        assert_eq!((last.index, last.of), (9, 9));
    }
}

#[test]
fn the_last_step_of_2m_is_as_told() {
    let run = |n: usize, final_order: FinalOrder| {
        let schedule: Arc<dyn NoiseSchedule> = ddpm();
        let plan = plan(&schedule, n);
        end(&plan, &Dpmpp2m { final_order }, &mixture(), &start(plan.start))
    };
    let [few, full, lower] = [FinalOrder::LowerIfFew, FinalOrder::Full, FinalOrder::Lower];
    assert_eq!(run(14, few), run(14, lower));
    assert_ne!(run(14, few), run(14, full));
    assert_eq!(run(15, few), run(15, full));
    assert_ne!(run(15, few), run(15, lower));
}

#[test]
fn a_clean_end_is_the_last_prediction() {
    // Others use their past answers there too, or one half-way.
    let extrapolate = ["plms", "pndm", "ipndm", "lms", "gradient", "midpoint"];
    for entry in SOLVERS.iter().filter(|e| !extrapolate.iter().any(|name| e.name.starts_with(name))) {
        let plan = Plan::descend(ddpm(), &[900.0, 500.0, 100.0], Final::Clean).unwrap();
        let (mut noise, model) = (SeededNoise(1), gaussian());
        let solver = entry.build();
        let last = sample(&plan, &*solver, &model, start(plan.start), &mut noise).last().unwrap().unwrap();
        assert!(distance(&last.x, &last.x0.unwrap()) < 1e-14, "{}", entry.name);
    }
}

#[test]
fn inversion_returns() {
    let schedule: Arc<dyn NoiseSchedule> = ddpm();
    let down = plan(&schedule, 200);
    let up = down.clone().inverted().unwrap();
    let x = start(down.start);
    for entry in deterministic() {
        let solver = entry.build();
        let back = end(&up, &*solver, &mixture(), &end(&down, &*solver, &mixture(), &x));
        let error = distance(&back, &x);
        let tolerance = [0.1, 5e-3, 1e-3, 2e-4][entry.order - 1];
        assert!(error < tolerance, "{}: {error:e}", entry.name);
    }
}

#[test]
fn clean_samples_are_inverted_too() {
    let mut levels = Spacing::UniformLambda.levels(&*ddpm(), 100).unwrap();
    levels.push(Level::CLEAN);
    let down = Plan::through(ddpm(), &levels).unwrap();
    let up = down.clone().inverted().unwrap();
    assert_eq!((up.start, up.moves.len()), (Level::CLEAN, 100));
    let x = vec![0.7, 0.9, 0.2];
    for entry in SOLVERS.iter().filter(|e| e.is_deterministic()) {
        let solver = entry.build();
        let back = end(&down, &*solver, &mixture(), &end(&up, &*solver, &mixture(), &x));
        let error = distance(&back, &x);
        println!("{:20} {error:.1e}", entry.name);
        let tolerance = if entry.order == 1 { 0.1 } else { 0.03 };
        assert!(error < tolerance, "{}: {error:e}", entry.name);
    }
}

#[test]
fn pure_noise_is_a_level_like_any() {
    let table = TableSchedule::linear(1000, 1e-4, 0.02).unwrap().rescale_zero_terminal_snr().unwrap();
    let schedules: [Arc<dyn NoiseSchedule>; 3] =
        [Arc::new(table), Arc::new(FlowSchedule::new()), Arc::new(CosineSchedule::new())];
    let data = gaussian();
    for schedule in schedules {
        let levels = |n| {
            let mut levels = Spacing::Trailing.levels(&*schedule, n).unwrap();
            levels.push(schedule.at_nsr(0.05));
            levels
        };
        let plan = Plan::through(schedule.clone(), &levels(400)).unwrap();
        assert_eq!(plan.start.alpha, 0.0);
        let x = start(plan.start);
        let exact = data.flow(&x, plan.start, schedule.at_nsr(0.05));
        for entry in SOLVERS.iter().filter(|e| e.is_deterministic()) {
            let error = distance(&end(&plan, &*entry.build(), &data, &x), &exact) / exact.rms();
            assert!(error < 0.03, "{} on {schedule:?}: {error:e}", entry.name);
        }
    }
}
