//! A stock Envoy as mTLS client: it presents the certificate of `shop/web` and takes the server for
//! orders only by its SPIFFE ID, over HTTP/1.1 and HTTP/2.
//!
//! Our leaves have an empty subject and a critical subject alternative name (RFC 5280 section 4.2.1.6):
//! this shows that BoringSSL takes them. As a client Envoy offers no more than TLS 1.2 unless it is told
//! to, so `tls_params` has to be there.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use picket_testkit::program::ENVOY;
use picket_testkit::{Port, Process, eventually};

use crate::app::{App, Call};
use crate::house::House;
use crate::mesh::{SOON, get, id, number, text};

/// An Envoy that listens in plain text and chooses its cluster by the header `x-cluster`.
struct Envoy {
    _process: Process,
    listen: SocketAddr,
}

impl Envoy {
    fn start(program: &Path, house: &House) -> Self {
        let (listen, admin) = (Port::reserve(), Port::reserve());
        let config = house.directory().join("envoy.yaml");
        let (listen, admin) = (listen.release(), admin.release());
        fs::write(&config, configuration(house, listen, admin)).unwrap();
        let config = config.display().to_string();
        // Without a shared-memory region of its own two could not run at once.
        let arguments = ["-c", &config, "--use-dynamic-base-id", "--concurrency", "1"];
        let process = Process::foreign("envoy", house.directory(), program, &arguments);
        eventually(SOON, "Envoy is ready", || get(admin, "/ready").filter(|(s, _)| *s == 200));
        Self { _process: process, listen }
    }

    async fn send(&self, cluster: &'static str, call: &Call) -> (StatusCode, String) {
        let mut request = call.request();
        // Not as to a proxy: Envoy is a server here.
        *request.uri_mut() = call.path.parse().unwrap();
        request.headers_mut().insert("x-cluster", HeaderValue::from_static(cluster));
        let mut app = App::http1(self.listen).await.unwrap();
        let response = app.start(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

fn configuration(house: &House, listen: SocketAddr, admin: SocketAddr) -> String {
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3";
    let socket = |address: SocketAddr| {
        format!("{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}", address.port())
    };
    let clusters = [
        cluster(house, "http1", "http_protocol_options", "orders"),
        cluster(house, "http2", "http2_protocol_options", "orders"),
        cluster(house, "somebody-else", "http_protocol_options", "payments"),
    ];
    format!(
        "admin: {{address: {admin}}}
static_resources:
  listeners:
  - address: {listen}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/{manager}.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster_header: x-cluster}}}}]
          http_filters:
          - name: router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
{}",
        clusters.concat(),
        admin = socket(admin),
        listen = socket(listen),
    )
}

fn cluster(house: &House, name: &str, protocol: &str, server: &str) -> String {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let file = |path: &Path| format!("{{filename: '{}'}}", path.display());
    format!(
        "  - name: {name}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/{options}
        explicit_http_config: {{{protocol}: {{}}}}
    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/{tls}
        common_tls_context:
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
          alpn_protocols: [{alpn}]
          tls_certificates: [{{certificate_chain: {certificate}, private_key: {key}}}]
          validation_context:
            trusted_ca: {bundle}
            match_typed_subject_alt_names:
            - {{san_type: URI, matcher: {{exact: '{id}'}}}}
",
        port = house.inbound.port(),
        alpn = if protocol.starts_with("http2") { "h2" } else { "http/1.1" },
        certificate = file(&house.web.certificate),
        key = file(&house.web.key),
        bundle = file(&house.web.bundle),
        id = id(server),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_as_mtls_client_gets_what_policy_says() {
    let Some(program) = ENVOY.or_skip("envoy_as_mtls_client_gets_what_policy_says") else { return };
    let house = House::of_mesh("http").await;
    let envoy = Envoy::start(&program, &house);
    for (cluster, version) in [("http1", "1.1"), ("http2", "2")] {
        for (path, status, decision) in
            [("/orders/7", StatusCode::OK, "allow"), ("/secret/7", StatusCode::FORBIDDEN, "deny")]
        {
            let call = Call::get(path);
            let (answered, words) = envoy.send(cluster, &call).await;
            assert_eq!(answered, status, "{cluster} {path}: {words}");
            let record = house.record(&call.trace);
            assert_eq!(text(&record, "picket.source"), id("web"));
            assert_eq!(text(&record, "picket.decision"), decision);
            assert_eq!(text(&record, "network.protocol.version"), version);
            assert_eq!(text(&record, "tls.protocol.version"), "1.3");
            let answered = number(&record, "http.response.status_code");
            assert_eq!(answered, Some(i64::from(status.as_u16())));
        }
    }
    // Envoy ends the handshake when it finds orders where it wants payments.
    let before = house.refused_connections();
    let reached = house.echo.requests();
    let (answered, words) = envoy.send("somebody-else", &Call::get("/orders/7")).await;
    assert_eq!(answered, StatusCode::SERVICE_UNAVAILABLE, "{words}");
    assert_eq!(house.next_refusal(&before), "tls_failed");
    let refused = house.refused_connections().pop().unwrap();
    let why = refused["events"][0]["message"].as_str().unwrap();
    assert!(why.contains("CertificateUnknown"), "{why}");
    assert_eq!(house.echo.requests(), reached);
}
