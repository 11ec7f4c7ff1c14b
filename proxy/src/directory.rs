//! The services that can be called, found by the names that callers use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use picket_api::v1;
use picket_certs::SpiffeId;

/// A service of the mesh.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) id: SpiffeId,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// One instance's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) service_port: u16,
    pub(crate) protocol: v1::Protocol,
}

/// Why a host is not one that can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotFound {
    /// No service has that name.
    #[error("no service of the mesh is called {0:?}")]
    Service(String),
    /// The service does not have the port.
    #[error("service {service} has no port {port}; it has {known}")]
    Port { service: String, port: u16, known: String },
    /// The service is known, but no instance of it.
    #[error("service {0} has no instance")]
    NoInstance(String),
}

/// All services that can be called.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    services: Vec<Arc<Service>>,
    names: HashMap<String, Arc<Service>>,
}

impl Directory {
    /// `namespace` is the caller's own: its services can be called by their bare names.
    pub(crate) fn new(services: Vec<Service>, namespace: &str) -> Self {
        let services: Vec<Arc<Service>> = services.into_iter().map(Arc::new).collect();
        let mut names = HashMap::new();
        for service in &services {
            let (name, ns) = (&service.name, &service.namespace);
            for spelling in [
                format!("{name}.{ns}"),
                format!("{name}.{ns}.svc"),
                format!("{name}.{ns}.svc.cluster.local"),
            ] {
                names.insert(spelling, Arc::clone(service));
            }
            if ns == namespace {
                names.insert(name.clone(), Arc::clone(service));
            }
        }
        Self { services, names }
    }

    pub(crate) fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// The service of a host name.
    pub(crate) fn service(&self, host: &str) -> Option<&Arc<Service>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.names.get(host).or_else(|| self.names.get(&host.to_ascii_lowercase()))
    }

    /// The service of a host name, and the port of it that is meant: the one given, or else the only
    /// one that the service has, or else 80.
    pub(crate) fn find(
        &self,
        host: &str,
        port: Option<u16>,
    ) -> Result<(&Arc<Service>, u16), NotFound> {
        let service = self.service(host).ok_or_else(|| NotFound::Service(host.to_owned()))?;
        let mut ports: Vec<u16> = service.endpoints.iter().map(|e| e.service_port).collect();
        ports.sort_unstable();
        ports.dedup();
        let wanted = match (port, ports.as_slice()) {
            (_, []) => return Err(NotFound::NoInstance(service.name.clone())),
            (None, [only]) => *only,
            (port, _) => port.unwrap_or(80),
        };
        if !ports.contains(&wanted) {
            let known: Vec<String> = ports.iter().map(u16::to_string).collect();
            return Err(NotFound::Port {
                service: service.name.clone(),
                port: wanted,
                known: known.join(", "),
            });
        }
        Ok((service, wanted))
    }
}

impl Service {
    /// The instances that have a port, beginning with the `turn`th, so that successive calls spread.
    pub(crate) fn instances(&self, port: u16, turn: usize) -> impl Iterator<Item = &Endpoint> {
        let all = move || self.endpoints.iter().filter(move |e| e.service_port == port);
        let count = all().count().max(1);
        all().cycle().skip(turn % count).take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        let endpoint = |port: u16, service_port| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            service_port,
            protocol: v1::Protocol::Http,
        };
        let service = |name: &str, ns: &str, endpoints| Service {
            id: format!("spiffe://example.org/ns/{ns}/sa/{name}").parse().unwrap(),
            namespace: ns.to_owned(),
            name: name.to_owned(),
            endpoints,
        };
        let services = vec![
            service("orders", "shop", vec![endpoint(1, 8080), endpoint(2, 8080)]),
            service("ledger", "books", vec![endpoint(3, 80), endpoint(4, 9090)]),
            service("idle", "shop", vec![]),
        ];
        Directory::new(services, "shop")
    }

    #[test]
    fn a_service_is_found_by_every_name_it_has() {
        let directory = directory();
        let found = |host, port| directory.find(host, port).map(|(s, port)| (s.name.clone(), port));
        for host in ["orders", "ORDERS", "orders.shop", "orders.shop.svc.cluster.local."] {
            assert_eq!(found(host, None), Ok(("orders".to_owned(), 8080)), "{host}");
        }
        assert_eq!(found("ledger.books", None), Ok(("ledger".to_owned(), 80)));
        assert_eq!(found("ledger.books", Some(9090)), Ok(("ledger".to_owned(), 9090)));
        assert!(matches!(found("ledger", None), Err(NotFound::Service(_))));
        assert!(matches!(found("idle", None), Err(NotFound::NoInstance(_))));
        let error = found("ledger.books", Some(1)).unwrap_err().to_string();
        assert_eq!(error, "service ledger has no port 1; it has 80, 9090");
    }

    #[test]
    fn calls_take_turns_and_try_every_instance() {
        let directory = directory();
        let (service, port) = directory.find("orders", None).unwrap();
        let ports = |turn| -> Vec<u16> {
            service.instances(port, turn).map(|e| e.address.port()).collect()
        };
        assert_eq!((ports(0), ports(1), ports(2)), (vec![1, 2], vec![2, 1], vec![1, 2]));
    }
}
