//! Whole runs on another device than the CPU end at the CPU's samples up to rounding, from the same noise. The device is that
//! of the environment variable `TWEEDIE_TEST_DEVICE`; without it, layers are composed on the CPU as on other devices.

#![allow(clippy::unwrap_used)]

use std::{env, num::NonZeroUsize, ops::ControlFlow, path::Path};

use tweedie_hub::{Extras, ModelDir, SchedulerConfig};
use tweedie_ops::{Device, of_primitives};
use tweedie_pipe::{Output, Pipeline, PipelineError, Request};

/// Largest difference, relative to the root mean square of the samples.
const TOLERANCE: f64 = 5e-4;

/// A small class-conditional network of diffusers.
fn pipeline(device: &Device) -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/golden/classes");
    let scheduler = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}"#;
    let scheduler = SchedulerConfig::from_json(scheduler, Path::new("test")).unwrap();
    let extras = Extras { null_class: Some(4), ..Default::default() };
    let network = ModelDir::open(&folder).unwrap().load_unet(device).unwrap();
    Pipeline::of_network(network, scheduler, extras, device)
}

fn request(solver: &str, guidance: f64) -> Request {
    Request {
        count: NonZeroUsize::new(3).unwrap(),
        steps: NonZeroUsize::new(8),
        solver: Some(solver.into()),
        guidance: Some(guidance),
        classes: Some(vec!["2".parse().unwrap()]),
        seed: 7,
        ..Default::default()
    }
}

fn run(pipeline: &Pipeline, request: &Request, mut steps: usize) -> Result<Output, PipelineError> {
    pipeline.run(request, &mut |_| match steps {
        0 => ControlFlow::Break(()),
        _ => {
            steps -= 1;
            ControlFlow::Continue(())
        }
    })
}

fn other() -> Option<Device> {
    env::var("TWEEDIE_TEST_DEVICE").ok().map(|name| tweedie_ops::device(&name).unwrap())
}

#[test]
fn samples_are_those_of_the_cpu() {
    let cpu = pipeline(&tweedie_ops::device("cpu").unwrap());
    let there = other().map(|device| pipeline(&device));
    for (solver, guidance) in [("euler", 1.0), ("dpmpp-2m", 3.0), ("euler-ancestral", 2.0), ("heun", 1.5)] {
        let request = request(solver, guidance);
        let want = run(&cpu, &request, usize::MAX).unwrap().tensors;
        let got = match &there {
            Some(pipeline) => run(pipeline, &request, usize::MAX),
            None => of_primitives(|| run(&cpu, &request, usize::MAX)),
        };
        let got = got.unwrap().tensors;
        assert_eq!(got.shape, want.shape);
        let rms =
            (want.values.iter().map(|v| f64::from(v * v)).sum::<f64>() / want.values.len() as f64).sqrt();
        let differences = got.values.iter().zip(&want.values).map(|(g, w)| f64::from((g - w).abs()) / rms);
        let worst = differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst });
        println!("{solver}, guidance {guidance}: {worst:.1e} of RMS");
        assert!(worst > 0.0 && worst < TOLERANCE, "{solver}, guidance {guidance}: off by {worst:.1e} of RMS");
    }
}

/// A run that is stopped leaves the device usable.
#[test]
fn a_run_can_be_stopped() {
    let device = other().unwrap_or_else(|| tweedie_ops::device("cpu").unwrap());
    let pipeline = pipeline(&device);
    let request = request("euler", 1.0);
    assert!(matches!(run(&pipeline, &request, 2), Err(PipelineError::Cancelled)));
    assert!(run(&pipeline, &request, usize::MAX).is_ok());
}
