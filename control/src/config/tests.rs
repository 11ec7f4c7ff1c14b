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
  metrics: 127.0.0.1:8446
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
    assert_eq!(config.listen_metrics.unwrap().port(), 8446);
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
    let message = error(SMALL, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://localhost:4317")]);
    assert!(message.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{message}");
}

/// The export that the suffixes of OpenTelemetry's variables make.
fn otlp(variables: &[(&str, &str)]) -> Result<Option<Export>, ConfigError> {
    let names: Vec<String> =
        variables.iter().map(|(name, _)| format!("OTEL_EXPORTER_OTLP_{name}")).collect();
    let env: Vec<(&str, &str)> =
        names.iter().zip(variables).map(|(name, (_, value))| (name.as_str(), *value)).collect();
    load(SMALL, &env).map(|config| config.export)
}

#[test]
fn opentelemetrys_endpoints_are_completed_as_its_specification_says() {
    const GRPC: (&str, &str) = ("PROTOCOL", "grpc");
    const HTTP: (&str, &str) = ("PROTOCOL", "http/protobuf");
    let table: [(&[(&str, &str)], &str); 13] = [
        (&[HTTP, ("ENDPOINT", "http://c:4318")], "http://c:4318/v1/traces"),
        (&[HTTP, ("ENDPOINT", "http://c:4318/")], "http://c:4318/v1/traces"),
        (&[HTTP, ("ENDPOINT", "https://c/base")], "https://c/base/v1/traces"),
        (&[HTTP, ("TRACES_ENDPOINT", "http://c:4318")], "http://c:4318/"),
        (&[HTTP, ("TRACES_ENDPOINT", "http://c/exactly/")], "http://c/exactly/"),
        (&[HTTP, ("ENDPOINT", "http://a"), ("TRACES_ENDPOINT", "http://b/x")], "http://b/x"),
        (&[GRPC, ("ENDPOINT", "http://c:4317")], "http://c:4317/"),
        (&[GRPC, ("ENDPOINT", "http://c:4317"), ("INSECURE", "false")], "http://c:4317/"),
        (&[GRPC, ("ENDPOINT", "https://c:4317"), ("INSECURE", "true")], "https://c:4317/"),
        (&[("ENDPOINT", "c:4317")], "https://c:4317/"),
        (&[("ENDPOINT", "c:4317"), ("INSECURE", "True")], "http://c:4317/"),
        (
            &[("TRACES_ENDPOINT", "c"), ("INSECURE", "false"), ("TRACES_INSECURE", "true")],
            "http://c/",
        ),
        (&[("TRACES_ENDPOINT", "[::1]:4317"), ("TRACES_INSECURE", "true")], "http://[::1]:4317/"),
    ];
    for (variables, expected) in table {
        let export = otlp(variables).unwrap().unwrap();
        assert_eq!(export.endpoint.to_string(), expected, "{variables:?}");
    }
    for (variables, words) in [
        (&[HTTP, ("ENDPOINT", "c:4318")][..], "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (&[("ENDPOINT", "c:4317"), ("INSECURE", "perhaps")], "OTEL_EXPORTER_OTLP_INSECURE"),
        (&[("PROTOCOL", "http/json"), ("ENDPOINT", "http://c")], "use grpc or http/protobuf"),
        (&[("COMPRESSION", "zstd"), ("ENDPOINT", "http://c")], "use none or gzip"),
        (&[("CLIENT_KEY", "k.pem"), ("ENDPOINT", "http://c")], "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        (&[("TIMEOUT", "10s"), ("ENDPOINT", "http://c")], "a number of milliseconds"),
    ] {
        let message = otlp(variables).unwrap_err().to_string();
        assert!(message.contains(words), "{variables:?}: {message}");
    }
    assert!(otlp(&[("HEADERS", "a=b"), ("COMPRESSION", "gzip")]).unwrap().is_none());
}

#[test]
fn of_opentelemetrys_variables_the_one_for_traces_wins_and_the_file_over_both() {
    let both = |name: &'static str, all: &'static str, traces: &'static str| {
        let of_traces = format!("TRACES_{name}");
        let variables = [("ENDPOINT", "http://c"), (name, all), (of_traces.as_str(), traces)];
        let only = [("ENDPOINT", "http://c"), (name, all), (of_traces.as_str(), "")];
        [otlp(&variables), otlp(&only)].map(|export| export.unwrap().unwrap())
    };
    let [traces, all] = both("COMPRESSION", "gzip", "none");
    assert_eq!((traces.gzip, all.gzip), (false, true));
    let [traces, all] = both("HEADERS", "a=1,b=2", "c=3");
    let names =
        |export: &Export| export.headers.iter().map(|h| h.0.to_string()).collect::<Vec<_>>();
    assert_eq!((names(&traces), names(&all)), (vec!["c".to_owned()], vec!["a".into(), "b".into()]));
    let [traces, all] = both("TIMEOUT", "1000", "2000");
    assert_eq!((traces.timeout.as_secs(), all.timeout.as_secs()), (2, 1));
    let [traces, all] = both("CERTIFICATE", "all.pem", "traces.pem");
    let file = |export: &Export| export.ca_certificate.as_ref().unwrap().display().to_string();
    assert_eq!((file(&traces), file(&all)), ("traces.pem".to_owned(), "all.pem".to_owned()));
    let export = otlp(&[
        ("ENDPOINT", "https://c"),
        ("CLIENT_CERTIFICATE", "all.pem"),
        ("TRACES_CLIENT_CERTIFICATE", "traces.pem"),
        ("CLIENT_KEY", "key.pem"),
    ]);
    let (certificate, key) = export.unwrap().unwrap().client.unwrap();
    assert_eq!((certificate.to_str(), key.to_str()), (Some("traces.pem"), Some("key.pem")));
    let env = [("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")];
    let text = FULL.replace("  protocol: grpc", "  protocol: grpc\n  compression: none");
    assert!(!load(&text, &env).unwrap().export.unwrap().gzip);
    assert!(load(FULL, &env).unwrap().export.unwrap().gzip);
}

#[test]
fn a_share_of_all_is_no_sampling() {
    let sampling = |text: &str| {
        let text = format!("{FULL}  sampling: {{ {text} }}\n");
        load(&text, &[]).map(|config| config.export.unwrap().sampling)
    };
    assert_eq!(sampling("share: 1").unwrap(), None);
    assert_eq!(sampling("slow: 2s").unwrap(), None);
    let (slow, wait) = (Duration::from_secs(1), Duration::from_secs(10));
    assert_eq!(sampling("share: 0.25").unwrap(), Some(Sampling { share: 0.25, slow, wait }));
    for wrong in ["share: 1.5", "share: -0.1", "share: NaN", "share: 10%"] {
        assert!(sampling(wrong).unwrap_err().to_string().contains("from 0 to 1"), "{wrong}");
    }
}

#[test]
fn a_sink_has_the_keys_of_its_kind_and_nothing_else() {
    let sink =
        |text: &str| load(&format!("{SMALL}alerts: {{sinks: [{{name: s, {text}}}]}}\n"), &[]);
    let mail = "kind: email, url: 'smtp://mail.example:587', from: a@b.example";
    for good in [
        "kind: syslog, url: 'tls://[::1]:6514', caCertificate: /ca.pem".to_owned(),
        format!("{mail}, to: [c@d.example], username: u, passwordFile: /p"),
        "kind: alertmanager, urls: ['http://a:9093', 'http://b:9093']".to_owned(),
    ] {
        sink(&good).unwrap();
    }
    for (wrong, said) in [
        (
            "kind: syslog, url: 'http://log.example:80'".to_owned(),
            "with tls, tcp or udp and a port",
        ),
        ("kind: syslog, url: 'udp://log.example'".to_owned(), "with tls, tcp or udp and a port"),
        (
            "kind: file, path: /f, caCertificate: /ca.pem".to_owned(),
            "sinks[0].caCertificate goes with",
        ),
        (mail.to_owned(), "alerts.sinks[0].to"),
        ("kind: alertmanager".to_owned(), "alerts.sinks[0].url"),
        ("kind: alertmanager, url: 'http://a', urls: ['http://b']".to_owned(), "keep one"),
        ("kind: alertmanager, urls: ['http://a', 'ftp://b']".to_owned(), "alerts.sinks[0].urls[1]"),
        ("kind: webhook, urls: ['http://a']".to_owned(), "urls goes with the kind alertmanager"),
        (format!("{mail}, to: ['x\\ny@d.example']"), "alerts.sinks[0].to[0]"),
        (format!("{mail}, to: [c@d.example], username: u"), "set both or none"),
        ("kind: pager".to_owned(), "syslog or email"),
    ] {
        let error = sink(&wrong).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("control.yaml"), "{wrong}: {error}");
    }
}

#[test]
fn alerts_are_kept_linked_and_held_as_it_is_written() {
    let alerts = |text: &str| load(&format!("{SMALL}alerts: {{{text}}}\n"), &[]);
    let default = alerts("").unwrap().alerting;
    assert_eq!(default, crate::notify::Alerting::default());
    let text =
        "linkBase: 'https://p.example/a', retention: 7d, flapping: {episodes: 5, within: 1h}";
    let written = alerts(text).unwrap().alerting;
    assert_eq!(written.retention, Duration::from_secs(7 * 24 * 3600));
    let flapping = crate::notify::Flapping { episodes: 5, within: Duration::from_secs(3600) };
    assert_eq!(written.flapping, flapping);
    for (wrong, said) in [
        ("retention: 1h", "alerts.retention"),
        ("flapping: {episodes: 1}", "alerts.flapping.episodes"),
        ("flapping: {within: 2d}", "alerts.flapping.within"),
        ("linkBase: 'https://p.example/a?b'", "alerts.linkBase"),
    ] {
        assert!(alerts(wrong).unwrap_err().to_string().contains(said), "{wrong}");
    }
}
