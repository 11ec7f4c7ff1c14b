use serde_json::{Value, json};

use super::*;

mod against;
mod telling;

const HEAD: &str = "title: T\nid: 00000000-0000-4000-8000-00000000000";

fn rule(number: u8, rest: &str) -> Document {
    let text = format!("{HEAD}{number}\nlogsource: {{product: picket}}\n{rest}");
    Document::whole(format!("r{number}.yaml"), text)
}

fn correlation(number: u8, rest: &str) -> Document {
    Document::whole(format!("r{number}.yaml"), format!("{HEAD}{number}\n{rest}"))
}

fn set(documents: &[Document]) -> RuleSet {
    RuleSet::parse(documents).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// The record of second `time`.
fn record(time: i64, fields: Value) -> Value {
    let mut record = fields;
    let at = jiff::Timestamp::from_second(1_800_000_000 + time).unwrap();
    record["time"] = at.to_string().into();
    if record.get("id").is_none() {
        record["id"] = format!("{time}-{}", record.to_string().len()).into();
    }
    record
}

fn run(set: &RuleSet, records: &[Value]) -> Vec<Alert> {
    let mut engine = Engine::new(set);
    for record in records {
        engine.observe(&Event::read(record.as_object().unwrap()).unwrap());
    }
    engine.end()
}

/// Whether a detection matches a record.
fn matches(detection: &str, fields: Value) -> bool {
    let set = set(&[rule(1, &format!("detection:\n  s: {detection}\n  condition: s\n"))]);
    !run(&set, &[record(0, fields)]).is_empty()
}

#[test]
fn values_are_compared_as_sigma_says() {
    let fields = json!({"url.path": "/Admin/Keys", "http.response.status_code": 403,
        "network.peer.address": "10.1.2.3", "picket.source": "spiffe://a/b", "picket.actor": "spiffe://a/B",
        "picket.labels": ["app=web", "tier=front"], "url.query": ""});
    let holds = [
        "{url.path: /admin/keys}",
        "{url.path: /admin/*}",
        "{url.path: '/a?min/*'}",
        "{url.path|contains: MIN}",
        "{url.path|startswith: /adm}",
        "{url.path|endswith: keys}",
        "{url.path|contains|all: [adm, keys]}",
        "{url.path: [/x, /admin/keys]}",
        "{url.path|cased: /Admin/Keys}",
        "{url.path|re: '^/A.+s$'}",
        "{url.path|re|i: '^/a.+S$'}",
        "{http.response.status_code: 403}",
        "{http.response.status_code: '40*'}",
        "{http.response.status_code|gte: 403}",
        "{http.response.status_code|lt: 404}",
        "{network.peer.address|cidr: 10.0.0.0/8}",
        "{url.path|exists: true}",
        "{picket.policy|exists: false}",
        "{picket.policy: null}",
        "{picket.source|fieldref: picket.actor}",
        "{picket.labels: tier=front}",
        "{url.query: ''}",
        "[{url.path: /x}, {url.path: '*keys'}]",
        "[keys, nothing]",
        "{'|all': [admin, front]}",
    ];
    for detection in holds {
        assert!(matches(detection, fields.clone()), "{detection}");
    }
    let fails = [
        "{url.path: /admin}",
        "{url.path|cased: /admin/keys}",
        "{url.path|re: '^/a.+s$'}",
        "{url.path|contains|all: [adm, no]}",
        "{http.response.status_code: 40}",
        "{http.response.status_code|gt: 403}",
        "{network.peer.address|cidr: 10.2.0.0/16}",
        "{url.path|exists: false}",
        "{url.path: null}",
        "{picket.policy: x}",
        "{picket.source|fieldref|cased: picket.actor}",
        "{picket.source|fieldref: picket.policy}",
        "{url.path: ''}",
        "[none, nothing]",
        "{'|all': [admin, none]}",
    ];
    for detection in fails {
        assert!(!matches(detection, fields.clone()), "{detection}");
    }
}

#[test]
fn what_is_not_read_is_refused_with_its_place() {
    let refused = |rest: &str, code: &str, place: &str| {
        let wrong = RuleSet::parse(&[rule(1, rest)]).expect_err(rest).to_string();
        assert!(wrong.contains(&format!("[{code}]")) && wrong.contains(place), "{rest}\n{wrong}");
    };
    let s = "detection:\n  condition: s\n  s: ";
    refused(
        &format!("{s}{{url.pth: x}}"),
        "R0201",
        "r1.yaml:6:7: error[R0201]: no event has a field `url.pth`",
    );
    refused(&format!("{s}{{url.pth: x}}"), "R0201", "did you mean `url.path`?");
    refused(&format!("{s}{{url.path|base64: x}}"), "R0202", "is not read");
    refused(&format!("{s}{{url.path|containss: x}}"), "R0202", "no modifier");
    refused(&format!("{s}{{url.path|re: '(?=x)'}}"), "R0202", "linear time");
    refused(&format!("{s}{{http.response.status_code|gt: many}}"), "R0202", "no number");
    refused(&format!("{s}{{network.peer.address|cidr: 10.0}}"), "R0202", "a range such as");
    refused(&format!("{s}{{url.path: []}}"), "P0204", "list is empty");
}

#[test]
fn the_headers_of_rules_are_checked() {
    let refused = |text: &str, words: &str| {
        let wrong = RuleSet::parse(&[Document::whole("r.yaml", text)]).unwrap_err().to_string();
        assert!(wrong.contains(words), "{wrong}");
    };
    let detection = "detection: {s: {url.path: x}, condition: s}\n";
    refused(
        &format!("title: T\nid: 1\nlogsource: {{product: picket}}\n{detection}"),
        "put it in quotes",
    );
    refused(&format!("title: T\nid: x\nlogsource: {{product: picket}}\n{detection}"), "not a UUID");
    refused(
        &format!("{HEAD}1\nlogsource: {{product: windows}}\n{detection}"),
        "no event comes from",
    );
    refused(
        &format!("{HEAD}1\nlogsource: {{product: picket, category: x}}\n{detection}"),
        "no category",
    );
    refused(&format!("{HEAD}1\n{detection}"), "no `logsource`");
    refused(
        &format!("{HEAD}1\nlevel: bad\nlogsource: {{product: picket}}\n{detection}"),
        "no level",
    );
    refused(
        &format!("{HEAD}1\nlevle: low\nlogsource: {{product: picket}}\n{detection}"),
        "did you mean `level`?",
    );
    refused(&format!("{HEAD}1\ntags: [T1]\nlogsource: {{product: picket}}\n{detection}"), "no tag");
    refused(&format!("{HEAD}1\nlogsource: {{product: picket}}\n"), "neither a detection");
    refused(
        &format!(
            "{HEAD}1\nx-picket: {{suppression: 5}}\nlogsource: {{product: picket}}\n{detection}"
        ),
        "in quotes",
    );
    let one = format!("{HEAD}1\nlogsource: {{product: picket}}\n{detection}");
    refused(&format!("{one}---\n{one}"), "also the id or name");
}

fn denied(time: i64, source: &str, destination: &str) -> Value {
    record(
        time,
        json!({"picket.decision": "deny", "picket.source": source, "picket.destination": destination,
        "id": format!("{time}-{source}-{destination}")}),
    )
}

const DENIED: &str = "name: denied\ndetection: {s: {picket.decision: deny}, condition: s}\n";

#[test]
fn events_are_counted_by_group_in_windows_of_event_time() {
    let rules = [
        rule(1, DENIED),
        correlation(
            2,
            "correlation: {type: event_count, rules: [denied], group-by: [picket.source], \
                        timespan: 10s, condition: {gte: 3}}\nx-picket: {suppression: 20s}\n",
        ),
    ];
    let set = set(&rules);
    // Two of one and three of the other; b's third is too far from the first, then another is near enough.
    let records = [
        denied(0, "a", "x"),
        denied(1, "b", "x"),
        denied(5, "b", "x"),
        denied(6, "a", "x"),
        denied(12, "b", "x"),
    ];
    assert!(run(&set, &records).is_empty());
    let mut records = records.to_vec();
    records.push(denied(14, "b", "x"));
    let alerts = run(&set, &records);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0].group["picket.source"], "b");
    assert_eq!(alerts[0].records, ["5-b-x", "12-b-x", "14-b-x"]);
    // It goes on: one alert with a count. After the suppression another one.
    records.extend([denied(15, "b", "x"), denied(16, "b", "x")]);
    records.extend([denied(60, "b", "x"), denied(61, "b", "x"), denied(62, "b", "x")]);
    let counts: Vec<u64> = run(&set, &records).iter().map(|alert| alert.count).collect();
    assert_eq!(counts, [3, 1]);
}

