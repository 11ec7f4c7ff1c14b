//! The rustls verifiers: one rule for both ends of a connection.
//!
//! A peer is believed when its chain ends in the bundle of the trust domain, its leaf is an
//! X.509-SVID, and its identity is one that is expected here. Host names play no part: the server's
//! identity is its SPIFFE ID, on the way out as on the way in.
//!
//! A resumed session skips these checks (RFC 8446 section 2.2); whoever accepts one must look at the
//! stored leaf's life again, and a new configuration (with new ticket keys) is made whenever the
//! bundle changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError};
use rustls::{Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::bundle::TrustBundle;
use crate::leaf::{Leaf, LeafError};
use crate::spiffe::{Identity, SpiffeId};
use crate::tls;

/// Who may be at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Any workload of the trust domain.
    AnyWorkload,
    /// Exactly this workload.
    Workload(SpiffeId),
    /// Any operator of the trust domain.
    AnyOperator,
}

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The leaf is not an X.509-SVID of this mesh.
    #[error("the peer's certificate is not an X.509-SVID")]
    Leaf(#[source] LeafError),
    /// No chain to an authority of the bundle.
    #[error("the peer's certificate was not issued by an authority of the trust bundle")]
    UnknownAuthority,
    /// The certificate's life is over.
    #[error("the peer's certificate has expired")]
    Expired,
    /// The certificate's life has not begun: one of the clocks is wrong.
    #[error("the peer's certificate is not valid yet; compare the clocks of both ends")]
    NotYetValid,
    /// The identity is of another trust domain.
    #[error("the peer is of trust domain {0}, which is not ours")]
    TrustDomain(String),
    /// The identity is not the one expected.
    #[error("the peer is {got}, expected {wanted}")]
    Unexpected {
        /// Who it is.
        got: String,
        /// Who it should be.
        wanted: String,
    },
    /// The certificate, or every certificate of its holder, is revoked.
    #[error("the peer's certificate is revoked")]
    Revoked,
    /// The chain is broken in another way.
    #[error("the peer's certificate chain cannot be verified: {0}")]
    Chain(String),
}

