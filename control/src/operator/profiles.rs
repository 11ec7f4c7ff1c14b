//! Profiles, as the operator API gives them.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/profiles`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileList {
    /// SPIFFE IDs of the services that have a profile.
    pub services: Vec<String>,
    /// Pairs of caller and service.
    pub edges: usize,
    /// Callers.
    pub callers: usize,
    /// Records, or items of them, for which there was no room: a flood of identities or paths.
    pub without_room: u64,
}

/// The query of `GET /api/v1/profiles/workload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileQuery {
    /// The SPIFFE ID of the service, or its last part if that is of one service only.
    pub id: String,
}
