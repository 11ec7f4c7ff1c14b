//! `picket check` and `picket status`: a mesh in health, and each kind of trouble with its fix.

use std::fs;
use std::time::{Duration, Instant};

use http::StatusCode;
use picket_testkit::{Echo, Signal, eventually};
use serde_json::Value;

use crate::app::{Call, call};
use crate::command::Run;
use crate::mesh::{Mesh, SOON, get, text};
use crate::policies;

/// The items of a report that are at some level, as `group: name: detail`, each with its fix.
fn items(report: &Value, level: &str) -> Vec<(String, String)> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    let items = report["items"].as_array().unwrap().iter().filter(|item| item["level"] == level);
    items
        .map(|item| {
            let [group, name, detail] = ["group", "name", "detail"].map(|part| text(item, part));
            (format!("{group}: {name}: {detail}"), text(item, "fix"))
        })
        .collect()
}

/// Waits until a check has an item at some level that says this, with a fix; returns the report's exit
/// status.
#[track_caller]
fn until_check_says(mesh: &Mesh, level: &str, words: &str) -> i32 {
    let what = format!("a check that says {words:?} at level {level}");
    let (status, fix) = eventually(SOON, &what, || {
        let run = mesh.picket(&["check", "-o", "json"]);
        let found = items(&run.json(), level).into_iter().find(|(item, _)| item.contains(words));
        found.map(|(_, fix)| (run.status, fix))
    });
    assert_ne!(fix, "", "{words} without a fix");
    status
}

#[track_caller]
fn is_well(mesh: &Mesh) {
    let run = eventually(SOON, "a check without a complaint", || {
        let run = mesh.picket(&["check", "-o", "json"]);
        (run.json()["result"] == "ok").then_some(run)
    });
    assert_eq!(run.status, 0);
    assert!(items(&run.json(), "warning").is_empty() && items(&run.json(), "failed").is_empty());
}

