//! HTTP clients that are not ours, against an inbound listener: each gets what policy says, and the
//! record names who it was.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use picket_testkit::mesh::Files;
use picket_testkit::program::{CURL, NGHTTP, OPENSSL};

use crate::app::new_trace;
use crate::command::Run;
use crate::house::House;
use crate::mesh::{id, number, text};

/// A request and what should come of it.
struct Case<'a> {
    caller: &'a Files,
    who: &'a str,
    method: &'a str,
    path: &'a str,
    token: Option<String>,
    status: u16,
    decision: &'a str,
    /// Policy or reason.
    because: &'a str,
}

fn cases(house: &House) -> Vec<Case<'_>> {
    let case = |caller, who, method, path, token, (status, decision, because)| Case {
        caller,
        who,
        method,
        path,
        token,
        status,
        decision,
        because,
    };
    let (web, rogue) = (&house.web, &house.rogue);
    vec![
        case(web, "web", "GET", "/orders/7", None, (200, "allow", "shop/orders")),
        case(web, "web", "DELETE", "/orders/7", None, (403, "deny", "no_allow_matched")),
        case(web, "web", "GET", "/secret/7", None, (403, "deny", "shop/secret")),
        case(rogue, "rogue", "GET", "/orders/7", None, (403, "deny", "no_allow_matched")),
        case(web, "web", "POST", "/orders", None, (403, "deny", "no_allow_matched")),
        case(web, "web", "POST", "/orders", Some(house.token(60)), (200, "allow", "shop/orders")),
        case(web, "web", "POST", "/orders", Some(house.token(-600)), (401, "deny", "jwt_expired")),
    ]
}

impl Case<'_> {
    /// Holds an answer and its record against what should be.
    #[track_caller]
    fn check(&self, house: &House, trace: &str, status: u16, version: &str) {
        let what = format!("{} {} as {} over {version}", self.method, self.path, self.who);
        assert_eq!(status, self.status, "{what}");
        let record = house.record(trace);
        assert_eq!(text(&record, "picket.source"), id(self.who), "{what}");
        assert_eq!(text(&record, "picket.destination"), id("orders"), "{what}");
        assert_eq!(text(&record, "picket.decision"), self.decision, "{what}");
        assert_eq!(text(&record, "http.request.method"), self.method, "{what}");
        assert_eq!(text(&record, "url.path"), self.path, "{what}");
        assert_eq!(text(&record, "network.protocol.version"), version, "{what}");
        assert_eq!(text(&record, "tls.protocol.version"), "1.3", "{what}");
        assert_eq!(number(&record, "http.response.status_code"), Some(i64::from(self.status)));
        let because = ["picket.policy", "picket.decision.reason"].map(|name| text(&record, name));
        assert!(because.contains(&self.because), "{what}: {because:?}");
    }

    fn headers(&self, trace: &str) -> Vec<String> {
        let parent = format!("traceparent: 00-{trace}-{}-01", &trace[..16]);
        let token = self.token.iter().map(|token| format!("authorization: Bearer {token}"));
        std::iter::once(parent).chain(token).collect()
    }
}

/// curl, with a certificate or without one.
///
/// `-k`: a SPIFFE certificate names its holder in a URI and carries no DNS name (X.509-SVID section 2),
/// and curl can check nothing but DNS names and addresses; `--connect-to` gives the handshake a server
/// name, but no name would fit. That the server is who it says is checked with openssl (its chain) and
/// with Envoy (its SPIFFE ID).
fn curl(curl: &Path, house: &House, version: &str, caller: Option<&Files>, more: &[&str]) -> Run {
    let mut command = Command::new(curl);
    command.args(["-sS", "-k", "--max-time", "20", version, "-o", "/dev/null"]);
    command.args(["-w", "%{http_code} %{http_version}"]);
    command.args(["--connect-to", &format!("orders.shop:443:{}", house.inbound)]);
    if let Some(files) = caller {
        command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
    }
    Run::of(command.args(more))
}

