//! The engine: events in, alerts out, in event time.
//!
//! Events are taken in the order in which they arrive. Each is held against all rules at once; what a correlation is made
//! of goes into its windows; matches of one rule and one group that follow each other within the rule's suppression are
//! one alert with a count. Nothing here looks at a clock: the newest event says how late it is.

mod episode;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};

use hashlink::LinkedHashMap;
use serde::Serialize;

use crate::alert::{Alert, EXAMPLES};
use crate::event::{self, Event};
use crate::profile::{Anomaly, Feature, Profiles};
use crate::program::{Program, Scratch};
use crate::rule::Header;
use crate::set::{Of, Part, RuleSet};
use crate::window::{Hit, Windows};
use episode::{Episode, Group};

/// Ids of events that are remembered: one that comes again among so many is no second event.
const RECENT: usize = 65_536;

/// Events between two looks at what is over.
const SWEEP: u64 = 1_024;

/// What became of one rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RuleCounts {
    /// Events that matched; of a correlation how often it was complete.
    pub matched: u64,
    /// Events that did not match and lacked a field that was asked for.
    pub missing: u64,
    /// Of a correlation: matches that came too late to count.
    pub late: u64,
    /// Groups that were forgotten to make room for others.
    pub evicted: u64,
}

/// Rules at work.
pub struct Engine {
    program: Program,
    scratch: Scratch,
    /// Rules first, then correlations, then what profiles look at.
    alerting: Vec<Alerting>,
    rules: usize,
    correlations: Vec<Windows>,
    profiles: Option<Profiles>,
    /// Of which correlations each rule or correlation is a part.
    uses: HashMap<Of, Vec<(usize, usize, Vec<String>)>>,
    group_names: Vec<Vec<String>>,
    newest: i64,
    /// No event makes it later than this.
    ceiling: i64,
    seen: u64,
    duplicates: u64,
    recent: HashSet<u64>,
    order: VecDeque<u64>,
    closed: Vec<Alert>,
    /// The counts of events, and their groups, in which the event at hand is already.
    once: HashSet<(usize, Vec<String>)>,
    /// Episodes that have changed.
    changed: Vec<(usize, Group)>,
}

/// The episodes of one rule.
struct Alerting {
    header: Header,
    alerts: bool,
    counts: RuleCounts,
    episodes: LinkedHashMap<Group, Episode>,
}

/// A match: of which rule, in which group, by which records.
struct Signal {
    of: By,
    group: Group,
    records: Vec<String>,
    anomaly: Option<Anomaly>,
}

/// Who has found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rule(usize),
    Correlation(usize),
    Profile(Feature),
}

impl By {
    /// As rules refer to it.
    fn part(self) -> Option<Of> {
        match self {
            Self::Rule(index) => Some(Of::Rule(index)),
            Self::Correlation(index) => Some(Of::Correlation(index)),
            Self::Profile(_) => None,
        }
    }
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(set: &RuleSet) -> Self {
        let alerting = |header: &Header, alerts| Alerting {
            header: header.clone(),
            alerts,
            counts: RuleCounts::default(),
            episodes: LinkedHashMap::new(),
        };
        let rules = set.rules.iter().map(|rule| alerting(&rule.header, rule.alerts));
        let others = set.correlations.iter().map(|c| alerting(&c.header, c.alerts));
        let detectors = Feature::ALL.iter().map(|feature| alerting(&feature.header(), true));
        let mut uses: HashMap<Of, Vec<_>> = HashMap::new();
        for (number, correlation) in set.correlations.iter().enumerate() {
            for (place, Part { of, fields }) in correlation.parts.iter().enumerate() {
                uses.entry(*of).or_default().push((number, place, fields.clone()));
            }
        }
        let windows = set.correlations.iter().map(|c| {
            let settings = &c.header.settings;
            let (lateness, groups) = (settings.lateness, settings.max_groups);
            Windows::new(c.kind.clone(), c.parts.len(), c.timespan, lateness, groups)
        });
        Self {
            program: Program::new(&set.rules),
            scratch: Scratch::default(),
            alerting: rules.chain(others).chain(detectors).collect(),
            rules: set.rules.len(),
            correlations: windows.collect(),
            profiles: None,
            uses,
            group_names: set.correlations.iter().map(|c| c.group_by.clone()).collect(),
            newest: i64::MIN,
            ceiling: i64::MAX,
            seen: 0,
            duplicates: 0,
            recent: HashSet::new(),
            order: VecDeque::new(),
            closed: Vec::new(),
            once: HashSet::new(),
            changed: Vec::new(),
        }
    }

