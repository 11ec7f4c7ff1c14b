//! `picket audit`

use picket_control::operator::{AuditPage, AuditQuery};
use serde_json::{Map, Value};

use crate::args::{AuditCommand, ControlArguments, SearchArguments, SearchFormat};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;

const PATH: &str = "/api/v1/audit/records";
/// Records of one page.
const PAGE: u32 = 5000;

pub(crate) async fn run(
    command: AuditCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let AuditCommand::Search(arguments) = command;
    let client = Client::new(control)?;
    let mut query = query(&arguments)?;
    if let Some(limit) = arguments.limit {
        query.limit = Some(limit.min(PAGE));
        query.latest = Some(true);
    } else {
        query.limit = Some(PAGE);
    }
    let mut printer = Printer::new(arguments.output);
    loop {
        let page: AuditPage = client.get(&format!("{PATH}?{}", encoded(&query)?)).await?;
        printer.page(&page.records)?;
        if !page.more || arguments.limit.is_some() {
            break;
        }
        query.after = Some(page.next);
    }
    printer.end()?;
    Ok(Exit::Fine)
}

fn query(arguments: &SearchArguments) -> Result<AuditQuery, Failure> {
    Ok(AuditQuery {
        since: time(arguments.since.as_deref(), "--since")?,
        until: time(arguments.until.as_deref(), "--until")?,
        id: arguments.id.clone(),
        trace: arguments.trace.clone(),
        decision_id: arguments.decision_id.clone(),
        source: arguments.source.clone(),
        destination: arguments.destination.clone(),
        emitter: arguments.emitter.clone(),
        method: arguments.method.clone(),
        path: arguments.path.clone(),
        status: arguments.status.clone(),
        decision: arguments.decision.clone(),
        policy: arguments.policy.clone(),
        reason: arguments.reason.clone(),
        kind: arguments.kind.clone(),
        event: arguments.event.clone(),
        direction: arguments.direction.clone(),
        ..AuditQuery::default()
    })
}

/// A time as it is asked for: RFC 3339, or so long ago.
fn time(text: Option<&str>, option: &str) -> Result<Option<String>, Failure> {
    let Some(text) = text else { return Ok(None) };
    if let Some(ago) = picket_settings::duration::parse(text) {
        let at = std::time::SystemTime::now().checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH);
        let at = jiff::Timestamp::try_from(at).map_err(|error| Failure::of(&error))?;
        return Ok(Some(at.to_string()));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(Some(text.to_owned())),
        Err(_) => Err(Failure::Usage(format!(
            "{option} {text:?} is neither a duration such as 90s or 24h nor a time such as \
             2026-01-31T12:00:00Z"
        ))),
    }
}

/// The query as it stands in a URL.
fn encoded(query: &AuditQuery) -> Result<String, Failure> {
    let value = serde_json::to_value(query).map_err(|error| Failure::of(&error))?;
    let pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={}", percent(text)),
            other => format!("{name}={other}"),
        })
        .collect();
    Ok(pairs.join("&"))
}

/// RFC 3986 section 2.1: everything but unreserved characters.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

type Record = Map<String, Value>;

/// Prints pages as they come, so that a long trail needs no memory.
struct Printer {
    format: SearchFormat,
    printed: usize,
}

impl Printer {
    fn new(format: SearchFormat) -> Self {
        Self { format, printed: 0 }
    }

    fn page(&mut self, records: &[Record]) -> Result<(), Failure> {
        match self.format {
            SearchFormat::Table => {
                let rows: Vec<Vec<String>> = records.iter().map(row).collect();
                if !rows.is_empty() || self.printed == 0 {
                    output::table(&HEAD, &rows)?;
                }
            }
            SearchFormat::Json | SearchFormat::Jsonl => {
                for record in records {
                    let text =
                        serde_json::to_string(record).map_err(|error| Failure::of(&error))?;
                    output::line(&match (self.format, self.printed) {
                        (SearchFormat::Jsonl, _) => text,
                        (_, 0) => format!("[{text}"),
                        _ => format!(",{text}"),
                    })?;
                    self.printed += 1;
                }
                return Ok(());
            }
        }
        self.printed += records.len();
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        match (self.format, self.printed) {
            (SearchFormat::Json, 0) => output::line("[]"),
            (SearchFormat::Json, _) => output::line("]"),
            (SearchFormat::Table, count) => {
                eprintln!("{}", output::counted(count, "record"));
                Ok(())
            }
            (SearchFormat::Jsonl, _) => Ok(()),
        }
    }
}

const HEAD: [&str; 9] =
    ["TIME", "DECISION", "SOURCE", "DESTINATION", "WHAT", "STATUS", "WHY", "MS", "TRACE"];

fn row(record: &Record) -> Vec<String> {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_i64);
    // spiffe://shop.example/ns/shop/sa/web is shop/web to people.
    let who = |name: &str| {
        let id = text(name);
        let parts = id.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/"));
        parts.map_or_else(|| dash(id), |(namespace, account)| format!("{namespace}/{account}"))
    };
    let is_event = text("picket.kind") == "event";
    let what = match text("picket.kind") {
        "event" => text("picket.event").to_owned(),
        "connection" => "connection".to_owned(),
        _ => format!("{} {}", text("http.request.method"), text("url.path")),
    };
    let why = match (text("picket.policy"), number("picket.policy.rule")) {
        ("", _) => text("picket.decision.reason").to_owned(),
        (policy, Some(rule)) => format!("{policy} rule[{rule}]"),
        (policy, None) => policy.to_owned(),
    };
    let time = text("time");
    let milliseconds = number("duration_us").unwrap_or_default() as f64 / 1000.0;
    vec![
        time.get(..23).unwrap_or(time).to_owned(),
        dash(if is_event { text("picket.outcome") } else { text("picket.decision") }),
        if is_event { dash(text("picket.actor")) } else { who("picket.source") },
        if is_event { dash(text("picket.subject")) } else { who("picket.destination") },
        what,
        number("http.response.status_code").map_or_else(|| "-".to_owned(), |s| s.to_string()),
        dash(&why),
        format!("{milliseconds:.1}"),
        text("trace_id").get(..8).unwrap_or_default().to_owned(),
    ]
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ago_or_exact() {
        let ago = time(Some("1h"), "--since").unwrap().unwrap();
        let at: jiff::Timestamp = ago.parse().unwrap();
        let seconds = jiff::Timestamp::now().as_second() - at.as_second();
        assert!((3599..=3601).contains(&seconds), "{seconds}");
        let exact = "2026-01-31T12:00:00Z";
        assert_eq!(time(Some(exact), "--since").unwrap().as_deref(), Some(exact));
        assert!(time(Some("yesterday"), "--since").is_err());
    }

    #[test]
    fn a_query_is_encoded() {
        let query = AuditQuery {
            source: Some("spiffe://a/b c".to_owned()),
            limit: Some(7),
            ..AuditQuery::default()
        };
        assert_eq!(encoded(&query).unwrap(), "limit=7&source=spiffe%3A%2F%2Fa%2Fb%20c");
    }
}
