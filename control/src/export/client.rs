//! Sending OTLP over gRPC or HTTP, encrypted if the endpoint's URL says so.
//!
//! One HTTP client for both: the gRPC one only frames what the other posts. Nothing is decoded but the
//! answer.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use picket_api::otlp::{EXPORT_PATH, RawCodec};
use picket_certs::files::{self, FileError};
use prost::Message as _;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::timeout;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::config::{Export, Protocol};

/// Largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Why an endpoint cannot be addressed at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of authorities cannot be read.
    #[error("export.caCertificate cannot be read")]
    File(#[from] FileError),
    /// It is not PEM.
    #[error("export.caCertificate is not PEM with certificates")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// One of its certificates is none that can be believed.
    #[error("export.caCertificate has a certificate that cannot be believed")]
    Root(#[source] rustls::Error),
    /// The client certificate or its key cannot be read.
    #[error("export.clientCertificate or export.clientKey cannot be read")]
    ClientFile(#[source] FileError),
    /// They are not PEM.
    #[error("export.clientCertificate or export.clientKey is not PEM with what it should hold")]
    ClientPem(#[source] rustls::pki_types::pem::Error),
    /// They do not belong together.
    #[error("export.clientCertificate and export.clientKey cannot be used")]
    ClientIdentity(#[source] rustls::Error),
    /// The system's own authorities cannot be read.
    #[error("the system's certificate authorities cannot be read; set export.caCertificate")]
    System(#[source] std::io::Error),
    /// The TLS configuration cannot be made.
    #[error("the TLS configuration cannot be made")]
    Tls(#[source] rustls::Error),
}

/// Why a batch was not taken.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Not now: the same batch may be sent again.
    Unavailable {
        /// Why.
        reason: String,
        /// How long the endpoint asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Never: the batch itself is refused.
    Refused(String),
}

/// What the endpoint said of a batch that it took.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Spans of it that it did not take.
    pub(crate) rejected: u64,
    /// Why.
    pub(crate) message: String,
}

/// How connections are made: plain or TLS, as the URL says.
pub(crate) type Connector = HttpsConnector<HttpConnector>;

/// A client of one endpoint.
pub(crate) struct Client {
    transport: Transport,
    endpoint: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    gzip: bool,
    timeout: Duration,
}

enum Transport {
    Grpc(legacy::Client<Connector, tonic::body::Body>),
    Http(legacy::Client<Connector, Full<Bytes>>),
}

impl Client {
    /// A client that connects when it first sends.
    pub(crate) fn new(config: &Export) -> Result<Self, ClientError> {
        let connector = connector(config)?;
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        let transport = match config.protocol {
            Protocol::Grpc => {
                builder
                    .http2_only(true)
                    .http2_keep_alive_interval(Duration::from_secs(20))
                    .http2_keep_alive_timeout(Duration::from_secs(10));
                Transport::Grpc(builder.build(connector))
            }
            Protocol::HttpProtobuf => Transport::Http(builder.build(connector)),
        };
        Ok(Self {
            transport,
            endpoint: config.endpoint.clone(),
            headers: config.headers.clone(),
            gzip: config.gzip,
            timeout: config.timeout,
        })
    }

    /// Sends an `ExportTraceServiceRequest`.
    pub(crate) async fn send(&self, message: Bytes) -> Result<Answer, SendError> {
        let sent = async {
            match &self.transport {
                Transport::Grpc(client) => self.send_grpc(client, message).await,
                Transport::Http(client) => self.send_http(client, message).await,
            }
        };
        timeout(self.timeout, sent).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {:?}", self.timeout);
            Err(SendError::Unavailable { reason, retry_after: None })
        })
    }

    async fn send_grpc(
        &self,
        client: &legacy::Client<Connector, tonic::body::Body>,
        message: Bytes,
    ) -> Result<Answer, SendError> {
        let mut grpc = tonic::client::Grpc::with_origin(client.clone(), self.endpoint.clone())
            .accept_compressed(CompressionEncoding::Gzip);
        if self.gzip {
            grpc = grpc.send_compressed(CompressionEncoding::Gzip);
        }
        grpc.ready().await.map_err(|error| unavailable(&error))?;
        let mut request = tonic::Request::new(message);
        let metadata = request.metadata_mut().as_mut();
        for (name, value) in &self.headers {
            metadata.append(name, value.clone());
        }
        let path = http::uri::PathAndQuery::from_static(EXPORT_PATH);
        match grpc.unary(request, path, RawCodec).await {
            Ok(response) => answer(response.into_inner()),
            Err(status) => {
                let mut reason = format!("{:?}: {}", status.code(), status.message());
                if let Some(source) = std::error::Error::source(&status) {
                    reason.push_str(&format!(" ({})", crate::chain(source)));
                }
                match status.code() {
                    // About this message. Whatever else it is, another message may fare no better.
                    Code::InvalidArgument | Code::OutOfRange => Err(SendError::Refused(reason)),
                    _ => Err(SendError::Unavailable { reason, retry_after: None }),
                }
            }
        }
    }

    async fn send_http(
        &self,
        client: &legacy::Client<Connector, Full<Bytes>>,
        message: Bytes,
    ) -> Result<Answer, SendError> {
        let mut request = Request::post(self.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let message = if self.gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
            compressed(&message).map_err(|error| SendError::Refused(error.to_string()))?
        } else {
            message
        };
        let request = request
            .body(Full::new(message))
            .map_err(|error| SendError::Refused(error.to_string()))?;
        let response = client.request(request).await.map_err(|error| unavailable(&error))?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(seconds);
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        if status.is_success() {
            return answer(body);
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        let reason = format!("{status}: {}", text.escape_debug());
        match status {
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => Err(SendError::Refused(reason)),
            _ => Err(SendError::Unavailable { reason, retry_after }),
        }
    }
}

/// RFC 1952.
fn compressed(message: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(message)?;
    encoder.finish().map(Bytes::from)
}

fn answer(body: Bytes) -> Result<Answer, SendError> {
    // Whoever answers 200 with something else has taken the batch all the same.
    let response = ExportTraceServiceResponse::decode(body).unwrap_or_default();
    Ok(response.partial_success.map_or_else(Answer::default, |partial| Answer {
        rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
        message: partial.error_message,
    }))
}

fn unavailable(error: &(dyn std::error::Error + 'static)) -> SendError {
    SendError::Unavailable { reason: crate::chain(error).to_string(), retry_after: None }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// How an endpoint is connected to; its authorities are read now.
pub(crate) fn connector(config: &Export) -> Result<Connector, ClientError> {
    let builder = rustls::ClientConfig::builder_with_provider(picket_certs::tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?;
    let is_https = config.endpoint.scheme_str() == Some("https");
    let builder = match &config.ca_certificate {
        Some(path) => {
            let pem = files::read_public(path)?;
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.map_err(ClientError::Pem)?).map_err(ClientError::Root)?;
            }
            builder.with_root_certificates(Arc::new(roots))
        }
        None if is_https => builder.with_native_roots().map_err(ClientError::System)?,
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let tls = match &config.client {
        Some((certificate, key)) => {
            let pem = files::read_public(certificate).map_err(ClientError::ClientFile)?;
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let key = files::read_private(key).map_err(ClientError::ClientFile)?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(ClientError::ClientPem)?;
            builder
                .with_client_auth_cert(chain.map_err(ClientError::ClientPem)?, key)
                .map_err(ClientError::ClientIdentity)?
        }
        None => builder.with_no_client_auth(),
    };
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(match config.protocol {
        Protocol::Grpc => builder.enable_http2().build(),
        Protocol::HttpProtobuf => builder.enable_http1().build(),
    })
}
