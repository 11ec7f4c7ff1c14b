//! Alerts, as the operator API gives and takes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The query of `GET /api/v1/alerts`. Every part that is set has to match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertQuery {
    /// Those that are over too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<bool>,
    /// At least so bad: `informational`, `low`, `medium`, `high` or `critical`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Of this rule: its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of profiles, not of rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomalies: Option<bool>,
    /// Raised not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Raised before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// In this state: `firing`, `acknowledged`, `silenced`, `digest`, `flapping` or `resolved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Those raised after this cursor ([`AlertPage::next`]); left out: the last ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// With `after`: if none has been raised yet, answer when one has, or after this time (at most 30 s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// At most this many (1 to 1000; default 100).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `GET /api/v1/alerts`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertPage {
    /// In the order in which they were raised.
    pub alerts: Vec<AlertStatus>,
    /// Where those begin that are raised from now on.
    pub next: String,
}

/// One alert, and what has become of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertStatus {
    /// What was found.
    #[serde(flatten)]
    pub alert: picket_detect::Alert,
    /// Whether it is over.
    pub state: AlertState,
    /// The traces of its records.
    pub traces: Vec<String>,
    /// The policies in force when it was raised.
    pub generation: Option<String>,
    /// When it was raised.
    pub raised_at: String,
    /// When it was over.
    pub resolved_at: Option<String>,
    /// When somebody has seen to it.
    pub acknowledged_at: Option<String>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// What they said.
    pub note: Option<String>,
    /// The silence for whose sake nobody is told.
    pub silenced_by: Option<String>,
    /// Which one it is of its fingerprint, from 1.
    pub episode: i64,
    /// When the first of those was raised that are held as one, this one among them.
    pub flapping_since: Option<String>,
}

/// What has become of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// It goes on.
    Firing,
    /// It goes on, and somebody has seen to it.
    Acknowledged,
    /// It goes on, and nobody is told.
    Silenced,
    /// It goes on, and is told of together with others: its rule is over its budget.
    Digest,
    /// It comes and goes: it is the last of several that are held as one, and it is not quiet yet.
    Flapping,
    /// It is over.
    Resolved,
}

/// `POST /api/v1/alerts/{id}/acknowledge`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AcknowledgeAlert {
    /// What there is to say of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// In place of whoever has seen to it already.
    pub again: bool,
}

/// `GET /api/v1/rules`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionRules {
    /// Whether the stream is watched.
    pub enabled: bool,
    /// Records that were committed and not looked at yet.
    pub behind: Option<u64>,
    /// Whether the directory of rules is refused, so that those before are at work.
    pub refused: bool,
    /// The rules at work.
    pub rules: Vec<DetectionRule>,
}

/// A rule at work, and what has come of it since it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionRule {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// How bad it is.
    pub level: String,
    /// Whether it alerts, or only serves others.
    pub alerts: bool,
    /// Where it stands: `file:line`.
    pub place: String,
    /// Controls of standards that it is evidence for.
    pub controls: Vec<String>,
    /// The sinks that are told of its alerts; none: all.
    pub notify: Vec<String>,
    /// How many of its alerts are told of, each by itself, such as `10/1d`.
    pub budget: Option<String>,
    /// Since when it is over that, so that its alerts are told of together.
    pub demoted_since: Option<String>,
    /// What is wrong with the sinks that it names.
    pub warning: Option<String>,
    /// Records that matched; of a correlation how often it was complete.
    pub matched: u64,
    /// Records that did not match and lacked a field that was asked for.
    pub missing: u64,
    /// Matches that came too late to count in a window.
    pub late: u64,
    /// Groups that were forgotten to make room for others.
    pub evicted: u64,
}

/// `GET /api/v1/sinks`, and the answer to `POST /api/v1/alerts/test`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSinks {
    /// In the order of the configuration.
    pub sinks: Vec<AlertSink>,
}

/// Who is told of alerts, and how that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSink {
    /// Its name.
    pub name: String,
    /// How it is told.
    pub kind: String,
    /// Notices that wait.
    pub pending: u64,
    /// Notices that were delivered, of those that are still remembered.
    pub delivered: u64,
    /// Notices that were given up.
    pub given_up: u64,
    /// When one was delivered last.
    pub last_delivered_at: Option<String>,
    /// Why the one that waits was not delivered; of a test: why that was not.
    pub error: Option<String>,
}

/// `POST /api/v1/alerts/test`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestAlerts {
    /// Only this sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
}

/// `POST /api/v1/silences`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SilenceAlerts {
    /// Of rules whose id or title fits this pattern; `*` stands for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of those that are exactly so bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Of those whose group has values that fit: patterns by field; `*` stands for anything.
    pub fields: BTreeMap<String, String>,
    /// How long, such as `2h`; at most 31d.
    pub r#for: String,
    /// Why, in words.
    pub reason: String,
}

/// `GET /api/v1/silences`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSilences {
    /// Those that stand, oldest first.
    pub silences: Vec<AlertSilence>,
}

/// Alerts that nobody is told of, for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertSilence {
    /// Names it.
    pub id: String,
    /// Of rules whose id or title fits this pattern.
    pub rule: Option<String>,
    /// Of those that are exactly so bad.
    pub severity: Option<String>,
    /// Patterns by field of the group.
    pub fields: BTreeMap<String, String>,
    /// When it ends.
    pub until: String,
    /// Whose it is.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub made_at: String,
}
