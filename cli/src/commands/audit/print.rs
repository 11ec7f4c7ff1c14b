//! Records as they are printed: in columns, as JSON, CSV or OCSF events.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{csv, ocsf};
use crate::args::SearchFormat;
use crate::exit::Failure;
use crate::output;
use crate::recorded::short;

type Record = Map<String, Value>;

/// Prints pages as they come, so that a long trail needs no memory.
pub(super) struct Printer {
    format: SearchFormat,
    printed: usize,
}

impl Printer {
    pub(super) fn new(format: SearchFormat) -> Self {
        Self { format, printed: 0 }
    }

    pub(super) fn page(&mut self, records: &[Record]) -> Result<(), Failure> {
        if self.format == SearchFormat::Table {
            let rows: Vec<Vec<String>> = records.iter().map(row).collect();
            if !rows.is_empty() {
                output::table(&HEAD, &rows)?;
            }
            self.printed += rows.len();
            return Ok(());
        }
        for record in records {
            match (self.format, self.printed) {
                (SearchFormat::Csv, printed) => {
                    if printed == 0 {
                        output::line(&csv::head())?;
                    }
                    output::line(&csv::row(record))?;
                }
                (SearchFormat::Ocsf, _) => {
                    output::line(&json(&ocsf::event(record)?)?)?;
                }
                (SearchFormat::Json, 0) => output::line(&format!("[{}", json(record)?))?,
                (SearchFormat::Json, _) => output::line(&format!(",{}", json(record)?))?,
                _ => output::line(&json(record)?)?,
            }
            self.printed += 1;
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        match (self.format, self.printed) {
            (SearchFormat::Json, 0) => output::line("[]"),
            (SearchFormat::Json, _) => output::line("]"),
            (SearchFormat::Csv, 0) => output::line(&csv::head()),
            (SearchFormat::Table, count) => {
                if count == 0 {
                    output::table(&HEAD, &[])?;
                }
                eprintln!("{}", output::counted(count, "record"));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::of(&error))
}

const HEAD: [&str; 9] =
    ["TIME", "DECISION", "SOURCE", "DESTINATION", "WHAT", "STATUS", "WHY", "MS", "TRACE"];

fn row(record: &Record) -> Vec<String> {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_i64);
    let is_event = text("picket.kind") == "event";
    let what = match text("picket.kind") {
        "event" => text("picket.event").to_owned(),
        "connection" => "connection".to_owned(),
        _ => format!("{} {}", text("http.request.method"), text("url.path")),
    };
    let time = text("time");
    let milliseconds = number("duration_us").unwrap_or_default() as f64 / 1000.0;
    vec![
        time.get(..23).unwrap_or(time).to_owned(),
        dash(if is_event { text("picket.outcome") } else { text("picket.decision") }),
        if is_event { dash(text("picket.actor")) } else { who(record, "picket.source") },
        if is_event { dash(text("picket.subject")) } else { who(record, "picket.destination") },
        plain(&what),
        number("http.response.status_code").map_or_else(|| "-".to_owned(), |s| s.to_string()),
        dash(&why(record)),
        format!("{milliseconds:.1}"),
        text("trace_id").get(..8).unwrap_or_default().to_owned(),
    ]
}

/// A workload by its short name; `-` if there is none.
pub(crate) fn who(record: &Record, name: &str) -> String {
    let id = record.get(name).and_then(Value::as_str).filter(|id| !id.is_empty());
    id.map_or(dash(""), |id| plain(&short(Some(id))))
}

/// What decided: the rule, or the reason if there was none.
pub(crate) fn why(record: &Record) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let rule = record.get("picket.policy.rule").and_then(Value::as_i64);
    plain(&match (text("picket.policy"), rule) {
        ("", _) => text("picket.decision.reason").to_owned(),
        (policy, Some(rule)) => format!("{policy} rule[{rule}]"),
        (policy, None) => policy.to_owned(),
    })
}

/// A text for a terminal: what clients chose could hold its control characters.
pub(crate) fn plain(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_harmful) {
        return text.to_owned();
    }
    let escaped = |c: char| match is_harmful(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

pub(super) fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { plain(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_speak_to_the_terminal() {
        assert_eq!(plain("/a\u{1b}[2Jb\u{202e}c"), "/a\\u{1b}[2Jb\\u{202e}c");
        assert_eq!(plain("/grüße"), "/grüße");
    }
}
