//! Who the peer is, or why that is not known.
//!
//! The TLS verifier has already checked the chain; what is read here is the leaf of a finished
//! handshake. A resumed session skips the verifier (RFC 8446 section 2.2), so the leaf's life is
//! looked at here again.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use picket_certs::leaf::LeafError;
use picket_certs::spiffe::Identity as Name;
use picket_certs::{Leaf, Refusal};
use picket_policy::Principal;
use rustls::{CommonState, Error as TlsError};

use crate::identity::Identity;

/// A peer that has proved who it is.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As policies see it.
    pub(crate) principal: Principal,
    /// Its SPIFFE ID.
    pub(crate) id: Arc<str>,
    /// Serial number of its certificate.
    pub(crate) serial: String,
    /// SHA-256 of its certificate, which tokens may be bound to.
    pub(crate) fingerprint: [u8; 32],
    /// End of its certificate.
    pub(crate) not_after: SystemTime,
    /// The `x-forwarded-client-cert` that tells the service about it.
    pub(crate) xfcc: HeaderValue,
}

/// Why there is no proven peer on a connection that needs one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The client presented no certificate.
    #[error("the client presented no certificate")]
    NoCertificate,
    /// The certificate is not believed.
    #[error("the client's certificate is refused")]
    Refused(#[source] Refusal),
    /// The bytes are not TLS.
    #[error("the client does not speak TLS")]
    Plaintext,
    /// The handshake took too long.
    #[error("the TLS handshake was not finished in time")]
    Timeout,
    /// Another failure of the handshake, such as an alert of the client.
    #[error("the TLS handshake failed")]
    Tls(#[source] TlsError),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
}

impl HandshakeError {
    pub(crate) fn from_io(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        match tls {
            Some(TlsError::NoCertificatesPresented) => Self::NoCertificate,
            Some(TlsError::InvalidMessage(_)) => Self::Plaintext,
            Some(tls) => match Refusal::find(tls) {
                Some(refusal) => Self::Refused(refusal),
                None => Self::Tls(tls.clone()),
            },
            None => Self::Io(error),
        }
    }

    /// A short stable name, for records and metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_client_certificate",
            Self::Refused(refusal) => refusal.code(),
            Self::Plaintext => "plaintext",
            Self::Timeout => "handshake_timeout",
            Self::Tls(_) => "tls_failed",
            Self::Io(_) => "connection_broken",
        }
    }
}

impl Peer {
    /// The peer of a finished handshake.
    pub(crate) fn of(
        tls: &CommonState,
        own: &Identity,
        now: SystemTime,
    ) -> Result<Self, HandshakeError> {
        let chain = tls.peer_certificates().unwrap_or_default();
        let der = chain.first().ok_or(HandshakeError::NoCertificate)?;
        let leaf =
            Leaf::from_der(der).map_err(|error| HandshakeError::Refused(Refusal::Leaf(error)))?;
        if now >= leaf.not_after {
            return Err(HandshakeError::Refused(Refusal::Expired));
        }
        Self::from_leaf(&leaf, own)
            .ok_or_else(|| HandshakeError::Refused(Refusal::Leaf(LeafError::NoUri)))
    }

    fn from_leaf(leaf: &Leaf, own: &Identity) -> Option<Self> {
        let Name::Workload(id) = &leaf.identity else { return None };
        let principal = Principal::from_spiffe_id(id.as_str()).ok()?;
        Some(Self {
            principal,
            id: id.shared(),
            serial: leaf.serial.clone(),
            fingerprint: leaf.fingerprint,
            not_after: leaf.not_after,
            xfcc: xfcc(leaf, own)?,
        })
    }

    /// End of its certificate, in seconds since 1970.
    pub(crate) fn not_after_unix(&self) -> i64 {
        let since = self.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

/// Envoy's form, fields in its order: `By=…;Hash=…;Subject="…";URI=…`.
fn xfcc(leaf: &Leaf, own: &Identity) -> Option<HeaderValue> {
    let mut text = own.xfcc_by.to_str().ok()?.to_owned();
    text.push_str(&leaf.fingerprint_hex());
    text.push_str(";Subject=\"");
    for c in leaf.subject.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push_str("\";URI=");
    text.push_str(leaf.identity.as_str());
    HeaderValue::from_str(&text).ok()
}
