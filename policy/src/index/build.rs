//! Chooses what each rule is filed under.
//!
//! The weight of a key is how many of the rules at hand a request would find by it, if requests had the values that the
//! rules name: `/a*` finds those that begin with `/a`, `*` all. A rule is filed under the fields with the least weight in
//! sum; a list that stays long is filed again by what is left. What the index takes beyond one entry for each key is
//! bounded by a multiple of the keys there are.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::key::{Attribute, Cover, Key, Part};
use super::tree::{Entry, Tree};
use super::{Lookup, Node, Split};

/// How far rules are told apart.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Rules that are rather tried one by one.
    pub(crate) scan: usize,
    /// How often a list is filed again.
    pub(crate) levels: u32,
    /// Entries for each key of the rules.
    pub(crate) spread: usize,
}

pub(super) const PLAN: Plan = Plan { scan: 6, levels: 4, spread: 4 };

/// Weights are counted in parts of a rule.
const RULE: usize = 64;
/// What looking an attribute up costs, in rules that could be tried instead.
const LOOKUP: usize = 4 * RULE;

pub(super) fn node(rules: &[Vec<Cover>], plan: &Plan) -> Node {
    let keys: usize = rules.iter().flatten().map(Vec::len).sum();
    let members = (0..).zip(rules).map(|(number, _)| Member { number, used: 0 }).collect();
    Builder { rules, plan, left: keys.saturating_mul(plan.spread) }.node(members, 0)
}

/// A rule, and by which of its covers it has been filed already.
#[derive(Clone, Copy)]
struct Member {
    number: u32,
    used: u32,
}

struct Builder<'r> {
    rules: &'r [Vec<Cover>],
    plan: &'r Plan,
    /// Entries that may still be made.
    left: usize,
}

/// A rule under one of its keys.
struct Placed<'r> {
    attribute: usize,
    key: &'r Key,
    member: Member,
}

impl<'r> Builder<'r> {
    fn node(&mut self, members: Vec<Member>, level: u32) -> Node {
        if members.len() <= self.plan.scan || level >= self.plan.levels {
            return Node::List(numbers(&members));
        }
        let covers = members.iter().flat_map(|member| self.unused(*member));
        let weights = Weights::new(covers.flat_map(|(_, cover)| cover));
        let mut always = Vec::new();
        let mut placed: Vec<Placed<'r>> = Vec::new();
        for member in &members {
            let best = self
                .unused(*member)
                .map(|(bit, cover)| (weights.of(cover), bit, cover))
                .min_by_key(|(weight, bit, _)| (*weight, *bit));
            match best {
                Some((weight, bit, cover)) if weight < members.len() * RULE => {
                    let member = Member { used: member.used | bit, ..*member };
                    placed.extend(cover.iter().map(|key| Placed {
                        attribute: weights.place(&key.attribute),
                        key,
                        member,
                    }));
                }
                _ => always.push(*member),
            }
        }
        if always.len() == members.len() || placed.len() > self.left {
            return Node::List(numbers(&members));
        }
        self.left -= placed.len();
        placed.sort_by(|a, b| {
            let order = |placed: &Placed<'r>| (placed.attribute, placed.key.part == Part::End);
            let end = |placed: &Placed<'r>| (placed.key.part, placed.member.number);
            order(a)
                .cmp(&order(b))
                .then_with(|| a.key.text.cmp(&b.key.text))
                .then_with(|| end(a).cmp(&end(b)))
        });
        let lookups = placed
            .chunk_by(|a, b| a.attribute == b.attribute)
            .filter_map(|placed| self.lookup(placed, level + 1))
            .collect();
        Node::Split(Box::new(Split { always: numbers(&always), lookups }))
    }

