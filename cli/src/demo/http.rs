//! The demo's own requests: what a browser, a service or an attacker would send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use picket_certs::{Expect, PeerVerifier, SpiffeId, TrustBundle, tls};
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::exit::words;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What is sent.
pub(super) struct Call<'a> {
    /// Where the socket goes: a sidecar's listener.
    pub(super) to: SocketAddr,
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) token: Option<&'a str>,
    /// The trace that it begins.
    pub(super) trace: &'a str,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

/// Sends a request in plain text.
pub(super) async fn send(call: &Call<'_>) -> Result<Reply, String> {
    tokio::time::timeout(TIMEOUT, exchange(call))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
}

async fn exchange(call: &Call<'_>) -> Result<Reply, String> {
    let failed = |error: &(dyn std::error::Error + 'static)| words(error);
    let stream = TcpStream::connect(call.to).await.map_err(|error| failed(&error))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let parent = call.trace.get(..16).unwrap_or_default();
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header(HOST, call.host)
        .header("traceparent", format!("00-{}-{parent}-01", call.trace));
    if let Some(token) = call.token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::new())).map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| failed(&error))?;
    Ok(Reply { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
}

/// Tries a TLS handshake without a client certificate; gives the alert that ended it.
pub(super) async fn knock(to: SocketAddr, bundle: TrustBundle, server: SpiffeId) -> Option<String> {
    let verifier = PeerVerifier::new(bundle, Expect::Workload(server));
    let config = tls::client_config(None, verifier, &[b"http/1.1"]).ok()?;
    let name = ServerName::try_from("orders.shop").ok()?;
    let stream = TcpStream::connect(to).await.ok()?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let ended = match connected {
        Err(error) => error,
        // In TLS 1.3 a client learns of the refusal only when it reads.
        Ok(mut stream) => stream.read_u8().await.err()?,
    };
    Some(words(&ended))
}
