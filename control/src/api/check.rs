//! `/api/v1/check`: what is wrong with the mesh, and what to do about it.
//!
//! Judges what [`super::status`] has collected; looks at nothing by itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;

use super::problem::ApiError;
use super::{alerts, status};
use crate::clock;
use crate::control::Control;
use crate::operator::{
    AlertSink, CheckItem, CheckReport, Level, PolicyOrigin, ProxyState, ProxyStatus, Status,
};
use crate::registry;

/// The authority's certificate should be replaced long before it ends.
const CA_WARNING: Duration = Duration::from_secs(60 * 24 * 3600);
const CA_FAILED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Records in a proxy's spool that are more than a moment's work.
const BACKLOG: u64 = 10_000;

/// `GET`
pub(super) async fn check(
    State(control): State<Arc<Control>>,
) -> Result<Json<CheckReport>, ApiError> {
    let now = SystemTime::now();
    let status = status::collect(&control, now).await?;
    let facts = Facts {
        ca_not_after: control.authority.not_after(),
        certificate_life: control.config.certificate_life,
        is_store_open: control.store.is_open(),
        unaccounted: control.ledger.unaccounted(now).await?,
        tampered: control.ledger.findings(),
        sinks: alerts::states(&control).await?,
        rules_refused: control.detector.rules_refused(),
        misnamed: control.notices.all_misnamed(),
    };
    Ok(Json(report(&status, &facts, now)))
}

/// What the status does not say in a form that can be compared.
pub(super) struct Facts {
    pub(super) ca_not_after: SystemTime,
    pub(super) certificate_life: Duration,
    pub(super) is_store_open: bool,
    /// Records that should be here, lane by lane.
    pub(super) unaccounted: Vec<String>,
    /// Signs of tampering since the start.
    pub(super) tampered: Vec<String>,
    /// Who is told of alerts.
    pub(super) sinks: Vec<AlertSink>,
    /// The directory of detection rules is refused.
    pub(super) rules_refused: bool,
    /// What is wrong with the sinks that rules name.
    pub(super) misnamed: Vec<String>,
}

/// Judges a mesh.
pub(super) fn report(status: &Status, facts: &Facts, now: SystemTime) -> CheckReport {
    let mut items = Items(Vec::new());
    control_plane(&mut items, status, facts);
    identity(&mut items, status, facts, now);
    data_plane(&mut items, status);
    audit(&mut items, status, facts);
    export(&mut items, status);
    told(&mut items, facts);
    let result = items.0.iter().map(|item| item.level).max().unwrap_or(Level::Ok);
    CheckReport { result, items: items.0 }
}

struct Items(Vec<CheckItem>);

impl Items {
    fn add(&mut self, group: &str, name: &str, level: Level, detail: String, fix: &str) {
        let fix = if level == Level::Ok { String::new() } else { fix.to_owned() };
        let (group, name) = (group.to_owned(), name.to_owned());
        self.0.push(CheckItem { group, name, level, detail, fix });
    }
}

const CONTROL_PLANE: &str = "control-plane";
const IDENTITY: &str = "identity";
const DATA_PLANE: &str = "data-plane";
const AUDIT: &str = "audit";
const EXPORT: &str = "export";
const ALERTS: &str = "alerts";

fn control_plane(items: &mut Items, status: &Status, facts: &Facts) {
    let control = &status.control;
    let (level, detail) = match facts.is_store_open {
        true => (Level::Ok, format!("{} audit records", control.audit_records)),
        false => (Level::Failed, "the database no longer takes anything up".to_owned()),
    };
    let fix = "look for a full disk in the log, then restart the control plane";
    items.add(CONTROL_PLANE, "database", level, detail, fix);
    let policy = &control.policy;
    let directory = policy.directory.display();
    let first = policy.diagnostics.iter().find(|d| d.severity == "error");
    let (level, detail) = match (&policy.generation, policy.refused) {
        (None, _) => (Level::Failed, format!("{directory} was never good: no policies are served")),
        (Some(generation), true) => {
            let stays = format!("{directory} is refused, generation {generation} stays in force");
            (Level::Failed, stays)
        }
        (Some(generation), false) => {
            let files = policy.files.len();
            (Level::Ok, format!("generation {generation} from {files} files in {directory}"))
        }
    };
    let detail = first.map_or(detail.clone(), |problem| format!("{detail}: {problem}"));
    items.add(CONTROL_PLANE, "policies", level, detail, "correct the file; it is read at once");
    if policy.origin == PolicyOrigin::Kept && !policy.refused {
        let detail = "the policies are those of the last start".to_owned();
        items.add(CONTROL_PLANE, "policies", Level::Warning, detail, "check the policy directory");
    }
    let warnings = policy.diagnostics.iter().filter(|d| d.severity == "warning");
    for warning in warnings {
        let fix = "see `picket policy lint`";
        items.add(CONTROL_PLANE, "policies", Level::Warning, warning.to_string(), fix);
    }
}

