//! Rules together: every reference resolved, filters applied, correlations after what they are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_documents::fields::{Reader, Text};
use picket_documents::{Diagnostics, Document, yaml};
use serde::Serialize;

use crate::alert::Level;
use crate::condition::Expr;
use crate::correlation::{Correlation, Kind};
use crate::matcher::Test;
use crate::rule::{self, Body, Header, LogSource, NoiseBudget, Read, Respond, code};

/// Rules that belong together and have no mistake.
#[derive(Debug, Clone)]
pub struct RuleSet {
    pub(crate) rules: Vec<Rule>,
    pub(crate) correlations: Vec<Correlated>,
    filters: usize,
    warnings: Diagnostics,
}

/// A detection rule, its filters applied.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) header: Header,
    pub(crate) source: LogSource,
    pub(crate) expression: Expr<Test>,
    /// Whether it alerts by itself.
    pub(crate) alerts: bool,
}

/// A correlation, its references resolved.
#[derive(Debug, Clone)]
pub(crate) struct Correlated {
    pub(crate) header: Header,
    pub(crate) kind: Kind,
    pub(crate) timespan: i64,
    /// What it is made of, in the order of `rules`: each with the fields of its group.
    pub(crate) parts: Vec<Part>,
    /// The names of the group's fields, as an alert shows them.
    pub(crate) group_by: Vec<String>,
    pub(crate) alerts: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) of: Of,
    /// The field that stands for each of `group_by`.
    pub(crate) fields: Vec<String>,
}

/// An index into the rules, or into the correlations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Of {
    Rule(usize),
    Correlation(usize),
}

/// What a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Looks at one event.
    Detection,
    /// Looks at what others found.
    Correlation,
    /// Compares with what is usual.
    Profile,
}

/// One rule, for a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// What it is.
    pub kind: RuleKind,
    /// How bad it is.
    pub level: Level,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it is wrong.
    pub false_positives: Vec<String>,
    /// Where it stands.
    pub file: String,
    /// The line.
    pub line: u32,
    /// Whether it alerts, or only serves a correlation.
    pub alerts: bool,
    /// Files of events that have to match, relative to its own.
    pub matching: Vec<String>,
    /// Files of events that must not.
    pub other: Vec<String>,
    /// What is done about what it finds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,
    /// Controls of standards that it is evidence for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<String>,
    /// The sinks that are told of its alerts; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    /// How many of its alerts are told of, each by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<NoiseBudget>,
}

impl RuleSet {
    /// How far back events can still matter to what is to come, in nanoseconds: correlations of correlations look through
    /// two windows.
    pub fn reach(&self) -> i64 {
        let windows = self.correlations.iter().map(|c| (c.timespan, c.header.settings.lateness));
        windows.fold(0, |reach, (timespan, lateness)| {
            reach.max(timespan.saturating_mul(2).saturating_add(lateness))
        })
    }

    /// Reads rule files.
    ///
    /// # Errors
    /// With every mistake at its place. A set with one is refused whole.
    pub fn parse(files: &[Document]) -> Result<Self, Diagnostics> {
        let mut diagnostics = Diagnostics::default();
        let mut read = Vec::new();
        for file in files {
            for document in yaml::split(file, &mut diagnostics) {
                let Some(node) = yaml::read(&document, &mut diagnostics) else { continue };
                let mut reader = Reader { file: &document.file, diagnostics: &mut diagnostics };
                read.extend(rule::read(&node, &mut reader));
            }
        }
        let set = resolve(read, &mut diagnostics);
        if let Some(set) = &set {
            set.check_responses(&mut diagnostics);
        }
        diagnostics.sort();
        match set {
            Some(set) if !diagnostics.has_errors() => Ok(Self { warnings: diagnostics, ..set }),
            _ => Err(diagnostics),
        }
    }

    /// An alert has to say whom something is done to.
    fn check_responses(&self, diagnostics: &mut Diagnostics) {
        let rules = self.rules.iter().map(|r| (&r.header, &r.header.settings.group_by, r.alerts));
        let others = self.correlations.iter().map(|c| (&c.header, &c.group_by, c.alerts));
        for (header, group, alerts) in rules.chain(others) {
            let Some((respond, at)) = &header.settings.respond else { continue };
            let missing = respond.needs().find(|needed| !group.iter().any(|has| has == needed));
            if missing.is_some() || !alerts {
                let words = match missing.filter(|_| alerts) {
                    Some(field) => format!("`{field}` is not in the rule's `group-by`"),
                    None => "the rule raises no alert by itself".to_owned(),
                };
                let help = "a response is to whom the alert names";
                diagnostics.error(&header.file, *at, code::BAD_RESPONSE, words, help);
            }
        }
    }

