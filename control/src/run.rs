//! Putting the parts together, and taking them apart again in order.
//!
//! Start: lock the state directory, open the database, the authority, the registry and the policies,
//! listen. End: stop accepting, end the streams, finish what is being committed, close the database.

mod listen;
mod upkeep;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authority::{Authority, AuthorityError};
use crate::config::Config;
use crate::control::Control;
use crate::detection::Detector;
use crate::export::client::ClientError;
use crate::export::{Exporter, OpenError};
use crate::journal::{Act, Event, Journal};
use crate::ledger::{Ledger, LedgerError};
use crate::listener::SocketError;
use crate::metrics::Metrics;
use crate::notify::Notices;
use crate::operator::Addresses;
use crate::policies::Policies;
use crate::registry::Registry;
use crate::respond::{Means, Responses};
use crate::retention;
use crate::revocations::Revocations;
use crate::state::{StateDir, StateError};
use crate::store::{self, Store, StoreError};
use crate::subjects::{Subjects, SubjectsError};
use listen::Bound;

/// How long streams, requests and commits have to end before the process ends without them.
const DRAIN: Duration = Duration::from_secs(10);
/// Why the control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The state directory cannot be used.
    #[error("the control plane cannot start")]
    State(#[from] StateError),
    /// The database cannot be used.
    #[error("the control plane's database cannot be used")]
    Store(#[from] StoreError),
    /// The certificate authority cannot be used.
    #[error("the control plane's certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    /// The state directory was made for another trust domain.
    #[error(
        "the state directory belongs to the trust domain {stored}, but trustDomain is {configured}; \
         set another stateDir"
    )]
    TrustDomain {
        /// Whose it is.
        stored: String,
        /// What is configured.
        configured: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no key for the audit log.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The operators' socket cannot be listened on.
    #[error("the operators' socket cannot be made")]
    Socket(#[from] SocketError),
    /// Subjects cannot be hashed.
    #[error(transparent)]
    Subjects(#[from] SubjectsError),
    /// Traces cannot be exported.
    #[error("traces cannot be exported")]
    Export(#[from] ClientError),
    /// Sinks cannot be encrypted to.
    #[error("the certificate authorities by which sinks of alerts are believed cannot be read")]
    Authorities(#[source] io::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
    /// The database stopped while the control plane was running.
    #[error("the database stopped")]
    DatabaseStopped,
}

/// Runs a control plane until `shutdown` is ready.
///
/// # Errors
/// When it cannot start, or its database fails.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ControlError> {
    let (ready, _addresses) = oneshot::channel();
    run_with(config, shutdown, ready).await
}

/// Runs a control plane until `shutdown` is ready, and tells through `ready` where it listens, once it
/// does. The same stands in `addresses.json` of the state directory.
///
/// # Errors
/// When it cannot start, or its database fails.
pub async fn run_with(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ready: oneshot::Sender<Addresses>,
) -> Result<(), ControlError> {
    let state = StateDir::open(&config.state_dir)?;
    let bound = Bound::bind(&config, &state).await?;
    let control = Arc::new(open(config, &state).await?);
    let addresses = bound.addresses();
    // Before anything is recorded: rows that somebody put there would be in the way.
    control.ledger.begin(control.started_at).await?;
    let mut seen = None;
    // First what stands of responses: the policies are never in force without it.
    control.responses.push().await?;
    control.policies.reload(&mut seen).await;
    control.journal.record(Act::granted(Event::ControlStart, control.started_at)).await?;
    bound.serve(&control);
    let (policies, stop) = (Arc::clone(&control.policies), control.stop.clone());
    control.tasks.spawn(async move { policies.follow(seen, stop).await });
    control.tasks.spawn(upkeep::renew_own(Arc::clone(&control)));
    control.tasks.spawn(retention::keep(Arc::clone(&control), control.config.retention));
    control.tasks.spawn(upkeep::sweep(Arc::clone(&control)));
    let (ledger, stop) = (Arc::clone(&control.ledger), control.stop.clone());
    control.tasks.spawn(async move { ledger.run(stop).await });
    let (detector, stop) = (Arc::clone(&control.detector), control.stop.clone());
    control.tasks.spawn(detector.run(stop));
    let (responses, stop) = (Arc::clone(&control.responses), control.stop.clone());
    control.tasks.spawn(responses.run(stop));
    for sink in 0..control.notices.sinks().len() {
        let notices = Arc::clone(&control.notices);
        control.tasks.spawn(notices.serve(sink, control.stop.clone()));
    }
    if let Some(export) = control.export.clone() {
        let stop = control.stop.clone();
        control.tasks.spawn(async move { export.run(stop).await });
    }
    state.write_addresses(&addresses).map_err(StateError::from)?;
    tracing::info!(proxies = %addresses.proxies, "the control plane is ready");
    // Whoever does not want to know has let go of it.
    let _told = ready.send(addresses);
    let ended = tokio::select! {
        () = shutdown => Ok(()),
        () = stopped(&control.store) => Err(ControlError::DatabaseStopped),
    };
    close(&control, &state).await;
    ended
}

async fn open(config: Config, state: &StateDir) -> Result<Control, ControlError> {
    let now = SystemTime::now();
    let store = Store::open(&state.file("control.db"))?;
    check_trust_domain(&store, &config).await?;
    let authority = Authority::open(state, &config.trust_domain, config.renewal_grace, now)?;
    let boot = boot_id()?;
    let journal = Journal::new(store.clone(), authority.own(), boot);
    let metrics = Arc::new(Metrics::new());
    let ledger = Ledger::open(
        state,
        (&config.trust_domain, authority.bundle()),
        (store.clone(), journal.clone(), Arc::clone(&metrics)),
    )?;
    let policies = Policies::open(
        (config.policy_dir.clone(), config.policy.clone()),
        store.clone(),
        journal.clone(),
        Arc::clone(&metrics),
    );
    let export = match &config.export {
        Some(export) => {
            let opened = Exporter::open(export, store.clone(), Arc::clone(&metrics)).await;
            Some(Arc::new(opened.map_err(|error| match error {
                OpenError::Client(error) => ControlError::Export(error),
                OpenError::Store(error) => ControlError::Store(error),
            })?))
        }
        None => None,
    };
    let subjects = Subjects::open(state, config.privacy, journal.clone(), now)?;
    let policies = Arc::new(policies.await?);
    let notices = Notices::open(
        config.alerting.clone(),
        store.clone(),
        journal.clone(),
        Arc::clone(&metrics),
    );
    let notices = Arc::new(notices.map_err(ControlError::Authorities)?);
    let registry = Arc::new(Registry::open(store.clone(), config.lease, now).await?);
    let revocations = Arc::new(Revocations::open(store.clone(), journal.clone()).await?);
    let responses = Arc::new(Responses::new(
        config.responding.clone(),
        (config.trust_domain.clone(), config.policy.root_namespace.clone()),
        (store.clone(), journal.clone()),
        Means {
            policies: Arc::clone(&policies),
            registry: Arc::clone(&registry),
            revocations: Arc::clone(&revocations),
            notices: Arc::clone(&notices),
            renewal_grace: config.renewal_grace,
        },
    ));
    let (told, watched) =
        ((Arc::clone(&notices), Arc::clone(&responses)), config.detection.clone());
    let detector = Detector::new(
        watched,
        store.clone(),
        journal.clone(),
        Arc::clone(&policies),
        told,
        Arc::clone(&metrics),
    );
    Ok(Control {
        subjects,
        policies,
        detector: Arc::new(detector),
        notices,
        registry,
        responses,
        revocations,
        authority,
        store,
        journal,
        ledger: Arc::new(ledger),
        metrics,
        export,
        search_places: Semaphore::new(store::READERS / 2),
        searches: DashMap::new(),
        started_at: now,
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        config,
    })
}

/// Certificates of one trust domain must not come out of the authority of another.
async fn check_trust_domain(store: &Store, config: &Config) -> Result<(), ControlError> {
    let configured = config.trust_domain.to_string();
    let wanted = configured.clone();
    let stored = store.write(move |c| store::meta(c, "trust_domain", &wanted)).await?;
    if stored == configured {
        Ok(())
    } else {
        Err(ControlError::TrustDomain { stored, configured })
    }
}

/// A UUID of version 4 (RFC 9562).
fn boot_id() -> Result<String, ControlError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ControlError::Randomness)?;
    let mut number = u128::from_be_bytes(bytes);
    number = number & !(0xf << 76) | (4 << 76);
    number = number & !(0b11 << 62) | (0b10 << 62);
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    Ok(format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
}

async fn stopped(store: &Store) {
    while store.is_open() {
        sleep(Duration::from_millis(500)).await;
    }
}

async fn close(control: &Arc<Control>, state: &StateDir) {
    tracing::info!("the control plane is going away");
    control.stop.cancel();
    control.tasks.close();
    if timeout(DRAIN, control.tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    let now = SystemTime::now();
    control.registry.sweep(now);
    if let Err(error) = control.registry.keep().await {
        tracing::error!(error = %crate::chain(&error), "the registry could not be kept");
    }
    control.journal.note(Act::granted(Event::ControlStop, now)).await;
    if let Err(error) = control.ledger.checkpoint(now).await {
        tracing::error!(error = %crate::chain(&error), "the log's end could not be signed");
    }
    let store = control.store.clone();
    if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
        tracing::error!("the database was not closed");
    }
    for name in ["control.sock", "addresses.json"] {
        if let Err(error) = std::fs::remove_file(state.file(name)) {
            tracing::debug!(name, %error, "could not be removed");
        }
    }
}
