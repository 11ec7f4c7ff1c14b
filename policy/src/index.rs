//! Which rules can match a request at all, so that only those are tried.
//!
//! Every rule is filed under something that a request must have for the rule to match: one of its principals, paths,
//! hosts and so on, whichever is the most selective among the rules at hand. A request is then walked down a tree for
//! each attribute that rules are filed under; lists that stay long are filed again by another attribute. A rule that has
//! nothing but `not…` fields, or `*`, is always tried.
//!
//! It only leaves out, it never decides: whoever asks tries [`crate::rule::Rule::matches`] on what is found. So a key may
//! say less than its rule (a CIDR range counts by whole half-bytes, a long text by its beginning), never more.

use smallvec::SmallVec;

use crate::attributes::Attributes;
use crate::rule::{Action, Rule};

mod build;
mod key;
mod tree;

use build::PLAN;
pub(crate) use build::Plan;
use key::{Attribute, Cover};
use tree::Tree;

/// The rules of one action, by what they ask for.
#[derive(Debug)]
pub(crate) struct Index {
    rules: Node,
    /// The same for raw TCP connections, where they are others: there a rule that denies holds without its HTTP fields,
    /// so that it cannot be found by them. (One that allows does not hold at all, and is not found.)
    raw: Option<Node>,
    /// By the caller alone, where there are too many rules to look for the one that comes nearest in all of them.
    callers: Option<Node>,
}

/// Rules that the nearest is looked for in.
pub(crate) const NEAR: usize = 64;

/// Rules that are found together.
#[derive(Debug)]
enum Node {
    /// Their numbers, in ascending order.
    List(SmallVec<[u32; 4]>),
    Split(Box<Split>),
}

/// Rules that are told apart by attributes.
#[derive(Debug)]
struct Split {
    /// Those that nothing tells apart.
    always: SmallVec<[u32; 4]>,
    lookups: Box<[Lookup]>,
}

/// Rules by the values of one attribute.
#[derive(Debug)]
struct Lookup {
    attribute: Attribute,
    /// Whole values and beginnings.
    forward: Tree<Node>,
    /// Ends, backwards.
    backward: Tree<Node>,
    /// Any value.
    present: Option<Node>,
}

/// Takes the number of a rule; says whether those after it in the same list are of interest.
type Visit<'v> = &'v mut dyn FnMut(u32) -> bool;

impl Index {
    /// Rules are numbered in the order in which they are given.
    pub(crate) fn new<'r>(action: Action, rules: impl Iterator<Item = &'r Rule> + Clone) -> Self {
        Self::planned(action, rules, &PLAN)
    }

    pub(crate) fn planned<'r>(
        action: Action,
        rules: impl Iterator<Item = &'r Rule> + Clone,
        plan: &Plan,
    ) -> Self {
        let node = |covers: &dyn Fn(&Rule) -> Vec<Cover>, plan: &Plan| {
            let covers: Vec<_> = rules.clone().map(covers).collect();
            build::node(&covers, plan)
        };
        let differs = action != Action::Allow && rules.clone().any(Rule::needs_http);
        let is_large = action == Action::Allow && rules.clone().nth(NEAR).is_some();
        Self {
            rules: node(&|rule| key::covers(rule, false), plan),
            raw: differs.then(|| node(&|rule| key::covers(rule, true), plan)),
            callers: is_large.then(|| node(&key::callers, &Plan { levels: 1, ..*plan })),
        }
    }

    /// Visits every rule that may match, in no order and some more than once; within a list they ascend.
    pub(crate) fn visit(&self, attributes: &Attributes<'_>, visit: Visit<'_>) {
        match &self.raw {
            Some(raw) if attributes.http.is_none() => raw.visit(attributes, visit),
            _ => self.rules.visit(attributes, visit),
        }
    }

    /// Visits rules that have the caller or another telling thing in common with a request, until `visit` has enough.
    pub(crate) fn near(&self, attributes: &Attributes<'_>, visit: Visit<'_>) {
        for node in self.callers.iter().chain([&self.rules]) {
            let Node::Split(split) = node else { continue };
            for lookup in &split.lookups {
                let mut found = |node: &Node| {
                    node.all(&mut *visit);
                };
                lookup.attribute.read(attributes, &mut Found { lookup, found: &mut found });
            }
        }
    }
}

impl Node {
    fn visit(&self, attributes: &Attributes<'_>, visit: Visit<'_>) {
        match self {
            Self::List(numbers) => list(numbers, visit),
            Self::Split(split) => {
                list(&split.always, visit);
                for lookup in &split.lookups {
                    lookup.visit(attributes, visit);
                }
            }
        }
    }

    /// Visits every rule; false if `visit` has enough.
    fn all(&self, visit: Visit<'_>) -> bool {
        match self {
            Self::List(numbers) => numbers.iter().all(|number| visit(*number)),
            Self::Split(split) => {
                split.always.iter().all(|number| visit(*number))
                    && split.lookups.iter().all(|lookup| lookup.all().all(|node| node.all(visit)))
            }
        }
    }
}

fn list(numbers: &[u32], visit: Visit<'_>) {
    for number in numbers {
        if !visit(*number) {
            return;
        }
    }
}

impl Lookup {
    fn visit(&self, attributes: &Attributes<'_>, visit: Visit<'_>) {
        let mut found = |node: &Node| node.visit(attributes, &mut *visit);
        self.attribute.read(attributes, &mut Found { lookup: self, found: &mut found });
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        self.forward.all().chain(self.backward.all()).chain(&self.present)
    }
}

/// Takes the values that a request has of an attribute.
struct Found<'l, 'f> {
    lookup: &'l Lookup,
    found: &'f mut dyn FnMut(&Node),
}

impl Found<'_, '_> {
    fn value(&mut self, bytes: impl DoubleEndedIterator<Item = u8> + Clone) {
        if let Some(present) = &self.lookup.present {
            (self.found)(present);
        }
        if !self.lookup.backward.is_empty() {
            self.lookup.backward.walk(bytes.clone().rev(), self.found);
        }
        self.lookup.forward.walk(bytes, self.found);
    }

    fn text(&mut self, text: Option<&str>) {
        if let Some(text) = text {
            self.value(text.bytes());
        }
    }
}
