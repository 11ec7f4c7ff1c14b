//! How long streams that have lost their right stay open, when very many lose it at once.
//!
//! So many HTTP/2 streams are open through one proxy; then the policy that allows them is replaced, and
//! for each the time from that moment to its end at the client is taken.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::cpu;
use crate::load;
use crate::peer::{Peer, Setup};

/// Streams of one connection.
const EACH: usize = 100;

/// Prints, for each round, how long the first, half of them, 99 of a hundred and the last took.
pub(crate) async fn measure(picket: &Path, setup: &Setup, streams: usize, rounds: usize) {
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>12}",
        "streams", "first", "p50", "p99", "last", "CPU us each"
    );
    for _ in 0..rounds {
        let running = Peer::Picket(picket.to_owned()).start(setup, true).await;
        let tls = setup.client(true);
        let mut open = Vec::new();
        let mut kept = Vec::new();
        for first in (0..streams).step_by(EACH) {
            let stream = TokioIo::new(load::connect(&tls, running.address).await);
            let (mut client, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            for _ in first..streams.min(first + EACH) {
                client.ready().await.unwrap();
                let request = Request::get("https://orders/bytes/open");
                let request = request.body(Empty::<Bytes>::new()).unwrap();
                let mut response = client.send_request(request).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                response.frame().await.unwrap().unwrap();
                open.push(tokio::spawn(end(response)));
            }
            kept.push(client);
        }
        let before = cpu::time(running.pid());
        let changed = Instant::now();
        setup.deny_all();
        let mut took = Vec::new();
        for stream in open {
            took.push(stream.await.unwrap() - changed);
        }
        let used = (cpu::time(running.pid()) - before).as_secs_f64() * 1e6 / streams as f64;
        took.sort_unstable();
        let at = |share: f64| {
            let index = ((took.len() - 1) as f64 * share) as usize;
            took.get(index).map_or(0.0, Duration::as_secs_f64) * 1e3
        };
        println!(
            "{streams:>8} {:>6.0} ms {:>6.0} ms {:>6.0} ms {:>6.0} ms {used:>12.1}",
            at(0.0),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        drop(kept);
    }
}

async fn end(mut response: http::Response<Incoming>) -> Instant {
    while let Some(Ok(_frame)) = response.frame().await {}
    Instant::now()
}
