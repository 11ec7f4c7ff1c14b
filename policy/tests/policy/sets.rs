//! Sets: what names them, whom they concern, and what the order of things may not change.

use std::collections::BTreeMap;

use picket_policy::{
    Attributes, DefaultAction, Document, Http, MtlsMode, PolicySet, Principal, Settings, Workload,
    path,
};

use crate::support::*;

fn workload(namespace: &str, labels: &[(&str, &str)]) -> Workload {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Workload { namespace: namespace.into(), name: "w".into(), labels }
}

fn named(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

#[test]
fn the_generation_names_content_not_order_or_file_names() {
    let (a, b) = (policy("ALLOW", "{}"), policy("DENY", "{}").replace("name: p", "name: q"));
    let generation = |documents: &[(&str, &str)], settings: Settings| {
        let documents: Vec<_> =
            documents.iter().map(|(file, text)| Document::whole(*file, *text)).collect();
        PolicySet::parse(&documents, settings).unwrap().generation().to_string()
    };
    let base = generation(&[("a", &a), ("b", &b)], settings());
    assert_eq!(base.len(), 16);
    assert!(base.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
    assert_eq!(generation(&[("b", &b), ("a", &a)], settings()), base);
    assert_eq!(generation(&[("x/b", &b), ("y/a", &a)], settings()), base);
    let mut others = vec![
        generation(&[("a", &a)], settings()),
        generation(&[("a", &a), ("b", &format!("{b}# x\n"))], settings()),
        generation(&[("a", &a), ("b", &b)], istio_settings()),
        generation(
            &[("a", &a), ("b", &b)],
            Settings { default_mtls: MtlsMode::Strict, ..settings() },
        ),
        generation(
            &[("a", &a), ("b", &b)],
            Settings { root_namespace: "mesh".into(), ..settings() },
        ),
        generation(
            &[("a", &a), ("b", &b)],
            Settings { trust_domain: Some("td".into()), ..settings() },
        ),
        generation(
            &[("a", &a), ("b", &b)],
            Settings {
                trust_domain: Some("td".into()),
                trust_domain_aliases: vec!["te".into()],
                ..settings()
            },
        ),
        base,
    ];
    let count = others.len();
    others.sort();
    others.dedup();
    assert_eq!(others.len(), count);
}

#[test]
fn a_part_of_a_set_can_bear_the_name_of_the_whole() {
    let whole = set(&policy("ALLOW", "{}"));
    let text = whole.generation().to_string();
    let part = set("# nothing\n").with_generation(text.parse().unwrap());
    assert_eq!(part.generation(), whole.generation());
    assert_eq!(part.compile(&workload("shop", &[])).generation(), whole.generation());
    for bad in
        ["", "abc", "0123456789ABCDEF", "0123456789abcdefg", "+123456789abcdef", "0x23456789abcdef"]
    {
        assert!(bad.parse::<picket_policy::Generation>().is_err(), "{bad}");
    }
}

#[test]
fn a_proxy_gets_the_documents_that_concern_it_with_their_own_lines() {
    let file = format!(
        "# head\n---\n{}---\n{}---\n{}---\n{}",
        named("AuthorizationPolicy", "shop-all", "shop", "{rules: [{}]}"),
        named(
            "AuthorizationPolicy",
            "shop-web",
            "shop",
            "{selector: {matchLabels: {app: web}}, rules: [{}]}"
        ),
        named("PeerAuthentication", "mesh", "istio-system", "{mtls: {mode: STRICT}}"),
        named("AuthorizationPolicy", "other", "other", "{}"),
    );
    let set = set(&file);
    assert_eq!(set.len(), 4);
    assert_eq!(set.warnings().len(), 2);
    let names = |workload: &Workload| {
        set.documents_for(workload)
            .iter()
            .map(|document| {
                let name = document
                    .text
                    .split("name: ")
                    .nth(1)
                    .unwrap()
                    .split(',')
                    .next()
                    .unwrap()
                    .to_owned();
                (name, document.first_line)
            })
            .collect::<Vec<_>>()
    };
    let mesh = ("mesh".to_owned(), 12);
    assert_eq!(
        names(&workload("shop", &[("app", "web")])),
        [("shop-all".to_owned(), 2), ("shop-web".to_owned(), 7), mesh.clone()]
    );
    assert_eq!(
        names(&workload("shop", &[("app", "db")])),
        [("shop-all".to_owned(), 2), mesh.clone()]
    );
    assert_eq!(names(&workload("any", &[])), [mesh]);

    // Read again from what was sent, every policy stands where it stood.
    let sent = set.documents_for(&workload("shop", &[("app", "web")]));
    let again = PolicySet::parse(&sent, settings()).unwrap();
    let web = workload("shop", &[("app", "web")]);
    let (before, after) = (set.compile(&web), again.compile(&web));
    let headers = http::HeaderMap::new();
    let request = Attributes {
        http: Some(Http {
            method: &http::Method::GET,
            path: "/",
            host: None,
            headers: &headers,
            token: None,
        }),
        ..Attributes::default()
    };
    assert_eq!(before.decide(&request), after.decide(&request));
    assert_eq!(after.decide(&request).by.unwrap().line(), 6);
    assert_eq!(before.mtls_mode(None).1, after.mtls_mode(None).1);
}

#[test]
fn selectors_look_at_namespace_and_all_labels() {
    let set = set_with(
        &format!(
            "{}---\n{}",
            named(
                "AuthorizationPolicy",
                "a",
                "shop",
                "{selector: {matchLabels: {app: web, tier: front}}}"
            ),
            named(
                "AuthorizationPolicy",
                "b",
                "istio-system",
                "{selector: {matchLabels: {locked: \"yes\"}}}"
            ),
        ),
        istio_settings(),
    );
    for (namespace, labels, selected) in [
        ("shop", &[("app", "web"), ("tier", "front"), ("more", "x")][..], true),
        ("shop", &[("app", "web")], false),
        ("shop", &[("app", "web"), ("tier", "back")], false),
        ("other", &[("app", "web"), ("tier", "front")], false),
        ("other", &[("locked", "yes")], true),
        ("istio-system", &[("locked", "yes")], true),
        ("istio-system", &[("locked", "no")], false),
    ] {
        let policy = set.compile(&workload(namespace, labels));
        let decision = policy.decide(&Attributes::default());
        assert_eq!(!decision.is_allowed(), selected, "{namespace} {labels:?}");
        assert_eq!(set.documents_for(policy.workload()).len(), usize::from(selected));
    }
}

#[test]
fn the_namespace_is_default_where_none_is_written() {
    let set = set_with(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}\n",
        istio_settings(),
    );
    assert!(!set.compile(&workload("default", &[])).decide(&Attributes::default()).is_allowed());
    assert!(set.compile(&workload("shop", &[])).decide(&Attributes::default()).is_allowed());
}

#[test]
fn another_root_namespace_takes_its_place() {
    let yaml = named("AuthorizationPolicy", "a", "mesh", "{}");
    let settings = Settings { root_namespace: "mesh".into(), ..istio_settings() };
    assert!(
        !set_with(&yaml, settings)
            .compile(&workload("shop", &[]))
            .decide(&Attributes::default())
            .is_allowed()
    );
    assert!(
        set_with(&yaml, istio_settings())
            .compile(&workload("shop", &[]))
            .decide(&Attributes::default())
            .is_allowed()
    );
}

#[test]
fn a_set_with_one_error_is_refused_whole() {
    let good =
        Document::whole("good.yaml", policy("ALLOW", "{to: [{operation: {ports: [\"1\"]}}]}"));
    let bad =
        Document::whole("bad.yaml", policy("ALLOW", "{form: []}").replace("name: p", "name: q"));
    let diagnostics = PolicySet::parse(&[good, bad], settings()).unwrap_err();
    assert_eq!(diagnostics.iter().map(|d| &*d.file).collect::<Vec<_>>(), ["bad.yaml"]);
}

#[test]
fn mtls_modes_come_from_the_narrowest_policy_that_says_one() {
    let app = "selector: {matchLabels: {app: a}}";
    let peer = |name: &str, namespace: &str, spec: &str| {
        named("PeerAuthentication", name, namespace, spec)
    };
    let set = |parts: &[String], default: MtlsMode| {
        set_with(&parts.join("---\n"), Settings { default_mtls: default, ..settings() })
    };
    let a = workload("shop", &[("app", "a")]);
    let mode = |parts: &[String], port: Option<u16>| {
        let set = set(parts, MtlsMode::Permissive);
        let policy = set.compile(&a);
        let (mode, by) = policy.mtls_mode(port);
        (mode, by.map(|by| by.policy().to_owned()))
    };
    let by = |name: &str| Some(name.to_owned());
    let mesh = peer("mesh", "istio-system", "{mtls: {mode: STRICT}}");
    let namespace = peer("ns", "shop", "{mtls: {mode: DISABLE}}");
    let unset = peer("ns", "shop", "{mtls: {mode: UNSET}}");
    let one = peer(
        "one",
        "shop",
        &format!(
            "{{{app}, mtls: {{mode: PERMISSIVE}}, portLevelMtls: {{80: {{mode: STRICT}}, 81: {{mode: UNSET}}}}}}"
        ),
    );
    let inherit =
        peer("one", "shop", &format!("{{{app}, portLevelMtls: {{81: {{mode: UNSET}}}}}}"));
    assert_eq!(mode(&[], None), (MtlsMode::Permissive, None));
    assert_eq!(
        mode(std::slice::from_ref(&mesh), None),
        (MtlsMode::Strict, by("istio-system/mesh"))
    );
    assert_eq!(mode(&[mesh.clone(), namespace.clone()], None), (MtlsMode::Disable, by("shop/ns")));
    assert_eq!(
        mode(&[mesh.clone(), unset.clone()], None),
        (MtlsMode::Strict, by("istio-system/mesh"))
    );
    assert_eq!(
        mode(&[mesh.clone(), namespace.clone(), one.clone()], Some(90)),
        (MtlsMode::Permissive, by("shop/one"))
    );
    assert_eq!(
        mode(&[mesh.clone(), namespace.clone(), one.clone()], Some(80)),
        (MtlsMode::Strict, by("shop/one"))
    );
    assert_eq!(mode(&[namespace.clone(), one], Some(81)), (MtlsMode::Permissive, by("shop/one")));
    assert_eq!(
        mode(&[mesh, namespace, inherit.clone()], Some(81)),
        (MtlsMode::Disable, by("shop/ns"))
    );
    assert_eq!(mode(&[inherit], Some(81)), (MtlsMode::Permissive, None));
    // Two that only this workload's labels bring together: the stricter one, for each port.
    for (first, second) in [("eins", "zwei"), ("zwei", "eins")] {
        let spec =
            "mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}, 82: {mode: DISABLE}}";
        let tier =
            peer(first, "shop", &format!("{{selector: {{matchLabels: {{tier: x}}}}, {spec}}}"));
        let spec =
            "mtls: {mode: DISABLE}, portLevelMtls: {80: {mode: STRICT}, 81: {mode: PERMISSIVE}}";
        let loose = peer(second, "shop", &format!("{{{app}, {spec}}}"));
        let set = set(&[loose, tier], MtlsMode::Disable);
        let policy = set.compile(&workload("shop", &[("app", "a"), ("tier", "x")]));
        let said = |port| {
            let (mode, by) = policy.mtls_mode(port);
            (mode, by.map(|by| by.name().to_owned()))
        };
        assert_eq!(said(None), (MtlsMode::Strict, by(first)));
        assert_eq!(said(Some(80)), (MtlsMode::Strict, by(second)));
        assert_eq!(said(Some(81)), (MtlsMode::Strict, by(first)));
        assert_eq!(said(Some(82)).0, MtlsMode::Disable);
    }
}

#[test]
fn destination_addresses() {
    let request = |ip: [u8; 4]| Attributes {
        destination_ip: Some(ip.into()),
        source_ip: Some([1, 1, 1, 1].into()),
        ..Attributes::default()
    };
    for (condition, near, far) in
        [("values: [10.0.0.0/8]", true, false), ("notValues: [10.0.0.0/8]", false, true)]
    {
        let rule = format!("{{when: [{{key: destination.ip, {condition}}}]}}");
        let policy = set(&policy("ALLOW", &rule)).compile(&workload("shop", &[]));
        assert_eq!(policy.decide(&request([10, 1, 2, 3])).is_allowed(), near, "{condition}");
        assert_eq!(policy.decide(&request([11, 1, 2, 3])).is_allowed(), far, "{condition}");
    }
}

#[test]
fn routes_have_the_name_of_the_pattern_that_matched() {
    let peer = Principal::from_spiffe_id("spiffe://td/ns/a/sa/b").unwrap();
    let route = |action: &str, paths: &str, path_text: &str| {
        let set = set_with(
            &policy(action, &format!("{{to: [{{operation: {paths}}}]}}")),
            Settings { default_action: DefaultAction::Allow, ..settings() },
        );
        let headers = http::HeaderMap::new();
        let target = path::normalize(path_text).unwrap();
        let request = Attributes {
            peer: Some(&peer),
            http: Some(Http {
                method: &http::Method::GET,
                path: &target.path,
                host: None,
                headers: &headers,
                token: None,
            }),
            ..Attributes::default()
        };
        set.compile(&workload("shop", &[])).decide(&request).route.map(|route| route.to_string())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(route("ALLOW", "{paths: [/a, /b]}", "/b"), some("/b"));
    assert_eq!(route("ALLOW", "{paths: [\"/static/*\"]}", "/static/x.js"), some("/static/*"));
    assert_eq!(route("ALLOW", "{paths: [\"/users/{*}\"]}", "/users/7"), some("/users/{*}"));
    assert_eq!(route("DENY", "{paths: [\"/users/{*}\"]}", "/users/7"), some("/users/{*}"));
    // Suffixes, stars and exclusions name no route; of several patterns one that does is taken.
    assert_eq!(route("ALLOW", "{paths: [\"*.js\"]}", "/x.js"), None);
    assert_eq!(route("ALLOW", "{paths: [\"*\"]}", "/x.js"), None);
    assert_eq!(route("ALLOW", "{paths: [\"*.js\", \"/x*\"]}", "/x.js"), some("/x*"));
    assert_eq!(route("ALLOW", "{notPaths: [/a]}", "/x"), None);
    assert_eq!(route("ALLOW", "{methods: [GET]}", "/x"), None);
    assert_eq!(route("ALLOW", "{paths: [/a]}", "/x"), None);
}