    /// With profiles, which it compares events with and which learn from them.
    #[must_use]
    pub fn with_profiles(mut self, profiles: Profiles) -> Self {
        self.profiles = Some(profiles);
        self
    }

    /// What has been learnt.
    pub fn profiles(&self) -> Option<&Profiles> {
        self.profiles.as_ref()
    }

    /// Takes what has been learnt, for another engine to go on with.
    pub fn take_profiles(&mut self) -> Option<Profiles> {
        self.profiles.take()
    }

    /// Takes one event; the alerts that begin with it. Further matches of an alert that has begun only count in it.
    pub fn observe(&mut self, event: &Event<'_>) -> Vec<Alert> {
        let mut fired = Vec::new();
        let mut is_alerted = false;
        let is_new = self.take(event, |engine, signal| {
            is_alerted |= engine.alerts(signal.of);
            fired.extend(engine.alert(signal, event));
        });
        if is_new && let Some(mut profiles) = self.profiles.take() {
            profiles.observe(event, self.time_of(event), is_alerted, &mut |group, mut anomaly| {
                let mut records = std::mem::take(&mut anomaly.records);
                if records.is_empty() {
                    // Where nothing came: the record by which that was noticed.
                    records.push(event.id().to_owned());
                }
                let of = By::Profile(anomaly.feature);
                let signal = Signal { of, group, records, anomaly: Some(anomaly) };
                fired.extend(self.alert(signal, event));
            });
            self.profiles = Some(profiles);
        }
        fired
    }

    /// Takes an event into the profiles alone: what it was then was told then.
    pub fn learn(&mut self, event: &Event<'_>) {
        let time = self.time_of(event);
        if let Some(profiles) = &mut self.profiles {
            profiles.observe(event, time, false, &mut |_, _| {});
        }
    }

    /// Whether matches raise alerts.
    fn alerts(&self, of: By) -> bool {
        self.alerting.get(self.index(of)).is_some_and(|alerting| alerting.alerts)
    }

    fn index(&self, of: By) -> usize {
        match of {
            By::Rule(index) => index,
            By::Correlation(index) => self.rules + index,
            By::Profile(feature) => self.rules + self.correlations.len() + feature as usize,
        }
    }

    /// Takes an event that was looked at before, by an engine that is no more: it counts in windows, and alerts of its own
    /// it has had then.
    pub fn warm(&mut self, event: &Event<'_>) {
        self.take(event, |_, _| {});
    }

    /// False if it was taken before.
    fn take(&mut self, event: &Event<'_>, mut then: impl FnMut(&mut Self, Signal)) -> bool {
        if self.is_duplicate(event.id()) {
            self.duplicates += 1;
            return false;
        }
        self.newest = self.newest.max(self.time_of(event));
        self.seen += 1;
        let mut matched = Vec::new();
        let alerting = &mut self.alerting;
        let missing = |rule: usize| {
            if let Some(rule) = alerting.get_mut(rule) {
                rule.counts.missing += 1;
            }
        };
        self.program.run(event, &mut self.scratch, |rule| matched.push(rule), missing);
        let mut signals: VecDeque<Signal> = matched
            .into_iter()
            .map(|rule| Signal {
                of: By::Rule(rule),
                group: Vec::new(),
                records: vec![event.id().to_owned()],
                anomaly: None,
            })
            .collect();
        self.once.clear();
        // A correlation comes after what it is made of: there are no circles.
        while let Some(signal) = signals.pop_front() {
            self.correlate(&signal, event, &mut signals);
            then(self, signal);
        }
        if self.seen.is_multiple_of(SWEEP) {
            self.sweep();
        }
        true
    }

