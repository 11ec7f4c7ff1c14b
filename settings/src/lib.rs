//! Configuration as the operator writes it: a YAML file whose single keys environment variables may
//! override, where every value keeps its place until it has been checked.
//!
//! A program declares a struct of [`Setting`]s that mirrors its file, reads it with [`parse`], lets
//! the variables win with [`overlay`], and converts it once, through a [`Check`], to typed values with
//! nothing left to parse. Nothing here opens a file or reads the environment: the caller passes text.
#![forbid(unsafe_code)]

mod check;
pub mod duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

pub use check::Check;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or a key that is not known.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from one.
        line: u64,
        /// Column in characters, from one.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A value that its key does not accept.
    #[error("{place}: {key}: {got:?} is not accepted; use {accepted}")]
    Value {
        /// `file:line:column`, or the environment variable.
        place: String,
        /// The key, dotted.
        key: String,
        /// What was written.
        got: String,
        /// What would be accepted.
        accepted: String,
    },
    /// A key that must be set.
    #[error("{file}: {key} is not set; use {accepted}{}", variable_hint(variable))]
    Missing {
        /// The file.
        file: String,
        /// The key, dotted.
        key: String,
        /// What would be accepted.
        accepted: String,
        /// The variable that can set it; empty if there is none.
        variable: &'static str,
    },
    /// Keys that do not go together.
    #[error("{place}: {message}")]
    Conflict {
        /// `file:line:column`, the environment variable, or the file.
        place: String,
        /// What does not go together, and what to do.
        message: String,
    },
}

fn variable_hint(variable: &str) -> String {
    match variable {
        "" => String::new(),
        name => format!(" (or the environment variable {name})"),
    }
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the file; both count from one.
    File {
        /// The line.
        line: u64,
        /// The column, in characters.
        column: u64,
    },
    /// In an environment variable.
    Variable(String),
}

/// A value as text, with its place. It cannot be formatted: some values are secrets.
#[derive(Clone)]
pub struct Setting {
    /// The text.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<String>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { value: spanned.value, origin: Origin::File { line, column } })
    }
}

/// One environment variable that overrides a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The key that it overrides, dotted.
    pub key: &'static str,
    /// What the key means and what it accepts.
    pub meaning: &'static str,
}

/// Reads YAML into a struct of settings.
///
/// # Errors
/// When it is not YAML, or has a key that the struct does not know.
pub fn parse<T: DeserializeOwned + Default>(
    yaml_text: &str,
    file_name: &str,
) -> Result<T, ConfigError> {
    let has_content = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
    if !yaml_text.lines().any(has_content) {
        return Ok(T::default());
    }
    let options = serde_saphyr::options! {
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(yaml_text, options).map_err(|error| {
        let place = error.location();
        ConfigError::Syntax {
            file: file_name.to_owned(),
            line: place.map_or(1, |p| p.line()),
            column: place.map_or(1, |p| p.column()),
            message: message(&error),
        }
    })
}

/// The parser's words without the place that it adds: ours stands in front.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    let head = first.split(" at line ").next().unwrap_or(first);
    let tail = head.split_once(": ").filter(|(place, _)| place.starts_with("line "));
    tail.map_or(head, |(_, message)| message).trim().to_owned()
}

/// Lets the variables that are set and not empty win over the file. `slot` finds the place of a key's
/// value by its dotted name.
pub fn overlay<'f, T>(
    file: &'f mut T,
    variables: &[Variable],
    env: &[(String, String)],
    slot: impl for<'s> Fn(&'s mut T, &str) -> Option<&'s mut Option<Setting>>,
) -> &'f mut T {
    for variable in variables {
        let set = env.iter().find(|(name, value)| name == variable.name && !value.is_empty());
        let Some((name, value)) = set else { continue };
        // Only now: finding the place of a value may make room for it.
        if let Some(slot) = slot(file, variable.key) {
            let origin = Origin::Variable(name.clone());
            *slot = Some(Setting { value: value.clone(), origin });
        }
    }
    file
}

#[cfg(test)]
mod tests;
