//! What the operator API takes and gives, as plain data: the server and the `picket` command share it.
//!
//! Every name is part of the interface: fields are added, never renamed. Times are RFC 3339 in UTC.
//! Nothing here decides anything.

mod alerts;
mod audit;
mod bundle;
mod ledger;
mod policies;
mod profiles;
mod responses;
mod revocations;
mod subjects;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use alerts::{
    AcknowledgeAlert, AlertPage, AlertQuery, AlertSilence, AlertSilences, AlertSink, AlertSinks,
    AlertState, AlertStatus, DetectionRule, DetectionRules, SilenceAlerts, TestAlerts,
};
pub use audit::{AuditGroup, AuditGroups, AuditPage, AuditQuery};
pub use bundle::{
    BundleCheckpoint, BundleHead, BundleLine, BundleRecord, BundleStart, Erase, Erased,
};
pub use ledger::{
    AccountMinute, Accounts, AccountsQuery, EmitterAccount, LogStatus, LogWitness, MissingRecords,
    RecordProof,
};
pub use policies::{
    AppliedPolicies, ApplyPolicies, PoliciesInForce, PolicyDocument, PolicyFile, PolicySettings,
    UnknownSetting,
};
pub use profiles::{ProfileList, ProfileQuery};
pub use responses::{
    AlertResponse, ApprovedResponse, ResponseHistory, ResponseList, ResponseStep, RevertResponse,
};
pub use revocations::{Revocation, Revocations, Revoke, Revoked};
pub use subjects::{HashSubject, SubjectHash, SubjectHashes};

/// `addresses.json` of the state directory, and what the ready signal tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The listener for proxies.
    pub proxies: SocketAddr,
    /// The listener for operators, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operators: Option<SocketAddr>,
    /// The listener of `/livez` and `/readyz`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health: Option<SocketAddr>,
    /// The listener of `/metrics`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metrics: Option<SocketAddr>,
    /// The operators' unix socket.
    pub socket: PathBuf,
}

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name of the kind of problem.
    pub r#type: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong and what to do.
    pub detail: String,
}

/// `GET /api/v1/status`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The control plane itself.
    pub control: ControlStatus,
    /// Every proxy that is known, by workload.
    pub proxies: Vec<ProxyStatus>,
}

/// The control plane itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Version of Picket.
    pub version: String,
    /// When the process began to serve.
    pub started_at: String,
    /// Its own identity.
    pub spiffe_id: String,
    /// The trust domain.
    pub trust_domain: String,
    /// End of the authority's certificate.
    pub ca_not_after: String,
    /// The policies.
    pub policy: PolicyStatus,
    /// The revocations.
    #[serde(default)]
    pub revocations: RevocationStatus,
    /// Proxies by state.
    pub proxies: BTreeMap<ProxyState, u64>,
    /// Audit records in the store.
    pub audit_records: u64,
    /// Numbers that are missing in the store below the highest of each emitter's lanes.
    pub audit_missing: u64,
    /// The export of traces, if one is configured.
    pub export: Option<ExportStatus>,
}

/// How many revocations there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationStatus {
    /// The revision of the list.
    pub revision: u64,
    /// Its entries.
    pub entries: u64,
}

/// `GET /api/v1/policies`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The directory.
    pub directory: PathBuf,
    /// The generation in force; none while no good set was ever seen.
    pub generation: Option<String>,
    /// Since when it is in force.
    pub loaded_at: Option<String>,
    /// Where the set in force came from.
    pub origin: PolicyOrigin,
    /// Whether the directory's present content is refused, so that an older set is in force.
    pub refused: bool,
    /// Its files, relative to the directory.
    pub files: Vec<String>,
    /// What is wrong with the directory's present content, or worth a warning.
    pub diagnostics: Vec<Diagnostic>,
}

/// Where the policy set in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyOrigin {
    /// There is none yet.
    None,
    /// The directory as it was when it was last good, in this process.
    Directory,
    /// The last good set of an earlier process, because the directory has never been good in this one.
    Kept,
}

/// One problem of one policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, relative to the policy directory.
    pub file: String,
    /// Line, from one.
    pub line: u32,
    /// Column in characters, from one.
    pub column: u32,
    /// `error` or `warning`.
    pub severity: String,
    /// A stable code.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, line, column, severity, code, message, help } = self;
        write!(f, "{file}:{line}:{column}: {severity}[{code}]: {message}")?;
        if help.is_empty() { Ok(()) } else { write!(f, " ({help})") }
    }
}

/// How a proxy stands to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyState {
    /// It enforces the current generation and the current revocations.
    Synced,
    /// It enforces an older generation or older revocations, or none.
    Stale,
    /// It refused the current generation.
    Refused,
    /// Its certificate is revoked: it is told nothing more.
    Revoked,
    /// Nothing was heard of it for longer than it should be silent.
    Silent,
    /// Its lease has ended; peers are no longer told of it.
    Gone,
}

