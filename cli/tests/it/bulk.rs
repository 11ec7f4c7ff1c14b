//! Large bodies, up and down, over two hops: the proxies' memory does not grow with them.

use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use picket_testkit::{Echo, system};

use crate::app::{App, Body, Call};
use crate::mesh::{Mesh, number};

/// Bytes of one frame of an upload.
const FRAME: u64 = 64 << 10;

/// Most resident memory that a proxy may have had, and most of it beyond what it had when idle, in KiB:
/// twice what was seen. A debug build idles at 48 MiB, of which most is the program itself, and was
/// seen with 62 MiB at most; flow control lets an HTTP/2 connection have 4 MiB on the way.
const MOST: u64 = 128 << 10;
const MOST_MORE: u64 = 32 << 10;

static ZEROS: [u8; FRAME as usize] = [0; FRAME as usize];

/// A body of so many bytes, made as it is sent.
fn zeros(size: u64) -> Body {
    let frames = (0..size / FRAME).map(|_| Ok(Frame::data(Bytes::from_static(&ZEROS))));
    StreamBody::new(stream::iter(frames)).boxed()
}

async fn upload(app: &mut App, size: u64) -> String {
    let call = Call { method: Method::PUT, ..Call::get("/upload") };
    let response = app.start(call.with(zeros(size))).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&said["received"], &said["complete"]), (&size.into(), &true.into()));
    call.trace
}

async fn download(app: &mut App, size: u64) -> String {
    let call = Call::get(&format!("/bytes/{size}"));
    let response = app.start(call.request()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
    }
    assert_eq!(received, size);
    call.trace
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_in_constant_memory() {
    let size: u64 = if crate::long() { 1 << 30 } else { 256 << 20 };
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("", echo.address());
    let to = mesh.sidecar("web").outbound;
    let processes = ["web", "orders"].map(|name| mesh.process(name).id());
    let idle = processes.map(system::peak_memory);
    let mut worst = 0;
    for version in ["HTTP/1.1", "HTTP/2"] {
        for direction in ["up", "down"] {
            let mut app = match version {
                "HTTP/2" => App::http2(to).await.unwrap(),
                _ => App::http1(to).await.unwrap(),
            };
            // Otherwise the figure is the highest so far, which is a bound, too.
            let reset = processes.iter().all(|process| system::forget_peak_memory(*process));
            let started = Instant::now();
            let trace = match direction {
                "up" => upload(&mut app, size).await,
                _ => download(&mut app, size).await,
            };
            let rate = (size >> 20) as f64 / started.elapsed().as_secs_f64();
            let [web, orders] = processes.map(system::peak_memory);
            println!(
                "{} MiB {direction} over {version}: web {} MiB, orders {} MiB at most{}, {rate:.0} MiB/s",
                size >> 20,
                web >> 10,
                orders >> 10,
                if reset { "" } else { " since the start" },
            );
            worst = worst.max(web).max(orders);
            let name = match direction {
                "up" => "http.request.body.size",
                _ => "http.response.body.size",
            };
            for record in mesh.records(&trace, 2) {
                assert_eq!(
                    number(&record, name),
                    Some(i64::try_from(size).unwrap()),
                    "{record:#?}"
                );
            }
        }
    }
    println!("when idle: web {} MiB, orders {} MiB", idle[0] >> 10, idle[1] >> 10);
    assert!(worst < MOST, "{} MiB", worst >> 10);
    let more = worst.saturating_sub(idle[0].min(idle[1]));
    assert!(more < MOST_MORE, "{} MiB more than when idle", more >> 10);
}
