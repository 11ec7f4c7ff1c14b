//! What the API says of accounts, of the log and of proofs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The query of `GET /api/v1/audit/accounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountsQuery {
    /// From the minute of this time on; left out: of an hour ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Before the minute of this time; left out: the present one is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Only of this emitter: a SPIFFE ID, or `namespace/service account`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emitter: Option<String>,
}

/// `GET /api/v1/audit/accounts`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// The first minute.
    pub since: String,
    /// The minute after the last one.
    pub until: String,
    /// How long a record may be on its way before it is missing.
    pub settle_seconds: u64,
    /// By emitter.
    pub emitters: Vec<EmitterAccount>,
    /// What is missing, lane by lane.
    pub missing: Vec<MissingRecords>,
}

/// The account of one emitter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitterAccount {
    /// Its SPIFFE ID.
    pub emitter: String,
    /// Over all minutes.
    pub total: AccountMinute,
    /// The minutes in which there was anything.
    pub minutes: Vec<AccountMinute>,
}

/// One minute: `emitted = stored + open + pending + lost + missing`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountMinute {
    /// Its begin; empty in a total.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub minute: String,
    /// Records that the emitter has begun.
    pub emitted: u64,
    /// Records that came.
    pub stored: u64,
    /// Records that are begun and not ended, as the newest head says.
    pub open: u64,
    /// Records that should come any moment.
    pub pending: u64,
    /// Records that the emitter declares not to have kept, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Records that should have come and have not.
    pub missing: u64,
}

/// Places of a chain whose records should be here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRecords {
    /// The emitter's SPIFFE ID.
    pub emitter: String,
    /// Its boot.
    pub boot: String,
    /// The lane.
    pub lane: i64,
    /// The first missing position.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// Since when this is known.
    pub since: String,
}

/// `GET /api/v1/log`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// The log's key, as signed notes write it.
    pub key: String,
    /// Entries under the last checkpoint.
    pub size: u64,
    /// The root under the last checkpoint, in hexadecimal.
    pub root: String,
    /// The witnesses that were heard of.
    pub witnesses: Vec<LogWitness>,
}

/// A witness of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogWitness {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Its key, as signed notes write it.
    pub key: String,
    /// The size of the last tree that it cosigned.
    pub size: u64,
    /// The last checkpoint that it cosigned, as a signed note.
    pub note: String,
    /// Why it refuses the log.
    pub refusal: Option<String>,
    /// When it was last heard.
    pub heard_at: String,
}

/// `GET /api/v1/audit/proof`: the proof that a record is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordProof {
    /// The record.
    pub id: String,
    /// Its index in the log.
    pub index: u64,
    /// The entry, whose SHA-256 after a zero byte is the leaf.
    pub entry: String,
    /// The salt, in base64; absent if the record was erased.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub salt: Option<String>,
    /// The resource as it was received, in base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resource: Option<String>,
    /// The span as it was received, in base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub span: Option<String>,
    /// The size of the tree.
    pub size: u64,
    /// The way to the root, from below, in hexadecimal.
    pub path: Vec<String>,
    /// The checkpoint of that tree with its cosignatures, a signed note.
    pub checkpoint: String,
    /// The log's key.
    pub key: String,
    /// The keys of witnesses.
    pub witnesses: Vec<String>,
}
