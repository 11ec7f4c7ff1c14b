//! A whole configuration: one listener with the filters before one service, ready to be run.
//!
//! It is what a proxy of ours would be with these policies, without records, renewal or revocation: certificate, key and
//! trust bundle are files, read once.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::EnvoyConfig;
use super::matchers::{type_url, with};
use crate::document::MtlsMode;

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2: each request is decided.
    Http,
    /// Anything else: the connection is decided.
    Tcp,
}

/// Where Envoy listens, and for whom.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the service does.
    pub forward: SocketAddr,
    /// What the port speaks.
    pub protocol: Protocol,
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// The authorities of the mesh, PEM.
    pub bundle: PathBuf,
    /// Proxies in front whose `x-forwarded-for` entries are believed.
    pub trusted_hops: usize,
}

/// What an HTTP connection manager needs for a path to be read as we read it: one spelling, no two readings.
pub(super) fn connection_manager_settings() -> Value {
    json!({
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    })
}

impl EnvoyConfig {
    /// A configuration to start Envoy with.
    pub fn bootstrap(&self, listener: &Listener) -> Value {
        let mut clusters = self.clusters.clone();
        clusters.push(json!({
            "name": "service",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(listener.forward)}},
            ]}]},
        }));
        let filters = match listener.protocol {
            Protocol::Http => vec![self.connection_manager(listener.trusted_hops)],
            Protocol::Tcp => self.network_filters.iter().cloned().chain([tcp_proxy()]).collect(),
        };
        let tls = json!({
            "filter_chain_match": {"transport_protocol": "tls"},
            "transport_socket": tls(listener),
            "filters": filters,
        });
        let plain = json!({
            "filter_chain_match": {"transport_protocol": "raw_buffer"},
            "filters": filters,
        });
        let chains = match self.mtls {
            MtlsMode::Strict => vec![tls],
            MtlsMode::Permissive => vec![tls, plain],
            MtlsMode::Disable => vec![plain],
        };
        json!({"static_resources": {
            "listeners": [{
                "name": "inbound",
                "address": address(listener.listen),
                "listener_filters": [tls_inspector()],
                "filter_chains": chains,
            }],
            "clusters": clusters,
        }})
    }

    fn connection_manager(&self, trusted_hops: usize) -> Value {
        let mut http_filters = self.http_filters.clone();
        http_filters.push(json!({
            "name": "router",
            "typed_config": {"@type": type_url("envoy.extensions.filters.http.router.v3.Router")},
        }));
        let name =
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let own = json!({
            "@type": type_url(name),
            "stat_prefix": "inbound",
            "use_remote_address": true,
            "xff_num_trusted_hops": trusted_hops,
            "http_filters": http_filters,
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": {"prefix": "/"},
                    "route": {"cluster": "service", "timeout": "0s"},
                }],
            }]},
        });
        let manager = with(connection_manager_settings(), own);
        json!({"name": "http", "typed_config": manager})
    }
}

/// TLS 1.3, with a certificate of the mesh on both sides.
fn tls(listener: &Listener) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": {
                "alpn_protocols": match listener.protocol {
                    Protocol::Http => &["h2", "http/1.1"][..],
                    Protocol::Tcp => &[],
                },
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{
                    "certificate_chain": {"filename": listener.certificate},
                    "private_key": {"filename": listener.key},
                }],
                "validation_context": {
                    "trusted_ca": {"filename": listener.bundle},
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {
                        "safe_regex": {"regex": "spiffe://[^/]+/ns/[^/]+/sa/[^/]+"},
                    }}],
                },
            },
        },
    })
}

fn tcp_proxy() -> Value {
    json!({
        "name": "tcp_proxy",
        "typed_config": {
            "@type": type_url("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "inbound",
            "cluster": "service",
        },
    })
}

fn tls_inspector() -> Value {
    let name = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    json!({"name": "tls_inspector", "typed_config": {"@type": type_url(name)}})
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }})
}
