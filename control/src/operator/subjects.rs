//! How records name the subjects of tokens.

use serde::{Deserialize, Serialize};

/// `POST /api/v1/subject-hashes`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashSubject {
    /// The subject, as tokens have it (`sub`).
    pub subject: String,
}

/// The hashes of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectHashes {
    /// One for each key, the latest first.
    pub hashes: Vec<SubjectHash>,
}

/// The hash of a subject under one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectHash {
    /// Names the key: `picket.jwt.subject_key` of the records.
    pub key: String,
    /// Since when it has been given to proxies.
    pub since: String,
    /// Since when another one has; none: it is in force.
    pub until: Option<String>,
    /// `picket.jwt.subject_hash` of the records.
    pub hash: String,
}
