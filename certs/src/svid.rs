//! An X.509-SVID: a certificate chain and the private key that belongs to it.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::leaf::{Leaf, LeafError};
use crate::tls;

/// How [`Svid::sign`] signs, by the kind of the key.
const SIGNATURES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// Why a certificate and a key do not make an SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The certificate file is not PEM or holds no certificate.
    #[error("no certificate can be read from the PEM")]
    Certificate(#[source] rustls_pki_types::pem::Error),
    /// The chain is empty.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// The key file is not PEM or holds no private key.
    #[error("no private key can be read from the PEM")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// The leaf is not an X.509-SVID of this mesh.
    #[error("the leaf certificate is not an X.509-SVID")]
    Leaf(#[source] LeafError),
    /// The key is of a kind that cannot be used.
    #[error("the private key cannot be used")]
    Unusable(#[source] rustls::Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch(#[source] rustls::Error),
}

/// A workload's or operator's certificate chain with its private key.
#[derive(Clone)]
pub struct Svid {
    certified: Arc<CertifiedKey>,
    leaf: Arc<Leaf>,
}

impl Svid {
    /// Joins a chain (leaf first) to its key.
    ///
    /// # Errors
    /// See [`SvidError`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let leaf =
            Leaf::from_der(chain.first().ok_or(SvidError::EmptyChain)?).map_err(SvidError::Leaf)?;
        let key =
            tls::provider().key_provider.load_private_key(key).map_err(SvidError::Unusable)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(SvidError::Mismatch)?;
        Ok(Self { certified: Arc::new(certified), leaf: Arc::new(leaf) })
    }

    /// Reads both from PEM.
    ///
    /// # Errors
    /// See [`SvidError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(SvidError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(SvidError::Key)?;
        Self::new(chain, key)
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain as PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        chain_pem(self.chain())
    }

    /// Signs with the private key. The scheme is the one that TLS would choose first for the key: with
    /// P-256 ECDSA with SHA-256, as ASN.1 DER.
    ///
    /// # Errors
    /// [`SvidError::Unusable`] if the key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SvidError> {
        let key = &self.certified.key;
        let unusable = || SvidError::Unusable(rustls::Error::General("it cannot sign".to_owned()));
        let signer = key.choose_scheme(SIGNATURES).ok_or_else(unusable)?;
        signer.sign(message).map_err(SvidError::Unusable)
    }

    /// The form that rustls serves.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Svid {
    // The key is not part of it: a debug log must never hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", &self.leaf.identity)
            .field("serial", &self.leaf.serial)
            .field("not_after", &self.leaf.not_after)
            .finish_non_exhaustive()
    }
}

/// DER certificates as PEM, in order.
pub fn chain_pem(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| certificate_pem(der)).collect()
}

/// One DER certificate as PEM (RFC 7468).
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    let unix_lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), unix_lines)
}
