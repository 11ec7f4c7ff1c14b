//! What Prometheus scrapes.
//!
//! Labels come from bounded lists only: no path, host, identity or id. A worker resolves each
//! counter once and then only increments it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::audit::{Direction, Ending, Facts, Kind};
use crate::spool::Account;
use crate::witness::Seen;

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: Direction,
    decision: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
    stage: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    direction: Direction,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: Direction,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndingLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    cached: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthorizerLabels {
    authorizer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    authorizer: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    generation: String,
}

/// Upper bounds of the duration histogram, in seconds.
const DURATIONS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

/// The proxy's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DirectionLabels, Histogram, fn() -> Histogram>,
    decisions: Family<DecisionLabels, Counter>,
    checks: Family<CheckLabels, Counter>,
    check_durations: Family<AuthorizerLabels, Histogram, fn() -> Histogram>,
    refused_connections: Family<RefusalLabels, Counter>,
    pub(crate) open_connections: OpenConnections,
    pub(crate) streams: StreamMetrics,
    certificate_expiry: Gauge,
    pub(crate) renewals_failed: Counter,
    policy: Family<PolicyLabels, Gauge>,
    pub(crate) revocations: Gauge,
    /// Tokens whose signature was checked, and those that were known.
    tokens: [Counter; 2],
    pub(crate) configurations_refused: Counter,
    pub(crate) control_connected: Gauge,
    log_entries: Gauge,
    log_refused: Gauge,
    audit: AuditMetrics,
}

/// Open connections by direction.
#[derive(Clone, Default)]
pub(crate) struct OpenConnections {
    pub(crate) inbound: Gauge,
    pub(crate) outbound: Gauge,
}

/// What is open and decided on again when that may have changed.
#[derive(Clone, Default)]
pub(crate) struct StreamMetrics {
    pub(crate) open: Gauge,
    /// Decided on again, and allowed.
    pub(crate) kept: Counter,
    ended: Family<EndingLabels, Counter>,
}

impl StreamMetrics {
    /// Counts what was decided on again, and ended.
    pub(crate) fn ended(&self, ending: Ending) {
        self.ended.get_or_create(&EndingLabels { reason: ending.as_str() }).inc();
    }
}

