//! What Jaeger gets: the spans of three hops, decoded by a receiver that is not ours (the Python package
//! `opentelemetry-proto`), row by row; once with a stock Envoy and its own tracer as the service in the
//! middle.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use picket_api::attributes;
use picket_testkit::program::{ENVOY, PYTHON_OTLP};
use picket_testkit::{Echo, Port, Process, eventually};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::app::{App, Call, new_trace};
use crate::mesh::{Mesh, SOON, Workload, get, id, text};

const RECEIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/otlp_receiver.py");

const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  rules:
  - from: [{source: {principals: [shop.example/ns/shop/sa/customer]}}]
    to: [{operation: {methods: [POST], paths: [/checkout]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  rules:
  - from: [{source: {principals: [shop.example/ns/shop/sa/web]}}]
    to: [{operation: {methods: [POST], paths: ['/orders*']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  rules:
  - from: [{source: {principals: [shop.example/ns/shop/sa/orders, shop.example/ns/shop/sa/customer]}}]
    to: [{operation: {methods: [POST]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-refunds, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules: [{to: [{operation: {paths: [/refund]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-charges, namespace: shop, annotations: {istio.io/dry-run: 'true'}}
spec:
  selector: {matchLabels: {app: payments}}
  action: DENY
  rules: [{to: [{operation: {paths: [/charge]}}]}]
";

/// A span as the receiver prints it.
#[derive(Clone, Debug, Deserialize)]
struct Span {
    resource: Map<String, Value>,
    scope: String,
    trace: String,
    span: String,
    parent: String,
    name: String,
    kind: String,
    start: u64,
    end: u64,
    status: String,
    message: String,
    attributes: Map<String, Value>,
    events: Vec<Map<String, Value>>,
    links: Vec<Value>,
}

impl Span {
    fn service(&self) -> &str {
        self.resource["service.name"].as_str().unwrap()
    }

    fn text(&self, name: &str) -> &str {
        self.attributes.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The receiver, and the mesh that sends to it.
struct Shop {
    receiver: Process,
    otlp: SocketAddr,
    mesh: Mesh,
    /// Where the services behind the sidecars are.
    services: BTreeMap<&'static str, SocketAddr>,
}

impl Shop {
    /// A customer, and the sidecars of web, orders and payments.
    fn start(python: &Path, directory: &Path) -> Self {
        let otlp = Port::reserve().release();
        let arguments = [RECEIVER, &otlp.to_string()];
        let receiver = Process::foreign("receiver", directory, python, &arguments);
        eventually(SOON, "the receiver is ready", || {
            receiver.log().contains("ready").then_some(())
        });
        let export = format!("export: {{otlp: 'http://{otlp}', compression: gzip}}");
        let mut mesh = Mesh::start(&export);
        for file in ["orders.yaml", "secret.yaml", "login.yaml"] {
            fs::remove_file(mesh.policy(file)).unwrap();
        }
        fs::write(mesh.policy("shop.yaml"), POLICIES).unwrap();
        let mut services = BTreeMap::new();
        for name in ["web", "orders", "payments"] {
            let address = Port::reserve().release();
            mesh.add(&Workload::service(name, address));
            services.insert(name, address);
        }
        mesh.add(&Workload::caller("customer"));
        mesh.until_synced();
        Self { receiver, otlp, mesh, services }
    }

    /// The sample shop's own service; it ends with the test.
    fn serve(&self, name: &'static str) {
        let proxy = self.mesh.sidecar(name).outbound.to_string();
        let listen = self.services[name].to_string();
        let arguments = [name, "--listen", &listen, "--proxy", &proxy].map(str::to_owned);
        thread::spawn(move || picket_shop::run(&arguments).unwrap());
        let listen = self.services[name];
        eventually(SOON, "the service listens", || std::net::TcpStream::connect(listen).ok());
    }

    /// The customer's request to a service.
    async fn ask(&self, host: &str, path: &str, trace: &str) -> StatusCode {
        let call = Call {
            method: Method::POST,
            path: path.to_owned(),
            token: None,
            trace: trace.to_owned(),
        };
        let mut request = call.request();
        *request.uri_mut() = format!("http://{host}{path}").parse().unwrap();
        request.headers_mut().insert("host", host.parse().unwrap());
        let mut app = App::http1(self.mesh.sidecar("customer").outbound).await.unwrap();
        app.start(request).await.unwrap().status()
    }

    /// The spans of a trace, once there are that many.
    fn spans(&self, trace: &str, count: usize) -> Vec<Span> {
        let mut spans = eventually(SOON, &format!("{count} spans of trace {trace}"), || {
            let log = self.receiver.log();
            let lines = log.lines().filter(|line| line.starts_with('{'));
            let mut spans: Vec<Span> =
                lines.map(|line| serde_json::from_str(line).unwrap()).collect();
            spans.retain(|span| span.trace == trace);
            (spans.len() >= count).then_some(spans)
        });
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans.sort_by_key(|span| span.start);
        spans
    }
}

/// A chain of spans, each the child of the one before; the first one is the child of `root`.
fn chain(spans: &[Span], root: &str) -> Vec<Span> {
    let mut chain: Vec<Span> = Vec::new();
    let mut parent = root.to_owned();
    while let Some(next) = spans.iter().find(|span| span.parent == parent) {
        parent.clone_from(&next.span);
        chain.push(next.clone());
    }
    assert_eq!(
        chain.len(),
        spans.len(),
        "a parent is missing, or has several children: {spans:#?}"
    );
    chain
}

/// What is true of every span of ours.
fn check(span: &Span) {
    assert_eq!(span.scope, "picket.proxy");
    assert_eq!(span.resource["service.namespace"], "shop");
    assert_eq!(span.resource["picket.emitter"], id(span.service()).as_str());
    assert!(span.start < span.end && span.links.is_empty(), "{span:?}");
    assert!(span.attributes.keys().all(|name| !name.starts_with("http.method")), "stable names");
    // It is for calls that leave the mesh: none of these does.
    assert_eq!(span.attributes.get("peer.service"), None, "{span:?}");
    assert_eq!(span.text("tls.protocol.version"), "1.3", "{span:?}");
    let kind = if span.text("picket.direction") == "inbound" { "SERVER" } else { "CLIENT" };
    assert_eq!(span.kind, kind);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_gets_three_hops_as_one_trace() {
    let Some(python) = PYTHON_OTLP.or_skip("jaeger_gets_three_hops_as_one_trace") else { return };
    let directory = tempfile::TempDir::new().unwrap();
    let shop = Shop::start(&python, directory.path());
    for name in ["web", "orders", "payments"] {
        shop.serve(name);
    }
    let trace = new_trace(&mut fastrand::Rng::new());
    assert_eq!(shop.ask("web.shop", "/checkout", &trace).await, StatusCode::OK);
    let spans = chain(&shop.spans(&trace, 6), &trace[..16]);
    let rows: Vec<[&str; 6]> = spans
        .iter()
        .map(|s| {
            [
                s.service(),
                &s.kind,
                &s.name,
                &s.status,
                s.text("picket.source"),
                s.text("picket.policy"),
            ]
        })
        .collect();
    let [customer, web, orders] = ["customer", "web", "orders"].map(id);
    let expected = [
        ["customer", "CLIENT", "POST", "UNSET", &customer, ""],
        ["web", "SERVER", "POST /checkout", "UNSET", &customer, "shop/web"],
        ["web", "CLIENT", "POST", "UNSET", &web, ""],
        ["orders", "SERVER", "POST /orders*", "UNSET", &web, "shop/orders"],
        ["orders", "CLIENT", "POST", "UNSET", &orders, ""],
        ["payments", "SERVER", "POST", "UNSET", &orders, "shop/payments"],
    ];
    assert_eq!(rows, expected);
    for span in &spans {
        check(span);
        assert_eq!(span.attributes["http.response.status_code"], 200);
        assert_eq!(span.text("picket.decision"), "allow");
    }
    let destinations: Vec<&str> = spans.iter().map(|s| s.text("picket.destination")).collect();
    let [web, orders, payments] = ["web", "orders", "payments"].map(id);
    assert_eq!(destinations, [&web, &web, &orders, &orders, &payments, &payments].map(|id| &**id));
    // A policy on trial marks the span that it would have refused.
    let dry_run: Vec<&str> =
        spans[5].events.iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(dry_run, ["picket.authz.dry_run"]);
    assert_eq!(spans[5].events[0]["picket.dry_run"], "shop/no-charges=deny");

    // A denial is an error, and says by which policy.
    let trace = new_trace(&mut fastrand::Rng::new());
    assert_eq!(shop.ask("payments.shop", "/refund", &trace).await, StatusCode::FORBIDDEN);
    let spans = chain(&shop.spans(&trace, 2), &trace[..16]);
    let rows: Vec<[&str; 4]> =
        spans.iter().map(|s| [s.service(), &s.kind, &s.status, &s.message]).collect();
    let expected = [
        ["customer", "CLIENT", "UNSET", ""],
        ["payments", "SERVER", "ERROR", "denied: shop/no-refunds"],
    ];
    assert_eq!(rows, expected);
    let denied = &spans[1];
    check(denied);
    assert_eq!(denied.text("picket.policy"), "shop/no-refunds");
    assert!(denied.text("picket.policy.source").starts_with("shop.yaml:"), "{denied:?}");
    assert_eq!(denied.text("picket.decision.id"), denied.span);
    assert_eq!(denied.attributes["http.response.status_code"], 403);
    assert_eq!(denied.events[0]["name"], "picket.authz.denied");
    assert_eq!(denied.events[0]["picket.policy"], "shop/no-refunds");
    // The links that Jaeger is configured with lead to what they say.
    for (link, place) in links() {
        let known = |name: &str| match (name, place) {
            ("traceID", _) => denied.trace.clone(),
            (_, "logs") => denied.events[0][name].as_str().unwrap().to_owned(),
            _ => denied.text(name).to_owned(),
        };
        let (path, parameters) = filled(&link, known);
        let answer = shop.mesh.api(&format!("{path}?{parameters}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{link}: {answer}");
        let of_the_span = format!("\"span_id\":\"{}\"", denied.span);
        assert!(answer.contains(&of_the_span), "{link}: {answer}");
    }
}

/// The links of the example's UI configuration, and where Jaeger takes their values from.
fn links() -> Vec<(String, &'static str)> {
    let text = include_str!("../../../examples/jaeger/ui.json");
    let ui: Value = serde_json::from_str(text).unwrap();
    let patterns = ui["linkPatterns"].as_array().unwrap();
    assert!(patterns.len() > 3);
    let link = |pattern: &Value| {
        let place = match pattern["type"].as_str().unwrap() {
            "traces" => "traces",
            "tags" => "tags",
            "logs" => "logs",
            other => panic!("Jaeger does not know {other}"),
        };
        let names: Vec<&str> = attributes::all().collect();
        let is_known =
            |name: &str| names.contains(&name) || (name == "traceID" && place == "traces");
        if place != "traces" {
            assert!(is_known(pattern["key"].as_str().unwrap()), "{pattern}");
        }
        for field in ["url", "text"] {
            let used = pattern[field].as_str().unwrap().split("#{").skip(1);
            for name in used.map(|rest| rest.split('}').next().unwrap()) {
                assert!(is_known(name), "{pattern}: {name}");
            }
        }
        (pattern["url"].as_str().unwrap().to_owned(), place)
    };
    patterns.iter().map(link).collect()
}

/// Path and query of a link, with its values put in and encoded, as Jaeger's UI does.
fn filled(link: &str, value: impl Fn(&str) -> String) -> (String, String) {
    let rest = link.strip_prefix("https://control.shop.example:8444").unwrap();
    let (path, query) = rest.split_once('?').unwrap();
    let mut parts = query.split("#{");
    let mut filled = parts.next().unwrap().to_owned();
    for part in parts {
        let (name, more) = part.split_once('}').unwrap();
        let value = value(name);
        assert_ne!(value, "", "{link}: the span has no {name}");
        filled.extend(value.bytes().map(|byte| format!("%{byte:02X}")));
        filled.push_str(more);
    }
    (path.to_owned(), filled)
}

/// What is sent on through two sidecars, as the service sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_speak_b3_stay_in_the_trace_and_baggage_passes_untouched() {
    let echo = Echo::start().await;
    let mesh = Mesh::of_two("", echo.address());
    let trace = new_trace(&mut fastrand::Rng::new());
    let narrow = &trace[16..];
    let single = format!("{trace}-00f067aa0ba902b7-1");
    let other = new_trace(&mut fastrand::Rng::new());
    let unsampled = format!("00-{other}-00f067aa0ba902b7-00");
    let baggage = ("baggage", "user=%41;secret, ,broken===");
    type Headers<'h> = &'h [(&'h str, &'h str)];
    let cases: [(Headers<'_>, &[&str], bool); 4] = [
        (&[("b3", &single), baggage], &["b3", "traceparent"], true),
        (
            &[
                ("x-b3-traceid", narrow),
                ("x-b3-spanid", "00f067aa0ba902b7"),
                ("x-b3-sampled", "1"),
                baggage,
            ],
            &["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "traceparent"],
            true,
        ),
        (
            &[("traceparent", &unsampled), ("tracestate", "a=b"), baggage],
            &["traceparent", "tracestate"],
            false,
        ),
        (&[("traceparent", "00-broken"), ("tracestate", "a=b"), baggage], &["traceparent"], false),
    ];
    for (sent, expected, has_parent) in cases {
        let mut request = Call::get("/orders/7").request();
        request.headers_mut().remove("traceparent");
        for (name, value) in sent {
            request.headers_mut().insert(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        let mut app = App::http1(mesh.sidecar("web").outbound).await.unwrap();
        let answer =
            app.start(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let seen: Value = serde_json::from_slice(&answer).unwrap();
        let header = |name: &str| seen["headers"][name][0].as_str().unwrap_or_default().to_owned();
        for name in expected {
            assert_ne!(header(name), "", "{sent:?}: {seen}");
        }
        assert_eq!(header("baggage"), baggage.1);
        // Both hops are in it, the second one the child of the first, the service's part that of the second.
        let parent = header("traceparent");
        let [_, trace, span, _] = parent.split('-').collect::<Vec<_>>()[..] else {
            panic!("{parent}")
        };
        let records = mesh.records(trace, 2);
        let of = |direction: &str| {
            records.iter().find(|record| text(record, "picket.direction") == direction).unwrap()
        };
        let (outbound, inbound) = (of("outbound"), of("inbound"));
        assert_eq!(text(inbound, "span_id"), span, "{sent:?}");
        assert_eq!(text(inbound, "parent_span_id"), text(outbound, "span_id"), "{sent:?}");
        assert_eq!(text(outbound, "parent_span_id") == "00f067aa0ba902b7", has_parent, "{sent:?}");
        if !header("b3").is_empty() {
            assert_eq!(header("b3"), format!("{trace}-{span}-1-{}", text(outbound, "span_id")));
        }
        if !header("x-b3-traceid").is_empty() {
            assert_eq!(
                (header("x-b3-traceid"), header("x-b3-spanid")),
                (narrow.to_owned(), span.to_owned())
            );
        }
        let is_linked = outbound.contains_key("links");
        assert_eq!(
            is_linked,
            sent[0].1 == unsampled,
            "what was claimed and not recorded is a link"
        );
    }
}

#[test]
fn the_example_for_jaeger_is_a_configuration() {
    #[derive(Default, Deserialize)]
    struct Jaeger {
        service: Value,
        extensions: Value,
        receivers: Value,
        processors: Value,
        exporters: Value,
    }
    let jaeger: Jaeger = yaml(include_str!("../../../examples/jaeger/jaeger.yaml"));
    let traces = &jaeger.service["pipelines"]["traces"];
    for (kind, defined) in [
        ("receivers", &jaeger.receivers),
        ("processors", &jaeger.processors),
        ("exporters", &jaeger.exporters),
    ] {
        for name in traces[kind].as_array().unwrap() {
            assert!(defined.get(name.as_str().unwrap()).is_some(), "{name} of {kind}");
        }
    }
    for name in jaeger.service["extensions"].as_array().unwrap() {
        assert!(jaeger.extensions.get(name.as_str().unwrap()).is_some(), "{name}");
    }
    let storage = &jaeger.extensions["jaeger_query"]["storage"]["traces"];
    assert_eq!(storage, &jaeger.exporters["jaeger_storage_exporter"]["trace_storage"]);
    let backends = &jaeger.extensions["jaeger_storage"]["backends"];
    assert!(backends.get(storage.as_str().unwrap()).is_some());
    let compose: Value = yaml(include_str!("../../../examples/jaeger/compose.yaml"));
    let volumes = compose["services"]["jaeger"]["volumes"].to_string();
    let ui = jaeger.extensions["jaeger_query"]["ui"]["config_file"].as_str().unwrap();
    assert!(volumes.contains(&format!("./ui.json:{ui}:ro")), "{volumes}");
    // What the control plane needs besides is one with whatever it has.
    let control = format!(
        "trustDomain: a\nstateDir: s\npolicyDir: p\nlisten: {{proxies: '127.0.0.1:0'}}\n{}",
        include_str!("../../../examples/jaeger/control.yaml")
    );
    let config = picket_control::Config::load(&control, "control.yaml", std::iter::empty());
    assert_eq!(config.unwrap().export.unwrap().sampling.unwrap().share, 0.05);
}

fn yaml<T: for<'de> Deserialize<'de> + Default>(text: &str) -> T {
    picket_settings::parse(text, "example.yaml").unwrap()
}

/// An Envoy that takes the part of the orders service: it calls payments through its sidecar, and sends
/// spans of its own.
fn envoy(program: &Path, shop: &Shop, directory: &Path) -> Process {
    let admin = Port::reserve().release();
    let socket = |address: SocketAddr| {
        format!("{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}", address.port())
    };
    let cluster = |name: &str, address: SocketAddr, more: &str| {
        format!(
            "  - name: {name}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]
{more}",
            socket(address)
        )
    };
    let options = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";
    let text = format!(
        "admin: {{address: {admin_address}}}
static_resources:
  listeners:
  - address: {listen}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          tracing:
            spawn_upstream_span: true
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                '@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                grpc_service: {{envoy_grpc: {{cluster_name: otlp}}, timeout: 5s}}
                service_name: orders-app
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{prefix: /orders}}
                route: {{cluster: sidecar, host_rewrite_literal: payments.shop, prefix_rewrite: /charge}}
          http_filters:
          - name: router
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
{}{}",
        cluster("sidecar", shop.mesh.sidecar("orders").outbound, ""),
        cluster("otlp", shop.otlp, options),
        admin_address = socket(admin),
        listen = socket(shop.services["orders"]),
    );
    let config = directory.join("envoy.yaml");
    fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let arguments = ["-c", &config, "--use-dynamic-base-id", "--concurrency", "1"];
    let process = Process::foreign("envoy", directory, program, &arguments);
    eventually(SOON, "Envoy is ready", || {
        get(admin, "/ready").filter(|(status, _)| *status == 200)
    });
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_in_the_middle_with_a_tracer_of_its_own_stays_in_the_chain() {
    let test = "an_envoy_in_the_middle_with_a_tracer_of_its_own_stays_in_the_chain";
    let Some(python) = PYTHON_OTLP.or_skip(test) else { return };
    let Some(program) = ENVOY.or_skip(test) else { return };
    let directory = tempfile::TempDir::new().unwrap();
    let shop = Shop::start(&python, directory.path());
    for name in ["web", "payments"] {
        shop.serve(name);
    }
    let _envoy = envoy(&program, &shop, directory.path());
    let trace = new_trace(&mut fastrand::Rng::new());
    assert_eq!(shop.ask("web.shop", "/checkout", &trace).await, StatusCode::OK);
    let spans = chain(&shop.spans(&trace, 8), &trace[..16]);
    let rows: Vec<[&str; 2]> = spans.iter().map(|s| [s.service(), &*s.kind]).collect();
    let expected = [
        ["customer", "CLIENT"],
        ["web", "SERVER"],
        ["web", "CLIENT"],
        ["orders", "SERVER"],
        ["orders-app", "SERVER"],
        ["orders-app", "CLIENT"],
        ["orders", "CLIENT"],
        ["payments", "SERVER"],
    ];
    assert_eq!(rows, expected);
    for span in spans.iter().filter(|span| span.service() != "orders-app") {
        check(span);
    }
}
