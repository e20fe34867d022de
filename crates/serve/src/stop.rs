//! The end of the server.

use std::sync::Arc;

use tokio::sync::watch;

/// Stops a server, from any thread.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// The server accepts nothing more, stores what is running, and ends.
    pub fn now(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was stopped.
    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is stopped.
    pub(crate) async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}
