//! `control.yaml` as it is written, and the environment variables that override its keys.

use std::collections::BTreeMap;

use picket_settings::{Setting, Variable};
use serde::Deserialize;

/// The whole file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    pub(super) trust_domain: Option<Setting>,
    pub(super) trust_domain_aliases: Vec<Setting>,
    pub(super) state_dir: Option<Setting>,
    pub(super) policy_dir: Option<Setting>,
    pub(super) listen: ListenFile,
    pub(super) default_action: Option<Setting>,
    pub(super) default_mtls: Option<Setting>,
    pub(super) root_namespace: Option<Setting>,
    pub(super) certificates: CertificatesFile,
    pub(super) registry: RegistryFile,
    pub(super) privacy: PrivacyFile,
    pub(super) export: ExportFile,
    pub(super) audit: AuditFile,
    pub(super) detection: DetectionFile,
    pub(super) alerts: AlertsFile,
    pub(super) respond: RespondFile,
}

/// The listeners' addresses.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ListenFile {
    pub(super) proxies: Option<Setting>,
    pub(super) operators: Option<Setting>,
    pub(super) health: Option<Setting>,
    pub(super) metrics: Option<Setting>,
}

/// The certificates that are issued.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct CertificatesFile {
    pub(super) life: Option<Setting>,
    pub(super) renewal_grace: Option<Setting>,
}

/// The service registry.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RegistryFile {
    pub(super) lease: Option<Setting>,
}

/// What is recorded of persons.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct PrivacyFile {
    pub(super) subjects: Option<Setting>,
    pub(super) subject_key: SubjectKeyFile,
}

/// The keys that subjects are hashed with.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct SubjectKeyFile {
    pub(super) rotate: Option<Setting>,
}

/// The audit store.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct AuditFile {
    pub(super) retention: RetentionFile,
}

/// How long audit records are kept.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RetentionFile {
    pub(super) max_age: Option<Setting>,
    pub(super) max_size: Option<Setting>,
}

/// What is looked for in the audit stream.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct DetectionFile {
    pub(super) enabled: Option<Setting>,
    pub(super) rules_dir: Option<Setting>,
    pub(super) shipped_rules: Option<Setting>,
    pub(super) profiles: ProfilesFile,
}

/// What is usual, and what is not.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ProfilesFile {
    pub(super) enabled: Option<Setting>,
    pub(super) budget: Option<Setting>,
}

/// Who is told of alerts.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct AlertsFile {
    pub(super) heartbeat: Option<Setting>,
    pub(super) link_base: Option<Setting>,
    pub(super) retention: Option<Setting>,
    pub(super) flapping: FlappingFile,
    pub(super) sinks: Vec<SinkFile>,
}

/// When alerts about the same are held as one.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct FlappingFile {
    pub(super) episodes: Option<Setting>,
    pub(super) within: Option<Setting>,
}

/// What may be done about alerts.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct RespondFile {
    pub(super) enabled: Option<Setting>,
    pub(super) protected: Vec<Setting>,
    pub(super) webhooks: Vec<WebhookFile>,
}

/// A webhook that rules may have called.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct WebhookFile {
    pub(super) name: Option<Setting>,
    pub(super) url: Option<Setting>,
    pub(super) secret_file: Option<Setting>,
    pub(super) ca_certificate: Option<Setting>,
}

/// One who is told.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct SinkFile {
    pub(super) name: Option<Setting>,
    pub(super) kind: Option<Setting>,
    pub(super) url: Option<Setting>,
    pub(super) urls: Vec<Setting>,
    pub(super) url_file: Option<Setting>,
    pub(super) secret_file: Option<Setting>,
    pub(super) path: Option<Setting>,
    pub(super) ca_certificate: Option<Setting>,
    pub(super) from: Option<Setting>,
    pub(super) to: Vec<Setting>,
    pub(super) username: Option<Setting>,
    pub(super) password_file: Option<Setting>,
    pub(super) min_severity: Option<Setting>,
}

/// The OTLP endpoint that traces are forwarded to.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ExportFile {
    pub(super) otlp: Option<Setting>,
    pub(super) headers: BTreeMap<String, Setting>,
    pub(super) protocol: Option<Setting>,
    pub(super) compression: Option<Setting>,
    pub(super) ca_certificate: Option<Setting>,
    pub(super) client_certificate: Option<Setting>,
    pub(super) client_key: Option<Setting>,
    pub(super) timeout: Option<Setting>,
    pub(super) sampling: SamplingFile,
}

