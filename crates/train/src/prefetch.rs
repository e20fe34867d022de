//! What steps need, prepared ahead by a thread of its own.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use crate::error::TrainError;

type Make<T> = dyn Fn(u64) -> Result<T, TrainError> + Send + Sync;

/// The steps' items in order, up to two steps ahead of their use. The thread starts at first use.
pub(crate) struct Prefetch<T> {
    name: &'static str,
    make: Arc<Make<T>>,
    running: Option<Running<T>>,
}

struct Running<T> {
    receiver: Option<mpsc::Receiver<Result<T, TrainError>>>,
    thread: Option<JoinHandle<()>>,
    /// The step that comes next.
    next: u64,
}

impl<T: Send + 'static> Prefetch<T> {
    /// `make` gives the item of the step after so many others, a pure function; the thread is called `name`.
    pub fn new(
        name: &'static str,
        make: impl Fn(u64) -> Result<T, TrainError> + Send + Sync + 'static,
    ) -> Self {
        Self { name, make: Arc::new(make), running: None }
    }

    /// The item of the step after `done` others.
    ///
    /// # Errors
    /// What making it returned, or when the system refuses a thread.
    pub fn at(&mut self, done: u64) -> Result<T, TrainError> {
        if self.running.as_ref().is_none_or(|r| r.next != done) {
            self.running = None;
            self.running = Some(Running::start(self.name, self.make.clone(), done)?);
        }
        let ended = || TrainError::DataThread("it ended before the run did".into());
        let running = self.running.as_mut().ok_or_else(ended)?;
        running.next += 1;
        running.receiver.as_ref().ok_or_else(ended)?.recv().map_err(|_| ended())?
    }
}

impl<T: Send + 'static> Running<T> {
    fn start(name: &str, make: Arc<Make<T>>, done: u64) -> Result<Self, TrainError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let work = move || {
            for step in done.. {
                let item = make(step);
                let failed = item.is_err();
                if sender.send(item).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(|e| TrainError::DataThread(e.to_string()))?;
        Ok(Self { receiver: Some(receiver), thread: Some(thread), next: done })
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        // The thread ends when nobody receives.
        drop(self.receiver.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_from_any_step() {
        let mut items = Prefetch::new("test", |step| match step {
            9 => Err(TrainError::DataThread("nine".into())),
            step => Ok(step * step),
        });
        let squares: Vec<u64> = [3, 4, 5, 2, 3, 8].map(|s| items.at(s).unwrap()).into();
        assert_eq!(squares, [9, 16, 25, 4, 9, 64]);
        assert!(items.at(9).unwrap_err().to_string().contains("nine"));
    }
}
