//! One episode of a rule in one group, while it lasts.

use crate::alert::{Alert, names, rfc3339};
use crate::profile::Anomaly;
use crate::rule::Header;

/// What the matches of an alert have in common, in the order in which the rule names it.
pub(super) type Group = Vec<(String, String)>;

/// Matches that follow each other within the rule's suppression.
pub(super) struct Episode {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) count: u64,
    pub(super) records: Vec<String>,
    pub(super) anomaly: Option<Anomaly>,
    /// It has got further matches since `Engine::running` told of it.
    pub(super) is_changed: bool,
}

impl Episode {
    pub(super) fn alert(&self, header: &Header, group: &[(String, String)]) -> Alert {
        let first = self.records.first().map_or("", String::as_str);
        let (fingerprint, id) = names(&header.id, group, first);
        Alert {
            id,
            fingerprint,
            rule: header.id.clone(),
            title: header.title.clone(),
            severity: header.level,
            tags: header.tags.clone(),
            controls: header.settings.telling.controls.clone(),
            group: group.iter().cloned().collect(),
            first: rfc3339(self.first),
            last: rfc3339(self.last),
            count: self.count,
            records: self.records.clone(),
            anomaly: self.anomaly.clone(),
        }
    }
}
