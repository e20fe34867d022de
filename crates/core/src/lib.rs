//! The mathematics of diffusion models, without a tensor library.
//!
//! A sampler consists of three independent parts: a [`Plan`] lists the noise [`Level`]s to visit and where to add
//! noise, a [`Solver`] goes from one level to the next, and a [`Denoiser`] predicts the clean sample, which is
//! Tweedie's formula `E[x0 | x_t]`. [`sample`] is the loop that combines them.
//!
//! Scalars are `f64` and make all decisions; a [`Vector`] is only ever combined linearly. So everything here
//! can be tested on plain slices of numbers against exact denoisers.
//!
//! ```
//! use std::sync::Arc;
//! use tweedie_core::{
//!     Plan, noise::{INITIAL, Noise, SeededNoise}, oracle::Gaussian, plan::Final, sample,
//!     schedule::TableSchedule, solver, spacing,
//! };
//! let data = Gaussian::new(vec![1.0, -1.0], vec![0.01, 0.01])?;
//! let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02)?);
//! let plan = Plan::descend(schedule, &spacing::trailing(1000, 20)?, Final::Clean)?;
//! let solver = solver::solver("dpmpp-2m").expect("a name of solver::SOLVERS");
//! let mut noise = SeededNoise(7);
//! let start = noise.normal(&vec![0.0; 2], INITIAL);
//! let x = sample(&plan, &*solver, &data, start, &mut noise).finish()?;
//! assert!((x[0] - 1.0).abs() < 0.5 && (x[1] + 1.0).abs() < 0.5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bound;
pub mod brownian;
pub mod forward;
pub mod level;
pub mod noise;
pub mod oracle;
pub mod phi;
pub mod plan;
pub mod predict;
pub mod schedule;
pub mod solver;
pub mod spacing;
mod special;
pub mod trajectory;
pub mod tune;
pub mod vector;

pub use level::Level;
pub use plan::{Move, Plan};
pub use predict::{Denoiser, Halt, Parameterization, Prediction};
pub use schedule::NoiseSchedule;
pub use solver::Solver;
pub use trajectory::{Moment, Poll, Trajectory, sample};
pub use vector::Vector;
