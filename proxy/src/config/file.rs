//! `proxy.yaml` as it is written, and the environment variables that override its keys.

use std::collections::BTreeMap;

use picket_settings::{Setting, Variable};
use serde::Deserialize;

/// The whole file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    pub(super) trust_domain: Option<Setting>,
    pub(super) state_dir: Option<Setting>,
    pub(super) workload: WorkloadFile,
    pub(super) control: ControlFile,
    pub(super) files: FilesFile,
    pub(super) inbound: Vec<InboundFile>,
    pub(super) outbound: ListenerFile,
    pub(super) admin: ListenerFile,
    pub(super) workers: Option<Setting>,
    pub(super) trusted_hops: Option<Setting>,
    pub(super) drain: DrainFile,
    pub(super) audit: AuditFile,
    pub(super) limits: LimitsFile,
    pub(super) jwks: JwksFile,
}

/// Whose sidecar it is.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct WorkloadFile {
    pub(super) namespace: Option<Setting>,
    pub(super) service_account: Option<Setting>,
    pub(super) service: Option<Setting>,
    pub(super) version: Option<Setting>,
    pub(super) labels: BTreeMap<String, Setting>,
    /// `PICKET_LABELS`; not a key of the file.
    #[serde(skip)]
    pub(super) more_labels: Option<Setting>,
}

/// The form with a control plane.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ControlFile {
    pub(super) address: Option<Setting>,
    pub(super) trust_bundle: Option<Setting>,
    pub(super) join_token_file: Option<Setting>,
    /// `PICKET_JOIN_TOKEN`; not a key of the file, because a secret does not belong there.
    #[serde(skip)]
    pub(super) join_token: Option<Setting>,
}

/// The form from files alone.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct FilesFile {
    pub(super) certificate: Option<Setting>,
    pub(super) key: Option<Setting>,
    pub(super) bundle: Option<Setting>,
    pub(super) policy_dir: Option<Setting>,
    pub(super) peers: Option<Setting>,
    pub(super) otlp: Option<Setting>,
    pub(super) subjects: Option<Setting>,
    pub(super) default_action: Option<Setting>,
    pub(super) default_mtls: Option<Setting>,
    pub(super) root_namespace: Option<Setting>,
}

/// One port of the service.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct InboundFile {
    pub(super) listen: Option<Setting>,
    pub(super) forward: Option<Setting>,
    pub(super) protocol: Option<Setting>,
    pub(super) service_port: Option<Setting>,
    pub(super) advertise: Option<Setting>,
}

/// A listener that may be left out.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ListenerFile {
    pub(super) listen: Option<Setting>,
}

/// How it ends.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct DrainFile {
    pub(super) deadline: Option<Setting>,
}

/// The audit spool.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct AuditFile {
    pub(super) enabled: Option<Setting>,
    pub(super) max_size: Option<Setting>,
    pub(super) max_age: Option<Setting>,
    pub(super) on_full: Option<Setting>,
    pub(super) sync_interval: Option<Setting>,
    pub(super) compression: Option<Setting>,
    pub(super) durability: Option<Setting>,
    pub(super) routes: Vec<AuditRouteFile>,
}

/// Requests whose records are kept in another way.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct AuditRouteFile {
    pub(super) paths: Vec<Setting>,
    pub(super) methods: Vec<Setting>,
    pub(super) durability: Option<Setting>,
}

/// What one client may take.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct LimitsFile {
    pub(super) head_size: Option<Setting>,
    pub(super) head_timeout: Option<Setting>,
    pub(super) handshake_timeout: Option<Setting>,
    pub(super) connect_timeout: Option<Setting>,
    pub(super) connections: Option<Setting>,
}

/// Fetching the key sets of token issuers.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct JwksFile {
    pub(super) ca_certificate: Option<Setting>,
    pub(super) max_stale: Option<Setting>,
}

