//! How a command ends.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// How a command that ran ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Fine,
    /// 1: it ran, and what it looked at has problems.
    Problems,
    /// 4: the decision was "deny", and the caller asked to be told.
    Denied,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Problems => 1,
            Exit::Denied => 4,
        })
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: the input has problems, in words that name their place.
    Problems(String),
    /// 2: the command line or configuration is wrong.
    Usage(String),
    /// 3: something cannot be reached or failed.
    Failed(String),
}

impl Failure {
    /// A failure with its causes in one line.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        Self::Failed(words(error))
    }

    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::Problems(_) => 1,
            Self::Usage(_) => 2,
            Self::Failed(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(words) | Self::Usage(words) | Self::Failed(words) => f.write_str(words),
        }
    }
}

/// An error with its causes, in one line: each prints only its own level.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        next = cause.source();
    }
    words
}
