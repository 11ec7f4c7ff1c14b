//! What follows from what among the fields of rules.
//!
//! Every answer "yes" is certain, whatever the request: an address that is unknown, a claim that is a list, a raw TCP
//! connection. "No" means that it is not known. Comparing values costs; a [`Budget`] bounds it, and whoever has spent it
//! hears "no".

use std::cell::Cell;

use crate::attributes::Attributes;
use crate::matcher::{Glob, StringMatch};
use crate::principal::Principal;
use crate::rule::{Action, Clause, Test};

/// How many pairs of values may still be compared.
pub(super) struct Budget(Cell<u64>);

impl Budget {
    pub(super) fn new(pairs: u64) -> Self {
        Self(Cell::new(pairs))
    }

    /// Whether there is enough left.
    pub(super) fn spend(&self, pairs: usize) -> bool {
        match self.0.get().checked_sub(pairs as u64) {
            Some(left) => {
                self.0.set(left);
                true
            }
            None => false,
        }
    }
}

/// How two lists of values of one attribute stand to each other.
struct Lists {
    /// Every value of the second is covered by one of the first.
    covers: bool,
    /// No value of the one overlaps one of the other.
    disjoint: bool,
    /// The attribute may have several values at once.
    several: bool,
}

/// Whether a request for which `known` holds is one for which `other` holds.
pub(super) fn implies(known: &Clause, other: &Clause, action: Action, budget: &Budget) -> bool {
    if !budget.spend(1) {
        return false;
    }
    match (known.negated, other.negated) {
        (false, false) if lists(&other.test, &known.test, budget).is_some_and(|l| l.covers) => true,
        (true, true) => lists(&known.test, &other.test, budget).is_some_and(|lists| lists.covers),
        (false, true)
            if lists(&known.test, &other.test, budget)
                .is_some_and(|lists| lists.disjoint && !lists.several) =>
        {
            true
        }
        (false, _) => {
            each_peer(known, budget, |peer| looks_at_peer(other) && other.holds(action, peer))
        }
        (true, false) => false,
    }
}

/// Whether no request satisfies both.
pub(super) fn contradict(a: &Clause, b: &Clause, action: Action) -> bool {
    contradict_within(a, b, action, &Budget::new(1 << 16))
}

/// As [`contradict`], within a budget.
pub(super) fn contradict_within(a: &Clause, b: &Clause, action: Action, budget: &Budget) -> bool {
    // On a raw TCP connection a DENY rule is without them.
    let needs_http = a.test.needs_http() || b.test.needs_http();
    if (needs_http && action != Action::Allow) || !budget.spend(1) {
        return false;
    }
    match (a.negated, b.negated) {
        (true, true) => false,
        (false, false) => {
            lists(&a.test, &b.test, budget).is_some_and(|l| l.disjoint && !l.several)
                || excludes_peers(a, b, action, budget)
                || excludes_peers(b, a, action, budget)
        }
        (false, true) => excludes(a, b, action, budget),
        (true, false) => excludes(b, a, action, budget),
    }
}

/// Whether no request satisfies a clause, by itself.
pub(super) fn is_impossible(clause: &Clause, action: Action) -> bool {
    if clause.negated || (clause.test.needs_http() && action != Action::Allow) {
        return false;
    }
    match &clause.test {
        Test::Principal(values) => values.iter().all(|value| match value {
            StringMatch::Exact(text) => identity(text).is_none(),
            _ => false,
        }),
        _ => false,
    }
}

/// Whether nothing is left of `wanted` where none of `refused` may be.
fn excludes(wanted: &Clause, refused: &Clause, action: Action, budget: &Budget) -> bool {
    // Whoever shows any identity is refused, and one is wanted.
    let refuses_all = match &refused.test {
        Test::Principal(values) | Test::TrustDomain(values) => {
            values.contains(&StringMatch::Present)
        }
        Test::Namespace(values) => values.contains(&Glob::parse("*")),
        _ => false,
    };
    (refuses_all && looks_at_peer(wanted))
        || lists(&refused.test, &wanted.test, budget).is_some_and(|lists| lists.covers)
        || excludes_peers(wanted, refused, action, budget)
}