/// Which traces are forwarded.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct SamplingFile {
    pub(super) share: Option<Setting>,
    pub(super) slow: Option<Setting>,
    pub(super) wait: Option<Setting>,
}

/// The place of a key's value, by its dotted name; none for a key that cannot be set singly.
pub(super) fn slot<'s>(file: &'s mut ConfigFile, key: &str) -> Option<&'s mut Option<Setting>> {
    Some(match key {
        "trustDomain" => &mut file.trust_domain,
        "stateDir" => &mut file.state_dir,
        "policyDir" => &mut file.policy_dir,
        "listen.proxies" => &mut file.listen.proxies,
        "listen.operators" => &mut file.listen.operators,
        "listen.health" => &mut file.listen.health,
        "listen.metrics" => &mut file.listen.metrics,
        "defaultAction" => &mut file.default_action,
        "defaultMtls" => &mut file.default_mtls,
        "rootNamespace" => &mut file.root_namespace,
        "certificates.life" => &mut file.certificates.life,
        "certificates.renewalGrace" => &mut file.certificates.renewal_grace,
        "registry.lease" => &mut file.registry.lease,
        "audit.retention.maxAge" => &mut file.audit.retention.max_age,
        "audit.retention.maxSize" => &mut file.audit.retention.max_size,
        "privacy.subjects" => &mut file.privacy.subjects,
        "privacy.subjectKey.rotate" => &mut file.privacy.subject_key.rotate,
        "detection.enabled" => &mut file.detection.enabled,
        "detection.rulesDir" => &mut file.detection.rules_dir,
        "detection.shippedRules" => &mut file.detection.shipped_rules,
        "detection.profiles.enabled" => &mut file.detection.profiles.enabled,
        "detection.profiles.budget" => &mut file.detection.profiles.budget,
        "respond.enabled" => &mut file.respond.enabled,
        "alerts.heartbeat" => &mut file.alerts.heartbeat,
        "alerts.linkBase" => &mut file.alerts.link_base,
        "alerts.retention" => &mut file.alerts.retention,
        "alerts.flapping.episodes" => &mut file.alerts.flapping.episodes,
        "alerts.flapping.within" => &mut file.alerts.flapping.within,
        "export.otlp" => &mut file.export.otlp,
        "export.protocol" => &mut file.export.protocol,
        "export.compression" => &mut file.export.compression,
        "export.caCertificate" => &mut file.export.ca_certificate,
        "export.clientCertificate" => &mut file.export.client_certificate,
        "export.clientKey" => &mut file.export.client_key,
        "export.timeout" => &mut file.export.timeout,
        "export.sampling.share" => &mut file.export.sampling.share,
        "export.sampling.slow" => &mut file.export.sampling.slow,
        "export.sampling.wait" => &mut file.export.sampling.wait,
        _ => return None,
    })
}

