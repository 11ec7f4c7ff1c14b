//! The proxies under test, each with the same job: terminate mTLS with the same certificates, demand
//! a client certificate, decide by SPIFFE ID, method and path, forward in plain text, and write down
//! every request (Picket its audit span to the spool, Envoy a JSON access log to a file).

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_testkit::Mesh;
use rustls::ClientConfig;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

/// What all peers have in common.
pub(crate) struct Setup {
    mesh: Mesh,
    upstream: SocketAddr,
    directory: TempDir,
}

impl Setup {
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        let mesh = Mesh::new("example.org");
        let directory = tempfile::tempdir().unwrap();
        let life = Duration::from_secs(24 * 3600);
        mesh.files(&directory.path().join("identity"), "shop", "orders", life);
        Self { mesh, upstream, directory }
    }

    pub(crate) fn client(&self, http2: bool) -> Arc<ClientConfig> {
        let web = self.mesh.svid("shop", "web");
        let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        self.mesh.client(Some(&web), &self.mesh.id("shop", "orders"), alpn)
    }

    /// From now on nothing is allowed by Picket.
    pub(crate) fn deny_all(&self) {
        let denied = POLICY.replace("shop/sa/web", "shop/sa/nobody");
        let next = self.path("policies/next");
        fs::write(&next, denied).unwrap();
        fs::rename(&next, self.path("policies/orders.yaml")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A proxy under test.
pub(crate) enum Peer {
    Picket(PathBuf),
    /// With `audit.enabled: false`.
    Unrecorded(PathBuf),
    Envoy(PathBuf),
}

/// A running one. It ends when it is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Peer {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Picket(_) => "picket",
            Self::Unrecorded(_) => "no audit",
            Self::Envoy(_) => "envoy",
        }
    }

    /// Starts it on the first core and waits until it accepts connections.
    pub(crate) async fn start(&self, setup: &Setup, http2: bool) -> Running {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(setup.path("peer.log")).unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        match self {
            Self::Picket(program) | Self::Unrecorded(program) => {
                let config = setup.path("proxy.yaml");
                let records = matches!(self, Self::Picket(_));
                let text = format!("{}audit: {{enabled: {records}}}\n", picket_yaml(setup, free));
                fs::write(&config, text).unwrap();
                command.arg(program).args(["proxy", "run", "--config"]).arg(config);
            }
            Self::Envoy(program) => {
                let config = setup.path("envoy.json");
                fs::write(&config, envoy_json(setup, free, http2).to_string()).unwrap();
                command.arg(program).args(["--concurrency", "1", "--log-level", "error", "-c"]);
                command.arg(config).args(["--use-dynamic-base-id"]);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let running = Running { child: child.spawn().unwrap(), address: free };
        let started = Instant::now();
        while TcpStream::connect(free).await.is_err() {
            let log = || fs::read_to_string(setup.path("peer.log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(20), "it does not listen: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running
    }
}

const POLICY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  rules:
  - from: [{source: {principals: ["example.org/ns/shop/sa/web"]}}]
    to: [{operation: {methods: [GET, POST], paths: ["/bytes/*"]}}]
"#;

fn picket_yaml(setup: &Setup, listen: SocketAddr) -> String {
    let policies = setup.path("policies");
    fs::create_dir_all(&policies).unwrap();
    fs::write(policies.join("orders.yaml"), POLICY).unwrap();
    let state = setup.path("state");
    // Each round begins with an empty spool.
    let _none_yet = fs::remove_dir_all(&state);
    let Identity { certificate, key, bundle } = identity(setup);
    format!(
        "trustDomain: example.org
stateDir: {}
workload: {{namespace: shop, serviceAccount: orders}}
files: {{certificate: {certificate}, key: {key}, bundle: {bundle}, policyDir: {}}}
inbound: [{{listen: '{listen}', forward: '{}'}}]
workers: 1
",
        state.display(),
        policies.display(),
        setup.upstream
    )
}

struct Identity {
    certificate: String,
    key: String,
    bundle: String,
}

fn identity(setup: &Setup) -> Identity {
    let text = |path: &Path| path.display().to_string();
    Identity {
        certificate: text(&setup.path("identity/svid.pem")),
        key: text(&setup.path("identity/key.pem")),
        bundle: text(&setup.path("identity/bundle.pem")),
    }
}

fn envoy_json(setup: &Setup, listen: SocketAddr, http2: bool) -> serde_json::Value {
    let Identity { certificate, key, bundle } = identity(setup);
    let alpn = if http2 { "h2" } else { "http/1.1" };
    let log = setup.path("access.log").display().to_string();
    let socket = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    json!({"static_resources": {
        "listeners": [{
            "address": socket(listen),
            "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "common_tls_context": {
                        "alpn_protocols": [alpn],
                        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                        "tls_certificates": [{
                            "certificate_chain": {"filename": certificate},
                            "private_key": {"filename": key},
                        }],
                        "validation_context": {"trusted_ca": {"filename": bundle}},
                    },
                }},
                "filters": [{"name": "hcm", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "in",
                    "codec_type": "AUTO",
                    "access_log": [{"name": "file", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        "path": log,
                        "log_format": {"json_format": {
                            "time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%PATH(NQ:PATH)%",
                            "code": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%",
                            "peer": "%DOWNSTREAM_PEER_URI_SAN%", "duration": "%DURATION%",
                            "sent": "%BYTES_SENT%", "received": "%BYTES_RECEIVED%",
                            "tls": "%DOWNSTREAM_TLS_VERSION%", "trace": "%TRACE_ID%",
                        }},
                    }}],
                    "http_filters": [
                        {"name": "rbac", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                            "rules": {"action": "ALLOW", "policies": {"orders": {
                                "permissions": [{"and_rules": {"rules": [
                                    {"or_rules": {"rules": [method("GET"), method("POST")]}},
                                    {"url_path": {"path": {"prefix": "/bytes/"}}},
                                ]}}],
                                "principals": [{"authenticated": {"principal_name": {
                                    "exact": "spiffe://example.org/ns/shop/sa/web",
                                }}}],
                            }}},
                        }},
                        {"name": "router", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        }},
                    ],
                    "route_config": {"virtual_hosts": [{
                        "name": "all", "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}],
                    }]},
                }}],
            }],
        }],
        "clusters": [{
            "name": "app", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_requests": 100_000, "max_pending_requests": 100_000}]},
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket(setup.upstream)}},
            ]}]},
        }],
    }})
}

fn method(name: &str) -> serde_json::Value {
    json!({"header": {"name": ":method", "string_match": {"exact": name}}})
}
