//! The thread pool for parallel loops.
//!
//! A loop is announced once, and awake threads claim its tasks one by one: first those of their own share, so that a
//! thread finds its data in its cache, then those of others. No one waits for a thread that has not joined yet, so a
//! busy machine delays a loop by one task at most. Threads spin for a moment before they sleep, because waking a
//! thread takes longer than a small layer.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
};

/// Iterations of spinning before a thread sleeps: about 50 µs.
const TURNS: usize = 2000;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// The current loop.
#[derive(Clone, Copy)]
struct Loop {
    task: Task<'static>,
    count: usize,
    /// Number of threads that have a share of the tasks.
    shares: usize,
}

struct Worker {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
}

/// The first unclaimed task of a share, on its own cache line.
#[repr(align(128))]
#[derive(Default)]
struct Next(AtomicUsize);

impl Loop {
    /// The first task of a share. Shares are consecutive.
    fn first(&self, share: usize) -> usize {
        share * self.count / self.shares
    }
}

/// `state` is, from the highest bits down: the loop's number (32), whether it may be joined (1), how many workers may
/// join (15), how many are inside (16).
struct Pool {
    /// Held by the running loop.
    busy: AtomicBool,
    state: AtomicU64,
    current: UnsafeCell<Loop>,
    /// One for the loop's owner, then one for each worker.
    next: Vec<Next>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    workers: Vec<Worker>,
    /// Whether the loop's owner sleeps until the last worker leaves.
    owner_waits: AtomicBool,
    left: (Mutex<()>, Condvar),
}

// SAFETY: `current` is only written while no worker is inside or may join, and only read inside.
unsafe impl Sync for Pool {}

const OPEN: u64 = 1 << 31;
const HELPERS: u64 = 1 << 16;

fn number(state: u64) -> u64 {
    state >> 32
}

fn helpers(state: u64) -> usize {
    (state / HELPERS) as usize & 0x7fff
}

fn inside(state: u64) -> u64 {
    state & 0xffff
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    static STARTED: OnceLock<()> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = cores.max(rayon::current_num_threads()).saturating_sub(1).min(0x7fff);
        Pool {
            busy: AtomicBool::new(false),
            state: AtomicU64::new(0),
            current: UnsafeCell::new(Loop { task: &|_| (), count: 0, shares: 1 }),
            next: (0..=count).map(|_| Next::default()).collect(),
            panic: Mutex::new(None),
            workers: (0..count)
                .map(|_| Worker { thread: OnceLock::new(), asleep: AtomicBool::new(false) })
                .collect(),
            owner_waits: AtomicBool::new(false),
            left: Default::default(),
        }
    });
    STARTED.get_or_init(|| {
        for index in 0..pool.workers.len() {
            // If the thread cannot be started, the others do its work.
            let _ = thread::Builder::new().name(format!("kernels-{index}")).spawn(move || pool.work(index));
        }
    });
    pool
}

/// Runs `task(0)` to `task(count - 1)` in any order, on this thread and up to `helpers` others. If another loop is
/// already running, this thread runs all of them.
pub(crate) fn run(count: usize, helpers: usize, task: Task<'_>) {
    let pool = pool();
    let helpers = helpers.min(count.saturating_sub(1)).min(pool.workers.len());
    if helpers == 0 || pool.busy.swap(true, SeqCst) {
        (0..count).for_each(task);
        return;
    }
    // SAFETY: workers use the task only while inside, and `finish` waits until all have left.
    let task: Task<'static> = unsafe { std::mem::transmute(task) };
    let new = Loop { task, count, shares: helpers + 1 };
    pool.start(new, helpers);
    let own = catch_unwind(AssertUnwindSafe(|| pool.claim(&new, 0)));
    if own.is_err() {
        pool.abandon();
    }
    pool.finish();
    let theirs = pool.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    pool.busy.store(false, SeqCst);
    if let Some(payload) = own.err().or(theirs) {
        resume_unwind(payload);
    }
}

