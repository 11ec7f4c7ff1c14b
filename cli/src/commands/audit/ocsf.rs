//! Records as events of the Open Cybersecurity Schema Framework, version 1.6.0 with the profile `security_control`.
//!
//! | record | class |
//! |---|---|
//! | `request` | HTTP Activity (4002) |
//! | `connection` | Network Activity (4001) |
//! | `event` | API Activity (6003) |
//!
//! What the classes have no place for stands in `unmapped`, under its own name.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::exit::Failure;

type Record = Map<String, Value>;

const VERSION: &str = "1.6.0";

/// The event of a record.
pub(super) fn event(record: &Record) -> Result<Value, Failure> {
    let of = Of(record);
    let mut event = match of.text("picket.kind") {
        "event" => act(&of),
        "connection" => connection(&of),
        _ => request(&of),
    };
    let time = milliseconds(of.text("time"))?;
    let spent = of.number("duration_us").unwrap_or_default() / 1000;
    let is_refused = of.is_refused();
    set(&mut event, "time", json!(time));
    set(&mut event, "start_time", json!(time));
    set(&mut event, "end_time", json!(time + spent));
    set(&mut event, "duration", json!(spent));
    set(&mut event, "severity_id", json!(if is_refused { 2 } else { 1 }));
    set(&mut event, "severity", json!(if is_refused { "Low" } else { "Informational" }));
    let status = of.status();
    set(&mut event, "status_id", json!(if status { 1 } else { 2 }));
    set(&mut event, "status", json!(if status { "Success" } else { "Failure" }));
    set(&mut event, "status_detail", of.value("picket.decision.reason"));
    set(&mut event, "metadata", metadata(&of));
    set(&mut event, "unmapped", unmapped(record));
    Ok(event)
}

fn request(of: &Of<'_>) -> Value {
    let method = of.text("http.request.method");
    let activity = match method {
        "CONNECT" => 1,
        "DELETE" => 2,
        "GET" => 3,
        "HEAD" => 4,
        "OPTIONS" => 5,
        "POST" => 6,
        "PUT" => 7,
        "TRACE" => 8,
        "PATCH" => 9,
        _ => 99,
    };
    let mut event = class((4, "Network Activity"), (4002, "HTTP Activity"), activity);
    let name = if activity == 99 { method.to_owned() } else { title(method) };
    set(&mut event, "activity_name", json!(name));
    let mut url = json!({});
    set(&mut url, "path", of.value("url.path"));
    set(&mut url, "query_string", of.value("url.query"));
    set(&mut url, "scheme", of.value("url.scheme"));
    set(&mut url, "hostname", hostname(of.text("server.address")));
    set(&mut url, "port", of.value("server.port"));
    let mut asked = json!({ "http_method": method });
    // A refused target may be none.
    if !of.text("url.path").is_empty() {
        set(&mut asked, "url", url);
    }
    set(&mut asked, "version", of.value("network.protocol.version"));
    set(&mut asked, "body_length", of.value("http.request.body.size"));
    set(&mut event, "http_request", asked);
    if let Some(code) = of.number("http.response.status_code") {
        let mut answered = json!({ "code": code });
        set(&mut answered, "body_length", of.value("http.response.body.size"));
        set(&mut event, "http_response", answered);
        set(&mut event, "status_code", json!(code.to_string()));
    }
    ends(&mut event, of);
    control(&mut event, of);
    event
}

fn connection(of: &Of<'_>) -> Value {
    let is_refused = of.is_refused();
    let (activity, name) = if is_refused { (5, "Refuse") } else { (2, "Close") };
    let mut event = class((4, "Network Activity"), (4001, "Network Activity"), activity);
    set(&mut event, "activity_name", json!(name));
    let direction = match of.text("picket.direction") {
        "inbound" => 1,
        "outbound" => 2,
        _ => 0,
    };
    let connection =
        json!({ "direction_id": direction, "protocol_name": "tcp", "protocol_num": 6 });
    set(&mut event, "connection_info", connection);
    ends(&mut event, of);
    control(&mut event, of);
    event
}

