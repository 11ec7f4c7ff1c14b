//! What signing requests and tokens get at the wire, by a client that is not our proxy and requests
//! that openssl made. Each attempt is found in the audit trail.

use std::fs;
use std::path::Path;
use std::process::Command;

use picket_certs::svid;
use picket_testkit::program::OPENSSL;
use tempfile::TempDir;
use tonic::Code;

use crate::command::Run;
use crate::enroll::{enrolled, join, renew};
use crate::mesh::{Mesh, Record, id, text};

/// Asks for another identity, an operator's, names that a web server would have, and CA rights.
const GREEDY: &str = "
[req]
prompt = no
distinguished_name = subject
req_extensions = wishes
[subject]
CN = payments.shop.example
[wishes]
subjectAltName = URI:spiffe://shop.example/ns/shop/sa/payments, \
URI:spiffe://shop.example/operator/admin/mallory, DNS:payments.shop.example, IP:10.0.0.1
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
";

/// A signing request in DER, of a key that openssl made.
fn request(openssl: &Path, directory: &Path) -> Vec<u8> {
    let (config, out) = (directory.join("greedy.cnf"), directory.join("request.der"));
    fs::write(&config, GREEDY).unwrap();
    let mut command = Command::new(openssl);
    command.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-outform", "DER", "-keyout"]).arg(directory.join("key.pem"));
    Run::of(command.arg("-config").arg(&config).arg("-out").arg(&out)).fine();
    fs::read(out).unwrap()
}

/// What openssl reads in a certificate chain's leaf; its signature is verified, too.
fn inspect(openssl: &Path, mesh: &Mesh, directory: &Path, chain: Vec<Vec<u8>>) -> String {
    let file = directory.join("issued.pem");
    let chain: Vec<_> = chain.into_iter().map(Into::into).collect();
    fs::write(&file, svid::chain_pem(&chain)).unwrap();
    let bundle = mesh.path("control/bundle.pem");
    let mut verify = Command::new(openssl);
    Run::of(verify.args(["verify", "-x509_strict", "-CAfile"]).arg(bundle).arg(&file)).fine();
    let mut show = Command::new(openssl);
    Run::of(show.args(["x509", "-noout", "-text", "-in"]).arg(&file)).fine().stdout
}

/// Nothing but the granted identity is in it.
#[track_caller]
fn is_only(certificate: &str, name: &str) {
    let names = certificate.lines().skip_while(|line| !line.contains("Subject Alternative Name"));
    let names: Vec<&str> = names.take(2).map(str::trim).collect();
    let own = format!("URI:{}", id(name));
    assert_eq!(names, ["X509v3 Subject Alternative Name: critical", own.as_str()]);
    assert!(certificate.contains("CA:FALSE"), "{certificate}");
    for unwanted in ["payments", "mallory", "10.0.0.1", "CA:TRUE", "Certificate Sign", "CRL Sign"] {
        assert!(!certificate.contains(unwanted), "{unwanted} is in {certificate}");
    }
    let subject = certificate.lines().map(str::trim).find(|line| line.starts_with("Subject:"));
    assert_eq!(subject, Some("Subject:"));
}

#[track_caller]
fn surplus_is_recorded(record: &Record) {
    assert_eq!(text(record, "picket.outcome"), "granted");
    assert_eq!(text(record, "picket.subject"), id("orders"));
    let surplus = record["picket.csr.surplus"].to_string();
    for asked in
        ["sa/payments", "mallory", "payments.shop.example", "IPAddress(0a:00:00:01)", "CA rights"]
    {
        assert!(surplus.contains(asked), "{asked} is not in {surplus}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_signing_request_gets_its_own_identity_and_no_more() {
    let test = "a_greedy_signing_request_gets_its_own_identity_and_no_more";
    let Some(openssl) = OPENSSL.or_skip(test) else { return };
    let (mesh, directory) = (Mesh::start(""), TempDir::new().unwrap());
    let directory = directory.path();
    let greedy = request(&openssl, directory);
    let issued = join(&mesh, &mesh.token("shop/orders"), greedy.clone()).await.unwrap();
    assert_eq!(issued.spiffe_id, id("orders"));
    is_only(&inspect(&openssl, &mesh, directory, issued.certificate_chain), "orders");
    let joins = mesh.search(&["--event", "enrollment.join"]);
    assert_eq!(joins.len(), 1, "{joins:#?}");
    surplus_is_recorded(&joins[0]);

    let held = enrolled(&mesh, "orders", &directory.join("orders")).await;
    let issued = renew(&mesh, &held, greedy).await.unwrap();
    is_only(&inspect(&openssl, &mesh, directory, issued.certificate_chain), "orders");
    let renewals = mesh.search(&["--event", "enrollment.renew"]);
    assert_eq!(renewals.len(), 1, "{renewals:#?}");
    surplus_is_recorded(&renewals[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_good_gets_nothing_and_is_on_the_record() {
    let (mesh, other, directory) = (Mesh::start(""), Mesh::start(""), TempDir::new().unwrap());
    let request = picket_certs::NewKey::generate().unwrap();
    let request = request.request(&id("orders").parse().unwrap()).unwrap();
    let used = mesh.token("shop/orders");
    join(&mesh, &used, request.clone()).await.unwrap();
    let short = ["join-token", "create", "--workload", "shop/orders", "--ttl", "1ms", "-o", "json"];
    let short = mesh.picket(&short).fine().json();
    let expired = short["token"].as_str().unwrap();
    let foreign = other.token("shop/orders");
    let forged = used.chars().rev().collect::<String>();
    let long = format!("pkt_{}", "a".repeat(20_000));
    let attempts = [
        (used.as_str(), "token_used"),
        (expired, "token_expired"),
        (&foreign, "token_unknown"),
        (&forged, "token_unknown"),
        ("", "token_unknown"),
        ("pkt_", "token_unknown"),
        ("' OR 1=1 --", "token_unknown"),
        ("pkt_\u{0}\u{202e}", "token_unknown"),
        (&long, "token_unknown"),
    ];
    let mut told = Vec::new();
    for (token, _) in attempts {
        let refused = join(&mesh, token, request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token:?}");
        told.push(refused.message().to_owned());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "a stranger can tell them apart: {told:?}");
    let joins = mesh.search(&["--event", "enrollment.join"]);
    assert_eq!(text(&joins[0], "picket.outcome"), "granted");
    let reasons: Vec<&str> = joins[1..].iter().map(|r| text(r, "picket.decision.reason")).collect();
    assert_eq!(reasons, attempts.map(|(_, reason)| reason));
    for record in &joins[1..] {
        assert_eq!(text(record, "picket.outcome"), "refused");
        assert_eq!(text(record, "network.peer.address"), "127.0.0.1");
    }
    // Of the tokens themselves nothing is kept.
    let trail = mesh.picket(&["audit", "search", "-o", "json"]).fine().stdout;
    for token in [used.as_str(), expired, &foreign] {
        assert!(!trail.contains(token));
    }
    // A workload that has joined is not held up by any of it.
    enrolled(&mesh, "orders", &directory.path().join("orders")).await;
}
