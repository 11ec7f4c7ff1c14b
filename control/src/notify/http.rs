//! Posting to a sink over HTTP/1.1, encrypted if its URL says so. Redirects are not followed: a sink is who it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::SendError;
use crate::export::client::Connector;

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// A client of all sinks.
pub(super) struct Client {
    client: legacy::Client<Connector, Full<Bytes>>,
}

impl Client {
    /// Connects as `tls` says.
    pub(super) fn new(tls: &Arc<rustls::ClientConfig>) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(rustls::ClientConfig::clone(tls))
            .https_or_http()
            .enable_http1()
            .build();
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        Self { client: builder.build(connector) }
    }

    /// Posts JSON.
    pub(super) async fn post(
        &self,
        url: &Uri,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<(), SendError> {
        let mut request = Request::post(url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("picket/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let refused = |error: &http::Error| SendError::Refused(error.to_string());
        let request = request.body(Full::new(body)).map_err(|error| refused(&error))?;
        let response = self.client.request(request).await.map_err(|error| {
            let reason = crate::chain(&error).to_string();
            SendError::Unavailable { reason, retry_after: None }
        })?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        if status.is_success() {
            return Ok(());
        }
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let reason = format!("{status}: {}", text.escape_debug());
        let may_pass =
            matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        match status.is_client_error() && !may_pass {
            true => Err(SendError::Refused(reason)),
            false => Err(SendError::Unavailable { reason, retry_after }),
        }
    }
}
