//! Plans started at a later step, as in image-to-image pipelines.

use super::{AnySolver, Uncorrected, UniPc};
use crate::{level::Level, plan::Plan};

impl AnySolver {
    /// The plan without its first `step` solver steps, and the solver that runs the rest like diffusers: there, some
    /// solvers count steps from the start of the whole plan. `None` if no step remains.
    pub fn begun_at(&self, plan: &Plan, step: usize) -> Option<(Plan, Self)> {
        let starts = plan.solve_starts();
        let mut solver = self.clone();
        match &mut solver {
            Self::StridedPndm(pndm) => {
                if let Some(begun) = pndm.begun_at(plan, step) {
                    return Some(begun);
                }
            }
            Self::DpmGrouped(grouped) => grouped.steps = Some(starts.len()),
            Self::UniPc(UniPc { uncorrected: Uncorrected::Steps(bits), .. }) => {
                *bits = bits.checked_shr(step as u32).unwrap_or(0);
            }
            Self::Lms(lms) => {
                let skipped: Vec<Level> = starts.iter().take(step).map(|(_, level)| *level).collect();
                *lms = lms.begun_after(&skipped);
            }
            _ => {}
        }
        Some((plan.clone().begun_at(step)?, solver))
    }
}
