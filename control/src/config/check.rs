//! From the file as written to the configuration as meant, or to the first thing that is wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use picket_certs::TrustDomain;
use picket_policy::{DefaultAction, MtlsMode, Settings};
use picket_settings::{Check, ConfigError};

use super::file::ConfigFile;
use super::{Config, Privacy, Retention, SubjectMode, alerting, otlp};

const TRUST_DOMAIN: &str =
    "a name of the characters a-z 0-9 . - _ with at most 255 of them, such as shop.example";
const ADDRESS: &str = "an IP address with a port, such as 0.0.0.0:8443 or [::]:8443 (port 0: any)";
const DIRECTORY: &str = "the path of a directory";

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

const MONTH_SECONDS: u64 = 30 * 24 * 3600;

/// Checks every value.
pub(super) fn check(
    check: Check<'_>,
    file: &ConfigFile,
    env: &[(String, String)],
) -> Result<Config, ConfigError> {
    let trust_domain = |text: &str| text.parse::<TrustDomain>().ok();
    let directory = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let address = |text: &str| text.parse::<SocketAddr>().ok();
    let listen = &file.listen;
    let trust_domain =
        check.needed(&file.trust_domain, "trustDomain", TRUST_DOMAIN, trust_domain)?;
    let life = check.duration(&file.certificates.life, "certificates.life", (1, MONTH_SECONDS))?;
    let grace = check.duration(
        &file.certificates.renewal_grace,
        "certificates.renewalGrace",
        (0, MONTH_SECONDS),
    )?;
    let lease = check.duration(&file.registry.lease, "registry.lease", (1, 24 * 3600))?;
    Ok(Config {
        state_dir: check.needed(&file.state_dir, "stateDir", DIRECTORY, directory)?,
        policy_dir: check.needed(&file.policy_dir, "policyDir", DIRECTORY, directory)?,
        listen_proxies: check.needed(&listen.proxies, "listen.proxies", ADDRESS, address)?,
        listen_operators: check.optional(
            &listen.operators,
            "listen.operators",
            ADDRESS,
            address,
        )?,
        listen_health: check.optional(&listen.health, "listen.health", ADDRESS, address)?,
        listen_metrics: check.optional(&listen.metrics, "listen.metrics", ADDRESS, address)?,
        policy: policy_settings(check, file, &trust_domain)?,
        certificate_life: life.unwrap_or(HOUR),
        renewal_grace: grace.unwrap_or(DAY),
        lease: lease.unwrap_or(MINUTE),
        privacy: privacy(check, file)?,
        retention: retention(check, file)?,
        export: otlp::export(check, &file.export, env)?,
        detection: alerting::detection(check, &file.detection)?,
        alerting: alerting::alerting(check, &file.alerts, &file.respond.webhooks)?,
        responding: alerting::responding(check, &file.respond)?,
        trust_domain,
    })
}

fn privacy(check: Check<'_>, file: &ConfigFile) -> Result<Privacy, ConfigError> {
    let modes = [SubjectMode::Hash, SubjectMode::Clear, SubjectMode::None];
    let subjects = check.one_of(
        &file.privacy.subjects,
        "privacy.subjects",
        &modes.map(|mode| (mode.as_str(), mode)),
    )?;
    let rotate = check.duration(
        &file.privacy.subject_key.rotate,
        "privacy.subjectKey.rotate",
        (1, 3650 * 24 * 3600),
    )?;
    Ok(Privacy {
        subjects: subjects.unwrap_or(SubjectMode::Hash),
        rotate: rotate.unwrap_or(90 * DAY),
    })
}

fn retention(check: Check<'_>, file: &ConfigFile) -> Result<Retention, ConfigError> {
    let written = &file.audit.retention;
    let ages = (24 * 3600, 100 * 366 * 24 * 3600);
    Ok(Retention {
        max_age: check.duration(&written.max_age, "audit.retention.maxAge", ages)?,
        max_size: check.size(&written.max_size, "audit.retention.maxSize", (64 << 20, 1 << 50))?,
    })
}

fn policy_settings(
    check: Check<'_>,
    file: &ConfigFile,
    trust_domain: &TrustDomain,
) -> Result<Settings, ConfigError> {
    let default_action = check.one_of(
        &file.default_action,
        "defaultAction",
        &[("deny", DefaultAction::Deny), ("allow", DefaultAction::Allow)],
    )?;
    let modes = [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable];
    let default_mtls = check.one_of(
        &file.default_mtls,
        "defaultMtls",
        &modes.map(|mode| (mode.as_str(), mode)),
    )?;
    let namespace = "a DNS label: a-z 0-9 -, at most 63 characters";
    let root_namespace = check.optional(&file.root_namespace, "rootNamespace", namespace, |t| {
        is_dns_label(t).then(|| t.to_owned())
    })?;
    let mut trust_domain_aliases = Vec::new();
    for alias in &file.trust_domain_aliases {
        let alias = check
            .value(alias, "trustDomainAliases", TRUST_DOMAIN, |t| t.parse::<TrustDomain>().ok())?;
        trust_domain_aliases.push(alias.to_string());
    }
    let defaults = Settings::default();
    Ok(Settings {
        default_action: default_action.unwrap_or(defaults.default_action),
        default_mtls: default_mtls.unwrap_or(defaults.default_mtls),
        root_namespace: root_namespace.unwrap_or(defaults.root_namespace),
        trust_domain: Some(trust_domain.to_string()),
        trust_domain_aliases,
    })
}

/// Whether a text is a DNS label (RFC 1123): what services and namespaces are called.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
