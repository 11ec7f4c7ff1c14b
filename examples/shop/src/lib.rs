//! The sample shop: web -> orders -> payments.
//!
//! Three small HTTP services that know nothing of meshes, certificates or policies. Each listens in
//! plain text on loopback and calls the next one by its name through an HTTP proxy, as any program
//! does that honours `http_proxy`. Like every program that wants to be seen in one trace, they pass
//! `traceparent` and the caller's `authorization` on.
//!
//! | service | serves | calls |
//! |---|---|---|
//! | web | `GET /`, `POST /checkout` | `POST http://orders.shop/orders` |
//! | orders | `GET /orders/{id}`, `POST /orders` | `POST http://payments.shop/charge` |
//! | payments | `POST /charge`, `POST /refund` | |
//!
//! ```text
//! picket-shop web --listen 127.0.0.1:8080 --proxy 127.0.0.1:15001
//! ```
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: picket-shop web|orders|payments --listen ADDRESS:PORT \
                     [--proxy ADDRESS:PORT]";

/// A service of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// What customers see.
    Web,
    /// Keeps orders.
    Orders,
    /// Takes money.
    Payments,
}

impl Service {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Orders => "orders",
            Self::Payments => "payments",
        }
    }
}

/// Runs a service as its command line says, until the process is ended. On standard output it says
/// where it listens.
///
/// # Errors
/// When the command line is wrong or the address cannot be listened on.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (service, listen, proxy) = parse(arguments).ok_or(USAGE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(service, listen, proxy))
}

fn parse(arguments: &[String]) -> Option<(Service, SocketAddr, Option<SocketAddr>)> {
    let (name, options) = arguments.split_first()?;
    let service = [Service::Web, Service::Orders, Service::Payments]
        .into_iter()
        .find(|service| service.name() == name)?;
    let (mut listen, mut proxy) = (None, None);
    for option in options.chunks(2) {
        match option {
            [name, value] if name == "--listen" => listen = Some(value.parse().ok()?),
            [name, value] if name == "--proxy" => proxy = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some((service, listen?, proxy))
}

async fn serve(
    service: Service,
    listen: SocketAddr,
    proxy: Option<SocketAddr>,
) -> Result<(), Box<dyn Error>> {
    let socket = TcpListener::bind(listen).await?;
    println!("{} listens on {}", service.name(), socket.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            accepted = socket.accept() => accepted?.0,
            _ = terminate.recv() => return Ok(()),
        };
        tokio::spawn(async move {
            let answer = service_fn(move |request| async move {
                Ok::<_, Infallible>(answer(service, proxy, request).await)
            });
            let served = server::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // A caller that goes away is no trouble.
            let _ended = served.await;
        });
    }
}

async fn answer(
    service: Service,
    proxy: Option<SocketAddr>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let next = |host: &'static str, path: &'static str, body: Value| {
        call(proxy, host, path, &parts.headers, body)
    };
    let (status, answer) = match (service, &parts.method, path) {
        (Service::Web, &Method::GET, "/") => (StatusCode::OK, json!({"shop": "open"})),
        (Service::Web, &Method::POST, "/checkout") => {
            next("orders.shop", "/orders", json!({"item": "lamp", "price": 42})).await
        }
        (Service::Orders, &Method::POST, "/orders") => {
            let order = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let order: Value = serde_json::from_slice(&order).unwrap_or_default();
            let amount = order.get("price").cloned().unwrap_or(Value::from(0));
            let (status, charged) =
                next("payments.shop", "/charge", json!({"amount": amount})).await;
            (status, json!({"order": 7, "payment": charged}))
        }
        (Service::Orders, &Method::GET, path) if path.starts_with("/orders/") => {
            let id = path.trim_start_matches("/orders/");
            (StatusCode::OK, json!({"order": id, "state": "paid"}))
        }
        (Service::Payments, &Method::POST, "/charge") => (StatusCode::OK, json!({"charged": true})),
        (Service::Payments, &Method::POST, "/refund") => {
            (StatusCode::OK, json!({"refunded": true}))
        }
        _ => (StatusCode::NOT_FOUND, json!({"error": "there is nothing here"})),
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Calls another service by its name. What it answers, an error included, is the answer.
async fn call(
    proxy: Option<SocketAddr>,
    host: &str,
    path: &str,
    headers: &HeaderMap,
    body: Value,
) -> (StatusCode, Value) {
    match try_call(proxy, host, path, headers, body).await {
        Ok((status, answer)) => (status, answer),
        Err(error) => (StatusCode::BAD_GATEWAY, json!({"error": error.to_string()})),
    }
}

async fn try_call(
    proxy: Option<SocketAddr>,
    host: &str,
    path: &str,
    headers: &HeaderMap,
    body: Value,
) -> Result<(StatusCode, Value), Box<dyn Error + Send + Sync>> {
    let proxy = proxy.ok_or("no --proxy was given")?;
    let mut request = Request::post(format!("http://{host}{path}"))
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json");
    for name in ["traceparent", "tracestate", "authorization"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Full::new(Bytes::from(body.to_string())))?;
    let stream = TokioIo::new(TcpStream::connect(proxy).await?);
    let (mut sender, connection) = client::handshake(stream).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&answer).unwrap_or_default()))
}
