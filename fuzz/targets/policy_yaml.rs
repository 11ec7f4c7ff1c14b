//! Policy files: whatever they hold, they are read or refused with a reason, twice the same way, and
//! what was read can be compiled and asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::explain::Explainer;
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{Document, PolicySet, Settings, Workload};

const NOW: u64 = 1_800_000_000;
const REQUEST: &str = r#"{"destination": "shop/orders", "labels": {"app": "orders"}, "port": 8080,
    "from": "spiffe://example.org/ns/shop/sa/web", "method": "GET", "path": "/orders/7",
    "host": "orders.shop", "source_ip": "10.0.0.1", "claims": {"iss": "a", "sub": "b"}}"#;

fuzz_target!(|text: &str| {
    let documents = [Document::whole("fuzz.yaml", text)];
    match PolicySet::parse(&documents, Settings::default()) {
        Ok(set) => {
            let again = PolicySet::parse(&documents, Settings::default());
            assert_eq!(again.map(|again| again.generation()).ok(), Some(set.generation()));
            let labels = [("app".to_owned(), "orders".to_owned())].into();
            let workload = Workload { namespace: "shop".into(), name: "orders".into(), labels };
            set.compile(&workload);
            // The part that a proxy is sent stands on its own.
            let part = PolicySet::parse(&set.documents_for(&workload), Settings::default());
            assert!(part.is_ok(), "a part of a good set is refused: {part:?}");
            Explainer::new(&set, &NoRemoteKeys, NOW).answer_json(REQUEST);
        }
        Err(diagnostics) => assert!(diagnostics.has_errors(), "refused without a reason"),
    }
});
