//! The processes that `mpirun` or `srun` started together. The first one prints and writes files.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tweedie_system::{
    ranks::{Alone, Launched, Ranks, launched},
    record,
};

/// The ranks of this program.
#[derive(Clone)]
pub struct Team {
    ranks: Arc<dyn Ranks>,
    #[cfg(feature = "mpi")]
    mpi: Option<Arc<tweedie::mpi::Mpi>>,
}

impl Team {
    /// One process.
    fn alone() -> Self {
        Self {
            ranks: Arc::new(Alone),
            #[cfg(feature = "mpi")]
            mpi: None,
        }
    }

    /// Joins the processes that a launcher started with this one.
    ///
    /// # Errors
    /// If there are others, and this binary was built without MPI or MPI connects only some of them.
    pub fn join() -> Result<Self> {
        match launched() {
            Some(launched) if launched.count > 1 => Self::connect(launched),
            _ => Ok(Self::alone()),
        }
    }

    #[cfg(feature = "mpi")]
    fn connect(Launched { count, .. }: Launched) -> Result<Self> {
        let mpi = tweedie::mpi::Mpi::connect()?;
        if mpi.count() != count {
            bail!(
                "the launcher started {count} processes, but MPI connects {} of them: was this binary built for another MPI \
                 than that of mpirun?",
                mpi.count()
            );
        }
        let mpi = Arc::new(mpi);
        Ok(Self { ranks: mpi.clone(), mpi: Some(mpi) })
    }

    #[cfg(not(feature = "mpi"))]
    fn connect(Launched { count, .. }: Launched) -> Result<Self> {
        bail!(
            "started as {count} processes, as by mpirun or srun, but this binary was built without MPI, so each of them would \
             write the same files; build it with `cargo build --release --features mpi`, or start one process"
        )
    }

    /// The ranks.
    pub fn ranks(&self) -> Arc<dyn Ranks> {
        self.ranks.clone()
    }

    /// Whether there are other processes.
    pub fn is_shared(&self) -> bool {
        self.ranks.is_shared()
    }

    /// Whether this process prints and writes files.
    pub fn is_first(&self) -> bool {
        self.ranks.is_first()
    }

    /// Waits for the other ranks at the end of a program that succeeded.
    pub fn finish(&self) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            mpi.leave(std::time::Duration::MAX);
        }
    }

    /// Ends a program that failed: `tell` prints the error of the first rank, and those of others if the first one has none.
    /// Ranks that still compute are ended.
    pub fn fail(&self, tell: impl Fn()) {
        if self.is_first() {
            tell();
        }
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi
            && !mpi.leave(std::time::Duration::from_secs(2))
        {
            if !self.is_first() {
                tell();
            }
            mpi.abort();
        }
    }
}

/// Whether this process was started as one of several and is not the first, so that it prints nothing.
pub fn is_silent() -> bool {
    launched().is_some_and(|launched| launched.count > 1 && launched.rank > 0)
}

/// Records what this process does when, if TWEEDIE_TRACE names a file.
pub fn record() -> Result<()> {
    let Some(path) = std::env::var_os("TWEEDIE_TRACE").filter(|path| !path.is_empty()) else { return Ok(()) };
    let rank = launched().filter(|launched| launched.count > 1).map(|launched| launched.rank);
    let path = std::path::PathBuf::from(path);
    record::begin(&path, rank)
        .with_context(|| format!("TWEEDIE_TRACE={}: cannot be written", path.display()))?;
    Ok(())
}

/// CPU threads of each process if several of them share this machine and --threads is not given.
pub fn threads() -> Option<usize> {
    let local = launched()?.local;
    let cores = std::thread::available_parallelism().ok()?.get();
    (local > 1).then(|| (cores / local).max(1))
}
