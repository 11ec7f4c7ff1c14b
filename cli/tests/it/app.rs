//! The service's own side of a sidecar: plain HTTP over loopback, as an app would speak it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A request to be sent, in a trace of its own.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) trace: String,
}

impl Call {
    pub(crate) fn get(path: &str) -> Self {
        let trace = new_trace(&mut fastrand::Rng::new());
        Self { method: Method::GET, path: path.to_owned(), token: None, trace }
    }

    /// The request, to orders.
    pub(crate) fn request(&self) -> Request<Body> {
        self.with(full(Bytes::new()))
    }

    /// The same, with a body.
    pub(crate) fn with(&self, body: Body) -> Request<Body> {
        let parent = format!("00-{}-{}-01", self.trace, &self.trace[..16]);
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(format!("http://orders.shop{}", self.path))
            .header("host", "orders.shop")
            .header("traceparent", parent);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(body).unwrap()
    }
}

/// A trace id that is surely new.
pub(crate) fn new_trace(random: &mut fastrand::Rng) -> String {
    // The upper half is the span that it begins with: neither may be zero.
    format!("{:016x}{:016x}", random.u64(1..), random.u64(1..))
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// A connection of an app to its sidecar.
pub(crate) enum App {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl App {
    pub(crate) async fn http1(to: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    /// With prior knowledge, as gRPC without TLS begins.
    pub(crate) async fn http2(to: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// Another handle of the same HTTP/2 connection.
    pub(crate) fn clone_http2(&self) -> Self {
        let Self::Http2(sender) = self else { panic!("HTTP/1.1 connections are not shared") };
        Self::Http2(sender.clone())
    }

    /// Sends a request and returns the head of the answer.
    pub(crate) async fn start(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failed> {
        let unsent = |mut error: TrySendError<Request<Body>>| match error.take_message() {
            Some(_) => Failed::Unsent,
            None => Failed::Broken(error.into_error()),
        };
        match self {
            Self::Http1(sender) => {
                sender.ready().await.map_err(|_| Failed::Unsent)?;
                sender.try_send_request(request).await.map_err(unsent)
            }
            Self::Http2(sender) => {
                sender.ready().await.map_err(|_| Failed::Unsent)?;
                sender.try_send_request(request).await.map_err(unsent)
            }
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&mut self, call: &Call) -> Result<(StatusCode, Bytes), Failed> {
        let response = self.start(call.request()).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("no connection")]
    Connect(#[from] std::io::Error),
    #[error("the connection was closed before anything of the request was sent")]
    Unsent,
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
}

/// One request on a connection of its own.
pub(crate) async fn call(to: SocketAddr, call: &Call) -> Result<(StatusCode, Bytes), Failed> {
    App::http1(to).await?.send(call).await
}
