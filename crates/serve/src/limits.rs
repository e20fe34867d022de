//! Limits of requests.

use tweedie_pipe::{Job, Request};

use crate::{Fault, config::Limits, order::Priority};

/// Checks requests against the limits.
#[derive(Clone, Debug)]
pub struct Limiter(pub Limits);

impl Limiter {
    /// Checks what can be known without the model.
    ///
    /// # Errors
    /// [`Fault`] naming the field and the limit.
    pub fn check(&self, request: &Request, priority: Priority) -> Result<(), Fault> {
        let limits = &self.0;
        let over = |field: &str, value: usize, most: usize| match value > most {
            true => Err(Fault::field(field, format!("{value}: this server allows at most {most}"))),
            false => Ok(()),
        };
        over("count", request.count.get(), limits.count)?;
        over("steps", request.steps.map_or(0, std::num::NonZeroUsize::get), limits.steps)?;
        if let Some(size) = &request.size {
            self.check_pixels(request.count.get(), size)?;
        }
        if priority == Priority::High && !limits.high_priority {
            return Err(Fault::field("priority", "this server does not allow `high`"));
        }
        Ok(())
    }

    /// Checks a job with the model's defaults.
    ///
    /// # Errors
    /// [`Fault`] naming the field and the limit.
    pub fn check_job(&self, job: &Job) -> Result<(), Fault> {
        let (steps, most) = (job.recipe().plan.solves(), self.0.steps);
        if steps > most {
            return Err(Fault::field("steps", format!("{steps}: this server allows at most {most}")));
        }
        self.check_pixels(job.count(), &job.result_size())
    }

    fn check_pixels(&self, count: usize, size: &[usize]) -> Result<(), Fault> {
        let pixels = size.iter().try_fold(count, |all, side| all.checked_mul(*side));
        if pixels.is_some_and(|pixels| pixels <= self.0.pixels) {
            return Ok(());
        }
        let sides: Vec<String> = size.iter().map(usize::to_string).collect();
        let reason = format!(
            "{count} × {} pixels: this server allows at most {} in one request",
            sides.join(" × "),
            self.0.pixels
        );
        Err(Fault::field("size", reason))
    }
}
