//! The configuration in force, in the form in which it was received: what an update changes, what is
//! kept for a start without the control plane, and what is said of the proxy to get it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use picket_api::v1;
use picket_certs::tls::TlsConfigError;
use picket_policy::{
    DefaultAction, Diagnostics, Document, MtlsMode, PolicySet, Settings, Workload, WorkloadPolicy,
};
use tokio::net::UdpSocket;

use crate::config::{Config, InboundPort, Protocol};
use crate::directory::{Directory, Endpoint, Service};
use crate::identity::Identity;
use crate::revocations::{BadRevocation, Revocations};
use crate::snapshot::Assembler;
use crate::spool::Account;
use crate::subjects::{BadSubjects, Subjects};
use crate::worker::Shared;

/// Why an update was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the policies are refused: {0}")]
    Policies(Diagnostics),
    #[error("{0:?} is not a setting that this version knows")]
    Setting(String),
    #[error("the peer {0:?} cannot be understood")]
    Peer(String),
    #[error("the revocations are refused")]
    Revocations(#[from] BadRevocation),
    #[error(transparent)]
    Subjects(#[from] BadSubjects),
    #[error("TLS cannot be configured anew")]
    Tls(#[from] TlsConfigError),
}

/// What is in force.
pub(crate) struct Configuration {
    assembler: Assembler,
    in_force: v1::ConfigUpdate,
    boot: String,
    /// Of the inbound listeners, in the order of the configuration.
    addresses: Vec<SocketAddr>,
    account: Arc<Account>,
    shared: Arc<Shared>,
}

impl Configuration {
    pub(crate) fn new(
        assembler: Assembler,
        boot: String,
        addresses: Vec<SocketAddr>,
        account: Arc<Account>,
        shared: &Arc<Shared>,
    ) -> Self {
        let in_force = v1::ConfigUpdate::default();
        let shared = Arc::clone(shared);
        Self { assembler, in_force, boot, addresses, account, shared }
    }

    /// Puts in force what an earlier start had kept.
    pub(super) fn restore(&mut self, kept: v1::ConfigUpdate) {
        match self.apply(kept) {
            Ok(()) => tracing::info!(
                generation = self.generation(),
                "the last good configuration is in force until the control plane answers"
            ),
            Err(error) => {
                let cause = crate::words(&error);
                tracing::error!(cause, "the last good configuration cannot be used");
            }
        }
    }

    /// Puts an update in force, whole or not at all.
    pub(super) fn apply(&mut self, update: v1::ConfigUpdate) -> Result<(), Refusal> {
        let policy = update.policies.as_ref().map(|set| self.policy(set)).transpose()?;
        let peers = update.peers.as_ref().map(|peers| self.directory(peers)).transpose()?;
        let revocations = update.revocations.as_ref().map(Revocations::new).transpose()?;
        let subjects = update.subjects.as_ref().map(Subjects::of_mesh).transpose()?;
        // First of all: with the very first policies nothing that is revoked may pass.
        if let Some(revocations) = revocations {
            self.assembler.revocations(revocations)?;
            self.in_force.revocations = update.revocations;
        }
        if let Some(subjects) = subjects {
            self.assembler.subjects(subjects);
            self.in_force.subjects = update.subjects;
        }
        if let Some((generation, rules)) = policy {
            self.assembler.policy(generation, rules);
            self.in_force.policies = update.policies;
        }
        if let Some(peers) = peers {
            self.assembler.peers(peers);
            self.in_force.peers = update.peers;
        }
        Ok(())
    }

    pub(super) fn identity(&mut self, identity: Arc<Identity>) -> Result<(), TlsConfigError> {
        self.assembler.identity(identity)
    }

    pub(super) fn in_force(&self) -> &v1::ConfigUpdate {
        &self.in_force
    }

    /// The generation in force; empty if there is none.
    pub(super) fn generation(&self) -> &str {
        self.in_force.policies.as_ref().map(|set| set.generation.as_str()).unwrap_or_default()
    }

    /// The revision of the revocation list in force.
    pub(super) fn revocations(&self) -> u64 {
        self.in_force.revocations.as_ref().map_or(0, |list| list.revision)
    }

    fn policy(&self, set: &v1::PolicySet) -> Result<(Arc<str>, WorkloadPolicy), Refusal> {
        let documents: Vec<Document> = set
            .documents
            .iter()
            .map(|document| Document {
                file: document.file.as_str().into(),
                first_line: document.first_line,
                text: document.text.as_str().into(),
            })
            .collect();
        let settings = Settings {
            default_action: default_action(&set.default_action)?,
            default_mtls: default_mtls(&set.default_mtls)?,
            root_namespace: set.root_namespace.clone(),
            trust_domain: Some(self.shared.config.trust_domain.to_string()),
            trust_domain_aliases: set.trust_domain_aliases.clone(),
        };
        let parsed = PolicySet::parse(&documents, settings).map_err(Refusal::Policies)?;
        let rules = parsed.compile(&workload(&self.shared.config));
        Ok((set.generation.as_str().into(), rules))
    }

    fn directory(&self, peers: &v1::PeerSet) -> Result<Directory, Refusal> {
        let services: Result<Vec<Service>, Refusal> = peers.peers.iter().map(service).collect();
        Ok(Directory::new(services?, self.shared.config.workload.id.namespace()))
    }

    /// A listener that peers speak HTTP over TLS with, if there is one. (On a raw port a handshake alone
    /// would open a connection to the service.)
    pub(super) fn http_listener(&self) -> Option<SocketAddr> {
        let snapshot = self.shared.current.load()?;
        let ports = self.shared.config.inbound.iter().zip(&self.addresses);
        let speaks_tls = |port: &InboundPort| {
            let (mode, _) = snapshot.policy.rules.mtls_mode(Some(port.forward.port()));
            port.protocol != Protocol::Tcp && mode != MtlsMode::Disable
        };
        let mut found = ports.filter(|(port, _)| speaks_tls(port));
        found.next().map(|(_, address)| *address)
    }

    /// Who is there.
    pub(super) async fn hello(&self, control: &str) -> v1::Hello {
        let config = &self.shared.config;
        let own_ip = own_ip_towards(control).await;
        let inbound = config.inbound.iter().zip(&self.addresses).map(|(port, bound)| {
            let mut address = port.advertise.unwrap_or(*bound);
            if let Some(ip) = own_ip.filter(|_| address.ip().is_unspecified()) {
                address.set_ip(ip);
            }
            v1::Endpoint {
                address: address.to_string(),
                service_port: u32::from(port.service_port),
                protocol: match port.protocol {
                    Protocol::Http => v1::Protocol::Http,
                    Protocol::Http2 => v1::Protocol::Http2,
                    Protocol::Tcp => v1::Protocol::Tcp,
                }
                .into(),
            }
        });
        v1::Hello {
            boot_id: self.boot.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            service: config.workload.service.clone(),
            labels: config.workload.labels.clone().into_iter().collect(),
            inbound: inbound.collect(),
            generation: self.generation().to_owned(),
            revocations: self.revocations(),
            witness: None,
        }
    }

    /// What became of the audit records of this boot.
    pub(super) fn audit_account(&self) -> v1::AuditAccount {
        v1::AuditAccount {
            emitted: self.account.emitted(),
            acknowledged: self.account.acknowledged(),
            pending: self.account.pending(),
            lost: self.account.lost(),
            spool_bytes: self.account.size(),
            spool_limit: self.account.limit(),
        }
    }
}

/// The workload as policies select it.
pub(crate) fn workload(config: &Config) -> Workload {
    Workload {
        namespace: config.workload.id.namespace().to_owned(),
        name: config.workload.service.clone(),
        labels: config.workload.labels.clone(),
    }
}

fn default_action(text: &str) -> Result<DefaultAction, Refusal> {
    match text {
        "deny" => Ok(DefaultAction::Deny),
        "allow" => Ok(DefaultAction::Allow),
        other => Err(Refusal::Setting(other.to_owned())),
    }
}

fn default_mtls(text: &str) -> Result<MtlsMode, Refusal> {
    [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| Refusal::Setting(text.to_owned()))
}

fn service(peer: &v1::Peer) -> Result<Service, Refusal> {
    let refused = || Refusal::Peer(peer.service.clone());
    let endpoint = |endpoint: &v1::Endpoint| {
        let protocol = endpoint.protocol();
        Some(Endpoint {
            address: endpoint.address.parse().ok()?,
            service_port: u16::try_from(endpoint.service_port).ok()?,
            protocol: Some(protocol).filter(|p| *p != v1::Protocol::Unspecified)?,
        })
    };
    let endpoints: Option<Vec<Endpoint>> = peer.endpoints.iter().map(endpoint).collect();
    Ok(Service {
        id: peer.spiffe_id.parse().map_err(|_| refused())?,
        namespace: peer.namespace.clone(),
        name: peer.service.clone(),
        endpoints: endpoints.ok_or_else(refused)?,
    })
}

/// The address of this machine that the control plane is reached from. Nothing is sent: connecting a
/// UDP socket only asks the routing table.
async fn own_ip_towards(control: &str) -> Option<IpAddr> {
    let target = tokio::net::lookup_host(control).await.ok()?.next()?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(target).await.ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
