//! What the operator sets, as checked: nothing is left to parse.
//!
//! A proxy runs in one of two forms: with a control plane ([`Source::Control`]) or from files alone
//! ([`Source::Files`]).

mod audit;
mod check;
mod file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use picket_certs::{SpiffeId, TrustDomain};
use picket_policy::Settings;
use picket_settings::{ConfigError, overlay, parse};

pub use audit::{Audit, AuditRoute, Compression, Durability, OnFull};
pub use file::ENVIRONMENT;

/// Everything a proxy needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Keys, last good state and the audit spool live here.
    pub state_dir: PathBuf,
    /// Whose sidecar it is.
    pub workload: Workload,
    /// Where certificates, policies and peers come from.
    pub source: Source,
    /// The ports of the service.
    pub inbound: Vec<InboundPort>,
    /// Where the service's own calls are taken.
    pub outbound: Option<SocketAddr>,
    /// Liveness, readiness, metrics and the configuration in force; on loopback only.
    pub admin: Option<SocketAddr>,
    /// Data threads.
    pub workers: usize,
    /// Proxies in front of this one whose `x-forwarded-for` entries are believed.
    pub trusted_hops: usize,
    /// How long open requests get at the end.
    pub drain_deadline: Duration,
    /// The audit spool.
    pub audit: Audit,
    /// What one client may take.
    pub limits: Limits,
    /// PEM file of further authorities for `https` key sets.
    pub jwks_ca: Option<PathBuf>,
    /// How long an issuer's keys are believed after the last time they could be fetched.
    pub jwks_max_stale: Duration,
}

/// Whose sidecar it is.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its identity.
    pub id: SpiffeId,
    /// The name by which callers address it.
    pub service: String,
    /// Shown on its spans; empty if not known.
    pub version: String,
    /// What policies select by.
    pub labels: BTreeMap<String, String>,
}

/// Where certificates, policies and peers come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A control plane.
    Control(ControlSource),
    /// Files alone.
    Files(Box<FilesSource>),
}

/// How to reach the control plane.
#[derive(Debug, Clone)]
pub struct ControlSource {
    /// `host:port`.
    pub address: String,
    /// PEM file of the mesh's authorities, as the control plane wrote it.
    pub trust_bundle: PathBuf,
    /// For the first certificate.
    pub token: Option<Token>,
}

/// Where the join token is.
#[derive(Clone)]
pub enum Token {
    /// In the environment.
    Inline(String),
    /// In a file.
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// The files of a proxy without a control plane. All are reloaded when they change.
#[derive(Debug, Clone)]
pub struct FilesSource {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
    /// PEM.
    pub bundle: PathBuf,
    /// All its `*.yaml` and `*.yml` files, those of its folders included.
    pub policy_dir: PathBuf,
    /// The services that can be called.
    pub peers: Option<PathBuf>,
    /// Where audit spans are sent on to (OTLP/gRPC).
    pub otlp: Option<http::Uri>,
    /// How records name the subjects of tokens; none: by a keyed hash.
    pub subjects: Option<SubjectMode>,
    /// What the meaning of the policies depends on.
    pub policy: Settings,
}

/// How records name the subjects of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectMode {
    /// By a hash under the proxy's own key.
    Hash,
    /// In clear.
    Clear,
    /// Not at all.
    None,
}

/// One port of the service.
#[derive(Debug, Clone)]
pub struct InboundPort {
    /// Where mTLS is accepted.
    pub listen: SocketAddr,
    /// Where the service listens, in plain text.
    pub forward: SocketAddr,
    /// What the service speaks.
    pub protocol: Protocol,
    /// The port by which callers address the service.
    pub service_port: u16,
    /// The listener as peers reach it, if that is not the listener's own address.
    pub advertise: Option<SocketAddr>,
}

/// What a service speaks on one of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    /// Anything: policies see the connection alone.
    Tcp,
}

/// What one client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest request head, in bytes.
    pub head_size: usize,
    /// Time to send a request's head.
    pub head_timeout: Duration,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time to reach an upstream, its TLS handshake included.
    pub connect_timeout: Duration,
    /// Most open connections of one worker.
    pub connections: usize,
}

impl Config {
    /// Reads `proxy.yaml` and the environment. An empty text is allowed: the environment can say
    /// everything.
    ///
    /// # Errors
    /// With the place (`file:line:column`, or the variable), the key and the values it accepts.
    pub fn load(
        yaml_text: &str,
        file_name: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let env: Vec<(String, String)> = env.collect();
        let mut file: file::ConfigFile = parse(yaml_text, file_name)?;
        overlay(&mut file, ENVIRONMENT, &env, file::ConfigFile::slot);
        check::check(&file, file_name)
    }
}

#[cfg(test)]
mod tests;
