//! Restorations through the pipeline: the measurement is met, answers do not depend on their batch, and a stored flight ends
//! at the same bits. The network is a golden one of `tweedie-hub`.

#![allow(clippy::unwrap_used)]

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use tweedie_hub::{Extras, ModelDir, SchedulerConfig};
use tweedie_ops::Batch;
use tweedie_pipe::{
    Image, Output, Pipeline, Request,
    flight::{Flight, Next},
    operators::{Convolution, Jpeg, Operator, bicubic, gaussian, grey},
};

fn pipeline() -> Pipeline {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/golden");
    let device = tweedie_ops::device("cpu").unwrap();
    let unet = ModelDir::open(&golden.join("ddpm")).unwrap().load_unet(&device).unwrap();
    let scheduler =
        r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "clip_sample": true}"#;
    let scheduler = SchedulerConfig::from_json(scheduler, Path::new("test")).unwrap();
    Pipeline::of_network(unet, scheduler, Extras::default(), &device)
}

struct Files(tempfile::TempDir);

impl Files {
    fn save(&self, name: &str, image: &Image) -> PathBuf {
        let path = self.0.path().join(name);
        image.save_png(&path).unwrap();
        path
    }
}

/// An image that is no constant.
fn picture(width: usize, height: usize, grey: bool) -> Image {
    let value = |i: usize| ((i * 37) % 200 + 30) as u8;
    let pixels = (0..width * height)
        .flat_map(|i| if grey { [value(i); 3] } else { [value(i), value(i * 3), value(i + 7)] });
    Image { width, height, pixels: pixels.collect() }
}

fn request(known: Value, method: &str, count: usize) -> Request {
    let mut known = known;
    known["method"] = json!(method);
    let count = NonZeroUsize::new(count).unwrap();
    Request {
        known: Some(serde_json::from_value(known).unwrap()),
        count,
        steps: NonZeroUsize::new(3),
        ..Default::default()
    }
}

