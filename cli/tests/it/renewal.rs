//! Certificates that are renewed all the time, under constant traffic that must not notice: by
//! default 25 seconds with certificates of 6, in the long form five minutes with certificates of one.
//! Only a stream notices: it ends with the certificate that it began with, and the next one goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use picket_testkit::Echo;
use tokio::task::JoinHandle;

use crate::app::{App, Call, call};
use crate::mesh::{Mesh, Record, text};

/// Between two requests of one client: constant traffic, not as much as there can be.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two lines of a stream.
const LINE: Duration = Duration::from_millis(100);

/// One client's requests that were answered, and what went wrong.
#[derive(Default)]
struct Outcome {
    served: usize,
    errors: Vec<String>,
}

impl Outcome {
    fn take(&mut self, result: Result<u16, String>, started: Instant) {
        match result {
            Ok(200) => self.served += 1,
            Ok(status) => self.errors.push(format!("{:.1?}: {status}", started.elapsed())),
            Err(error) => self.errors.push(format!("{:.1?}: {error}", started.elapsed())),
        }
    }
}

/// Sends over one connection for as long as it lasts, which has to be to the end.
fn long_lived(mut app: App, until: Instant) -> JoinHandle<Outcome> {
    let started = Instant::now();
    tokio::spawn(async move {
        let mut outcome = Outcome::default();
        while Instant::now() < until && outcome.errors.len() < 10 {
            let result = app.send(&Call::get("/orders/7")).await;
            let result = result.map(|(status, _)| status.as_u16()).map_err(|e| format!("{e:?}"));
            outcome.take(result, started);
            tokio::time::sleep(PAUSE).await;
        }
        outcome
    })
}

/// Sends each request over a connection of its own.
fn new_each_time(to: SocketAddr, until: Instant) -> JoinHandle<Outcome> {
    let started = Instant::now();
    tokio::spawn(async move {
        let mut outcome = Outcome::default();
        while Instant::now() < until && outcome.errors.len() < 10 {
            let result = call(to, &Call::get("/orders/7")).await;
            let result = result.map(|(status, _)| status.as_u16()).map_err(|e| format!("{e:?}"));
            outcome.take(result, started);
            tokio::time::sleep(PAUSE).await;
        }
        outcome
    })
}

/// One response after the other, each of which would last to the end.
fn streams(to: SocketAddr, http2: bool, until: Instant) -> JoinHandle<Outcome> {
    let started = Instant::now();
    tokio::spawn(async move {
        let mut outcome = Outcome::default();
        let left = || until.saturating_duration_since(Instant::now());
        while left() > LINE && outcome.errors.len() < 10 {
            let lines = left().as_millis() / LINE.as_millis() + 1;
            let path = format!("/stream/{lines}/{}", LINE.as_millis());
            let app = if http2 { App::http2(to).await } else { App::http1(to).await };
            let response = app.unwrap().start(Call::get(&path).request()).await;
            match response {
                Ok(response) => {
                    outcome.take(Ok(response.status().as_u16()), started);
                    // Why it ends is on the record.
                    response.into_body().collect().await.ok();
                }
                Err(error) => outcome.take(Err(format!("{error:?}")), started),
            }
        }
        outcome
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_go_unnoticed_by_constant_traffic() {
    let (life, lasts) = if crate::long() { (60, 300) } else { (6, 25) };
    let lasts = Duration::from_secs(lasts);
    let echo = Echo::start().await;
    let mesh = Mesh::of_two(&format!("certificates: {{life: {life}s}}"), echo.address());
    let to = mesh.sidecar("web").outbound;
    let until = Instant::now() + lasts;
    let clients = [
        ("long-lived HTTP/1.1", long_lived(App::http1(to).await.unwrap(), until)),
        ("long-lived HTTP/1.1", long_lived(App::http1(to).await.unwrap(), until)),
        ("long-lived HTTP/2", long_lived(App::http2(to).await.unwrap(), until)),
        ("new connections", new_each_time(to, until)),
        ("streams over HTTP/1.1", streams(to, false, until)),
        ("streams over HTTP/2", streams(to, true, until)),
    ];
    let mut errors = Vec::new();
    let mut told = Vec::new();
    for (what, client) in clients {
        let outcome = client.await.unwrap();
        told.push(format!("{what}: {}", outcome.served));
        errors.extend(outcome.errors.iter().map(|error| format!("{what}: {error}")));
    }
    let renewed = mesh.search(&["--event", "enrollment.renew"]);
    let of =
        |name: &str| renewed.iter().filter(|r| text(r, "picket.actor").ends_with(name)).count();
    let (web, orders) = (of("/web"), of("/orders"));
    let inbound = mesh.search(&["--direction", "inbound"]);
    let (ended, whole) = endings(&mesh.search(&["--path", "/stream/"]));
    let serial = |record: &Record| text(record, "picket.peer.serial").to_owned();
    let serials: BTreeSet<String> = inbound.iter().map(serial).collect();
    println!(
        "certificates of {life} s, {lasts:.0?}: {}; web renewed {web} times, orders {orders} times, \
         web called with {} certificates; {ended} streams ended with a certificate, {whole} by \
         themselves; {} errors",
        told.join(", "),
        serials.len(),
        errors.len(),
    );
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(ended >= 2 && whole <= 2, "streams do not end with their certificates, or too early");
    assert!(renewed.iter().all(|record| text(record, "picket.outcome") == "granted"));
    let least = if crate::long() { 7 } else { 4 };
    assert!(web >= least && orders >= least && serials.len() > least, "too few renewals");
}

/// How many streams were ended because a certificate had, and how many ended by themselves. Whoever
/// of the two sidecars notices first ends it, and the other one sees that.
fn endings(records: &[Record]) -> (usize, usize) {
    let mut streams: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in records {
        streams.entry(text(record, "trace_id")).or_default().push(text(record, "picket.ending"));
    }
    let whole = |endings: &[&str]| endings.iter().all(|ending| *ending == "completed");
    let (whole, cut): (Vec<_>, Vec<_>) = streams.values().partition(|endings| whole(endings));
    for endings in &cut {
        assert!(endings.contains(&"certificate_expired"), "a stream was cut short: {endings:?}");
    }
    (cut.len(), whole.len())
}