fn identity(items: &mut Items, status: &Status, facts: &Facts, now: SystemTime) {
    let left = facts.ca_not_after.duration_since(now).unwrap_or_default();
    let level = match left {
        left if left < CA_FAILED => Level::Failed,
        left if left < CA_WARNING => Level::Warning,
        _ => Level::Ok,
    };
    let detail = format!("the authority's certificate ends {}", status.control.ca_not_after);
    items.add(
        IDENTITY,
        "authority",
        level,
        detail,
        "make a new one: docs/operations.md, \"A new authority\"",
    );
    let mut all_well = 0;
    for proxy in present(status) {
        let (level, detail) = certificate(proxy, facts, now);
        if level == Level::Ok {
            all_well += 1;
            continue;
        }
        let fix = "see the proxy's log; if its certificate has ended, give it a new join token";
        items.add(IDENTITY, &proxy.workload, level, detail, fix);
    }
    let detail = format!("{all_well} workloads have a fresh certificate");
    items.add(IDENTITY, "certificates", Level::Ok, detail, "");
}

fn certificate(proxy: &ProxyStatus, facts: &Facts, now: SystemTime) -> (Level, String) {
    let Some(certificate) = &proxy.certificate else {
        return (Level::Ok, "not reported yet".to_owned());
    };
    let end = clock::parse_rfc3339(&certificate.not_after).unwrap_or(0) / 1_000_000;
    let left = clock::from_milliseconds(end).duration_since(now).unwrap_or_default();
    let ends = &certificate.not_after;
    if left.is_zero() {
        return (Level::Failed, format!("the certificate has ended at {ends}"));
    }
    match &proxy.renewal_error {
        Some(error) => {
            let level =
                if left < facts.certificate_life / 3 { Level::Failed } else { Level::Warning };
            (level, format!("renewal fails, the certificate ends {ends}: {error}"))
        }
        None if left < facts.certificate_life / 3 => {
            (Level::Warning, format!("the certificate ends {ends} and was not renewed"))
        }
        None => (Level::Ok, String::new()),
    }
}

fn data_plane(items: &mut Items, status: &Status) {
    let mut synced = 0;
    for proxy in &status.proxies {
        let held = if proxy.generation.is_empty() { "none" } else { &proxy.generation };
        let heard = &proxy.last_contact;
        let (level, detail, fix) = match proxy.state {
            ProxyState::Synced => {
                synced += 1;
                continue;
            }
            ProxyState::Stale => {
                (Level::Failed, stale(proxy, status), "if it stays so, see the proxy's log")
            }
            ProxyState::Refused => (
                Level::Failed,
                format!(
                    "refused the current generation, enforces {held}: {}",
                    proxy.refusal.as_deref().unwrap_or_default()
                ),
                "bring proxy and control plane to the same version",
            ),
            ProxyState::Revoked => (
                Level::Warning,
                "its certificate is revoked".to_owned(),
                "nothing, if that is meant; else see `picket certificate revocations`",
            ),
            ProxyState::Silent => (
                Level::Failed,
                format!("not heard of since {heard}"),
                "see whether the proxy runs and reaches the control plane",
            ),
            ProxyState::Gone => (
                Level::Warning,
                format!("gone since {heard}"),
                "nothing, if it was meant to end; it will be forgotten after an hour",
            ),
        };
        items.add(DATA_PLANE, &proxy.workload, level, detail, fix);
    }
    let detail =
        format!("{synced} of {} proxies enforce the current policies", status.proxies.len());
    items.add(DATA_PLANE, "proxies", Level::Ok, detail, "");
    for proxy in present(status) {
        let offset = proxy.clock_offset_ms.unwrap_or(0);
        if registry::is_off(offset) {
            let detail = format!("its clock is {offset} ms off ours");
            let fix = "let NTP set both clocks: certificates and tokens depend on them";
            items.add(DATA_PLANE, &proxy.workload, Level::Warning, detail, fix);
        }
    }
}

/// What a proxy lacks that others have.
fn stale(proxy: &ProxyStatus, status: &Status) -> String {
    let held = if proxy.generation.is_empty() { "none" } else { &proxy.generation };
    let current = status.control.revocations.revision;
    match status.control.policy.generation.as_deref() == Some(&proxy.generation) {
        true => format!(
            "enforces revision {} of the revocations, not {current}, the current one",
            proxy.revocations
        ),
        false => format!("enforces generation {held}, not the current one"),
    }
}

