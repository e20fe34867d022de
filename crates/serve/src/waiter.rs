//! For APIs that answer with the result: waits for a job, and cancels it if the client vanishes.

use std::sync::Arc;

use crate::{
    Fault,
    desk::stopped,
    feed::{Event, Reader},
    journal::Record,
    live::{Heard, Live},
    service::{Service, blocking},
};

/// Somebody who waits for a job.
pub struct Waiter {
    service: Arc<Service>,
    live: Arc<Live>,
    reader: Reader,
    /// Whether nobody else waits for it.
    own: bool,
}

impl Waiter {
    /// Waits for a job, which is this client's `own` unless an earlier request made it. With `previews`, they are made and
    /// returned by [`Self::events`].
    pub fn new(service: &Arc<Service>, live: Arc<Live>, own: bool, previews: bool) -> Self {
        let reader = Reader::new(&live.feed, 0, previews);
        Self { service: service.clone(), live, reader, own }
    }

    /// How the job ended, if it did.
    pub fn outcome(&self) -> Option<Result<(), Fault>> {
        self.live.outcome()
    }

    /// The sound of its text from byte number `from` on.
    pub fn heard(&self, from: usize) -> Heard {
        self.live.heard(from)
    }

    /// The next events of the job, the last one included.
    ///
    /// # Errors
    /// If the server stops before.
    pub async fn events(&mut self) -> Result<Vec<Event>, Fault> {
        tokio::select! {
            events = self.reader.next() => Ok(events),
            () = self.service.stop.wait() => Err(stopped()),
        }
    }

    /// The job at its end.
    ///
    /// # Errors
    /// Why it has failed, or if the server stops before.
    pub async fn record(mut self) -> Result<Record, Fault> {
        while self.live.outcome().is_none() {
            self.events().await?;
        }
        self.live.outcome().unwrap_or_else(|| Err(stopped()))?;
        let (journal, id) = (self.service.journal.clone(), self.live.order.id.clone());
        blocking(move || journal.find(&id)).await??.ok_or_else(|| Fault::missing("the job was deleted"))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A job that is interrupted because the server stops goes on later.
        if self.own && self.live.outcome().is_none() && !self.service.stop.is_set() {
            self.service.drop_job(&self.live);
        }
    }
}
