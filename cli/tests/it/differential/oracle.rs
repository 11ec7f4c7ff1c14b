//! One Envoy for many policy sets: each has an address of its own, where the filters that the export
//! made for it stand, unchanged, before an answer that tells what they did.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use picket_policy::envoy::EnvoyConfig;
use picket_testkit::mesh::Files;
use picket_testkit::{Port, Process, eventually};
use serde_json::{Value, json};

use super::generate::Ports;
use crate::mesh::get;

/// Many listeners take their time.
const READY: Duration = Duration::from_secs(60);

pub(super) struct Oracle {
    _process: Process,
}

/// The address of a set: half of them in one network, half in another.
pub(super) fn address(index: usize) -> Ipv4Addr {
    let part = |value: usize| u8::try_from(value).unwrap();
    Ipv4Addr::new(127, part(1 + index % 2), part(index / 250), part(1 + index % 250))
}

impl Oracle {
    /// Starts it with what was exported for each set.
    pub(super) fn start(
        program: &Path,
        directory: &Path,
        server: &Files,
        bundle: &Path,
        ports: Ports,
        sets: &[(IpAddr, EnvoyConfig)],
    ) -> Self {
        let mut listeners = Vec::new();
        for (address, set) in sets {
            let http = vec![connection_manager(&set.http_filters)];
            let echo = json!({
                "name": "echo",
                "typed_config": {"@type": url("envoy.extensions.filters.network.echo.v3.Echo")},
            });
            let tcp = set.network_filters.iter().cloned().chain([echo]).collect();
            listeners.push(listener(*address, ports.http, http, server, bundle));
            listeners.push(listener(*address, ports.tcp, tcp, server, bundle));
        }
        let admin = Port::reserve().release();
        let config = json!({
            "admin": {"address": socket(admin.ip(), admin.port())},
            "static_resources": {"listeners": listeners},
        });
        let file = directory.join("oracle.json");
        fs::write(&file, config.to_string()).unwrap();
        let file = file.display().to_string();
        let arguments =
            ["-c", &file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"];
        let mut process = Process::foreign("oracle", directory, program, &arguments);
        eventually(READY, "Envoy is ready", || {
            let ended = process.ended();
            assert!(ended.is_none(), "Envoy refused its configuration:\n{}", process.log());
            get(admin, "/ready").filter(|(status, _)| *status == 200)
        });
        Self { _process: process }
    }
}

fn url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

fn socket(address: IpAddr, port: u16) -> Value {
    json!({"socket_address": {"address": address.to_string(), "port_value": port}})
}

fn listener(
    address: IpAddr,
    port: u16,
    filters: Vec<Value>,
    server: &Files,
    bundle: &Path,
) -> Value {
    let tls = json!({
        "name": "tls",
        "typed_config": {
            "@type": url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": server.certificate},
                    "private_key": {"filename": server.key},
                }],
                "validation_context": {"trusted_ca": {"filename": bundle}},
            },
        },
    });
    let inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    json!({
        "name": format!("{address}:{port}"),
        "address": socket(address, port),
        "listener_filters": [{"name": "tls", "typed_config": {"@type": url(inspector)}}],
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "tls"},
                "transport_socket": tls,
                "filters": filters,
            },
            {"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": filters},
        ],
    })
}

/// As the exported fragment asks for, with an answer of its own that says what the filters wrote down.
fn connection_manager(filters: &[Value]) -> Value {
    let mut http_filters = filters.to_vec();
    http_filters.push(json!({
        "name": "router",
        "typed_config": {"@type": url("envoy.extensions.filters.http.router.v3.Router")},
    }));
    let shadow = |action: &str| {
        format!(
            "%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_{action}_shadow_engine_result)%"
        )
    };
    let said = [
        ("x-details", "%RESPONSE_CODE_DETAILS%".to_owned()),
        ("x-audit", "%DYNAMIC_METADATA(envoy.common:access_log_hint)%".to_owned()),
        ("x-dry-run-deny", shadow("deny")),
        ("x-dry-run-allow", shadow("allow")),
    ]
    .map(|(key, value)| json!({"header": {"key": key, "value": value}}));
    let always = json!({"status_code_filter": {"comparison": {
        "op": "GE", "value": {"default_value": 0, "runtime_key": "none"},
    }}});
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3";
    json!({"name": "http", "typed_config": {
        "@type": url(&format!("{manager}.HttpConnectionManager")),
        "stat_prefix": "http",
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "use_remote_address": true,
        "xff_num_trusted_hops": 1,
        "http_filters": http_filters,
        "local_reply_config": {"mappers": [{"filter": always, "headers_to_add": said}]},
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
        }]},
    }})
}
