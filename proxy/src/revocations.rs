//! What is revoked: tokens and certificates that are refused although all else about them is right.
//!
//! One immutable list, made anew with each change, part of the snapshot and kept with the last good
//! configuration; looking something up takes no lock and allocates nothing. Who may revoke, and for
//! how long an entry is kept, is the control plane's business.

use std::collections::HashMap;
use std::sync::Arc;

use picket_api::v1;
use picket_certs::{Leaf, Revoked};
use picket_policy::jwt::VerifiedToken;

use crate::peer::Peer;

/// A token is good for this many seconds after its end (`CLOCK_SKEW` of the verifier), and so is an
/// entry.
const CLOCK_SKEW: u64 = 60;

/// Entries of one list: what the control plane keeps, and some.
const MAX_ENTRIES: usize = 20_000;

/// Why a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRevocation {
    #[error("the revocation {id} is of a kind that this version does not know ({kind})")]
    Kind { id: String, kind: i32 },
    #[error("the revocation {0} names nothing")]
    Empty(String),
    #[error("the list has {0} entries, more than {MAX_ENTRIES}")]
    TooMany(usize),
}

/// The list in force.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    revision: u64,
    length: usize,
    token_ids: Entries,
    subjects: Entries,
    keys: Entries,
    issuers: Entries,
    certificates: Arc<RevokedCertificates>,
}

/// The part about certificates, which TLS configurations hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RevokedCertificates {
    identities: Entries,
    serials: Entries,
}

/// By what they name; one value can be revoked for several issuers.
type Entries = HashMap<Box<str>, Vec<Entry>>;

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    id: Arc<str>,
    /// None: of any issuer.
    issuer: Option<Box<str>>,
    /// None: whenever it was issued.
    issued_until: Option<u64>,
    /// None: until it is lifted.
    until: Option<u64>,
}

impl Revocations {
    /// Checks a list as it was received; one entry that is not understood refuses all.
    pub(crate) fn new(list: &v1::RevocationList) -> Result<Self, BadRevocation> {
        if list.entries.len() > MAX_ENTRIES {
            return Err(BadRevocation::TooMany(list.entries.len()));
        }
        let mut this =
            Self { revision: list.revision, length: list.entries.len(), ..Self::default() };
        let mut certificates = RevokedCertificates::default();
        for entry in &list.entries {
            let unknown = BadRevocation::Kind { id: entry.id.clone(), kind: entry.kind };
            let entries = match entry.kind() {
                v1::RevocationKind::Unspecified => return Err(unknown),
                v1::RevocationKind::TokenId => &mut this.token_ids,
                v1::RevocationKind::TokenSubject => &mut this.subjects,
                v1::RevocationKind::TokenKey => &mut this.keys,
                v1::RevocationKind::TokenIssuer => &mut this.issuers,
                v1::RevocationKind::Identity => &mut certificates.identities,
                v1::RevocationKind::Certificate => &mut certificates.serials,
            };
            if entry.value.is_empty() {
                return Err(BadRevocation::Empty(entry.id.clone()));
            }
            let time = |seconds: i64| u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
            entries.entry(entry.value.as_str().into()).or_default().push(Entry {
                id: entry.id.as_str().into(),
                issuer: Some(entry.issuer.as_str()).filter(|i| !i.is_empty()).map(Into::into),
                issued_until: time(entry.issued_until),
                until: time(entry.until),
            });
        }
        this.certificates = Arc::new(certificates);
        Ok(this)
    }

    /// Names the list; 0 if there is none.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn certificates(&self) -> &Arc<RevokedCertificates> {
        &self.certificates
    }

    /// The entry that revokes a token, at a time in seconds since 1970.
    pub(crate) fn token(&self, token: &VerifiedToken, now: u64) -> Option<&Arc<str>> {
        if self.length == 0 {
            return None;
        }
        let issuer = token.issuer();
        let concerns = |entry: &&Entry| {
            let is_of_issuer = entry.issuer.as_deref().is_none_or(|wanted| Some(wanted) == issuer);
            // A token that does not say when it was issued may be an old one.
            let is_old = entry
                .issued_until
                .is_none_or(|until| token.issued_at().is_none_or(|issued| issued <= until));
            is_of_issuer && is_old && entry.stands(now)
        };
        [
            (&self.token_ids, token.id()),
            (&self.subjects, token.subject()),
            (&self.keys, token.key_id()),
            (&self.issuers, issuer),
        ]
        .into_iter()
        .find_map(|(entries, value)| entries.get(value?)?.iter().find(concerns))
        .map(|entry| &entry.id)
    }

    /// The entry that revokes a peer's certificate, at a time in seconds since 1970.
    pub(crate) fn certificate(&self, peer: &Peer, now: u64) -> Option<&Arc<str>> {
        self.certificates.find(&peer.id, &peer.serial, now)
    }
}

impl RevokedCertificates {
    /// The entry that revokes a certificate, at a time in seconds since 1970.
    pub(crate) fn find(&self, id: &str, serial: &str, now: u64) -> Option<&Arc<str>> {
        [(&self.identities, id), (&self.serials, serial)]
            .into_iter()
            .find_map(|(entries, value)| entries.get(value)?.iter().find(|e| e.stands(now)))
            .map(|entry| &entry.id)
    }
}

impl Revoked for RevokedCertificates {
    fn is_revoked(&self, leaf: &Leaf, now: u64) -> bool {
        self.find(leaf.identity.as_str(), &leaf.serial, now).is_some()
    }
}

impl Entry {
    fn stands(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now <= until.saturating_add(CLOCK_SKEW))
    }
}

#[cfg(test)]
mod tests;
