//! Revocations, as the operator API takes and gives them.

use serde::{Deserialize, Serialize};

/// `POST /api/v1/revocations`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revoke {
    /// `jti`, `sub`, `kid`, `issuer`, `identity` or `serial`.
    pub kind: String,
    /// Which one.
    pub value: String,
    /// With `jti`, `sub` and `kid`: of this issuer's tokens only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// With `sub`: tokens that are issued from now on, too.
    pub also_later: bool,
    /// How long what it concerns may still live, such as `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#for: Option<String>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to a revocation, and to one that is lifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// What stands now, or stood.
    pub revocation: Revocation,
    /// The list that holds the change: proxies report the revision that they enforce.
    pub revision: u64,
    /// False for a serial number that was not issued here.
    pub is_known: bool,
    /// The certificate that has replaced the one with this serial number: it is not revoked.
    pub successor: Option<String>,
}

/// `GET /api/v1/revocations`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Names the list; another one with each change.
    pub revision: u64,
    /// Oldest first.
    pub revocations: Vec<Revocation>,
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Names it.
    pub id: String,
    /// What it is about.
    pub kind: String,
    /// Which one.
    pub value: String,
    /// Of this issuer's tokens only.
    pub issuer: Option<String>,
    /// Only tokens that were issued until then.
    pub issued_until: Option<String>,
    /// When it was made.
    pub revoked_at: String,
    /// By whom.
    pub revoked_by: String,
    /// When it ends; none: it stands until it is lifted.
    pub until: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
}
