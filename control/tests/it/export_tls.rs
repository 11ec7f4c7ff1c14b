//! The export over mutual TLS, compressed, by both protocols.

use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use flate2::read::GzDecoder;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::codec::CompressionEncoding;

use crate::audit::{Emitter, ORDERS, batch, request};
use crate::export::{Received, anywhere};
use crate::mesh::Mesh;

/// An authority with a server's certificate and files of a client's.
fn identities(
    directory: &Path,
) -> (RootCertStore, rustls::pki_types::CertificateDer<'static>, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (client, client_key) = signed("client");
    std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("client.pem"), client.pem()).unwrap();
    let path = directory.join("client-key.pem");
    std::fs::write(&path, client_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (server, server_key) = signed("localhost");
    (roots, server.der().clone(), server_key)
}

/// A receiver that wants a certificate and compressed messages.
async fn receiver(directory: &Path, received: &Received) -> SocketAddr {
    let (roots, certificate, key) = identities(directory);
    let provider = picket_certs::tls::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let service =
        TraceServiceServer::new(received.clone()).accept_compressed(CompressionEncoding::Gzip);
    let taken = received.clone();
    let app = axum::Router::new()
        .route(
            "/v1/traces",
            axum::routing::post(async move |headers: http::HeaderMap, body: Bytes| {
                assert_eq!(headers["content-encoding"], "gzip");
                let mut message = Vec::new();
                GzDecoder::new(&*body).read_to_end(&mut message).unwrap();
                taken.take(ExportTraceServiceRequest::decode(&*message).unwrap()).unwrap();
            }),
        )
        .route_service("/opentelemetry.proto.collector.trace.v1.TraceService/Export", service);
    let app = app.layer(axum::middleware::from_fn(
        async |request: axum::extract::Request, next: axum::middleware::Next| {
            let encoding = request.headers().get("grpc-encoding").cloned();
            let is_grpc = request.headers()["content-type"] == "application/grpc";
            assert!(!is_grpc || encoding.is_some_and(|encoding| encoding == "gzip"));
            next.run(request).await
        },
    ));
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, app) = (acceptor.clone(), app.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let server = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(app);
                let _ended = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_may_ask_who_sends_and_get_it_compressed() {
    for protocol in ["grpc", "http/protobuf"] {
        let directory = tempfile::tempdir().unwrap();
        let received = Received::default();
        let port = receiver(directory.path(), &received).await.port();
        let path = directory.path().display();
        let export = format!(
            "export:\n  otlp: 'https://localhost:{port}'\n  protocol: {protocol}\n  \
             compression: gzip\n  caCertificate: {path}/ca.pem\n"
        );
        let client =
            format!("  clientCertificate: {path}/client.pem\n  clientKey: {path}/client-key.pem\n");
        let mesh = Mesh::start_with(&format!("{export}{client}")).await;
        let svid = mesh.svid("shop/orders").await;
        let mut emitter = Emitter::new(&mesh, &svid).await;
        emitter.send(batch(ORDERS, "b1", vec![request(0, 1)])).await.unwrap();
        mesh.wait_for("the export", |s| s.control.export.as_ref().unwrap().sent == 1).await;
        assert_eq!(*received.spans.lock().unwrap(), ["orders/orders/1"], "{protocol}");
        // Without a certificate nothing is taken.
        let directory = mesh.stop().await;
        let mesh = Mesh::start_in(directory, &export).await;
        let mut emitter = Emitter::new(&mesh, &svid).await;
        emitter.send(batch(ORDERS, "b1", vec![request(0, 3)])).await.unwrap();
        mesh.wait_for("the failure", |s| s.control.export.as_ref().unwrap().error.is_some()).await;
        assert_eq!(received.spans.lock().unwrap().len(), 1, "{protocol}");
    }
}