#[test]
fn the_order_of_arrival_within_the_lateness_does_not_matter_to_a_count() {
    let set = set(&[
        rule(1, DENIED),
        correlation(
            2,
            "correlation: {type: event_count, rules: [denied], timespan: 10s, condition: {gte: 3}}\n\
                        x-picket: {lateness: 30s}\n",
        ),
    ]);
    let times = [0, 4, 8, 35, 50];
    let mut orders = vec![vec![0, 4, 8, 35, 50], vec![4, 8, 0, 35, 50], vec![8, 4, 0, 35, 50]];
    // 8 comes after 35: late, and within 30 s of it.
    orders.push(vec![0, 4, 35, 8, 50]);
    for order in orders {
        assert_eq!(order.len(), times.len());
        let records: Vec<Value> = order.iter().map(|time| denied(*time, "a", "x")).collect();
        assert_eq!(run(&set, &records).len(), 1, "{order:?}");
    }
    // After 50 it is too late, which is counted.
    let mut engine = Engine::new(&set);
    for time in [0, 4, 50, 8] {
        engine.observe(&Event::read(denied(time, "a", "x").as_object().unwrap()).unwrap());
    }
    assert_eq!(engine.counts()["00000000-0000-4000-8000-000000000002"].late, 1);
    assert!(engine.end().is_empty());
}

