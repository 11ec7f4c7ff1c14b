//! An allow allocates nothing on the heap.
#![allow(unsafe_code)] // a global allocator that counts is the only way to see it

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use http::{HeaderMap, HeaderValue, Method};
use picket_policy::jwt::VerifiedToken;
use picket_policy::{Attributes, Http, Principal, Workload, path};
use serde_json::json;

use crate::support::*;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the counter is a plain cell of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = COUNT.with(Cell::get);
    let result = work();
    (COUNT.with(Cell::get) - before, result)
}

#[test]
fn an_allow_allocates_nothing() {
    let yaml = [
        policy("DENY", "{to: [{operation: {methods: [TRACE]}}]}, {from: [{source: {notNamespaces: [shop, web]}}]}"),
        policy("ALLOW", "{from: [{source: {principals: [td/ns/none/sa/none]}}]}, {from: [{source: {principals: [\"td/ns/shop/*\"], namespaces: [\"s*p\"], serviceAccounts: []}}]}")
            .replace(", serviceAccounts: []", "")
            .replace("name: p", "name: q")
            .replace("\"s*p\"]}}]", "\"s*p\"], requestPrincipals: [\"https://idp.example/*\"], ipBlocks: [10.0.0.0/8]}}], to: [{operation: {hosts: [\"*.Example.com\"], methods: [GET], paths: [\"/users/{*}/orders\"], ports: [\"80\"]}}], when: [{key: \"request.headers[x-many]\", values: [\"b\"]}, {key: \"request.auth.claims[groups]\", values: [dev]}]"),
        policy("AUDIT", "{to: [{operation: {methods: [GET]}}]}").replace("name: p", "name: r"),
        policy("DENY", "{to: [{operation: {methods: [GET]}}]}").replace("{name: p", "{annotations: {istio.io/dry-run: \"true\"}, name: s"),
        policy("ALLOW", "{to: [{operation: {methods: [PUT]}}]}").replace("{name: p", "{annotations: {istio.io/dry-run: \"true\"}, name: t"),
    ]
    .join("---\n");
    let policy = set(&yaml).compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    });
    let peer = Principal::from_spiffe_id("spiffe://td/ns/shop/sa/web").unwrap();
    let claims = json!({"iss": "https://idp.example", "sub": "a", "groups": ["ops", "dev"]});
    let token = VerifiedToken::from_claims(claims.as_object().unwrap().clone());
    let mut headers = HeaderMap::new();
    headers.append("x-many", HeaderValue::from_static("a"));
    headers.append("x-many", HeaderValue::from_static("b"));

    let (count, decision) = allocations(|| {
        let target = path::normalize("/users/7/orders?x=y").unwrap();
        let peer = policy.authenticate_peer(Some(80), Some(&peer)).unwrap();
        policy.decide(&Attributes {
            peer,
            source_ip: Some([10, 0, 0, 1].into()),
            destination_port: Some(80),
            http: Some(Http {
                method: &Method::GET,
                path: &target.path,
                host: Some("www.example.com"),
                headers: &headers,
                token: Some(&token),
            }),
            ..Attributes::default()
        })
    });
    assert!(decision.is_allowed(), "{decision:?}");
    assert_eq!((decision.audit.len(), decision.dry_run.len()), (1, 2));
    assert_eq!(decision.route.as_deref(), Some("/users/{*}/orders"));
    assert_eq!(count, 0);

    // What is noted for the record takes one allocation, and none where rules read nothing of the kind.
    let peer = policy.authenticate_peer(Some(80), Some(&peer)).unwrap();
    let attributes = Attributes {
        peer,
        http: Some(Http {
            method: &Method::GET,
            path: "/",
            host: None,
            headers: &headers,
            token: Some(&token),
        }),
        ..Attributes::default()
    };
    let (count, noted) = allocations(|| policy.compared(&attributes));
    assert_eq!((count, noted.len()), (1, 3), "{noted:?}");
    let plain = set(&crate::support::policy("ALLOW", "{to: [{operation: {methods: [GET]}}]}"));
    let plain = plain.compile(policy.workload());
    assert_eq!(allocations(|| plain.compared(&attributes)), (0, Vec::new()));

    // The counter counts.
    assert_eq!(allocations(|| Box::new(7)).0, 1);
}

#[test]
fn an_allow_by_one_of_many_rules_allocates_nothing() {
    let rule = |number: usize| {
        format!(
            "{{from: [{{source: {{principals: [td/ns/shop/sa/s{number}, \"*/sa/t{number}\"]}}}}], \
             to: [{{operation: {{hosts: [\"*.h{number}.example\"], paths: [\"/a/{{*}}/b{number}\", \"/c{number}/*\"]}}}}], \
             when: [{{key: \"request.headers[x-many]\", values: [\"{number}\"]}}]}}"
        )
    };
    let yaml: Vec<String> = [("ALLOW", 0), ("DENY", 300), ("AUDIT", 0)]
        .into_iter()
        .map(|(action, first)| {
            let rules: Vec<String> = (first..first + 300).map(rule).collect();
            policy(action, &rules.join(", "))
                .replace("name: p", &format!("name: {}", action.to_lowercase()))
        })
        .collect();
    let policy = set(&yaml.join("---\n")).compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    });
    let mut headers = HeaderMap::new();
    headers.append("x-many", HeaderValue::from_static("a"));
    headers.append("x-many", HeaderValue::from_static("287"));
    for (account, path) in [("s287", "/a/x/b287"), ("t287", "/c287/x")] {
        let peer = Principal::from_spiffe_id(&format!("spiffe://td/ns/shop/sa/{account}")).unwrap();
        let (count, decision) = allocations(|| {
            policy.decide(&Attributes {
                peer: Some(&peer),
                http: Some(Http {
                    method: &Method::GET,
                    path,
                    host: Some("www.H287.example"),
                    headers: &headers,
                    token: None,
                }),
                ..Attributes::default()
            })
        });
        assert!(decision.is_allowed(), "{decision:?}");
        assert_eq!(decision.by.unwrap().rule(), Some(287));
        assert_eq!(decision.audit.len(), 1);
        assert_eq!(count, 0);
    }
}
