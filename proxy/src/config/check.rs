//! From the file as written to the configuration as meant, or to the first thing that is wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use picket_certs::{SpiffeId, TrustDomain};
use picket_policy::path::PathPattern;
use picket_policy::{DefaultAction, MtlsMode, Settings};
use picket_settings::{Check, ConfigError, Setting, duration};

use super::file::{ConfigFile, ENVIRONMENT, FilesFile, InboundFile, LimitsFile};
use super::{
    Audit, AuditRoute, Compression, Config, ControlSource, Durability, FilesSource, InboundPort,
    Limits, OnFull, Protocol, Source, SubjectMode, Token, Workload,
};
use crate::spool;

const TRUST_DOMAIN: &str = "a name of the characters a-z 0-9 . - _, such as shop.example";
const SEGMENT: &str = "a name of the characters a-z A-Z 0-9 . - _";
const LABEL: &str = "a DNS label: a-z 0-9 -, at most 63 characters";
const ADDRESS: &str = "an IP address with a port, such as 0.0.0.0:15006 or [::]:15006";
const LOOPBACK: &str = "a loopback address with a port, such as 127.0.0.1:15000";
const HOST_PORT: &str = "host:port of the control plane, such as picket-control:8443";
const OTLP: &str = "http://host:port of an OTLP/gRPC receiver without TLS, such as \
                    http://127.0.0.1:4317; towards a remote one put a local collector between";
const SYNC_INTERVAL: &str = "a duration from 1ms to 1s, such as 5ms";
const PATH_PATTERN: &str =
    "a path pattern as policies have it, such as /orders/* or /users/{*}/card";
const FILE: &str = "the path of a file";
const DIRECTORY: &str = "the path of a directory";

pub(super) fn check(file: &ConfigFile, name: &str) -> Result<Config, ConfigError> {
    let check = Check::new(name, ENVIRONMENT);
    let trust_domain: TrustDomain =
        check.needed(&file.trust_domain, "trustDomain", TRUST_DOMAIN, |t| t.parse().ok())?;
    let workload = workload(&check, file, &trust_domain)?;
    let source = source(&check, file, &trust_domain)?;
    let mut inbound = Vec::new();
    for (index, port) in file.inbound.iter().enumerate() {
        inbound.push(inbound_port(&check, index, port)?);
    }
    let outbound = check.optional(&file.outbound.listen, "outbound.listen", ADDRESS, address)?;
    if inbound.is_empty() && outbound.is_none() {
        return Err(check.conflict(
            None,
            "neither inbound nor outbound is set, so the proxy would do nothing; \
             set inbound (listen, forward) or outbound.listen",
        ));
    }
    let workers = count(check.number(&file.workers, "workers", (1, 64))?, default_workers());
    Ok(Config {
        state_dir: check.needed(&file.state_dir, "stateDir", DIRECTORY, path)?,
        workload,
        source,
        inbound,
        outbound,
        admin: check.optional(&file.admin.listen, "admin.listen", LOOPBACK, |t| {
            address(t).filter(|address| address.ip().is_loopback())
        })?,
        workers,
        trusted_hops: count(check.number(&file.trusted_hops, "trustedHops", (0, 16))?, 0),
        drain_deadline: check
            .duration(&file.drain.deadline, "drain.deadline", (1, 3600))?
            .unwrap_or(Duration::from_secs(25)),
        audit: audit(&check, file, workers)?,
        limits: limits(&check, &file.limits)?,
        jwks_ca: check.optional(&file.jwks.ca_certificate, "jwks.caCertificate", FILE, path)?,
        jwks_max_stale: check
            .duration(&file.jwks.max_stale, "jwks.maxStale", (1, 7 * 24 * 3600))?
            .unwrap_or(Duration::from_secs(12 * 3600)),
        trust_domain,
    })
}

fn workload(
    check: &Check<'_>,
    file: &ConfigFile,
    trust_domain: &TrustDomain,
) -> Result<Workload, ConfigError> {
    let raw = &file.workload;
    let segment =
        |text: &str| SpiffeId::new(trust_domain, text, "sa").is_ok().then(|| text.to_owned());
    let namespace = check.needed(&raw.namespace, "workload.namespace", SEGMENT, segment)?;
    let account =
        check.needed(&raw.service_account, "workload.serviceAccount", SEGMENT, segment)?;
    let id = SpiffeId::new(trust_domain, &namespace, &account)
        .map_err(|error| check.conflict(None, error.to_string()))?;
    let service = check.optional(&raw.service, "workload.service", LABEL, dns_label)?;
    let service = match service {
        Some(service) => service,
        None => dns_label(&account).ok_or_else(|| check.missing("workload.service", LABEL))?,
    };
    let mut labels: std::collections::BTreeMap<String, String> =
        raw.labels.iter().map(|(key, setting)| (key.clone(), setting.value.clone())).collect();
    if let Some(more) = &raw.more_labels {
        let pairs = check.value(more, "workload.labels", "k=v,k=v", |text| {
            text.split(',')
                .map(|pair| pair.split_once('=').filter(|(key, _)| !key.trim().is_empty()))
                .map(|pair| pair.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())))
                .collect::<Option<Vec<_>>>()
        })?;
        labels.extend(pairs);
    }
    let version = raw.version.as_ref().map(|setting| setting.value.clone());
    let version = version.or_else(|| labels.get("version").cloned()).unwrap_or_default();
    Ok(Workload { id, service, version, labels })
}