#[test]
fn values_are_counted_once() {
    let set = set(&[
        rule(1, DENIED),
        correlation(
            2,
            "correlation: {type: value_count, rules: [denied], group-by: [picket.source], timespan: 1m, \
                        condition: {field: picket.destination, gte: 3}}\n",
        ),
    ]);
    let probe = |destinations: &[&str]| {
        let records = destinations.iter().enumerate();
        let records: Vec<Value> = records.map(|(i, d)| denied(i as i64, "rogue", d)).collect();
        run(&set, &records).len()
    };
    assert_eq!(probe(&["x", "y", "x", "y", "x"]), 0);
    assert_eq!(probe(&["x", "y", "x", "z"]), 1);
    let slow: Vec<Value> = ["x", "y", "z"]
        .iter()
        .enumerate()
        .map(|(i, d)| denied(i as i64 * 40, "rogue", d))
        .collect();
    assert!(run(&set, &slow).is_empty());
}

#[test]
fn rules_are_seen_together_and_in_order() {
    let allowed = "name: allowed\ndetection: {s: {picket.decision: allow}, condition: s}\n";
    let both = |kind: &str| {
        set(&[
            rule(1, DENIED),
            rule(2, allowed),
            correlation(
                3,
                &format!(
                    "correlation: {{type: {kind}, rules: [denied, allowed], group-by: [picket.source], \
                                     timespan: 10s}}\n"
                ),
            ),
        ])
    };
    let allow = |time: i64| {
        record(
            time,
            json!({"picket.decision": "allow", "picket.source": "a", "id": format!("allow-{time}")}),
        )
    };
    let (any, ordered) = (both("temporal"), both("temporal_ordered"));
    let forwards = [denied(0, "a", "x"), allow(5)];
    let backwards = [allow(0), denied(5, "a", "x")];
    assert_eq!((run(&any, &forwards).len(), run(&any, &backwards).len()), (1, 1));
    assert_eq!((run(&ordered, &forwards).len(), run(&ordered, &backwards).len()), (1, 0));
    let alerts = run(&ordered, &forwards);
    assert_eq!(alerts[0].records, ["0-a-x", "allow-5"]);
    assert!(run(&ordered, &[denied(0, "a", "x"), allow(11)]).is_empty());
    // A later beginning counts.
    assert_eq!(run(&ordered, &[denied(0, "a", "x"), denied(5, "a", "x"), allow(11)]).len(), 1);
    // Somebody else's beginning does not.
    assert!(run(&ordered, &[denied(0, "b", "x"), allow(5)]).is_empty());
}

