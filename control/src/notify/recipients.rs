//! Which sinks are told: those that the rule names, never nobody.

use std::collections::HashMap;

use picket_detect::{Level, Summary};

use super::{Notices, Sink};

impl Notices {
    /// The rules that are at work from now on; says which of them name sinks that cannot be told.
    pub(crate) fn set_rules(&self, rules: &[Summary]) {
        for (rule, words) in rules.iter().filter_map(|rule| Some((rule, self.misnamed(rule)?))) {
            tracing::warn!(rule = rule.title, place = place(rule), "{words}");
        }
        let rules = rules.iter().map(|rule| (rule.id.clone(), rule.clone()));
        self.rules.store(Some(rules.collect::<HashMap<_, _>>().into()));
    }

    /// What is wrong with the sinks that a rule names, if something is.
    pub(crate) fn misnamed(&self, rule: &Summary) -> Option<String> {
        let sinks = self.of_alerts();
        if let Some(name) = unknown(&sinks, &rule.notify) {
            let words = "alerts.sinks does not name: all sinks are told";
            return Some(format!("`notify` names the sink `{name}`, which {words}"));
        }
        let takes =
            |sink: &Sink| rule.notify.contains(&sink.name) && rule.level >= sink.min_severity;
        (!rule.notify.is_empty() && !sinks.iter().copied().any(takes)).then(|| {
            let words = "takes alerts of its level (`minSeverity`): all sinks are told that do";
            format!("none of the sinks that `notify` names {words}")
        })
    }

    /// What is wrong with the sinks that rules name, rule by rule.
    pub(crate) fn all_misnamed(&self) -> Vec<String> {
        let rules = self.rules.load();
        let rules = rules.iter().flat_map(|rules| rules.values());
        let wrong = rules.filter_map(|rule| {
            Some(format!("{} ({}): {}", rule.title, place(rule), self.misnamed(rule)?))
        });
        let mut wrong: Vec<String> = wrong.collect();
        wrong.sort();
        wrong
    }

    /// The sinks that a rule names.
    pub(super) fn named_by(&self, rule: &str) -> Vec<String> {
        let rules = self.rules.load();
        let rule = rules.as_ref().and_then(|rules| rules.get(rule));
        rule.map(|rule| rule.notify.clone()).unwrap_or_default()
    }

    /// The sinks that are told of alerts.
    fn of_alerts(&self) -> Vec<&Sink> {
        self.config.sinks.iter().filter(|sink| !sink.is_for_responses).collect()
    }

    /// The sinks that are told of what is so bad, if these are named.
    pub(super) fn recipients(&self, notify: &[String], severity: Level) -> Vec<&Sink> {
        let takes = |sink: &&Sink| severity >= sink.min_severity;
        let sinks = self.of_alerts();
        let is_unknown = unknown(&sinks, notify).is_some();
        let all: Vec<&Sink> = sinks.into_iter().filter(takes).collect();
        if is_unknown {
            return all;
        }
        let named: Vec<&Sink> =
            all.iter().copied().filter(|sink| notify.contains(&sink.name)).collect();
        if named.is_empty() { all } else { named }
    }
}

/// A name that no sink has.
fn unknown<'n>(sinks: &[&Sink], notify: &'n [String]) -> Option<&'n String> {
    notify.iter().find(|name| sinks.iter().all(|sink| sink.name != **name))
}

fn place(rule: &Summary) -> String {
    format!("{}:{}", rule.file, rule.line)
}