fn curl_gets_what_policy_says(house: &House, program: &Path) {
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for case in cases(house) {
            let trace = new_trace(&mut fastrand::Rng::new());
            let url = format!("https://orders.shop{}", case.path);
            let headers = case.headers(&trace);
            let mut more = vec!["-X", case.method, &url];
            more.extend(headers.iter().flat_map(|header| ["-H", header.as_str()]));
            let answer = curl(program, house, option, Some(case.caller), &more).fine().stdout;
            let (status, spoken) = answer.split_once(' ').unwrap();
            assert_eq!(spoken, version, "{answer}");
            case.check(house, &trace, status.parse().unwrap(), version);
        }
        let reached = house.echo.requests();
        for (caller, reason) in
            [(None, "no_client_certificate"), (Some(&house.foreign), "peer_unknown_authority")]
        {
            let before = house.refused_connections();
            let answer = curl(program, house, option, caller, &["https://orders.shop/orders/7"]);
            assert_ne!(answer.status, 0, "{answer:?}");
            assert!(answer.stdout.starts_with("000"), "{answer:?}");
            assert_eq!(house.next_refusal(&before), reason);
        }
        assert_eq!(house.echo.requests(), reached, "a stranger reached the service");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_what_policy_says_of_a_proxy_from_files() {
    let Some(program) = CURL.or_skip("curl_gets_what_policy_says_of_a_proxy_from_files") else {
        return;
    };
    curl_gets_what_policy_says(&House::of_files("http").await, &program);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_what_policy_says_in_a_mesh() {
    let Some(program) = CURL.or_skip("curl_gets_what_policy_says_in_a_mesh") else { return };
    curl_gets_what_policy_says(&House::of_mesh("http").await, &program);
}

/// `openssl s_client` with one request on its standard input.
fn s_client(openssl: &Path, house: &House, caller: &Files, more: &[&str], request: &str) -> Run {
    let mut command = Command::new(openssl);
    // The chain is verified; there is no DNS name to verify it against.
    command.args(["s_client", "-quiet", "-verify_return_error", "-alpn", "http/1.1", "-connect"]);
    command.arg(house.inbound.to_string()).args(more);
    command.arg("-CAfile").arg(&house.web.bundle);
    command.arg("-cert").arg(&caller.certificate).arg("-key").arg(&caller.key);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A refused client reads nothing more.
    let _refused = child.stdin.take().unwrap().write_all(request.as_bytes());
    child.wait_with_output().unwrap().into()
}

fn openssl(house: &House, program: &Path) {
    for case in cases(house) {
        let trace = new_trace(&mut fastrand::Rng::new());
        let headers = case.headers(&trace).join("\r\n");
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nContent-Length: 0\r\n\
             {headers}\r\n\r\n",
            case.method, case.path
        );
        let answer = s_client(program, house, case.caller, &["-tls1_3"], &request);
        let status = answer.stdout.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
        case.check(house, &trace, status, "1.1");
    }
    let before = house.refused_connections();
    let refused = s_client(program, house, &house.web, &["-tls1_2"], "GET / HTTP/1.1\r\n\r\n");
    assert!(refused.status != 0 && refused.stdout.is_empty(), "{refused:?}");
    assert!(refused.stderr.contains("alert protocol version"), "{refused:?}");
    assert_eq!(house.next_refusal(&before), "tls_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_gets_what_policy_says() {
    let Some(program) = OPENSSL.or_skip("openssl_gets_what_policy_says") else { return };
    openssl(&House::of_files("http").await, &program);
    openssl(&House::of_mesh("http").await, &program);
}

fn nghttp(house: &House, program: &Path) {
    for case in cases(house) {
        let trace = new_trace(&mut fastrand::Rng::new());
        let mut command = Command::new(program);
        command.args([
            "-v",
            "-n",
            "--timeout=20",
            &format!("--cert={}", case.caller.certificate.display()),
        ]);
        command.arg(format!("--key={}", case.caller.key.display()));
        command.arg(format!("-H:method: {}", case.method));
        for header in case.headers(&trace) {
            command.arg(format!("-H{header}"));
        }
        let answer = Run::of(command.arg(format!("https://{}{}", house.inbound, case.path)));
        let status = answer.stdout.split(":status: ").nth(1).and_then(|rest| rest.get(..3));
        let status = status.unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
        case.check(house, &trace, status, "2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp_gets_what_policy_says() {
    let Some(program) = NGHTTP.or_skip("nghttp_gets_what_policy_says") else { return };
    nghttp(&House::of_files("http").await, &program);
    nghttp(&House::of_mesh("http").await, &program);
}
