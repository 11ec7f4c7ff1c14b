//! The file of the services that can be called.
//!
//! ```yaml
//! peers:
//! - service: payments
//!   namespace: shop
//!   serviceAccount: payments    # if it is not called like the service
//!   endpoints:
//!   - {address: '10.0.0.3:15006', port: 8080, protocol: http}
//! ```

use std::net::SocketAddr;

use picket_api::v1;
use picket_certs::SpiffeId;
use picket_settings::{Check, ConfigError, Setting, parse as parse_yaml};
use serde::Deserialize;

use crate::config::Config;
use crate::directory::{Directory, Endpoint, Service};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PeersFile {
    peers: Vec<PeerFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct PeerFile {
    service: Option<Setting>,
    namespace: Option<Setting>,
    service_account: Option<Setting>,
    endpoints: Vec<EndpointFile>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct EndpointFile {
    address: Option<Setting>,
    port: Option<Setting>,
    protocol: Option<Setting>,
}

const NAME: &str = "a name of the characters a-z A-Z 0-9 . - _";
const ADDRESS: &str = "an IP address with a port, such as 10.0.0.3:15006";

pub(super) fn parse(text: &str, file: &str, config: &Config) -> Result<Directory, ConfigError> {
    let raw: PeersFile = parse_yaml(text, file)?;
    let check = Check::new(file, &[]);
    let mut services = Vec::new();
    for (index, peer) in raw.peers.iter().enumerate() {
        services.push(service(&check, &format!("peers[{index}]"), peer, config)?);
    }
    Ok(Directory::new(services, config.workload.id.namespace()))
}

fn service(
    check: &Check<'_>,
    key: &str,
    peer: &PeerFile,
    config: &Config,
) -> Result<Service, ConfigError> {
    let trust_domain = &config.trust_domain;
    let name =
        |text: &str| SpiffeId::new(trust_domain, text, "sa").is_ok().then(|| text.to_owned());
    let service = check.needed(&peer.service, &format!("{key}.service"), NAME, name)?;
    let namespace = check.needed(&peer.namespace, &format!("{key}.namespace"), NAME, name)?;
    let account =
        check.optional(&peer.service_account, &format!("{key}.serviceAccount"), NAME, name)?;
    let account = account.as_deref().unwrap_or(&service);
    let id = SpiffeId::new(trust_domain, &namespace, account)
        .map_err(|error| check.conflict(None, format!("{key}: {error}")))?;
    let protocols = [
        ("http", v1::Protocol::Http),
        ("http2", v1::Protocol::Http2),
        ("grpc", v1::Protocol::Http2),
        ("tcp", v1::Protocol::Tcp),
    ];
    let mut endpoints = Vec::new();
    for (index, endpoint) in peer.endpoints.iter().enumerate() {
        let key = |name: &str| format!("{key}.endpoints[{index}].{name}");
        let address = check.needed(&endpoint.address, &key("address"), ADDRESS, |t| {
            t.parse::<SocketAddr>().ok()
        })?;
        let port = check.number(&endpoint.port, &key("port"), (1, 65535))?;
        let protocol = check.one_of(&endpoint.protocol, &key("protocol"), &protocols)?;
        endpoints.push(Endpoint {
            address,
            service_port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(address.port()),
            protocol: protocol.unwrap_or(v1::Protocol::Http),
        });
    }
    Ok(Service { id, namespace, name: service, endpoints })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/configuration.md");
    const EXAMPLE: &str = include_str!("../../../examples/config/peers.yaml");

    fn config() -> Config {
        let text = include_str!("../../../examples/config/proxy-files.yaml");
        Config::load(text, "proxy-files.yaml", std::iter::empty()).unwrap()
    }

    #[test]
    fn the_example_names_services_by_every_key() {
        let directory = parse(EXAMPLE, "peers.yaml", &config()).unwrap();
        let (payments, port) = directory.find("payments", None).unwrap();
        assert_eq!((payments.id.service_account(), port), ("payments", 80));
        assert_eq!(payments.endpoints.len(), 2);
        let (ledger, _) = directory.find("ledger.books", Some(9090)).unwrap();
        assert_eq!(ledger.id.service_account(), "bookkeeping");
        assert_eq!(ledger.endpoints[0].protocol, v1::Protocol::Http2);
        for (entry, prefix) in
            [("{zz: 1}", "peers[]"), ("{endpoints: [{zz: 1}]}", "peers[].endpoints[]")]
        {
            let refusal = parse(&format!("peers: [{entry}]"), "p.yaml", &config()).unwrap_err();
            let refusal = refusal.to_string();
            let (_, keys) = refusal.split_once("expected one of ").unwrap();
            for key in keys.split(", ").filter(|key| *key != "endpoints") {
                assert!(EXAMPLE.contains(&format!("{key}:")), "the example lacks {key}");
                assert!(DOCUMENT.contains(&format!("\n| `{prefix}.{key}` |")), "{prefix}.{key}");
            }
        }
    }
}