impl Refusal {
    /// A short stable name, for records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Leaf(_) => "peer_not_svid",
            Self::UnknownAuthority => "peer_unknown_authority",
            Self::Expired => "peer_expired",
            Self::NotYetValid => "peer_not_yet_valid",
            Self::TrustDomain(_) => "peer_trust_domain",
            Self::Unexpected { .. } => "peer_unexpected",
            Self::Revoked => "peer_revoked",
            Self::Chain(_) => "peer_chain",
        }
    }

    /// The refusal inside a rustls error, if that is what the error is.
    pub fn find(error: &TlsError) -> Option<Self> {
        match error {
            TlsError::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref::<Self>().cloned()
            }
            TlsError::InvalidCertificate(CertificateError::Expired) => Some(Self::Expired),
            TlsError::InvalidCertificate(CertificateError::NotValidYet) => Some(Self::NotYetValid),
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
                Some(Self::UnknownAuthority)
            }
            TlsError::InvalidCertificate(CertificateError::Revoked) => Some(Self::Revoked),
            _ => None,
        }
    }

    /// The form in which rustls carries it; the well-known ones keep their own TLS alert.
    fn into_tls(self) -> TlsError {
        TlsError::InvalidCertificate(match self {
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::UnknownAuthority => CertificateError::UnknownIssuer,
            Self::Revoked => CertificateError::Revoked,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// Which certificates are revoked.
pub trait Revoked: fmt::Debug + Send + Sync {
    /// Whether a certificate is, at a time in seconds since 1970.
    fn is_revoked(&self, leaf: &Leaf, now: u64) -> bool;
}

/// Checks the peer's chain and identity, as a client and as a server.
pub struct PeerVerifier {
    bundle: TrustBundle,
    expect: Expect,
    /// A client without a certificate is let through, for the caller to treat as a stranger.
    optional: bool,
    /// How long after its end a client's certificate is still let through.
    grace: Duration,
    revoked: Option<Arc<dyn Revoked>>,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    /// A verifier that demands a certificate of whoever is expected.
    pub fn new(bundle: TrustBundle, expect: Expect) -> Self {
        let (grace, provider) = (Duration::ZERO, tls::provider());
        Self { bundle, expect, optional: false, grace, revoked: None, provider }
    }

    /// Lets clients through that present no certificate. They have no identity.
    #[must_use]
    pub fn allow_strangers(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Lets clients through whose certificate expired at most `grace` ago, so that they can renew.
    /// Whoever serves them must look at [`Leaf::not_after`] before granting anything else.
    #[must_use]
    pub fn allow_expired_for(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Refuses certificates that are revoked. A resumed session skips this as it skips all else, so a
    /// changed list needs a new configuration.
    #[must_use]
    pub fn refuse(mut self, revoked: Arc<dyn Revoked>) -> Self {
        self.revoked = Some(revoked);
        self
    }

    /// Verifies a chain and tells who it belongs to.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<Leaf, Refusal> {
        let facts = Leaf::from_der(leaf).map_err(Refusal::Leaf)?;
        self.verify_chain(leaf, intermediates, usage, now)?;
        self.check_identity(&facts.identity)?;
        match &self.revoked {
            Some(revoked) if revoked.is_revoked(&facts, now.as_secs()) => Err(Refusal::Revoked),
            _ => Ok(facts),
        }
    }

    /// Verifies the chain of a client, which is what a workload is to whoever reads what it signed.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<Leaf, Refusal> {
        self.verify(leaf, intermediates, KeyUsage::client_auth(), at)
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let chain_error = |error: webpki::Error| Refusal::Chain(error.to_string());
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_error)?;
        let verify_at = |at: UnixTime| {
            certificate
                .verify_for_usage(
                    self.provider.signature_verification_algorithms.all,
                    self.bundle.anchors(),
                    intermediates,
                    at,
                    usage,
                    None,
                    None,
                )
                .map(|_| ())
        };
        match verify_at(now) {
            Err(webpki::Error::CertExpired { not_after, .. })
                if now.as_secs() <= not_after.as_secs().saturating_add(self.grace.as_secs())
                    && !self.grace.is_zero() =>
            {
                verify_at(not_after).map_err(chain_error)
            }
            Ok(()) => Ok(()),
            Err(webpki::Error::CertExpired { .. }) => Err(Refusal::Expired),
            Err(webpki::Error::CertNotValidYet { .. }) => Err(Refusal::NotYetValid),
            Err(webpki::Error::UnknownIssuer) => Err(Refusal::UnknownAuthority),
            Err(other) => Err(chain_error(other)),
        }
    }

    fn check_identity(&self, identity: &Identity) -> Result<(), Refusal> {
        if identity.trust_domain() != self.bundle.trust_domain() {
            return Err(Refusal::TrustDomain(identity.trust_domain().to_string()));
        }
        let wanted = match (&self.expect, identity) {
            (Expect::AnyWorkload, Identity::Workload(_))
            | (Expect::AnyOperator, Identity::Operator(_)) => return Ok(()),
            (Expect::Workload(wanted), Identity::Workload(got)) if wanted == got => return Ok(()),
            (Expect::AnyWorkload, _) => "a workload".to_owned(),
            (Expect::AnyOperator, _) => "an operator".to_owned(),
            (Expect::Workload(wanted), _) => wanted.to_string(),
        };
        Err(Refusal::Unexpected { got: identity.to_string(), wanted })
    }

    fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// Whether the key of a certificate signed a message: ECDSA P-256 with SHA-256, ASN.1 DER, as all keys of
/// this mesh do. Says nothing of the certificate.
pub fn is_signed(leaf: &CertificateDer<'_>, message: &[u8], signature: &[u8]) -> bool {
    EndEntityCert::try_from(leaf).is_ok_and(|certificate| {
        let algorithm = webpki::aws_lc_rs::ECDSA_P256_SHA256;
        certificate.verify_signature(algorithm, message, signature).is_ok()
    })
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier")
            .field("bundle", &self.bundle)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: they would tell a stranger about the mesh, and its clients have one certificate.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.verify(leaf, intermediates, KeyUsage::client_auth(), now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify_tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.verify(leaf, intermediates, KeyUsage::server_auth(), now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(Refusal::into_tls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify_tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verify_tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
