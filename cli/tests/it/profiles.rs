//! What is usual, as the control plane learns it from the records of real proxies, and as it is shown.

use picket_testkit::{Echo, eventually};
use serde_json::Value;

use crate::app::{Call, call};
use crate::mesh::{Mesh, SOON, id};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_shows_callers_and_their_calls_and_outlives_a_kill() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    let web = mesh.sidecar("web").outbound;
    for path in ["/orders/7", "/orders/8", "/secret/7"] {
        call(web, &Call::get(path)).await.unwrap();
    }
    let shown = |mesh: &Mesh, denied: u64| {
        eventually(SOON, "the profile has what was called", || {
            let run = mesh.picket(&["profile", "show", "orders", "-o", "json"]);
            let profile: Value = serde_json::from_str(&run.stdout).ok()?;
            (profile["denied"] == denied && profile["edges"].as_array()?.len() == 2)
                .then_some(profile)
        })
    };
    let profile = shown(&mesh, 1);
    assert_eq!(profile["service"], id("orders"));
    assert_eq!(profile["callers"][0]["name"], id("web"));
    assert_eq!(profile["callers_ready"]["ready"], false, "an hour is too little");
    let calls = profile["edges"][1]["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "what was denied is not usual: {calls:?}");
    assert!(calls[0]["name"].as_str().unwrap().starts_with("GET /orders/"), "{calls:?}");
    assert!(profile["edges"][1]["latency_us"][0].as_f64().unwrap() > 0.0);

    let list = mesh.picket(&["profile", "list"]).fine();
    assert!(
        list.stdout.contains(&id("orders")) && list.stdout.contains("1 edge"),
        "{}",
        list.stdout
    );
    let text = mesh.picket(&["profile", "show", &id("orders")]).fine().stdout;
    for part in ["callers", "still learning", "GET /orders/", "us (median, 95 %, 99 %)"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let none = mesh.picket(&["profile", "show", "nobody"]);
    assert!(none.stderr.contains("picket profile list"), "{}", none.stderr);
    assert!(mesh.picket(&["anomalies"]).fine().stdout.contains("EXPECTED"));
    let rules = mesh.picket(&["alerts", "rules", "-o", "json"]).fine().json();
    let is_detector = |rule: &&Value| rule["id"].as_str().unwrap().starts_with("anomaly.");
    assert_eq!(rules["rules"].as_array().unwrap().iter().filter(is_detector).count(), 15);

    mesh.kill_control();
    mesh.start_control();
    mesh.until_synced();
    assert_eq!(shown(&mesh, 1)["edges"][1]["calls"], profile["edges"][1]["calls"]);
}
