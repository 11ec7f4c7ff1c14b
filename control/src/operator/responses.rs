//! Responses to alerts, as the operator API gives and takes them.

use serde::{Deserialize, Serialize};

use super::AlertStatus;

/// `GET /api/v1/responses`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseList {
    /// Whether the kill switch is on.
    pub halted: bool,
    /// The last ones, oldest first.
    pub responses: Vec<AlertResponse>,
}

/// What is done about an alert, or suggested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertResponse {
    /// Names it.
    pub id: String,
    /// The alert.
    pub alert: String,
    /// The alert's rule.
    pub rule: String,
    /// The rule's title.
    pub title: String,
    /// What is done: `quarantine`, `webhook`, `revoke` or `limit`.
    pub action: String,
    /// The field of the alert's group that names whom.
    pub of: String,
    /// To whom: a SPIFFE ID, or the subject of tokens.
    pub target: String,
    /// The issuer of these tokens.
    pub issuer: Option<String>,
    /// At which workload it holds: a SPIFFE ID; none: everywhere.
    pub at: Option<String>,
    /// The webhook that is called.
    pub webhook: Option<String>,
    /// The requests that are let through within `per_seconds`, by each replica of a service.
    pub requests: Option<u32>,
    /// The time in which they are counted.
    pub per_seconds: Option<i64>,
    /// Ids of the revocations that it made.
    pub revocations: Vec<String>,
    /// `suggested`, `active`, `done` (what has no end), `reverted`, `expired` or `refused`.
    pub state: String,
    /// Who decides: `suggest` (an operator) or `act` (the rule alone, within the guard rails).
    pub mode: String,
    /// The policy by which it is done, `namespace/name`, if it is done by one.
    pub policy: Option<String>,
    /// How long it stands, in seconds.
    pub ttl_seconds: i64,
    /// When it was suggested or done.
    pub made_at: String,
    /// When it was done.
    pub acted_at: Option<String>,
    /// By whom.
    pub acted_by: Option<String>,
    /// Until when it stands.
    pub until: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// By whom.
    pub ended_by: Option<String>,
    /// Why it was not done, or ended.
    pub why: Option<String>,
}

/// `POST /api/v1/responses/{id}/approve`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovedResponse {
    /// What it has become.
    #[serde(flatten)]
    pub response: AlertResponse,
    /// The generation of the policies by which it is in force; none if none of them is its, or it is not in force yet.
    pub generation: Option<String>,
    /// The revision of the list of revocations in which its own are, if there are any.
    pub revision: Option<u64>,
}

/// `GET /api/v1/responses/{id}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseHistory {
    /// What it is.
    #[serde(flatten)]
    pub response: AlertResponse,
    /// The alert that caused it, with its records; none if it is forgotten.
    pub cause: Option<AlertStatus>,
    /// What happened to it, in order.
    pub steps: Vec<ResponseStep>,
}

/// Something that happened to a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseStep {
    /// When.
    pub at: String,
    /// What, as in the audit trail: `respond.suggest`, `respond.act` …
    pub event: String,
    /// Why it was not done, as a short stable code.
    pub refused: Option<String>,
    /// Who.
    pub actor: String,
    /// More about it in words.
    pub detail: Option<String>,
}

/// `POST /api/v1/responses/{id}/revert`, and `POST /api/v1/responses/halt`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RevertResponse {
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only when halting: what was done does not stand any more either.
    pub revert: bool,
}
