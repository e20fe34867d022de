//! Jobs that share network calls end at the bits of each job alone; so do stored and resumed ones.

#![allow(clippy::unwrap_used)]

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use tweedie_hub::{Extras, ModelDir, SchedulerConfig};
use tweedie_pipe::{
    Job, Pipeline, Request,
    flight::{Flight, FlightState},
    together::{Progress, Together},
};
use tweedie_system::ranks::{Ranks, Threads};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/golden")
}

fn pipeline() -> Pipeline {
    let device = Device::flex();
    let folder = ModelDir::open(&golden().join("classes")).unwrap();
    let scheduler = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}"#;
    let scheduler = SchedulerConfig::from_json(scheduler, Path::new("test")).unwrap();
    let extras = Extras { null_class: Some(4), ..Default::default() };
    Pipeline::of_network(folder.load_unet(&device).unwrap(), scheduler, extras, &device)
}

fn request(count: usize, steps: usize, solver: &str, guidance: f64, class: usize) -> Request {
    Request {
        count: NonZeroUsize::new(count).unwrap(),
        steps: NonZeroUsize::new(steps),
        solver: Some(solver.into()),
        guidance: Some(guidance),
        classes: Some(vec![class.to_string().parse().unwrap()]),
        seed: steps as u64,
        ..Default::default()
    }
}

fn job(pipeline: &Pipeline, request: &Request) -> Arc<Job> {
    Arc::new(pipeline.prepare(request).unwrap())
}

fn alone(pipeline: &Pipeline, request: &Request) -> Vec<f32> {
    let job = pipeline.prepare(request).unwrap();
    job.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(())).unwrap().tensors.values
}

fn flight(pipeline: &Pipeline, request: &Request) -> Flight {
    Flight::new(&job(pipeline, request), 0..request.count.get())
}

#[test]
fn requests_of_all_kinds_share_calls_and_keep_their_bits() {
    let pipeline = pipeline();
    let requests = [
        request(2, 7, "dpmpp-2m", 3.0, 1),
        request(3, 4, "heun", 1.0, 0),
        request(1, 9, "ddpm", 2.0, 3),
        request(1, 5, "unipc", 0.0, 2),
    ];
    let cancelled = request(2, 8, "euler", 2.5, 2);
    let stored = request(2, 10, "dpmpp-3m", 1.5, 1);
    let evaluations: usize =
        requests.iter().chain([&stored]).map(|r| job(&pipeline, r).recipe().plan.solves()).sum();

    let mut together = Together::new(0);
    let numbers: Vec<u64> = requests.iter().map(|r| together.add(flight(&pipeline, r))).collect();
    let gone = together.add(flight(&pipeline, &cancelled));
    let paused = together.add(flight(&pipeline, &stored));
    let mut ends: Vec<(u64, Vec<f32>)> = Vec::new();
    let mut kept: Option<String> = None;
    let mut turns = 0;
    while !together.is_empty() {
        turns += 1;
        for (number, progress) in together.turn() {
            match progress {
                Progress::Done(samples) => ends.push((number, samples.to_host())),
                Progress::Failed(error) => panic!("{error}"),
                Progress::Step(_) => {}
            }
        }
        if turns == 3 {
            assert!(together.remove(gone).is_some());
            let state = together.remove(paused).unwrap().state();
            kept = Some(serde_json::to_string(&state).unwrap());
        }
    }
    for (request, number) in requests.iter().zip(numbers) {
        let found = ends.iter().find(|(n, _)| *n == number).unwrap();
        assert_eq!(found.1, alone(&pipeline, request), "{request:?}");
    }
    assert!(ends.iter().all(|(number, _)| ![gone, paused].contains(number)));
    // The flights were in the same calls: the longest has nine steps, Heun two evaluations in each but the last.
    assert!(together.calls() <= 11 && together.calls() < evaluations, "{} {evaluations}", together.calls());

    // In another process the job is prepared anew.
    let state: FlightState = serde_json::from_str(&kept.unwrap()).unwrap();
    let mut resumed = Together::new(4);
    let number = resumed.add(Flight::resume(&job(&pipeline, &stored), state).unwrap());
    let mut end = None;
    while !resumed.is_empty() {
        for (found, progress) in resumed.turn() {
            assert_eq!(found, number);
            if let Progress::Done(samples) = progress {
                end = Some(samples.to_host());
            }
        }
    }
    assert_eq!(end.unwrap(), alone(&pipeline, &stored));
}

