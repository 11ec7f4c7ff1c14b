//! YAML documents read strictly: every node knows its line and column, every mistake is a diagnostic at its place.
//!
//! Policies and detection rules are read with it. It knows YAML, fields and types; what a document means is the reader's
//! business. No I/O: texts are handed in.
#![forbid(unsafe_code)]

pub mod diagnostic;
pub mod fields;
pub mod yaml;

use std::sync::Arc;

pub use diagnostic::{Diagnostic, Diagnostics, Fix, Severity};

/// One file, or one YAML document of a file.
///
/// The control plane sends a proxy only the documents that concern it; `first_line` keeps the lines that are reported
/// those of the operator's own file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The path as messages shall show it.
    pub file: Arc<str>,
    /// The line of the file at which `text` starts; 1 for a whole file.
    pub first_line: u32,
    /// The YAML.
    pub text: Arc<str>,
}

impl Document {
    /// A whole file.
    pub fn whole(file: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { file: file.into(), first_line: 1, text: text.into() }
    }
}
