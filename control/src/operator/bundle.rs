//! A bundle: everything that `picket audit verify` needs, one JSON object a line, in this order.
//!
//! `GET /api/v1/audit/bundle` streams one, `picket audit bundle` keeps it in a file. The lines: `bundle`
//! first, then every `checkpoint` and `witness`, then `certificates` and `head`s of lanes; then the log from
//! its first index on, each with what was in it: `record`, or `gone`; a `resource` stands before the first
//! record that names it. `unlogged` and `end` are last. Bytes are base64, hashes hexadecimal.

use serde::{Deserialize, Serialize};

use super::LogWitness;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BundleLine {
    /// What it is.
    Bundle(BundleStart),
    /// A checkpoint of the log that is kept.
    Checkpoint(BundleCheckpoint),
    /// A witness.
    Witness(LogWitness),
    /// Certificates that heads were signed with.
    Certificates {
        /// Names them.
        id: i64,
        /// DER, leaf first.
        chain: Vec<String>,
    },
    /// A signed head of a lane.
    Head(BundleHead),
    /// What an emitter says of itself.
    Resource {
        /// Names it.
        id: i64,
        /// `opentelemetry.proto.resource.v1.Resource`
        bytes: String,
    },
    /// A record.
    Record(BundleRecord),
    /// An entry of the log whose record is not here.
    Gone {
        /// Its index.
        index: u64,
        /// The hash in the log's tile.
        leaf: String,
        /// Whether retention removed it.
        retention: bool,
    },
    /// A row that was found among the records and had not come through the log.
    Unlogged {
        /// The record that it claims to be.
        id: String,
        /// When it was found.
        found_at: String,
    },
    /// Nothing comes after this.
    End {
        /// Lines of kind `record`.
        records: u64,
    },
}

/// What a bundle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStart {
    /// Of this form: 1.
    pub version: u32,
    /// When it was made.
    pub made_at: String,
    /// The log's key, as signed notes write it.
    pub key: String,
    /// The trust domain.
    pub trust_domain: String,
    /// PEM: whom the mesh believes.
    pub authorities: String,
    /// The index of the first entry; a multiple of 256.
    pub first: u64,
    /// The entries of the log, those before `first` included.
    pub size: u64,
    /// From level 0 upwards, the hashes of the unfinished tiles of the first `first` entries.
    pub edge: Vec<Vec<String>>,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleCheckpoint {
    /// The signed note, with the cosignatures that are known.
    pub note: String,
    /// If it is of fewer entries than `first`: that the whole log continues it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<String>,
}

/// A signed head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleHead {
    /// The emitter's SPIFFE ID.
    pub emitter: String,
    /// See `picket.v1.ChainHead`.
    pub boot: String,
    /// Likewise, and so on.
    pub lane: u32,
    #[allow(missing_docs, reason = "as in the message")]
    pub position: u64,
    #[allow(missing_docs, reason = "as in the message")]
    pub hash: String,
    #[allow(missing_docs, reason = "as in the message")]
    pub emitted: u64,
    #[allow(missing_docs, reason = "as in the message")]
    pub open: u64,
    #[allow(missing_docs, reason = "as in the message")]
    pub lost: u64,
    #[allow(missing_docs, reason = "as in the message")]
    pub time_ms: i64,
    /// ASN.1 DER.
    pub signature: String,
    /// Which `certificates`.
    pub certificates: i64,
}

/// A record with what its entry follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    /// Its index in the log.
    pub index: u64,
    /// The hash in the log's tile.
    pub leaf: String,
    /// Of the entry.
    pub emitter: String,
    /// Of the entry.
    pub boot: String,
    /// Of the entry.
    pub lane: i64,
    /// Of the entry.
    pub sequence: i64,
    /// Of the entry.
    pub position: i64,
    /// Which `resource`.
    pub resource: i64,
    /// Absent if the record was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// `opentelemetry.proto.trace.v1.Span`; absent if it was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<String>,
    /// What the entry commits to, if the record was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<String>,
}

/// `POST /api/v1/audit/erase`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// Records.
    pub ids: Vec<String>,
    /// Why, for the record.
    pub reason: String,
}

/// What was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Records that are erased now.
    pub erased: Vec<String>,
    /// Records that are not here, or were erased before.
    pub unknown: Vec<String>,
}