    /// The covers by which a rule has not been filed yet.
    fn unused(&self, member: Member) -> impl Iterator<Item = (u32, &'r Cover)> + use<'r> {
        let rules = self.rules;
        let covers = rules.get(member.number as usize).map(Vec::as_slice).unwrap_or_default();
        (0..u32::BITS)
            .map(|bit| 1 << bit)
            .zip(covers)
            .filter(move |(bit, _)| member.used & bit == 0)
    }

    fn lookup(&mut self, placed: &[Placed<'r>], level: u32) -> Option<Lookup> {
        let attribute = placed.first()?.key.attribute.clone();
        let (mut forward, mut backward, mut present) = (Vec::new(), Vec::new(), None);
        for same in placed.chunk_by(|a, b| a.key == b.key) {
            let Some(Placed { key, .. }) = same.first() else { continue };
            let mut members: Vec<Member> = same.iter().map(|placed| placed.member).collect();
            // A value may be written twice.
            members.dedup_by_key(|member| member.number);
            let found = self.node(members, level);
            let entry = |found| Entry { text: &key.text, whole: key.part == Part::Whole, found };
            match key.part {
                Part::Any => present = Some(found),
                Part::Whole | Part::Start => forward.push(entry(found)),
                Part::End => backward.push(entry(found)),
            }
        }
        Some(Lookup {
            attribute,
            forward: Tree::new(forward),
            backward: Tree::new(backward),
            present,
        })
    }
}

fn numbers(members: &[Member]) -> SmallVec<[u32; 4]> {
    members.iter().map(|member| member.number).collect()
}

/// What the rules at hand ask for.
struct Weights<'k> {
    places: HashMap<&'k Attribute, usize>,
    texts: Vec<Texts<'k>>,
}

/// The keys of one attribute, each list in ascending order.
#[derive(Default)]
struct Texts<'k> {
    forward: Vec<&'k [u8]>,
    /// Ends, and whole values too, backwards.
    backward: Vec<Vec<u8>>,
    total: usize,
}

impl<'k> Weights<'k> {
    fn new(keys: impl Iterator<Item = &'k Key>) -> Self {
        let mut weights = Self { places: HashMap::new(), texts: Vec::new() };
        for key in keys {
            let place = *weights.places.entry(&key.attribute).or_insert(weights.texts.len());
            if place == weights.texts.len() {
                weights.texts.push(Texts::default());
            }
            let Some(texts) = weights.texts.get_mut(place) else { continue };
            texts.total += 1;
            match key.part {
                Part::Whole | Part::Start => texts.forward.push(&key.text),
                Part::End => texts.backward.push(key.text.to_vec()),
                Part::Any => {}
            }
        }
        for texts in weights.texts.iter_mut().filter(|texts| !texts.backward.is_empty()) {
            texts
                .backward
                .extend(texts.forward.iter().map(|text| text.iter().rev().copied().collect()));
        }
        for texts in &mut weights.texts {
            texts.forward.sort_unstable();
            texts.backward.sort_unstable();
        }
        weights
    }

    fn place(&self, attribute: &Attribute) -> usize {
        self.places.get(attribute).copied().unwrap_or_default()
    }

    fn of(&self, cover: &[Key]) -> usize {
        cover
            .iter()
            .filter_map(|key| {
                let texts = self.texts.get(self.place(&key.attribute))?;
                Some(texts.found_by(key) * RULE + LOOKUP / texts.total.max(1))
            })
            .sum()
    }
}

impl Texts<'_> {
    fn found_by(&self, key: &Key) -> usize {
        let text = &*key.text;
        match key.part {
            Part::Whole => {
                let rest = after(&self.forward, |other| *other < text);
                rest.partition_point(|other| *other == text)
            }
            Part::Start => {
                let rest = after(&self.forward, |other| *other < text);
                rest.partition_point(|other| other.starts_with(text))
            }
            Part::End => {
                let rest = after(&self.backward, |other| **other < *text);
                rest.partition_point(|other| other.starts_with(text))
            }
            Part::Any => self.total,
        }
    }
}

/// What is left of a sorted list from the first element on that is not before.
fn after<T>(sorted: &[T], is_before: impl Fn(&T) -> bool) -> &[T] {
    sorted.get(sorted.partition_point(is_before)..).unwrap_or_default()
}
