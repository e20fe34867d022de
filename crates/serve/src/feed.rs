//! The events of a job, for any number of readers.
//!
//! A reader holds a cursor and reads what was added since. The feed forgets old events, so a slow reader misses some of them
//! instead of using memory; it always gets the last one.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use crate::live::now;

/// Number of events that a feed remembers.
const MOST: usize = 256;
/// Bytes of previews among them.
const PREVIEWS: usize = 16 << 20;
/// How long previews are made after somebody asked for one.
const INTEREST: u64 = 5_000;

/// What an event reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The job was accepted.
    Queued,
    /// A step is finished.
    Step,
    /// An image of the denoising.
    Preview,
    /// A part of the sound of a text is made.
    Sound,
    /// A result is stored.
    Image,
    /// All results are stored. The last event.
    Finished,
    /// The job has failed. The last event.
    Failed,
    /// The job was cancelled. The last event.
    Cancelled,
}

impl Kind {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Step => "step",
            Self::Preview => "preview",
            Self::Sound => "sound",
            Self::Image => "image",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether no event follows.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number in the feed, from 1.
    pub id: u64,
    /// What it reports.
    pub kind: Kind,
    /// JSON.
    pub data: Arc<str>,
}

/// The events of one job.
#[derive(Debug)]
pub struct Feed {
    log: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
    watchers: AtomicUsize,
    /// When previews are no longer wanted, in milliseconds since 1970.
    wanted: AtomicU64,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            last: watch::Sender::new(0),
            watchers: AtomicUsize::new(0),
            wanted: AtomicU64::new(0),
        }
    }
}

impl Feed {
    /// Adds an event.
    pub fn push(&self, kind: Kind, data: &serde_json::Value) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let id = log.back().map_or(0, |event| event.id) + 1;
        log.push_back(Event { id, kind, data: data.to_string().into() });
        let bytes = |event: &Event| if event.kind == Kind::Preview { event.data.len() } else { 0 };
        let mut previews: usize = log.iter().map(bytes).sum();
        // The last one stays, however large it is.
        while previews > PREVIEWS
            && let Some(oldest) = log.iter().position(|event| event.kind == Kind::Preview && event.id < id)
        {
            previews -= log.remove(oldest).map_or(0, |event| bytes(&event));
        }
        if log.len() > MOST {
            log.pop_front();
        }
        drop(log);
        self.last.send_replace(id);
    }

    /// The events after number `seen`.
    pub fn after(&self, seen: u64) -> Vec<Event> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|event| event.id > seen).cloned().collect()
    }

    /// Whether somebody wants previews.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0 || now() < self.wanted.load(Ordering::Relaxed)
    }

    /// The last preview, if there is one. More are made for some seconds.
    pub fn preview(&self) -> Option<Event> {
        self.wanted.store(now() + INTEREST, Ordering::Relaxed);
        self.after(0).into_iter().rfind(|event| event.kind == Kind::Preview)
    }
}

/// A reader of a feed.
#[derive(Debug)]
pub struct Reader {
    feed: Arc<Feed>,
    seen: u64,
    last: watch::Receiver<u64>,
    previews: bool,
}

impl Reader {
    /// Reads the events after number `seen`.
    pub fn new(feed: &Arc<Feed>, seen: u64, previews: bool) -> Self {
        feed.watchers.fetch_add(usize::from(previews), Ordering::Relaxed);
        Self { feed: feed.clone(), seen, last: feed.last.subscribe(), previews }
    }

    /// Waits for events that were not read yet.
    pub async fn next(&mut self) -> Vec<Event> {
        loop {
            self.last.borrow_and_update();
            let events = self.feed.after(self.seen);
            if let Some(event) = events.last() {
                self.seen = event.id;
                let wanted = |event: &Event| self.previews || event.kind != Kind::Preview;
                let events: Vec<Event> = events.into_iter().filter(wanted).collect();
                if !events.is_empty() {
                    return events;
                }
                continue;
            }
            if self.last.changed().await.is_err() {
                return Vec::new();
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.watchers.fetch_sub(usize::from(self.previews), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_is_bounded_and_numbers_go_on() {
        let feed = Feed::default();
        let large = "x".repeat(PREVIEWS / 3);
        for i in 0..1000 {
            let kind = if i % 100 == 99 { Kind::Preview } else { Kind::Step };
            feed.push(kind, &json!({ "i": i, "large": if kind == Kind::Preview { &large } else { "" } }));
        }
        let events = feed.after(0);
        assert!(events.len() <= MOST);
        assert_eq!(events.iter().filter(|event| event.kind == Kind::Preview).count(), 2);
        assert_eq!(events.last().map(|event| event.id), Some(1000));
        assert_eq!(feed.after(998).iter().map(|event| event.id).collect::<Vec<_>>(), [999, 1000]);
        let huge = "x".repeat(2 * PREVIEWS);
        feed.push(Kind::Preview, &json!(huge));
        assert_eq!(feed.preview().map(|event| event.id), Some(1001));
    }
}