fn act(of: &Of<'_>) -> Value {
    let name = of.text("picket.event");
    let verb = name.rsplit(['.', '_']).next().unwrap_or_default();
    let activity = match verb {
        "join" | "create" | "add" => 1,
        "read" => 2,
        "renew" | "load" | "apply" | "announce" => 3,
        "remove" | "prune" => 4,
        _ => 99,
    };
    let mut event = class((6, "Application Activity"), (6003, "API Activity"), activity);
    let names = ["", "Create", "Read", "Update", "Delete"];
    set(&mut event, "activity_name", json!(names.get(activity).copied().unwrap_or(verb)));
    let mut api = json!({ "operation": name, "service": { "name": of.text("service.name") } });
    set(&mut api, "version", of.value("service.version"));
    set(&mut event, "api", api);
    let actor = Some(of.text("picket.actor")).filter(|actor| !actor.is_empty());
    let actor = actor.unwrap_or_else(|| of.text("picket.emitter"));
    set(&mut event, "actor", json!({ "user": { "uid": actor, "name": actor } }));
    let mut from = json!({ "uid": actor });
    set(&mut from, "ip", of.address("network.peer.address"));
    set(&mut from, "port", of.value("network.peer.port"));
    set(&mut event, "src_endpoint", from);
    let subject = of.text("picket.subject");
    if !subject.is_empty() {
        set(&mut event, "resources", json!([{ "uid": subject, "name": subject }]));
    }
    set(&mut event, "message", of.value("picket.detail"));
    control(&mut event, of);
    event
}

/// The class, and what follows from it.
fn class(category: (u32, &str), class: (u32, &str), activity: usize) -> Value {
    json!({
        "category_uid": category.0,
        "category_name": category.1,
        "class_uid": class.0,
        "class_name": class.1,
        "activity_id": activity,
        "type_uid": class.0 as usize * 100 + activity,
    })
}

/// Who called, and who was called.
fn ends(event: &mut Value, of: &Of<'_>) {
    let is_inbound = of.text("picket.direction") == "inbound";
    let mut source = json!({});
    set(&mut source, "uid", of.value("picket.source"));
    set(&mut source, "svc_name", service(of.text("picket.source")));
    let mut destination = json!({});
    set(&mut destination, "uid", of.value("picket.destination"));
    set(&mut destination, "svc_name", service(of.text("picket.destination")));
    set(&mut destination, "hostname", hostname(of.text("server.address")));
    // The other end of the socket: inbound the caller, outbound the service itself, which is the caller as well.
    set(&mut source, "ip", of.address("network.peer.address"));
    set(&mut source, "port", of.value("network.peer.port"));
    if is_inbound {
        set(&mut destination, "port", of.value("picket.destination.port"));
    }
    if destination.as_object().is_some_and(|destination| destination.keys().all(|k| k == "port")) {
        set(&mut destination, "uid", of.value("picket.emitter"));
    }
    for (name, end) in [("src_endpoint", source), ("dst_endpoint", destination)] {
        if end.as_object().is_some_and(|end| end.keys().any(|key| key != "port")) {
            set(event, name, end);
        }
    }
}

/// The profile `security_control`: what was decided, and by what.
fn control(event: &mut Value, of: &Of<'_>) {
    let is_refused = of.is_refused();
    let has_decision =
        !of.text("picket.decision").is_empty() || !of.text("picket.outcome").is_empty();
    let (action, disposition) = match (has_decision, is_refused) {
        (false, _) => (0, 0),
        (true, false) => (1, 1),
        (true, true) => (2, 2),
    };
    set(event, "action_id", json!(action));
    set(event, "action", json!(["Unknown", "Allowed", "Denied"].get(action)));
    set(event, "disposition_id", json!(disposition));
    set(event, "disposition", json!(["Unknown", "Allowed", "Blocked"].get(disposition)));
    let name = of.text("picket.policy");
    if !name.is_empty() {
        let mut policy = json!({ "name": name, "is_applied": true });
        set(&mut policy, "version", of.value("picket.policy.generation"));
        let decision = json!({ "decision": of.text("picket.decision"), "policy": policy });
        set(event, "authorizations", json!([decision]));
        set(event, "policy", policy);
    }
}

