//! Ranks as threads of one process, connected by channels: for tests of everything that runs on several ranks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

use super::{Exchange, Parts, Ranks, Unreachable};

/// A part, and the number of its exchange.
type Message = (u64, Vec<u8>);

/// One of several threads.
pub struct Threads {
    rank: usize,
    /// To each rank.
    to: Vec<Sender<Message>>,
    /// From each rank.
    from: Arc<Mutex<Vec<Inbox>>>,
    /// Exchanges started so far.
    started: Mutex<u64>,
}

/// What one rank sent.
struct Inbox {
    receiver: Receiver<Message>,
    /// Parts of exchanges that nobody waited for yet.
    early: BTreeMap<u64, Vec<u8>>,
}

impl Inbox {
    /// The part of an exchange; `None` if the sender ended before.
    fn take(&mut self, exchange: u64) -> Option<Vec<u8>> {
        loop {
            if let Some(part) = self.early.remove(&exchange) {
                return Some(part);
            }
            let (number, part) = self.receiver.recv().ok()?;
            self.early.insert(number, part);
        }
    }
}

impl Threads {
    /// The ranks of `count` threads, each of which uses one.
    pub fn all(count: usize) -> Vec<Self> {
        let (mut to, mut from): (Vec<_>, Vec<_>) = (0..count).map(|_| (Vec::new(), Vec::new())).unzip();
        for sender in &mut to {
            for inboxes in &mut from {
                let (send, receiver) = channel();
                sender.push(send);
                inboxes.push(Inbox { receiver, early: BTreeMap::new() });
            }
        }
        let one =
            |(rank, (to, from))| Self { rank, to, from: Arc::new(Mutex::new(from)), started: Mutex::new(0) };
        to.into_iter().zip(from).enumerate().map(one).collect()
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.to.len()
    }

    fn start(&self, parts: Parts) -> Exchange {
        let ended = |rank: usize| Unreachable { reason: format!("rank {rank} has ended") };
        let number = {
            let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            *started += 1;
            *started
        };
        for (rank, (to, part)) in self.to.iter().zip(parts.to_all(self.count())).enumerate() {
            if to.send((number, part.to_vec())).is_err() {
                return Exchange::new(move || Err(ended(rank)));
            }
        }
        let from = self.from.clone();
        Exchange::new(move || {
            let mut from = from.lock().unwrap_or_else(PoisonError::into_inner);
            from.iter_mut()
                .enumerate()
                .map(|(rank, from)| from.take(number).ok_or_else(|| ended(rank)))
                .collect()
        })
    }
}
