//! `picket authz explain` of a recorded request: what was decided then, and what would be decided now.

use picket_control::operator::AuditQuery;
use picket_policy::{NearestMiss, PolicyRef, Verdict};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::{ControlArguments, ExplainArguments, Format};
use crate::client::Client;
use crate::commands::policy;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::{Decided, Entry, Mesh, Policies, Then, Trail, Unread, seconds, short};

/// What would be decided now.
#[derive(Serialize)]
struct Now {
    /// None if it cannot be told.
    decision: Option<Verdict>,
    stage: Option<&'static str>,
    policy: Option<String>,
    rule: Option<u32>,
    file: Option<String>,
    line: Option<u32>,
    reason: String,
    code: Option<&'static str>,
    nearest_miss: Option<NearestMiss>,
    generation: String,
    /// What the rules read and no record holds.
    unknown: Vec<String>,
}

pub(super) async fn run(
    arguments: &ExplainArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    let mesh = Mesh::ask(&client).await?;
    let mut policies = match &arguments.policies {
        Some(directory) => Policies::new(policy::read(directory, mesh.settings.clone())?),
        None => mesh.in_force()?,
    };
    let query = AuditQuery {
        trace: arguments.trace.clone(),
        decision_id: arguments.decision.clone(),
        ..AuditQuery::default()
    };
    let mut trail = Trail::new(&client, query);
    let mut records = Vec::new();
    while let Some(page) = trail.next().await? {
        records.extend(page.records);
    }
    let (inbound, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_inbound);
    if inbound.is_empty() {
        return Err(Failure::Problems(match others.is_empty() {
            true => "no such record; it may not have arrived yet, or be of another mesh".to_owned(),
            false => "only the caller's proxy recorded it: it never reached the proxy that decides"
                .to_owned(),
        }));
    }
    let mut denied = false;
    let mut answers = Vec::new();
    for record in &inbound {
        let (then, now) = explain(record, &mut policies);
        denied |= now.as_ref().is_some_and(|now| now.decision == Some(Verdict::Deny));
        match arguments.output.format {
            Format::Json => answers.push(as_json(record, then.as_ref(), now.as_ref())),
            Format::Table => print(record, then.as_ref(), now.as_ref())?,
        }
    }
    if arguments.output.format == Format::Json {
        output::json(&answers)?;
    }
    Ok(if denied && arguments.exit_code { Exit::Denied } else { Exit::Fine })
}

fn is_inbound(record: &Map<String, Value>) -> bool {
    text(record, "picket.direction") == "inbound"
}

/// Then and now; no now if no policy was, or would be, asked.
fn explain(record: &Map<String, Value>, policies: &mut Policies) -> (Option<Then>, Option<Now>) {
    let entry = match Entry::read(record) {
        Ok(entry) => entry,
        Err(Unread::BeforePolicies | Unread::Undecided | Unread::Unknown) => return (None, None),
    };
    let generation = policies.set.generation().to_string();
    let mut now = Now {
        decision: None,
        stage: None,
        policy: None,
        rule: None,
        file: None,
        line: None,
        reason: String::new(),
        code: None,
        nearest_miss: None,
        generation,
        unknown: Vec::new(),
    };
    match policies.decide(&entry) {
        Decided::Now(decision) => {
            let explanation = policies.explain(&entry, &decision);
            let by = decision.by.as_ref();
            now.decision = Some(decision.verdict);
            now.stage = Some(decision.stage.as_str());
            now.policy = by.map(|by| by.policy().to_owned());
            now.rule = by.and_then(PolicyRef::rule);
            now.file = by.map(|by| by.file().to_string());
            now.line = by.map(PolicyRef::line);
            now.code = Some(decision.code.as_str());
            now.reason = explanation.reason;
            now.nearest_miss = explanation.nearest_miss;
        }
        Decided::TokenRefused => {
            now.decision = Some(Verdict::Deny);
            now.stage = Some("request_authentication");
            now.reason = "the token is refused as it was: the token rules are the same".to_owned();
        }
        Decided::Unknown(names) => {
            now.unknown = names.into_iter().collect();
            let what = now.unknown.join(", ");
            now.reason = format!("it depends on what no record holds: {what}");
        }
    }
    (Some(entry.then), Some(now))
}

fn as_json(record: &Map<String, Value>, then: Option<&Then>, now: Option<&Now>) -> Value {
    let value = |name: &str| record.get(name).cloned().unwrap_or_default();
    json!({
        "time": value("time"),
        "trace_id": value("trace_id"),
        "span_id": value("span_id"),
        "decision_id": value("picket.decision.id"),
        "source": value("picket.source"),
        "destination": value("picket.destination"),
        "method": value("http.request.method"),
        "path": value("url.path"),
        "then": match then {
            Some(then) => json!(then),
            None => json!({
                "decision": value("picket.decision"),
                "stage": value("picket.decision.stage"),
                "reason": value("picket.decision.reason"),
                "generation": value("picket.policy.generation"),
            }),
        },
        "now": now,
    })
}

fn print(
    record: &Map<String, Value>,
    then: Option<&Then>,
    now: Option<&Now>,
) -> Result<(), Failure> {
    let what = match text(record, "http.request.method") {
        "" => "TCP".to_owned(),
        method => format!("{method} {}", text(record, "url.path")),
    };
    let source = Some(text(record, "picket.source")).filter(|id| !id.is_empty());
    output::line(&format!(
        "{}  {} → {}  {what}",
        seconds(text(record, "time")),
        short(source),
        short(Some(text(record, "picket.destination")))
    ))?;
    let Some(then) = then else {
        output::line(&format!(
            "  then  {}  {}: {}",
            text(record, "picket.decision").to_uppercase(),
            text(record, "picket.decision.stage"),
            text(record, "picket.decision.reason")
        ))?;
        return output::line(
            "  now   the same: it was refused, or given up, before any policy was asked",
        );
    };
    let place = match (&then.policy, then.rule, &then.source) {
        (Some(policy), Some(rule), Some(source)) => format!("  {policy} rule[{rule}]   {source}"),
        (Some(policy), None, Some(source)) => format!("  {policy}   {source}"),
        _ => String::new(),
    };
    let word = then.decision.as_str().to_uppercase();
    let generation = then.generation.as_deref().unwrap_or("none");
    output::line(&format!(
        "  then  {word}  {}: {}{place}   (generation {generation})",
        then.stage, then.reason
    ))?;
    if let Some(miss) = &then.nearest_miss {
        output::line(&format!("          nearest miss: {miss}"))?;
    }
    let Some(now) = now else { return Ok(()) };
    let generation = &now.generation;
    let word = now.decision.map_or("cannot be told", Verdict::as_str).to_uppercase();
    let stage = now.stage.map(|stage| format!("{stage}: ")).unwrap_or_default();
    output::line(&format!("  now   {word}  {stage}{}   (generation {generation})", now.reason))?;
    if let Some(miss) = &now.nearest_miss {
        let failed: Vec<&str> = miss.failed.iter().map(|failed| failed.field.as_str()).collect();
        output::line(&format!(
            "          nearest miss: {} rule[{}]   {}:{} but for {}",
            miss.policy,
            miss.rule,
            miss.file,
            miss.line,
            failed.join(", ")
        ))?;
    }
    Ok(())
}

fn text<'r>(record: &'r Map<String, Value>, name: &str) -> &'r str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}
