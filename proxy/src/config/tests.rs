use super::*;

const CONTROL: &str = "\
trustDomain: shop.example
stateDir: /var/lib/picket/proxy
workload:
  namespace: shop
  serviceAccount: orders
  labels: {app: orders, version: '2'}
control:
  address: control.example:8443
  trustBundle: /etc/picket/bundle.pem
  joinTokenFile: /run/secrets/token
inbound:
  - {listen: 0.0.0.0:15006, forward: 127.0.0.1:8080, servicePort: 80}
  - {listen: 0.0.0.0:15007, forward: 127.0.0.1:9090, protocol: grpc}
outbound: {listen: 127.0.0.1:15001}
admin: {listen: 127.0.0.1:15000}
audit: {maxSize: 64MiB, onFull: allowAndCount}
";

const FILES: &str = "\
trustDomain: shop.example
stateDir: state
workload: {namespace: shop, serviceAccount: orders}
files: {certificate: c.pem, key: k.pem, bundle: b.pem, policyDir: policies}
inbound: [{listen: '127.0.0.1:0', forward: '127.0.0.1:8080'}]
";

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(text, "proxy.yaml", env)
}

fn error(text: &str, env: &[(&str, &str)]) -> String {
    load(text, env).unwrap_err().to_string()
}

#[test]
fn everything_that_is_written_arrives() {
    let config = load(CONTROL, &[]).unwrap();
    assert_eq!(config.workload.id.as_str(), "spiffe://shop.example/ns/shop/sa/orders");
    assert_eq!(
        (config.workload.service.as_str(), config.workload.version.as_str()),
        ("orders", "2")
    );
    let ports: Vec<_> = config.inbound.iter().map(|p| (p.protocol, p.service_port)).collect();
    assert_eq!(ports, [(Protocol::Http, 80), (Protocol::Http2, 9090)]);
    assert_eq!((config.audit.max_size, config.audit.on_full), (64 << 20, OnFull::AllowAndCount));
    assert!(matches!(&config.source, Source::Control(c) if c.address == "control.example:8443"));
}

#[test]
fn the_environment_alone_is_enough_for_a_container() {
    let config = load(
        "",
        &[
            ("PICKET_TRUST_DOMAIN", "shop.example"),
            ("PICKET_STATE_DIR", "/state"),
            ("PICKET_NAMESPACE", "shop"),
            ("PICKET_SERVICE_ACCOUNT", "orders"),
            ("PICKET_LABELS", "app=orders, tier=back"),
            ("PICKET_CONTROL_ADDRESS", "control:8443"),
            ("PICKET_TRUST_BUNDLE", "/bundle.pem"),
            ("PICKET_JOIN_TOKEN", "pkt_secret"),
            ("PICKET_INBOUND_LISTEN", "0.0.0.0:15006"),
            ("PICKET_INBOUND_FORWARD", "127.0.0.1:8080"),
            ("PICKET_WORKERS", "4"),
            ("PICKET_SOMETHING_SERVICE_HOST", "10.0.0.1"),
        ],
    )
    .unwrap();
    assert_eq!(config.workers, 4);
    assert_eq!(config.workload.labels.get("tier").map(String::as_str), Some("back"));
    assert!(!format!("{config:?}").contains("pkt_secret"), "a token is never formatted");
}

#[test]
fn a_variable_wins_over_the_file_and_only_its_key() {
    let config = load(CONTROL, &[("PICKET_INBOUND_LISTEN", "127.0.0.1:1")]).unwrap();
    assert_eq!(config.inbound[0].listen.port(), 1);
    assert_eq!(config.inbound[0].service_port, 80);
    assert_eq!(config.inbound.len(), 2);
}

#[test]
fn every_variable_sets_a_key_that_exists() {
    let mut file = file::ConfigFile::default();
    for variable in ENVIRONMENT {
        assert!(file.slot(variable.key).is_some(), "{}", variable.key);
    }
}

#[test]
fn files_alone_are_a_form_too_and_strict_is_the_default() {
    let config = load(FILES, &[]).unwrap();
    let Source::Files(files) = &config.source else { panic!("not from files") };
    assert_eq!(files.policy.default_mtls, picket_policy::MtlsMode::Strict);
    assert_eq!(files.policy.default_action, picket_policy::DefaultAction::Deny);
}

#[test]
fn every_mistake_says_what_where_and_how_to_fix() {
    let table = [
        (CONTROL.replace("stateDir", "stateDri"), "proxy.yaml:2:1: "),
        (CONTROL.replace("64MiB", "64MB"), "proxy.yaml:16:18: audit.maxSize: \"64MB\""),
        (CONTROL.replace("64MiB", "64MiB, enabled: false"), "what happens in a mesh is recorded"),
        (CONTROL.replace("127.0.0.1:15000", "0.0.0.0:15000"), "admin.listen: \"0.0.0.0:15000\""),
        (CONTROL.replace("protocol: grpc", "protocol: gprc"), "inbound[1].protocol: \"gprc\""),
        (CONTROL.replace("namespace: shop", "namespace: sh/op"), "workload.namespace: \"sh/op\""),
        (CONTROL.replace("control.example:8443", "control.example"), "control.address"),
        (CONTROL.replace("stateDir: /var/lib/picket/proxy\n", ""), "PICKET_STATE_DIR"),
        (FILES.replace("inbound:", "# inbound:"), "neither inbound nor outbound is set"),
        (FILES.replace("files:", "# files:"), "neither control.address nor files.certificate"),
        (FILES.replace("workload:", "control: {address: 'a:1'}\nworkload:"), "both set"),
        (FILES.replace("policies}", "policies, otlp: 'https://a:4317'}"), "without TLS"),
        (FILES.replace("policies}", "policies, otlp: 'a:4317'}"), "use http://host:port"),
        (CONTROL.replace("64MiB", "64MiB}\nworkers: 5 # {"), "from 80MiB"),
    ];
    for (text, expected) in table {
        let error = error(&text, &[]);
        assert!(error.contains(expected), "{error}\ndoes not say {expected}");
    }
    assert!(load(&CONTROL.replace("64MiB", "64MiB}\nworkers: 4 # {"), &[]).is_ok());
    let many = load(&format!("{FILES}workers: 40\n"), &[]).unwrap();
    assert_eq!(many.audit.max_size, 640 << 20, "room for every worker without being told");
    let nothing_set =
        error(&FILES.replace("inbound:", "# inbound:"), &[("PICKET_INBOUND_LISTEN", "")]);
    assert!(nothing_set.contains("neither inbound nor outbound"), "{nothing_set}");
    let variable = error(FILES, &[("PICKET_WORKERS", "many")]);
    assert!(variable.starts_with("environment variable PICKET_WORKERS: workers: \"many\""));
}
