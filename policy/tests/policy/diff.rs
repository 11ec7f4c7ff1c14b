//! Differences of sets: what is written otherwise, and what is decided otherwise.

use picket_policy::diff::{Change, Difference};
use picket_policy::{PolicySet, Verdict};

use crate::support::*;

fn policy_with(rules: &str) -> PolicySet {
    set(&policy("ALLOW", rules))
}

/// Requests whose verdict changed, as `verdict from method path`.
fn decisions(before: &PolicySet, after: &PolicySet) -> Vec<String> {
    let difference = Difference::of(before, after);
    assert_eq!(difference.sampled, difference.possible, "nothing is left out of a small set");
    let words = difference.decisions.iter().map(|change| {
        let request = &change.example;
        let from = request.from.as_deref().unwrap_or("nobody");
        let from = from.rsplit('/').next().unwrap_or_default();
        let [method, path] =
            [&request.method, &request.path].map(|part| part.as_deref().unwrap_or("-"));
        assert_ne!(change.before.decision, change.after.decision);
        assert!(change.count > 0);
        format!("{} {from} {method} {path}", change.now.as_str())
    });
    words.collect()
}

const WEB: &str = "from: [{source: {principals: [td/ns/shop/sa/web]}}]";

#[test]
fn the_same_policies_do_not_differ_however_they_are_written() {
    let before = policy("ALLOW", &format!("{{{WEB}}}, {{to: [{{operation: {{paths: [/a]}}}}]}}"));
    let after = format!(
        "# moved\n{}",
        policy("ALLOW", &format!("{{to: [{{operation: {{paths: [\"/a\"]}}}}]}}, {{{WEB}}}"))
    )
    .replace("security.istio.io/v1\n", "security.istio.io/v1beta1\n")
    .replace("shop}", "shop, labels: {team: a}}");
    let difference = Difference::of(&set(&before), &set(&after));
    assert!(difference.is_empty(), "{difference:?}");
}

#[test]
fn objects_and_fields_that_differ_are_named() {
    let other = policy("DENY", "{to: [{operation: {paths: [/x]}}]}").replace("name: p", "name: q");
    let before = format!(
        "{}---\n{other}",
        policy("ALLOW", &format!("{{{WEB}}}, {{to: [{{operation: {{methods: [GET]}}}}]}}"))
    );
    let after = format!(
        "{}---\n{}",
        policy("ALLOW", &format!("{{to: [{{operation: {{methods: [GET, POST]}}}}]}}, {{{WEB}}}")),
        other.replace("name: q", "name: r")
    );
    let difference = Difference::of(&set(&before), &set(&after));
    let objects: Vec<_> = difference.objects.iter().map(|o| (o.name.as_str(), o.change)).collect();
    assert_eq!(
        objects,
        [("shop/p", Change::Changed), ("shop/q", Change::Removed), ("shop/r", Change::Added)]
    );
    let [field] = difference.objects[0].fields.as_slice() else { panic!("{difference:?}") };
    assert_eq!(field.field, "spec.rules[0].to[0].operation.methods");
    assert_eq!(
        (field.before.clone(), field.after.clone()),
        (Some(serde_json::json!(["GET"])), Some(serde_json::json!(["GET", "POST"])))
    );
}

#[test]
fn decisions_that_change_are_found_among_what_the_policies_name() {
    let (narrow, wide) = (
        policy_with(&format!("{{{WEB}, to: [{{operation: {{methods: [GET], paths: [/a]}}}}]}}")),
        policy_with(&format!(
            "{{{WEB}, to: [{{operation: {{methods: [GET, PUT], paths: [/a]}}}}]}}"
        )),
    );
    assert_eq!(decisions(&narrow, &wide), ["allow web PUT /a"]);
    assert_eq!(decisions(&wide, &narrow), ["deny web PUT /a"]);
    // A caller, a condition, a path pattern, a raw connection.
    let more =
        policy_with(&format!("{{{WEB}}}, {{from: [{{source: {{serviceAccounts: [cart]}}}}]}}"));
    assert!(
        decisions(&policy_with(&format!("{{{WEB}}}")), &more)
            .iter()
            .any(|words| words.starts_with("allow cart "))
    );
    let tenant = |values: &str| {
        policy_with(&format!(
            "{{{WEB}, when: [{{key: \"request.headers[x-tenant]\", values: [{values}]}}]}}"
        ))
    };
    assert_eq!(decisions(&tenant("a"), &tenant("a, b")).len(), 1);
    let claim = |name: &str| {
        policy_with(&format!(
            "{{when: [{{key: \"request.auth.claims[{name}][b]\", values: [x]}}]}}"
        ))
    };
    let verdicts = Difference::of(&claim("a"), &claim("c")).decisions;
    let verdicts: Vec<_> = verdicts.iter().map(|change| change.now).collect();
    assert!(
        verdicts.contains(&Verdict::Allow) && verdicts.contains(&Verdict::Deny),
        "{verdicts:?}"
    );
    let path =
        |pattern: &str| policy_with(&format!("{{to: [{{operation: {{paths: [{pattern:?}]}}}}]}}"));
    for (before, after) in
        [("/a/{*}", "/a/{**}"), ("/a", "/a*"), ("*.png", "*.jpg"), ("/{*}/b", "/{*}/c")]
    {
        assert!(!decisions(&path(before), &path(after)).is_empty(), "{before} {after}");
    }
    let port =
        |port: u16| policy_with(&format!("{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}"));
    assert!(!decisions(&port(80), &port(81)).is_empty());
    let ip = |block: &str| policy_with(&format!("{{from: [{{source: {{ipBlocks: [{block}]}}}}]}}"));
    assert!(!decisions(&ip("10.0.0.0/8"), &ip("11.0.0.0/8")).is_empty());
    let not =
        |pattern: &str| policy_with(&format!("{{to: [{{operation: {{notPaths: [{pattern}]}}}}]}}"));
    assert!(!decisions(&not("/a"), &not("/b")).is_empty());
}

#[test]
fn what_changes_for_nobody_is_no_decision() {
    let mtls = |mode: &str| {
        let peer = format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: m, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        );
        set(&(policy("ALLOW", "{}") + &peer))
    };
    let changed = Difference::of(&mtls("PERMISSIVE"), &mtls("STRICT"));
    assert!(
        changed
            .decisions
            .iter()
            .all(|change| change.example.from.is_none() && change.now == Verdict::Deny)
    );
    assert_eq!((changed.objects.len(), changed.decisions.len()), (1, 1), "{changed:?}");
    // A rule that another one covers.
    let (one, two) = (
        policy_with(&format!("{{{WEB}}}")),
        policy_with(&format!("{{{WEB}}}, {{{WEB}, to: [{{operation: {{paths: [/a]}}}}]}}")),
    );
    let difference = Difference::of(&one, &two);
    assert_eq!((difference.objects.len(), difference.decisions.len()), (1, 0));
    assert!(difference.sampled > 20, "{}", difference.sampled);
}
