//! One service with its callers, and one caller with the services that it calls.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use hashlink::LinkedHashMap;
use serde::{Deserialize, Serialize};

use super::edge::{Edge, Limits};
use super::series::{DayTime, Pace, Sizes};
use super::sets::{Items, Seen};
use super::{Anomaly, Budget, Call, Feature, Subject};

/// Seconds of a step.
pub(super) const STEP: i64 = 300;
/// Steps of a week.
const WEEK: f64 = 2016.0;
/// Hours for which a new version may bring new calls.
const SETTLING: u32 = 24;
/// Versions of a service that are remembered.
const MAX_VERSIONS: usize = 8;
/// Destinations of a caller that are counted in an hour.
const MAX_FAN_OUT: usize = 4_096;
/// In hours. One service more of three or four is nothing.
const FAN_OUT: Pace = Pace { learning: 24, calibrated: 72, adopted: 24, floor: 0.25, both: false };
/// Fewer services than this are no fan-out.
const MANY: f64 = 5.0;
/// Steps within which what is told of a caller is not told of all callers together again.
const TOLD: i64 = 24;
/// Records that an anomaly names.
const EXAMPLES: usize = 3;

/// A service.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) last: u32,
    pub(super) callers: Items,
    pub(super) principals: Items,
    pub(super) edges: LinkedHashMap<String, Edge>,
    /// All callers together.
    pub(super) total: Edge,
    pub(super) versions: Vec<Version>,
    pub(super) denied: u64,
    pub(super) is_heard: bool,
    /// What was told of a caller lately, and in which step.
    told: Vec<(Feature, i64)>,
    /// Edges that found no room.
    refused: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) first: u32,
    pub(super) last: u32,
}

/// A caller, over all services.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Caller {
    pub(super) last: u32,
    reach: Sizes,
    /// Hashes of this hour's destinations.
    destinations: BTreeSet<u64>,
    examples: Vec<String>,
}

impl Service {
    pub(super) fn new(hour: u32) -> Self {
        Self {
            last: hour,
            callers: Items::default(),
            principals: Items::default(),
            edges: LinkedHashMap::new(),
            total: Edge::new(hour, false),
            versions: Vec::new(),
            denied: 0,
            is_heard: false,
            told: Vec::new(),
            refused: 0,
        }
    }

    /// The alarms that are accepted, divided among all that may raise one.
    pub(super) fn limits(&self, budget: &Budget) -> Limits {
        let streams = (self.edges.len() + 1) as f64 * 9.0;
        Limits {
            evidence: (WEEK * streams / budget.alarms).ln().max(1.0),
            new_items: budget.alarms / 2.0,
            alarms: budget.alarms / streams,
            is_settling: false,
        }
    }

    /// Notes a version. True while it is new and others were before it.
    pub(super) fn version(&mut self, name: &str, hour: u32) -> bool {
        if let Some(known) = self.versions.iter_mut().find(|version| version.name == name) {
            known.last = hour;
        } else {
            // What is usual of the version before is usual of the new one: the service keeps its profile.
            if self.versions.len() >= MAX_VERSIONS {
                self.versions.remove(0);
            }
            self.versions.push(Version { name: name.to_owned(), first: hour, last: hour });
        }
        self.is_settling(hour)
    }

    /// A new version has come lately, and others were before it.
    fn is_settling(&self, hour: u32) -> bool {
        let newest = self.versions.last().map_or(0, |version| version.first);
        self.versions.len() > 1 && hour.saturating_sub(newest) < SETTLING
    }