fn audit(items: &mut Items, status: &Status, facts: &Facts) {
    let missing = status.control.audit_missing;
    let detail = format!("{} records, {missing} numbers missing", status.control.audit_records);
    if !facts.tampered.is_empty() {
        let fix = "find out with `picket audit verify`, and keep a copy of the database as it is";
        items.add(AUDIT, "tampering", Level::Failed, facts.tampered.join("; "), fix);
    }
    if !facts.unaccounted.is_empty() {
        let first: Vec<&str> = facts.unaccounted.iter().take(5).map(String::as_str).collect();
        let fix =
            "see `picket audit accounts`, and `picket audit verify` for whether they ever came";
        items.add(AUDIT, "accounts", Level::Failed, first.join("; "), fix);
    }
    // Numbers may be on their way; that records are lost is said by the proxies themselves.
    items.add(AUDIT, "store", Level::Ok, detail, "");
    for proxy in present(status) {
        let Some(account) = &proxy.audit else { continue };
        if account.lost > 0 {
            let detail = format!("{} records are declared lost", account.lost);
            let fix = "see the proxy's log; give its state directory more space";
            items.add(AUDIT, &proxy.workload, Level::Failed, detail, fix);
        }
        if account.pending > BACKLOG {
            let detail = format!("{} records wait in its spool", account.pending);
            let fix = "they arrive by themselves, unless the number keeps growing";
            items.add(AUDIT, &proxy.workload, Level::Warning, detail, fix);
        }
        if account.spool_limit > 0 && account.spool_bytes / 4 > account.spool_limit / 5 {
            let share = account.spool_bytes.saturating_mul(100) / account.spool_limit;
            let detail = format!("its spool is {share} % full");
            let fix = "reads are not recorded from 95 % on, and state is not changed at 100 %: \
                       see why records do not arrive, or raise audit.maxSize";
            items.add(AUDIT, &proxy.workload, Level::Warning, detail, fix);
        }
        if account.acknowledged > account.stored {
            let lacking = account.acknowledged - account.stored;
            let detail = format!("{lacking} acknowledged records are not in the store");
            let fix =
                "either they were rejected (see its dead letters), or the store was rolled back";
            items.add(AUDIT, &proxy.workload, Level::Failed, detail, fix);
        }
    }
}

fn export(items: &mut Items, status: &Status) {
    let Some(export) = &status.control.export else {
        let detail = "no OTLP endpoint is configured".to_owned();
        return items.add(EXPORT, "traces", Level::Ok, detail, "");
    };
    let mut progress = format!("{} sent, {} to look at", export.sent, export.behind);
    if export.dropped > 0 {
        progress.push_str(&format!(", {} not sampled", export.dropped));
    }
    let (level, detail) = match (&export.error, &export.failing_since) {
        (Some(error), since) => {
            let since = since.as_deref().unwrap_or("now");
            (Level::Failed, format!("{} fails since {since}: {error}; {progress}", export.endpoint))
        }
        (None, _) => (Level::Ok, format!("{}: {progress}", export.endpoint)),
    };
    items.add(EXPORT, "traces", level, detail, "see whether the endpoint is up and takes OTLP");
    if export.skipped > 0 {
        let detail =
            format!("{} spans were skipped: the endpoint would not take them", export.skipped);
        items.add(EXPORT, "traces", Level::Warning, detail, "see the control plane's log");
    }
}

fn told(items: &mut Items, facts: &Facts) {
    let (level, detail) = match facts.rules_refused {
        true => (Level::Failed, "the directory is refused, other rules are at work"),
        false => (Level::Ok, "those of the configuration are at work"),
    };
    let fix =
        "see what is wrong with them: picket rules lint, picket audit search --event rules.load";
    items.add(ALERTS, "rules", level, detail.to_owned(), fix);
    for words in &facts.misnamed {
        let fix = "correct `notify` of the rule, or `alerts.sinks`";
        items.add(ALERTS, "sinks of rules", Level::Warning, words.clone(), fix);
    }
    for sink in &facts.sinks {
        let (level, detail) = match &sink.error {
            Some(error) if sink.pending > 0 => {
                (Level::Failed, format!("{} notices wait: {error}", sink.pending))
            }
            _ if sink.given_up > 0 => {
                (Level::Warning, format!("{} notices were given up", sink.given_up))
            }
            _ => (Level::Ok, format!("{} delivered", sink.delivered)),
        };
        let fix = "see whether it is up and takes what it is sent: picket alerts test";
        items.add(ALERTS, &sink.name, level, detail, fix);
    }
}

/// The proxies that are still there, and should be.
fn present(status: &Status) -> impl Iterator<Item = &ProxyStatus> {
    let is_present =
        |proxy: &&ProxyStatus| !matches!(proxy.state, ProxyState::Gone | ProxyState::Revoked);
    status.proxies.iter().filter(is_present)
}

#[cfg(test)]
mod tests;
