//! A worker's connections to one authorizer, and what it takes from them: one answer, whole and bounded.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use picket_policy::authorizer::{Check, ExternalAuthorizer};
use tokio::sync::Semaphore;

use super::CheckError;

/// Largest body of an answer, in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 10;
/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Questions of one worker that are asked at the same time; others wait, within their time.
const MAX_ASKED: usize = 256;
/// Connections that are kept although nothing is asked, and how long.
const MAX_IDLE: usize = 64;
const IDLE: Duration = Duration::from_secs(30);
/// How soon a connection that has gone silent is given up (HTTP/2 alone knows pings).
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// One worker's way to one authorizer.
pub(super) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    authority: Option<Authority>,
    asked: Semaphore,
    host: Box<str>,
    port: u16,
    http2: bool,
    failing: Cell<bool>,
}

/// An answer, read to its end.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

fn is_http2(authorizer: &ExternalAuthorizer) -> bool {
    matches!(authorizer.check(), Check::Grpc)
}

impl Client {
    pub(super) fn new(authorizer: &ExternalAuthorizer) -> Self {
        let (host, port, http2) = (authorizer.host(), authorizer.port(), is_http2(authorizer));
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .timer(TokioTimer::new())
            .http1_max_buf_size(MAX_HEAD)
            .http2_only(http2)
            .http2_max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .http2_keep_alive_interval(PING.0)
            .http2_keep_alive_timeout(PING.1)
            .build(connector);
        let authority = match host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        Self {
            http,
            authority: authority.parse().ok(),
            asked: Semaphore::new(MAX_ASKED),
            host: host.into(),
            port,
            http2,
            failing: Cell::new(false),
        }
    }

    /// Whether it leads to this authorizer.
    pub(super) fn is_for(&self, authorizer: &ExternalAuthorizer) -> bool {
        *self.host == *authorizer.host()
            && self.port == authorizer.port()
            && self.http2 == is_http2(authorizer)
    }

    /// Where it leads to.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Sends one question and reads the whole answer.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, CheckError> {
        // It is never closed, and if it were the question would be asked all the same.
        let _turn = self.asked.acquire().await;
        let response = self.http.request(request).await.map_err(|error| {
            if error.is_connect() {
                CheckError::Unreachable(error)
            } else {
                CheckError::Broken(error.into())
            }
        })?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                CheckError::TooLarge
            } else {
                CheckError::Broken(error)
            }
        })?;
        let trailers = body.trailers().cloned();
        Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }

    /// Says once that it fails, and once that it no longer does.
    pub(super) fn note(&self, authorizer: &ExternalAuthorizer, error: Option<&CheckError>) {
        let before = self.failing.replace(error.is_some());
        let (authorizer, fails_open) = (authorizer.name(), authorizer.is_fail_open());
        match error {
            Some(error) if !before => {
                let cause = crate::words(error);
                tracing::warn!(
                    authorizer,
                    cause,
                    fails_open,
                    "an external authorizer gives no answer"
                );
            }
            Some(error) => {
                tracing::debug!(authorizer, cause = crate::words(error), "no answer");
            }
            None if before => tracing::info!(authorizer, "an external authorizer answers again"),
            None => {}
        }
    }
}