    /// Says that it is this late, in nanoseconds since 1970, although no event has said so: alerts that are over by then
    /// end. Windows go by events alone, so that records which come an hour late count as they would have.
    pub fn advance(&mut self, time: i64) {
        self.end_before(self.newest.max(time));
    }

    /// Goes on with an alert that an earlier engine has begun and not ended. Told false if there is no such rule any more.
    pub fn resume(&mut self, alert: &Alert) -> bool {
        let rule = self.alerting.iter_mut().enumerate().find(|(_, a)| a.header.id == alert.rule);
        let Some((index, alerting)) = rule.filter(|(_, alerting)| alerting.alerts) else {
            return false;
        };
        let names = match index.checked_sub(self.rules).and_then(|i| self.group_names.get(i)) {
            Some(names) => names,
            None => &alerting.header.settings.group_by,
        };
        // In the order of their names in the rule; what is left is the group of all others.
        let ordered = names.iter().filter_map(|name| alert.group.get_key_value(name));
        let others = alert.group.iter().filter(|(name, _)| !names.contains(name));
        let group = ordered.chain(others).map(|(name, value)| (name.clone(), value.clone()));
        let time = |text: &str| {
            let time = text.parse::<jiff::Timestamp>().ok();
            time.and_then(|time| i64::try_from(time.as_nanosecond()).ok()).unwrap_or_default()
        };
        let episode = Episode {
            first: time(&alert.first),
            last: time(&alert.last),
            count: alert.count,
            records: alert.records.clone(),
            anomaly: alert.anomaly.clone(),
            is_changed: false,
        };
        alerting.episodes.insert(group.collect(), episode);
        true
    }

    /// Says how late it can be at most: an event of a clock that is ahead counts as of
    /// then, and makes the others no later than they are.
    pub fn set_ceiling(&mut self, time: i64) {
        self.ceiling = time;
    }

    /// The alerts that have got further matches since the last call and are not over.
    pub fn running(&mut self) -> Vec<Alert> {
        let mut running = Vec::new();
        for (index, group) in std::mem::take(&mut self.changed) {
            let Some(alerting) = self.alerting.get_mut(index) else { continue };
            if let Some(episode) = alerting.episodes.get_mut(&group).filter(|e| e.is_changed) {
                episode.is_changed = false;
                running.push(episode.alert(&alerting.header, &group));
            }
        }
        running
    }

    /// When it happened, as far as that can be.
    fn time_of(&self, event: &Event<'_>) -> i64 {
        event.time().min(self.ceiling)
    }

    fn is_duplicate(&mut self, id: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let hash = hasher.finish();
        if !self.recent.insert(hash) {
            return true;
        }
        self.order.push_back(hash);
        if self.order.len() > RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        false
    }

    fn correlate(&mut self, signal: &Signal, event: &Event<'_>, signals: &mut VecDeque<Signal>) {
        let time = self.time_of(event);
        let Some(uses) = signal.of.part().and_then(|part| self.uses.get(&part)) else { return };
        // From the last place to the first: an event that is two steps of a row is not both at once.
        for (number, place, fields) in uses.iter().rev() {
            let Some(windows) = self.correlations.get_mut(*number) else { continue };
            let value_of = |field: &String| match signal.of {
                By::Rule(_) => value(event, field),
                By::Correlation(_) | By::Profile(_) => {
                    let known = signal.group.iter().find(|(name, _)| name == field);
                    known.map(|(_, value)| value.clone())
                }
            };
            let Some(alerting) = self.alerting.get_mut(self.rules + number) else { continue };
            let Some(key) = fields.iter().map(value_of).collect::<Option<Vec<String>>>() else {
                alerting.counts.missing += 1;
                continue;
            };
            let counted = windows.counted().map(|field| value(event, field));
            if counted == Some(None) {
                alerting.counts.missing += 1;
                continue;
            }
            // Several rules may have matched it, and it is one event.
            if windows.counts_events() && !self.once.insert((*number, key.clone())) {
                continue;
            }
            let record = signal.records.first().map_or(event.id(), String::as_str);
            let hit = Hit { part: *place, time, value: counted.flatten(), record };
            if let Some(records) = windows.add(&key, &hit, self.newest) {
                let names = self.group_names.get(*number).cloned().unwrap_or_default();
                let group = names.into_iter().zip(key).collect();
                let of = By::Correlation(*number);
                signals.push_back(Signal { of, group, records, anomaly: None });
            }
        }
    }

