//! What the operator sets, as written and as checked.
//!
//! [`Config::load`] reads YAML once, lets `PICKET_…` variables override single keys, and converts the
//! result to types that leave nothing to parse. It opens no file and no socket: the caller passes the
//! text and the environment, so that tests need neither.
//!
//! The `OTEL_EXPORTER_OTLP_…` variables are those of the OpenTelemetry specification ("OTLP exporter
//! configuration"); they count only where `export.otlp` is not set.

mod alerting;
mod check;
mod file;
mod otlp;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use picket_certs::TrustDomain;
use picket_settings::Check;

pub use crate::detection::Detection;
pub use crate::notify::{Alerting, Sink, SinkKind};
pub use crate::respond::Responding;
pub use file::ENVIRONMENT;
pub use otlp::{Export, Protocol, Sampling};
pub use picket_settings::ConfigError;

pub(crate) use check::is_dns_label;

/// Everything the control plane needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Where keys, the database and the operator socket live.
    pub state_dir: PathBuf,
    /// The directory of the mesh's policies.
    pub policy_dir: PathBuf,
    /// mTLS gRPC for proxies.
    pub listen_proxies: SocketAddr,
    /// The mTLS HTTP API for operators, if it shall be reachable over the network.
    pub listen_operators: Option<SocketAddr>,
    /// Plain HTTP with liveness and readiness only.
    pub listen_health: Option<SocketAddr>,
    /// Plain HTTP with metrics, for whoever can reach it.
    pub listen_metrics: Option<SocketAddr>,
    /// What the meaning of the policies depends on.
    pub policy: picket_policy::Settings,
    /// Life of a workload's certificate.
    pub certificate_life: Duration,
    /// How long after its end a certificate may still be used once, to renew.
    pub renewal_grace: Duration,
    /// How long an instance stays in the registry after its last contact.
    pub lease: Duration,
    /// What is recorded of persons.
    pub privacy: Privacy,
    /// How long audit records are kept.
    pub retention: Retention,
    /// Where traces are forwarded to.
    pub export: Option<Export>,
    /// What is looked for in the audit stream.
    pub detection: Detection,
    /// Who is told of alerts.
    pub alerting: Alerting,
    /// What may be done about alerts.
    pub responding: Responding,
}

/// What is recorded of persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privacy {
    /// How records name the subjects of tokens.
    pub subjects: SubjectMode,
    /// How long one key of their hashes is in force.
    pub rotate: Duration,
}

/// How records name the subjects of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectMode {
    /// By a keyed hash.
    Hash,
    /// In clear.
    Clear,
    /// Not at all.
    None,
}

impl SubjectMode {
    /// As it is written, and as proxies are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Clear => "clear",
            Self::None => "none",
        }
    }
}

/// How long audit records are kept; for ever unless something is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Older ones go.
    pub max_age: Option<Duration>,
    /// The oldest go when the database takes more bytes.
    pub max_size: Option<u64>,
}

impl Config {
    /// Reads `control.yaml` and the environment.
    ///
    /// # Errors
    /// With the place (`file:line:column`, or the variable), the key and the values it accepts.
    pub fn load(
        yaml_text: &str,
        file_name: &str,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let env: Vec<(String, String)> = env.collect();
        let mut file: file::ConfigFile = picket_settings::parse(yaml_text, file_name)?;
        picket_settings::overlay(&mut file, ENVIRONMENT, &env, file::slot);
        check::check(Check::new(file_name, ENVIRONMENT), &file, &env)
    }
}

#[cfg(test)]
mod tests;
