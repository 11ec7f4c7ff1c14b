//! What the records of one connection begin with: encoded and hashed once, not with each request.
//!
//! The connection's own facts come first, and after them, for the kinds of requests that came last, what is the same
//! for all of a kind: host, policy, rule, route. A request of a kind that was not seen is encoded in full.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Method, Version};
use picket_policy::Decision;

use super::facts::Facts;
use super::span::SpanPart;
use crate::spool::{RunningHash, Stem};

/// Kinds of requests that a connection remembers: about 1.5 KB each.
const KINDS: usize = 4;

/// What the records of one connection begin with.
pub(crate) struct Preamble {
    stem: Stem,
    hash: RunningHash,
    kinds: RefCell<Vec<Rc<Kind>>>,
    /// The one that gives way to the next new one.
    oldest: Cell<usize>,
}

/// What the records of one kind of requests go on with.
struct Kind {
    of: Alike,
    /// With what the connection's records begin with.
    stem: Stem,
    hash: RunningHash,
}

/// What makes requests of one connection alike: all that [`Facts::write_kind`] writes. Host as a copy, which does not
/// hold the buffer that it was read into.
struct Alike {
    method: Method,
    host: Box<[u8]>,
    version: Version,
    generation: Option<Arc<str>>,
    token_rules: Option<Arc<str>>,
    destination_known: bool,
    decision: Option<Decision>,
}

impl Alike {
    /// None if it has something of its own.
    fn of(facts: &Facts) -> Option<Self> {
        let is_plain = |d: &Decision| d.audit.is_empty() && d.dry_run.is_empty();
        if !facts.compared.is_empty() || !facts.decision.as_ref().is_none_or(is_plain) {
            return None;
        }
        Some(Self {
            method: facts.method.clone()?,
            host: host(facts).into(),
            version: facts.version,
            generation: facts.generation.clone(),
            token_rules: facts.token_rules.clone(),
            destination_known: facts.destination_known,
            decision: facts.decision.clone(),
        })
    }

    fn is_of(&self, facts: &Facts) -> bool {
        facts.method.as_ref() == Some(&self.method)
            && self.version == facts.version
            && self.destination_known == facts.destination_known
            && self.generation == facts.generation
            && self.token_rules == facts.token_rules
            && self.decision == facts.decision
            && *self.host == *host(facts)
            && facts.compared.is_empty()
    }
}

fn host(facts: &Facts) -> &[u8] {
    facts.host.as_ref().map_or(&[], HeaderValue::as_bytes)
}

impl Preamble {
    /// Of a connection whose facts are all known.
    pub(crate) fn of(facts: &Facts, lane: u32) -> Self {
        let mut bytes = Vec::new();
        facts.write_connection(&mut SpanPart::new(&mut bytes), lane);
        let hash = RunningHash::new(&bytes);
        let (stem, kinds, oldest) = (Stem::new(bytes), RefCell::default(), Cell::new(0));
        Self { stem, hash, kinds, oldest }
    }

    /// The kind that a request is of, encoded if none was like it before.
    fn kind(&self, facts: &Facts) -> Option<Rc<Kind>> {
        let mut kinds = self.kinds.borrow_mut();
        if let Some(known) = kinds.iter().find(|kind| kind.of.is_of(facts)) {
            return Some(Rc::clone(known));
        }
        let of = Alike::of(facts)?;
        let mut bytes = self.stem.bytes().to_vec();
        facts.write_kind(&mut SpanPart::new(&mut bytes));
        let mut hash = self.hash.clone();
        hash.update(bytes.get(self.stem.bytes().len()..).unwrap_or_default());
        let new = Rc::new(Kind { of, stem: Stem::new(bytes), hash });
        let oldest = self.oldest.get();
        match kinds.get_mut(oldest) {
            Some(place) => *place = Rc::clone(&new),
            None => kinds.push(Rc::clone(&new)),
        }
        self.oldest.set((oldest + 1) % KINDS);
        Some(new)
    }
}

/// The beginning of one record, as far as it is encoded and hashed already.
pub(super) struct Opening {
    preamble: Rc<Preamble>,
    kind: Option<Rc<Kind>>,
}

impl Opening {
    /// Of a record with a preamble.
    pub(super) fn of(facts: &Facts) -> Option<Self> {
        let preamble = facts.preamble.clone()?;
        let kind = preamble.kind(facts);
        Some(Self { preamble, kind })
    }

    /// Whether it has what [`Facts::write_kind`] writes.
    pub(super) fn has_kind(&self) -> bool {
        self.kind.is_some()
    }

    pub(super) fn stem(&self) -> &Stem {
        self.kind.as_ref().map_or(&self.preamble.stem, |kind| &kind.stem)
    }

    /// The hash of its bytes, to go on with.
    pub(super) fn hash(&self) -> &RunningHash {
        self.kind.as_ref().map_or(&self.preamble.hash, |kind| &kind.hash)
    }
}
