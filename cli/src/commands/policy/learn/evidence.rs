//! Who called what, gathered from records in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use picket_policy::{Verdict, Workload};

use super::paths::{Paths, Tally};
use crate::recorded::{Entry, shape, short};

/// Methods of one caller that are told apart: clients choose them.
const MAX_METHODS: usize = 32;
/// Kinds of denied requests, and of what cannot be learnt, that are listed.
const MAX_LISTED: usize = 1_000;

/// Who called what.
#[derive(Default)]
pub(super) struct Evidence {
    /// By called workload, with the labels it had.
    pub(super) callees: BTreeMap<Workload, Callee>,
    unlearnable: BTreeSet<String>,
    pub(super) tally: Tally,
}

/// One called workload.
#[derive(Default)]
pub(super) struct Callee {
    /// By principal, without `spiffe://`; none is whoever showed no identity.
    pub(super) callers: BTreeMap<Option<String>, Caller>,
    /// What was denied, in words.
    pub(super) denied: BTreeMap<String, Tally>,
}

/// One caller of a workload.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) methods: BTreeMap<String, Paths>,
    /// Raw TCP, by port.
    pub(super) ports: BTreeMap<u16, Tally>,
}

impl Evidence {
    pub(super) fn add(&mut self, entry: &Entry) {
        let callee = self.callees.entry(entry.workload.clone()).or_default();
        if entry.permitted() == Verdict::Deny {
            return callee.deny(entry);
        }
        self.tally.add(&entry.time);
        let principal = entry.facts.peer.as_ref().map(|peer| peer.as_str().to_owned());
        let caller = callee.callers.entry(principal).or_default();
        let Some(http) = &entry.facts.http else {
            let port = entry.facts.port.unwrap_or_default();
            return caller.ports.entry(port).or_default().add(&entry.time);
        };
        let method = http.method.as_str();
        let has_place = caller.methods.len() < MAX_METHODS || caller.methods.contains_key(method);
        let is_kept = has_place
            && caller.methods.entry(method.to_owned()).or_default().add(&http.path, entry);
        if !is_kept && self.unlearnable.len() < MAX_LISTED {
            let source = short(entry.source.as_deref());
            let what = format!("{source} → {}  {method} {}", entry.destination(), http.path);
            self.unlearnable.insert(what);
        }
    }

    /// Whether nothing that was allowed is recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.tally.count == 0
    }

    /// What no policy can say, in words.
    pub(super) fn unlearnable(&self) -> impl Iterator<Item = &str> {
        self.unlearnable.iter().map(String::as_str)
    }
}

impl Callee {
    fn deny(&mut self, entry: &Entry) {
        let what = match &entry.facts.http {
            Some(http) => format!("{} {}", http.method, shape(&http.path)),
            None => "TCP".to_owned(),
        };
        let source = short(entry.source.as_deref());
        let words = format!("{source}  {what}  {}", entry.then.reason);
        if self.denied.len() < MAX_LISTED || self.denied.contains_key(&words) {
            self.denied.entry(words).or_default().add(&entry.time);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (words, tally) in &other.denied {
            self.denied.entry(words.clone()).or_default().merge(tally);
        }
    }
}
