//! The set of certificate authorities that a trust domain is believed by.
//!
//! During a rotation a bundle holds the old authority and the new one, so that certificates of both
//! are accepted until the last old one has expired.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::leaf::{hex, sha256};
use crate::spiffe::TrustDomain;

/// Why some bytes are not a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not PEM.
    #[error("the bundle is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// No certificate at all: nobody could be trusted.
    #[error("the bundle has no certificate")]
    Empty,
    /// One of the certificates cannot be an authority.
    #[error("certificate {0} of the bundle is not a CA certificate")]
    NotAnAuthority(usize),
}

/// The authorities of one trust domain.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Arc<[CertificateDer<'static>]>,
    anchors: Arc<[TrustAnchor<'static>]>,
}

impl TrustBundle {
    /// Takes DER certificates, each of which must be a CA.
    ///
    /// # Errors
    /// When there is none, or one is not a CA certificate.
    pub fn new(
        trust_domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if authorities.is_empty() {
            return Err(BundleError::Empty);
        }
        let mut anchors = Vec::with_capacity(authorities.len());
        for (position, der) in authorities.iter().enumerate() {
            let refused = || BundleError::NotAnAuthority(position + 1);
            let (_, certificate) = X509Certificate::from_der(der).map_err(|_| refused())?;
            if !certificate.is_ca() {
                return Err(refused());
            }
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| refused())?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self { trust_domain, authorities: authorities.into(), anchors: anchors.into() })
    }

    /// Reads PEM, such as the control plane's `bundle.pem`.
    ///
    /// # Errors
    /// When it is not PEM, or see [`TrustBundle::new`].
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let authorities = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(BundleError::Pem)?;
        Self::new(trust_domain, authorities)
    }

    /// The bundle as PEM.
    pub fn to_pem(&self) -> String {
        self.authorities.iter().map(|der| crate::svid::certificate_pem(der)).collect()
    }

    /// Whose authorities these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities, in DER.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// A name for exactly this set: SHA-256 over the authorities, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        let hashes: Vec<u8> = self.authorities.iter().flat_map(|der| sha256(der)).collect();
        hex(&sha256(&hashes))
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.authorities == other.authorities
    }
}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("authorities", &self.authorities.len())
            .finish()
    }
}
