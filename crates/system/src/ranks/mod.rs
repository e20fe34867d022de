//! Processes that compute one result together, as under `mpirun`. Each has a rank; all of them exchange bytes.
//!
//! Every function that exchanges is collective: all ranks call it, in the same order.

mod threads;

use std::{fmt, io::Read, path::Path};

pub use threads::Threads;

use crate::record;

/// The processes of a run. Implementations only move bytes; what is computed must not depend on their number.
pub trait Ranks: Send + Sync {
    /// The number of this process, below [`Ranks::count`].
    fn rank(&self) -> usize;

    /// The number of processes, at least 1.
    fn count(&self) -> usize;

    /// Starts to send `parts`, and returns at once. Exchanges take place in the order in which they were started. Collective.
    fn start(&self, parts: Parts) -> Exchange;

    /// Sends `parts[i]` to rank `i`, and returns what each rank sent here. Collective.
    ///
    /// # Errors
    /// If a rank has ended or cannot be reached.
    fn exchange(&self, parts: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Unreachable> {
        self.start(Parts::Each(parts)).wait()
    }

    /// Sends `bytes` to all ranks, and returns what each of them sent. Collective.
    ///
    /// # Errors
    /// Those of [`Ranks::exchange`].
    fn gather(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Unreachable> {
        self.start(Parts::Same(bytes)).wait()
    }

    /// Whether this is rank 0, which prints and writes files.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are other processes.
    fn is_shared(&self) -> bool {
        self.count() > 1
    }

    /// The part of `all` items that this rank works on: contiguous, in the order of the ranks, of almost equal sizes.
    fn share(&self, all: usize) -> std::ops::Range<usize> {
        share(all, self.rank(), self.count())
    }
}

/// The part of `all` items of one of `count` ranks: contiguous, in their order, of almost equal sizes.
pub fn share(all: usize, rank: usize, count: usize) -> std::ops::Range<usize> {
    all * rank / count..all * (rank + 1) / count
}

/// What a rank sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// To each rank its own, in their order.
    Each(Vec<Vec<u8>>),
    /// The same to all ranks.
    Same(Vec<u8>),
}

impl Parts {
    /// What is sent to each of `count` ranks.
    pub fn to_all(&self, count: usize) -> Vec<&[u8]> {
        match self {
            Self::Each(parts) => parts.iter().map(Vec::as_slice).collect(),
            Self::Same(part) => vec![part.as_slice(); count],
        }
    }

    /// What is sent to `rank`; empty if there is nothing for it.
    pub fn into_part(self, rank: usize) -> Vec<u8> {
        match self {
            Self::Each(parts) => parts.into_iter().nth(rank).unwrap_or_default(),
            Self::Same(part) => part,
        }
    }
}

type Received = Result<Vec<Vec<u8>>, Unreachable>;

/// An exchange that was started.
#[must_use = "what the other ranks sent is in `wait`"]
pub struct Exchange(Box<dyn FnOnce() -> Received + Send>);

impl Exchange {
    /// An exchange whose end `wait` waits for.
    pub fn new(wait: impl FnOnce() -> Received + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// What each rank sent here, in their order.
    ///
    /// # Errors
    /// If a rank has ended or cannot be reached.
    pub fn wait(self) -> Received {
        let _span = record::span("wait");
        (self.0)()
    }
}

/// A process without others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn start(&self, parts: Parts) -> Exchange {
        Exchange::new(move || Ok(vec![parts.into_part(0)]))
    }
}

/// The error of an exchange with a rank that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The reason.
    pub reason: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another process of this run cannot be reached: {}", self.reason)
    }
}

impl std::error::Error for Unreachable {}

/// The error of one rank, told to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The first rank that failed.
    pub rank: usize,
    /// Its error.
    pub reason: String,
}

/// Tells all ranks whether this one succeeded with `mine`. Returns what each of them sent, or the first error. Collective.
///
/// # Errors
/// Those of [`Ranks::exchange`].
pub fn agree(
    ranks: &dyn Ranks,
    mine: Result<&[u8], String>,
) -> Result<Result<Vec<Vec<u8>>, Failed>, Unreachable> {
    let message = match mine {
        Ok(bytes) => [&[0], bytes].concat(),
        Err(reason) => [&[1], reason.as_bytes()].concat(),
    };
    let mut all = ranks.gather(message)?;
    for (rank, message) in all.iter_mut().enumerate() {
        if message.is_empty() {
            return Err(Unreachable { reason: format!("rank {rank} sent nothing") });
        }
        if message.remove(0) != 0 {
            let reason = String::from_utf8_lossy(message).into_owned();
            return Ok(Err(Failed { rank, reason }));
        }
    }
    Ok(Ok(all))
}

/// How a launcher such as `mpirun` or `srun` started this process, judged by its environment variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The number of this process.
    pub rank: usize,
    /// The number of processes.
    pub count: usize,
    /// The number of them on this machine; 1 if unknown.
    pub local: usize,
}

/// How this process was started; `None` without a launcher.
pub fn launched() -> Option<Launched> {
    launched_by(&|key| std::env::var(key).ok())
}

