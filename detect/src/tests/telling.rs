//! Who is told of a rule's alerts, and what they are evidence for.

use super::*;

fn with(settings: &str) -> Document {
    rule(1, &format!("{DENIED}x-picket: {{{settings}}}\n"))
}

#[test]
fn an_alert_carries_the_controls_of_its_rule() {
    let rules =
        "controls: [PCI-DSS 10.2.1, 'SOC2 CC7.2', 'NIST SP 800-53 AU-6(1)'], notify: [pager, log]";
    let set = set(&[with(rules)]);
    let summary = &set.summaries()[0];
    assert_eq!(summary.notify, ["pager", "log"]);
    let alerts = run(&set, &[denied(0, "a", "x")]);
    let controls = ["PCI-DSS 10.2.1", "SOC2 CC7.2", "NIST SP 800-53 AU-6(1)"];
    assert_eq!(alerts[0].controls, controls);
    assert_eq!(summary.controls, controls);
    let shown = serde_json::to_value(&alerts[0]).unwrap();
    assert_eq!(shown["controls"][1], "SOC2 CC7.2");
    // One by itself needs no list; without any nothing is shown.
    let one = super::set(&[with("controls: SOC2 CC7.2, notify: pager")]);
    assert_eq!(one.summaries()[0].controls, ["SOC2 CC7.2"]);
    let none = run(&super::set(&[with("suppression: 5m")]), &[denied(0, "a", "x")]);
    assert!(serde_json::to_value(&none[0]).unwrap().get("controls").is_none());
}

#[test]
fn what_nobody_could_be_told_by_is_refused() {
    let refused = |settings: &str, words: &str| {
        let wrong = RuleSet::parse(&[with(settings)]).expect_err(settings).to_string();
        assert!(wrong.contains(words), "{settings}\n{wrong}");
    };
    refused("notify: []", "[R0401]: `notify` is empty");
    refused("notify: []", "make a silence");
    refused("notify: [a, 'b c']", "\"b c\" cannot be the name of a sink");
    refused("notify: [a, a]", "named twice");
    refused("controls: []", "`controls` is empty");
    refused("controls: ['a  b']", "cannot be the name of a control");
    refused("controls: [\"a\\u202eb\"]", "cannot be the name of a control");
    refused(&format!("controls: [{}]", "x".repeat(65)), "cannot be the name of a control");
    let many: Vec<String> = (0..17).map(|number| format!("C{number}")).collect();
    refused(&format!("controls: [{}]", many.join(", ")), "17 entries; at most 16");
    refused("budget: 10", "must be a string");
    for budget in ["/1d", "0/1d", "+1/1d", "10/1y", "10/59s", "10/32d", "100001/1d", "1/1/1d"] {
        refused(&format!("budget: {budget}"), &format!("{budget:?} is no budget"));
    }
}

#[test]
fn a_budget_is_shown_in_the_largest_unit_that_fits() {
    let all = [("1/60s", "1/1m"), ("3/90s", "3/90s"), ("10/36h", "10/36h"), ("7/168h", "7/7d")];
    for (text, shown) in all {
        let set = set(&[with(&format!("budget: {text}"))]);
        assert_eq!(serde_json::to_value(&set.summaries()[0]).unwrap()["budget"], shown);
    }
}
