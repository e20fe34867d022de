//! Trains a preset, with values overridden by arguments like `run.minutes=2`, and prints its progress:
//!
//! ```sh
//! cargo run --release -p tweedie-train --example train -- tiny run.out=runs/mine
//! ```

#![allow(clippy::print_stdout)]

use tweedie_train::{ConfigBuilder, TrainError, TrainEvent, TrainLoop};

fn main() -> Result<(), TrainError> {
    let mut arguments = std::env::args().skip(1);
    let preset = arguments.next().unwrap_or_else(|| "tiny".into());
    let builder = arguments.try_fold(ConfigBuilder::preset(&preset)?, |b, a| b.set(&a))?;
    for event in TrainLoop::new(builder.build()?)? {
        match event? {
            TrainEvent::Step(s) if s.step.is_multiple_of(20) => {
                println!("step {:>6}  loss {:.4}  {:.1} images/s", s.step, s.loss, s.images_per_s);
            }
            TrainEvent::Step(_) => {}
            TrainEvent::Preview { path, .. } => println!("preview in {}", path.display()),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
