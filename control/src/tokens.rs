//! Join tokens as text: how they are made, and the hash by which they are known.
//!
//! `pkt_` and 32 random bytes in base64url (RFC 4648 section 5, without padding). The prefix lets
//! secret scanners find one that was committed by mistake.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use picket_certs::leaf::{hex, sha256};
use zeroize::Zeroizing;

const PREFIX: &str = "pkt_";
const LENGTH: usize = 32;

/// No randomness is to be had from the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness")]
pub(crate) struct NoRandomness;

/// A new token, wiped from memory when dropped.
pub(crate) fn mint() -> Result<Zeroizing<String>, NoRandomness> {
    let mut bytes = Zeroizing::new([0_u8; LENGTH]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| NoRandomness)?;
    let mut token = Zeroizing::new(String::with_capacity(64));
    token.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut token);
    Ok(token)
}

/// The hash of a token. Any text has one; only those of minted tokens are ever found.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    sha256(token.as_bytes())
}

/// Names a token in lists and records: too little of the hash to look for the token with.
pub(crate) fn id(hash: &[u8]) -> String {
    hex(hash.get(..6).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_256_bits_and_never_repeat() {
        let (one, two) = (mint().unwrap(), mint().unwrap());
        assert_ne!(one, two);
        let secret = URL_SAFE_NO_PAD.decode(one.strip_prefix(PREFIX).unwrap()).unwrap();
        assert_eq!(secret.len(), LENGTH);
        assert_eq!(id(&hash(&one)).len(), 12);
    }
}
