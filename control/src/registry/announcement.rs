//! What a proxy says of itself in its Hello, checked.
//!
//! Namespace and service account are not said: they come from the certificate.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use picket_api::v1::{self, Hello, Protocol};
use serde::{Deserialize, Serialize};

use crate::config::is_dns_label;

const MAX_ENDPOINTS: usize = 64;
const MAX_LABELS: usize = 64;
/// Of a label's key and value, as Kubernetes has them (with the prefix of a key).
const MAX_LABEL: (usize, usize) = (317, 63);
/// Of the boot, the version and the generation.
const MAX_TEXT: usize = 64;

/// What is wrong with a Hello.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnouncementError {
    #[error("the service {0:?} is not a DNS label: a-z 0-9 -, at most 63 characters")]
    Service(String),
    #[error("ports are announced, but no service that they belong to")]
    NoService,
    #[error("the address {0:?} is not an IP address and port that peers can reach")]
    Address(String),
    #[error("the service port {0} is not a port")]
    ServicePort(u32),
    #[error("the service port {0} is announced twice")]
    ServicePortTwice(u16),
    #[error("the protocol number {0} is not known; is the proxy newer than the control plane?")]
    Protocol(i32),
    #[error("more than {MAX_ENDPOINTS} ports are announced")]
    TooManyEndpoints,
    #[error("there are more than {MAX_LABELS} labels, or one is longer than Kubernetes allows")]
    Labels,
    #[error("the {0} is not 1 to {MAX_TEXT} of the characters a-z A-Z 0-9 . - _ +")]
    Text(&'static str),
}

/// A checked Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) boot: String,
    pub(crate) version: String,
    pub(crate) service: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) generation: String,
    pub(crate) revocations: u64,
}

/// Where one port of a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) service_port: u16,
    pub(crate) protocol: i32,
}

impl Endpoint {
    /// As peers are told of it.
    pub(crate) fn message(&self) -> v1::Endpoint {
        v1::Endpoint {
            address: self.address.to_string(),
            service_port: self.service_port.into(),
            protocol: self.protocol,
        }
    }

    /// The protocol in a word.
    pub(crate) fn protocol_name(&self) -> &'static str {
        match Protocol::try_from(self.protocol) {
            Ok(Protocol::Http) => "http",
            Ok(Protocol::Http2) => "http2",
            Ok(Protocol::Tcp) => "tcp",
            Ok(Protocol::Unspecified) | Err(_) => "unknown",
        }
    }
}

impl Announcement {
    /// Checks a Hello.
    pub(crate) fn check(hello: Hello) -> Result<Self, AnnouncementError> {
        let is_service = hello.service.is_empty() || is_dns_label(&hello.service);
        if !is_service {
            return Err(AnnouncementError::Service(shortened(hello.service)));
        }
        if hello.service.is_empty() && !hello.inbound.is_empty() {
            return Err(AnnouncementError::NoService);
        }
        if hello.inbound.len() > MAX_ENDPOINTS {
            return Err(AnnouncementError::TooManyEndpoints);
        }
        let fits = |(key, value): (&String, &String)| {
            !key.is_empty() && key.len() <= MAX_LABEL.0 && value.len() <= MAX_LABEL.1
        };
        if hello.labels.len() > MAX_LABELS || !hello.labels.iter().all(fits) {
            return Err(AnnouncementError::Labels);
        }
        let mut endpoints = Vec::with_capacity(hello.inbound.len());
        for endpoint in hello.inbound {
            let endpoint = check_endpoint(endpoint)?;
            if endpoints.iter().any(|e: &Endpoint| e.service_port == endpoint.service_port) {
                return Err(AnnouncementError::ServicePortTwice(endpoint.service_port));
            }
            endpoints.push(endpoint);
        }
        endpoints.sort();
        if !hello.generation.is_empty() {
            check_text(&hello.generation, "generation")?;
        }
        check_text(&hello.boot_id, "boot_id")?;
        check_text(&hello.version, "version")?;
        Ok(Self {
            boot: hello.boot_id,
            version: hello.version,
            service: hello.service,
            labels: hello.labels.into_iter().collect(),
            endpoints,
            revocations: hello.revocations,
            generation: hello.generation,
        })
    }
}

fn check_endpoint(endpoint: v1::Endpoint) -> Result<Endpoint, AnnouncementError> {
    let address = endpoint
        .address
        .parse::<SocketAddr>()
        .ok()
        .filter(|a| a.port() != 0 && !a.ip().is_unspecified() && !a.ip().is_multicast());
    let address = address.ok_or_else(|| AnnouncementError::Address(shortened(endpoint.address)))?;
    let service_port = u16::try_from(endpoint.service_port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(AnnouncementError::ServicePort(endpoint.service_port))?;
    match Protocol::try_from(endpoint.protocol) {
        Ok(Protocol::Http | Protocol::Http2 | Protocol::Tcp) => {}
        _ => return Err(AnnouncementError::Protocol(endpoint.protocol)),
    }
    Ok(Endpoint { address, service_port, protocol: endpoint.protocol })
}

fn check_text(text: &str, what: &'static str) -> Result<(), AnnouncementError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
    let fits = (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(allowed);
    if fits { Ok(()) } else { Err(AnnouncementError::Text(what)) }
}

fn shortened(mut text: String) -> String {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            boot_id: "b0".to_owned(),
            version: "0.1.0".to_owned(),
            service: "orders".to_owned(),
            inbound: vec![v1::Endpoint {
                address: "10.0.0.1:15006".to_owned(),
                service_port: 80,
                protocol: Protocol::Http.into(),
            }],
            ..Hello::default()
        }
    }

    #[test]
    fn what_peers_could_not_use_is_refused() {
        assert!(Announcement::check(hello()).is_ok());
        type Spoil = fn(&mut Hello);
        let cases: [(Spoil, &str); 11] = [
            (|h| h.service = "Orders".to_owned(), "DNS label"),
            (|h| h.service = "orders.shop".to_owned(), "DNS label"),
            (|h| h.service = String::new(), "no service"),
            (|h| h.inbound[0].address = "orders:80".to_owned(), "address"),
            (|h| h.inbound[0].address = "0.0.0.0:80".to_owned(), "address"),
            (|h| h.inbound[0].address = "10.0.0.1:0".to_owned(), "address"),
            (|h| h.inbound[0].service_port = 70_000, "not a port"),
            (|h| h.inbound[0].protocol = 9, "protocol"),
            (|h| h.inbound.push(h.inbound[0].clone()), "twice"),
            (|h| h.boot_id = "a b".to_owned(), "boot_id"),
            (|h| h.generation = "x".repeat(65), "generation"),
        ];
        for (spoil, expected) in cases {
            let mut spoiled = hello();
            spoil(&mut spoiled);
            let error = Announcement::check(spoiled).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