fn excludes_peers(known: &Clause, other: &Clause, action: Action, budget: &Budget) -> bool {
    looks_at_peer(other) && each_peer(known, budget, |peer| !other.holds(action, peer))
}

/// Whether a clause looks at nothing but the identity of the peer.
fn looks_at_peer(clause: &Clause) -> bool {
    matches!(
        clause.test,
        Test::Principal(_) | Test::Namespace(_) | Test::ServiceAccount(_) | Test::TrustDomain(_)
    )
}

/// Whether something is so for every peer that a clause lets by; no if they cannot be counted.
fn each_peer(
    clause: &Clause,
    budget: &Budget,
    mut is_so: impl FnMut(&Attributes<'_>) -> bool,
) -> bool {
    let Test::Principal(values) = &clause.test else { return false };
    if clause.negated || !budget.spend(values.len()) {
        return false;
    }
    values.iter().all(|value| match value {
        // What is no identity lets nobody by.
        StringMatch::Exact(text) => identity(text)
            .is_none_or(|peer| is_so(&Attributes { peer: Some(&peer), ..Attributes::default() })),
        _ => false,
    })
}

/// The identity that a principal without stars names.
pub(super) fn identity(principal: &str) -> Option<Principal> {
    Principal::from_spiffe_id(&format!("spiffe://{principal}")).ok()
}

/// Compares the values of two fields; nothing if they look at different things, or if it would cost too much.
fn lists(a: &Test, b: &Test, budget: &Budget) -> Option<Lists> {
    fn compare<T>(
        a: &[T],
        b: &[T],
        covers: impl Fn(&T, &T) -> bool,
        overlaps: impl Fn(&T, &T) -> bool,
        budget: &Budget,
    ) -> Option<Lists> {
        budget.spend(2 * a.len() * b.len()).then(|| Lists {
            covers: b.iter().all(|b| a.iter().any(|a| covers(a, b))),
            disjoint: !a.iter().any(|a| b.iter().any(|b| overlaps(a, b))),
            several: false,
        })
    }
    let strings = |a: &[StringMatch], b: &[StringMatch]| {
        compare(a, b, StringMatch::covers, StringMatch::overlaps, budget)
    };
    match (a, b) {
        (Test::Principal(a), Test::Principal(b))
        | (Test::TrustDomain(a), Test::TrustDomain(b))
        | (Test::Sni(a), Test::Sni(b))
        | (Test::Method(a), Test::Method(b)) => strings(a, b),
        (Test::Header(name, a), Test::Header(other, b)) if name == other => strings(a, b),
        (Test::Host(a), Test::Host(b)) => {
            let lower =
                |list: &[StringMatch]| list.iter().map(StringMatch::to_lower).collect::<Vec<_>>();
            strings(&lower(a), &lower(b))
        }
        // A claim may be a list, of which each field sees another entry.
        (Test::Claim(path, a), Test::Claim(other, b)) if path == other => {
            strings(a, b).map(|lists| Lists { several: true, ..lists })
        }
        (Test::Namespace(a), Test::Namespace(b)) => {
            compare(a, b, Glob::covers, Glob::overlaps, budget)
        }
        (Test::ServiceAccount(a), Test::ServiceAccount(b)) => {
            compare(a, b, |a, b| a == b, |a, b| a == b, budget)
        }
        (Test::RequestPrincipal(a), Test::RequestPrincipal(b)) => {
            compare(a, b, |a, b| a.covers(b), |a, b| a.overlaps(b), budget)
        }
        (Test::SourceIp(a), Test::SourceIp(b))
        | (Test::RemoteIp(a), Test::RemoteIp(b))
        | (Test::DestinationIp(a), Test::DestinationIp(b)) => {
            compare(a, b, |a, b| a.contains(b), |a, b| a.contains(b) || b.contains(a), budget)
        }
        (Test::Port(a), Test::Port(b)) => compare(a, b, |a, b| a == b, |a, b| a == b, budget),
        (Test::Path(a), Test::Path(b)) => {
            compare(a, b, |a, b| a.covers(b), |a, b| a.overlaps(b), budget)
        }
        _ => None,
    }
}
