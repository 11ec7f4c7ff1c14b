//! The names of fields: short ones, and those of attributes.

use picket_api::attributes as names;

use super::expression::{Shared, Subject};

/// A field and what it looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) subject: Subject,
}

/// Short names, the first of each subject being the one to print.
const SHORT: &[(&str, Subject)] = &[
    ("source", Subject::Shared(Shared::Source)),
    ("caller", Subject::Shared(Shared::Source)),
    ("destination", Subject::Shared(Shared::Destination)),
    ("callee", Subject::Shared(Shared::Destination)),
    ("emitter", Subject::Shared(Shared::Emitter)),
    ("route", Subject::Shared(Shared::Route)),
    ("method", Subject::Shared(Shared::Method)),
    ("path", Subject::Path),
    ("status", Subject::Shared(Shared::Status)),
    ("decision", Subject::Shared(Shared::Decision)),
    ("reason", Subject::Shared(Shared::Reason)),
    ("policy", Subject::Shared(Shared::Policy)),
    ("dry_run", Subject::Shared(Shared::DryRun)),
    ("kind", Subject::Shared(Shared::Kind)),
    ("event", Subject::Shared(Shared::Event)),
    ("direction", Subject::Shared(Shared::Direction)),
    ("time", Subject::Time),
    ("duration", Subject::Duration),
    ("trace", Subject::Trace),
    ("span", Subject::Span),
    ("decision_id", Subject::DecisionId),
    ("id", Subject::Id),
];

/// Attributes that have a column of their own.
const FILED: &[(&str, Subject)] = &[
    (names::SOURCE, Subject::Shared(Shared::Source)),
    (names::DESTINATION, Subject::Shared(Shared::Destination)),
    (names::EMITTER, Subject::Shared(Shared::Emitter)),
    (names::ROUTE, Subject::Shared(Shared::Route)),
    (names::METHOD, Subject::Shared(Shared::Method)),
    (names::URL_PATH, Subject::Path),
    (names::STATUS, Subject::Shared(Shared::Status)),
    (names::DECISION, Subject::Shared(Shared::Decision)),
    (names::REASON, Subject::Shared(Shared::Reason)),
    (names::POLICY, Subject::Shared(Shared::Policy)),
    (names::KIND, Subject::Shared(Shared::Kind)),
    (names::EVENT, Subject::Shared(Shared::Event)),
    (names::DIRECTION, Subject::Shared(Shared::Direction)),
    (names::DECISION_ID, Subject::DecisionId),
    ("trace_id", Subject::Trace),
    ("span_id", Subject::Span),
    ("duration_us", Subject::Duration),
];

impl Shared {
    /// Its short name, which is also that of its column.
    pub(crate) fn name(self) -> &'static str {
        let named = SHORT.iter().find(|(_, subject)| *subject == Subject::Shared(self));
        named.map_or("", |(name, _)| name)
    }

    /// The attribute that it is.
    pub(crate) fn attribute(self) -> &'static str {
        let filed = FILED.iter().find(|(_, subject)| *subject == Subject::Shared(self));
        filed.map_or(names::DRY_RUN, |(name, _)| name)
    }

    /// Whether it is a workload's SPIFFE ID.
    pub(crate) fn is_workload(self) -> bool {
        matches!(self, Self::Source | Self::Destination | Self::Emitter)
    }
}

/// The field of a name; else what to write instead.
pub(crate) fn field(name: &str) -> Result<Field, String> {
    let known = SHORT.iter().chain(FILED).find(|(known, _)| *known == name);
    if let Some((_, subject)) = known {
        return Ok(Field { subject: subject.clone() });
    }
    if names::all().any(|known| known == name) {
        return Ok(Field { subject: Subject::Attribute(name.to_owned()) });
    }
    let short = SHORT.iter().map(|(name, _)| *name);
    let all: Vec<&str> = short.clone().chain(names::all()).collect();
    Err(match picket_policy::closest(name, &all) {
        Some(near) => format!("did you mean {near}?"),
        None if name.contains('.') => format!(
            "docs/audit-attributes.md lists every attribute; for one that Picket does not write use \"{name}\" in quotes"
        ),
        None => format!("fields are {}, and every attribute", short.collect::<Vec<_>>().join(", ")),
    })
}

/// A fact that can be grouped by; else what to write instead.
pub(crate) fn shared(name: &str) -> Result<Shared, String> {
    match field(name) {
        Ok(Field { subject: Subject::Shared(shared) }) => Ok(shared),
        found => {
            let facts = SHORT.iter().filter(|(_, s)| matches!(s, Subject::Shared(_)));
            let facts: Vec<&str> = facts.map(|(name, _)| *name).collect();
            Err(match (found, picket_policy::closest(name, &facts)) {
                (Err(_), Some(near)) => format!("did you mean {near}?"),
                _ => format!("records can be grouped by {}", facts.join(", ")),
            })
        }
    }
}
