//! A closed loop of requests over mTLS: every connection, or stream, sends the next one when the
//! answer to the last has been read. Bounded in number; it stops by itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) http2: bool,
    pub(crate) connections: usize,
    /// Requests at a time on one connection.
    pub(crate) streams: usize,
    /// Bytes of an answer.
    pub(crate) get: usize,
    /// Bytes of a request; 0 is a GET.
    pub(crate) post: usize,
    /// Whether connections are kept.
    pub(crate) reuse: bool,
}

impl Shape {
    fn request(&self) -> Request<Full<Bytes>> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let (method, target) = match self.post {
            0 => ("GET", format!("/bytes/{}", self.get)),
            _ => ("POST", "/bytes/100".to_owned()),
        };
        let target = if self.http2 { format!("https://orders{target}") } else { target };
        let mut request = Request::builder().method(method).uri(target);
        if !self.http2 {
            request = request.header("host", "orders");
        }
        let body = Bytes::from_static(ZEROS.get(..self.post).unwrap_or_default());
        request.body(Full::new(body)).unwrap()
    }
}

/// Sends so many requests; returns how long it took.
pub(crate) async fn run(
    tls: &Arc<ClientConfig>,
    to: SocketAddr,
    shape: Shape,
    requests: usize,
) -> Duration {
    let started = Instant::now();
    let each = requests.div_ceil(shape.connections * shape.streams);
    let mut tasks = Vec::new();
    for _ in 0..shape.connections {
        if !shape.reuse {
            let tls = Arc::clone(tls);
            tasks.push(tokio::spawn(async move {
                for _ in 0..each {
                    // No session of an earlier connection is resumed.
                    let mut fresh = (*tls).clone();
                    fresh.resumption = rustls::client::Resumption::disabled();
                    http1_requests(connect(&Arc::new(fresh), to).await, shape, 1).await;
                }
            }));
        } else if shape.http2 {
            let stream = TokioIo::new(connect(tls, to).await);
            let (client, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..shape.streams {
                let mut client = client.clone();
                tasks.push(tokio::spawn(async move {
                    for _ in 0..each {
                        client.ready().await.unwrap();
                        drain(client.send_request(shape.request()).await.unwrap()).await;
                    }
                }));
            }
        } else {
            let stream = connect(tls, to).await;
            tasks.push(tokio::spawn(http1_requests(stream, shape, each)));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    started.elapsed()
}

async fn http1_requests(stream: TlsStream<TcpStream>, shape: Shape, count: usize) {
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..count {
        client.ready().await.unwrap();
        drain(client.send_request(shape.request()).await.unwrap()).await;
    }
}

async fn drain(response: http::Response<hyper::body::Incoming>) {
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
}

pub(crate) async fn connect(tls: &Arc<ClientConfig>, to: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("orders.shop").unwrap();
    TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.unwrap()
}
