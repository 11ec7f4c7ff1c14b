//! Tamper evidence: what a record is committed to by, how its lane and the log are chained, and how a
//! stranger checks it.
//!
//! Both sides and the command line compute the same things here: the control plane keeps the log, proxies
//! witness it, `picket audit verify` believes neither. No sockets, no files, no clock.
//!
//! | question | module |
//! |---|---|
//! | How does a lane's chain go on, and who signed its head? | [`chain`] |
//! | What is one entry of the log? | [`entry`] |
//! | What is the root of the log, and what is in which tile? | [`tree`], [`tile`] |
//! | Is an entry in a tree, and one tree the beginning of another? | [`proof`] |
//! | Who signed a checkpoint? | [`note`], [`checkpoint`] |
//!
//! Specifications: RFC 6962 section 2.1 (the tree), C2SP [signed-note], [tlog-checkpoint], [tlog-tiles],
//! [tlog-cosignature]; the chain and the entry are ours, `docs/audit-attributes.md`.
//!
//! [signed-note]: https://c2sp.org/signed-note
//! [tlog-checkpoint]: https://c2sp.org/tlog-checkpoint
//! [tlog-tiles]: https://c2sp.org/tlog-tiles
//! [tlog-cosignature]: https://c2sp.org/tlog-cosignature
#![forbid(unsafe_code)]

pub mod chain;
pub mod checkpoint;
pub mod entry;
pub mod note;
pub mod proof;
pub mod tile;
pub mod tree;

pub use checkpoint::{Checkpoint, SignedCheckpoint};
pub use entry::Entry;
pub use note::{Signer, Verifier};
pub use tree::{Hash, Tree};

/// Bytes as lower-case hexadecimal, and back.
pub mod hex {
    pub use picket_certs::leaf::hex as encode;

    /// None if it is not hexadecimal of exactly that many bytes.
    pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
        let bytes = decode_all(text)?;
        bytes.try_into().ok()
    }

    /// None if it is not hexadecimal.
    pub fn decode_all(text: &str) -> Option<Vec<u8>> {
        if !text.len().is_multiple_of(2) || !text.is_ascii() {
            return None;
        }
        let byte = |pair: &[u8]| {
            let digits = std::str::from_utf8(pair).ok()?;
            // from_str_radix also takes a sign.
            let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
        };
        text.as_bytes().chunks(2).map(byte).collect()
    }
}
