//! A filter as it is meant.

use super::glob::Glob;

/// Which records are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// All of them hold; of none: every record.
    All(Vec<Expression>),
    /// One of them holds.
    Any(Vec<Expression>),
    /// It does not hold.
    Not(Box<Expression>),
    /// One field is as it should be. What is absent is never so.
    Is(Subject, Test),
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A fact that many records share.
    Shared(Shared),
    /// Start of the span, in nanoseconds since 1970.
    Time,
    /// In microseconds.
    Duration,
    /// The path, without query.
    Path,
    /// The trace's id.
    Trace,
    /// The span's id.
    Span,
    /// What the header `x-picket-decision-id` names.
    DecisionId,
    /// The record's own id.
    Id,
    /// Any attribute of span or resource.
    Attribute(String),
}

/// A fact that many records share: what can be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    Kind,
    Event,
    Direction,
    Emitter,
    Source,
    Destination,
    Route,
    Method,
    Status,
    Decision,
    Policy,
    Reason,
    DryRun,
}

/// How it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// Compared with a value.
    Is(Compare, Value),
    /// One of these values.
    In(Vec<Value>),
    /// From one number to another, both included.
    Between(i64, i64),
    /// As a pattern says.
    Like(Glob),
    /// There at all.
    Exists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Compare {
    /// As SQL and the language write it.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// What has to come out of comparing the left side with the right one.
    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// What is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
    Record(RecordId),
}

/// A record's own id, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordId {
    pub(crate) boot: String,
    pub(crate) lane: i64,
    pub(crate) sequence: i64,
}

impl Expression {
    /// What has to hold in any case: the parts of a conjunction, or the whole.
    pub(crate) fn parts(&self) -> &[Self] {
        match self {
            Self::All(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }

    /// Whether attributes are looked at, which costs most.
    pub(crate) fn is_slow(&self) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::is_slow),
            Self::Not(inner) => inner.is_slow(),
            Self::Is(subject, _) => matches!(subject, Subject::Attribute(_)),
        }
    }
}
