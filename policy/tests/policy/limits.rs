//! RateLimit: which requests it counts, and in which bucket.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use picket_policy::{Attributes, Http, Limit, Principal, Workload, WorkloadPolicy};

use crate::support::set;

fn compiled(limits: &str) -> WorkloadPolicy {
    let yaml = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: l, namespace: shop}}\n\
         spec: {{limits: [{limits}]}}\n"
    );
    let workload = Workload { namespace: "shop".into(), name: "web".into(), ..Workload::default() };
    set(&yaml).compile(&workload)
}

/// The key of a request, or none if the limit does not count it.
fn key(limit: &Limit, attributes: &Attributes<'_>) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    limit.counts(attributes).then(|| limit.key(attributes, |bytes| key.extend(bytes)))?;
    Some(key)
}

/// A `GET` of a path with these headers, from somebody.
fn with<T>(
    path: &str,
    peer: Option<&str>,
    headers: &[(&'static str, &str)],
    look: impl FnOnce(&Attributes<'_>) -> T,
) -> T {
    let peer = peer.map(|account| {
        Principal::from_spiffe_id(&format!("spiffe://example.org/ns/shop/sa/{account}")).unwrap()
    });
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let http = Http { method: &Method::GET, path, host: None, headers: &map, token: None };
    look(&Attributes {
        peer: peer.as_ref(),
        source_ip: Some("192.0.2.1".parse().unwrap()),
        http: Some(http),
        ..Attributes::default()
    })
}

#[test]
fn a_limit_counts_what_its_rule_names() {
    let policy = compiled(
        "{requests: 5, per: 1s, to: [{operation: {paths: [/a*]}}], from: [{source: {principals: ['*/sa/web']}}]}",
    );
    let [limit] = policy.limits() else { panic!("one limit") };
    let quota = limit.quota();
    assert_eq!((quota.requests.get(), quota.burst.get()), (5, 5), "a burst is what comes at once");
    assert_eq!(quota.per, Duration::from_secs(1));
    assert!(with("/a/b", Some("web"), &[], |request| limit.counts(request)));
    assert!(!with("/b", Some("web"), &[], |request| limit.counts(request)));
    assert!(!with("/a", Some("other"), &[], |request| limit.counts(request)));
    assert!(!limit.counts(&Attributes::default()), "not on raw TCP");
}

#[test]
fn requests_share_a_bucket_if_all_values_of_the_key_agree() {
    let policy = compiled(
        "{requests: 5, per: 1m, burst: 9, key: ['source.principal', 'request.headers[x-tenant]']}",
    );
    let limit = &policy.limits()[0];
    let of = |peer, headers: &[(&'static str, &str)]| {
        with("/", peer, headers, |request| key(limit, request)).unwrap()
    };
    let tenant = |tenant| of(Some("web"), &[("x-tenant", tenant)]);
    assert_eq!(tenant("a"), tenant("a"));
    let several = of(Some("web"), &[("x-tenant", "a"), ("x-tenant", "b")]);
    let mut all = vec![
        tenant("a"),
        tenant("b"),
        tenant(""),
        of(Some("web"), &[]),
        of(Some("other"), &[("x-tenant", "a")]),
        of(None, &[("x-tenant", "a")]),
        of(None, &[]),
    ];
    assert!(all.contains(&several), "several lines are counted with those who send none");
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "two callers share a bucket");
}

#[test]
fn whoever_has_a_network_has_one_bucket() {
    let policy = compiled("{requests: 5, per: 1m, key: [source.ip]}");
    let limit = &policy.limits()[0];
    let of = |address: &str| {
        with("/", None, &[], |request| {
            let source_ip = Some(address.parse().unwrap());
            key(limit, &Attributes { source_ip, ..*request }).unwrap()
        })
    };
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"), "one /64");
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
}

#[test]
fn a_limit_goes_on_counting_until_it_means_something_else() {
    let one = compiled("{requests: 5, per: 1s, key: [source.ip]}");
    for (other, continues) in [
        ("{requests: 5, per: 1s, key: [source.ip], to: [{operation: {methods: [GET]}}]}", true),
        ("{requests: 6, per: 1s, key: [source.ip]}", false),
        ("{requests: 5, per: 1s, key: [source.principal]}", false),
    ] {
        let other = compiled(other);
        assert_eq!(other.limits()[0].continues(&one.limits()[0]), continues, "{other:?}");
    }
}
