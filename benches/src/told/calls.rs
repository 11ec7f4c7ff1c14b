//! Calls through the sidecars: those that are refused, one at a time, and the load.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::MissedTickBehavior;

use crate::upstream;

/// Connections of the load.
const CONNECTIONS: u32 = 16;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Starts the service behind orders, on a thread of its own.
pub(super) fn service() -> SocketAddr {
    let runtime = runtime();
    let address = runtime.block_on(upstream::start());
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    address
}

/// Asks for what is not allowed; returns by path when the answer had been read.
pub(super) async fn refused(
    outbound: SocketAddr,
    paths: Vec<String>,
    every: Duration,
) -> HashMap<String, Instant> {
    let mut client = connect(outbound).await;
    let mut ended = HashMap::new();
    for path in paths {
        let status = call(&mut client, Method::DELETE, &path).await;
        ended.insert(path, Instant::now());
        assert_eq!(status, StatusCode::FORBIDDEN, "what is measured is refused");
        // Not in step with anything that has a period of its own.
        tokio::time::sleep(every.mul_f64(0.5 + fastrand::f64())).await;
    }
    ended
}

/// Calls at a pace, on a thread of its own.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    /// By how much a call began after its time, in microseconds.
    latest: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    pub(super) fn start(outbound: SocketAddr, calls_per_second: u32) -> Self {
        let (stop, latest) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let pause = Duration::from_secs(1) * CONNECTIONS / calls_per_second.max(1);
        let shared = (Arc::clone(&stop), Arc::clone(&latest));
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let tasks: Vec<_> = (0..CONNECTIONS)
                    .map(|number| {
                        let first = tokio::time::Instant::now() + pause * number / CONNECTIONS;
                        let mut ticks = tokio::time::interval_at(first, pause);
                        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                        let (stop, latest) = shared.clone();
                        tokio::spawn(async move {
                            let mut client = connect(outbound).await;
                            while !stop.load(Ordering::Relaxed) {
                                let due = ticks.tick().await;
                                let late = due.elapsed().as_micros();
                                latest.fetch_max(late as u64, Ordering::Relaxed);
                                let status = call(&mut client, Method::GET, "/bytes/100").await;
                                assert_eq!(status, StatusCode::OK, "the load is allowed");
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
        Self { stop, latest, thread }
    }

    /// Ends it; says how far a call was behind its time at most.
    pub(super) fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        Duration::from_micros(self.latest.load(Ordering::Relaxed))
    }
}

type Client = SendRequest<Empty<Bytes>>;

async fn connect(outbound: SocketAddr) -> Client {
    let stream = TcpStream::connect(outbound).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// One call of orders, to the last byte of its answer.
async fn call(client: &mut Client, method: Method, path: &str) -> StatusCode {
    client.ready().await.unwrap();
    let request = Request::builder().method(method).uri(path).header("host", "orders.shop");
    let response = client.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}
