//! The hash chain of a lane: what makes a record that was changed, removed or moved show.
//!
//! Every completed span carries its position and the hash of the span before it. So the last hash
//! stands for all of them, and it is enough to sign that one. See "Tamper evidence" in
//! `docs/audit-attributes.md`.

pub(crate) use picket_certs::leaf::sha256;
pub(crate) use picket_ledger::Hash;
use picket_ledger::chain::seed;
use sha2::{Digest as _, Sha256};

/// A span that is completed: its place in the chain, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// From 1; 0 is the seed.
    pub(crate) position: u64,
    pub(crate) hash: Hash,
}

impl Link {
    /// What the first span of a lane follows.
    pub(crate) fn seed(emitter: &str, boot: &str, lane: u32) -> Self {
        Self { position: 0, hash: seed(emitter, boot, lane.into()) }
    }

    /// The span after this one.
    pub(crate) fn next(&self, hash: Hash) -> Self {
        Self { position: self.position + 1, hash }
    }
}

/// How far a lane has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The span that was completed last.
    pub(crate) link: Link,
    /// Numbers given out.
    pub(crate) emitted: u64,
    /// Begun and not completed.
    pub(crate) open: u64,
    /// Numbers of records that could not be kept.
    pub(crate) lost: u64,
}

/// The hash of a span while it is written in parts. Spans that begin alike go on from copies of one: such a copy
/// is a hundred bytes here, and not an allocation as with the library that encrypts.
#[derive(Clone, Default)]
pub(crate) struct Running(Sha256);

impl Running {
    /// Begins with the first part.
    pub(crate) fn new(part: &[u8]) -> Self {
        let mut running = Self::default();
        running.update(part);
        running
    }

    /// Takes a further part.
    pub(crate) fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The hash with this part as the last one. What is left is that of nothing.
    pub(crate) fn finish(&mut self, part: &[u8]) -> Hash {
        self.0.update(part);
        self.0.finalize_reset().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_in_parts_has_the_hash_of_the_whole() {
        let mut running = Running::new(b"ab");
        running.update(b"c");
        assert_eq!(running.finish(b"d"), sha256(b"abcd"));
        // FIPS 180-4 has this example.
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn every_lane_has_a_seed_of_its_own() {
        let seed = Link::seed("spiffe://a/ns/b/sa/c", "boot", 1);
        assert_eq!(seed.hash, sha256(b"picket-chain-v1\nspiffe://a/ns/b/sa/c\nboot\n1\n"));
        assert_ne!(seed, Link::seed("spiffe://a/ns/b/sa/c", "boot", 2));
    }
}
