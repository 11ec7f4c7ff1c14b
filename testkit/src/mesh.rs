//! A trust domain with its authority.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_certs::files::{PRIVATE, PUBLIC, write_atomic};
use picket_certs::{
    CertificateAuthority, Expect, Identity, NewKey, PeerVerifier, SigningRequest, SpiffeId, Svid,
    TrustBundle, TrustDomain, tls,
};
use rustls::ClientConfig;

/// A trust domain with its authority.
pub struct Mesh {
    trust_domain: TrustDomain,
    authority: CertificateAuthority,
}

/// The files of one workload.
pub struct Files {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM, mode 0600.
    pub key: PathBuf,
    /// The authorities, PEM.
    pub bundle: PathBuf,
}

impl Mesh {
    /// A new authority.
    pub fn new(trust_domain: &str) -> Self {
        let trust_domain: TrustDomain = trust_domain.parse().unwrap();
        let authority = CertificateAuthority::create(&trust_domain, SystemTime::now()).unwrap();
        Self { trust_domain, authority }
    }

    /// The authority's bundle.
    pub fn bundle(&self) -> TrustBundle {
        let certificate = self.authority.certificate().clone();
        TrustBundle::new(self.trust_domain.clone(), vec![certificate]).unwrap()
    }

    /// A workload's SPIFFE ID.
    pub fn id(&self, namespace: &str, account: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, namespace, account).unwrap()
    }

    fn issue(&self, id: &SpiffeId, life: Duration) -> (String, NewKey) {
        let identity = Identity::Workload(id.clone());
        let key = NewKey::generate().unwrap();
        let request = SigningRequest::from_der(&key.request(&identity).unwrap(), &identity);
        let issued = self.authority.issue(&identity, &request.unwrap(), life, SystemTime::now());
        (picket_certs::svid::chain_pem(&[issued.unwrap().certificate]), key)
    }

    /// A workload's certificate and key.
    pub fn svid(&self, namespace: &str, account: &str) -> Svid {
        self.svid_of_life(namespace, account, Duration::from_secs(3600))
    }

    /// The same, where the certificate lives no longer than that.
    pub fn svid_of_life(&self, namespace: &str, account: &str, life: Duration) -> Svid {
        let (chain, key) = self.issue(&self.id(namespace, account), life);
        Svid::from_pem(chain.as_bytes(), key.to_pem().as_bytes()).unwrap()
    }

    /// Writes a workload's files; files that are there are replaced.
    pub fn files(&self, directory: &Path, namespace: &str, account: &str, life: Duration) -> Files {
        fs::create_dir_all(directory).unwrap();
        let (chain, key) = self.issue(&self.id(namespace, account), life);
        let files = Files {
            certificate: directory.join("svid.pem"),
            key: directory.join("key.pem"),
            bundle: directory.join("bundle.pem"),
        };
        write_atomic(&files.certificate, PUBLIC, chain.as_bytes()).unwrap();
        write_atomic(&files.key, PRIVATE, key.to_pem().as_bytes()).unwrap();
        write_atomic(&files.bundle, PUBLIC, self.bundle().to_pem().as_bytes()).unwrap();
        files
    }

    /// What a client needs to call `server`; `svid` is none for a stranger, an empty `alpn` negotiates
    /// no protocol.
    pub fn client(&self, svid: Option<&Svid>, server: &SpiffeId, alpn: &[u8]) -> Arc<ClientConfig> {
        let verifier = PeerVerifier::new(self.bundle(), Expect::Workload(server.clone()));
        let alpn: &[&[u8]] = if alpn.is_empty() { &[] } else { &[alpn] };
        Arc::new(tls::client_config(svid, verifier, alpn).unwrap())
    }
}
