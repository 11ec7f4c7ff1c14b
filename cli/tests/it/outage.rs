//! The control plane is away for long, and the mesh records on: everything arrives afterwards, in order,
//! and requests cost what they cost before.
//!
//! `PICKET_LONG_TESTS=1` sends as many requests as an hour of 50 a second has. The figures are printed, for
//! a reader to compare; with `PICKET_UNDER_TEST=target/release/picket` they are those of an optimised build.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use picket_testkit::{Echo, eventually};

use crate::app::{App, Call};
use crate::mesh::{Mesh, Workload, number, text};

/// Connections of the load.
const CONNECTIONS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_without_the_control_plane_is_recorded_in_order() {
    let (away, around) = if crate::long() { (180_000, 20_000) } else { (3_000, 500) };
    let echo = Echo::start().await;
    let mut mesh = Mesh::start("");
    let config = "audit: {maxSize: 2GiB}";
    mesh.add(&Workload { config, ..Workload::service("orders", echo.address()) });
    mesh.add(&Workload { config, ..Workload::caller("web") });
    mesh.until_synced();
    let to = mesh.sidecar("web").outbound;

    // Connections are made, caches are warm.
    send(to, around).await;
    let there = measured(&mut mesh, to, around).await;
    mesh.kill_control();
    // In parts, so that a cost that grows with what waits would show.
    let mut costs = Vec::new();
    for _ in 0..4 {
        costs.push(measured(&mut mesh, to, away / 4).await);
    }
    mesh.start_control();
    let catching_up = measured(&mut mesh, to, around).await;

    let sent = 3 * around + away;
    let began = Instant::now();
    eventually(Duration::from_secs(600), "every record arrives", || {
        let status = mesh.status();
        let proxies = status["proxies"].as_array().unwrap().iter();
        let stored = proxies.map(|proxy| proxy["audit"]["stored"].as_u64().unwrap_or(0));
        let whole = stored.sum::<u64>() >= 2 * sent as u64;
        (whole && status["control"]["audit_missing"] == 0).then_some(())
    });
    println!("{} records arrived within {:.1?}", 2 * sent, began.elapsed());
    println!("CPU us per request of each proxy's workers: the control plane there {there:.1?}");
    for (part, cost) in costs.iter().enumerate() {
        println!("away, part {} of 4: {cost:.1?}, {:.2} of that", part + 1, cost[1] / there[1]);
    }
    println!("back, and catching up: {catching_up:.1?}, {:.2} of that", catching_up[1] / there[1]);

    for (emitter, direction) in [("web", "outbound"), ("orders", "inbound")] {
        in_order(&mesh, emitter, direction, sent);
    }
}

/// Sends requests; then how many microseconds of CPU the workers of web's and of orders' proxy took for each.
async fn measured(mesh: &mut Mesh, to: SocketAddr, count: usize) -> [f64; 2] {
    let pids = ["web", "orders"].map(|name| mesh.process(name).id());
    let before = pids.map(worker_time);
    send(to, count).await;
    let used = [0, 1].map(|i| worker_time(pids[i]) - before[i]);
    used.map(|used| used.as_secs_f64() * 1e6 / count as f64)
}

/// CPU time of the threads that serve requests.
fn worker_time(pid: u32) -> Duration {
    let mut nanoseconds = 0;
    let mut workers = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().path();
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        if name.starts_with("worker-") {
            let stat = fs::read_to_string(task.join("schedstat")).unwrap();
            nanoseconds += stat.split(' ').next().unwrap().parse::<u64>().unwrap();
            workers += 1;
        }
    }
    assert_eq!(workers, 2, "the workers of {pid}");
    Duration::from_nanos(nanoseconds)
}

async fn send(to: SocketAddr, count: usize) {
    let left = Arc::new(AtomicUsize::new(count));
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let left = Arc::clone(&left);
        tasks.push(tokio::spawn(async move {
            let mut app = App::http1(to).await.unwrap();
            let take = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let (status, _) = app.send(&Call::get("/orders/7")).await.unwrap();
                assert_eq!(status, StatusCode::OK);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Each lane's records are all there and arrived in the order in which they were completed.
fn in_order(mesh: &Mesh, emitter: &str, direction: &str, sent: usize) {
    let workload = format!("shop/{emitter}");
    let records = mesh.search(&["--emitter", &workload, "--direction", direction]);
    assert_eq!(records.len(), sent, "one record for each request at {emitter}");
    let mut lanes: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for record in &records {
        let boot = text(record, "service.instance.id").to_owned();
        let lane = number(record, "picket.lane").unwrap();
        let position = number(record, "picket.chain.position").unwrap();
        let last = lanes.entry((boot, lane)).or_insert(position - 1);
        assert!(position > *last, "{position} after {last} in lane {lane} of {emitter}");
        *last = position;
    }
    assert!(lanes.len() >= 2, "{lanes:?}");
}
