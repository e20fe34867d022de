//! Ranks as threads of one process, connected by channels: for tests of everything that runs on several ranks.

use std::sync::{
    Mutex, PoisonError,
    mpsc::{Receiver, Sender, channel},
};

use super::{Ranks, Unreachable};

/// One of several threads.
pub struct Threads {
    rank: usize,
    /// To each rank.
    to: Vec<Sender<Vec<u8>>>,
    /// From each rank.
    from: Mutex<Vec<Receiver<Vec<u8>>>>,
}

impl Threads {
    /// The ranks of `count` threads, each of which uses one.
    pub fn all(count: usize) -> Vec<Self> {
        let (mut to, mut from): (Vec<_>, Vec<_>) = (0..count).map(|_| (Vec::new(), Vec::new())).unzip();
        for sender in &mut to {
            for receiver in &mut from {
                let (send, receive) = channel();
                sender.push(send);
                receiver.push(receive);
            }
        }
        let one = |(rank, (to, from))| Self { rank, to, from: Mutex::new(from) };
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

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>, Unreachable> {
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = |rank: usize| Unreachable { reason: format!("rank {rank} has ended") };
        for (rank, (to, part)) in self.to.iter().zip(parts).enumerate() {
            to.send(part.to_vec()).map_err(|_| ended(rank))?;
        }
        from.iter().enumerate().map(|(rank, from)| from.recv().map_err(|_| ended(rank))).collect()
    }
}
