use std::time::Duration;

use picket_policy::{DefaultAction, MtlsMode};

use super::*;

const FULL: &str = "\
trustDomain: shop.example
trustDomainAliases: [old.example]
stateDir: /var/lib/picket/control
policyDir: /etc/picket/policies
listen:
  proxies: 0.0.0.0:8443
  operators: 0.0.0.0:8444
  health: 127.0.0.1:8445
defaultAction: allow
defaultMtls: PERMISSIVE
rootNamespace: mesh-root
certificates: { life: 30m, renewalGrace: 12h }
registry: { lease: 20s }
export:
  otlp: https://collector.example:4317
  headers: { x-api-key: secret }
  protocol: grpc
  caCertificate: /etc/picket/collector.pem
";

const SMALL: &str = "\
trustDomain: shop.example
stateDir: state
policyDir: policies
listen: { proxies: '127.0.0.1:0' }
";

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(text, "control.yaml", env)
}

fn error(text: &str, env: &[(&str, &str)]) -> String {
    load(text, env).unwrap_err().to_string()
}

#[test]
fn everything_that_is_written_arrives() {
    let config = load(FULL, &[]).unwrap();
    assert_eq!(config.trust_domain.as_str(), "shop.example");
    assert_eq!(config.policy.trust_domain_aliases, ["old.example"]);
    assert_eq!(config.policy.default_action, DefaultAction::Allow);
    assert_eq!(config.policy.default_mtls, MtlsMode::Permissive);
    assert_eq!(config.policy.root_namespace, "mesh-root");
    assert_eq!(config.certificate_life, Duration::from_secs(1800));
    assert_eq!(config.renewal_grace, Duration::from_secs(12 * 3600));
    assert_eq!(config.lease, Duration::from_secs(20));
    assert_eq!(config.listen_health.unwrap().port(), 8445);
    let export = config.export.as_ref().unwrap();
    assert_eq!(export.endpoint.to_string(), "https://collector.example:4317/");
    assert!(!format!("{config:?}").contains("secret"), "header values are never formatted");
}

#[test]
fn what_is_not_written_has_the_safe_default() {
    let config = load(SMALL, &[]).unwrap();
    assert_eq!(config.policy.default_action, DefaultAction::Deny);
    assert_eq!(config.policy.default_mtls, MtlsMode::Strict);
    assert_eq!(config.policy.root_namespace, "istio-system");
    assert_eq!(config.certificate_life, Duration::from_secs(3600));
    assert!(config.listen_operators.is_none() && config.export.is_none());
}

#[test]
fn errors_name_the_place_the_key_and_the_accepted_values() {
    let text = SMALL.replace("state\n", "state\ndefaultAction: maybe\n");
    assert_eq!(
        error(&text, &[]),
        "control.yaml:3:16: defaultAction: \"maybe\" is not accepted; use deny or allow"
    );
    let text = SMALL.replace("stateDir", "statDir");
    let message = error(&text, &[]);
    assert!(message.starts_with("control.yaml:2:1: unknown field `statDir`"), "{message}");
    assert!(message.contains("stateDir"), "{message}");
    let message = error("trustDomain: a\n", &[]);
    assert!(message.contains("stateDir is not set") && message.contains("PICKET_STATE_DIR"));
    let message = error(SMALL, &[("PICKET_CERTIFICATES_LIFE", "soon")]);
    assert!(message.starts_with("environment variable PICKET_CERTIFICATES_LIFE: "), "{message}");
    assert!(message.contains("from 1s to 30d"), "{message}");
    let message = error("a: [", &[]);
    assert!(message.starts_with("control.yaml:1:"), "{message}");
}

#[test]
fn variables_override_single_keys() {
    let env = [("PICKET_TRUST_DOMAIN", "other.example"), ("PICKET_LISTEN_HEALTH", "[::1]:9")];
    let config = load(SMALL, &env).unwrap();
    assert_eq!(config.trust_domain.as_str(), "other.example");
    assert_eq!(config.policy.trust_domain.as_deref(), Some("other.example"));
    assert_eq!(config.listen_health.unwrap().port(), 9);
    // A container may need no file at all.
    let env = [
        ("PICKET_TRUST_DOMAIN", "shop.example"),
        ("PICKET_STATE_DIR", "/s"),
        ("PICKET_POLICY_DIR", "/p"),
        ("PICKET_LISTEN_PROXIES", "0.0.0.0:8443"),
    ];
    assert!(load("", &env).is_ok());
}

#[test]
fn opentelemetrys_variables_count_where_the_file_is_silent() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318/base/"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, Tenant=x"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
    ];
    let export = load(SMALL, &env).unwrap().export.unwrap();
    assert_eq!(export.endpoint.to_string(), "http://localhost:4318/base/v1/traces");
    assert_eq!(export.protocol, Protocol::HttpProtobuf);
    assert_eq!(export.timeout, Duration::from_millis(2500));
    let names: Vec<_> = export.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
    assert_eq!(names, [("api-key", b"a b".as_slice()), ("tenant", b"x")]);
    let env = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/exactly"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ];
    let export = load(SMALL, &env).unwrap().export.unwrap();
    assert_eq!(export.endpoint.path(), "/exactly");
    let export = load(FULL, &env).unwrap().export.unwrap();
    assert_eq!(export.protocol, Protocol::Grpc);
    let message = error(SMALL, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")]);
    assert!(message.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{message}");
}