fn run(pipeline: &Pipeline, request: &Request) -> Output {
    pipeline.run(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

const ALL: [&str; 6] = ["ddnm", "ddrm", "diffpir", "pigdm", "dps", "particles"];

/// Without noise, the results' own measurement is the given one, by every method.
#[test]
fn results_meet_the_measurement() {
    let pipeline = pipeline();
    let [height, width]: [usize; 2] = pipeline.native_size().unwrap().try_into().unwrap();
    let dims = [3, height, width];
    let files = Files(tempfile::tempdir().unwrap());
    let small = picture(width / 2, height / 2, false);
    let whole = picture(width, height, false);
    let colorless = picture(width, height, true);
    let kernel = Image {
        width: 3,
        height: 3,
        pixels: [0, 40, 0, 20, 200, 60, 0, 80, 10].iter().flat_map(|v| [*v; 3]).collect(),
    };
    let kernel_path = files.save("kernel.png", &kernel);
    let weights: Vec<f64> = kernel.pixels.iter().step_by(3).map(|v| f64::from(*v)).collect();
    let grey_plane = |image: &Image| image.to_planes()[..height * width].to_vec();
    type Case = (Value, PathBuf, Vec<f32>, Box<dyn Operator>, &'static [&'static str]);
    let cases: Vec<Case> = vec![
        (
            json!([{ "kind": "bicubic", "factor": 2 }]),
            files.save("small.png", &small),
            small.to_planes(),
            Box::new(bicubic(&dims, 2)),
            &ALL,
        ),
        (
            json!([{ "kind": "grey" }]),
            files.save("grey.png", &colorless),
            grey_plane(&colorless),
            Box::new(grey(&dims)),
            &ALL,
        ),
        (
            json!([{ "kind": "blur", "sigma": 0.6 }]),
            files.save("blur.png", &whole),
            whole.to_planes(),
            Box::new(gaussian(&dims, 0.6)),
            &["ddnm", "ddrm", "diffpir"],
        ),
        (
            json!([{ "kind": "kernel", "file": { "path": kernel_path } }]),
            files.save("kernel-blurred.png", &whole),
            whole.to_planes(),
            Box::new(Convolution::new(dims, [3, 3], &weights).unwrap()),
            &["ddnm", "diffpir", "pigdm", "particles"],
        ),
    ];
    for (degradations, path, y, operator, methods) in cases {
        for method in methods {
            let known = json!({ "image": { "path": path }, "degradations": degradations });
            let output = run(&pipeline, &request(known, method, 2));
            for row in output.tensors.values.chunks(3 * height * width) {
                let x: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
                let measured = operator.apply(&x);
                let error = measured.iter().zip(&y).map(|(a, b)| (a - f64::from(*b)).abs());
                let error = error.fold(0.0, |most: f64, e| if e > most || e.is_nan() { e } else { most });
                assert!(error <= 1e-6, "{method} {degradations}: {error}");
            }
            assert_eq!(output.edited.len(), 2);
            let picture = &output.edited[0].picture;
            assert_eq!((picture.width(), picture.height(), picture.channels()), (width, height, 3));
        }
    }
}

/// The coefficients of a JPEG stay in the intervals that are rounded to the file's.
#[test]
fn results_compress_to_the_same_file() {
    let pipeline = pipeline();
    // Whole blocks of chroma: at other sizes those at the border are continued differently.
    let [height, width] = [16, 16];
    let files = Files(tempfile::tempdir().unwrap());
    let jpeg = Jpeg::new([3, height, width], 30).unwrap();
    let original: Vec<f64> = (0..3 * height * width).map(|i| 0.5 * (i as f64 * 0.3).sin()).collect();
    let decoded: Vec<f32> = jpeg.apply(&original).iter().map(|v| *v as f32).collect();
    let path = files.save("decoded.png", &Image::from_planes(width, height, &decoded));
    let known = json!({ "image": { "path": path }, "degradations": [{ "kind": "jpeg", "quality": 30 }] });
    let output = run(&pipeline, &request(known, "ddnm", 1));
    let x: Vec<f64> = output.tensors.values.iter().map(|v| f64::from(*v)).collect();
    let again = jpeg.apply(&x);
    let rms = |other: &[f64]| {
        (other.iter().zip(&decoded).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum::<f64>()
            / other.len() as f64)
            .sqrt()
    };
    // The file has whole bytes, and chroma is not fine, so a few coefficients are rounded differently.
    assert!(rms(&again) < 4.0 / 127.5, "{}", rms(&again) * 127.5);
    assert!(
        x.iter().zip(&decoded).any(|(a, b)| (a - f64::from(*b)).abs() > 0.01),
        "it is not the input itself"
    );
}

#[test]
fn answers_do_not_depend_on_their_batch() {
    let pipeline = pipeline();
    let [height, width]: [usize; 2] = pipeline.native_size().unwrap().try_into().unwrap();
    let files = Files(tempfile::tempdir().unwrap());
    let small = files.save("small.png", &picture(width / 2, height / 2, false));
    let whole = files.save("whole.png", &picture(width, height, false));
    let shrunk = json!({ "image": { "path": small }, "degradations": [{ "kind": "bicubic", "factor": 2 }], "noise": 4 });
    let hole = json!({ "image": { "path": whole }, "mask": { "rectangles": [[2, 2, 3, 4]] } });
    for (known, methods) in [(&shrunk, &ALL[..5]), (&hole, &["replacement", "repaint=1,2", "ddnm", "dps"])] {
        for method in methods {
            let all = request(known.clone(), method, 3);
            let together = run(&pipeline, &all).tensors;
            let single = run(&pipeline, &Request { chunk: NonZeroUsize::new(1), ..all }).tensors;
            assert_eq!(together.values, single.values, "{method}");
            assert!(
                together.values[..3 * height * width]
                    != together.values[3 * height * width..][..3 * height * width]
            );
        }
    }
}

/// A flight that is stored between a prediction with its gradient and the next ends at the same bits.
#[test]
fn stored_flights_go_on() {
    let pipeline = pipeline();
    let [height, width]: [usize; 2] = pipeline.native_size().unwrap().try_into().unwrap();
    let files = Files(tempfile::tempdir().unwrap());
    let small = files.save("small.png", &picture(width / 2, height / 2, false));
    let known = json!({ "image": { "path": small }, "degradations": [{ "kind": "bicubic", "factor": 2 }] });
    for method in ["pigdm", "particles"] {
        let job = Arc::new(pipeline.prepare(&request(known.clone(), method, 2)).unwrap());
        // Until it is done, or has been polled `stop` times.
        let fly = |mut flight: Flight, stop: usize| -> (Option<Batch>, Flight) {
            for _ in 0..stop {
                match flight.poll().unwrap() {
                    Next::Ask(call) => flight.supply(call.forward(job.network()).unwrap()).unwrap(),
                    Next::Step(_) => {}
                    Next::Done(x) => return (Some(x), flight),
                }
            }
            (None, flight)
        };
        let whole = fly(Flight::new(&job, 0..2), 1000).0.unwrap().to_host();
        for stop in [1, 2, 3] {
            let (None, halfway) = fly(Flight::new(&job, 0..2), stop) else { panic!("it is done") };
            let text = serde_json::to_string(&halfway.state()).unwrap();
            let resumed = Flight::resume(&job, serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(fly(resumed, 1000).0.unwrap().to_host(), whole, "{method} after {stop}");
        }
    }
}
