//! Traces arrive at an OTLP endpoint, whatever it does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use picket_control::operator::{CheckReport, Level};
use picket_control::telemetry::ProcessTraces;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::audit::{Emitter, ORDERS, batch, request};
use crate::mesh::{Mesh, config};

/// What a receiver was given: names of spans by sequence are enough.
#[derive(Clone, Default)]
pub(crate) struct Received {
    pub(crate) spans: Arc<Mutex<Vec<String>>>,
    /// Of the sender's metadata.
    key: Arc<Mutex<String>>,
}

impl Received {
    pub(crate) fn take(&self, message: ExportTraceServiceRequest) -> Result<(), Status> {
        let paths: Vec<String> = message
            .resource_spans
            .iter()
            .flat_map(|group| {
                let resource = group.resource.as_ref().unwrap();
                let service = picket_text(&resource.attributes, "service.name");
                let paths = group.scope_spans.iter().flat_map(|scope| &scope.spans);
                paths.map(move |span| {
                    format!("{service}{}", picket_text(&span.attributes, "url.path"))
                })
            })
            .collect();
        if paths.iter().any(|path| path.ends_with("/7")) {
            return Err(Status::invalid_argument("seven is not welcome"));
        }
        self.spans.lock().unwrap().extend(paths);
        Ok(())
    }

    fn count(&self) -> usize {
        self.spans.lock().unwrap().len()
    }
}

