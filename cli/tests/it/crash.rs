//! `kill -9` of the control plane, of a proxy and of both, under load and at random moments: the mesh
//! goes on from what it has, and what anybody saw is on the record.
//!
//! `PICKET_CRASH_ROUNDS=200` kills so often; left out, once for each kind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picket_testkit::{Echo, eventually};

use crate::load::{Entry, Load};
use crate::mesh::{Mesh, Record, SOON, number, text};

/// What is killed in one round.
#[derive(Clone, Copy, Debug)]
struct Victims {
    control: bool,
    web: bool,
    orders: bool,
}

const ROUNDS: [Victims; 6] = [
    Victims { control: true, web: false, orders: false },
    Victims { control: false, web: true, orders: false },
    Victims { control: false, web: false, orders: true },
    Victims { control: true, web: true, orders: false },
    Victims { control: true, web: false, orders: true },
    Victims { control: true, web: true, orders: true },
];

/// A moment that nobody has chosen.
async fn a_moment(random: &mut fastrand::Rng) {
    tokio::time::sleep(Duration::from_millis(random.u64(50..400))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_nothing_acknowledged_is_lost() {
    let seed = std::env::var("PICKET_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PICKET_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    let load = Load::start(mesh.sidecar("web").outbound, &mut random);
    load.serves(20, "at first").await;

    // Without the control plane they serve, and do so even after a restart of their own.
    mesh.kill_control();
    load.serves(50, "without the control plane").await;
    for name in ["orders", "web"] {
        mesh.kill(name);
        mesh.restart(name);
        load.serves(50, "by a proxy that was restarted without the control plane").await;
    }
    mesh.start_control();

    let count = std::env::var("PICKET_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut rounds: Vec<Victims> =
        ROUNDS.into_iter().cycle().take(count.unwrap_or(ROUNDS.len())).collect();
    random.shuffle(&mut rounds);
    for victims in rounds {
        load.serves(20, "before anything is killed").await;
        a_moment(&mut random).await;
        if victims.orders {
            mesh.kill("orders");
        }
        if victims.web {
            mesh.kill("web");
        }
        if victims.control {
            mesh.kill_control();
        }
        a_moment(&mut random).await;
        let (control_first, mut control) = (random.bool(), victims.control);
        if control_first && std::mem::take(&mut control) {
            mesh.start_control();
        }
        for (name, was_killed) in [("web", victims.web), ("orders", victims.orders)] {
            if was_killed {
                mesh.restart(name);
            }
        }
        if control {
            load.serves(5, &format!("after {victims:?}, still without the control plane")).await;
            mesh.start_control();
        }
        load.serves(20, &format!("after {victims:?}")).await;
    }
    let log = load.stop().await;
    reconcile(&mesh, &log, &echo.traces());
}

/// The records of one trace.
#[derive(Default)]
struct Hops<'r> {
    outbound: Vec<&'r Record>,
    inbound: Vec<&'r Record>,
}

fn by_trace(records: &[Record]) -> BTreeMap<&str, Hops<'_>> {
    let mut by_trace: BTreeMap<&str, Hops<'_>> = BTreeMap::new();
    for record in records {
        let hops = by_trace.entry(text(record, "trace_id")).or_default();
        match text(record, "picket.direction") {
            "outbound" => hops.outbound.push(record),
            _ => hops.inbound.push(record),
        }
    }
    by_trace
}

/// Holds what the clients and the service know against the trail.
fn reconcile(mesh: &Mesh, log: &[Entry], reached: &[String]) {
    let reached: BTreeSet<&str> = {
        let once: BTreeSet<&str> = reached.iter().map(String::as_str).collect();
        assert_eq!(once.len(), reached.len(), "a request reached the service twice");
        once
    };
    let records = eventually(SOON, "everything that anybody saw is on the record", || {
        let records = mesh.search(&["--kind", "request"]);
        let hops = by_trace(&records);
        let is_whole = |entry: &&Entry| {
            let hops = hops.get(entry.trace.as_str());
            let (out, back) = hops.map_or((0, 0), |hops| (hops.outbound.len(), hops.inbound.len()));
            let got_there = reached.contains(entry.trace.as_str());
            let from_orders = got_there || matches!(entry.answered, Some(200 | 403));
            (out > 0 || entry.answered.is_none()) && (back > 0 || !from_orders)
        };
        let missing = log.iter().filter(|entry| !is_whole(entry)).count();
        (missing == 0).then_some(records)
    });
    let hops = by_trace(&records);
    let (mut lost_answers, mut interrupted, mut unavailable) = (0, 0, 0);
    for Entry { trace, answered } in log {
        let got_there = reached.contains(trace.as_str());
        let Some(Hops { outbound, inbound }) = hops.get(trace.as_str()) else {
            assert!(answered.is_none() && !got_there);
            continue;
        };
        assert!(outbound.len() <= 1 && inbound.len() <= 1, "{outbound:#?} {inbound:#?}");
        let of_upstream = matches!(answered, Some(200 | 403));
        if of_upstream || got_there {
            assert_eq!((outbound.len(), inbound.len()), (1, 1), "{trace} {answered:?}");
        }
        if let Some(status) = *answered {
            let recorded = number(outbound[0], "http.response.status_code");
            assert_eq!(recorded, Some(i64::from(status)), "{outbound:#?}");
            unavailable += usize::from(!of_upstream);
            // A proxy that loses its peers or its policies has forgotten its last good state.
            let why = text(outbound[0], "error.type");
            assert!(!why.starts_with("destination") && why != "not_ready", "{outbound:#?}");
        }
        if of_upstream {
            assert_eq!(number(inbound[0], "http.response.status_code"), recorded(answered));
        }
        lost_answers += usize::from(got_there && answered.is_none());
        let of_crash = |record: &&Record| text(record, "picket.ending") == "interrupted";
        interrupted += inbound.iter().chain(outbound).copied().filter(of_crash).count();
    }
    let sent: BTreeSet<&str> = log.iter().map(|entry| entry.trace.as_str()).collect();
    for trace in hops.keys() {
        assert!(sent.contains(trace), "nobody sent {trace}");
    }
    let ids: BTreeSet<&str> = records.iter().map(|record| text(record, "id")).collect();
    assert_eq!(ids.len(), records.len(), "a record is there twice");
    println!(
        "{} requests, {} of them reached the service, {} records; {lost_answers} reached it and were \
         not answered, {unavailable} were refused by web's sidecar for lack of an upstream, \
         {interrupted} records were interrupted",
        log.len(),
        reached.len(),
        records.len(),
    );
    assert!(interrupted > 0, "no crash hit a request: this showed nothing");
    // Whatever was killed, nobody has tampered, and everything can be shown to be there.
    let tampered = mesh.search(&["--kind", "event", "--event", "picket.audit.tamper"]);
    assert!(tampered.is_empty(), "{tampered:#?}");
    let verified = mesh.picket(&["audit", "verify", "-o", "json"]).fine().json();
    assert_eq!(verified["result"], "good", "{verified:#}");
}

fn recorded(answered: &Option<u16>) -> Option<i64> {
    answered.map(i64::from)
}
