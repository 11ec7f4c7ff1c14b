//! Searching the audit records.

use serde::{Deserialize, Serialize};

/// The query of `GET /api/v1/audit/records` and `GET /api/v1/audit/groups`. Every part that is set has to match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditQuery {
    /// A filter (`docs/search.md`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The record with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The trace, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The span, 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<String>,
    /// The decision named by `x-picket-decision-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// The caller: a SPIFFE ID, or `namespace/service account`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The called workload: likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The workload whose proxy made the record: likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emitter: Option<String>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A prefix of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The status: `403`, or a class such as `4xx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// `allow` or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// The policy that decided, `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The code of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `request`, `connection` or `event`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The act of the control plane, such as `enrollment.join`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// `inbound` or `outbound`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Only for groups: the facts to group by, such as `source,destination`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Continue after this cursor ([`AuditPage::next`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The last records before this cursor ([`AuditPage::previous`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The last `limit` matching records in place of the first ones; of `after`, `before` and `latest` only one can
    /// be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// With `after`: if nothing has come yet, answer when something has, or after this time (at most 30 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// At most this many records (1 to 5000; default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `GET /api/v1/audit/records`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditPage {
    /// In the order of their arrival, flat, with the names of `docs/audit-attributes.md`.
    pub records: Vec<serde_json::Map<String, serde_json::Value>>,
    /// Where to continue, now or after more have arrived.
    pub next: String,
    /// Where to continue towards the beginning.
    pub previous: String,
    /// Whether there may be more in the direction of the search already. A page can be empty nevertheless: it ends
    /// when it took too long.
    pub more: bool,
}

/// `GET /api/v1/audit/groups`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditGroups {
    /// What is grouped by.
    pub by: Vec<String>,
    /// The largest first.
    pub groups: Vec<AuditGroup>,
    /// All groups.
    pub total: u64,
    /// Records in all groups.
    pub records: u64,
    /// Where to continue.
    pub next: String,
    /// Whether there are more.
    pub more: bool,
}

/// Records with the same facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditGroup {
    /// The facts, by name; null where records have none.
    pub key: serde_json::Map<String, serde_json::Value>,
    /// How many records there are.
    pub records: u64,
    /// Start of the first.
    pub first: String,
    /// Start of the last.
    pub last: String,
    /// Half of them took at most so many microseconds, to three in a hundred.
    pub p50_us: u64,
    /// So did 95 in a hundred.
    pub p95_us: u64,
}
