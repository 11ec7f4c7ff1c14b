//! `picket audit search --group-by`

use picket_control::operator::{AuditGroup, AuditGroups, AuditQuery};
use serde_json::Value;

use super::csv;
use super::print::plain;
use crate::args::{SearchArguments, SearchFormat};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::{encoded, short};

const PATH: &str = "/api/v1/audit/groups";
const MAX_PAGE: u32 = 10_000;

pub(super) async fn run(
    client: &Client,
    query: AuditQuery,
    by: &str,
    arguments: &SearchArguments,
) -> Result<Exit, Failure> {
    if matches!(arguments.output, SearchFormat::Jsonl | SearchFormat::Ocsf) {
        return Err(Failure::Usage("groups are printed as table, json or csv".to_owned()));
    }
    let limit = arguments.limit.unwrap_or(u32::MAX);
    let mut query =
        AuditQuery { by: Some(by.to_owned()), limit: Some(limit.min(MAX_PAGE)), ..query };
    let mut all: AuditGroups = client.get(&format!("{PATH}?{}", encoded(&query)?)).await?;
    while all.more && all.groups.len() < limit as usize {
        query.after = Some(all.next.clone());
        let page: AuditGroups = client.get(&format!("{PATH}?{}", encoded(&query)?)).await?;
        all.groups.extend(page.groups);
        (all.next, all.more) = (page.next, page.more);
    }
    match arguments.output {
        SearchFormat::Json => output::json(&all)?,
        SearchFormat::Csv => {
            let head = all.by.iter().cloned();
            let counts = ["records", "first", "last", "p50_us", "p95_us"].map(str::to_owned);
            output::line(&csv::line(head.chain(counts)))?;
            for group in &all.groups {
                let key = all.by.iter().map(|name| group.key.get(name).map(csv::text));
                let cells = key.map(Option::unwrap_or_default).chain([
                    group.records.to_string(),
                    group.first.clone(),
                    group.last.clone(),
                    group.p50_us.to_string(),
                    group.p95_us.to_string(),
                ]);
                output::line(&csv::line(cells))?;
            }
        }
        _ => {
            let names: Vec<String> = all.by.iter().map(|name| name.to_uppercase()).collect();
            let counts = ["RECORDS", "FIRST", "LAST", "P50 MS", "P95 MS"];
            let head: Vec<&str> = names.iter().map(String::as_str).chain(counts).collect();
            let rows: Vec<_> = all.groups.iter().map(|group| row(group, &all.by)).collect();
            output::table(&head, &rows)?;
            let groups = usize::try_from(all.total).unwrap_or(usize::MAX);
            let records = usize::try_from(all.records).unwrap_or(usize::MAX);
            let records = output::counted(records, "record");
            eprintln!("{} of {records}", output::counted(groups, "group"));
        }
    }
    Ok(Exit::Fine)
}

fn row(group: &AuditGroup, by: &[String]) -> Vec<String> {
    let cell = |name: &String| match group.key.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => plain(&short(Some(text))),
        Some(other) => other.to_string(),
    };
    let seconds = |time: &str| time.get(..19).unwrap_or(time).to_owned();
    let milliseconds = |us: u64| format!("{:.1}", us as f64 / 1000.0);
    let mut cells: Vec<String> = by.iter().map(cell).collect();
    cells.extend([
        group.records.to_string(),
        seconds(&group.first),
        seconds(&group.last),
        milliseconds(group.p50_us),
        milliseconds(group.p95_us),
    ]);
    cells
}
