//! All rules compiled together: each comparison once, and for each event only the rules that can match.
//!
//! Texts that are compared whole are looked up in a table, parts of texts are found by one automaton for each field;
//! everything else is compared when a rule asks for it, at most once for each event.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::condition::Expr;
use crate::event::{self, Event};
use crate::matcher::{How, Test};
use crate::pattern::Pattern;
use crate::set::Rule;

/// Rules, compiled.
pub(crate) struct Program {
    tests: Vec<Test>,
    fields: HashMap<String, Finder>,
    expressions: Vec<Expr<usize>>,
    /// Rules that are to be looked at if a test holds.
    triggered: Vec<Vec<usize>>,
    /// Rules that always are.
    always: Vec<usize>,
}

/// Finds the texts of one field.
struct Finder {
    exact: HashMap<String, Vec<usize>>,
    /// None if there are no parts, or too many for one automaton.
    automaton: Option<AhoCorasick>,
    /// The automaton's patterns.
    parts: Vec<(String, Part, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Prefix,
    Suffix,
    Anywhere,
}

/// What is known of one event; kept between events so that nothing is allocated anew.
#[derive(Default)]
pub(crate) struct Scratch {
    turn: u32,
    /// The turn in which a test was found to hold, and the one in which it was looked at.
    holds: Vec<u32>,
    seen: Vec<u32>,
    candidates: Vec<usize>,
}

impl Program {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut tests = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut intern = |test: Test| {
            *known.entry(test.key()).or_insert_with(|| {
                tests.push(test);
                tests.len() - 1
            })
        };
        let expressions: Vec<Expr<usize>> =
            rules.iter().map(|rule| rule.expression.clone().map(&mut intern)).collect();
        let fields = finders(&tests);
        let mut triggered = vec![Vec::new(); tests.len()];
        let mut always = Vec::new();
        for (rule, expression) in expressions.iter().enumerate() {
            match triggers(expression, &tests) {
                Some(found) => {
                    for test in found {
                        if let Some(rules) = triggered.get_mut(test) {
                            rules.push(rule);
                        }
                    }
                }
                None => always.push(rule),
            }
        }
        Self { tests, fields, expressions, triggered, always }
    }

    /// How many different comparisons there are.
    pub(crate) fn tests(&self) -> usize {
        self.tests.len()
    }

    /// Calls `matched` for each rule that matches, in their order, and `missing` for each that did not and asked for
    /// a field that is not there.
    pub(crate) fn run(
        &self,
        event: &Event<'_>,
        scratch: &mut Scratch,
        mut matched: impl FnMut(usize),
        mut missing: impl FnMut(usize),
    ) {
        scratch.begin(self);
        let Scratch { turn, holds, seen, candidates } = scratch;
        let turn = *turn;
        for (name, value) in event.fields() {
            let Some(finder) = self.fields.get(name) else { continue };
            for item in event::items(value) {
                let Some(text) = event::text(item) else { continue };
                finder.find(&event::lower(&text), &mut |test| {
                    if let Some(slot) = holds.get_mut(test).filter(|slot| **slot != turn) {
                        *slot = turn;
                        candidates.extend(self.triggered.get(test).into_iter().flatten());
                    }
                });
            }
        }
        candidates.extend(&self.always);
        candidates.sort_unstable();
        let mut last = None;
        for rule in candidates.iter().copied() {
            // Several tests may have named it.
            if last.replace(rule) == Some(rule) {
                continue;
            }
            let Some(expression) = self.expressions.get(rule) else { continue };
            let mut view = View { program: self, event, turn, holds, seen, lacks: false };
            if view.is_true(expression) {
                matched(rule);
            } else if view.lacks {
                missing(rule);
            }
        }
    }
}

impl Scratch {
    fn begin(&mut self, program: &Program) {
        self.candidates.clear();
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 || self.holds.len() != program.tests.len() {
            self.holds = vec![0; program.tests.len()];
            self.seen = vec![0; program.tests.len()];
            self.turn = 1;
        }
    }
}

/// One event, as expressions look at it.
struct View<'v, 'e> {
    program: &'v Program,
    event: &'v Event<'e>,
    turn: u32,
    holds: &'v mut Vec<u32>,
    seen: &'v mut Vec<u32>,
    /// A field that was asked for is missing.
    lacks: bool,
}

impl View<'_, '_> {
    fn is_true(&mut self, expression: &Expr<usize>) -> bool {
        match expression {
            Expr::Test(test) => self.holds(*test),
            Expr::All(items) => items.iter().all(|item| self.is_true(item)),
            Expr::Any(items) => items.iter().any(|item| self.is_true(item)),
            Expr::Not(inner) => !self.is_true(inner),
        }
    }