    /// Refuses rules that have webhooks called which nobody knows.
    ///
    /// # Errors
    /// With each of them at its place.
    pub fn check_webhooks(&self, is_known: impl Fn(&str) -> bool) -> Result<(), Diagnostics> {
        let mut diagnostics = Diagnostics::default();
        let headers = self.rules.iter().map(|r| &r.header);
        for header in headers.chain(self.correlations.iter().map(|c| &c.header)) {
            let Some((respond, at)) = &header.settings.respond else { continue };
            let Some(name) = respond.webhook.as_deref().filter(|name| !is_known(name)) else {
                continue;
            };
            let words = format!("the control plane knows no webhook {name:?} with a secret");
            let help = "add it to `respond.webhooks` of the control plane, with a `secretFile`";
            diagnostics.error(&header.file, *at, code::BAD_RESPONSE, words, help);
        }
        if diagnostics.has_errors() { Err(diagnostics) } else { Ok(()) }
    }

    /// What is worth a warning.
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// How many filters there are.
    pub fn filters(&self) -> usize {
        self.filters
    }

    /// Every rule, detections first.
    pub fn summaries(&self) -> Vec<Summary> {
        let one = |header: &Header, kind, alerts| Summary {
            id: header.id.clone(),
            title: header.title.clone(),
            kind,
            level: header.level,
            tags: header.tags.clone(),
            false_positives: header.false_positives.clone(),
            file: header.file.to_string(),
            line: header.at.line,
            alerts,
            matching: header.settings.matching.clone(),
            other: header.settings.other.clone(),
            respond: header.settings.respond.as_ref().map(|(respond, _)| respond.clone()),
            controls: header.settings.telling.controls.clone(),
            notify: header.settings.telling.notify.clone(),
            budget: header.settings.telling.budget,
        };
        let rules = self.rules.iter().map(|r| one(&r.header, RuleKind::Detection, r.alerts));
        let correlations =
            self.correlations.iter().map(|c| one(&c.header, RuleKind::Correlation, c.alerts));
        rules.chain(correlations).collect()
    }
}

fn resolve(read: Vec<Read>, diagnostics: &mut Diagnostics) -> Option<RuleSet> {
    let mut rules = Vec::new();
    let mut correlations = Vec::new();
    let mut filters = Vec::new();
    let mut names: BTreeMap<String, Of> = BTreeMap::new();
    let mut ids: BTreeMap<String, (Arc<str>, u32)> = BTreeMap::new();
    for Read { header, body } in read {
        for name in [Some(header.id.clone()), header.name.clone()].into_iter().flatten() {
            let place = (Arc::clone(&header.file), header.at.line);
            if let Some((file, line)) = ids.insert(name.clone(), place) {
                let words = format!("`{name}` is also the id or name of the rule at {file}:{line}");
                let help = "each rule needs its own; `uuidgen` makes ids";
                diagnostics.error(&header.file, header.at, code::DUPLICATE_RULE, words, help);
            }
        }
        let own = [Some(header.id.clone()), header.name.clone()].into_iter().flatten();
        match body {
            Body::Detection { source, condition } => {
                names.extend(own.map(|name| (name, Of::Rule(rules.len()))));
                rules.push(Rule { header, source, expression: condition, alerts: true });
            }
            Body::Correlation(correlation) => {
                names.extend(own.map(|name| (name, Of::Correlation(correlations.len()))));
                correlations.push((header, correlation));
            }
            Body::Filter { rules, source, condition } => {
                filters.push((header, Filter { wanted: rules, source, condition }));
            }
        }
    }
    let count = filters.len();
    for (header, filter) in filters {
        apply(&header, filter, &mut rules, &names, diagnostics);
    }
    let correlations = correlate(correlations, &names, &mut rules, diagnostics)?;
    Some(RuleSet { rules, correlations, filters: count, warnings: Diagnostics::default() })
}

/// What narrows rules.
struct Filter {
    wanted: Option<Vec<Text>>,
    source: LogSource,
    condition: Expr<Test>,
}

