//! Keyed hashes of the subjects of tokens: records of one person can be found and compared, and name
//! nobody to whoever has not the key.
//!
//! Which key is in force, and for how long, is not said here. Specification: RFC 2104 with SHA-256.

use aws_lc_rs::hmac;

use crate::leaf::{hex, sha256};

/// Bytes of a key.
pub const KEY_LENGTH: usize = 32;

/// Bytes of the HMAC that are kept.
const HASH_LENGTH: usize = 16;

/// What a key's own name is made of, beside the key.
const NAMED: &[u8] = b"picket-subject-key-v1\n";

/// A key, and the name by which records tell which one it was. It cannot be formatted.
#[derive(Clone)]
pub struct SubjectKey {
    id: String,
    key: hmac::Key,
}

impl SubjectKey {
    /// A key of [`KEY_LENGTH`] bytes; none of another length.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_LENGTH {
            return None;
        }
        let id = hex(sha256(&[NAMED, bytes].concat()).get(..4)?);
        Some(Self { id, key: hmac::Key::new(hmac::HMAC_SHA256, bytes) })
    }

    /// Names the key: 8 hexadecimal digits, which say nothing else of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hash of a subject: 32 hexadecimal digits.
    pub fn hash(&self, subject: &str) -> String {
        let tag = hmac::sign(&self.key, subject.as_bytes());
        hex(tag.as_ref().get(..HASH_LENGTH).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_half_of_an_hmac_and_a_key_has_a_name() {
        let key = SubjectKey::new(&[7; 32]).unwrap();
        // printf ana | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07
        assert_eq!(key.hash("ana"), "93876e94ca57b9c90b3075987f6c9e34");
        assert_ne!(key.hash("ana"), key.hash("bob"));
        let other = SubjectKey::new(&[8; 32]).unwrap();
        assert_ne!((key.id(), key.hash("ana").as_str()), (other.id(), other.hash("ana").as_str()));
        assert_eq!((key.id().len(), SubjectKey::new(&[7; 31]).is_none()), (8, true));
    }
}