fn launched_by(variable: &dyn Fn(&str) -> Option<String>) -> Option<Launched> {
    // Open MPI; MPICH, Intel MPI and `srun --mpi=pmi2`; MVAPICH.
    const PAIRS: [[&str; 2]; 3] = [
        ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
        ["PMI_RANK", "PMI_SIZE"],
        ["MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"],
    ];
    let number = |key: &str| variable(key)?.trim().parse::<usize>().ok();
    const LOCAL: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"];
    let local = LOCAL.into_iter().find_map(number).unwrap_or(1).max(1);
    let of = |[rank, count]: [&str; 2]| Some(Launched { rank: number(rank)?, count: number(count)?, local });
    let found = PAIRS.into_iter().find_map(of);
    // `srun --mpi=pmix` says only the rank in a variable of PMIx; the number of tasks is Slurm's.
    found.or_else(|| of(["PMIX_RANK", "SLURM_NTASKS"]))
}

/// What must be equal on all ranks before they start: the program and the machine's name for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Size and hash of the program's file; empty if it cannot be read.
    pub print: String,
    /// The name of the machine; empty if unknown.
    pub host: String,
}

impl Program {
    /// This process.
    pub fn own() -> Self {
        let host = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
        let print = std::env::current_exe().ok().and_then(|path| print(&path).ok()).unwrap_or_default();
        Self { print, host: host.trim().to_owned() }
    }
}

/// Size and FNV-1a hash over eight bytes at a time: enough to tell builds apart, and fast.
fn print(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut size) = (0xcbf2_9ce4_8422_2325_u64, 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..n).filter(|bytes| !bytes.is_empty()) else {
            return Ok(format!("{size} bytes, {hash:016x}"));
        };
        size += n as u64;
        for chunk in bytes.chunks(8) {
            let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for all in 0..40 {
            for count in 1..9 {
                let parts: Vec<_> = (0..count).map(|rank| share(all, rank, count)).collect();
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..all).collect::<Vec<_>>());
                let sizes = || parts.iter().map(|part| part.len());
                assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
            }
        }
    }

    #[test]
    fn launchers_are_recognized() {
        let by = |set: &[(&str, &str)]| {
            launched_by(&|key| set.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(by(&[]), None);
        assert_eq!(by(&[("SLURM_NTASKS", "4")]), None);
        let four = Some(Launched { rank: 2, count: 4, local: 1 });
        assert_eq!(by(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4")]), four);
        assert_eq!(by(&[("PMI_RANK", "2"), ("PMI_SIZE", "4")]), four);
        let local = by(&[("PMI_RANK", "2"), ("PMI_SIZE", "4"), ("MPI_LOCALNRANKS", "2")]);
        assert_eq!(local, four.map(|four| Launched { local: 2, ..four }));
        assert_eq!(by(&[("PMIX_RANK", "2"), ("SLURM_NTASKS", "4")]), four);
        assert_eq!(by(&[("PMI_RANK", "x"), ("PMI_SIZE", "4")]), None);
    }

    /// What every rank returns, in their order.
    fn on_all<T: Send>(count: usize, work: impl Fn(Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let all: Vec<_> =
                Threads::all(count).into_iter().map(|r| scope.spawn(move || work(Arc::new(r)))).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_part_arrives_at_its_rank() {
        for count in [1, 2, 5] {
            let found = on_all(count, |ranks| {
                let mine: Vec<Vec<u8>> = (0..count).map(|to| vec![ranks.rank() as u8; to + 1]).collect();
                ranks.exchange(mine).unwrap()
            });
            for (to, parts) in found.iter().enumerate() {
                let expected: Vec<Vec<u8>> = (0..count).map(|from| vec![from as u8; to + 1]).collect();
                assert_eq!(*parts, expected);
            }
        }
    }

    #[test]
    fn started_exchanges_may_be_awaited_in_any_order() {
        let found = on_all(3, |ranks| {
            let me = ranks.rank() as u8;
            let first = ranks.start(Parts::Each((0..3).map(|to| vec![me, to]).collect()));
            let second = ranks.start(Parts::Same(vec![me]));
            drop(ranks.start(Parts::Same(vec![9; 3])));
            let third = ranks.gather(vec![me; 2]).unwrap();
            [second.wait().unwrap(), first.wait().unwrap(), third]
        });
        for (me, [second, first, third]) in found.into_iter().enumerate() {
            assert_eq!(second, [[0], [1], [2]]);
            assert_eq!(first, [0, 1, 2].map(|from| vec![from, me as u8]));
            assert_eq!(third, [0, 1, 2].map(|from| vec![from; 2]));
        }
    }

    #[test]
    fn the_first_error_reaches_all() {
        let found = on_all(4, |ranks| {
            let mine = if ranks.rank() >= 2 { Err(format!("disk {}", ranks.rank())) } else { Ok(&b"x"[..]) };
            agree(&*ranks, mine).unwrap()
        });
        assert!(found.iter().all(|f| *f == Err(Failed { rank: 2, reason: "disk 2".into() })), "{found:?}");
    }

    #[test]
    fn a_rank_that_has_ended_is_an_error() {
        let found = on_all(3, |ranks| match ranks.rank() {
            1 => Ok(Vec::new()),
            _ => ranks.gather(b"here".to_vec()),
        });
        assert!(found[0].is_err() && found[2].is_err());
        assert!(found[0].as_ref().unwrap_err().to_string().contains("rank 1"), "{found:?}");
    }
}