fn picket_text(
    attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue],
    name: &str,
) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let found = attributes.iter().find(|a| a.key == name).and_then(|a| a.value.as_ref());
    match found.and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(key) = request.metadata().get("x-api-key") {
            *self.key.lock().unwrap() = key.to_str().unwrap().to_owned();
        }
        self.take(request.into_inner())?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A receiver with a runtime of its own: when it is dropped, its connections are cut too.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Receiver {
    pub(crate) fn listen(received: &Received, address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = TraceServiceServer::new(received.clone());
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, runtime: Some(runtime) }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

pub(crate) fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn exporting(address: SocketAddr, protocol: &str) -> String {
    format!(
        "export: {{ otlp: 'http://{address}', protocol: {protocol}, headers: {{ x-api-key: k1 }} }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_holds_nothing_up_and_acts_stay_here() {
    let received = Received::default();
    let receiver = Receiver::listen(&received, anywhere());
    let address = receiver.address;
    let mesh = Mesh::start_with(&exporting(address, "grpc")).await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let spans = (1..=20).map(|sequence| request(0, sequence)).collect();
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    let status = mesh
        .wait_for("the export", |s| {
            s.control.export.as_ref().is_some_and(|e| e.sent + e.skipped == 20 && e.behind == 0)
        })
        .await;
    let export = status.control.export.unwrap();
    assert_eq!((export.sent, export.skipped, export.error), (19, 1, None));
    let expected: Vec<String> =
        (1..=20).filter(|n| *n != 7).map(|n| format!("orders/orders/{n}")).collect();
    assert_eq!(*received.spans.lock().unwrap(), expected, "in order, with their resource");
    assert_eq!(*received.key.lock().unwrap(), "k1");
    let check: CheckReport = mesh.get("/api/v1/check").await;
    assert_eq!(check.result, Level::Warning);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_export_goes_on_where_it_was_after_the_receiver_and_a_restart() {
    let received = Received::default();
    let receiver = Receiver::listen(&received, anywhere());
    let address = receiver.address;
    let mesh = Mesh::start_with(&exporting(address, "grpc")).await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    emitter.send(batch(ORDERS, "b1", vec![request(0, 1)])).await.unwrap();
    mesh.wait_for("the first span", |s| s.control.export.as_ref().unwrap().sent == 1).await;

    drop(receiver);
    // Taking records in does not wait for it.
    emitter.send(batch(ORDERS, "b1", vec![request(0, 2), request(0, 3)])).await.unwrap();
    let failing =
        mesh.wait_for("the failure", |s| s.control.export.as_ref().unwrap().error.is_some()).await;
    assert!(failing.control.export.unwrap().failing_since.is_some());
    let check: CheckReport = mesh.get("/api/v1/check").await;
    assert_eq!(check.items.iter().find(|i| i.group == "export").unwrap().level, Level::Failed);

    let directory = mesh.stop().await;
    let mesh = Mesh::start_in(directory, &exporting(address, "grpc")).await;
    let _receiver = Receiver::listen(&received, address);
    mesh.wait_for("the rest", |s| s.control.export.as_ref().unwrap().sent == 3).await;
    let expected = ["orders/orders/1", "orders/orders/2", "orders/orders/3"];
    assert_eq!(*received.spans.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_protobuf_is_spoken_too_and_a_busy_receiver_is_left_alone() {
    let received = Received::default();
    let taken = received.clone();
    let refuse_first = Arc::new(Mutex::new(true));
    let app = axum::Router::new().route(
        "/v1/traces",
        axum::routing::post(async move |headers: http::HeaderMap, body: Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            assert_eq!(headers["x-api-key"], "k1");
            if std::mem::take(&mut *refuse_first.lock().unwrap()) {
                return (http::StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]);
            }
            match taken.take(ExportTraceServiceRequest::decode(body).unwrap()) {
                Ok(()) => (http::StatusCode::OK, [("retry-after", "")]),
                Err(_) => (http::StatusCode::BAD_REQUEST, [("retry-after", "")]),
            }
        }),
    );
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let _server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mesh = Mesh::start_with(&exporting(address, "http/protobuf")).await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    let spans = (1..=8).map(|sequence| request(0, sequence)).collect();
    emitter.send(batch(ORDERS, "b1", spans)).await.unwrap();
    mesh.wait_for("the export", |s| {
        s.control.export.as_ref().is_some_and(|e| (e.sent, e.skipped) == (7, 1))
    })
    .await;
    assert_eq!(received.count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_switched_on_later_begins_with_what_comes() {
    let received = Received::default();
    let receiver = Receiver::listen(&received, anywhere());
    let address = receiver.address;
    let mesh = Mesh::start().await;
    let svid = mesh.svid("shop/orders").await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    emitter.send(batch(ORDERS, "b1", vec![request(0, 1)])).await.unwrap();
    let directory = mesh.stop().await;
    let mesh = Mesh::start_in(directory, &exporting(address, "grpc")).await;
    let mut emitter = Emitter::new(&mesh, &svid).await;
    emitter.send(batch(ORDERS, "b1", vec![request(0, 2)])).await.unwrap();
    mesh.wait_for("the export", |s| s.control.export.as_ref().unwrap().sent == 1).await;
    assert_eq!(*received.spans.lock().unwrap(), ["orders/orders/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_own_spans_go_the_same_way() {
    use tracing_subscriber::layer::SubscriberExt as _;

    for protocol in ["grpc", "http/protobuf"] {
        let received = Received::default();
        let receiver = Receiver::listen(&received, anywhere());
        let taken = received.clone();
        let app = axum::Router::new().route(
            "/v1/traces",
            axum::routing::post(async move |body: Bytes| {
                taken.take(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
            }),
        );
        let listener = TcpListener::bind(anywhere()).await.unwrap();
        let http = listener.local_addr().unwrap();
        let _server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let address = if protocol == "grpc" { receiver.address } else { http };
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), &exporting(address, protocol));
        let traces = ProcessTraces::new(&config.export.unwrap()).unwrap();
        let subscriber = tracing_subscriber::registry().with(traces.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!(target: "picket_control::api", "api", url.path = "/own")
                .in_scope(|| {});
            tracing::info_span!(target: "h2", "noise", url.path = "/noise").in_scope(|| {});
        });
        tokio::task::spawn_blocking(move || traces.shutdown()).await.unwrap();
        assert_eq!(*received.spans.lock().unwrap(), ["picket-control/own"], "{protocol}");
    }
}
