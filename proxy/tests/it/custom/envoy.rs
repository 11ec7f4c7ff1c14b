//! A real Envoy with its `ext_authz` filter asks the very same authorizer: callers get the same from both.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use picket_api::ext_authz::{CheckResponse, DeniedHttpResponse, HttpStatus, OkHttpResponse};
use picket_testkit::program::ENVOY;
use picket_testkit::{Port, Process, eventually};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::grpc::{self, Reply, no_with, option, status, yes, yes_with};
use super::{Authorizer, Does, YES, answer, http as http_policies, with};
use crate::support::{Sidecar, http1, send};

struct Envoy {
    _process: Process,
    _directory: TempDir,
    address: SocketAddr,
}

/// The filter for an authorizer that speaks HTTP, with the fields that Istio writes for our policies.
const HTTP: &str = "
            http_service:
              server_uri: {uri: 'http://ext', cluster: ext, timeout: 0.3s}
              path_prefix: /check
              authorization_response:
                allowed_upstream_headers: {patterns: [{exact: x-user}]}
                allowed_client_headers: {patterns: [{exact: set-cookie}]}
                allowed_client_headers_on_success: {patterns: [{exact: x-checked}]}";
const GRPC: &str = "
            grpc_service: {envoy_grpc: {cluster_name: ext}, timeout: 0.3s}";

impl Envoy {
    fn start(program: &Path, service: &str, authorizer: SocketAddr, upstream: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (listen, admin) = (Port::reserve().release(), Port::reserve().release());
        let config = directory.path().join("envoy.yaml");
        fs::write(&config, configuration(service, authorizer, upstream, listen, admin)).unwrap();
        let config = config.display().to_string();
        let arguments = ["-c", &config, "--use-dynamic-base-id", "--concurrency", "1"];
        let process = Process::foreign("envoy", directory.path(), program, &arguments);
        eventually(Duration::from_secs(60), "Envoy is ready", || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect(admin).ok()?;
            stream
                .write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .ok()?;
            let mut said = String::new();
            stream.read_to_string(&mut said).ok()?;
            said.contains("200 OK").then_some(())
        });
        Self { _process: process, _directory: directory, address: listen }
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, Bytes) {
        send(http1(TcpStream::connect(self.address).await.unwrap()).await, request).await
    }
}

fn configuration(
    service: &str,
    authorizer: SocketAddr,
    upstream: SocketAddr,
    listen: SocketAddr,
    admin: SocketAddr,
) -> String {
    let http = "type.googleapis.com/envoy.extensions.filters.http";
    let network = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3";
    let socket = |address: SocketAddr| {
        format!("{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}", address.port())
    };
    let cluster = |name: &str, address, options: &str| {
        format!(
            "
  - name: {name}
    connect_timeout: 1s{options}
    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}",
            socket(address)
        )
    };
    let http2 = "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}";
    let options = if service == GRPC { http2 } else { "" };
    format!(
        "admin: {{address: {}}}
static_resources:
  listeners:
  - address: {}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': {network}.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: service}}}}]}}
          http_filters:
          - name: ext_authz
            typed_config:
              '@type': {http}.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              status_on_error: {{code: 503}}{service}
          - name: router
            typed_config: {{'@type': {http}.router.v3.Router}}
  clusters:{}{}
",
        socket(admin),
        socket(listen),
        cluster("service", upstream, ""),
        cluster("ext", authorizer, options),
        service = service.replace("\n", "\n  "),
    )
}

/// What a caller and the service notice, as far as it has to be the same.
fn outcome((status, headers, body): (StatusCode, HeaderMap, Bytes)) -> String {
    let values = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    let told = ["location", "www-authenticate", "set-cookie", "retry-after", "x-checked"]
        .map(|name| format!("{name}={:?}", values(name)))
        .join(" ");
    let seen = match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(seen) if seen.get("target").is_some() => {
            // Several lines are one value (RFC 9110 section 5.3).
            let header = |name: &str| match seen["headers"][name].as_array() {
                Some(lines) => {
                    let lines: Vec<&str> = lines.iter().filter_map(|line| line.as_str()).collect();
                    lines.join(",")
                }
                None => "none".to_owned(),
            };
            format!("service: {} {} {}", seen["target"], header("x-user"), header("authorization"))
        }
        // The words of a proxy that got no answer are its own.
        _ if status == StatusCode::SERVICE_UNAVAILABLE => "no answer".to_owned(),
        _ => String::from_utf8_lossy(&body).into_owned(),
    };
    format!("{status} {told} {seen}")
}

