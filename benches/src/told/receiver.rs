//! A receiver of webhooks with a clock: Picket's own, and those of an Alertmanager.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// By which way an alert came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Webhook,
    Alertmanager,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Alertmanager => "Alertmanager",
        }
    }
}

/// When an alert first came, by its path.
type Arrivals = HashMap<String, Instant>;

pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    arrivals: Arc<Mutex<HashMap<Way, Arrivals>>>,
    runtime: Handle,
}

impl Receiver {
    /// Listens, on a thread of its own.
    pub(super) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let socket = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = socket.local_addr().unwrap();
        let arrivals = Arc::default();
        let (handle, shared) = (runtime.handle().clone(), Arc::clone(&arrivals));
        std::thread::spawn(move || runtime.block_on(serve(socket, shared)));
        Self { address, arrivals, runtime: handle }
    }

    /// Runs something on the same thread.
    pub(super) fn run<T: Send + 'static>(
        &self,
        what: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (done, result) = oneshot::channel();
        self.runtime.spawn(async move {
            let _receiver_waits = done.send(what.await);
        });
        result.blocking_recv().unwrap()
    }

    pub(super) fn told(&self, way: Way) -> Arrivals {
        self.arrivals.lock().unwrap().get(&way).cloned().unwrap_or_default()
    }
}

async fn serve(socket: TcpListener, arrivals: Arc<Mutex<HashMap<Way, Arrivals>>>) {
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        let arrivals = Arc::clone(&arrivals);
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let arrivals = Arc::clone(&arrivals);
                async move {
                    let is_picket = request.uri().path() == "/picket";
                    let body = request.into_body().collect().await;
                    let now = Instant::now();
                    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let (way, paths) = match is_picket {
                        true => (Way::Webhook, of_picket(&body)),
                        false => (Way::Alertmanager, of_alertmanager(&body)),
                    };
                    let mut arrivals = arrivals.lock().unwrap();
                    let arrivals = arrivals.entry(way).or_default();
                    for path in paths {
                        arrivals.entry(path).or_insert(now);
                    }
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn of_picket(notice: &Value) -> Vec<String> {
    let group = notice.pointer("/alert/group").and_then(|group| group.get("url.path"));
    let is_firing = notice.get("state").is_some_and(|state| state == "firing");
    let path = group.and_then(Value::as_str).filter(|_| is_firing);
    path.map(str::to_owned).into_iter().collect()
}

fn of_alertmanager(message: &Value) -> Vec<String> {
    let alerts = message.get("alerts").and_then(Value::as_array).into_iter().flatten();
    let firing = alerts.filter(|alert| alert.get("status").is_some_and(|s| s == "firing"));
    let path = |alert: &Value| Some(alert.pointer("/labels/url_path")?.as_str()?.to_owned());
    firing.filter_map(path).collect()
}