fn source(
    check: &Check<'_>,
    file: &ConfigFile,
    trust_domain: &TrustDomain,
) -> Result<Source, ConfigError> {
    let control = &file.control;
    let files = &file.files;
    match (&control.address, &files.certificate) {
        (Some(address), Some(_)) => Err(check.conflict(
            Some(&address.origin),
            "control.address and files.certificate are both set; a proxy has a control plane or \
             runs from files, so remove one of them",
        )),
        (Some(_), None) => {
            let inline = control.join_token.as_ref().map(|t| Token::Inline(t.value.clone()));
            let token_file =
                check.optional(&control.join_token_file, "control.joinTokenFile", FILE, path)?;
            Ok(Source::Control(ControlSource {
                address: check.needed(&control.address, "control.address", HOST_PORT, |text| {
                    let (host, port) = text.rsplit_once(':')?;
                    let port: u16 = port.parse().ok()?;
                    (!host.is_empty() && port > 0).then(|| text.to_owned())
                })?,
                trust_bundle: check.needed(
                    &control.trust_bundle,
                    "control.trustBundle",
                    FILE,
                    path,
                )?,
                token: inline.or(token_file.map(Token::File)),
            }))
        }
        (None, Some(_)) => Ok(Source::Files(Box::new(files_source(check, files, trust_domain)?))),
        (None, None) => Err(check.conflict(
            None,
            "neither control.address nor files.certificate is set; set control (address, \
             trustBundle, joinTokenFile) or files (certificate, key, bundle, policyDir)",
        )),
    }
}

fn files_source(
    check: &Check<'_>,
    raw: &FilesFile,
    trust_domain: &TrustDomain,
) -> Result<FilesSource, ConfigError> {
    let defaults = Settings::default();
    let action = [("deny", DefaultAction::Deny), ("allow", DefaultAction::Allow)];
    let modes = [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Disable]
        .map(|mode| (mode.as_str(), mode));
    Ok(FilesSource {
        certificate: check.needed(&raw.certificate, "files.certificate", FILE, path)?,
        key: check.needed(&raw.key, "files.key", FILE, path)?,
        bundle: check.needed(&raw.bundle, "files.bundle", FILE, path)?,
        policy_dir: check.needed(&raw.policy_dir, "files.policyDir", DIRECTORY, path)?,
        peers: check.optional(&raw.peers, "files.peers", FILE, path)?,
        otlp: check.optional(&raw.otlp, "files.otlp", OTLP, |text| {
            let uri: http::Uri = text.parse().ok()?;
            let plain = uri.scheme() == Some(&http::uri::Scheme::HTTP);
            (plain && matches!(uri.path(), "" | "/") && uri.query().is_none()).then_some(uri)
        })?,
        subjects: check.one_of(
            &raw.subjects,
            "files.subjects",
            &[
                ("hash", SubjectMode::Hash),
                ("clear", SubjectMode::Clear),
                ("none", SubjectMode::None),
            ],
        )?,
        policy: Settings {
            default_action: check
                .one_of(&raw.default_action, "files.defaultAction", &action)?
                .unwrap_or(defaults.default_action),
            default_mtls: check
                .one_of(&raw.default_mtls, "files.defaultMtls", &modes)?
                .unwrap_or(MtlsMode::Strict),
            root_namespace: check
                .optional(&raw.root_namespace, "files.rootNamespace", LABEL, dns_label)?
                .unwrap_or(defaults.root_namespace),
            trust_domain: Some(trust_domain.to_string()),
            trust_domain_aliases: Vec::new(),
        },
    })
}

