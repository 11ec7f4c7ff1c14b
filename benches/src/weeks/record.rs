//! Requests written down as `picket audit search -o jsonl` prints records.
//!
//! What a detector could look at is there; left out is what proves a record (its place in a chain), what repeats another
//! attribute (labels, decision id, scheme) and what is the same everywhere (cipher, curve).

use std::fmt::{Display, Write as _};
use std::io::{self, Write};

use super::clock::{At, MINUTE};
use super::draw::Draw;
use super::mesh::Mesh;
use super::request::{Person, Refused, Request, mixed};

/// One running copy of a service.
struct Instance {
    boot: String,
    address: String,
    version: String,
    serial: u64,
    /// Next number of each lane.
    sequences: [u64; 2],
}

/// Instances of a service that will be replaced: from when on the next one, and by what.
struct Rollout {
    at: At,
    service: usize,
    replica: usize,
    version: String,
}

pub(crate) struct Writer<W> {
    out: W,
    instances: Vec<Vec<Instance>>,
    rollouts: Vec<Rollout>,
    draw: Draw,
    line: Line,
    pub(crate) written: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(mesh: &Mesh, seed: u64, out: W) -> Self {
        let mut draw = Draw::apart(seed, 5);
        let instances = mesh
            .services
            .iter()
            .map(|service| {
                let version = format!("1.1.{}", draw.whole(0, 4));
                (0..service.replicas).map(|_| Instance::new(&version, &mut draw)).collect()
            })
            .collect();
        let (rollouts, line) = (Vec::new(), Line(String::with_capacity(2048)));
        Self { out, instances, rollouts, draw, line, written: 0 }
    }

    /// From a minute on a service is replaced by a new version, one instance a minute.
    pub(crate) fn deploy(&mut self, minute: i64, service: usize, version: &str) {
        let replicas = self.instances.get(service).map_or(0, Vec::len);
        self.rollouts.extend((0..replicas).map(|replica| Rollout {
            at: At(At::of_minute(minute).0 + replica as i64 * MINUTE + MINUTE / 3),
            service,
            replica,
            version: version.to_owned(),
        }));
        self.rollouts.sort_by_key(|rollout| std::cmp::Reverse(rollout.at));
    }

    /// Writes one; its id.
    pub(crate) fn write(&mut self, mesh: &Mesh, request: &Request) -> io::Result<String> {
        while self.rollouts.last().is_some_and(|rollout| rollout.at <= request.at) {
            let Some(rollout) = self.rollouts.pop() else { break };
            let instance = Instance::new(&rollout.version, &mut self.draw);
            let of = self.instances.get_mut(rollout.service);
            if let Some(place) = of.and_then(|all| all.get_mut(rollout.replica)) {
                *place = instance;
            }
        }
        self.line.0.clear();
        let id = self.describe(mesh, request);
        self.line.0.push_str("}\n");
        self.out.write_all(self.line.0.as_bytes())?;
        self.written += 1;
        Ok(id)
    }

    /// Everything of a record but the closing brace; its id.
    fn describe(&mut self, mesh: &Mesh, request: &Request) -> String {
        let bits = request.bits;
        let (source, destination) =
            (mesh.service(request.source), mesh.service(request.destination));
        let caller = chosen(&mut self.instances, request.source, bits >> 16);
        let (address, serial) =
            (request.from.as_ref().unwrap_or(&caller.address).clone(), caller.serial);
        let instance = chosen(&mut self.instances, request.destination, bits >> 8);
        let lane = (bits >> 24 & 1) as usize;
        let sequence = instance.sequences.get_mut(lane).unwrap();
        *sequence += 1;
        let (boot, version, sequence) = (&instance.boot, &instance.version, *sequence);
        let id = format!("{boot}-{lane}-{sequence}");
        let (method, name, namespace) = (request.method, destination.name, destination.namespace);

        let line = &mut self.line;
        line.text("id", &id);
        line.text("time", request.at);
        line.number("duration_us", request.upstream_us + 150 + request.answered / 200);
        match &request.route {
            Some(route) => line.text("name", format_args!("{method} {route}")),
            None => line.text("name", method),
        }
        line.text("trace_id", format_args!("{:016x}{:016x}", mixed(bits), mixed(bits ^ 2)));
        line.text("span_id", format_args!("{:016x}", mixed(bits ^ 1)));
        line.text("service.name", name);
        line.text("service.namespace", namespace);
        line.text("service.version", version);
        line.text("service.instance.id", boot);
        line.text("picket.emitter", &destination.id);
        line.text("picket.kind", "request");
        line.text("picket.direction", "inbound");
        line.number("picket.lane", lane);
        line.number("picket.sequence", sequence);
        line.text("picket.source", &source.id);
        line.text("picket.destination", &destination.id);
        line.number("picket.destination.port", 8080);
        line.text("picket.peer.serial", format_args!("{serial:016x}"));
        line.text("tls.protocol.version", "1.3");
        line.text("network.protocol.version", "2");
        line.text("network.peer.address", address);
        line.number("network.peer.port", 32_768 + (serial ^ bits >> 32) % 28_000);
        line.text("http.request.method", method);
        if let Some(route) = &request.route {
            line.text("http.route", route);
        }
        line.text("url.path", &request.path);
        line.text("server.address", name);
        line.number("http.response.status_code", request.status);
        line.number("http.request.body.size", request.asked);
        line.number("http.response.body.size", request.answered);
        line.text("picket.policy.generation", "4be1a7c20d91f6e3");
        line.number("picket.time.policy_us", 8 + bits % 30);
        decided(line, request, namespace, name);
        if let Some(person) = request.person.filter(|_| request.refused.is_none()) {
            vouched_for(line, person, mesh.service(person.gateway).name);
        }
        id
    }
}

