//! Starts and stops the server.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64, mpsc::Sender},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use crate::{
    Config, Model, ServeError, api,
    auth::Tokens,
    desk::Desk,
    engine::{Engine, Message},
    journal::Journal,
    limits::Limiter,
    listen,
    live::{Board, now},
    metrics::Metrics,
    scribe::{Note, Scribe},
    service::Service,
    stop::Stop,
    store::{Part, Store},
};

/// Memory for weights if the available memory is unknown.
const BUDGET: u64 = 4 << 30;
/// How long connections may go on after the server was stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running server.
pub struct Server {
    address: SocketAddr,
    taken_up: usize,
    stop: Stop,
    runtime: Runtime,
    engine: (Sender<Message>, JoinHandle<()>),
    scribe: (Sender<Note>, JoinHandle<()>),
    connections: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts a server for these models. Jobs that an earlier one has left in the data folder go on.
    ///
    /// # Errors
    /// If the configuration, tokens or journal are unusable, or the address is.
    pub fn start(config: Config, models: Vec<Model>) -> Result<Self, ServeError> {
        check_models(&models)?;
        let tokens = config.tokens.as_deref().map(Tokens::read).transpose()?.unwrap_or_default();
        if tokens.is_empty() && !config.listen.ip().is_loopback() {
            return Err(ServeError::Open(config.listen));
        }
        let folder = config.data_dir.clone();
        fs::create_dir_all(&folder).map_err(|source| ServeError::File { path: folder.clone(), source })?;
        let journal = Arc::new(Journal::open(&folder)?);
        let loras = config.loras.iter().map(|path| (Part::Lora, path.as_path()));
        let nets = config.controlnets.iter().map(|path| (Part::ControlNet, path.as_path()));
        let store = Store::open(&folder)?.with_named(&loras.chain(nets).collect::<Vec<_>>())?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServeError::Thread)?;
        let cannot = |source| ServeError::Listen { address: config.listen, source };
        let listener = runtime.block_on(TcpListener::bind(config.listen)).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;

        let (board, metrics) = (Arc::<Board>::default(), Arc::<Metrics>::default());
        let stop = Stop::default();
        let half = || tweedie_system::memory::available().map_or(BUDGET, |bytes| bytes / 2);
        let budget = config.model_memory.map_or_else(half, |mib| mib << 20);
        let limiter = Limiter(config.limits.clone());
        let desk = Desk::start(models, budget, store.clone(), limiter)?;
        let scribe = Scribe {
            journal: journal.clone(),
            store: store.clone(),
            board: board.clone(),
            metrics: metrics.clone(),
            budget: config.gallery << 20,
            // What an earlier run has left is added up at once.
            fresh: AtomicU64::new(u64::MAX / 2),
            gathered: Default::default(),
            stop: stop.clone(),
        };
        let scribe = scribe.start()?;
        let engine = Engine {
            config: config.clone(),
            scribe: scribe.0.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        let engine = engine.start()?;
        let service = Arc::new(Service {
            config,
            store,
            journal,
            board,
            desk,
            metrics,
            stop: stop.clone(),
            engine: engine.0.clone(),
            scribe: scribe.0.clone(),
            run: format!("{:x}", now()).into(),
        });
        let entered = runtime.enter();
        let taken_up = service.take_up()?;
        drop(entered);
        let router = api::router(service.clone(), tokens);
        let connections = runtime.spawn(listen::serve(listener, router, stop.clone()));
        Ok(Self { address, taken_up, stop, runtime, engine, scribe, connections })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of jobs of an earlier run that go on.
    pub fn taken_up(&self) -> usize {
        self.taken_up
    }

    /// Stops it, from any thread.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits until it is stopped, and stores what is running.
    pub fn wait(self) {
        let Self { runtime, stop, engine, scribe, connections, .. } = self;
        runtime.block_on(stop.wait());
        let (done, stored) = oneshot::channel();
        let _ = engine.0.send(Message::Stop(done));
        let _ = runtime.block_on(stored);
        let _ = engine.1.join();
        let _ = scribe.0.send(Note::Stop);
        let _ = scribe.1.join();
        let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, connections).await });
        runtime.shutdown_background();
    }
}

fn check_models(models: &[Model]) -> Result<(), ServeError> {
    if models.is_empty() {
        return Err(ServeError::Models("no model to serve".into()));
    }
    for (i, model) in models.iter().enumerate() {
        if models[..i].iter().any(|other| other.name == model.name) {
            return Err(ServeError::Models(format!(
                "two models are called `{}`; rename a folder",
                model.name
            )));
        }
    }
    Ok(())
}