/// One proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// `namespace/service account`.
    pub workload: String,
    /// Its identity.
    pub spiffe_id: String,
    /// The service that it announces; empty if it only calls.
    pub service: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is reached.
    pub endpoints: Vec<Endpoint>,
    /// The boot of the process.
    pub boot: String,
    /// Its version of Picket.
    pub version: String,
    /// How it stands to the configuration.
    pub state: ProxyState,
    /// Whether its stream is open.
    pub connected: bool,
    /// The generation that it enforces; empty if none.
    pub generation: String,
    /// The revision of the revocation list that it enforces; 0 if none.
    #[serde(default)]
    pub revocations: u64,
    /// Why it refused the current generation.
    pub refusal: Option<String>,
    /// How long it took from receipt to enforcement, in microseconds.
    pub applied_in_us: Option<u64>,
    /// Its certificate, as it reports it.
    pub certificate: Option<Certificate>,
    /// Why the last renewal failed; none if it did not.
    pub renewal_error: Option<String>,
    /// When it was last heard of.
    pub last_contact: String,
    /// Its clock minus ours, in milliseconds, the way here included.
    pub clock_offset_ms: Option<i64>,
    /// Its account of this boot's audit records.
    pub audit: Option<AuditAccount>,
}

/// Where a proxy accepts mTLS for one port of its service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IP address and port.
    pub address: SocketAddr,
    /// The port by which callers address the service.
    pub service_port: u16,
    /// `http`, `http2` or `tcp`.
    pub protocol: String,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// End of its life.
    pub not_after: String,
}

/// What a proxy says of its audit records, and what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAccount {
    /// Records it has made since its start.
    pub emitted: u64,
    /// Records that were acknowledged to it.
    pub acknowledged: u64,
    /// Records that still lie in its spool.
    pub pending: u64,
    /// Records that it declares lost.
    pub lost: u64,
    /// Records of this boot in the control plane's store.
    pub stored: u64,
    /// Bytes of its spool on disk.
    #[serde(default)]
    pub spool_bytes: u64,
    /// What it may take; 0 if the proxy did not say.
    #[serde(default)]
    pub spool_limit: u64,
}

/// `POST /api/v1/join-tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// Whom it shall admit: `namespace/service account`.
    pub workload: String,
    /// How long it is good for, such as `10m`.
    pub ttl: String,
}

/// A new join token. The only time that it can be seen.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The token.
    pub token: String,
    /// Names the token in lists and records.
    pub id: String,
    /// Whom it admits.
    pub spiffe_id: String,
    /// When it ends.
    pub expires_at: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// `GET /api/v1/join-tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokens {
    /// Newest first.
    pub tokens: Vec<ListedJoinToken>,
}

/// A join token, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedJoinToken {
    /// The first digits of its hash.
    pub id: String,
    /// Whom it admits.
    pub spiffe_id: String,
    /// When it was made.
    pub created_at: String,
    /// By whom.
    pub created_by: String,
    /// When it ends.
    pub expires_at: String,
    /// When it was used.
    pub used_at: Option<String>,
}

/// `POST /api/v1/operators`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateOperator {
    /// Whose certificate it is.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// Life of the certificate, such as `30d`.
    pub ttl: String,
    /// PKCS #10 in DER, in base64. The key stays with whoever asks.
    pub signing_request: String,
}

/// An operator's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedOperator {
    /// The identity.
    pub spiffe_id: String,
    /// The certificate's serial number.
    pub serial: String,
    /// The end of its life.
    pub not_after: String,
    /// PEM, leaf first.
    pub certificate_chain: String,
    /// PEM: whom to believe when calling the control plane.
    pub bundle: String,
}

/// `GET /api/v1/bundle`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The trust domain.
    pub trust_domain: String,
    /// PEM.
    pub pem: String,
    /// Names exactly this set of authorities.
    pub fingerprint: String,
}

/// The export of traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// Where to.
    pub endpoint: String,
    /// Records that were sent.
    pub sent: u64,
    /// Records that the receiver would not take.
    pub skipped: u64,
    /// Records of traces that were not sampled.
    #[serde(default)]
    pub dropped: u64,
    /// Rows of the store that have not been looked at yet.
    pub behind: u64,
    /// Why the last attempt failed; none if it did not.
    pub error: Option<String>,
    /// Since when attempts fail.
    pub failing_since: Option<String>,
}

/// `GET /api/v1/check`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The worst level of all items.
    pub result: Level,
    /// In the order in which they should be read.
    pub items: Vec<CheckItem>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckItem {
    /// `control-plane`, `identity`, `data-plane`, `audit` or `export`.
    pub group: String,
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do; empty if all is well.
    pub fix: String,
}

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It will need attention.
    Warning,
    /// It needs attention now.
    Failed,
}
