//! Runs the `picket` command to its end.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// How a command ended and what it printed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::from(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, if it ended with 0.
    #[track_caller]
    pub(crate) fn fine(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            // A signal is none of the statuses that are ever expected.
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The program under test, without whatever the environment of the tests says to it.
pub(crate) fn picket(arguments: &[&str]) -> Command {
    // Another build of the same code, such as an optimised one.
    let other = std::env::var_os("PICKET_UNDER_TEST");
    let mut command = Command::new(other.unwrap_or(env!("CARGO_BIN_EXE_picket").into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PICKET_") || text.starts_with("OTEL_") {
            command.env_remove(&name);
        }
    }
    command.args(arguments);
    command
}