    /// Enters a match; the alert, if one begins with it.
    fn alert(&mut self, signal: Signal, event: &Event<'_>) -> Option<Alert> {
        let index = self.index(signal.of);
        let alerting = self.alerting.get_mut(index)?;
        alerting.counts.matched += 1;
        if !alerting.alerts {
            return None;
        }
        let settings = &alerting.header.settings;
        let mut group = match signal.of {
            By::Correlation(_) | By::Profile(_) => signal.group,
            By::Rule(_) => {
                let names = settings.group_by.iter();
                names.filter_map(|name| Some((name.clone(), value(event, name)?))).collect()
            }
        };
        if !alerting.episodes.contains_key(&group) && alerting.episodes.len() >= settings.max_groups
        {
            group = vec![("*".to_owned(), "*".to_owned())];
        }
        let time = event.time().min(self.ceiling);
        if let Some(mut episode) = alerting.episodes.remove(&group) {
            if time <= episode.last.saturating_add(settings.suppression) {
                episode.first = episode.first.min(time);
                episode.last = episode.last.max(time);
                episode.count += 1;
                for record in signal.records {
                    if episode.records.len() < EXAMPLES && !episode.records.contains(&record) {
                        episode.records.push(record);
                    }
                }
                if !std::mem::replace(&mut episode.is_changed, true) {
                    self.changed.push((index, group.clone()));
                }
                alerting.episodes.insert(group, episode);
                return None;
            }
            self.closed.push(episode.alert(&alerting.header, &group));
        }
        let mut records = signal.records;
        records.truncate(EXAMPLES);
        let (count, anomaly) = (1, signal.anomaly);
        let episode =
            Episode { first: time, last: time, count, records, anomaly, is_changed: false };
        let alert = episode.alert(&alerting.header, &group);
        alerting.episodes.insert(group, episode);
        Some(alert)
    }

    fn sweep(&mut self) {
        for windows in &mut self.correlations {
            windows.sweep(self.newest);
        }
        self.end_before(self.newest);
    }

    fn end_before(&mut self, time: i64) {
        for alerting in &mut self.alerting {
            let settings = &alerting.header.settings;
            let limit = time.saturating_sub(settings.suppression).saturating_sub(settings.lateness);
            // Those at the front were matched longest ago.
            while let Some((group, episode)) = alerting.episodes.front() {
                if episode.last >= limit {
                    break;
                }
                self.closed.push(episode.alert(&alerting.header, group));
                alerting.episodes.pop_front();
            }
        }
    }

    /// The alerts that have come to their end since the last call, with their counts.
    pub fn closed(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.closed)
    }

    /// Ends every alert: all that were not yet told by [`Engine::closed`].
    pub fn end(mut self) -> Vec<Alert> {
        for alerting in &self.alerting {
            for (group, episode) in &alerting.episodes {
                self.closed.push(episode.alert(&alerting.header, group));
            }
        }
        self.closed
    }

    /// Events that were looked at, and those that had come before.
    pub fn events(&self) -> (u64, u64) {
        (self.seen, self.duplicates)
    }

    /// Different comparisons of all rules.
    pub fn comparisons(&self) -> usize {
        self.program.tests()
    }

    /// What became of each rule, by its id.
    pub fn counts(&self) -> BTreeMap<String, RuleCounts> {
        let rules = self.alerting.iter().enumerate().map(|(index, alerting)| {
            let mut counts = alerting.counts;
            let windows = index.checked_sub(self.rules).and_then(|i| self.correlations.get(i));
            if let Some(windows) = windows {
                counts.late = windows.late;
                counts.evicted = windows.evicted;
            }
            (alerting.header.id.clone(), counts)
        });
        rules.collect()
    }
}

/// The value of a field as groups and counts see it: the items of a list together.
fn value(event: &Event<'_>, field: &str) -> Option<String> {
    let items = event::items(event.get(field)?);
    let texts: Vec<_> = items.iter().filter_map(event::text).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}