#[derive(Default)]
struct AuditMetrics {
    emitted: Counter<u64, AtomicU64>,
    acknowledged: Counter<u64, AtomicU64>,
    lost: Counter<u64, AtomicU64>,
    pending: Gauge,
    size: Gauge,
    limit: Gauge,
    sync_failures: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("picket");
        let requests = Family::default();
        let check_durations: Family<_, _, fn() -> Histogram> =
            Family::new_with_constructor(durations);
        let durations: Family<_, _, fn() -> Histogram> = Family::new_with_constructor(durations);
        let decisions = Family::default();
        let checks = Family::default();
        let refused_connections = Family::default();
        let open = Family::<DirectionLabels, Gauge>::default();
        let streams = StreamMetrics::default();
        let certificate_expiry = Gauge::default();
        let renewals_failed = Counter::default();
        let policy = Family::default();
        let revocations = Gauge::default();
        let tokens = Family::<TokenLabels, Counter>::default();
        let configurations_refused = Counter::default();
        let control_connected = Gauge::default();
        let (log_entries, log_refused) = (Gauge::default(), Gauge::default());
        let audit = AuditMetrics::default();
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);

        registry.register("requests", "Requests, by the status answered", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the end of its response",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("authz_decisions", "Inbound decisions", decisions.clone());
        registry.register(
            "authorizer_checks",
            "Questions to an external authorizer, by what came of them",
            checks.clone(),
        );
        registry.register_with_unit(
            "authorizer_check_duration",
            "From a question to an external authorizer to its answer, or to giving up",
            Unit::Seconds,
            check_durations.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections that were refused before any request",
            refused_connections.clone(),
        );
        registry.register("connections_open", "Open connections", open.clone());
        registry.register(
            "streams_open",
            "Requests, tunnels and raw connections that are open; up to a quarter of a second old",
            streams.open.clone(),
        );
        registry.register(
            "streams_rechecked",
            "Open streams that were decided on again and may go on",
            streams.kept.clone(),
        );
        registry.register(
            "streams_ended",
            "Open streams that were ended because there was no more right to them",
            streams.ended.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "End of the certificate in use, in seconds since 1970",
            certificate_expiry.clone(),
        );
        registry.register(
            "certificate_renewals_failed",
            "Attempts to renew the certificate that failed",
            renewals_failed.clone(),
        );
        registry.register("policy_info", "The policy generation in force", policy.clone());
        registry.register("tokens_checked", "Tokens that requests carried", tokens.clone());
        registry.register("revocations", "Revocations in force", revocations.clone());
        registry.register(
            "configurations_refused",
            "Policies, peers or certificates that were refused; the last good ones stay in force",
            configurations_refused.clone(),
        );
        registry.register(
            "log_witnessed_entries",
            "Entries of the control plane's audit log under the last checkpoint that was cosigned",
            log_entries.clone(),
        );
        registry.register(
            "log_refused",
            "1 while the control plane's audit log is refused: it does not continue what was cosigned",
            log_refused.clone(),
        );
        registry.register(
            "control_connected",
            "1 while there is a configuration stream to the control plane",
            control_connected.clone(),
        );
        registry.register("audit_records", "Audit records of this boot", audit.emitted.clone());
        registry.register(
            "audit_records_acknowledged",
            "Audit records of this boot that were received for good",
            audit.acknowledged.clone(),
        );
        registry.register(
            "audit_records_lost",
            "Audit records of this boot that are declared lost",
            audit.lost.clone(),
        );
        registry.register(
            "audit_records_pending",
            "Audit records of this boot that wait in the spool",
            audit.pending.clone(),
        );
        registry.register(
            "audit_spool_bytes",
            "Bytes that the audit spool takes on disk",
            audit.size.clone(),
        );
        registry.register(
            "audit_spool_limit_bytes",
            "Most bytes that the audit spool may take",
            audit.limit.clone(),
        );
        registry.register(
            "audit_sync_failures",
            "Segments of the audit spool that could not be brought to disk",
            audit.sync_failures.clone(),
        );
        registry.register("build_info", "The version that runs", build);
        let direction = |direction| open.get_or_create_owned(&DirectionLabels { direction });
        let open_connections = OpenConnections {
            inbound: direction(Direction::Inbound),
            outbound: direction(Direction::Outbound),
        };
        Self {
            registry,
            requests,
            durations,
            decisions,
            checks,
            check_durations,
            refused_connections,
            open_connections,
            streams,
            certificate_expiry,
            renewals_failed,
            policy,
            revocations,
            tokens: ["no", "yes"].map(|cached| tokens.get_or_create_owned(&TokenLabels { cached })),
            configurations_refused,
            log_entries,
            log_refused,
            control_connected,
            audit,
        }
    }

    /// The certificate in use has changed.
    pub(crate) fn certificate(&self, not_after_unix: i64) {
        self.certificate_expiry.set(not_after_unix);
    }

    /// A request's token was checked, or found among those that were.
    pub(crate) fn token_verified(&self, cached: bool) {
        if let Some(counter) = self.tokens.get(usize::from(cached)) {
            counter.inc();
        }
    }

    /// The policy in force has changed.
    pub(crate) fn policy(&self, generation: &str) {
        self.policy.clear();
        self.policy.get_or_create(&PolicyLabels { generation: generation.to_owned() }).set(1);
    }

    /// A checkpoint of the audit log was looked at.
    pub(crate) fn log_witnessed(&self, seen: &Seen) {
        self.log_entries.set(i64::try_from(seen.size).unwrap_or(i64::MAX));
        self.log_refused.set(seen.refusal.is_some().into());
    }

    /// The OpenMetrics text, with the spool's account as it is now.
    pub(crate) fn text(&self, account: &Account) -> String {
        let set = |counter: &Counter<u64, AtomicU64>, value| {
            counter.inner().store(value, std::sync::atomic::Ordering::Relaxed);
        };
        set(&self.audit.emitted, account.emitted());
        set(&self.audit.acknowledged, account.acknowledged());
        set(&self.audit.lost, account.lost());
        self.audit.pending.set(account.pending().cast_signed());
        self.audit.size.set(account.size().cast_signed());
        self.audit.limit.set(account.limit().cast_signed());
        set(&self.audit.sync_failures, account.sync_failures());
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _infallible = encode(&mut out, &self.registry);
        out
    }
}