#[test]
fn correlations_of_correlations_and_aliases() {
    let set = set(&[
        rule(1, DENIED),
        rule(2, "name: joined\ndetection: {s: {picket.event: enrollment.join}, condition: s}\n"),
        correlation(
            3,
            "name: burst\ncorrelation: {type: event_count, rules: [denied], group-by: [picket.source], \
                        timespan: 1m, condition: {gt: 1}}\n",
        ),
        correlation(
            4,
            "correlation: {type: temporal_ordered, rules: [joined, burst], group-by: [who], timespan: 5m, \
                        aliases: {who: {joined: picket.subject, burst: picket.source}}}\n",
        ),
    ]);
    let join = |time: i64, who: &str| {
        record(
            time,
            json!({"picket.event": "enrollment.join", "picket.subject": who, "id": format!("join-{time}")}),
        )
    };
    let alerts = run(
        &set,
        &[join(0, "a"), denied(10, "a", "x"), denied(11, "a", "y"), denied(12, "b", "y")],
    );
    assert_eq!(alerts.len(), 1, "only what nothing else is made of alerts: {alerts:?}");
    assert_eq!(
        (alerts[0].rule.as_str(), alerts[0].group["who"].as_str()),
        ("00000000-0000-4000-8000-000000000004", "a")
    );
    assert!(run(&set, &[join(0, "b"), denied(10, "a", "x"), denied(11, "a", "y")]).is_empty());
    let circle = [
        correlation(
            5,
            "name: a\ncorrelation: {type: temporal, rules: [b, denied], timespan: 1m}\n",
        ),
        correlation(
            6,
            "name: b\ncorrelation: {type: temporal, rules: [a, denied], timespan: 1m}\n",
        ),
        rule(1, DENIED),
    ];
    assert!(RuleSet::parse(&circle).unwrap_err().to_string().contains("in a circle"));
    let lost = [correlation(
        5,
        "correlation: {type: event_count, rules: [gone], timespan: 1m, condition: {gte: 2}}\n",
    )];
    assert!(
        RuleSet::parse(&lost)
            .unwrap_err()
            .to_string()
            .contains("no rule with the id or name `gone`")
    );
}

#[test]
fn a_filter_narrows_the_rules_that_it_names() {
    let filter = "filter: {rules: [denied], known: {picket.source: a}, condition: not known}\n";
    let rules = [rule(1, DENIED), rule(2, filter)];
    let set = set(&rules);
    assert_eq!(set.filters(), 1);
    assert!(run(&set, &[denied(0, "a", "x")]).is_empty());
    assert_eq!(run(&set, &[denied(0, "b", "x")]).len(), 1);
}

#[test]
fn a_flood_is_one_alert_and_floods_of_groups_stay_bounded() {
    let alone = set(&[rule(1, DENIED)]);
    let flood: Vec<Value> = (0..5_000).map(|i| denied(i / 100, &format!("s{i}"), "x")).collect();
    let alerts = run(&alone, &flood);
    assert_eq!((alerts.len(), alerts[0].count, alerts[0].records.len()), (1, 5_000, 5));

    let grouped =
        rule(1, &format!("{DENIED}x-picket: {{group-by: [picket.source], max-groups: 100}}\n"));
    let alerts = run(&set(&[grouped]), &flood);
    assert_eq!(alerts.len(), 101);
    let rest = alerts.iter().find(|alert| alert.group.contains_key("*")).unwrap();
    assert_eq!(rest.count, 4_900);

    let counted = set(&[
        rule(1, DENIED),
        correlation(
            2,
            "correlation: {type: event_count, rules: [denied], group-by: [picket.source], timespan: 1m, \
                        condition: {gte: 2}}\nx-picket: {max-groups: 100}\n",
        ),
    ]);
    let mut engine = Engine::new(&counted);
    for record in &flood {
        engine.observe(&Event::read(record.as_object().unwrap()).unwrap());
    }
    assert_eq!(engine.counts()["00000000-0000-4000-8000-000000000002"].evicted, 4_900);
}

