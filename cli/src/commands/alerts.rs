//! `picket alerts`: what was found, who is told, and how that goes.

use picket_control::operator::{
    AcknowledgeAlert, AlertPage, AlertQuery, AlertSilence, AlertSilences, AlertSinks, AlertState,
    AlertStatus, DetectionRules, SilenceAlerts, TestAlerts,
};

use picket_detect::Anomaly;

use crate::args::{AlertsCommand, AlertsListArguments, ControlArguments, Format};
use crate::client::Client;
use crate::commands::{asked_to_end, plain_id};
use crate::exit::{Exit, Failure};
use crate::output::{self, Colour, coloured};
use crate::recorded::{seconds, time, to_query};

const PATH: &str = "/api/v1/alerts";
const SILENCES: &str = "/api/v1/silences";
/// How long one question may wait for alerts: less than the client waits for an answer.
const WAIT: &str = "20s";

pub(crate) async fn run(
    command: AlertsCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    match command {
        AlertsCommand::List(arguments) => list(&client, &arguments).await,
        AlertsCommand::Show { id, output } => {
            let alert: AlertStatus =
                client.get(&format!("{PATH}/{}", plain_id(&id, "an alert")?)).await?;
            show(&alert, output.format)
        }
        AlertsCommand::Ack { id, note, again, output } => {
            let path = format!("{PATH}/{}/acknowledge", plain_id(&id, "an alert")?);
            let alert: AlertStatus = client.post(&path, &AcknowledgeAlert { note, again }).await?;
            show(&alert, output.format)
        }
        AlertsCommand::Silence { rule, severity, fields, length, reason, output } => {
            let split = |text: &String| {
                let (name, pattern) = text.split_once('=').ok_or_else(|| {
                    let words = "write FIELD=PATTERN, such as picket.source=*/sa/web";
                    Failure::Usage(format!("--field {text:?}: {words}"))
                })?;
                Ok((name.to_owned(), pattern.to_owned()))
            };
            let fields = fields.iter().map(split).collect::<Result<_, Failure>>()?;
            let severity = severity.map(|severity| severity.as_str().to_owned());
            let wanted = SilenceAlerts { rule, severity, fields, r#for: length, reason };
            print_silences(vec![client.post(SILENCES, &wanted).await?], output.format)
        }
        AlertsCommand::Unsilence { id, output } => {
            let path = format!("{SILENCES}/{}", plain_id(&id, "a silence")?);
            print_silences(vec![client.delete(&path).await?], output.format)
        }
        AlertsCommand::Silences { output } => {
            let found: AlertSilences = client.get(SILENCES).await?;
            print_silences(found.silences, output.format)
        }
        AlertsCommand::Sinks { output } => {
            let sinks: AlertSinks = client.get("/api/v1/sinks").await?;
            print_sinks(&sinks, output.format)?;
            Ok(Exit::Fine)
        }
        AlertsCommand::Test { sink, output } => {
            let sinks: AlertSinks =
                client.post(&format!("{PATH}/test"), &TestAlerts { sink }).await?;
            if output.format == Format::Json {
                output::json(&sinks)?;
            } else {
                let row = |sink: &picket_control::operator::AlertSink| {
                    let told = if sink.error.is_none() { "told" } else { "not told" };
                    let why = sink.error.clone().unwrap_or_else(|| "-".to_owned());
                    vec![sink.name.clone(), sink.kind.clone(), told.to_owned(), why]
                };
                let rows: Vec<_> = sinks.sinks.iter().map(row).collect();
                output::table(&["SINK", "KIND", "STATE", "WHY"], &rows)?;
            }
            let all = sinks.sinks.iter().all(|sink| sink.error.is_none());
            Ok(if all { Exit::Fine } else { Exit::Problems })
        }
        AlertsCommand::Rules { output } => {
            let rules: DetectionRules = client.get("/api/v1/rules").await?;
            print_rules(&rules, output.format)
        }
    }
}

async fn list(client: &Client, arguments: &AlertsListArguments) -> Result<Exit, Failure> {
    let mut query = AlertQuery {
        resolved: arguments.all.then_some(true),
        severity: arguments.severity.map(|severity| severity.as_str().to_owned()),
        rule: arguments.rule.clone(),
        since: time(arguments.since.as_deref(), "--since")?,
        until: time(arguments.until.as_deref(), "--until")?,
        state: arguments.state.map(|state| state.as_str().to_owned()),
        ..AlertQuery::default()
    };
    let mut page = ask(client, &query).await?;
    let format = arguments.output.format;
    if !arguments.follow {
        if format == Format::Json {
            output::json(&page)?;
        } else {
            let rows: Vec<_> = page.alerts.iter().map(row).collect();
            output::table(&HEAD, &rows)?;
        }
        return Ok(Exit::Fine);
    }
    let follow = async {
        query.wait = Some(WAIT.to_owned());
        loop {
            for alert in &page.alerts {
                match format {
                    Format::Json => {
                        let text = serde_json::to_string(alert);
                        output::line(&text.map_err(|error| Failure::of(&error))?)?;
                    }
                    Format::Table => output::line(&line(alert))?,
                }
            }
            query.after = Some(page.next);
            page = client.get_or_wait(&format!("{PATH}?{}", to_query(&query)?)).await?;
        }
    };
    tokio::select! {
        ended = follow => ended,
        () = asked_to_end() => Ok(Exit::Fine),
    }
}

async fn ask(client: &Client, query: &AlertQuery) -> Result<AlertPage, Failure> {
    Ok(client.get(&format!("{PATH}?{}", to_query(query)?)).await?)
}

const HEAD: [&str; 7] = ["ID", "FIRST", "LEVEL", "STATE", "EPISODE", "COUNT", "WHAT"];

fn row(status: &AlertStatus) -> Vec<String> {
    let alert = &status.alert;
    vec![
        alert.id.clone(),
        seconds(&alert.first),
        alert.severity.as_str().to_owned(),
        state(status.state).to_owned(),
        status.episode.to_string(),
        alert.count.to_string(),
        what(status),
    ]
}

fn state(state: AlertState) -> &'static str {
    match state {
        AlertState::Firing => "firing",
        AlertState::Acknowledged => "acknowledged",
        AlertState::Silenced => "silenced",
        AlertState::Flapping => "flapping",
        AlertState::Digest => "digest",
        AlertState::Resolved => "resolved",
    }
}

