//! `picket profile` and `picket anomalies`: what is usual, and what was not.

use picket_control::operator::{AlertPage, AlertQuery, ProfileList, ProfileQuery};
use picket_detect::{Readiness, ShownEdge, ShownItem, ShownProfile};

use crate::args::{AnomaliesArguments, ControlArguments, Format, ProfileCommand};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{self, counted};
use crate::recorded::{seconds, time, to_query};

const PATH: &str = "/api/v1/profiles";

pub(crate) async fn run(
    command: ProfileCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    match command {
        ProfileCommand::List { output } => {
            let list: ProfileList = client.get(PATH).await?;
            if output.format == Format::Json {
                output::json(&list)?;
                return Ok(Exit::Fine);
            }
            for service in &list.services {
                output::line(&service.escape_debug().to_string())?;
            }
            output::line(&format!(
                "{}, {}, {}, {} without room",
                counted(list.services.len(), "service"),
                counted(list.edges, "edge"),
                counted(list.callers, "caller"),
                list.without_room,
            ))?;
        }
        ProfileCommand::Show { workload, output } => {
            let query = to_query(&ProfileQuery { id: workload })?;
            let profile: ShownProfile = client.get(&format!("{PATH}/workload?{query}")).await?;
            match output.format {
                Format::Json => output::json(&profile)?,
                Format::Table => show(&profile)?,
            }
        }
    }
    Ok(Exit::Fine)
}

fn show(profile: &ShownProfile) -> Result<(), Failure> {
    output::line(&profile.service.escape_debug().to_string())?;
    let versions: Vec<&str> = profile.versions.iter().map(|v| v.name.as_str()).collect();
    let facts = [
        ("versions", versions.join(" ")),
        ("callers", readiness(profile.callers.len(), &profile.callers_ready)),
        ("principals", readiness(profile.principals.0, &profile.principals.1)),
        ("denied", profile.denied.to_string()),
        ("without room", profile.without_room.to_string()),
    ];
    for (name, value) in facts {
        output::line(&format!("  {name:<12}  {}", value.escape_debug()))?;
    }
    for edge in &profile.edges {
        show_edge(edge)?;
    }
    Ok(())
}

fn show_edge(edge: &ShownEdge) -> Result<(), Failure> {
    let name = if edge.source == "*" { "all callers together" } else { &edge.source };
    output::line(&format!("\n{}", name.escape_debug()))?;
    let (weekdays, weekends) = edge.requests.split_at(edge.requests.len() / 2);
    let hours = |hours: &[Option<f32>]| {
        let rate = |rate: &Option<f32>| rate.map_or_else(|| "-".to_owned(), |r| format!("{r:.1}"));
        hours.iter().map(rate).collect::<Vec<_>>().join(" ")
    };
    let three = |of: Option<[f64; 3]>| {
        of.map_or_else(String::new, |[a, b, c]| format!("{a:.0} {b:.0} {c:.0}"))
    };
    let ready = if edge.requests_ready { "changes are told" } else { "still learning" };
    let mut facts = vec![
        ("requests", format!("in five minutes, by the hour of the day (UTC); {ready}")),
        ("  Mon to Fri", hours(weekdays)),
        ("  Sat, Sun", hours(weekends)),
        ("latency", three(edge.latency_us)),
        ("responses", three(edge.response_bytes)),
        ("request size", three(edge.request_bytes)),
    ];
    if edge.source != "*" {
        facts.push(("calls", readiness(edge.calls.len(), &edge.calls_ready)));
    }
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let unit = match *name {
            "latency" => "us (median, 95 %, 99 %)",
            "responses" | "request size" => "bytes (median, 95 %, 99 %)",
            _ => "",
        };
        output::line(format!("  {name:<12}  {value} {unit}").trim_end())?;
    }
    let call = |item: &ShownItem| {
        let new = if item.is_new { "  new" } else { "" };
        format!(
            "    {}  in {}{new}",
            item.name.escape_debug(),
            counted(item.hours as usize, "hour")
        )
    };
    edge.calls.iter().try_for_each(|item| output::line(&call(item)))
}

/// How many are known, and whether others would be told.
fn readiness(known: usize, ready: &Readiness) -> String {
    let state = if ready.ready { "new ones are told" } else { "still learning" };
    format!(
        "{known} in {}; {state}: the next sighting is new with a probability of {:.2} %",
        counted(ready.hours as usize, "hour"),
        ready.unseen * 100.0
    )
}

pub(crate) async fn anomalies(
    arguments: AnomaliesArguments,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    let query = AlertQuery {
        resolved: arguments.all.then_some(true),
        anomalies: Some(true),
        since: time(arguments.since.as_deref(), "--since")?,
        ..AlertQuery::default()
    };
    let page: AlertPage = client.get(&format!("/api/v1/alerts?{}", to_query(&query)?)).await?;
    if arguments.output.format == Format::Json {
        output::json(&page)?;
        return Ok(Exit::Fine);
    }
    let rows = page.alerts.iter().map(|status| {
        let alert = &status.alert;
        let of = |name: &str| {
            let value = alert.group.get(name).map_or("*", String::as_str);
            value.escape_debug().to_string()
        };
        let (expected, observed) = match &alert.anomaly {
            Some(anomaly) => anomaly.in_words(),
            None => Default::default(),
        };
        vec![
            alert.id.clone(),
            seconds(&alert.first),
            alert.title.clone(),
            of("picket.source"),
            of("picket.destination"),
            expected.escape_debug().to_string(),
            observed.escape_debug().to_string(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    output::table(
        &["ID", "FIRST", "WHAT", "SOURCE", "DESTINATION", "EXPECTED", "OBSERVED"],
        &rows,
    )?;
    Ok(Exit::Fine)
}
