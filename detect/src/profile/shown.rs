//! Profiles as they are shown.

use serde::{Deserialize, Serialize};
use sketches_ddsketch::DDSketch;

use super::Profiles;
use super::edge::Edge;
use super::service::{Service, Version};
use super::sets::{Items, Readiness};

/// What is usual for one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownProfile {
    /// Its SPIFFE ID.
    pub service: String,
    /// Versions, the newest last.
    pub versions: Vec<ShownVersion>,
    /// Who calls it.
    pub callers: Vec<ShownItem>,
    /// Whether new callers are told.
    pub callers_ready: Readiness,
    /// How many principals are known, and whether new ones are told.
    pub principals: (usize, Readiness),
    /// Each caller's calls, and all of them together under `*`.
    pub edges: Vec<ShownEdge>,
    /// Requests that were denied: nothing is learnt from them.
    pub denied: u64,
    /// Items that found no room.
    pub without_room: u64,
}

/// A version and when it was heard of, in hours since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownVersion {
    /// `service.version`.
    pub name: String,
    /// First hour.
    pub first_hour: u32,
    /// Last hour.
    pub last_hour: u32,
}

/// An item of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownItem {
    /// The item.
    pub name: String,
    /// In how many hours it was seen.
    pub hours: u32,
    /// New, told, and not usual yet.
    pub is_new: bool,
}

/// What is usual for one caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownEdge {
    /// The caller; `*` for all together.
    pub source: String,
    /// Its calls.
    pub calls: Vec<ShownItem>,
    /// Whether new calls are told.
    pub calls_ready: Readiness,
    /// Requests in five minutes for each hour of a working day, then of a day of the weekend, in UTC.
    pub requests: Vec<Option<f32>>,
    /// Whether other counts are told.
    pub requests_ready: bool,
    /// Microseconds that the service took: the median, 95 and 99 of a hundred.
    pub latency_us: Option<[f64; 3]>,
    /// Bytes of responses: the same.
    pub response_bytes: Option<[f64; 3]>,
    /// Bytes of requests: the same.
    pub request_bytes: Option<[f64; 3]>,
}

impl Profiles {
    /// The services that are known.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// The profile of a service.
    pub fn show(&self, service: &str) -> Option<ShownProfile> {
        let known = self.services.get(service)?;
        let limits = known.limits(&self.budget);
        let ready = |set: &Items| set.readiness(self.hour, limits.new_items);
        let edge = |source: &str, edge: &Edge, sketches: [Option<[f64; 3]>; 3]| {
            let [latency_us, response_bytes, request_bytes] = sketches;
            ShownEdge {
                source: source.to_owned(),
                calls: items(&edge.calls),
                calls_ready: ready(&edge.calls),
                requests: edge.requests.course().collect(),
                requests_ready: edge.requests.is_ready(),
                latency_us,
                response_bytes,
                request_bytes,
            }
        };
        let sketches =
            |edge: &Edge| [&edge.latencies, &edge.downloads, &edge.uploads].map(quantiles);
        let mut edges = vec![edge("*", &known.total, known.merged())];
        edges.extend(known.edges.iter().map(|(source, of)| edge(source, of, sketches(of))));
        let version = |v: &Version| ShownVersion {
            name: v.name.clone(),
            first_hour: v.first,
            last_hour: v.last,
        };
        Some(ShownProfile {
            service: service.to_owned(),
            versions: known.versions.iter().map(version).collect(),
            callers: items(&known.callers),
            callers_ready: ready(&known.callers),
            principals: (known.principals.len(), ready(&known.principals)),
            edges,
            denied: known.denied,
            without_room: known.overflow(),
        })
    }
}

impl Service {
    /// The sketches of all edges together.
    fn merged(&self) -> [Option<[f64; 3]>; 3] {
        let merge = |of: fn(&Edge) -> &DDSketch| {
            let mut edges = self.edges.values().map(of);
            let mut all = edges.next()?.clone();
            for sketch in edges {
                // They are all of one accuracy.
                let _same = all.merge(sketch);
            }
            quantiles(&all)
        };
        [merge(|e| &e.latencies), merge(|e| &e.downloads), merge(|e| &e.uploads)]
    }
}

fn items(set: &Items) -> Vec<ShownItem> {
    let item = |(name, hours, is_new): (&str, u32, bool)| ShownItem {
        name: name.to_owned(),
        hours,
        is_new,
    };
    set.iter().map(item).collect()
}

fn quantiles(sketch: &DDSketch) -> Option<[f64; 3]> {
    let at = |q| sketch.quantile(q).ok().flatten();
    Some([at(0.5)?, at(0.95)?, at(0.99)?])
}
