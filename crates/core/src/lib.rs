//! The mathematics of diffusion models, without a tensor library.
//!
//! A sampler is three independent things: a [`Plan`](plan::Plan) says which noise
//! [`Level`](level::Level)s to visit and where to add noise, a [`Solver`](solver::Solver) goes from
//! one level to the next, and a [`Denoiser`](predict::Denoiser) answers "what is clean here?", which
//! is Tweedie's formula `E[x0 | x_t]`. [`trajectory::sample`] is the one loop that joins them.
//!
//! Scalars are `f64` and decide everything; whatever implements [`Vector`](vector::Vector) is only
//! ever combined linearly, so all of this is tested on plain numbers against exact denoisers.

pub mod forward;
pub mod level;
pub mod noise;
pub mod oracle;
pub mod plan;
pub mod predict;
pub mod schedule;
pub mod solver;
pub mod spacing;
mod special;
pub mod trajectory;
pub mod vector;

pub use level::Level;
pub use plan::{Move, Plan};
pub use predict::{Denoiser, Halt, Parameterization, Prediction};
pub use schedule::NoiseSchedule;
pub use solver::Solver;
pub use trajectory::{Moment, Trajectory, sample};
pub use vector::Vector;
