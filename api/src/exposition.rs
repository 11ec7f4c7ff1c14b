//! Metrics in the form that whoever asks can read.
//!
//! They are written as OpenMetrics, and given so to whoever accepts that, as Prometheus does. Everybody else, such as
//! `promtool check metrics`, gets the text format that was before it: there the name of a counter's family has its `_total`,
//! and there are no units and no end.
//!
//! Specification: OpenMetrics 1.0, "Overall Structure" and "Counter"; Prometheus' text format 0.0.4.

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type and the text for whoever sends this `Accept`, from OpenMetrics text.
pub fn negotiate(accept: Option<&str>, open_metrics: String) -> (&'static str, String) {
    let is_accepted = accept.is_some_and(|accept| {
        accept.split(',').any(|range| range.trim().starts_with("application/openmetrics-text"))
    });
    match is_accepted {
        true => (OPEN_METRICS, open_metrics),
        false => (TEXT, plain(&open_metrics)),
    }
}

fn plain(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // Help comes before the type: it waits until it is known whose it is.
    let mut help = None;
    for line in open_metrics.lines() {
        let is_meta = |word| line.strip_prefix(word);
        if let Some(rest) = is_meta("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = is_meta("# TYPE ").and_then(|r| r.split_once(' ')) {
            let (total, kind) = match kind {
                "counter" => ("_total", kind),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, text)) = help.take() {
                out.push_str(&format!("# HELP {name}{total} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{total} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "# HELP a Things.\n# TYPE a counter\na_total{k=\"# x\"} 1\n\
                        # HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2.5\n# EOF\n";

    #[test]
    fn whoever_does_not_ask_for_openmetrics_gets_what_was_before_it() {
        let (kind, text) = negotiate(Some("text/html, */*"), BOTH.to_owned());
        assert_eq!(kind, TEXT);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{k=\"# x\"} 1\n\
                        # HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 2.5\n";
        assert_eq!(text, expected);
        assert_eq!(negotiate(None, BOTH.to_owned()).1, expected);
    }

    #[test]
    fn whoever_asks_for_openmetrics_gets_it() {
        // What Prometheus 2.42 sends.
        let accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(negotiate(Some(accept), BOTH.to_owned()), (OPEN_METRICS, BOTH.to_owned()));
    }
}
