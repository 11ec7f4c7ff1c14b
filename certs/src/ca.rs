//! The certificate authority: its own key, and the certificates it signs.
//!
//! A certificate is built from what the registry grants and the public key of the request; nothing
//! else of a request reaches it.
//!
//! Specifications: RFC 5280 section 4, X.509-SVID sections 4 and 5.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::csr::{CsrError, NewKey, SigningRequest};
use crate::leaf::{Leaf, LeafError, hex, sha256};
use crate::spiffe::{Identity, TrustDomain};

/// How far in the past a certificate's life begins, so that a peer whose clock runs a little behind
/// accepts it at once.
pub const BACKDATE: Duration = Duration::from_secs(60);

/// Life of an authority made by [`CertificateAuthority::create`].
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why an authority could not be made, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The stored certificate is not PEM.
    #[error("the CA certificate cannot be read")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    /// The key is unreadable, or cannot be made.
    #[error("the CA key cannot be used")]
    Key(#[source] CsrError),
    /// Key and certificate are not a pair.
    #[error("the CA key does not belong to the CA certificate")]
    Mismatch,
    /// The certificate could not be built or signed.
    #[error("the certificate cannot be signed")]
    Sign(#[source] rcgen::Error),
    /// What was signed cannot be read back.
    #[error("the signed certificate is not an X.509-SVID")]
    Leaf(#[source] LeafError),
}

/// A certificate that was just signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, in DER.
    pub certificate: CertificateDer<'static>,
    /// What it says.
    pub leaf: Leaf,
}

/// One signing key and its self-signed certificate.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a new authority for a trust domain.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(CaError::Sign)?;
        let mut params = CertificateParams::default();
        // The key's hash keeps the names of successive authorities apart, so that during a rotation
        // a verifier finds the right one at once.
        let key_name = sha256(key.public_key_raw());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
        params.distinguished_name.push(
            DnType::CommonName,
            format!("Picket CA {}", hex(key_name.get(..6).unwrap_or_default())),
        );
        let uri = format!("spiffe://{trust_domain}").as_str().try_into().map_err(CaError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial()?);
        params.not_before = calendar(now - BACKDATE);
        params.not_after = calendar(now + AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(CaError::Sign)?;
        Ok(Self { certificate: certificate.into(), issuer: Issuer::new(params, key) })
    }

    /// Loads an authority from its PEM files.
    ///
    /// # Errors
    /// When either is unreadable or they are not a pair.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, CaError> {
        let certificate =
            CertificateDer::from_pem_slice(certificate).map_err(CaError::Certificate)?;
        let key = NewKey::from_pem(key).map_err(CaError::Key)?;
        let parsed = x509_parser::parse_x509_certificate(&certificate);
        let (_, parsed) = parsed.map_err(|_| CaError::Mismatch)?;
        if parsed.public_key().raw != key.public_key() {
            return Err(CaError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key.into_pair());
        Ok(Self { issuer: issuer.map_err(CaError::Sign)?, certificate })
    }

    /// The authority's certificate, in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        crate::svid::certificate_pem(&self.certificate)
    }

    /// The private key as PEM (PKCS #8), wiped from memory when dropped.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// End of the authority's own life.
    pub fn not_after(&self) -> SystemTime {
        x509_parser::parse_x509_certificate(&self.certificate)
            .ok()
            .and_then(|(_, c)| u64::try_from(c.validity().not_after.timestamp()).ok())
            .map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// Signs a certificate for an identity. Its life ends no later than the authority's own.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue(
        &self,
        identity: &Identity,
        request: &SigningRequest,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let mut params = CertificateParams::default();
        // An empty subject: the URI is the only name, as X.509-SVID intends.
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.as_str().try_into().map_err(CaError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(random_serial()?);
        params.use_authority_key_identifier_extension = true;
        params.not_before = calendar(now - BACKDATE);
        params.not_after = calendar((now + life).min(self.not_after()));
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(CaError::Sign)?;
        let certificate = CertificateDer::from(certificate);
        let leaf = Leaf::from_der(&certificate).map_err(CaError::Leaf)?;
        Ok(Issued { certificate, leaf })
    }
}

/// 16 random bytes with the top bit clear: positive, and unguessable as RFC 5280 and CAs want it.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Sign(rcgen::Error::RingUnspecified))?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

/// Whole seconds, as X.509 knows them.
fn calendar(at: SystemTime) -> OffsetDateTime {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