fn metadata(of: &Of<'_>) -> Value {
    let product = json!({ "name": "Picket", "vendor_name": "Picket", "feature": { "name": of.text("picket.kind") } });
    let mut metadata = json!({
        "version": VERSION,
        "product": product,
        "profiles": ["security_control"],
        "uid": of.text("id"),
        "log_name": "audit",
        "original_time": of.text("time"),
        "sequence": of.number("picket.sequence").unwrap_or_default(),
    });
    set(&mut metadata, "correlation_uid", of.value("trace_id"));
    metadata
}

/// Attributes that have their place elsewhere.
const MAPPED: [&str; 34] = [
    "id",
    "time",
    "duration_us",
    "trace_id",
    "picket.kind",
    "picket.event",
    "picket.sequence",
    "picket.source",
    "picket.destination",
    "picket.destination.port",
    "picket.decision",
    "picket.decision.reason",
    "picket.outcome",
    "picket.policy",
    "picket.policy.generation",
    "picket.actor",
    "picket.subject",
    "picket.detail",
    "http.request.method",
    "http.response.status_code",
    "http.request.body.size",
    "http.response.body.size",
    "url.path",
    "url.query",
    "url.scheme",
    "server.address",
    "server.port",
    "network.peer.address",
    "network.peer.port",
    "network.protocol.version",
    "service.version",
    "events",
    "links",
    "name",
];

fn unmapped(record: &Record) -> Value {
    let rest = record.iter().filter(|(name, _)| !MAPPED.contains(&name.as_str()));
    rest.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
}

/// A record, asked for single values.
struct Of<'r>(&'r Record);

impl Of<'_> {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    fn value(&self, name: &str) -> Value {
        self.0.get(name).cloned().unwrap_or_default()
    }

    fn address(&self, name: &str) -> Value {
        self.text(name).parse::<IpAddr>().map_or(Value::Null, |_| self.value(name))
    }

    fn is_refused(&self) -> bool {
        self.text("picket.decision") == "deny" || self.text("picket.outcome") == "refused"
    }

    /// Whether it came to what was asked for.
    fn status(&self) -> bool {
        let code = self.number("http.response.status_code");
        !self.is_refused()
            && code.is_none_or(|code| code < 400)
            && !self.0.contains_key("error.type")
    }
}

/// Sets a value, unless there is none.
fn set(object: &mut Value, name: &str, value: Value) {
    if let (Some(object), false) = (object.as_object_mut(), value.is_null()) {
        object.insert(name.to_owned(), value);
    }
}

/// The service account of a SPIFFE ID.
fn service(id: &str) -> Value {
    id.rsplit_once("/sa/").map_or(Value::Null, |(_, account)| json!(account))
}

/// A name, if it could be one (RFC 1123).
fn hostname(text: &str) -> Value {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    let is_name = !text.is_empty() && text.len() < 254 && text.bytes().all(allowed);
    let is_framed =
        text.starts_with(['-', '.']) || text.ends_with(['-', '.']) || text.contains("..");
    if is_name && !is_framed { json!(text) } else { Value::Null }
}

fn title(method: &str) -> String {
    let (first, rest) = method.split_at_checked(1).unwrap_or((method, ""));
    format!("{first}{}", rest.to_ascii_lowercase())
}

fn milliseconds(time: &str) -> Result<i64, Failure> {
    let at = time.parse::<jiff::Timestamp>();
    at.map(jiff::Timestamp::as_millisecond).map_err(|error| Failure::of(&error))
}