/// Every environment variable that a proxy reads; the table in the documentation is printed from it.
pub const ENVIRONMENT: &[Variable] = &[
    variable(
        "PICKET_TRUST_DOMAIN",
        "trustDomain",
        "name of the trust domain, such as shop.example",
    ),
    variable("PICKET_STATE_DIR", "stateDir", "directory of keys, last good state and audit spool"),
    variable("PICKET_NAMESPACE", "workload.namespace", "the workload's namespace"),
    variable("PICKET_SERVICE_ACCOUNT", "workload.serviceAccount", "the workload's service account"),
    variable("PICKET_SERVICE", "workload.service", "name by which callers address the workload"),
    variable("PICKET_VERSION", "workload.version", "the workload's version, shown on its spans"),
    variable("PICKET_LABELS", "workload.labels", "labels that policies select by: k=v,k=v"),
    variable("PICKET_CONTROL_ADDRESS", "control.address", "the control plane: host:port"),
    variable("PICKET_TRUST_BUNDLE", "control.trustBundle", "PEM file of the mesh's authorities"),
    variable("PICKET_JOIN_TOKEN", "control.joinToken", "the join token itself (not in the file)"),
    variable("PICKET_JOIN_TOKEN_FILE", "control.joinTokenFile", "file that holds the join token"),
    variable("PICKET_CERTIFICATE", "files.certificate", "PEM file of the certificate chain"),
    variable("PICKET_KEY", "files.key", "PEM file of the private key, mode 0600"),
    variable("PICKET_BUNDLE", "files.bundle", "PEM file of the authorities that are believed"),
    variable("PICKET_POLICY_DIR", "files.policyDir", "directory of the policy files"),
    variable("PICKET_PEERS", "files.peers", "YAML file of the services that can be called"),
    variable("PICKET_OTLP", "files.otlp", "URL of an OTLP/gRPC receiver for the audit spans"),
    variable("PICKET_SUBJECTS", "files.subjects", "hash, clear or none"),
    variable("PICKET_DEFAULT_ACTION", "files.defaultAction", "deny or allow"),
    variable("PICKET_DEFAULT_MTLS", "files.defaultMtls", "STRICT, PERMISSIVE or DISABLE"),
    variable("PICKET_ROOT_NAMESPACE", "files.rootNamespace", "namespace of mesh-wide policies"),
    variable("PICKET_INBOUND_LISTEN", "inbound[0].listen", "address:port of the first mTLS port"),
    variable(
        "PICKET_INBOUND_FORWARD",
        "inbound[0].forward",
        "address:port of the service behind it",
    ),
    variable("PICKET_INBOUND_PROTOCOL", "inbound[0].protocol", "http, http2, grpc or tcp"),
    variable("PICKET_INBOUND_SERVICE_PORT", "inbound[0].servicePort", "port that callers use"),
    variable("PICKET_INBOUND_ADVERTISE", "inbound[0].advertise", "address:port as peers reach it"),
    variable(
        "PICKET_OUTBOUND_LISTEN",
        "outbound.listen",
        "address:port for the service's own calls",
    ),
    variable("PICKET_ADMIN_LISTEN", "admin.listen", "loopback address:port of the admin listener"),
    variable("PICKET_WORKERS", "workers", "number of data threads"),
    variable("PICKET_TRUSTED_HOPS", "trustedHops", "proxies in front whose x-forwarded-for counts"),
    variable("PICKET_DRAIN_DEADLINE", "drain.deadline", "how long open requests get at the end"),
    variable("PICKET_AUDIT_MAX_SIZE", "audit.maxSize", "most bytes that the spool may take"),
    variable("PICKET_AUDIT_MAX_AGE", "audit.maxAge", "how long a record may wait to be received"),
    variable("PICKET_AUDIT_ON_FULL", "audit.onFull", "denyStateChanges or allowAndCount"),
    variable("PICKET_AUDIT_SYNC_INTERVAL", "audit.syncInterval", "how often the spool is synced"),
    variable("PICKET_AUDIT_COMPRESSION", "audit.compression", "gzip or none"),
    variable("PICKET_AUDIT_DURABILITY", "audit.durability", "memory, spooled or committed"),
    variable("PICKET_LIMITS_HEAD_SIZE", "limits.headSize", "largest request head"),
    variable("PICKET_LIMITS_HEAD_TIMEOUT", "limits.headTimeout", "time to send a request's head"),
    variable("PICKET_LIMITS_HANDSHAKE_TIMEOUT", "limits.handshakeTimeout", "time for TLS"),
    variable("PICKET_LIMITS_CONNECT_TIMEOUT", "limits.connectTimeout", "time to reach an upstream"),
    variable("PICKET_LIMITS_CONNECTIONS", "limits.connections", "most open connections a worker"),
    variable("PICKET_JWKS_CA_CERTIFICATE", "jwks.caCertificate", "PEM file for https key sets"),
    variable(
        "PICKET_JWKS_MAX_STALE",
        "jwks.maxStale",
        "how long keys count that cannot be fetched",
    ),
];