fn inbound_port(
    check: &Check<'_>,
    index: usize,
    raw: &InboundFile,
) -> Result<InboundPort, ConfigError> {
    let key = |name: &str| format!("inbound[{index}].{name}");
    let protocols = [
        ("http", Protocol::Http),
        ("http2", Protocol::Http2),
        ("grpc", Protocol::Http2),
        ("tcp", Protocol::Tcp),
    ];
    let forward = check.needed(&raw.forward, &key("forward"), ADDRESS, |text| {
        address(text).filter(|address| address.port() > 0)
    })?;
    let service_port = check.number(&raw.service_port, &key("servicePort"), (1, 65535))?;
    Ok(InboundPort {
        listen: check.needed(&raw.listen, &key("listen"), ADDRESS, address)?,
        forward,
        protocol: check
            .one_of(&raw.protocol, &key("protocol"), &protocols)?
            .unwrap_or(Protocol::Http),
        service_port: service_port
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(forward.port()),
        advertise: check.optional(&raw.advertise, &key("advertise"), ADDRESS, |text| {
            address(text).filter(|address| !address.ip().is_unspecified() && address.port() > 0)
        })?,
    })
}

fn audit(check: &Check<'_>, file: &ConfigFile, workers: usize) -> Result<Audit, ConfigError> {
    let (raw, least) = (&file.audit, spool::min_size(workers));
    let choices =
        [("denyStateChanges", OnFull::DenyStateChanges), ("allowAndCount", OnFull::AllowAndCount)];
    let kept = [Durability::Memory, Durability::Spooled, Durability::Committed]
        .map(|durability| (durability.as_str(), durability));
    let codings = [("gzip", Compression::Gzip), ("none", Compression::None)];
    let interval = |text: &str| {
        let bounds = Duration::from_millis(1)..=Duration::from_secs(1);
        duration::parse(text).filter(|interval| bounds.contains(interval))
    };
    let mut routes = Vec::new();
    for (index, route) in raw.routes.iter().enumerate() {
        let key = |name: &str| format!("audit.routes[{index}].{name}");
        let durability = check.one_of(&route.durability, &key("durability"), &kept)?;
        let paths = route
            .paths
            .iter()
            .map(|path| check.value(path, &key("paths"), PATH_PATTERN, PathPattern::parse));
        let methods = route.methods.iter().map(|method| {
            check.value(method, &key("methods"), "a method, such as POST", |text| text.parse().ok())
        });
        routes.push(AuditRoute {
            paths: paths.collect::<Result<_, _>>()?,
            methods: methods.collect::<Result<_, _>>()?,
            durability: durability
                .ok_or_else(|| check.missing(key("durability"), "memory, spooled or committed"))?,
        });
    }
    let switch = [("true", true), ("false", false)];
    let enabled = check.one_of(&raw.enabled, "audit.enabled", &switch)?.unwrap_or(true);
    if let (false, Some(address)) = (enabled, &file.control.address) {
        return Err(check.conflict(
            Some(&address.origin),
            "audit.enabled is false and control.address is set: what happens in a mesh is recorded, \
             so remove audit.enabled (it is for measuring, with a proxy that runs from files)",
        ));
    }
    Ok(Audit {
        enabled,
        max_size: check
            .size(&raw.max_size, "audit.maxSize", (least, 1 << 40))?
            .unwrap_or(least.max(512 << 20)),
        max_age: check.duration(&raw.max_age, "audit.maxAge", (60, 365 * 24 * 3600))?,
        on_full: check
            .one_of(&raw.on_full, "audit.onFull", &choices)?
            .unwrap_or(OnFull::DenyStateChanges),
        sync_interval: check
            .optional(&raw.sync_interval, "audit.syncInterval", SYNC_INTERVAL, interval)?
            .unwrap_or(Duration::from_millis(5)),
        compression: check
            .one_of(&raw.compression, "audit.compression", &codings)?
            .unwrap_or(Compression::Gzip),
        durability: check
            .one_of(&raw.durability, "audit.durability", &kept)?
            .unwrap_or(Durability::Spooled),
        routes,
    })
}

fn limits(check: &Check<'_>, raw: &LimitsFile) -> Result<Limits, ConfigError> {
    let seconds = |setting: &Option<Setting>, key: &str, default: u64| {
        let found = check.duration(setting, key, (1, 600))?;
        Ok(found.unwrap_or(Duration::from_secs(default)))
    };
    // hyper's own floor for a head's buffer is 8 KiB.
    let head_size = check.size(&raw.head_size, "limits.headSize", (8 << 10, 1 << 20))?;
    Ok(Limits {
        head_size: count(head_size, 64 << 10),
        head_timeout: seconds(&raw.head_timeout, "limits.headTimeout", 10)?,
        handshake_timeout: seconds(&raw.handshake_timeout, "limits.handshakeTimeout", 5)?,
        connect_timeout: seconds(&raw.connect_timeout, "limits.connectTimeout", 5)?,
        connections: count(
            check.number(&raw.connections, "limits.connections", (1, 1_000_000))?,
            10_000,
        ),
    })
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}

fn count(set: Option<u64>, default: usize) -> usize {
    set.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// RFC 1123: what services and namespaces are called.
fn dns_label(text: &str) -> Option<String> {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-');
    fits.then(|| text.to_owned())
}
