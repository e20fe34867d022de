//! What steps need, prepared ahead by a thread of its own.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use crate::{error::TrainError, run::StopHandle};

/// How often a wait looks whether the run is to end.
const GLANCE: Duration = Duration::from_millis(100);

type Make<T> = dyn Fn(u64) -> Result<T, TrainError> + Send + Sync;

/// The steps' items in order, up to two steps ahead of their use. The thread starts at first use.
pub(crate) struct Prefetch<T> {
    name: &'static str,
    make: Arc<Make<T>>,
    running: Option<Running<T>>,
}

struct Running<T> {
    receiver: mpsc::Receiver<Result<T, TrainError>>,
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
    /// What making it returned; [`TrainError::Stopped`] if `stop` is requested before it is there; or when the system
    /// refuses a thread.
    pub fn at(&mut self, done: u64, stop: &StopHandle) -> Result<T, TrainError> {
        if self.running.as_ref().is_none_or(|r| r.next != done) {
            self.running = None;
            self.running = Some(Running::start(self.name, self.make.clone(), done)?);
        }
        let ended = || TrainError::DataThread("it ended before the run did".into());
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
        // It ends by itself when nobody receives. It is not waited for: an item may take long.
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
