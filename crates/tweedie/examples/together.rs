//! Two requests with other steps, solvers, guidance and classes are driven together and share calls of the network. Halfway,
//! a third is stored in a file, and a second process resumes it:
//!
//! ```sh
//! cargo run --release --example together                # writes together-0.png, together-1.png and stored.json
//! cargo run --release --example together -- stored.json # writes resumed.png
//! ```
//!
//! Every image is compared with the one that its request makes alone: they have the same bits.

#![allow(clippy::print_stdout)]

use std::{error::Error, fs, ops::ControlFlow, path::Path, sync::Arc};

use tweedie::{
    library, ops,
    pipe::{
        Job, Output, Pipeline, Request,
        flight::{Flight, FlightState},
        together::{Progress, Together},
    },
};

fn requests() -> [Request; 3] {
    let json = [
        r#"{"classes": ["cat-face"], "steps": 20, "solver": "dpmpp-2m", "guidance": 2, "seed": 1}"#,
        r#"{"classes": ["plant-flower"], "steps": 9, "solver": "ddpm", "guidance": 1, "seed": 2, "count": 2}"#,
        r#"{"classes": ["food-fruit"], "steps": 15, "solver": "unipc", "guidance": 3, "seed": 3}"#,
    ];
    json.map(|text| serde_json::from_str(text).expect("a valid request"))
}

/// Outputs by the number of their flight, and a flight that was taken out.
type Driven = (Vec<(u64, Output)>, Option<Flight>);

/// Drives all flights to their end; returns the output of each, and what is left of the `kept` one after five turns.
fn drive(flights: Vec<Flight>, kept: Option<u64>) -> Result<Driven, Box<dyn Error>> {
    let jobs: Vec<Arc<Job>> = flights.iter().map(|flight| flight.job().clone()).collect();
    let mut together = Together::new(16);
    let numbers: Vec<u64> = flights.into_iter().map(|flight| together.add(flight)).collect();
    let (mut outputs, mut left, mut turns) = (Vec::new(), None, 0);
    while !together.is_empty() {
        turns += 1;
        for (number, progress) in together.turn() {
            match progress {
                Progress::Step(_) => {}
                Progress::Failed(error) => return Err(error.into()),
                Progress::Done(samples) => {
                    let job = &jobs[numbers.iter().position(|n| *n == number).ok_or("an unknown flight")?];
                    outputs.push((number, Output::of(job, vec![job.decode(&samples)?], 0)));
                }
            }
        }
        if let (5, Some(number)) = (turns, kept) {
            left = together.remove(number);
        }
    }
    println!("{} network calls", together.calls());
    Ok((outputs, left))
}

/// Saves the image, after a comparison with the one that the request makes alone.
fn save(pipeline: &Pipeline, request: &Request, output: &Output, name: &str) -> Result<(), Box<dyn Error>> {
    let alone = pipeline.run(request, &mut |_| ControlFlow::Continue(()))?;
    if alone.tensors != output.tensors {
        return Err(format!("{name} differs from the image that its request makes alone").into());
    }
    output.images[0].save_png(name)?;
    println!("{name}: the same bits as alone");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = ops::device("cpu")?;
    let pipeline = library::load("emoji-32".as_ref(), &Default::default(), &device)?;
    let requests = requests();
    let job = |request: &Request| pipeline.prepare(request).map(Arc::new);
    if let Some(path) = std::env::args().nth(1) {
        let state: FlightState = serde_json::from_str(&fs::read_to_string(Path::new(&path))?)?;
        let (outputs, _) = drive(vec![Flight::resume(&job(&requests[2])?, state)?], None)?;
        return save(&pipeline, &requests[2], &outputs[0].1, "resumed.png");
    }
    let mut flights = Vec::new();
    for request in &requests {
        flights.push(Flight::new(&job(request)?, 0..request.count.get()));
    }
    let (mut outputs, left) = drive(flights, Some(3))?;
    outputs.sort_by_key(|(number, _)| *number);
    for (i, (_, output)) in outputs.iter().enumerate() {
        save(&pipeline, &requests[i], output, &format!("together-{i}.png"))?;
    }
    let left = left.ok_or("the third flight ended too soon")?;
    fs::write("stored.json", serde_json::to_string(&left.state())?)?;
    println!("stored.json: the third request after five of its evaluations");
    Ok(())
}
