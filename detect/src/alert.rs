//! What is found: a rule, for whom, how often and from which records.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::profile::Anomaly;

/// How bad it is, as Sigma has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing in a search.
    Informational,
    /// Notable, rarely an incident by itself.
    Low,
    /// To be looked at by and by.
    Medium,
    /// To be looked at soon.
    High,
    /// To be looked at now.
    Critical,
}

impl Level {
    /// All, from the least.
    pub const ALL: [Self; 5] =
        [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// As rules write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Records that an alert names at most.
pub(crate) const EXAMPLES: usize = 5;

/// One episode of a rule in one group: it begins with a match and lasts while others follow within the rule's
/// suppression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Names the alert: made of its rule, its group and its first record, so that the same records give the same name.
    pub id: String,
    /// Names what goes on: made of the rule and the group, the same for each of its alerts.
    pub fingerprint: String,
    /// The rule's id.
    pub rule: String,
    /// Its title.
    pub title: String,
    /// Its level.
    pub severity: Level,
    /// Its tags, such as ATT&CK techniques.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// Controls of standards that it is evidence for, such as `PCI-DSS 10.2.1`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub controls: Vec<String>,
    /// What the matches have in common, by field. A group `*` stands for all beyond the number that is kept.
    pub group: BTreeMap<String, String>,
    /// Time of the first event, RFC 3339 in UTC.
    pub first: String,
    /// Time of the last event.
    pub last: String,
    /// Matches.
    pub count: u64,
    /// Ids of the first records that matched; for a correlation of those that completed it.
    pub records: Vec<String>,
    /// Of an anomaly: what was expected, and what came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub anomaly: Option<Anomaly>,
}

/// The fingerprint of a rule and a group, and the id of the alert that begins with a record: the first 128 bits of SHA-256.
pub(crate) fn names(rule: &str, group: &[(String, String)], record: &str) -> (String, String) {
    let mut text = format!("picket-alert-v1\n{rule}\n");
    for (name, value) in group {
        // With its length, so that no value can pass for another field.
        text.push_str(&format!("{name}={}:{value}\n", value.len()));
    }
    let name = |text: &str| {
        let hash = digest(&SHA256, text.as_bytes());
        hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let fingerprint = name(&text);
    text.push_str(record);
    (fingerprint, name(&text))
}

/// RFC 3339 in UTC.
pub(crate) fn rfc3339(time: i64) -> String {
    jiff::Timestamp::from_nanosecond(time.into())
        .map_or_else(|_| time.to_string(), |at| format!("{at:.9}"))
}
