//! Records as comma-separated values (RFC 4180), with a head and always the same columns.

use serde_json::{Map, Value};

/// The columns: their names, and the keys of the record.
const COLUMNS: [(&str, &str); 21] = [
    ("time", "time"),
    ("id", "id"),
    ("kind", "picket.kind"),
    ("event", "picket.event"),
    ("direction", "picket.direction"),
    ("emitter", "picket.emitter"),
    ("source", "picket.source"),
    ("destination", "picket.destination"),
    ("method", "http.request.method"),
    ("path", "url.path"),
    ("route", "http.route"),
    ("status", "http.response.status_code"),
    ("decision", "picket.decision"),
    ("reason", "picket.decision.reason"),
    ("policy", "picket.policy"),
    ("rule", "picket.policy.rule"),
    ("dry_run", "picket.dry_run"),
    ("ending", "picket.ending"),
    ("duration_us", "duration_us"),
    ("trace", "trace_id"),
    ("span", "span_id"),
];

pub(super) fn head() -> String {
    line(COLUMNS.iter().map(|(name, _)| (*name).to_owned()))
}

pub(super) fn row(record: &Map<String, Value>) -> String {
    line(COLUMNS.iter().map(|(_, key)| record.get(*key).map(text).unwrap_or_default()))
}

/// One line, without its end.
pub(super) fn line(cells: impl Iterator<Item = String>) -> String {
    cells.map(|cell| quoted(&cell)).collect::<Vec<_>>().join(",")
}

/// A value without JSON's quotes; the elements of a list stand with spaces between them.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_every_column_and_quotes_what_it_must() {
        let record = serde_json::json!({
            "url.path": "/a,\"b\"", "http.response.status_code": 403, "picket.dry_run": ["a/b=deny", "a/c=deny"]
        });
        let Value::Object(record) = record else { unreachable!() };
        let row = row(&record);
        assert!(row.contains(",\"/a,\"\"b\"\"\",,403,"), "{row}");
        assert!(row.contains(",a/b=deny a/c=deny,"), "{row}");
        let without = |text: &str| text.replace("\"/a,\"\"b\"\"\"", "").matches(',').count();
        assert_eq!(without(&row), head().matches(',').count());
    }
}
