//! The hash chain of a lane and its signed heads.
//!
//! Format: `docs/audit-attributes.md`, "Tamper evidence".

use std::time::{Duration, UNIX_EPOCH};

use picket_api::v1::ChainHead;
use picket_certs::{Identity, Leaf, PeerVerifier, Refusal};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::hex;
use crate::tree::{Hash, sha256};

/// How long before or after its life a certificate's key may have signed a head, by the emitter's clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// What stands before the first record of a lane.
pub fn seed(emitter: &str, boot: &str, lane: i64) -> Hash {
    sha256(format!("picket-chain-v1\n{emitter}\n{boot}\n{lane}\n").as_bytes())
}

/// The hash of a record in its chain.
pub fn hash(span: &[u8]) -> Hash {
    sha256(span)
}

/// What is signed.
pub fn signed_text(emitter: &str, head: &ChainHead) -> String {
    let ChainHead { boot, lane, position, hash, emitted, open, lost, time_ms, .. } = head;
    format!(
        "picket-head-v1\n{emitter}\n{boot}\n{lane}\n{position}\n{}\n{emitted}\n{open}\n{lost}\n{time_ms}\n",
        hex::encode(hash)
    )
}

/// Why a head is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// There is no certificate.
    #[error("no certificate came with the head")]
    NoCertificate,
    /// The certificate is not one of this mesh, or was not valid at the head's time.
    #[error("the certificate of the head is not believed")]
    Certificate(#[source] Refusal),
    /// It is that of somebody else.
    #[error("the head was signed by {0}")]
    Signer(String),
    /// The signature is of something else.
    #[error("the signature does not fit the head")]
    Signature,
    /// The hash is no SHA-256, or the numbers cannot be.
    #[error(
        "the head does not add up: position {position} + open {open} + lost {lost} is not emitted {emitted}"
    )]
    Numbers {
        /// Completed records.
        position: u64,
        /// Open ones.
        open: u64,
        /// Lost ones.
        lost: u64,
        /// Numbers that were given out.
        emitted: u64,
    },
}

/// Who signed heads.
#[derive(Debug, Clone)]
pub struct HeadSigner<'c> {
    chain: &'c [Vec<u8>],
}

impl<'c> HeadSigner<'c> {
    /// The holder of a certificate chain, leaf first.
    pub fn new(chain: &'c [Vec<u8>]) -> Self {
        Self { chain }
    }

    /// Checks that `emitter` signed a head, with a certificate that the authority had issued to it and
    /// that was valid at the head's time.
    ///
    /// # Errors
    /// See [`BadHead`].
    pub fn check(
        &self,
        verifier: &PeerVerifier,
        emitter: &str,
        head: &ChainHead,
    ) -> Result<(), BadHead> {
        let (leaf, intermediates) = self.chain.split_first().ok_or(BadHead::NoCertificate)?;
        let leaf = CertificateDer::from(leaf.as_slice());
        let intermediates: Vec<CertificateDer<'_>> =
            intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let facts = Leaf::from_der(&leaf).map_err(|e| BadHead::Certificate(Refusal::Leaf(e)))?;
        let identity = match &facts.identity {
            Identity::Workload(id) => id.as_str().to_owned(),
            Identity::Operator(id) => id.as_str().to_owned(),
        };
        if identity != emitter {
            return Err(BadHead::Signer(identity));
        }
        let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(head.time_ms).unwrap_or(0));
        // A clock that is a little off must not make a forger of anybody.
        let at = match at {
            at if at < facts.not_before && at + CLOCK_TOLERANCE >= facts.not_before => {
                facts.not_before
            }
            at if at > facts.not_after && at <= facts.not_after + CLOCK_TOLERANCE => {
                facts.not_after
            }
            at => at,
        };
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        verifier.verify_client(&leaf, &intermediates, at).map_err(BadHead::Certificate)?;
        let text = signed_text(emitter, head);
        if !picket_certs::verify::is_signed(&leaf, text.as_bytes(), &head.signature) {
            return Err(BadHead::Signature);
        }
        let ChainHead { position, open, lost, emitted, .. } = *head;
        let sum = position.checked_add(open).and_then(|sum| sum.checked_add(lost));
        if head.hash.len() != 32 || sum != Some(emitted) {
            return Err(BadHead::Numbers { position, open, lost, emitted });
        }
        Ok(())
    }
}
