//! Rules that decide nothing: no request can match them, or another rule decides every request that does.
//!
//! Taking such a rule away changes no verdict, which is what is claimed and what the tests hold against the evaluator.
//! Rules are not compared each with each: [`Index`] finds the few that can cover one by the values that it names. Source of
//! the order of decisions: istio/api `security/v1/authorization_policy.proto`.

use std::collections::HashMap;

use super::implies::{self, Budget};
use super::{Findings, Written};
use crate::diagnostic::code;
use crate::matcher::{Glob, StringMatch};
use crate::rule::{Action, Clause, Rule, ServiceAccount, Test};

/// Pairs of rules, fields and values that are compared in one run: a second or so. What is left then is not looked at.
const BUDGET: u64 = 20_000_000;

/// A rule with its policy.
#[derive(Clone, Copy)]
struct Place<'w> {
    written: &'w Written<'w>,
    /// Of the policy.
    policy: usize,
    rule: &'w Rule,
    index: usize,
}

pub(super) fn check(written: &[Written<'_>], findings: &mut Findings) {
    let budget = Budget::new(BUDGET);
    let mut live = Vec::new();
    for place in places(written) {
        if is_dead(place, &budget) {
            findings.warn(
                place.written.info(),
                place.written.place(place.index),
                code::DEAD_RULE,
                "no request matches the rule: what it demands cannot hold together",
                "compare its fields with each other; a field and its `not…` twin, or two conditions, exclude each other",
            );
        } else {
            live.push(place);
        }
    }
    let index = Index::new(&live);
    for place in &live {
        if !budget.spend(index.others.len()) {
            break;
        }
        let candidates = index.candidates(place.rule);
        let others = index.others.iter().chain(&candidates).filter_map(|at| live.get(*at));
        let by = others
            .filter(|other| !is_same(other, place))
            .find(|other| budget.spend(1) && shadows(other, place, &budget));
        let Some(by) = by else { continue };
        let info = by.written.info();
        let (words, help) = match (by.written.policy.action, place.written.policy.action) {
            (Action::Deny, Action::Allow) => {
                ("refuses", "remove it, or make the DENY rule say what is to be refused of it")
            }
            _ => ("matches, too,", "remove it, or make the other rule narrower"),
        };
        let (name, rule, file, line) = (&info.full, by.index, &info.file, by.rule.line);
        findings.warn(
            place.written.info(),
            place.written.place(place.index),
            code::SHADOWED_RULE,
            format!("the rule changes nothing: {name} rule[{rule}] ({file}:{line}) {words} all that it matches"),
            help,
        );
    }
}

fn places<'w>(written: &'w [Written<'w>]) -> impl Iterator<Item = Place<'w>> {
    written.iter().enumerate().flat_map(|(policy, written)| {
        let rules = written.policy.rules.iter().enumerate();
        rules.map(move |(index, rule)| Place { written, policy, rule, index })
    })
}

fn is_same(a: &Place<'_>, b: &Place<'_>) -> bool {
    a.policy == b.policy && a.index == b.index
}

/// Whether no request can match.
fn is_dead(place: Place<'_>, budget: &Budget) -> bool {
    let (rule, action) = (place.rule, place.written.policy.action);
    let fails = |clauses: &[Clause], beside: &[Clause]| {
        clauses.iter().enumerate().any(|(at, a)| {
            let mut others = clauses.iter().skip(at + 1).chain(beside);
            implies::is_impossible(a, action)
                || others.any(|b| implies::contradict_within(a, b, action, budget))
        })
    };
    let none = |groups: &[Box<[Clause]>]| {
        !groups.is_empty() && groups.iter().all(|group| fails(group, &rule.when))
    };
    none(&rule.from) || none(&rule.to) || fails(&rule.when, &[])
}

/// Whether `a` decides, no later than `b` and in the same sense or as a refusal, every request that `b` matches.
fn shadows(a: &Place<'_>, b: &Place<'_>, budget: &Budget) -> bool {
    let (by, of) = (a.written.policy, b.written.policy);
    let is_own = a.policy == b.policy;
    let concerns = match (by.action, of.action) {
        (Action::Allow, Action::Allow) | (Action::Deny, Action::Deny) => {
            is_own || (!by.dry_run && !of.dry_run)
        }
        (Action::Deny, Action::Allow) => !by.dry_run && !of.dry_run,
        // Each policy that is noted is noted by itself.
        (by, of) => by == of && is_own,
    };
    if !concerns
        || !by.target.covers(&of.target)
        || !covers(a.rule, b.rule, by.action, of.action, budget)
    {
        return false;
    }
    // Of two that are equal the later one is too much.
    let is_first = (a.policy, a.index) < (b.policy, b.index);
    let is_mutual = by.action == of.action
        && of.target.covers(&by.target)
        && covers(b.rule, a.rule, of.action, by.action, budget);
    is_first || !is_mutual
}

/// Whether every request that `b` matches is one that `a` matches.
///
/// For each `from` of `b` there has to be one of `a` that follows from it, likewise for `to`; what follows from the
/// conditions of `b` counts for both.
fn covers(a: &Rule, b: &Rule, by: Action, of: Action, budget: &Budget) -> bool {
    // On raw TCP an ALLOW rule with an HTTP field anywhere is gone, whatever its other alternatives say.
    if by == Action::Allow && a.needs_http() && !b.needs_http() {
        return false;
    }
    // A DENY rule that loses its HTTP fields on raw TCP covers no less; one that has other fields than `b` has to be
    // implied there, too, where the fields of `b` are gone.
    let holds = |known: &[Clause], wanted: &Clause| {
        let mut known = known.iter().chain(&b.when);
        known.any(|known| {
            let survives =
                of == Action::Allow || !known.test.needs_http() || wanted.test.needs_http();
            survives && implies::implies(known, wanted, by, budget)
        })
    };
    let groups = |a: &[Box<[Clause]>], b: &[Box<[Clause]>]| {
        let follows = |known: &[Clause]| {
            a.is_empty() || a.iter().any(|group| group.iter().all(|wanted| holds(known, wanted)))
        };
        if b.is_empty() { follows(&[]) } else { b.iter().all(|known| follows(known)) }
    };
    let everywhere = |wanted: &Clause| {
        let all = |groups: &[Box<[Clause]>]| {
            !groups.is_empty() && groups.iter().all(|known| holds(known, wanted))
        };
        holds(&[], wanted) || all(&b.from) || all(&b.to)
    };
    groups(&a.from, &b.from) && groups(&a.to, &b.to) && a.when.iter().all(everywhere)
}

/// Which rules can cover one: those that name, by one of their fields, what it names.
struct Index {
    by_value: HashMap<Key, Vec<usize>>,
    /// Rules without a field that could be looked up.
    others: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Exact,
    Prefix,
    Suffix,
    Present,
}

/// The longest text that is looked up by each of its beginnings.
const MAX_PARTS: usize = 256;

impl Index {
    fn new(places: &[Place<'_>]) -> Self {
        let mut counts: HashMap<Key, usize> = HashMap::new();
        for place in places {
            for key in place.rule.clauses().filter_map(keys).flatten() {
                *counts.entry(key).or_default() += 1;
            }
        }
        let cost = |keys: &Vec<Key>| {
            keys.iter().map(|key| counts.get(key).copied().unwrap_or_default()).sum::<usize>()
        };
        // The field of a group by which fewest rules are found.
        let best = |group: &[Clause]| group.iter().filter_map(keys).min_by_key(cost);
        let of_each = |groups: &[Box<[Clause]>]| {
            let keys: Option<Vec<_>> = groups.iter().map(|group| best(group)).collect();
            keys.filter(|keys| !keys.is_empty())
        };
        let mut index = Self { by_value: HashMap::new(), others: Vec::new() };
        for (at, place) in places.iter().enumerate() {
            // Whatever is covered satisfies one of the operations, one of the sources and all conditions: each of these
            // leads here.
            let rule = place.rule;
            let when = best(&rule.when).map(|keys| vec![keys]);
            let ways = [of_each(&rule.to), of_each(&rule.from), when];
            let way =
                ways.into_iter().flatten().min_by_key(|way| way.iter().map(cost).sum::<usize>());
            match way {
                Some(way) => {
                    for key in way.into_iter().flatten() {
                        let rules = index.by_value.entry(key).or_default();
                        if rules.last() != Some(&at) {
                            rules.push(at);
                        }
                    }
                }
                None => index.others.push(at),
            }
        }
        index
    }

    fn candidates(&self, rule: &Rule) -> Vec<usize> {
        let mut found = Vec::new();
        // What covers the rule covers its first operation with its first source.
        let groups = rule.to.first().into_iter().chain(rule.from.first());
        let clauses = groups.flat_map(|group| group.iter()).chain(&rule.when);
        for clause in clauses {
            // One value of it is enough: each has to be covered.
            let Some((attribute, form, text)) =
                keys(clause).and_then(|keys| keys.into_iter().next())
            else {
                continue;
            };
            self.look(attribute, form, &text, &mut found);
            if attribute == PRINCIPAL
                && form == Form::Exact
                && let Some(peer) = implies::identity(&text)
            {
                let account = format!("{}/{}", peer.namespace(), peer.service_account());
                self.look(NAMESPACE, form, peer.namespace(), &mut found);
                self.look(ACCOUNT, form, &account, &mut found);
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Rules that name a value which may cover this one.
    fn look(&self, attribute: u8, form: Form, text: &str, found: &mut Vec<usize>) {
        let mut add = |form: Form, text: &str| {
            let key = (attribute, form, text.to_owned());
            found.extend(self.by_value.get(&key).into_iter().flatten());
        };
        add(Form::Present, "");
        if form == Form::Exact {
            add(Form::Exact, text);
        }
        let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]).take(MAX_PARTS);
        if matches!(form, Form::Exact | Form::Prefix) {
            ends.clone().for_each(|at| add(Form::Prefix, text.get(..at).unwrap_or_default()));
        }
        if matches!(form, Form::Exact | Form::Suffix) {
            ends.for_each(|at| add(Form::Suffix, text.get(at..).unwrap_or_default()));
        }
    }
}

/// Attributes that rules are looked up by.
const PATH: u8 = 0;
const PRINCIPAL: u8 = 1;
const HOST: u8 = 2;
const ACCOUNT: u8 = 3;
const NAMESPACE: u8 = 4;
const PORT: u8 = 5;
const METHOD: u8 = 6;
const HEADER: u8 = 7;
const CLAIM: u8 = 8;

/// A value of an attribute.
type Key = (u8, Form, String);

/// The values of a clause as they are looked up; nothing for what is not, such as addresses and what must not be.
fn keys(clause: &Clause) -> Option<Vec<Key>> {
    fn text(value: &StringMatch) -> (Form, String) {
        match value {
            StringMatch::Exact(text) => (Form::Exact, text.to_string()),
            StringMatch::Prefix(text) => (Form::Prefix, text.to_string()),
            StringMatch::Suffix(text) => (Form::Suffix, text.to_string()),
            StringMatch::Present => (Form::Present, String::new()),
        }
    }
    fn all(attribute: u8, values: impl Iterator<Item = (Form, String)>) -> Vec<Key> {
        values.map(|(form, text)| (attribute, form, text)).collect()
    }
    // Values of things that have names begin with them.
    fn named(attribute: u8, name: &str, values: &[StringMatch]) -> Vec<Key> {
        let named = |value| match text(value) {
            (Form::Suffix | Form::Present, _) => (Form::Prefix, format!("{name}\0")),
            (form, text) => (form, format!("{name}\0{text}")),
        };
        all(attribute, values.iter().map(named))
    }
    fn namespace(value: &Glob) -> (Form, String) {
        match value.ends() {
            (text, None) => (Form::Exact, text.to_owned()),
            (begin, Some(_)) => (Form::Prefix, begin.to_owned()),
        }
    }
    if clause.negated {
        return None;
    }
    Some(match &clause.test {
        Test::Path(values) => all(PATH, values.iter().map(|value| text(&value.anchor()))),
        Test::Principal(values) => all(PRINCIPAL, values.iter().map(text)),
        Test::Host(values) => all(HOST, values.iter().map(|value| text(&value.to_lower()))),
        Test::Method(values) => all(METHOD, values.iter().map(text)),
        Test::Port(ports) => all(PORT, ports.iter().map(|port| (Form::Exact, port.to_string()))),
        Test::Namespace(values) => all(NAMESPACE, values.iter().map(namespace)),
        Test::ServiceAccount(accounts) => {
            let account = |account: &ServiceAccount| {
                (Form::Exact, format!("{}/{}", account.namespace, account.name))
            };
            all(ACCOUNT, accounts.iter().map(account))
        }
        Test::Header(name, values) => named(HEADER, name.as_str(), values),
        Test::Claim(path, values) => named(CLAIM, &path.join("\0"), values),
        _ => return None,
    })
}
