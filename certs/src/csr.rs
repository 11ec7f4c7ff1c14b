//! Keys made by whoever will use them, and the signing requests (RFC 2986) that carry only their
//! public half.
//!
//! A request is read for two things: the public key, and what it asks for beyond the identity that
//! the registry grants. The second is recorded and never given.

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SanType,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use crate::spiffe::Identity;

/// Largest signing request that is read, in bytes.
pub const MAX_REQUEST_SIZE: usize = 16 * 1024;

/// The kinds of key that get a certificate; peers everywhere can verify them.
static ACCEPTED: [&rcgen::SignatureAlgorithm; 4] = [
    &rcgen::PKCS_ECDSA_P256_SHA256,
    &rcgen::PKCS_ECDSA_P384_SHA384,
    &rcgen::PKCS_ED25519,
    &rcgen::PKCS_RSA_SHA256,
];

/// Why a key or a signing request was not made or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The key could not be made or encoded.
    #[error("the key or signing request cannot be made")]
    Make(#[source] rcgen::Error),
    /// The stored key cannot be read.
    #[error("the private key cannot be read")]
    Key,
    /// Not a PKCS #10 request.
    #[error("the signing request cannot be parsed")]
    Malformed,
    /// The request is larger than [`MAX_REQUEST_SIZE`].
    #[error("the signing request has {0} bytes; at most {MAX_REQUEST_SIZE} are accepted")]
    TooLarge(usize),
    /// The requester does not hold the private key.
    #[error("the signing request's signature does not match its public key")]
    Signature,
    /// A kind or size of key that is not accepted.
    #[error("the key is not ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits or more")]
    WeakKey,
}

/// A private key that was made here and has no certificate yet.
pub struct NewKey(KeyPair);

impl NewKey {
    /// Makes an ECDSA P-256 key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, CsrError> {
        KeyPair::generate().map(Self).map_err(CsrError::Make)
    }

    /// Takes up a key that was stored as PEM.
    ///
    /// # Errors
    /// When it is not a private key in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CsrError::Key)?;
        KeyPair::try_from(&key).map(Self).map_err(|_| CsrError::Key)
    }

    /// The key as PEM (PKCS #8), wiped from memory when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The key in DER, to be joined to its certificate.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// A signing request for an identity, in DER.
    ///
    /// # Errors
    /// When the request cannot be signed.
    pub fn request(&self, identity: &Identity) -> Result<Vec<u8>, CsrError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.as_str().try_into().map_err(CsrError::Make)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params.serialize_request(&self.0).map_err(CsrError::Make)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.0
    }

    /// The public key, as a CA needs it.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

/// A signing request whose signature has been checked.
#[derive(Debug)]
pub struct SigningRequest {
    pub(crate) public_key: SubjectPublicKeyInfo,
    surplus: Vec<String>,
}

impl SigningRequest {
    /// Reads a DER request on behalf of whoever was found to be `granted`.
    ///
    /// # Errors
    /// See [`CsrError`]. Asking for too much is no error: see [`SigningRequest::surplus`].
    pub fn from_der(der: &[u8], granted: &Identity) -> Result<Self, CsrError> {
        if der.len() > MAX_REQUEST_SIZE {
            return Err(CsrError::TooLarge(der.len()));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let spki = &request.certification_request_info.subject_pki;
        match spki.parsed().map_err(|_| CsrError::WeakKey)? {
            PublicKey::RSA(rsa) if rsa.key_size() < 2048 => return Err(CsrError::WeakKey),
            _ => {}
        }
        let public_key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| CsrError::WeakKey)?;
        if !ACCEPTED.contains(&public_key.algorithm()) {
            return Err(CsrError::WeakKey);
        }
        // The kind of key first: the signature of one that is not accepted need not be understood.
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        Ok(Self { public_key, surplus: surplus(&request, granted) })
    }

    /// What the request asked for and does not get, one entry each; empty for an honest one.
    pub fn surplus(&self) -> &[String] {
        &self.surplus
    }
}

fn surplus(request: &X509CertificationRequest<'_>, granted: &Identity) -> Vec<String> {
    let mut found = Vec::new();
    let subject = request.certification_request_info.subject.to_string();
    if !subject.is_empty() {
        found.push(format!("subject {subject}"));
    }
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) if *uri == granted.as_str() => {}
                        other => found.push(format!("name {other}")),
                    }
                }
            }
            ParsedExtension::BasicConstraints(basic) if basic.ca => {
                found.push("CA rights (basicConstraints)".to_owned());
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                found.push("CA rights (keyUsage)".to_owned());
            }
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectKeyIdentifier(_) => {}
            ParsedExtension::UnsupportedExtension { oid } => {
                found.push(format!("extension {oid}"));
            }
            _ => found.push("an extension that leaf certificates do not have".to_owned()),
        }
    }
    found
}
