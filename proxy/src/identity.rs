//! The proxy's own identity in the form that connections use: its SVID, the bundle it believes, and
//! the TLS configurations made from them.
//!
//! A renewed SVID or another list of revoked certificates makes a new [`Identity`]; connections made under the old one go on until they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http::HeaderValue;
use picket_certs::spiffe::Identity as Name;
use picket_certs::tls::{self, TlsConfigError, Versions};
use picket_certs::{Expect, PeerVerifier, Revoked, SpiffeId, Svid, TrustBundle};
use rustls::{ClientConfig, ServerConfig};

use crate::revocations::RevokedCertificates;

/// Protocols offered to those who call: HTTP/2 or HTTP/1.1, at the client's choice.
const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Which protocol a connection to a peer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    /// Not HTTP: nothing is negotiated.
    None,
    Http1,
    Http2,
}

/// Why an SVID and a bundle do not make an identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The certificate is somebody else's.
    #[error(
        "the certificate is for {got}, the configuration says {wanted}; use a join token or a \
         certificate of {wanted}, or set workload.namespace and workload.serviceAccount to match"
    )]
    Other { got: String, wanted: SpiffeId },
    /// The cryptography failed.
    #[error("TLS cannot be configured")]
    Tls(#[from] TlsConfigError),
}

/// Who this proxy is.
pub(crate) struct Identity {
    pub(crate) id: SpiffeId,
    pub(crate) svid: Svid,
    pub(crate) bundle: TrustBundle,
    /// For ports that speak HTTP.
    pub(crate) http: Arc<ServerConfig>,
    /// For ports that speak anything: no protocol is negotiated.
    pub(crate) tcp: Arc<ServerConfig>,
    /// Certificates that it refuses.
    pub(crate) revoked: Arc<RevokedCertificates>,
    /// The beginning of every `x-forwarded-client-cert` that is set here.
    pub(crate) xfcc_by: HeaderValue,
    /// Tells identities of one process apart.
    pub(crate) epoch: u64,
}

impl Identity {
    pub(crate) fn new(
        wanted: &SpiffeId,
        svid: Svid,
        bundle: TrustBundle,
    ) -> Result<Self, IdentityError> {
        if svid.leaf().identity != Name::Workload(wanted.clone()) {
            let got = svid.leaf().identity.to_string();
            return Err(IdentityError::Other { got, wanted: wanted.clone() });
        }
        Self::make(wanted, svid, bundle, Arc::default()).map_err(Into::into)
    }

    /// The same identity, refusing other certificates than before.
    pub(crate) fn refusing(
        &self,
        revoked: Arc<RevokedCertificates>,
    ) -> Result<Self, TlsConfigError> {
        Self::make(&self.id, self.svid.clone(), self.bundle.clone(), revoked)
    }

    fn make(
        wanted: &SpiffeId,
        svid: Svid,
        bundle: TrustBundle,
        revoked: Arc<RevokedCertificates>,
    ) -> Result<Self, TlsConfigError> {
        static EPOCH: AtomicU64 = AtomicU64::new(1);
        let server = |alpn: &[&[u8]]| {
            let verifier = PeerVerifier::new(bundle.clone(), Expect::AnyWorkload);
            let verifier = verifier.refuse(Arc::clone(&revoked) as Arc<dyn Revoked>);
            tls::server_config(&svid, verifier, Versions::Tls13, alpn).map(Arc::new)
        };
        // A SPIFFE ID has only characters that a header may have.
        let xfcc_by = HeaderValue::from_str(&format!("By={wanted};Hash="))
            .unwrap_or_else(|_| HeaderValue::from_static(""));
        Ok(Self {
            id: wanted.clone(),
            http: server(HTTP)?,
            tcp: server(&[])?,
            revoked,
            xfcc_by,
            epoch: EPOCH.fetch_add(1, Ordering::Relaxed),
            svid,
            bundle,
        })
    }

    /// The configuration for calling one peer, who must be exactly that.
    pub(crate) fn client(
        &self,
        peer: &SpiffeId,
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let verifier = PeerVerifier::new(self.bundle.clone(), Expect::Workload(peer.clone()));
        let verifier = verifier.refuse(Arc::clone(&self.revoked) as Arc<dyn Revoked>);
        let alpn: &[&[u8]] = match alpn {
            Alpn::None => &[],
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Http2 => &[b"h2"],
        };
        tls::client_config(Some(&self.svid), verifier, alpn).map(Arc::new)
    }

    /// Whether the certificate is still good.
    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        now < self.svid.leaf().not_after
    }
}
