//! `picket audit`

use picket_control::operator::{AuditQuery, HashSubject, SubjectHashes};
use serde_json::{Map, Value};

use crate::args::{
    AuditCommand, ControlArguments, Format, SearchArguments, SearchFormat, SubjectHashArguments,
};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::{PAGE, Trail, short, time};

pub(crate) async fn run(
    command: AuditCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let arguments = match command {
        AuditCommand::Search(arguments) => arguments,
        AuditCommand::SubjectHash(arguments) => return subject_hash(arguments, control).await,
    };
    let client = Client::new(control)?;
    let mut query = query(&arguments)?;
    if let Some(limit) = arguments.limit {
        query.limit = Some(limit.min(PAGE));
        query.latest = Some(true);
    }
    let mut trail = Trail::new(&client, query);
    let mut printer = Printer::new(arguments.output);
    while let Some(page) = trail.next().await? {
        printer.page(&page.records)?;
    }
    printer.end()?;
    Ok(Exit::Fine)
}

async fn subject_hash(
    arguments: SubjectHashArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let SubjectHashArguments { subject, output } = arguments;
    let client = Client::new(control)?;
    let found: SubjectHashes =
        client.post("/api/v1/subject-hashes", &HashSubject { subject }).await?;
    if output.format == Format::Json {
        output::json(&found)?;
        return Ok(Exit::Fine);
    }
    let rows: Vec<Vec<String>> = found
        .hashes
        .into_iter()
        .map(|hash| vec![hash.key, hash.since, dash(&hash.until.unwrap_or_default()), hash.hash])
        .collect();
    output::table(&["KEY", "SINCE", "UNTIL", "HASH"], &rows)?;
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
    let who = |name: &str| {
        Some(text(name)).filter(|id| !id.is_empty()).map_or(dash(""), |id| short(Some(id)))
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
