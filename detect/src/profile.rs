//! What is usual for each service and each of its callers, learnt from the records themselves, and what is not.
//!
//! Detectors, in order: items never seen before; counts, errors, refusals and sizes that differ from the usual course;
//! a single body that is out of all proportion; callers that fan out; calls in a rhythm that only machines have. Each says
//! what was expected and what came. Learnt from what was allowed and raised no alert; in event time, so that a replay
//! gives what live would have given. The alarm budget, false alarms per service and week, sets all thresholds.
//!
//! Not here: rules, and how matches become alerts ([`crate::Engine`]).

mod anomaly;
mod edge;
mod series;
mod service;
mod sets;
mod shown;

use hashlink::LinkedHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Event;
use edge::Limits;
use service::{Caller, STEP, Service};

pub use anomaly::{Anomaly, Feature};
pub use series::Change;
pub use sets::Readiness;
pub use shown::{ShownEdge, ShownItem, ShownProfile, ShownVersion};

/// Steps without any record that count as steps in which nothing came; after more nobody was listening.
const MAX_GAP: i64 = 12;
/// Hours after which a service, an edge or a caller that was not heard of is forgotten.
const FORGOTTEN: u32 = 24 * 60;

/// Settings of profiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// False alarms that are accepted for one service in a week.
    pub alarms: f64,
    /// Services that are followed.
    pub max_services: usize,
    /// Edges that are followed.
    pub max_edges: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { alarms: 1.0, max_services: 2_000, max_edges: 20_000 }
    }
}

/// What an anomaly is about: attributes and their values.
pub(crate) type Subject = Vec<(String, String)>;

/// A call as profiles see it.
struct Call<'e> {
    id: &'e str,
    seconds: f64,
    hour: u32,
    source: &'e str,
    principal: Option<String>,
    /// Method and route.
    call: Option<String>,
    is_alerted: bool,
    is_error: bool,
    is_refused: bool,
    latency: Option<f64>,
    upload: f64,
    download: f64,
}

/// Profiles of all services.
#[derive(Default, Serialize, Deserialize)]
pub struct Profiles {
    #[serde(skip)]
    budget: Budget,
    services: LinkedHashMap<String, Service>,
    callers: LinkedHashMap<String, Caller>,
    /// Number of the step at hand, since 1970.
    step: i64,
    hour: u32,
    edges: usize,
    /// Records for whose service, edge or caller there was no room.
    refused: u64,
}

impl Profiles {
    /// Nothing is known yet.
    pub fn new(budget: Budget) -> Self {
        Self { budget, ..Self::default() }
    }

