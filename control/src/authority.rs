//! The mesh's certificate authority as files, and the control plane's own certificate from it.
//!
//! What may be signed for whom is decided by [`crate::enrollment`] and the operator API; this module
//! holds the key and nothing else does.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use picket_certs::ca::{CaError, Issued};
use picket_certs::csr::CsrError;
use picket_certs::files::{self, FileError};
use picket_certs::svid::SvidError;
use picket_certs::tls::{self, TlsConfigError, Versions};
use picket_certs::{
    CertificateAuthority, Expect, Identity, NewKey, PeerVerifier, SigningRequest, SpiffeId, Svid,
    TrustBundle, TrustDomain,
};
use rustls::ServerConfig;

use crate::state::StateDir;

/// Life of the certificate that the listeners present.
const OWN_LIFE: Duration = Duration::from_secs(3600);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// One of its files cannot be used.
    #[error("the certificate authority's files cannot be used")]
    File(#[from] FileError),
    /// Key or certificate are broken.
    #[error("the certificate authority cannot be used")]
    Ca(#[from] CaError),
    /// The authority's certificate is not one.
    #[error("the certificate authority's certificate cannot be trusted")]
    Bundle(#[from] picket_certs::bundle::BundleError),
    /// The control plane's own key or request cannot be made.
    #[error("the control plane's own key cannot be made")]
    Key(#[from] CsrError),
    /// The control plane's own certificate does not fit.
    #[error("the control plane's own certificate cannot be used")]
    Svid(#[from] SvidError),
    /// The TLS configuration cannot be made.
    #[error("the control plane's listeners cannot be set up")]
    Tls(#[from] TlsConfigError),
    /// The trust domain's name does not make a SPIFFE ID.
    #[error("the control plane's own identity cannot be made")]
    Identity(#[from] picket_certs::spiffe::SpiffeIdError),
}

/// The authority, its bundle, and what the listeners present.
pub(crate) struct Authority {
    ca: CertificateAuthority,
    bundle: TrustBundle,
    own: SpiffeId,
    grace: Duration,
    listeners: ArcSwap<ListenerTls>,
}

/// What the listeners present and demand; replaced whole when the control plane's certificate is.
pub(crate) struct ListenerTls {
    /// For proxies: a certificate is asked for but not demanded.
    pub(crate) proxies: Arc<ServerConfig>,
    /// For operators: none but theirs.
    pub(crate) operators: Arc<ServerConfig>,
    /// End of the certificate that both present.
    pub(crate) not_after: SystemTime,
}

impl Authority {
    /// Loads the authority of a state directory, or makes one on the first start.
    pub(crate) fn open(
        state: &StateDir,
        trust_domain: &TrustDomain,
        grace: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let directory = state.file("ca");
        if !directory.exists() {
            create(state, trust_domain, now)?;
            tracing::info!(%trust_domain, "made a new certificate authority");
        }
        let ca = load(&directory)?;
        let bundle = TrustBundle::new(trust_domain.clone(), vec![ca.certificate().clone()])?;
        let pem = bundle.to_pem();
        let path = state.file("bundle.pem");
        if files::read_public(&path).ok().as_deref() != Some(pem.as_bytes()) {
            files::write_atomic(&path, files::PUBLIC, pem.as_bytes())?;
        }
        let own = SpiffeId::control_plane(trust_domain)?;
        let listeners = listener_tls(&ca, &bundle, &own, grace, now)?;
        Ok(Self { ca, bundle, own, grace, listeners: ArcSwap::from_pointee(listeners) })
    }

    /// Signs a certificate for an identity, which the caller has made sure of.
    pub(crate) fn issue(
        &self,
        identity: &Identity,
        request: &SigningRequest,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        self.ca.issue(identity, request, life, now)
    }

    /// Replaces the certificate that the listeners present. Open connections keep the old one.
    pub(crate) fn renew_own(&self, now: SystemTime) -> Result<(), AuthorityError> {
        let renewed = listener_tls(&self.ca, &self.bundle, &self.own, self.grace, now)?;
        self.listeners.store(Arc::new(renewed));
        Ok(())
    }

    /// What the listeners present and demand now.
    pub(crate) fn listener_tls(&self) -> Arc<ListenerTls> {
        self.listeners.load_full()
    }

    /// Whom everybody in the mesh believes.
    pub(crate) fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The control plane's own identity.
    pub(crate) fn own(&self) -> &SpiffeId {
        &self.own
    }

    /// End of the authority's own certificate.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.ca.not_after()
    }
}

/// Key and certificate come into being together, by renaming their directory: a crash in between
/// leaves no half of an authority.
fn create(
    state: &StateDir,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    let ca = CertificateAuthority::create(trust_domain, now)?;
    let (unfinished, finished) = (state.file("ca.new"), state.file("ca"));
    files::create_private_dir(&unfinished)?;
    let key = unfinished.join("key.pem");
    files::write_atomic(&key, files::PRIVATE, ca.key_pem().as_bytes())?;
    let certificate = unfinished.join("certificate.pem");
    files::write_atomic(&certificate, files::PUBLIC, ca.certificate_pem().as_bytes())?;
    fs::rename(&unfinished, &finished).map_err(|source| FileError::Io {
        action: "create",
        path: finished,
        source,
    })?;
    Ok(())
}

fn load(directory: &Path) -> Result<CertificateAuthority, AuthorityError> {
    let key = files::read_private(&directory.join("key.pem"))?;
    let certificate = files::read_public(&directory.join("certificate.pem"))?;
    Ok(CertificateAuthority::from_pem(&certificate, &key)?)
}

fn listener_tls(
    ca: &CertificateAuthority,
    bundle: &TrustBundle,
    own: &SpiffeId,
    grace: Duration,
    now: SystemTime,
) -> Result<ListenerTls, AuthorityError> {
    let key = NewKey::generate()?;
    let identity = Identity::Workload(own.clone());
    let request = SigningRequest::from_der(&key.request(&identity)?, &identity)?;
    let issued = ca.issue(&identity, &request, OWN_LIFE, now)?;
    let svid = Svid::new(vec![issued.certificate], key.to_der())?;
    let server = |verifier, alpn| -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut config = tls::server_config(&svid, verifier, Versions::Tls13, alpn)?;
        // Connections are few and live long; a resumed one would only skip checks.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    };
    let workloads = PeerVerifier::new(bundle.clone(), Expect::AnyWorkload)
        .allow_strangers()
        .allow_expired_for(grace);
    let operators = PeerVerifier::new(bundle.clone(), Expect::AnyOperator);
    Ok(ListenerTls {
        proxies: server(workloads, &[b"h2"])?,
        operators: server(operators, &[b"h2", b"http/1.1"])?,
        not_after: issued.leaf.not_after,
    })
}
