//! One recorded decision: what was decided then, and on what.
//!
//! Names: `docs/audit-attributes.md`.

use std::collections::BTreeMap;

use http::Method;
use picket_api::attributes as names;
use picket_certs::SpiffeId;
use picket_policy::{Principal, Recorded, RecordedHttp, RecordedToken, Verdict, Workload};
use serde::Serialize;
use serde_json::{Map, Value};

/// Longest text of a client's choosing in a record; one as long may have been cut.
const MAX_TEXT: usize = 2048;

/// A recorded decision of policies.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) time: String,
    pub(crate) trace: String,
    /// SPIFFE ID of the caller.
    pub(crate) source: Option<String>,
    /// The called workload, with the labels that it had.
    pub(crate) workload: Workload,
    /// The path pattern by which a rule decided.
    pub(crate) route: Option<String>,
    pub(crate) then: Then,
    /// What is known of the request.
    pub(crate) facts: Recorded,
    /// What the record should hold for a second decision and does not.
    pub(crate) missing: Option<&'static str>,
}

/// What was decided then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Then {
    pub(crate) decision: Verdict,
    pub(crate) stage: String,
    pub(crate) policy: Option<String>,
    pub(crate) rule: Option<i64>,
    /// `file:line`
    pub(crate) source: Option<String>,
    pub(crate) reason: String,
    pub(crate) nearest_miss: Option<String>,
    pub(crate) generation: Option<String>,
    pub(crate) decision_id: Option<String>,
}

/// Why a record holds no decision of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It was refused before any policy was asked, whatever they say: no TLS, no certificate, malformed.
    BeforePolicies,
    /// The client went away before anything was decided.
    Undecided,
    /// The record is not understood.
    Unknown,
}

impl Entry {
    pub(crate) fn read(record: &Map<String, Value>) -> Result<Self, Unread> {
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let owned = |name: &str| text(name).map(str::to_owned);
        let then = then(record)?;
        let destination: SpiffeId =
            text(names::DESTINATION).and_then(|id| id.parse().ok()).ok_or(Unread::Unknown)?;
        let labels: BTreeMap<String, String> = list(record, names::LABELS)
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut missing = None;
        let port =
            number(record, names::DESTINATION_PORT).and_then(|port| u16::try_from(port).ok());
        if port.is_none() {
            missing = Some("the port of the service (recorded by an older version)");
        }
        let http = match text(names::METHOD) {
            None => None,
            Some(method) => {
                let path = text(names::URL_PATH).unwrap_or_default();
                if path.len() >= MAX_TEXT - 3 || method.len() >= MAX_TEXT - 3 {
                    missing = Some("the whole path (it is longer than what is recorded)");
                }
                let host = owned(names::SERVER_ADDRESS);
                let host = match (host, number(record, names::SERVER_PORT)) {
                    (Some(host), Some(port)) => Some(format!("{host}:{port}")),
                    (host, _) => host,
                };
                let method = Method::from_bytes(method.as_bytes()).map_err(|_| Unread::Unknown)?;
                Some(RecordedHttp { method, path: path.to_owned(), host })
            }
        };
        let source = owned(names::SOURCE);
        let peer = match &source {
            None => None,
            Some(id) => Some(Principal::from_spiffe_id(id).map_err(|_| Unread::Unknown)?),
        };
        let address = |name| text(name).and_then(|ip| ip.parse::<std::net::IpAddr>().ok());
        let source_ip = address(names::NETWORK_PEER_ADDRESS).map(|ip| ip.to_canonical());
        let facts = Recorded {
            peer,
            source_ip,
            remote_ip: address(names::CLIENT_ADDRESS).or(source_ip),
            port,
            http,
            token: token(record, &then),
            token_rules: owned(names::TOKEN_RULES),
            compared: list(record, names::COMPARED).map(str::to_owned).collect(),
        };
        Ok(Self {
            time: owned("time").unwrap_or_default(),
            trace: owned("trace_id").unwrap_or_default(),
            source,
            workload: Workload {
                namespace: destination.namespace().to_owned(),
                name: destination.service_account().to_owned(),
                labels,
            },
            route: owned(names::ROUTE),
            then,
            facts,
            missing,
        })
    }

    /// `namespace/service account` of the called workload.
    pub(crate) fn destination(&self) -> String {
        format!("{}/{}", self.workload.namespace, self.workload.name)
    }

    /// What policies said then. A request that came too often was permitted by them.
    pub(crate) fn permitted(&self) -> Verdict {
        if self.then.stage == "rate_limit" { Verdict::Allow } else { self.then.decision }
    }
}

fn then(record: &Map<String, Value>) -> Result<Then, Unread> {
    let text = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
    let stage = text(names::STAGE).unwrap_or_default();
    let decision = match text(names::DECISION).as_deref() {
        Some("allow") => Verdict::Allow,
        Some("deny") => Verdict::Deny,
        Some(_) => return Err(Unread::Unknown),
        None => return Err(Unread::Undecided),
    };
    if matches!(stage.as_str(), "connection" | "request") {
        return Err(Unread::BeforePolicies);
    }
    Ok(Then {
        decision,
        stage,
        policy: text(names::POLICY),
        rule: number(record, names::RULE),
        source: text(names::POLICY_SOURCE),
        reason: text(names::REASON).unwrap_or_default(),
        nearest_miss: text(names::NEAREST_MISS),
        generation: text(names::GENERATION),
        decision_id: text(names::DECISION_ID),
    })
}

fn token(record: &Map<String, Value>, then: &Then) -> RecordedToken {
    let text = |name: &str| record.get(name).and_then(Value::as_str);
    match text(names::JWT_ISSUER) {
        _ if then.stage == "request_authentication" => RecordedToken::Refused,
        None => RecordedToken::None,
        Some(issuer) => RecordedToken::Verified {
            issuer: issuer.to_owned(),
            audiences: list(record, names::JWT_AUDIENCES).map(str::to_owned).collect(),
            presenter: text(names::JWT_PRESENTER).map(str::to_owned),
            has_subject: text(names::JWT_SUBJECT_HASH).is_some(),
        },
    }
}

fn number(record: &Map<String, Value>, name: &str) -> Option<i64> {
    record.get(name).and_then(Value::as_i64)
}

fn list<'r>(record: &'r Map<String, Value>, name: &str) -> impl Iterator<Item = &'r str> {
    record.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
