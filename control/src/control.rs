//! What the listeners' services share. Made once, at the start, by [`crate::run`].

use std::sync::Arc;
use std::time::SystemTime;

use dashmap::DashMap;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authority::Authority;
use crate::config::Config;
use crate::detection::Detector;
use crate::export::Exporter;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::notify::Notices;
use crate::policies::Policies;
use crate::registry::Registry;
use crate::respond::Responses;
use crate::revocations::Revocations;
use crate::store::Store;
use crate::subjects::Subjects;

/// The parts of a running control plane.
pub(crate) struct Control {
    pub(crate) config: Config,
    pub(crate) authority: Authority,
    pub(crate) store: Store,
    pub(crate) journal: Journal,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) subjects: Subjects,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) export: Option<Arc<Exporter>>,
    pub(crate) detector: Arc<Detector>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) responses: Arc<Responses>,
    /// Searches of the audit records that run at once: fewer than the database has readers, so that
    /// a long one keeps no workload from joining.
    pub(crate) search_places: Semaphore,
    /// Who searched the audit records for what, and when it was recorded.
    pub(crate) searches: DashMap<(Arc<str>, String), SystemTime>,
    pub(crate) started_at: SystemTime,
    /// Cancelled when the control plane is asked to end.
    pub(crate) stop: CancellationToken,
    /// Whatever has to end before the process may.
    pub(crate) tasks: TaskTracker,
}
