//! What the comparison with another evaluator (`detect/differential`) found to be wrong here.

use super::*;

fn about(number: u8, source: &str, rest: &str) -> Document {
    let text = format!("{HEAD}{number}\nlogsource: {source}\n{rest}");
    Document::whole(format!("r{number}.yaml"), text)
}

#[test]
fn a_filter_leaves_rules_about_other_events_alone() {
    let requests = "{product: picket, category: request}";
    let connections = "{product: picket, category: connection}";
    let filter = |rules: &str, source: &str| {
        let known = "known: {picket.source: a}, condition: not known";
        about(2, source, &format!("filter: {{rules: {rules}, {known}}}\n"))
    };
    let mut event = denied(0, "a", "x");
    event["picket.kind"] = "request".into();
    for (source, alerts) in [(connections, 1), (requests, 0), ("{product: picket}", 0)] {
        let set = set(&[about(1, requests, DENIED), filter("any", source)]);
        assert_eq!(run(&set, std::slice::from_ref(&event)).len(), alerts, "{source}");
    }
    // Named, it would silently not be filtered.
    for source in [connections, "{product: picket, service: cart}"] {
        let wrong = RuleSet::parse(&[about(1, requests, DENIED), filter("[denied]", source)]);
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("r2.yaml:4:18: error[R0103]: `denied` is about other"), "{wrong}");
    }
}

#[test]
fn an_event_that_two_rules_match_is_counted_once() {
    let other = rule(2, "name: other\ndetection: {s: {picket.source: '*'}, condition: s}\n");
    let counted = |by: &str| {
        let text = format!(
            "name: counted\ncorrelation: {{type: event_count, rules: [denied, other], timespan: 1m{by}, \
            condition: {{gte: 2}}}}\n"
        );
        correlation(3, &text)
    };
    let twice = [denied(0, "a", "x"), denied(1, "a", "x")];
    let once = set(&[rule(1, DENIED), other.clone(), counted("")]);
    assert!(run(&once, &twice[..1]).is_empty());
    assert_eq!(run(&once, &twice).len(), 1);
    // Each rule may name another group for it.
    let by =
        ", group-by: [who], aliases: {who: {denied: picket.source, other: picket.destination}}";
    let groups = set(&[rule(1, DENIED), other, counted(by)]);
    assert_eq!(run(&groups, &twice).len(), 2);
}

#[test]
fn a_correlation_that_two_rules_complete_at_once_is_counted_once() {
    let other = rule(2, "name: other\ndetection: {s: {picket.source: '*'}, condition: s}\n");
    let both = "name: both\ncorrelation: {type: temporal, rules: [denied, other], timespan: 1m}\n";
    let count =
        "correlation: {type: event_count, rules: [both], timespan: 1m, condition: {gte: 3}}\n";
    let set = set(&[rule(1, DENIED), other, correlation(3, both), correlation(4, count)]);
    let events: Vec<Value> = (0..3).map(|second| denied(second, "a", "x")).collect();
    assert!(run(&set, &events[..2]).is_empty());
    assert_eq!(run(&set, &events).len(), 1);
}

#[test]
fn a_field_that_is_null_is_there_and_has_no_value() {
    let null = json!({"picket.policy": null});
    assert!(matches("{picket.policy|exists: true}", null.clone()));
    assert!(matches("{picket.policy: null}", null.clone()));
    assert!(!matches("{picket.policy|exists: false}", null));
}

#[test]
fn zero_has_no_sign() {
    assert!(matches("{picket.gap.count: 0}", json!({"picket.gap.count": -0.0})));
    assert!(matches("{picket.gap.count: -0.0}", json!({"picket.gap.count": 0})));
}

#[test]
fn all_of_a_single_value_is_refused() {
    let text = "detection: {s: {url.path|contains|all: [x]}, condition: s}\n";
    let wrong = RuleSet::parse(&[rule(1, text)]).unwrap_err().to_string();
    assert!(
        wrong.contains("[R0202]") && wrong.contains("`all` is about several values"),
        "{wrong}"
    );
}

#[test]
fn case_does_not_depend_on_where_a_letter_stands() {
    for (pattern, value) in
        [("*Σ", "zΣ"), ("ς*", "Σ"), ("ΟΔΟΣ", "οδος"), ("*σ", "ΟΔΟΣ"), ("ſ", "S")]
    {
        assert!(
            matches(&format!("{{url.path: '{pattern}'}}"), json!({"url.path": value})),
            "{pattern}"
        );
    }
    // One character for `?`, also where the whole lower case has two.
    assert!(matches("{url.path: '?x'}", json!({"url.path": "İX"})));
    assert!(matches("{url.path: 'stra?e'}", json!({"url.path": "STRAẞE"})));
    assert!(!matches("{url.path: admin}", json!({"url.path": "admın"})));
}