async fn status(mesh: &Mesh, path: &str) -> StatusCode {
    call(mesh.sidecar("web").outbound, &Call::get(path)).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_mesh_passes_every_check() {
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    is_well(&mesh);
    let Run { stdout, stderr, .. } = mesh.picket(&["check"]).fine();
    assert!(
        stdout.contains("√ API reachable") && stdout.contains("Result: × 0 failed"),
        "{stdout}"
    );
    assert!(stdout.contains("2 of 2 proxies enforce the current policies"), "{stdout}");
    assert_eq!(stderr, "");
    let short = mesh.picket(&["check", "-o", "short"]).fine().stdout;
    assert_eq!(short.lines().count(), 1, "{short}");
    let table = mesh.picket(&["status"]).fine().stdout;
    for workload in ["shop/web ", "shop/orders "] {
        let row = table.lines().find(|line| line.starts_with(workload)).unwrap();
        assert!(row.contains("synced") && row.contains("min left"), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_falls_behind_is_stale_then_silent_then_well_again() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    assert_eq!(status(&mesh, "/elsewhere").await, StatusCode::FORBIDDEN);
    mesh.process("orders").signal(Signal::STOP);
    let wider = policies::files(&mesh.issuer, "/elsewhere");
    let (name, text) = &wider[1];
    fs::write(mesh.policy(name), text).unwrap();
    assert_eq!(until_check_says(&mesh, "failed", "shop/orders: enforces generation"), 1);
    assert_eq!(mesh.status_of("orders")["state"], "stale");
    assert_eq!(mesh.status_of("web")["state"], "synced");
    let short = mesh.picket(&["check", "-o", "short"]);
    assert!(short.status == 1 && short.stdout.contains("× data-plane: shop/orders"), "{short:?}");

    assert_eq!(until_check_says(&mesh, "failed", "shop/orders: not heard of since"), 1);
    assert_eq!(mesh.status_of("orders")["state"], "silent");

    mesh.process("orders").signal(Signal::CONT);
    is_well(&mesh);
    assert_eq!(status(&mesh, "/elsewhere").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_renewed_is_warned_of_and_recovers() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("certificates: {life: 8s}", echo.address());
    is_well(&mesh);
    mesh.process("orders").signal(Signal::STOP);
    let warned = until_check_says(&mesh, "warning", "shop/orders: the certificate ends");
    assert_eq!(warned, 0, "a warning is no failure");
    let ended = until_check_says(&mesh, "failed", "shop/orders: the certificate has ended");
    assert_eq!(ended, 1);
    // An ended certificate is good for its own renewal.
    mesh.process("orders").signal(Signal::CONT);
    is_well(&mesh);
    assert_eq!(status(&mesh, "/orders/7").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_fails_is_on_record_by_the_proxy_and_an_alert() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("certificates: {life: 8s}", echo.address());
    mesh.kill_control();
    for name in ["web", "orders"] {
        eventually(SOON, "a renewal has failed", || {
            let (_, metrics) = get(mesh.sidecar(name).admin, "/metrics")?;
            let count = metrics
                .lines()
                .find_map(|line| line.strip_prefix("picket_certificate_renewals_failed_total "));
            (count? != "0").then_some(())
        });
    }
    mesh.start_control();
    let failed = eventually(SOON, "it is on record", || {
        let found = mesh.search(&["--event", "certificate.renewal_failed"]);
        (found.len() >= 2).then_some(found)
    });
    for record in &failed {
        assert_eq!(text(record, "picket.decision.reason"), "unreachable", "{record:#?}");
        assert!(!text(record, "picket.certificate.serial").is_empty(), "{record:#?}");
    }
    let of =
        |name: &str| failed.iter().filter(|r| text(r, "picket.emitter").ends_with(name)).count();
    assert_eq!((of("/web"), of("/orders")), (1, 1), "once each: {failed:#?}");
    eventually(SOON, "somebody is told", || {
        let page = mesh.picket(&["alerts", "list", "--all", "-o", "json"]).fine().json();
        let alerts = page["alerts"].as_array()?.clone();
        alerts.into_iter().find(|alert| alert["title"] == "A certificate is not renewed")
    });
    is_well(&mesh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_is_gone_is_said_to_be() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    mesh.kill_control();
    let check = mesh.picket(&["check"]);
    assert_eq!(check.status, 1, "{check:?}");
    assert!(check.stdout.contains("× API reachable"), "{check:?}");
    assert!(check.stdout.contains("fix: start it with `picket control run`"), "{check:?}");
    let report = mesh.picket(&["check", "-o", "json"]);
    assert_eq!((report.status, &report.json()["result"]), (1, &Value::from("failed")));
    let status = mesh.picket(&["status", "-o", "json"]);
    assert_eq!((status.status, status.stdout.as_str()), (3, ""));
    assert!(status.stderr.contains("cannot be reached"), "{status:?}");
    assert_eq!(self::status(&mesh, "/orders/7").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_policy_file_changes_nothing_and_is_named() {
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let before = mesh.status()["control"]["policy"].clone();
    let good = fs::read_to_string(mesh.policy(policies::FILE)).unwrap();
    // A key that nobody knows: without it the rule would allow every path.
    let place = good.lines().position(|line| line.contains("paths: [/orders/*")).unwrap();
    let column = good.lines().nth(place).unwrap().find("paths").unwrap() + 1;
    let place = format!("{}:{}:{column}: error", policies::FILE, place + 1);
    fs::write(mesh.policy(policies::FILE), good.replacen("paths:", "pahts:", 1)).unwrap();
    let refused = eventually(SOON, "the broken file is refused", || {
        let policy = mesh.status()["control"]["policy"].clone();
        (policy["refused"] == true).then_some(policy)
    });
    assert_eq!(refused["generation"], before["generation"]);
    let table = mesh.picket(&["status"]).fine().stdout;
    assert!(table.contains(&place), "{place} is not in {table}");
    let log = mesh.control.as_ref().unwrap().log();
    assert!(log.contains(&place), "{place} is not in {log}");
    assert_eq!(until_check_says(&mesh, "failed", &place), 1);
    for _ in 0..20 {
        assert_eq!(status(&mesh, "/orders/7").await, StatusCode::OK);
        assert_eq!(status(&mesh, "/elsewhere").await, StatusCode::FORBIDDEN);
    }
    for name in ["web", "orders"] {
        assert_eq!(mesh.status_of(name)["generation"], before["generation"]);
        assert_eq!(mesh.status_of(name)["state"], "synced");
    }
    fs::write(mesh.policy(policies::FILE), good).unwrap();
    is_well(&mesh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_file_is_enforced_within_a_second() {
    const EDITS: usize = 8;
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let mut took = Vec::new();
    for edit in 0..EDITS {
        let (open, expected) = match edit % 2 {
            0 => ("/elsewhere", StatusCode::OK),
            _ => (policies::OPEN, StatusCode::FORBIDDEN),
        };
        assert_ne!(status(&mesh, "/elsewhere").await, expected);
        let file = policies::files(&mesh.issuer, open).swap_remove(1);
        fs::write(mesh.policy(file.0), file.1).unwrap();
        let started = Instant::now();
        while status(&mesh, "/elsewhere").await != expected {
            assert!(started.elapsed() < SOON, "edit {edit} is not enforced");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        took.push(started.elapsed());
    }
    took.sort();
    let (median, longest) = (took[EDITS / 2], took[EDITS - 1]);
    println!("{EDITS} edits were enforced after {median:.0?} (median), {longest:.0?} (longest)");
}