/// Narrows the rules that a filter names, or all that are about events of its source.
fn apply(
    header: &Header,
    Filter { wanted, source, condition }: Filter,
    rules: &mut [Rule],
    names: &BTreeMap<String, Of>,
    diagnostics: &mut Diagnostics,
) {
    let narrow = |rule: &mut Rule| {
        let own = std::mem::replace(&mut rule.expression, Expr::Any(Vec::new()));
        rule.expression = Expr::All(vec![own, condition.clone()]);
    };
    let Some(wanted) = wanted else {
        rules.iter_mut().filter(|rule| source.covers(&rule.source)).for_each(narrow);
        return;
    };
    for text in wanted {
        match names.get(&text.text) {
            Some(Of::Rule(index)) => {
                let Some(rule) = rules.get_mut(*index) else { continue };
                if source.covers(&rule.source) {
                    narrow(rule);
                } else {
                    let words = format!("`{}` is about other events than the filter", text.text);
                    let help = "give the filter the `logsource` of the rule, or a wider one";
                    diagnostics.error(&header.file, text.at, code::BAD_LOGSOURCE, words, help);
                }
            }
            Some(Of::Correlation(_)) => {
                let words = format!("`{}` is a correlation: a filter is about events", text.text);
                let help = "filter the rules that it names";
                diagnostics.error(&header.file, text.at, code::UNKNOWN_RULE, words, help);
            }
            None => unknown(header, &text, diagnostics),
        }
    }
}

fn unknown(header: &Header, text: &Text, diagnostics: &mut Diagnostics) {
    let words = format!("there is no rule with the id or name `{}`", text.text);
    let help = "name one of the same set";
    diagnostics.error(&header.file, text.at, code::UNKNOWN_RULE, words, help);
}

/// Resolves what correlations name and puts each after those that it is made of.
fn correlate(
    read: Vec<(Header, Correlation)>,
    names: &BTreeMap<String, Of>,
    rules: &mut [Rule],
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Correlated>> {
    let mut silent = vec![false; read.len()];
    let mut resolved = Vec::new();
    for (header, correlation) in &read {
        let mut parts = Vec::new();
        for text in &correlation.rules {
            let Some(of) = names.get(&text.text) else {
                unknown(header, text, diagnostics);
                continue;
            };
            if !correlation.generate {
                match of {
                    Of::Rule(index) => {
                        if let Some(rule) = rules.get_mut(*index) {
                            rule.alerts = false;
                        }
                    }
                    Of::Correlation(index) => {
                        if let Some(silent) = silent.get_mut(*index) {
                            *silent = true;
                        }
                    }
                }
            }
            let field = |name: &String| match correlation.aliases.get(name) {
                Some(by_rule) => by_rule.get(&text.text).cloned(),
                None => Some(name.clone()),
            };
            let fields: Option<Vec<String>> = correlation.group_by.iter().map(field).collect();
            let Some(fields) = fields else {
                let words = format!("an alias says nothing of the rule `{}`", text.text);
                let help = "name the field that the alias means there";
                diagnostics.error(&header.file, text.at, code::BAD_CORRELATION, words, help);
                continue;
            };
            parts.push(Part { of: *of, fields });
        }
        resolved.push(parts);
    }
    let order = order(&resolved).or_else(|| {
        for (header, _) in &read {
            let words = "correlations refer to each other in a circle";
            let help = "let one of them name rules only";
            diagnostics.error(&header.file, header.at, code::CIRCLE, words, help);
        }
        None
    })?;
    // Where each one stands in the new order.
    let mut place = vec![0; order.len()];
    for (new, old) in order.iter().enumerate() {
        if let Some(place) = place.get_mut(*old) {
            *place = new;
        }
    }
    let mut read: Vec<Option<_>> = read.into_iter().zip(resolved).zip(silent).map(Some).collect();
    let mut correlations = Vec::new();
    for old in order {
        let Some((((header, correlation), mut parts), silent)) =
            read.get_mut(old).and_then(Option::take)
        else {
            continue;
        };
        for part in &mut parts {
            if let Of::Correlation(index) = &mut part.of {
                *index = place.get(*index).copied().unwrap_or_default();
            }
        }
        let Correlation { kind, timespan, group_by, .. } = correlation;
        correlations.push(Correlated { header, kind, timespan, parts, group_by, alerts: !silent });
    }
    Some(correlations)
}

/// Those first that others are made of; none if that goes round in a circle.
fn order(parts: &[Vec<Part>]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    let mut left: Vec<usize> = (0..parts.len()).collect();
    while !left.is_empty() {
        let is_ready = |index: &usize| {
            let parts = parts.get(*index).map(Vec::as_slice).unwrap_or_default();
            parts.iter().all(|part| match part.of {
                Of::Rule(_) => true,
                Of::Correlation(other) => order.contains(&other),
            })
        };
        let (ready, rest): (Vec<usize>, Vec<usize>) =
            left.iter().partition(|index| is_ready(index));
        if ready.is_empty() {
            return None;
        }
        order.extend(ready);
        left = rest;
    }
    Some(order)
}
