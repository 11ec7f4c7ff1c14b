//! `picket tap`: requests of the whole mesh as they happen, through the audit trail.

use picket_control::operator::{AuditQuery, Status};
use serde_json::{Map, Value};

use super::audit::{plain, who, why};
use crate::args::{ControlArguments, TapArguments, TapFormat, TapVerdict};
use crate::client::Client;
use crate::commands::asked_to_end;
use crate::exit::{Exit, Failure};
use crate::output::{self, Colour};
use crate::recorded::{Following, latest};

/// The callee's records, and the caller's of what never got there.
const REQUESTS: &str =
    "kind = request and (direction = inbound or decision = deny or error.type ~ \"upstream_*\")";

pub(crate) async fn run(
    arguments: TapArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    for (option, name) in [("--from", &arguments.from), ("--to", &arguments.to)] {
        if let Some(name) = name {
            known(&client, option, name).await?;
        }
    }
    let query = AuditQuery {
        q: Some(filter(&arguments)),
        source: arguments.from.clone(),
        destination: arguments.to.clone(),
        ..AuditQuery::default()
    };
    let tap = async {
        let mut following = Following::new(&client, query);
        loop {
            for record in following.next().await? {
                match arguments.output {
                    TapFormat::Text => output::line(&line(&record))?,
                    TapFormat::Jsonl => {
                        let text = serde_json::to_string(&record);
                        output::line(&text.map_err(|error| Failure::of(&error))?)?;
                    }
                }
            }
        }
    };
    tokio::select! {
        ended = tap => ended,
        () = asked_to_end() => Ok(Exit::Fine),
    }
}

fn filter(arguments: &TapArguments) -> String {
    let mut filter = REQUESTS.to_owned();
    filter.push_str(match arguments.verdict {
        None => "",
        Some(TapVerdict::Allow) => " and decision = allow",
        Some(TapVerdict::Deny) => " and decision = deny",
        Some(TapVerdict::DryRun) => " and dry_run = true",
        Some(TapVerdict::Error) => " and (status >= 500 or has error.type) and decision != deny",
    });
    if let Some(path) = &arguments.path {
        filter.push_str(&format!(" and path ~ \"{}\"", path.replace('"', "\\\"")));
    }
    if let Some(more) = &arguments.filter {
        filter = format!("({more}) and ({filter})");
    }
    filter
}

/// Fails if nobody in the mesh has this name, and nobody ever had.
async fn known(client: &Client, option: &str, name: &str) -> Result<(), Failure> {
    let status: Status = client.get("/api/v1/status").await?;
    let is_it = |proxy: &&picket_control::operator::ProxyStatus| {
        proxy.workload == name || proxy.spiffe_id == name
    };
    if status.proxies.iter().any(|proxy| is_it(&proxy)) {
        return Ok(());
    }
    let query = AuditQuery {
        q: Some(format!("source = \"{name}\" or destination = \"{name}\" or emitter = \"{name}\"")),
        ..AuditQuery::default()
    };
    if !latest(client, &query, 1).await?.records.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = status.proxies.iter().map(|proxy| proxy.workload.as_str()).collect();
    let near = picket_policy::closest(name, &names);
    Err(Failure::Usage(match near {
        Some(near) => format!("{option}: there is no workload {name}; did you mean {near}?"),
        None => format!("{option}: there is no workload {name}; see picket status"),
    }))
}

fn line(record: &Map<String, Value>) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_i64);
    let status = number("http.response.status_code");
    let has_failed = record.contains_key("error.type") || status.is_some_and(|code| code >= 500);
    let (verdict, colour) = match text("picket.decision") {
        "deny" => ("deny", Colour::Red),
        _ if has_failed => ("error", Colour::Red),
        _ if record.contains_key("picket.dry_run") => ("dry-run", Colour::Yellow),
        "allow" => ("allow", Colour::Green),
        _ => ("none", Colour::Yellow),
    };
    let clock = text("time").get(11..23).unwrap_or_default().to_owned();
    let milliseconds = number("duration_us").unwrap_or_default() as f64 / 1000.0;
    let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let what = plain(&format!("{} {}", text("http.request.method"), text("url.path")));
    let mut why = why(record);
    if let Some(Value::Array(dry_run)) = record.get("picket.dry_run") {
        let hits: Vec<&str> = dry_run.iter().filter_map(Value::as_str).collect();
        why.push_str(&format!(" (dry run: {})", plain(&hits.join(" "))));
    }
    if verdict == "error" {
        why.push_str(&format!(" ({})", plain(text("error.type"))));
    }
    let verdict = output::coloured(&format!("{verdict:<7}"), colour);
    let (source, destination) = (who(record, "picket.source"), who(record, "picket.destination"));
    format!(
        "{clock} {verdict} {what}  {source} -> {destination}  {status}  {milliseconds:.1} ms  {why}"
    )
    .trim_end()
    .to_owned()
}
