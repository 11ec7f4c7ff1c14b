//! The filter language of the audit trail: `decision = deny and path ~ "/orders/*" and time > 1h ago`.
//!
//! A filter is read into an [`Expression`] of known fields and values that are checked; nothing of its text survives.
//! What it means to the database is said in `crate::store`. `docs/search.md` describes the language.

mod expression;
mod fields;
mod glob;
mod lexer;
mod parser;
mod values;

use std::fmt;
use std::time::SystemTime;

use picket_certs::TrustDomain;

pub(crate) use expression::{Compare, Expression, RecordId, Shared, Subject, Test, Value};
pub(crate) use fields::{field, shared};
pub(crate) use glob::Glob;
pub(crate) use parser::parse;
pub(crate) use values::{Read, value};

/// What names and times are relative to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'s> {
    /// Of workloads that are written as `namespace/service account`.
    pub(crate) trust_domain: &'s TrustDomain,
    /// What `1h ago` is counted from.
    pub(crate) now: SystemTime,
}

/// Why a filter is not understood: what, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct FilterError {
    text: String,
    /// Where it begins, in bytes, and how long it is.
    at: (usize, usize),
    message: String,
    help: String,
}

impl FilterError {
    pub(crate) fn new(
        text: &str,
        at: (usize, usize),
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { text: text.to_owned(), at, message: message.into(), help: help.into() }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, length) = self.at;
        let before = self.text.get(..start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let indent = before.get(line_start..).unwrap_or_default().chars().count();
        let shown = self.text.get(line_start..).unwrap_or_default();
        let shown = shown.lines().next().unwrap_or_default();
        let wrong = self.text.get(start..start + length).unwrap_or_default();
        let wrong = wrong.lines().next().unwrap_or_default().chars().count().max(1);
        writeln!(f, "filter:{line}:{}: {}", indent + 1, self.message)?;
        // A long line would hide the place that it shall show.
        let (from, width) = (indent.saturating_sub(60), 120);
        let part: String = shown.chars().skip(from).take(width).collect();
        writeln!(f, "  {}", part.replace('\t', " "))?;
        let marks = wrong.min(width.saturating_sub(indent - from).max(1));
        write!(f, "  {}{}", " ".repeat(indent - from), "^".repeat(marks))?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.help) }
    }
}

#[cfg(test)]
mod tests;
