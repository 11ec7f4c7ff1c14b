//! What `--wait` waits for: each proxy's word on what it was told.

use std::time::Duration;

use serde::Serialize;

use crate::exit::Failure;

/// How often the control plane is asked how far the proxies are.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// What one proxy says of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    Applied,
    Refused,
    /// It said nothing in time.
    Waiting,
}

/// How long to wait, as `--timeout` says it.
pub(crate) fn timeout(text: &str) -> Result<Duration, Failure> {
    picket_settings::duration::parse(text)
        .ok_or_else(|| Failure::Usage(format!("--timeout {text:?} is not a duration such as 30s")))
}