#[test]
fn a_state_of_another_job_is_refused() {
    let pipeline = pipeline();
    let mut flight = flight(&pipeline, &request(2, 6, "heun", 2.0, 1));
    let call = match flight.poll().unwrap() {
        tweedie_pipe::flight::Next::Ask(call) => call,
        other => panic!("{other:?}"),
    };
    flight.supply(call.forward(pipeline.network()).unwrap()).unwrap();
    let state = flight.state();
    let error = |request: &Request| {
        Flight::resume(&job(&pipeline, request), state.clone()).err().map(|e| e.to_string())
    };
    assert_eq!(error(&request(2, 6, "heun", 2.0, 1)), None);
    assert!(error(&request(1, 6, "heun", 2.0, 1)).unwrap().contains("images"));
    // A damaged file: one sample of two.
    let mut json = serde_json::to_value(&state).unwrap();
    json["rows"]["end"] = 1.into();
    let damaged: FlightState = serde_json::from_value(json).unwrap();
    let damaged = Flight::resume(&job(&pipeline, &request(2, 6, "heun", 2.0, 1)), damaged);
    assert!(damaged.err().unwrap().to_string().contains("not 1 samples of shape 3×8×8"));
}

#[test]
fn calls_have_at_most_as_many_rows_as_asked_for() {
    let pipeline = pipeline();
    let mut together = Together::new(4);
    for seed in 0..5 {
        together.add(flight(&pipeline, &Request { seed, ..request(2, 2, "euler", 1.0, 0) }));
    }
    let done = together.turn();
    assert_eq!(together.calls(), 3);
    // Steps are reported at once, not after the next evaluation.
    assert_eq!(done.iter().filter(|(_, progress)| matches!(progress, Progress::Step(_))).count(), 5);
}

/// Images of an adaptive solver have step sizes of their own, and share the calls.
#[test]
fn adaptive_rows_are_those_of_each_alone() {
    let pipeline = pipeline();
    let adaptive = tweedie_core::solver::SOLVERS.iter().find(|entry| entry.adaptive).unwrap().name;
    let many = alone(&pipeline, &request(5, 4, adaptive, 2.0, 1));
    let one = alone(&pipeline, &request(1, 4, adaptive, 2.0, 1));
    assert_eq!(many[..one.len()], one);
    let chunked = Request { chunk: NonZeroUsize::new(4), ..request(5, 4, adaptive, 2.0, 1) };
    assert_eq!(alone(&pipeline, &chunked), many);
}

#[test]
fn ranks_share_a_job_and_the_first_gets_the_same_images() {
    let pipeline = pipeline();
    let request = |count| Request { chunk: NonZeroUsize::new(2), ..request(count, 3, "ddpm", 2.0, 1) };
    let never = AtomicBool::new(false);
    // With fewer images than ranks, too; rank 2 of the last case asks for something else.
    for (count, ranks, differ) in [(5, 2, false), (2, 3, false), (3, 3, true)] {
        let expected = alone(&pipeline, &request(count));
        let found: Vec<_> = std::thread::scope(|scope| {
            let all = Threads::all(ranks).into_iter().map(|ranks| {
                let other = usize::from(differ && ranks.rank() == 2);
                let job = pipeline.prepare(&request(count + other)).unwrap();
                let never = &never;
                scope.spawn(move || job.run_on(&ranks, never, &mut |_| ControlFlow::Continue(())))
            });
            let all: Vec<_> = all.collect();
            all.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (rank, found) in found.into_iter().enumerate() {
            match found {
                Ok(Some(output)) if rank == 0 => {
                    assert!(output.tensors.values == expected, "{count} on {ranks}")
                }
                Ok(output) => assert!(!differ && output.is_none()),
                Err(error) => {
                    let expected = "rank 2: its program, model or request differs from that of rank 0";
                    assert!(differ && error.to_string() == expected, "{error}");
                }
            }
        }
    }
}

#[test]
fn what_fails_on_one_rank_is_told_to_all() {
    let pipeline = pipeline();
    let request = request(4, 3, "ddim", 2.0, 1);
    let found: Vec<_> = std::thread::scope(|scope| {
        let all = Threads::all(2).into_iter().map(|ranks| {
            let job = pipeline.prepare(&request).unwrap();
            let cancelled = AtomicBool::new(ranks.rank() == 1);
            scope.spawn(move || job.run_on(&ranks, &cancelled, &mut |_| ControlFlow::Continue(())))
        });
        let all: Vec<_> = all.collect();
        all.into_iter().map(|rank| rank.join().unwrap().unwrap_err().to_string()).collect()
    });
    assert_eq!(found, ["rank 1: cancelled", "cancelled"]);
}