/// One of a service's instances.
fn chosen(all: &mut [Vec<Instance>], service: usize, bits: u64) -> &mut Instance {
    let of = all.get_mut(service).unwrap();
    let place = (bits % of.len() as u64) as usize;
    of.get_mut(place).unwrap()
}

fn decided(line: &mut Line, request: &Request, namespace: &str, name: &str) {
    let Some(Refused(stage, reason, _)) = request.refused else {
        line.text("picket.decision", "allow");
        line.text("picket.decision.stage", "allow");
        line.text("picket.decision.reason", "allow_matched");
        line.text("picket.policy", format_args!("{namespace}/{name}"));
        // The second rule names no paths, so that there is no route.
        line.number("picket.policy.rule", u8::from(request.route.is_none()));
        let place = 12 + 9 * (request.destination % 7);
        line.text("picket.policy.source", format_args!("{namespace}.yaml:{place}"));
        line.text("picket.ending", "completed");
        line.number("picket.time.upstream_us", request.upstream_us);
        if request.status >= 500 {
            line.text("error.type", request.status);
            line.text("status.error", "");
        }
        return;
    };
    line.text("picket.decision", "deny");
    line.text("picket.decision.stage", stage);
    line.text("picket.decision.reason", reason);
    line.text("picket.ending", "refused");
    line.text("error.type", reason);
    line.text("status.error", format_args!("denied: {reason}"));
}

fn vouched_for(line: &mut Line, person: Person, gateway: &str) {
    let subject = person.subject();
    line.text("client.address", person.address());
    line.text("picket.jwt.issuer", "https://id.shop.example");
    line.text("picket.jwt.kid", "2026-10");
    line.list("picket.jwt.audiences", &["shop".to_owned()]);
    line.text("picket.jwt.presenter", gateway);
    line.text("picket.jwt.subject_hash", format_args!("{subject:016x}{:016x}", mixed(subject)));
    line.text("picket.jwt.subject_key", "1f0c77a2");
}

/// A line of JSON under way. Nothing here needs escapes.
struct Line(String);

impl Line {
    fn name(&mut self, name: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn text(&mut self, name: &str, value: impl Display) {
        self.name(name);
        write!(self.0, "\"{value}\"").unwrap();
    }

    fn number(&mut self, name: &str, value: impl Display) {
        self.name(name);
        write!(self.0, "{value}").unwrap();
    }

    fn list(&mut self, name: &str, values: &[String]) {
        self.name(name);
        write!(self.0, "[\"{}\"]", values.join("\",\"")).unwrap();
    }
}

impl Instance {
    fn new(version: &str, draw: &mut Draw) -> Self {
        let (high, low, place) = (draw.bits(), draw.bits(), draw.bits());
        let boot = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        );
        Self {
            boot,
            address: format!("10.1.{}.{}", place & 0x3f, 1 + (place >> 8) % 250),
            version: version.to_owned(),
            serial: draw.bits(),
            sequences: [0; 2],
        }
    }
}