#[test]
fn an_event_that_comes_twice_counts_once_and_what_is_missing_is_counted() {
    let set =
        set(&[rule(1, "detection: {s: {picket.decision: deny, url.path: /x}, condition: s}\n")]);
    let mut engine = Engine::new(&set);
    let event = record(0, json!({"picket.decision": "deny", "url.path": "/x", "id": "same"}));
    let lacking = record(0, json!({"picket.decision": "deny", "id": "other"}));
    for record in [&event, &event, &lacking] {
        engine.observe(&Event::read(record.as_object().unwrap()).unwrap());
    }
    assert_eq!(engine.events(), (2, 1));
    let counts = engine.counts()["00000000-0000-4000-8000-000000000001"];
    assert_eq!(
        (counts.matched, counts.missing),
        (1, 0),
        "the path is the trigger: without it there is no candidate"
    );
    assert_eq!(engine.end()[0].count, 1);
}

#[test]
fn a_response_to_what_nobody_vouches_for_is_refused() {
    let with = |group: &str, respond: &str| {
        let rest = format!(
            "detection:\n  s: {{picket.decision: deny}}\n  condition: s\nx-picket:\n  group-by: [{group}]\n  respond: {respond}\n"
        );
        RuleSet::parse(&[rule(1, &rest)])
    };
    for (group, respond) in [
        ("picket.source", "{action: quarantine, mode: act, ttl: 5m}"),
        ("picket.source, picket.destination", "{action: quarantine, at: picket.destination}"),
        ("picket.source", "{action: webhook, webhook: soar, mode: act}"),
        ("picket.source", "{action: revoke, ttl: 24h}"),
        (
            "picket.jwt.subject, picket.jwt.issuer",
            "{action: revoke, of: picket.jwt.subject, mode: act}",
        ),
        ("picket.source", "{action: limit, requests: 10, per: 1m, mode: act}"),
    ] {
        let read = with(group, respond);
        assert!(read.is_ok(), "{respond} {:?}", read.err());
    }
    let token = "{action: revoke, of: picket.jwt.subject}";
    for (group, respond, place) in [
        ("picket.source", token, "r1.yaml:9:3"),
        // The same subject of another issuer is somebody else.
        ("picket.jwt.subject", token, "r1.yaml:9:3"),
        // Only tokens are a subject's: what a token says is not who called.
        ("picket.jwt.subject", "{action: quarantine, of: picket.jwt.subject}", "r1.yaml:9:37"),
        ("picket.jwt.kid", "{action: revoke, of: picket.jwt.kid}", "r1.yaml:9:33"),
        // Nobody can be sure that it is undone.
        ("picket.source", "{action: revoke, mode: act}", "r1.yaml:9:3"),
        ("picket.source", "{action: webhook}", "r1.yaml:9:3"),
        ("picket.source", "{action: webhook, webhook: ''}", "r1.yaml:9:39"),
        ("picket.source", "{action: webhook, webhook: soar, ttl: 5m}", "r1.yaml:9:50"),
        ("picket.source", "{action: limit}", "r1.yaml:9:3"),
        ("picket.source", "{action: limit, requests: 0, per: 1m}", "r1.yaml:9:38"),
        ("picket.source", "{action: limit, requests: 10, per: 2d}", "r1.yaml:9:47"),
        ("picket.source", "{action: limit, requests: 10, per: 1m, at: url.path}", "r1.yaml:9:55"),
        (
            "picket.source",
            "{action: limit, requests: 10, per: 1m, at: picket.destination}",
            "r1.yaml:9:3",
        ),
        ("network.peer.address", "{action: quarantine, of: network.peer.address}", "r1.yaml:9:37"),
        ("user_agent.original", "{action: quarantine, of: user_agent.original}", "r1.yaml:9:37"),
        ("url.path", "{action: quarantine}", "r1.yaml:9:3"),
        ("picket.source", "{action: reboot}", "r1.yaml:9:21"),
        ("picket.source", "{}", "r1.yaml:9:3"),
        ("picket.source", "{action: quarantine, mode: perhaps}", "r1.yaml:9:39"),
        ("picket.source", "{action: quarantine, ttl: 2d}", "r1.yaml:9:38"),
        ("picket.source", "{action: quarantine, ttl: 1s}", "r1.yaml:9:38"),
    ] {
        let refused = with(group, respond).unwrap_err().to_string();
        assert!(refused.contains(place) && refused.contains("R0403"), "{respond}\n{refused}");
    }
}