/// The title, and whom it is about.
fn what(status: &AlertStatus) -> String {
    let alert = &status.alert;
    let group = alert.group.iter().map(|(name, value)| format!("{name}={}", value.escape_debug()));
    let group: Vec<String> = group.collect();
    match group.is_empty() {
        true => alert.title.clone(),
        false => format!("{}: {}", alert.title, group.join(" ")),
    }
}

/// As it is told to somebody who watches.
pub(crate) fn line(status: &AlertStatus) -> String {
    let alert = &status.alert;
    let level = coloured(&alert.severity.as_str().to_uppercase(), Colour::Red);
    format!("{}  {level}  {}  ({})", seconds(&alert.first), what(status), alert.id)
}

fn show(status: &AlertStatus, format: Format) -> Result<Exit, Failure> {
    if format == Format::Json {
        output::json(status)?;
        return Ok(Exit::Fine);
    }
    let alert = &status.alert;
    output::line(&format!("{}  {}", alert.severity.as_str().to_uppercase(), what(status)))?;
    let (expected, observed) = alert.anomaly.as_ref().map(Anomaly::in_words).unwrap_or_default();
    let mut facts = vec![
        ("rule", alert.rule.clone()),
        ("expected", expected),
        ("observed", observed),
        ("state", state(status.state).to_owned()),
        ("episode", status.episode.to_string()),
        ("flapping", status.flapping_since.clone().unwrap_or_default()),
        ("first", alert.first.clone()),
        ("last", alert.last.clone()),
        ("count", alert.count.to_string()),
        ("tags", alert.tags.join(" ")),
        ("controls", alert.controls.join(", ")),
        ("raised", status.raised_at.clone()),
        ("resolved", status.resolved_at.clone().unwrap_or_default()),
        ("policies", status.generation.clone().unwrap_or_default()),
        ("seen to by", status.acknowledged_by.clone().unwrap_or_default()),
        ("note", status.note.clone().unwrap_or_default()),
        ("silence", status.silenced_by.clone().unwrap_or_default()),
    ];
    facts.extend(status.traces.iter().map(|trace| ("trace", trace.clone())));
    facts.extend(alert.records.iter().map(|record| ("record", record.clone())));
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        output::line(&format!("  {name:<10}  {}", value.escape_debug()))?;
    }
    if let Some(trace) = status.traces.first() {
        output::line(&format!("  look at it: picket authz explain --trace {trace}"))?;
    }
    if let Some(record) = alert.records.first() {
        output::line(&format!("  prove it:   picket audit prove {record}"))?;
    }
    Ok(Exit::Fine)
}