/// One worker's handles: looked up among all once, then incremented.
pub(crate) struct WorkerMetrics {
    metrics: Arc<Metrics>,
    requests: Counters<RequestLabels>,
    decisions: Counters<DecisionLabels>,
    checks: Counters<CheckLabels>,
    check_durations: RefCell<HashMap<String, Histogram>>,
    inbound: Histogram,
    outbound: Histogram,
}

impl WorkerMetrics {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let duration =
            |direction| metrics.durations.get_or_create_owned(&DirectionLabels { direction });
        Self {
            inbound: duration(Direction::Inbound),
            outbound: duration(Direction::Outbound),
            metrics,
            requests: Counters::default(),
            decisions: Counters::default(),
            checks: Counters::default(),
            check_durations: RefCell::default(),
        }
    }

    /// Counts a question to an external authorizer. Names of authorizers are bounded by the policies.
    pub(crate) fn authorizer_asked(&self, authorizer: &str, outcome: &'static str, took: Duration) {
        let labels = CheckLabels { authorizer: authorizer.to_owned(), outcome };
        self.checks.count(&self.metrics.checks, labels);
        let mut durations = self.check_durations.borrow_mut();
        let histogram = durations.entry(authorizer.to_owned()).or_insert_with_key(|authorizer| {
            let labels = AuthorizerLabels { authorizer: authorizer.clone() };
            self.metrics.check_durations.get_or_create_owned(&labels)
        });
        histogram.observe(took.as_secs_f64());
    }

    /// Counts what has come to its end, so long after it began.
    pub(crate) fn finished(&self, facts: &Facts, after: Duration) {
        let decision = facts.decision_word();
        match (facts.kind, facts.failed) {
            (Kind::Request, _) => {
                let direction = facts.direction;
                let status = facts.status.map_or(0, |status| status.as_u16());
                let labels = RequestLabels { direction, decision, status };
                self.requests.count(&self.metrics.requests, labels);
                let histogram = match direction {
                    Direction::Inbound => &self.inbound,
                    Direction::Outbound => &self.outbound,
                };
                histogram.observe(after.as_secs_f64());
            }
            (Kind::Connection, Some(failure)) => {
                let labels = RefusalLabels { direction: facts.direction, reason: failure.code };
                self.metrics.refused_connections.get_or_create(&labels).inc();
            }
            (Kind::Connection, None) => {}
        }
        if facts.direction == Direction::Inbound {
            let (stage, reason) = match (&facts.decision, facts.failed) {
                (Some(decision), _) => (decision.stage.as_str(), decision.code.as_str()),
                (None, Some(failure)) => (failure.stage, failure.code),
                (None, None) => return,
            };
            let labels = DecisionLabels { decision, stage, reason };
            self.decisions.count(&self.metrics.decisions, labels);
        }
    }
}

/// One worker's counters of a family.
struct Counters<L> {
    /// The one that was counted last: most requests are like the one before.
    last: RefCell<Option<(L, Counter)>>,
    known: RefCell<HashMap<L, Counter>>,
}

impl<L> Default for Counters<L> {
    fn default() -> Self {
        Self { last: RefCell::default(), known: RefCell::default() }
    }
}

impl<L: Clone + std::hash::Hash + Eq> Counters<L> {
    fn count(&self, family: &Family<L, Counter>, labels: L) {
        let mut last = self.last.borrow_mut();
        if let Some((known, counter)) = &*last
            && *known == labels
        {
            counter.inc();
            return;
        }
        let mut known = self.known.borrow_mut();
        let counter = known.entry(labels.clone());
        let counter = counter.or_insert_with_key(|labels| family.get_or_create_owned(labels));
        counter.inc();
        *last = Some((labels, counter.clone()));
    }
}