const fn variable(name: &'static str, key: &'static str, meaning: &'static str) -> Variable {
    Variable { name, key, meaning }
}

impl ConfigFile {
    /// The place of a key's value, by its dotted name; none for a key that no variable sets.
    pub(super) fn slot(&mut self, key: &str) -> Option<&mut Option<Setting>> {
        if let Some(key) = key.strip_prefix("inbound[0].") {
            if self.inbound.is_empty() {
                self.inbound.push(InboundFile::default());
            }
            let port = self.inbound.first_mut()?;
            return Some(match key {
                "listen" => &mut port.listen,
                "forward" => &mut port.forward,
                "protocol" => &mut port.protocol,
                "servicePort" => &mut port.service_port,
                "advertise" => &mut port.advertise,
                _ => return None,
            });
        }
        Some(match key {
            "trustDomain" => &mut self.trust_domain,
            "stateDir" => &mut self.state_dir,
            "workload.namespace" => &mut self.workload.namespace,
            "workload.serviceAccount" => &mut self.workload.service_account,
            "workload.service" => &mut self.workload.service,
            "workload.version" => &mut self.workload.version,
            "workload.labels" => &mut self.workload.more_labels,
            "control.address" => &mut self.control.address,
            "control.trustBundle" => &mut self.control.trust_bundle,
            "control.joinToken" => &mut self.control.join_token,
            "control.joinTokenFile" => &mut self.control.join_token_file,
            "files.certificate" => &mut self.files.certificate,
            "files.key" => &mut self.files.key,
            "files.bundle" => &mut self.files.bundle,
            "files.policyDir" => &mut self.files.policy_dir,
            "files.peers" => &mut self.files.peers,
            "files.otlp" => &mut self.files.otlp,
            "files.subjects" => &mut self.files.subjects,
            "files.defaultAction" => &mut self.files.default_action,
            "files.defaultMtls" => &mut self.files.default_mtls,
            "files.rootNamespace" => &mut self.files.root_namespace,
            "outbound.listen" => &mut self.outbound.listen,
            "admin.listen" => &mut self.admin.listen,
            "workers" => &mut self.workers,
            "trustedHops" => &mut self.trusted_hops,
            "drain.deadline" => &mut self.drain.deadline,
            "audit.maxSize" => &mut self.audit.max_size,
            "audit.maxAge" => &mut self.audit.max_age,
            "audit.onFull" => &mut self.audit.on_full,
            "audit.syncInterval" => &mut self.audit.sync_interval,
            "audit.compression" => &mut self.audit.compression,
            "audit.durability" => &mut self.audit.durability,
            "limits.headSize" => &mut self.limits.head_size,
            "limits.headTimeout" => &mut self.limits.head_timeout,
            "limits.handshakeTimeout" => &mut self.limits.handshake_timeout,
            "limits.connectTimeout" => &mut self.limits.connect_timeout,
            "limits.connections" => &mut self.limits.connections,
            "jwks.caCertificate" => &mut self.jwks.ca_certificate,
            "jwks.maxStale" => &mut self.jwks.max_stale,
            _ => return None,
        })
    }
}