fn print_silences(silences: Vec<AlertSilence>, format: Format) -> Result<Exit, Failure> {
    if format == Format::Json {
        output::json(&AlertSilences { silences })?;
        return Ok(Exit::Fine);
    }
    let rows = silences.into_iter().map(|silence| {
        let fields = silence.fields.iter().map(|(name, pattern)| format!("{name}={pattern}"));
        let rule = silence.rule.iter().map(|rule| format!("rule={rule}"));
        let severity = silence.severity.iter().map(|severity| format!("severity={severity}"));
        let what: Vec<String> = rule.chain(severity).chain(fields).collect();
        vec![silence.id, what.join(" "), seconds(&silence.until), silence.author, silence.reason]
    });
    output::table(&["ID", "ALERTS", "UNTIL", "BY", "REASON"], &rows.collect::<Vec<_>>())?;
    Ok(Exit::Fine)
}

fn print_sinks(sinks: &AlertSinks, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(sinks);
    }
    let dash = || "-".to_owned();
    let rows = sinks.sinks.iter().map(|sink| {
        vec![
            sink.name.clone(),
            sink.kind.clone(),
            sink.pending.to_string(),
            sink.delivered.to_string(),
            sink.given_up.to_string(),
            sink.last_delivered_at.as_deref().map_or_else(dash, seconds),
            sink.error.clone().unwrap_or_else(dash),
        ]
    });
    let head = ["SINK", "KIND", "PENDING", "DELIVERED", "GIVEN UP", "LAST", "ERROR"];
    output::table(&head, &rows.collect::<Vec<_>>())
}

fn print_rules(rules: &DetectionRules, format: Format) -> Result<Exit, Failure> {
    if format == Format::Json {
        output::json(rules)?;
        return Ok(Exit::Fine);
    }
    let rows = rules.rules.iter().map(|rule| {
        let level = if rule.alerts { rule.level.as_str() } else { "-" };
        let counts = [rule.matched, rule.missing, rule.late, rule.evicted];
        let mut row = vec![level.to_owned(), rule.title.clone(), rule.place.clone()];
        row.extend(counts.iter().map(ToString::to_string));
        let budget = rule.budget.clone().unwrap_or_else(|| "-".to_owned());
        row.push(match &rule.demoted_since {
            Some(since) => format!("{budget}, digest since {}", seconds(since)),
            None => budget,
        });
        row
    });
    let head = ["LEVEL", "TITLE", "PLACE", "MATCHED", "MISSING", "LATE", "EVICTED", "BUDGET"];
    output::table(&head, &rows.collect::<Vec<_>>())?;
    for (rule, words) in rules.rules.iter().filter_map(|r| Some((r, r.warning.as_ref()?))) {
        eprintln!("{} ({}): {words}", rule.title, rule.place);
    }
    if rules.refused {
        eprintln!("the directory of rules is refused; these are at work instead");
    }
    match rules.behind {
        Some(behind) => eprintln!("{behind} records wait to be looked at"),
        None => eprintln!("the stream is not watched: detection.enabled is false"),
    }
    Ok(Exit::Fine)
}