fn request() -> Request<Full<Bytes>> {
    with("/ask/a?b=c", &[("x-user", "forged"), ("authorization", "Bearer x")])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_authorizer_is_understood_as_envoy_understands_it() {
    let test = "an_http_authorizer_is_understood_as_envoy_understands_it";
    let Some(program) = ENVOY.or_skip(test) else { return };
    let authorizer = Authorizer::start(Does::Wait).await;
    let fields = "pathPrefix: /check, timeout: 300ms, statusOnError: '503', headersToUpstreamOnAllow: [x-user], \
                  headersToDownstreamOnDeny: [set-cookie], headersToDownstreamOnAllow: [x-checked]";
    let sidecar = Sidecar::start(&http_policies(authorizer.address, fields)).await;
    let envoy = Envoy::start(&program, HTTP, authorizer.address, sidecar.echo.address());
    let cases = [
        (
            "yes with a header",
            Does::Answer(answer("200 OK", "x-user: ana\r\nx-checked: 1\r\nx-other: 1\r\n", "x")),
        ),
        (
            "no",
            Does::Answer(answer("403 Forbidden", "set-cookie: a=1\r\nx-other: 1\r\n", "not you")),
        ),
        (
            "a challenge",
            Does::Answer(answer("401 Unauthorized", "www-authenticate: Basic\r\n", "who?")),
        ),
        (
            "a redirection",
            Does::Answer(answer("302 Found", "location: https://login.example/\r\n", "")),
        ),
        ("not found", Does::Answer(answer("404 Not Found", "", "nothing"))),
        ("an error", Does::Answer(answer("500 Internal Server Error", "", "oh"))),
        ("silence", Does::Wait),
        ("a reset connection", Does::Reset),
        ("nonsense", Does::Answer(b"nonsense\r\n\r\n".to_vec())),
    ];
    for (what, does) in cases {
        authorizer.now(does);
        let ours = outcome(sidecar.call("web", request()).await);
        let question = authorizer.last();
        let theirs = outcome(envoy.call(request()).await);
        assert_eq!(ours, theirs, "{what}");
        let line = |question: &str| question.split_once("\r\n").unwrap().0.to_owned();
        assert_eq!(line(&question), line(&authorizer.last()), "{what}: the same is asked");
    }
    // Where we differ: the client's own header is not what the authorizer says.
    authorizer.answers(YES);
    let ours = outcome(sidecar.call("web", request()).await);
    let theirs = outcome(envoy.call(request()).await);
    assert!(ours.contains(" none ") && theirs.contains("forged"), "{ours}\n{theirs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_authorizer_is_understood_as_envoy_understands_it() {
    let test = "a_grpc_authorizer_is_understood_as_envoy_understands_it";
    let Some(program) = ENVOY.or_skip(test) else { return };
    let authorizer = grpc::Authorizer::start(Reply::of(&yes())).await;
    let sidecar = Sidecar::start(&authorizer.policies("timeout: 300ms, statusOnError: 503")).await;
    let envoy = Envoy::start(&program, GRPC, authorizer.address, sidecar.echo.address());
    let denied = |code| DeniedHttpResponse {
        status: Some(HttpStatus { code }),
        headers: vec![option("retry-after", "7", Some(false))],
        body: "later".to_owned(),
    };
    let changed = OkHttpResponse {
        headers: vec![option("x-user", "ana", Some(false))],
        headers_to_remove: vec!["authorization".to_owned()],
        response_headers_to_add: vec![option("x-checked", "1", Some(false))],
        ..OkHttpResponse::default()
    };
    let appended =
        OkHttpResponse { headers: vec![option("x-user", "ana", Some(true))], ..Default::default() };
    let cases = [
        ("yes", Reply::of(&yes())),
        ("yes, and changes", Reply::of(&yes_with(changed))),
        ("yes, and one more", Reply::of(&yes_with(appended))),
        ("no", Reply::of(&CheckResponse { status: status(7), http_response: None })),
        ("no, in words", Reply::of(&no_with(7, denied(429)))),
        ("no, without a status", Reply::of(&no_with(16, DeniedHttpResponse::default()))),
        ("no, as not found", Reply::of(&no_with(5, denied(404)))),
        ("a failed call", Reply { trailers: Some("13"), ..Reply::of(&yes()) }),
        ("an HTTP error", Reply { status: StatusCode::BAD_GATEWAY, ..Reply::of(&yes()) }),
        ("another message", Reply::bytes(b"\x0a\xff\xff")),
    ];
    for (what, reply) in cases {
        authorizer.now(reply);
        let ours = outcome(sidecar.call("web", request()).await);
        let theirs = outcome(envoy.call(request()).await);
        assert_eq!(ours, theirs, "{what}");
    }
    let asked = authorizer.asked.lock().unwrap().clone();
    for pair in asked.chunks(2) {
        let [ours, theirs] = pair else { panic!("each asks once") };
        let http = |asked: &picket_api::ext_authz::AttributeContext| {
            let http = asked.request.clone().unwrap().http.unwrap();
            let headers = [":authority", ":method", ":path", "x-user", "authorization"]
                .map(|name| http.headers.get(name).cloned());
            (http.method, http.path, http.host, http.protocol, headers)
        };
        assert_eq!(http(ours), http(theirs), "the same is asked");
    }
    // Where we differ: an answer that says nothing is no yes.
    authorizer.now(Reply::of(&CheckResponse::default()));
    assert_eq!(sidecar.call("web", request()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(envoy.call(request()).await.0, StatusCode::OK);
}
