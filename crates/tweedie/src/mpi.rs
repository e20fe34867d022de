//! Ranks over MPI (`--features mpi`): the processes that `mpirun` or `srun` started, on one machine or several.
//!
//! One thread makes all calls of MPI, whose handles belong to a thread. Messages progress on it while others compute.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mpi::{
    Threading,
    datatype::Equivalence,
    point_to_point::{Destination, Source},
    request::multiple_scope,
    topology::{Communicator, SimpleCommunicator},
    traits::CommunicatorCollectives,
};
use tweedie_system::{
    ranks::{Exchange, Parts, Ranks, Unreachable},
    record,
};

/// Most bytes in one message: MPI counts in 32 bits.
const SEGMENT: usize = 64 << 20;
/// How long a waiting rank asks without pause.
const EAGER: Duration = Duration::from_micros(500);
/// Its pause between questions after that, so that it leaves the cores to those that compute.
const PAUSE: Duration = Duration::from_micros(100);

/// This process among those that MPI connects. Ends MPI when dropped, for which it waits for the others.
pub struct Mpi {
    rank: usize,
    count: usize,
    /// `None` only while it is dropped.
    ask: Option<Sender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread of MPI does next.
enum Ask {
    Exchange { parts: Parts, answer: Sender<Result<Vec<Vec<u8>>, Unreachable>> },
    Leave { patience: Duration, answer: Sender<bool> },
    Abort,
}

impl Mpi {
    /// Connects to the other processes.
    ///
    /// # Errors
    /// If no thread can be started, or MPI was already started in this process.
    pub fn connect() -> Result<Self, Unreachable> {
        let wrong = |reason: &str| Unreachable { reason: format!("MPI cannot be started: {reason}") };
        let (ask, asked) = channel();
        let (told, tell) = channel();
        let work = move || serve(&told, &asked);
        let thread = std::thread::Builder::new().name("mpi".into()).spawn(work);
        let thread = thread.map_err(|e| wrong(&e.to_string()))?;
        let (rank, count) = tell.recv().map_err(|_| wrong("it was started before"))?;
        Ok(Self { rank, count, ask: Some(ask), thread: Some(thread) })
    }

    fn ask<T>(&self, ask: impl FnOnce(Sender<T>) -> Ask) -> Option<T> {
        let (answer, answered) = channel();
        self.ask.as_ref()?.send(ask(answer)).ok()?;
        answered.recv().ok()
    }

    /// Waits until all ranks call this, at most `patience`. Returns whether they did.
    pub fn leave(&self, patience: Duration) -> bool {
        self.ask(|answer| Ask::Leave { patience, answer }).unwrap_or(false)
    }

    /// Ends all ranks at once.
    pub fn abort(&self) {
        let _: Option<()> = self.ask(|_| Ask::Abort);
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was already printed.
            let _ = thread.join();
        }
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn start(&self, parts: Parts) -> Exchange {
        let ended = || Unreachable { reason: "MPI has ended".into() };
        let (answer, answered) = channel();
        let asked = self.ask.as_ref().is_some_and(|ask| ask.send(Ask::Exchange { parts, answer }).is_ok());
        Exchange::new(move || match asked {
            true => answered.recv().map_err(|_| ended())?,
            false => Err(ended()),
        })
    }
}

/// The thread of MPI: starts it, tells rank and count, answers until nobody can ask any more, and ends it.
fn serve(told: &Sender<(usize, usize)>, asked: &Receiver<Ask>) {
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else { return };
    let world = universe.world();
    let (rank, count) = (world.rank() as usize, world.size() as usize);
    // Those who leave do not meet those who still exchange.
    let (exchanged, left) = (world.duplicate(), world.duplicate());
    let _ = told.send((rank, count));
    while let Ok(ask) = asked.recv() {
        match ask {
            Ask::Exchange { parts, answer } => {
                let _ = answer.send(exchange(&exchanged, rank, parts));
            }
            Ask::Leave { patience, answer } => {
                let _ = answer.send(leave(&left, patience));
            }
            Ask::Abort => world.abort(1),
        }
    }
}

fn leave(world: &SimpleCommunicator, patience: Duration) -> bool {
    let start = Instant::now();
    let mut request = world.immediate_barrier();
    loop {
        request = match request.test() {
            Ok(_) => return true,
            Err(request) => request,
        };
        if start.elapsed() >= patience {
            // The program is aborted next, so the request is never completed.
            std::mem::forget(request);
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn exchange(world: &SimpleCommunicator, me: usize, given: Parts) -> Result<Vec<Vec<u8>>, Unreachable> {
    let _span = record::span("send and receive");
    let parts = given.to_all(world.size() as usize);
    let lengths: Vec<[u64; 1]> = parts.iter().map(|part| [part.len() as u64]).collect();
    let mut expected = vec![[0u64; 1]; parts.len()];
    let send = lengths.iter().enumerate().map(|(rank, length)| (rank, &length[..]));
    let receive = expected.iter_mut().enumerate().map(|(rank, length)| (rank, &mut length[..]));
    transfer(world, send, receive);
    let mut received = Vec::with_capacity(parts.len());
    for (rank, [length]) in expected.into_iter().enumerate() {
        if rank == me {
            received.push(Vec::new());
            continue;
        }
        let length = usize::try_from(length);
        let length =
            length.map_err(|_| Unreachable { reason: format!("rank {rank} sent no valid length") })?;
        received.push(vec![0u8; length]);
    }
    let send = parts.iter().enumerate().filter(|(rank, _)| *rank != me);
    let send = send.flat_map(|(rank, part)| part.chunks(SEGMENT).map(move |segment| (rank, segment)));
    let receive = received.iter_mut().enumerate();
    let receive =
        receive.flat_map(|(rank, part)| part.chunks_mut(SEGMENT).map(move |segment| (rank, segment)));
    transfer(world, send, receive);
    drop(parts);
    if let Some(own) = received.get_mut(me) {
        *own = given.into_part(me);
    }
    Ok(received)
}

/// Sends and receives segments; those between two ranks arrive in their order.
fn transfer<'a, T: Equivalence + 'a>(
    world: &SimpleCommunicator,
    send: impl Iterator<Item = (usize, &'a [T])>,
    receive: impl Iterator<Item = (usize, &'a mut [T])>,
) {
    let (send, receive): (Vec<_>, Vec<_>) = (send.collect(), receive.collect());
    multiple_scope(send.len() + receive.len(), |scope, requests| {
        for (rank, segment) in receive {
            requests.add(world.process_at_rank(rank as i32).immediate_receive_into(scope, segment));
        }
        for (rank, segment) in send {
            requests.add(world.process_at_rank(rank as i32).immediate_send(scope, segment));
        }
        let start = Instant::now();
        let mut done = Vec::new();
        while requests.incomplete() > 0 {
            requests.test_some(&mut done);
            if start.elapsed() < EAGER {
                std::thread::yield_now();
            } else if done.is_empty() {
                std::thread::sleep(PAUSE);
            }
        }
    });
}
