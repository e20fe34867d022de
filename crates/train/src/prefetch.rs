//! Prepares the data of steps ahead on a separate thread.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use crate::{error::TrainError, run::StopHandle};

/// Interval at which a waiting call checks for a stop request.
const GLANCE: Duration = Duration::from_millis(100);

type Make<T> = dyn Fn(u64) -> Result<T, TrainError> + Send + Sync;

/// The items of steps in order, up to two steps ahead. The thread starts at the first use.
pub(crate) struct Prefetch<T> {
    name: &'static str,
    make: Arc<Make<T>>,
    running: Option<Running<T>>,
}

struct Running<T> {
    receiver: mpsc::Receiver<Result<T, TrainError>>,
    /// The next step.
    next: u64,
}

impl<T: Send + 'static> Prefetch<T> {
    /// `make` returns the item of the step after a number of steps, a pure function; the thread is called `name`.
    pub fn new(
        name: &'static str,
        make: impl Fn(u64) -> Result<T, TrainError> + Send + Sync + 'static,
    ) -> Self {
        Self { name, make: Arc::new(make), running: None }
    }

    /// The item of the step after `done` steps.
    ///
    /// # Errors
    /// Those of making the item; [`TrainError::Stopped`] if `stop` is requested before it is ready; or if no thread can be started.
    pub fn at(&mut self, done: u64, stop: &StopHandle) -> Result<T, TrainError> {
        if self.running.as_ref().is_none_or(|r| r.next != done) {
            self.running = None;
            self.running = Some(Running::start(self.name, self.make.clone(), done)?);
        }
        let ended = || TrainError::DataThread("it ended before the run".into());
        let running = self.running.as_mut().ok_or_else(ended)?;
        loop {
            match running.receiver.recv_timeout(GLANCE) {
                Ok(item) => {
                    running.next += 1;
                    return item;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
                Err(RecvTimeoutError::Timeout) if stop.is_requested() => return Err(TrainError::Stopped),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
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
        // The thread ends when the receiver is dropped. Nothing waits for it, because an item may take long.
        std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(|e| TrainError::DataThread(e.to_string()))?;
        Ok(Self { receiver, next: done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_from_any_step() {
        let stop = StopHandle::default();
        let mut items = Prefetch::new("test", |step| match step {
            9 => Err(TrainError::DataThread("nine".into())),
            step => Ok(step * step),
        });
        let squares: Vec<u64> = [3, 4, 5, 2, 3, 8].map(|s| items.at(s, &stop).unwrap()).into();
        assert_eq!(squares, [9, 16, 25, 4, 9, 64]);
        assert!(items.at(9, &stop).unwrap_err().to_string().contains("nine"));
    }
    #[test]
    fn a_stop_does_not_wait_for_an_item() {
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let mut items = Prefetch::new("test", move |step| {
            let _ = held.lock().unwrap().recv();
            Ok(step)
        });
        let stop = StopHandle::default();
        stop.request();
        assert!(matches!(items.at(0, &stop), Err(TrainError::Stopped)));
        drop(release);
        assert_eq!(items.at(0, &stop).unwrap(), 0);
    }
}
