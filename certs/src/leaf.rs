//! What an end-entity certificate says about its holder.
//!
//! Reading is not trusting: the chain is checked by [`crate::verify`].
//!
//! Specification: X.509-SVID sections 2 to 4.3 (exactly one URI SAN; a leaf is no CA and may not
//! sign certificates).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::spiffe::{Identity, SpiffeIdError};

/// Why a certificate is not an X.509-SVID of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not a certificate, or with extensions that cannot be read.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// No URI subject alternative name: not a SPIFFE certificate.
    #[error("the certificate has no URI subject alternative name, so it carries no SPIFFE ID")]
    NoUri,
    /// More than one URI subject alternative name (X.509-SVID section 2 demands refusal).
    #[error("the certificate has {0} URI subject alternative names; an X.509-SVID has exactly one")]
    SeveralUris(usize),
    /// The URI is not one of our SPIFFE IDs.
    #[error("the certificate's URI is not a SPIFFE ID of this mesh")]
    SpiffeId(#[source] SpiffeIdError),
    /// A CA certificate, or one whose key may sign certificates, presented as a leaf.
    #[error("the certificate may sign others (CA, keyCertSign or cRLSign), so it is no leaf")]
    SigningCertificate,
}

/// The facts of one end-entity certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Who holds it.
    pub identity: Identity,
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// Start of its life.
    pub not_before: SystemTime,
    /// End of its life.
    pub not_after: SystemTime,
    /// SHA-256 of the DER encoding.
    pub fingerprint: [u8; 32],
    /// The subject, as RFC 2253 writes it; empty for the certificates of our own CA.
    pub subject: String,
}

impl Leaf {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// See [`LeafError`].
    pub fn from_der(der: &[u8]) -> Result<Self, LeafError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| LeafError::Malformed)?;
        if !rest.is_empty() {
            return Err(LeafError::Malformed);
        }
        let basic = certificate.basic_constraints().map_err(|_| LeafError::Malformed)?;
        let usage = certificate.key_usage().map_err(|_| LeafError::Malformed)?;
        if basic.is_some_and(|b| b.value.ca)
            || usage.is_some_and(|u| u.value.key_cert_sign() || u.value.crl_sign())
        {
            return Err(LeafError::SigningCertificate);
        }
        let identity = one_uri(&certificate)?.parse().map_err(LeafError::SpiffeId)?;
        let validity = certificate.validity();
        Ok(Self {
            identity,
            serial: hex(certificate.raw_serial()),
            not_before: from_unix(validity.not_before.timestamp()),
            not_after: from_unix(validity.not_after.timestamp()),
            fingerprint: sha256(der),
            subject: certificate.subject().to_string(),
        })
    }

    /// The SHA-256 fingerprint in lower-case hexadecimal.
    pub fn fingerprint_hex(&self) -> String {
        hex(&self.fingerprint)
    }
}

fn one_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, LeafError> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?
        .ok_or(LeafError::NoUri)?;
    let mut uris = san.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let first = uris.next().ok_or(LeafError::NoUri)?;
    match uris.count() {
        0 => Ok(first),
        more => Err(LeafError::SeveralUris(more + 1)),
    }
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = vec![0; bytes.len() * 2];
    write_hex(bytes, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Writes bytes in lower-case hexadecimal to `out`, which has room for twice as many: what is done for every request needs
/// no String.
#[inline]
pub fn write_hex(bytes: &[u8], out: &mut [u8]) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' - 10 + value };
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

fn from_unix(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_what_it_is_elsewhere() {
        let bytes: Vec<u8> = (0..=255).collect();
        let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex(&bytes), expected);
    }
}