impl Pool {
    fn start(&self, new: Loop, helpers: usize) {
        // SAFETY: we hold `busy`, no worker is inside, and the state is closed.
        unsafe { *self.current.get() = new };
        for (share, next) in self.next[..new.shares].iter().enumerate() {
            next.0.store(new.first(share), SeqCst);
        }
        let number = number(self.state.load(SeqCst)) + 1;
        self.state.store((number << 32) | OPEN | (helpers as u64 * HELPERS), SeqCst);
        for worker in &self.workers[..helpers] {
            if worker.asleep.load(SeqCst)
                && let Some(thread) = worker.thread.get()
            {
                thread.unpark();
            }
        }
    }

    /// Runs the tasks of share `own`, then the remaining tasks of others.
    fn claim(&self, tasks: &Loop, own: usize) {
        for share in (own..tasks.shares).chain(0..own) {
            let end = tasks.first(share + 1);
            loop {
                let i = self.next[share].0.fetch_add(1, SeqCst);
                if i >= end {
                    break;
                }
                (tasks.task)(i);
            }
        }
    }

    /// Drops all unclaimed tasks after a panic.
    fn abandon(&self) {
        self.next.iter().for_each(|next| next.0.store(usize::MAX / 2, SeqCst));
    }

    /// Stops workers from joining and waits for those inside.
    fn finish(&self) {
        let mut state = self.state.fetch_and(!OPEN, SeqCst);
        for _ in 0..TURNS {
            if inside(state) == 0 {
                return;
            }
            spin_loop();
            state = self.state.load(SeqCst);
        }
        let mut guard = self.left.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.owner_waits.store(true, SeqCst);
        while inside(self.state.load(SeqCst)) > 0 {
            guard = self.left.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.owner_waits.store(false, SeqCst);
    }

    /// The main loop of a worker.
    fn work(&self, index: usize) {
        let me = &self.workers[index];
        me.thread.get_or_init(thread::current);
        let mut seen = 0;
        loop {
            let state = self.next_loop(index, seen);
            if self.state.compare_exchange(state, state + 1, SeqCst, SeqCst).is_err() {
                continue;
            }
            seen = number(state);
            // SAFETY: inside, see `Pool`.
            let tasks = unsafe { *self.current.get() };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.claim(&tasks, index + 1))) {
                self.abandon();
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            let state = self.state.fetch_sub(1, SeqCst) - 1;
            if state & OPEN == 0 && inside(state) == 0 && self.owner_waits.load(SeqCst) {
                drop(self.left.0.lock().unwrap_or_else(PoisonError::into_inner));
                self.left.1.notify_one();
            }
        }
    }

    /// Waits for a loop other than `seen` that worker `index` may join, and returns its state.
    fn next_loop(&self, index: usize, seen: u64) -> u64 {
        let me = &self.workers[index];
        let ready = || {
            let state = self.state.load(SeqCst);
            (state & OPEN != 0 && number(state) != seen && index < helpers(state)).then_some(state)
        };
        loop {
            for _ in 0..TURNS {
                if let Some(state) = ready() {
                    return state;
                }
                spin_loop();
            }
            me.asleep.store(true, SeqCst);
            let state = ready();
            if state.is_none() {
                thread::park();
            }
            me.asleep.store(false, SeqCst);
            if let Some(state) = state {
                return state;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 3, 1000] {
            for _ in 0..50 {
                let ran: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                run(count, 3, &|i| {
                    ran[i].fetch_add(1, SeqCst);
                });
                assert!(ran.iter().all(|r| r.load(SeqCst) == 1), "{count}");
            }
        }
    }

    #[test]
    fn loops_within_loops_and_beside_them() {
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..20 {
                        run(8, 3, &|i| {
                            run(5, 3, &|j| {
                                sum.fetch_add(i * j, SeqCst);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(SeqCst), 3 * 20 * 28 * 10);
    }

    #[test]
    fn panics_reach_the_caller() {
        for round in 0..20 {
            let caught = catch_unwind(|| run(64, 3, &|i| assert!(i != round, "task {i}")));
            assert!(caught.is_err(), "{round}");
        }
        run(4, 3, &|_| ());
    }
}
