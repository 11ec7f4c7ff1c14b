//! What is wrong with a document: where, what, and how to mend it.
//!
//! Collects every problem of every document instead of stopping at the first. Each kind of problem has a code that
//! stays the same for ever, so that it can be searched for and silenced.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::yaml::At;

/// The codes of what can be wrong with any document; whoever gives documents a meaning has more.
pub mod code {
    /// Not YAML, or YAML that is not read (directives, merge keys, foreign tags).
    pub const SYNTAX: &str = "P0001";
    /// A key is written twice in one map.
    pub const DUPLICATE_KEY: &str = "P0002";
    /// Larger, deeper or with more aliases than is read.
    pub const TOO_LARGE: &str = "P0003";
    /// A field that must be there is missing.
    pub const MISSING_FIELD: &str = "P0104";
    /// A field that the kind does not have.
    pub const UNKNOWN_FIELD: &str = "P0201";
    /// A value of the wrong type.
    pub const WRONG_TYPE: &str = "P0202";
    /// A field that is written without a value.
    pub const NO_VALUE: &str = "P0203";
    /// A list that must not be empty.
    pub const EMPTY_LIST: &str = "P0204";
    /// A string that must not be empty.
    pub const EMPTY_STRING: &str = "P0205";
    /// More entries, or a longer value, than is read.
    pub const TOO_MANY: &str = "P0206";
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The set is refused.
    Error,
    /// The set is taken; it may not mean what its author thinks.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file as the document named it.
    pub file: Arc<str>,
    /// Line, from one.
    pub line: u32,
    /// Column in characters, from one.
    pub column: u32,
    /// Error or warning.
    pub severity: Severity,
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
    /// The change of the text that mends it, where there is no doubt which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
}

/// What to do with the string, number or list entry that stands where the problem is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fix {
    /// The value as it is read now.
    pub value: String,
    /// The string to put in its place; absent: the entry of the list goes.
    pub replacement: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, severity, code, message, help, .. } = self;
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{file}:{line}:{column}: {severity}[{code}]: {message}")?;
        if help.is_empty() { Ok(()) } else { write!(f, "\n  help: {help}") }
    }
}

/// Every problem that was found, in the order of files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Whether there is an error among them, so that the set is refused.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an error.
    pub fn error(
        &mut self,
        file: &Arc<str>,
        at: At,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(file, at, Severity::Error, code, message.into(), help.into());
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        file: &Arc<str>,
        at: At,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(file, at, Severity::Warning, code, message.into(), help.into());
    }

    fn push(
        &mut self,
        file: &Arc<str>,
        at: At,
        severity: Severity,
        code: &'static str,
        message: String,
        help: String,
    ) {
        let file = file.clone();
        self.0.push(Diagnostic {
            file,
            line: at.line,
            column: at.column,
            severity,
            code,
            message,
            help,
            fix: None,
        });
    }

    /// Says how the problem that was reported last can be mended without asking.
    pub fn offer(&mut self, fix: Fix) {
        if let Some(last) = self.0.last_mut() {
            last.fix = Some(fix);
        }
    }

    /// Drops the warnings after the first `from` whose codes an object does not want to hear.
    pub fn silence(&mut self, from: usize, ignored: &[&'static str]) {
        let mut index = 0;
        self.0.retain(|problem| {
            index += 1;
            index <= from || problem.severity == Severity::Error || !ignored.contains(&problem.code)
        });
    }

    /// Adds what others found.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.iter().cloned());
    }

    /// Puts them into the order of files and places.
    pub fn sort(&mut self) {
        self.0.sort();
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Self {
        Self(diagnostics.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