/// Every variable that is read; the table in the documentation is printed from this one.
pub const ENVIRONMENT: &[Variable] = &[
    variable(
        "PICKET_TRUST_DOMAIN",
        "trustDomain",
        "name of the trust domain, such as shop.example",
    ),
    variable("PICKET_STATE_DIR", "stateDir", "directory of keys, database and operator socket"),
    variable("PICKET_POLICY_DIR", "policyDir", "directory of the policy files"),
    variable("PICKET_LISTEN_PROXIES", "listen.proxies", "address:port for proxies (mTLS gRPC)"),
    variable(
        "PICKET_LISTEN_OPERATORS",
        "listen.operators",
        "address:port for operators (mTLS HTTP)",
    ),
    variable("PICKET_LISTEN_HEALTH", "listen.health", "address:port of /livez and /readyz (HTTP)"),
    variable("PICKET_LISTEN_METRICS", "listen.metrics", "address:port of /metrics (HTTP)"),
    variable("PICKET_DEFAULT_ACTION", "defaultAction", "deny or allow"),
    variable("PICKET_DEFAULT_MTLS", "defaultMtls", "STRICT, PERMISSIVE or DISABLE"),
    variable(
        "PICKET_ROOT_NAMESPACE",
        "rootNamespace",
        "namespace whose policies apply to the mesh",
    ),
    variable("PICKET_CERTIFICATES_LIFE", "certificates.life", "life of a workload's certificate"),
    variable(
        "PICKET_CERTIFICATES_RENEWAL_GRACE",
        "certificates.renewalGrace",
        "how long after its end a certificate may still be renewed",
    ),
    variable(
        "PICKET_REGISTRY_LEASE",
        "registry.lease",
        "how long a silent instance stays registered",
    ),
    variable("PICKET_PRIVACY_SUBJECTS", "privacy.subjects", "hash, clear or none"),
    variable(
        "PICKET_PRIVACY_SUBJECT_KEY_ROTATE",
        "privacy.subjectKey.rotate",
        "how long one key of subjects' hashes is in force",
    ),
    variable(
        "PICKET_AUDIT_RETENTION_MAX_AGE",
        "audit.retention.maxAge",
        "how long audit records are kept",
    ),
    variable(
        "PICKET_AUDIT_RETENTION_MAX_SIZE",
        "audit.retention.maxSize",
        "most bytes that the audit store may take",
    ),
    variable(
        "PICKET_DETECTION_ENABLED",
        "detection.enabled",
        "whether the audit stream is watched",
    ),
    variable("PICKET_DETECTION_RULES_DIR", "detection.rulesDir", "directory of detection rules"),
    variable(
        "PICKET_DETECTION_SHIPPED_RULES",
        "detection.shippedRules",
        "whether the rules that Picket comes with are used",
    ),
    variable(
        "PICKET_DETECTION_PROFILES_ENABLED",
        "detection.profiles.enabled",
        "whether it is learnt what is usual",
    ),
    variable(
        "PICKET_DETECTION_PROFILES_BUDGET",
        "detection.profiles.budget",
        "false alarms of profiles accepted for a service in a week",
    ),
    variable(
        "PICKET_ALERTS_HEARTBEAT",
        "alerts.heartbeat",
        "how often sinks are told that the detector is alive",
    ),
    variable("PICKET_ALERTS_LINK_BASE", "alerts.linkBase", "URL before the id of an alert's link"),
    variable(
        "PICKET_ALERTS_RETENTION",
        "alerts.retention",
        "how long alerts are kept that are over",
    ),
    variable(
        "PICKET_ALERTS_FLAPPING_EPISODES",
        "alerts.flapping.episodes",
        "how many alerts about the same are held as one",
    ),
    variable(
        "PICKET_ALERTS_FLAPPING_WITHIN",
        "alerts.flapping.within",
        "within how long they have to begin",
    ),
    variable(
        "PICKET_RESPOND_ENABLED",
        "respond.enabled",
        "whether anything is done or suggested about alerts",
    ),
    variable("PICKET_EXPORT_OTLP", "export.otlp", "URL that traces are forwarded to"),
    variable("PICKET_EXPORT_PROTOCOL", "export.protocol", "grpc or http/protobuf"),
    variable("PICKET_EXPORT_COMPRESSION", "export.compression", "none or gzip"),
    variable(
        "PICKET_EXPORT_CA_CERTIFICATE",
        "export.caCertificate",
        "PEM file for an https endpoint",
    ),
    variable(
        "PICKET_EXPORT_CLIENT_CERTIFICATE",
        "export.clientCertificate",
        "PEM file that is shown to an https endpoint",
    ),
    variable("PICKET_EXPORT_CLIENT_KEY", "export.clientKey", "PEM file of its key"),
    variable("PICKET_EXPORT_TIMEOUT", "export.timeout", "how long one exported batch may take"),
    variable(
        "PICKET_EXPORT_SAMPLING_SHARE",
        "export.sampling.share",
        "share of the traces without anything notable",
    ),
    variable(
        "PICKET_EXPORT_SAMPLING_SLOW",
        "export.sampling.slow",
        "from when on a request is slow",
    ),
    variable("PICKET_EXPORT_SAMPLING_WAIT", "export.sampling.wait", "how long a trace may settle"),
];

const fn variable(name: &'static str, key: &'static str, meaning: &'static str) -> Variable {
    Variable { name, key, meaning }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_names_a_key_that_exists_and_is_spelled_like_it() {
        let mut file = ConfigFile::default();
        for Variable { name, key, .. } in ENVIRONMENT {
            assert!(slot(&mut file, key).is_some(), "{key}");
            let mut spelled = "PICKET_".to_owned();
            for c in key.chars() {
                match c {
                    '.' => spelled.push('_'),
                    c if c.is_ascii_uppercase() => spelled.extend(['_', c]),
                    c => spelled.push(c.to_ascii_uppercase()),
                }
            }
            assert_eq!(name, &spelled);
        }
    }
}
