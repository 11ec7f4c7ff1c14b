//! The control plane's own traces: spans around enrolment and the operator API, sent by OpenTelemetry's
//! SDK to the endpoint that the mesh's traces go to.
//!
//! Only what this process does; audit records take another way ([`crate::config::Export`] is where both
//! lead). The caller adds the layer to its subscriber, and ends it last.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Compression, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use picket_api::attributes as names;
use tokio::runtime::Handle;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Export, Protocol};
use crate::export::client::{ClientError, Connector, connector};

/// Largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// How long the last spans may take at the end.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Why process traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The endpoint cannot be addressed.
    #[error("process traces cannot be sent")]
    Client(#[from] ClientError),
    /// The endpoint's URL is none that gRPC takes.
    #[error("the OTLP endpoint cannot be used for gRPC")]
    Endpoint(#[source] tonic::transport::Error),
    /// The exporter cannot be made.
    #[error("the OTLP exporter cannot be made")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

/// Sends spans until it is ended.
pub struct ProcessTraces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl ProcessTraces {
    /// Prepares an exporter; it connects when there is something to send. To be called inside the
    /// runtime that shall do the sending.
    ///
    /// # Errors
    /// When the endpoint cannot be addressed.
    pub fn new(export: &Export) -> Result<Self, TelemetryError> {
        let exporter = match export.protocol {
            Protocol::Grpc => grpc(export)?,
            Protocol::HttpProtobuf => http(export)?,
        };
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new(names::SERVICE_NAME, crate::SERVICE_NAME),
            KeyValue::new(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer(crate::SERVICE_NAME);
        Ok(Self { provider, tracer })
    }

    /// The layer that takes the control plane's spans, and nobody else's: those of the very libraries
    /// that send them would never end.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let layer = OpenTelemetryLayer::new(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        layer.with_filter(filter_fn(|metadata| {
            metadata.is_span() && metadata.target().starts_with("picket_control")
        }))
    }

    /// Sends what is left. Blocks: to be called off the runtime's threads.
    pub fn shutdown(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN) {
            tracing::debug!(%error, "the last process traces were not sent");
        }
    }
}

fn grpc(export: &Export) -> Result<SpanExporter, TelemetryError> {
    let endpoint = Endpoint::new(export.endpoint.clone()).map_err(TelemetryError::Endpoint)?;
    let channel = endpoint.connect_with_connector_lazy(connector(export)?);
    let headers = export.headers.iter().cloned().collect();
    let mut builder = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_metadata(MetadataMap::from_headers(headers))
        .with_timeout(export.timeout);
    if export.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build().map_err(TelemetryError::Exporter)
}

fn http(export: &Export) -> Result<SpanExporter, TelemetryError> {
    let client = legacy::Client::builder(TokioExecutor::new()).build(connector(export)?);
    let headers = export
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_http_client(Poster { client, runtime: Handle::current() })
        .with_endpoint(export.endpoint.to_string())
        .with_headers(headers.collect())
        .with_timeout(export.timeout);
    if export.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build().map_err(TelemetryError::Exporter)
}

/// Posts on the runtime, for the SDK's own thread.
#[derive(Debug)]
struct Poster {
    client: legacy::Client<Connector, Full<Bytes>>,
    runtime: Handle,
}

#[tonic::async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let post = self.runtime.spawn(async move {
            let response = client.request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, Box<dyn Error + Send + Sync>>(Response::from_parts(head, body))
        });
        post.await?
    }
}