    /// What an earlier process had learnt.
    ///
    /// # Errors
    /// When the bytes are of another version of Picket.
    pub fn restore(bytes: &[u8], budget: Budget) -> Result<Self, BadProfiles> {
        let mut profiles: Self = match bytes.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| BadProfiles)?,
            _ => return Err(BadProfiles),
        };
        profiles.budget = budget;
        Ok(profiles)
    }

    /// What has been learnt.
    pub fn save(&self) -> Vec<u8> {
        // Into memory nothing can fail but memory.
        postcard::to_extend(self, vec![FORMAT]).unwrap_or_default()
    }

    /// Takes a record. What is unusual goes to `tell`, with what it is about.
    pub(crate) fn observe(
        &mut self,
        event: &Event<'_>,
        time: i64,
        is_alerted: bool,
        tell: &mut dyn FnMut(Subject, Anomaly),
    ) {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        if text("picket.kind") != Some("request") || text("picket.direction") != Some("inbound") {
            return;
        }
        let Some(destination) = text("picket.destination") else { return };
        self.advance(time, tell);
        let seconds = time as f64 / 1e9;
        let hour = self.hour;
        let source = text("picket.source").unwrap_or(NOBODY);
        self.fan_out(source, destination, event.id());
        if !self.services.contains_key(destination) {
            if self.services.len() >= self.budget.max_services {
                self.refused += 1;
                return;
            }
            self.services.insert(destination.to_owned(), Service::new(hour));
        }
        let has_room = self.edges < self.budget.max_edges;
        let Some(service) = self.services.get_mut(destination) else { return };
        (service.last, service.is_heard) = (hour, true);
        // What was denied is neither usual nor unusual: rules speak of it.
        if text("picket.decision") != Some("allow") {
            service.denied += 1;
            return;
        }
        let is_settling = service.version(text("service.version").unwrap_or_default(), hour);
        let number = |name: &str| event.get(name).and_then(Value::as_f64);
        let status = number("http.response.status_code").unwrap_or_default();
        let call = Call {
            id: event.id(),
            seconds,
            hour,
            source,
            principal: principal(event),
            call: call_of(event),
            is_alerted,
            is_error: status >= 500.0 || text("picket.ending") == Some("upstream_aborted"),
            is_refused: (400.0..500.0).contains(&status),
            latency: number("picket.time.upstream_us"),
            upload: number("http.request.body.size").unwrap_or_default(),
            download: number("http.response.body.size").unwrap_or_default(),
        };
        let limits = Limits { is_settling, ..service.limits(&self.budget) };
        let before = service.edges.len();
        service.take(destination, &call, &limits, has_room, tell);
        self.edges += service.edges.len() - before;
    }

    /// Ends the steps that are over by then.
    fn advance(&mut self, time: i64, tell: &mut dyn FnMut(Subject, Anomaly)) {
        let step = time.div_euclid(STEP * 1_000_000_000);
        if self.step == 0 {
            (self.step, self.hour) = (step, hour_of(step));
        }
        let missed = step - self.step;
        if missed <= 0 {
            return;
        }
        let closing = if missed > MAX_GAP { 1 } else { missed };
        for number in self.step..self.step + closing {
            for (name, service) in &mut self.services {
                service.close(name, number, &self.budget, tell);
            }
        }
        self.step = step;
        if hour_of(step) > self.hour {
            self.end_hour(hour_of(step), tell);
        }
    }

    fn end_hour(&mut self, hour: u32, tell: &mut dyn FnMut(Subject, Anomaly)) {
        let h = (168.0 * 4.0 / self.budget.alarms).ln().max(1.0);
        for (name, caller) in &mut self.callers {
            caller.end_hour(name, h, tell);
        }
        self.hour = hour;
        let is_stale = |last: u32| hour.saturating_sub(last) > FORGOTTEN;
        self.callers.retain(|_, caller| !is_stale(caller.last));
        self.services.retain(|_, service| !is_stale(service.last));
        for service in self.services.values_mut() {
            let limits = service.limits(&self.budget);
            service.edges.retain(|_, edge| !is_stale(edge.last));
            for edge in service.edges.values_mut().chain([&mut service.total]) {
                edge.settle(hour, &limits);
            }
        }
        self.edges = self.services.values().map(|service| service.edges.len()).sum();
    }

    fn fan_out(&mut self, source: &str, destination: &str, id: &str) {
        let hour = self.hour;
        if !self.callers.contains_key(source) {
            if self.callers.len() >= self.budget.max_edges {
                self.refused += 1;
                return;
            }
            self.callers.insert(source.to_owned(), Caller::default());
        }
        if let Some(caller) = self.callers.get_mut(source) {
            caller.calls(destination, id, hour);
        }
    }

    /// How many services, edges and callers are followed, and for how many records there was no room.
    pub fn size(&self) -> ProfilesSize {
        let overflow: u64 = self.services.values().map(Service::overflow).sum();
        ProfilesSize {
            services: self.services.len(),
            edges: self.edges,
            callers: self.callers.len(),
            without_room: self.refused + overflow,
        }
    }
}

/// How much profiles hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProfilesSize {
    /// Services.
    pub services: usize,
    /// Pairs of caller and service.
    pub edges: usize,
    /// Callers.
    pub callers: usize,
    /// Records, or items of them, that found no room: a flood of identities or paths.
    pub without_room: u64,
}

/// Hours since 1970.
fn hour_of(step: i64) -> u32 {
    u32::try_from(step * STEP / 3_600).unwrap_or_default()
}

/// Version of the saved form.
const FORMAT: u8 = 1;
/// Who calls without proof.
const NOBODY: &str = "-";

/// Profiles that cannot be read: they are learnt anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the profiles were saved by another version")]
pub struct BadProfiles;

fn principal(event: &Event<'_>) -> Option<String> {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let subject = text("picket.jwt.subject_hash").or_else(|| text("picket.jwt.subject"))?;
    Some(format!("{}/{subject}", text("picket.jwt.issuer").unwrap_or_default()))
}

/// Method and route: the route of the rule that decided, else the path without what looks like an id.
fn call_of(event: &Event<'_>) -> Option<String> {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let method = text("http.request.method")?;
    let route = text("http.route").filter(|route| !route.ends_with('*'));
    let mut call = method.to_owned();
    call.push(' ');
    match route {
        Some(route) => call.push_str(route),
        None => {
            let path = text("url.path").unwrap_or("/");
            for part in path.split('/').skip(1).take(4) {
                call.push('/');
                // Nor what looks like somebody's name.
                let is_own = |byte: u8| byte.is_ascii_digit() || b"@%=;~".contains(&byte);
                let is_id = part.len() > 24 || part.bytes().any(is_own);
                call.push_str(if is_id { "*" } else { part });
            }
        }
    }
    Some(call)
}

#[cfg(test)]
mod tests;
