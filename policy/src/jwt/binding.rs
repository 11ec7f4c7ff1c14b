//! Tokens that are good only together with a certificate: `cnf.x5t#S256` (RFC 8705 section 3.1, RFC 7800).
//!
//! A binding that a token has is always held against the certificate of the connection; that it must have one is a
//! policy's to say. Other members of `cnf` are not understood and, as RFC 7800 section 3.1 has it, ignored.

use aws_lc_rs::constant_time;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{TokenErrorKind, VerifiedToken};

/// SHA-256 of the certificate that a token is bound to, if it is to one.
pub(super) fn thumbprint(claims: &Map<String, Value>) -> Result<Option<[u8; 32]>, TokenErrorKind> {
    let confirmation = match claims.get("cnf") {
        None => return Ok(None),
        Some(Value::Object(confirmation)) => confirmation,
        Some(_) => return Err(TokenErrorKind::Malformed),
    };
    let Some(thumbprint) = confirmation.get("x5t#S256") else { return Ok(None) };
    let bytes = thumbprint.as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    // What cannot be compared must not pass for a token that anybody may bear.
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(Some).ok_or(TokenErrorKind::Malformed)
}

impl VerifiedToken {
    /// SHA-256 of the DER certificate that the token is bound to.
    pub fn bound_to(&self) -> Option<&[u8; 32]> {
        self.bound_to.as_ref()
    }

    /// Holds the token against the certificate that the client proved to have, by its SHA-256. To be asked on each
    /// request: one token may come over several connections.
    ///
    /// # Errors
    /// [`TokenErrorKind::Binding`] if the token is bound to another certificate, or the client shows none.
    pub fn check_binding(&self, certificate: Option<&[u8; 32]>) -> Result<(), TokenErrorKind> {
        let Some(wanted) = &self.bound_to else { return Ok(()) };
        let shown = certificate.ok_or(TokenErrorKind::Binding)?;
        constant_time::verify_slices_are_equal(wanted, shown).map_err(|_| TokenErrorKind::Binding)
    }
}
