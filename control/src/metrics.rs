//! What the control plane counts, in OpenMetrics text.
//!
//! Counters are moved where things happen; what can be looked up (proxies, records, ends of
//! certificates) is looked up when somebody asks. Labels have few values: no path, no identity.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::operator::{ProxyState, Status};

/// How something that was asked for ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted,
    Refused,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
        }
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Real = Gauge<f64, AtomicU64>;

/// The counters, and the gauges that are set when they are read.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    enrollments: Family<Labels<2>, Counter>,
    policy_loads: Family<Labels<1>, Counter>,
    ingested: Family<Labels<1>, Counter>,
    exported: Family<Labels<1>, Counter>,
    proxies: Family<Labels<1>, Gauge>,
    records: Gauge,
    missing: Gauge,
    unaccounted: Gauge,
    tampers: Counter,
    policies_refused: Gauge,
    export_behind: Gauge,
    export_failing: Gauge,
    alerts: Family<Labels<1>, Counter>,
    held: Counter,
    digested: Counter,
    demoted: Gauge,
    deliveries: Family<[(&'static str, String); 2], Counter>,
    waiting: Family<[(&'static str, String); 1], Gauge>,
    detection_behind: Gauge,
    detection_failures: Family<Labels<1>, Counter>,
    detection_seen: Real,
    ca_expiry: Real,
    started: Real,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Mutex::default(),
            enrollments: Family::default(),
            policy_loads: Family::default(),
            ingested: Family::default(),
            exported: Family::default(),
            proxies: Family::default(),
            records: Gauge::default(),
            missing: Gauge::default(),
            unaccounted: Gauge::default(),
            tampers: Counter::default(),
            policies_refused: Gauge::default(),
            export_behind: Gauge::default(),
            export_failing: Gauge::default(),
            alerts: Family::default(),
            held: Counter::default(),
            digested: Counter::default(),
            demoted: Gauge::default(),
            deliveries: Family::default(),
            waiting: Family::default(),
            detection_behind: Gauge::default(),
            detection_failures: Family::default(),
            detection_seen: Gauge::default(),
            ca_expiry: Gauge::default(),
            started: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("picket_control");
        registry.register(
            "enrollments",
            "Certificates that workloads asked for",
            metrics.enrollments.clone(),
        );
        registry.register(
            "policy_loads",
            "Changed policy directories, taken up or refused",
            metrics.policy_loads.clone(),
        );
        registry.register(
            "audit_ingested_records",
            "Audit records that were received",
            metrics.ingested.clone(),
        );
        registry.register(
            "exported_spans",
            "Spans forwarded to the OTLP endpoint, skipped because it would not take them, or not sampled",
            metrics.exported.clone(),
        );
        registry.register("proxies", "Proxies by state", metrics.proxies.clone());
        registry.register("audit_records", "Audit records in the store", metrics.records.clone());
        registry.register(
            "audit_missing_records",
            "Sequence numbers missing below the highest of each lane",
            metrics.missing.clone(),
        );
        registry.register(
            "audit_unaccounted_records",
            "Records that signed heads tell of, that have not come in time and are not declared lost",
            metrics.unaccounted.clone(),
        );
        registry.register(
            "audit_tampers",
            "Signs of tampering with the audit trail, each counted once",
            metrics.tampers.clone(),
        );
        registry.register(
            "policies_refused",
            "1 while the policy directory is refused",
            metrics.policies_refused.clone(),
        );
        registry.register(
            "export_behind_records",
            "Records of the store that the export has not come to yet",
            metrics.export_behind.clone(),
        );
        registry.register(
            "export_failing",
            "1 while the export fails",
            metrics.export_failing.clone(),
        );
        registry.register("alerts", "Alerts that were raised", metrics.alerts.clone());
        registry.register(
            "alert_notices_held",
            "Notices that nobody was sent, because their alert flaps",
            metrics.held.clone(),
        );
        registry.register(
            "alerts_digested",
            "Alerts that nobody was told of by themselves, because their rule is over its budget",
            metrics.digested.clone(),
        );
        registry.register(
            "rules_demoted",
            "Detection rules that are over their budget of alerts",
            metrics.demoted.clone(),
        );
        registry.register(
            "alert_deliveries",
            "Attempts to tell a sink of an alert",
            metrics.deliveries.clone(),
        );
        registry.register(
            "alert_sink_pending",
            "Notices that wait for a sink",
            metrics.waiting.clone(),
        );
        registry.register(
            "detection_behind_records",
            "Records that were committed and that the detector has not looked at yet",
            metrics.detection_behind.clone(),
        );
        registry.register(
            "detection_failures",
            "How often the detector failed, panicked, could not keep what it found, or left a record out",
            metrics.detection_failures.clone(),
        );
        registry.register(
            "detection_seen_timestamp_seconds",
            "When the detector was last seen to be at work",
            metrics.detection_seen.clone(),
        );
        registry.register(
            "ca_expiry_timestamp_seconds",
            "End of the certificate authority's certificate",
            metrics.ca_expiry.clone(),
        );
        registry.register(
            "start_time_seconds",
            "When the control plane began to serve",
            metrics.started.clone(),
        );
        metrics.registry = Mutex::new(registry);
        metrics
    }

    /// A workload asked for its first certificate.
    pub(crate) fn joined(&self, outcome: Outcome) {
        let labels = [("kind", "join"), ("outcome", outcome.as_str())];
        self.enrollments.get_or_create(&labels).inc();
    }

    /// A workload asked for a further certificate.
    pub(crate) fn renewed(&self, outcome: Outcome) {
        let labels = [("kind", "renew"), ("outcome", outcome.as_str())];
        self.enrollments.get_or_create(&labels).inc();
    }

    /// The policy directory changed.
    pub(crate) fn policies_loaded(&self, outcome: Outcome) {
        self.policy_loads.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }

    /// Audit records came in.
    pub(crate) fn ingested(&self, new: u64, duplicates: u64, rejected: u64) {
        self.ingested.get_or_create(&[("outcome", "stored")]).inc_by(new);
        self.ingested.get_or_create(&[("outcome", "duplicate")]).inc_by(duplicates);
        self.ingested.get_or_create(&[("outcome", "rejected")]).inc_by(rejected);
    }

    /// So many records should be here and are not.
    pub(crate) fn missing_records(&self, count: u64) {
        self.unaccounted.set(signed(count));
    }

    /// Somebody has tampered with the audit trail.
    pub(crate) fn tampered(&self) {
        self.tampers.inc();
    }

    /// Spans were forwarded, given up, or not sampled.
    pub(crate) fn exported(&self, sent: u64, skipped: u64, dropped: u64) {
        self.exported.get_or_create(&[("outcome", "sent")]).inc_by(sent);
        self.exported.get_or_create(&[("outcome", "skipped")]).inc_by(skipped);
        self.exported.get_or_create(&[("outcome", "dropped")]).inc_by(dropped);
    }

    /// An alert was raised.
    pub(crate) fn alerted(&self, severity: &'static str) {
        self.alerts.get_or_create(&[("severity", severity)]).inc();
    }

    /// A notice is held, because its alert flaps.
    pub(crate) fn held(&self) {
        self.held.inc();
    }

    /// An alert is kept for a digest.
    pub(crate) fn digested(&self) {
        self.digested.inc();
    }

    /// So many rules are over their budget.
    pub(crate) fn demoted(&self, rules: usize) {
        self.demoted.set(i64::try_from(rules).unwrap_or(i64::MAX));
    }

    /// A sink was told of an alert, or was not.
    pub(crate) fn delivered(&self, sink: &str, outcome: &str) {
        let labels = [("sink", sink.to_owned()), ("outcome", outcome.to_owned())];
        self.deliveries.get_or_create(&labels).inc();
    }

    /// So many notices wait for a sink.
    pub(crate) fn waiting(&self, sink: &str, notices: u64) {
        self.waiting.get_or_create(&[("sink", sink.to_owned())]).set(signed(notices));
    }

    /// So many records wait for the detector, which was last seen so many seconds after 1970.
    pub(crate) fn detection(&self, behind: u64, seen: f64) {
        self.detection_behind.set(signed(behind));
        self.detection_seen.set(seen);
    }

    /// The detector failed in a way.
    pub(crate) fn detector_failed(&self, kind: &'static str) {
        self.detection_failures.get_or_create(&[("kind", kind)]).inc();
    }

    #[cfg(test)]
    pub(crate) fn detector_failures(&self, kind: &'static str) -> u64 {
        self.detection_failures.get_or_create(&[("kind", kind)]).get()
    }

    /// Everything, with what `status` says of now; times in seconds since 1970.
    pub(crate) fn text(&self, status: &Status, (started, ca_expiry): (f64, f64)) -> String {
        let counts: &BTreeMap<ProxyState, u64> = &status.control.proxies;
        for (state, name) in [
            (ProxyState::Synced, "synced"),
            (ProxyState::Stale, "stale"),
            (ProxyState::Refused, "refused"),
            (ProxyState::Revoked, "revoked"),
            (ProxyState::Silent, "silent"),
            (ProxyState::Gone, "gone"),
        ] {
            let count = counts.get(&state).copied().unwrap_or(0);
            self.proxies.get_or_create(&[("state", name)]).set(signed(count));
        }
        self.records.set(signed(status.control.audit_records));
        self.missing.set(signed(status.control.audit_missing));
        self.policies_refused.set(status.control.policy.refused.into());
        let export = status.control.export.as_ref();
        self.export_behind.set(signed(export.map_or(0, |e| e.behind)));
        self.export_failing.set(export.is_some_and(|e| e.error.is_some()).into());
        self.ca_expiry.set(ca_expiry);
        self.started.set(started);
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = text::encode(&mut out, &registry) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        out
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