#[test]
fn a_storm_is_one_alert_with_a_count() {
    let rest = "detection:\n  s: {picket.decision: deny}\n  condition: s\nx-picket: {group-by: [picket.source]}\n";
    let set = set(&[rule(1, rest)]);
    let mut engine = Engine::new(&set);
    let mut told = 0;
    for number in 0..100_000 {
        let fields =
            json!({"id": format!("b-0-{number}"), "picket.decision": "deny", "picket.source": "a"});
        let record = record(number / 1_000, fields);
        told += engine.observe(&Event::read(record.as_object().unwrap()).unwrap()).len();
    }
    assert_eq!(told, 1);
    let running = engine.running();
    assert_eq!((running.len(), running[0].count), (1, 100_000));
    assert_eq!(engine.running(), []);
    let ended = engine.end();
    assert_eq!((ended.len(), ended[0].count), (1, 100_000));
}

#[test]
fn an_engine_that_is_made_anew_goes_on_where_the_one_before_was() {
    let burst = correlation(
        2,
        "correlation:\n  type: event_count\n  rules: [00000000-0000-4000-8000-000000000001]\n  group-by: [picket.source]\n  timespan: 1m\n  condition: {gte: 3}\n",
    );
    let denied = rule(1, "detection:\n  s: {picket.decision: deny}\n  condition: s\n");
    let set = set(&[denied, burst]);
    let records: Vec<Value> = (0..12)
        .map(|n| {
            record(
                n * 10,
                json!({"picket.decision": "deny", "picket.source": "a", "id": format!("b-0-{n}")}),
            )
        })
        .collect();
    let whole = run(&set, &records);
    assert_eq!(whole.len(), 1);
    for cut in 0..=records.len() {
        let event = |record: &'_ Value| record.as_object().unwrap().clone();
        let mut first = Engine::new(&set);
        let mut alerts = Vec::new();
        for record in records.iter().take(cut) {
            alerts.extend(first.observe(&Event::read(&event(record)).unwrap()));
        }
        let open = first.end();
        let mut second = Engine::new(&set);
        assert!(open.iter().all(|alert| second.resume(alert)));
        for record in records.iter().take(cut) {
            second.warm(&Event::read(&event(record)).unwrap());
        }
        for record in records.iter().skip(cut) {
            alerts.extend(second.observe(&Event::read(&event(record)).unwrap()));
        }
        assert_eq!(alerts.len(), 1, "cut at {cut}");
        let ended = second.end();
        assert_eq!((&ended, &ended[0].id), (&whole, &alerts[0].id), "cut at {cut}");
    }
}

#[test]
fn a_clock_that_is_ahead_does_not_blind_the_others() {
    let burst = correlation(
        2,
        "correlation:\n  type: event_count\n  rules: [00000000-0000-4000-8000-000000000001]\n  group-by: [picket.source]\n  timespan: 1m\n  condition: {gte: 3}\n",
    );
    let denied = rule(1, "detection:\n  s: {picket.decision: deny}\n  condition: s\n");
    let mut engine = Engine::new(&set(&[denied, burst]));
    let ceiling = jiff::Timestamp::from_second(1_800_000_004).unwrap().as_nanosecond();
    engine.set_ceiling(i64::try_from(ceiling).unwrap());
    let mut told = 0;
    for (number, time) in [1_000_000, 1, 2, 3].into_iter().enumerate() {
        let fields =
            json!({"id": format!("b-0-{number}"), "picket.decision": "deny", "picket.source": "a"});
        let record = record(time, fields);
        told += engine.observe(&Event::read(record.as_object().unwrap()).unwrap()).len();
    }
    assert_eq!(told, 1);
}
