//! Puts a proxy together, runs it, and takes it apart in order.
//!
//! Threads: one per worker; everything else (control stream, files, renewal, key sets, export, admin)
//! on the runtime that [`run`] is called on, so that it cannot starve the data path.

use arc_swap::ArcSwapOption;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use picket_api::attributes;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::admin::{self, Admin};
use crate::audit::bulletin::Bulletin;
use crate::audit::heads::Heads;
use crate::audit::{Recorder, span};
use crate::config::{Config, Source, SubjectMode};
use crate::control::{Configuration, Control, ControlError};
use crate::drain::Drain;
use crate::export::{Delivery, Destination, Exporter};
use crate::files::{Files, FilesError};
use crate::keys::{Fetcher, KeyStore};
use crate::listener;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::snapshot::{Assembler, Current};
use crate::spool::{Spool, SpoolEvent};
use crate::state::{StateDir, StateError};
use crate::subjects::Subjects;
use crate::worker::{self, Shared, Sockets};

/// Time for the last audit records after everything else has ended.
const FLUSH: Duration = Duration::from_secs(5);

/// Why a proxy could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A listener cannot be bound.
    #[error("{key}: cannot listen on {address}")]
    Bind {
        /// The key of the configuration.
        key: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The audit spool cannot be used.
    #[error("the audit spool {} cannot be used", path.display())]
    Spool {
        /// Its directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The client for key sets cannot be made.
    #[error("key sets cannot be fetched: {0}")]
    Keys(String),
    /// There is no way to a certificate or configuration.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The files cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The OTLP endpoint is not one.
    #[error("files.otlp: {0} cannot be used as an endpoint")]
    Otlp(http::Uri),
    /// A thread could not be started, or died.
    #[error("a worker thread failed")]
    Worker(#[source] io::Error),
}

/// How a proxy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut off because the deadline had passed.
    pub cut_off: usize,
    /// Audit records that wait in the spool for the next start.
    pub pending: u64,
}

struct Bound {
    inbound: Vec<Vec<std::net::TcpListener>>,
    outbound: Option<Vec<std::net::TcpListener>>,
    admin: Option<std::net::TcpListener>,
}

/// Runs a proxy until `shutdown` resolves; then drains it.
///
/// # Errors
/// See [`ProxyError`]. A control plane that cannot be reached is none: it is waited for.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<Ended, ProxyError> {
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    let bound = bind(&config)?;
    let addresses = bound.inbound_addresses();
    state.save_addresses(&bound.to_json())?;

    let boot = boot_id();
    let fetcher = Fetcher::new(config.jwks_ca.as_deref())
        .map_err(|error| ProxyError::Keys(crate::words(&error)))?;
    let shared = Arc::new(Shared {
        current: Arc::new(Current::default()),
        keys: KeyStore::new(fetcher, Handle::current(), config.jwks_max_stale),
        metrics: Arc::new(Metrics::new()),
        drain: Drain::new(),
        witnessed: ArcSwapOption::empty(),
        config,
    });
    let config = &shared.config;
    let spool_error = |source| ProxyError::Spool { path: state.audit(), source };
    let mut spool = open_spool(&shared, &state, &boot).map_err(spool_error)?;
    let lanes: io::Result<Vec<_>> = (0..config.workers).map(|_| spool.lane()).collect();
    let lanes = lanes.map_err(spool_error)?;
    let bulletin = Arc::new(Bulletin::new(spool.small_lane().map_err(spool_error)?));
    let account = spool.account();
    let emitter = config.workload.id.as_str();
    let heads = Heads::new(emitter, &boot, spool.lanes().to_vec(), Arc::clone(&shared.current));
    let heads = Arc::new(heads);
    let (boot_name, told) = (Arc::from(boot.as_str()), Arc::clone(&bulletin));
    let tell = move |event: SpoolEvent| told.spool(event.to_string(), SystemTime::now());
    let syncing =
        spool.syncer().start(config.audit.sync_interval, tell).map_err(ProxyError::Worker)?;
    let mut background = Background::default();

    if let Some(socket) = bound.admin {
        let (shared, account) = (Arc::clone(&shared), Arc::clone(&account));
        let admin = Arc::new(Admin { shared, account, boot: boot.clone() });
        let socket = TcpListener::from_std(socket).map_err(ProxyError::Worker)?;
        background.spawn(admin::serve(admin, socket));
    }
    let assembler = Assembler::new(Arc::clone(&shared), subjects(config, &state)?);
    let (destination, mut source) = match &config.source {
        Source::Control(source) => {
            let configuration =
                Configuration::new(assembler, boot, addresses, Arc::clone(&account), &shared);
            let shared = Arc::clone(&shared);
            let heads = Arc::clone(&heads);
            let told = (heads, Arc::clone(&bulletin));
            let control = Control::open(source, shared, Arc::clone(&state), configuration, told)?;
            let destination = Destination::Control(control.channel());
            (destination, tokio::spawn(async move { ProxyError::from(control.run().await) }))
        }
        Source::Files(source) => {
            let files = Files::open(source, Arc::clone(&shared), assembler)?;
            let destination = match &source.otlp {
                Some(uri) => Destination::Otlp(
                    Endpoint::from_shared(uri.to_string())
                        .map_err(|_| ProxyError::Otlp(uri.clone()))?
                        .connect_lazy(),
                ),
                None => Destination::Spool { max_size: config.audit.max_size },
            };
            let never = async move {
                files.run().await;
                std::future::pending().await
            };
            (destination, tokio::spawn(never))
        }
    };
    let (written, ended) = watch::channel(false);
    let reader = spool.reader().map_err(spool_error)?;
    let dead_letters = state.audit().with_file_name("dead-letters.otlp");
    let delivery = Delivery {
        destination,
        compression: config.audit.compression,
        max_age: config.audit.max_age,
        dead_letters,
    };
    let exporter = Exporter::new(reader, delivery, Arc::clone(&account), heads, bulletin);
    let mut exporter = tokio::spawn(exporter.run(ended));

    let mut shutdown = std::pin::pin!(shutdown);
    let ready = tokio::select! {
        () = shared.current.available() => true,
        error = &mut source => return Err(joined(error)),
        () = &mut shutdown => false,
    };
    let mut workers = Vec::new();
    if ready {
        let audit = Arc::new(config.audit.clone());
        let sockets = bound.inbound.into_iter().zip(&config.inbound);
        let sockets = Bound::per_worker(sockets, bound.outbound, config.workers);
        for (lane, sockets) in lanes.into_iter().zip(sockets) {
            let metrics = WorkerMetrics::new(Arc::clone(&shared.metrics));
            let boot = Arc::clone(&boot_name);
            let recorder = Recorder::new(lane, boot, Arc::clone(&audit), metrics);
            let shared = Arc::clone(&shared);
            let name = format!("worker-{}", workers.len());
            let thread = thread::Builder::new().name(name);
            let thread = thread.spawn(move || worker::run(shared, recorder, sockets));
            workers.push(thread.map_err(ProxyError::Worker)?);
        }
        tracing::info!(identity = %config.workload.id, "serving");
        if !config.audit.enabled {
            tracing::warn!("audit.enabled is false: NOTHING THAT PASSES HERE IS RECORDED");
        }
        tokio::select! {
            () = &mut shutdown => {}
            error = &mut source => return Err(joined(error)),
        }
    }

    tracing::info!("draining");
    let cut_off = shared.drain.run(config.drain_deadline).await;
    let mut failed = None;
    for worker in workers {
        let result = tokio::task::spawn_blocking(move || worker.join()).await;
        match result {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => failed = Some(error),
            _ => failed = Some(io::Error::other("a worker panicked")),
        }
    }
    source.abort();
    // Last of all: every record is written now.
    spool.bell().ring_now();
    written.send_replace(true);
    if tokio::time::timeout(FLUSH, &mut exporter).await.is_err() {
        exporter.abort();
    }
    drop(syncing);
    let ended = Ended { cut_off, pending: account.pending() };
    tracing::info!(
        cut_off,
        sent = account.acknowledged(),
        pending = ended.pending,
        "ended; audit records that are pending will be sent after the next start"
    );
    match failed {
        Some(error) => Err(ProxyError::Worker(error)),
        None => Ok(ended),
    }
}