    fn holds(&mut self, number: usize) -> bool {
        if self.holds.get(number) == Some(&self.turn) {
            return true;
        }
        let Some(test) = self.program.tests.get(number) else { return false };
        if let Some(field) = test.field.as_ref().filter(|_| !test.asks_for_absence()) {
            self.lacks |= self.event.get(field).is_none();
        }
        if is_found(test) || self.seen.get(number) == Some(&self.turn) {
            return false;
        }
        let holds = test.holds(self.event);
        let slots = if holds { &mut *self.holds } else { &mut *self.seen };
        if let Some(slot) = slots.get_mut(number) {
            *slot = self.turn;
        }
        holds
    }
}

/// Whether a finder finds it, so that what was not found does not hold.
fn is_found(test: &Test) -> bool {
    let is_text = matches!(
        &test.how,
        How::Pattern {
            pattern: Pattern::Exact(_)
                | Pattern::Prefix(_)
                | Pattern::Suffix(_)
                | Pattern::Contains(_),
            cased: false,
        }
    );
    is_text && test.field.is_some() && !is_empty(test)
}

/// An empty text is a part of every other: no automaton looks for it.
fn is_empty(test: &Test) -> bool {
    match &test.how {
        How::Pattern { pattern, .. } => match pattern {
            Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Contains(text) => {
                text.is_empty()
            }
            Pattern::Exact(_) | Pattern::Glob(_) => false,
        },
        _ => false,
    }
}

/// Tests of which at least one holds whenever the expression does; none if that cannot be said.
fn triggers(expression: &Expr<usize>, tests: &[Test]) -> Option<Vec<usize>> {
    match expression {
        Expr::Test(test) => tests.get(*test).is_some_and(is_found).then(|| vec![*test]),
        Expr::All(items) => {
            let found = items.iter().filter_map(|item| triggers(item, tests));
            // What most events have is a bad trigger.
            found
                .min_by_key(|found| (found.iter().any(|test| is_common(*test, tests)), found.len()))
        }
        Expr::Any(items) => {
            let found: Option<Vec<Vec<usize>>> =
                items.iter().map(|item| triggers(item, tests)).collect();
            found.map(|found| found.concat())
        }
        Expr::Not(_) => None,
    }
}

fn is_common(test: usize, tests: &[Test]) -> bool {
    let field = tests.get(test).and_then(|test| test.field.as_deref());
    matches!(
        field,
        Some("picket.kind" | "picket.direction" | "picket.decision" | "http.request.method")
    )
}

fn finders(tests: &[Test]) -> HashMap<String, Finder> {
    let mut exact: HashMap<&str, HashMap<String, Vec<usize>>> = HashMap::new();
    let mut parts: HashMap<&str, Vec<(&str, Part, usize)>> = HashMap::new();
    for (number, test) in tests.iter().enumerate().filter(|(_, test)| is_found(test)) {
        let (Some(field), How::Pattern { pattern, .. }) = (test.field.as_deref(), &test.how) else {
            continue;
        };
        let (text, part) = match pattern {
            Pattern::Exact(text) => {
                let by_text = exact.entry(field).or_default();
                by_text.entry(text.clone()).or_default().push(number);
                continue;
            }
            Pattern::Prefix(text) => (text, Part::Prefix),
            Pattern::Suffix(text) => (text, Part::Suffix),
            Pattern::Contains(text) => (text, Part::Anywhere),
            Pattern::Glob(_) => continue,
        };
        parts.entry(field).or_default().push((text, part, number));
    }
    let names: Vec<&str> = exact.keys().chain(parts.keys()).copied().collect();
    let mut finders = HashMap::new();
    for name in names {
        let own = parts.remove(name).unwrap_or_default();
        let texts = own.iter().map(|(text, ..)| *text);
        // Overlapping matches are all wanted, which the standard kind gives.
        let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(texts);
        let automaton = automaton.ok().filter(|_| !own.is_empty());
        let parts = own.iter().map(|(text, part, number)| ((*text).to_owned(), *part, *number));
        let parts = parts.collect();
        let exact = exact.remove(name).unwrap_or_default();
        finders.entry(name.to_owned()).or_insert(Finder { exact, automaton, parts });
    }
    finders
}

impl Finder {
    fn find(&self, text: &str, found: &mut impl FnMut(usize)) {
        if let Some(tests) = self.exact.get(text) {
            tests.iter().copied().for_each(&mut *found);
        }
        let Some(automaton) = &self.automaton else {
            for (part, kind, test) in &self.parts {
                let holds = match kind {
                    Part::Prefix => text.starts_with(part.as_str()),
                    Part::Suffix => text.ends_with(part.as_str()),
                    Part::Anywhere => text.contains(part.as_str()),
                };
                if holds {
                    found(*test);
                }
            }
            return;
        };
        for hit in automaton.find_overlapping_iter(text) {
            let Some((_, kind, test)) = self.parts.get(hit.pattern().as_usize()) else { continue };
            let is_meant = match kind {
                Part::Prefix => hit.start() == 0,
                Part::Suffix => hit.end() == text.len(),
                Part::Anywhere => true,
            };
            if is_meant {
                found(*test);
            }
        }
    }
}
