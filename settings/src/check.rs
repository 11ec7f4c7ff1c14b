//! From settings as written to values as meant, or to the first thing that is wrong.

use std::time::Duration;

use crate::{ConfigError, Origin, Setting, Variable, duration};

/// Converts settings and says of each mistake where it was written and what would be accepted.
#[derive(Clone, Copy)]
pub struct Check<'a> {
    file: &'a str,
    variables: &'a [Variable],
}

impl<'a> Check<'a> {
    /// For the file of that name, and the variables that may override it.
    pub fn new(file: &'a str, variables: &'a [Variable]) -> Self {
        Self { file, variables }
    }

    /// Where a value was written, in words.
    pub fn place(&self, origin: &Origin) -> String {
        match origin {
            Origin::File { line, column } => format!("{}:{line}:{column}", self.file),
            Origin::Variable(name) => format!("environment variable {name}"),
        }
    }

    /// An error about a value; `got` is what may be shown of it.
    pub fn refuse(
        &self,
        origin: &Origin,
        key: impl Into<String>,
        got: impl Into<String>,
        accepted: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            place: self.place(origin),
            key: key.into(),
            got: got.into(),
            accepted: accepted.into(),
        }
    }

    /// An error about keys that do not go together.
    pub fn conflict(&self, origin: Option<&Origin>, message: impl Into<String>) -> ConfigError {
        let place = origin.map_or_else(|| self.file.to_owned(), |origin| self.place(origin));
        ConfigError::Conflict { place, message: message.into() }
    }

    /// An error about a key that is not set.
    pub fn missing(&self, key: impl Into<String>, accepted: impl Into<String>) -> ConfigError {
        let key = key.into();
        let variable = self.variables.iter().find(|v| v.key == key).map_or("", |v| v.name);
        ConfigError::Missing {
            file: self.file.to_owned(),
            key,
            accepted: accepted.into(),
            variable,
        }
    }

    /// The value of a key that must be set.
    ///
    /// # Errors
    /// When it is not set, or not accepted.
    pub fn needed<T>(
        &self,
        setting: &Option<Setting>,
        key: &str,
        accepted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        match setting {
            Some(setting) => self.value(setting, key, accepted, read),
            None => Err(self.missing(key, accepted)),
        }
    }

    /// A value that is there.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn value<T>(
        &self,
        setting: &Setting,
        key: &str,
        accepted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        read(&setting.value)
            .ok_or_else(|| self.refuse(&setting.origin, key, &setting.value, accepted))
    }

    /// The value of a key that may be left out.
    ///
    /// # Errors
    /// When it is set and not accepted.
    pub fn optional<T>(
        &self,
        setting: &Option<Setting>,
        key: &str,
        accepted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        setting.as_ref().map(|s| self.value(s, key, accepted, read)).transpose()
    }

    /// One of a few words.
    ///
    /// # Errors
    /// When it is set and none of them.
    pub fn one_of<T: Clone>(
        &self,
        setting: &Option<Setting>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.optional(setting, key, &words.join(" or "), |text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| choice.clone())
        })
    }

    /// A duration between two bounds, in seconds.
    ///
    /// # Errors
    /// When it is set and not such a duration.
    pub fn duration(
        &self,
        setting: &Option<Setting>,
        key: &str,
        (least, most): (u64, u64),
    ) -> Result<Option<Duration>, ConfigError> {
        let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
        let (from, to) = (duration::text(least), duration::text(most));
        let accepted = format!("a duration from {from} to {to}, such as 90s or 1h");
        self.optional(setting, key, &accepted, |text| {
            duration::parse(text).filter(|d| (least..=most).contains(d))
        })
    }

    /// A whole number between two bounds.
    ///
    /// # Errors
    /// When it is set and not such a number.
    pub fn number(
        &self,
        setting: &Option<Setting>,
        key: &str,
        (least, most): (u64, u64),
    ) -> Result<Option<u64>, ConfigError> {
        let accepted = format!("a whole number from {least} to {most}");
        self.optional(setting, key, &accepted, |text| {
            text.parse().ok().filter(|n| (least..=most).contains(n))
        })
    }

    /// A number of bytes between two bounds, such as `64KiB`, `256MiB` or `2GiB`.
    ///
    /// # Errors
    /// When it is set and not such a size.
    pub fn size(
        &self,
        setting: &Option<Setting>,
        key: &str,
        (least, most): (u64, u64),
    ) -> Result<Option<u64>, ConfigError> {
        let (from, to) = (size_text(least), size_text(most));
        let accepted = format!("a size from {from} to {to}, such as 64KiB or 256MiB");
        self.optional(setting, key, &accepted, |text| {
            size(text).filter(|n| (least..=most).contains(n))
        })
    }
}

const SIZE_UNITS: [(&str, u32); 5] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0), ("", 0)];

fn size_text(bytes: u64) -> String {
    let fits = |(_, shift): &&(&str, u32)| bytes.trailing_zeros() >= *shift;
    let (unit, shift) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 0));
    format!("{}{unit}", bytes >> shift)
}

fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, shift) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}