/// How subjects are recorded as long as no control plane says how.
fn subjects(config: &Config, state: &StateDir) -> Result<Subjects, ProxyError> {
    let mode = match &config.source {
        Source::Files(files) => files.subjects,
        Source::Control(_) => None,
    };
    Ok(match mode {
        Some(SubjectMode::Clear) => Subjects::Clear,
        Some(SubjectMode::None) => Subjects::None,
        Some(SubjectMode::Hash) | None => Subjects::hash(state.subject_key()?),
    })
}

fn joined(result: Result<ProxyError, tokio::task::JoinError>) -> ProxyError {
    result.unwrap_or_else(|error| ProxyError::Worker(io::Error::other(error)))
}

/// A version 4 UUID (RFC 9562 section 5.4).
fn boot_id() -> String {
    let random = fastrand::u128(..);
    let marked = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{marked:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

fn open_spool(shared: &Shared, state: &StateDir, boot: &str) -> io::Result<Spool> {
    let workload = &shared.config.workload;
    let labels: Vec<String> =
        workload.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let resource = span::resource(
        &[
            (attributes::SERVICE_NAME, &workload.service),
            (attributes::SERVICE_NAMESPACE, workload.id.namespace()),
            (attributes::SERVICE_VERSION, &workload.version),
            (attributes::SERVICE_INSTANCE_ID, boot),
            (attributes::EMITTER, workload.id.as_str()),
        ],
        (attributes::LABELS, &labels),
    );
    let (emitter, max_size) = (workload.id.as_str(), shared.config.audit.max_size);
    Spool::open(&state.audit(), emitter, boot, &resource, max_size)
}

fn bind(config: &Config) -> Result<Bound, ProxyError> {
    let listen = |key: String, address, workers| {
        let bound = listener::bind(address, workers);
        bound.map_err(|source| ProxyError::Bind { key, address, source })
    };
    let mut inbound = Vec::new();
    for (index, port) in config.inbound.iter().enumerate() {
        inbound.push(listen(format!("inbound[{index}].listen"), port.listen, config.workers)?);
    }
    let outbound = config.outbound;
    let outbound = outbound.map(|a| listen("outbound.listen".to_owned(), a, config.workers));
    let admin = config.admin.map(|a| listen("admin.listen".to_owned(), a, 1));
    let admin = admin.transpose()?.and_then(|mut sockets| sockets.pop());
    Ok(Bound { inbound, outbound: outbound.transpose()?, admin })
}

impl Bound {
    fn inbound_addresses(&self) -> Vec<SocketAddr> {
        let first = |sockets: &Vec<std::net::TcpListener>| sockets.first()?.local_addr().ok();
        self.inbound.iter().filter_map(first).collect()
    }

    /// What was bound, for whoever asked for port 0.
    fn to_json(&self) -> String {
        let outbound = self.outbound.as_ref().and_then(|s| s.first()?.local_addr().ok());
        let admin = self.admin.as_ref().and_then(|socket| socket.local_addr().ok());
        let addresses = json!({
            "inbound": self.inbound_addresses(),
            "outbound": outbound,
            "admin": admin,
        });
        addresses.to_string()
    }

    /// One socket of each listener for each worker.
    fn per_worker<'c>(
        inbound: impl Iterator<Item = (Vec<std::net::TcpListener>, &'c crate::config::InboundPort)>,
        outbound: Option<Vec<std::net::TcpListener>>,
        workers: usize,
    ) -> Vec<Sockets> {
        let mut of_workers: Vec<Sockets> =
            std::iter::repeat_with(Sockets::default).take(workers).collect();
        for (sockets, port) in inbound {
            for (worker, socket) in of_workers.iter_mut().zip(sockets) {
                worker.inbound.push((port.clone(), socket));
            }
        }
        for (worker, socket) in of_workers.iter_mut().zip(outbound.into_iter().flatten()) {
            worker.outbound = Some(socket);
        }
        of_workers
    }
}

/// Tasks that end with the proxy.
#[derive(Default)]
struct Background(Vec<JoinHandle<()>>);

impl Background {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