    /// Takes a call.
    pub(super) fn take(
        &mut self,
        name: &str,
        call: &Call<'_>,
        limits: &Limits,
        has_room: bool,
        tell: &mut dyn FnMut(Subject, Anomaly),
    ) {
        self.total.take_counts(call);
        let records = || vec![call.id.to_owned()];
        if !call.is_alerted {
            let seen = self.callers.see(call.source, call.hour, limits.new_items);
            if seen == Seen::New {
                let known = self.callers.len() as f64;
                let new = Anomaly::new_item(Feature::NewCaller, call.source, known, records());
                tell(subject(name, Some(call.source)), new);
                return;
            }
            if let Some(principal) = &call.principal
                && self.principals.see(principal, call.hour, limits.new_items) == Seen::New
            {
                let known = self.principals.len() as f64;
                let new = Anomaly::new_item(Feature::NewPrincipal, principal, known, records());
                tell(subject(name, Some(call.source)), new);
            }
        }
        if !self.edges.contains_key(call.source) {
            if !self.callers.knows(call.source) {
                return;
            }
            if !has_room {
                self.refused += 1;
                return;
            }
            self.edges.insert(call.source.to_owned(), Edge::new(call.hour, true));
        }
        if let Some(edge) = self.edges.get_mut(call.source) {
            edge.take(call, limits, &mut |anomaly| tell(subject(name, Some(call.source)), anomaly));
        }
    }

    pub(super) fn close(
        &mut self,
        name: &str,
        number: i64,
        budget: &Budget,
        tell: &mut dyn FnMut(Subject, Anomaly),
    ) {
        let at = DayTime::of(number * STEP);
        let is_settling = self.is_settling(self.last);
        let limits = Limits { is_settling, ..self.limits(budget) };
        let is_heard = std::mem::take(&mut self.is_heard);
        let seconds = STEP.unsigned_abs();
        let told = &mut self.told;
        told.retain(|(_, at)| number - at < TOLD);
        for (source, edge) in &mut self.edges {
            edge.close(at, seconds, is_heard, &limits, &mut |anomaly| {
                let feature = anomaly.feature;
                let is_known = told.iter().any(|(known, _)| *known == feature);
                told.push((feature, number));
                // A service that is slow or fails is so for several callers.
                if !(is_known && matches!(feature, Feature::Slow | Feature::Errors)) {
                    tell(subject(name, Some(source)), anomaly);
                }
            });
        }
        self.total.close(at, seconds, true, &limits, &mut |anomaly| {
            if !told.iter().any(|(feature, _)| *feature == anomaly.feature) {
                tell(subject(name, None), anomaly);
            }
        });
    }

    /// What found no room. Of principals there may be any number: those of many users are not followed.
    pub(super) fn overflow(&self) -> u64 {
        let calls: u64 = self.edges.values().map(|edge| edge.calls.overflow()).sum();
        self.callers.overflow() + self.refused + calls
    }
}

impl Caller {
    pub(super) fn calls(&mut self, destination: &str, id: &str, hour: u32) {
        self.last = hour;
        let mut hasher = DefaultHasher::new();
        destination.hash(&mut hasher);
        if self.destinations.len() < MAX_FAN_OUT && self.destinations.insert(hasher.finish()) {
            // The last ones are those that made it many.
            if self.examples.len() >= EXAMPLES {
                self.examples.remove(0);
            }
            self.examples.push(id.to_owned());
        }
    }

    pub(super) fn end_hour(&mut self, name: &str, h: f64, tell: &mut dyn FnMut(Subject, Anomaly)) {
        let destinations = std::mem::take(&mut self.destinations);
        let records = std::mem::take(&mut self.examples);
        if destinations.is_empty() {
            return;
        }
        let count = destinations.len() as f64;
        let expected = self.reach.interval(1.0, FAN_OUT.floor);
        let is_many = count >= MANY && count > 1.5 * expected.1;
        if self.reach.step(count.ln(), 1.0, true, &FAN_OUT, h).is_some() && is_many {
            let subject = vec![("picket.source".to_owned(), name.to_owned())];
            tell(
                subject,
                Anomaly {
                    feature: Feature::FanOut,
                    of: None,
                    expected,
                    observed: count,
                    unit: Cow::Borrowed("services"),
                    over_seconds: 3_600,
                    evidence: None,
                    records,
                },
            );
        }
    }
}

fn subject(destination: &str, source: Option<&str>) -> Subject {
    let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut subject = vec![of("picket.destination", destination)];
    if let Some(source) = source {
        subject.push(of("picket.source", source));
    }
    subject
}
