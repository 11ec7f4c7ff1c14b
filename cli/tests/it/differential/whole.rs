//! The same requests to the programs that a user runs: a proxy from files, and an Envoy with what
//! `picket policy export` printed, both before the same services.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use fastrand::Rng;
use picket_policy::explain::{Explainer, Request};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{DefaultAction, MtlsMode};
use picket_testkit::program::ENVOY;
use picket_testkit::{Echo, Mesh, Port, Process, eventually};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::client::{Answer, Callers};
use super::generate::{self, NAME, NAMESPACE, PARTNER, Ports, Set, TRUST_DOMAIN};
use super::tokens::Tokens;
use super::verdict::{Outcome, Verdict};
use super::{HOUR, SEED, now, parse};
use crate::command::{Run, picket};
use crate::mesh::{SOON, get};

/// Policy sets: each is a proxy and two Envoys.
const SETS: u64 = 4;

/// A set that a single proxy can be asked about without being turned away in the handshake.
fn set(random: &mut Rng, tokens: &Tokens, ports: Ports) -> Set {
    let mut set = generate::set(random, tokens, ports);
    set.documents.retain(|document| document["kind"] != "PeerAuthentication");
    set.settings.default_mtls = MtlsMode::Permissive;
    set.settings.trust_domain = Some(TRUST_DOMAIN.to_owned());
    set.settings.trust_domain_aliases.clear();
    set
}

/// A service that gives back every byte.
async fn tcp_echo() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut bytes = [0; 16];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    stream.write_all(&bytes[..count]).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_and_an_exported_envoy_decide_as_we_do() {
    let test = "differential::whole::a_proxy_and_an_exported_envoy_decide_as_we_do";
    let Some(envoy) = ENVOY.or_skip(test) else { return };
    let (now, echo) = (now(), Echo::start().await);
    let ports = Ports { http: echo.address().port(), tcp: tcp_echo().await };
    let (mesh, partner, tokens) = (Mesh::new(TRUST_DOMAIN), Mesh::new(PARTNER), Tokens::new(now));
    let callers = Arc::new(Callers::new(&mesh, &partner, (NAMESPACE, NAME)));
    let (mut asked, mut allowed) = (0, 0);
    for index in 0..SETS {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        let server = mesh.files(&root.join("server"), NAMESPACE, NAME, HOUR);
        let mut random = Rng::with_seed(SEED.wrapping_add(index));
        let set = set(&mut random, &tokens, ports);
        let address = Ipv4Addr::LOCALHOST;
        let mut requests = generate::requests(&mut random, &tokens, ports, address, 1);
        // Others are turned away in the handshake: strangers, and who speaks TLS without a certificate.
        let ours = format!("spiffe://{TRUST_DOMAIN}/");
        requests.retain(|request: &Request| match &request.from {
            Some(from) => from.starts_with(&ours),
            None => request.sni.is_none(),
        });

        fs::create_dir(root.join("policies")).unwrap();
        for (index, document) in set.documents.iter().enumerate() {
            let file = root.join(format!("policies/{index}.yaml"));
            fs::write(file, document.to_string()).unwrap();
        }
        let default_action = match set.settings.default_action {
            DefaultAction::Allow => "allow",
            DefaultAction::Deny => "deny",
        };
        let free = || Port::reserve().release();
        let (http, tcp, admin) = (free(), free(), free());
        let path = root.display();
        let config = format!(
            "trustDomain: {TRUST_DOMAIN}\nstateDir: {path}/state\ntrustedHops: 1\n\
             workload: {{namespace: {NAMESPACE}, serviceAccount: {NAME}, labels: {{app: payments, tier: back}}}}\n\
             files:\n  certificate: {path}/server/svid.pem\n  key: {path}/server/key.pem\n  \
             bundle: {path}/server/bundle.pem\n  policyDir: {path}/policies\n  \
             defaultAction: {default_action}\n  defaultMtls: PERMISSIVE\n\
             inbound:\n- {{listen: '{http}', forward: '127.0.0.1:{}', protocol: http}}\n\
             - {{listen: '{tcp}', forward: '127.0.0.1:{}', protocol: tcp}}\n\
             admin: {{listen: '{admin}'}}\n",
            ports.http, ports.tcp,
        );
        fs::write(root.join("proxy.yaml"), config).unwrap();
        let file = root.join("proxy.yaml").display().to_string();
        let _proxy = Process::start("proxy", root, picket(&["proxy", "run", "--config", &file]));

        // What users do: export, and start Envoy with it.
        let policies = root.join("policies").display().to_string();
        let mut envoys = Vec::new();
        let mut reached = Vec::new();
        for (protocol, port) in [("http", ports.http), ("tcp", ports.tcp)] {
            let (listen, forward) = (free(), format!("127.0.0.1:{port}"));
            let text = |path: &std::path::Path| path.display().to_string();
            let exported = Run::of(&mut picket(&[
                "policy",
                "export",
                "--envoy",
                &policies,
                "--destination",
                "shop/payments",
                "--label",
                "app=payments",
                "--label",
                "tier=back",
                "--default-action",
                default_action,
                "--trust-domain",
                TRUST_DOMAIN,
                "--listen",
                &listen.to_string(),
                "--forward",
                &forward,
                "--protocol",
                protocol,
                "--certificate",
                &text(&server.certificate),
                "--key",
                &text(&server.key),
                "--bundle",
                &text(&server.bundle),
                "--trusted-hops",
                "1",
            ]))
            .fine();
            let file = root.join(format!("{protocol}.json"));
            fs::write(&file, exported.stdout).unwrap();
            let file = text(&file);
            let arguments = [
                "-c",
                &file,
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--log-level",
                "error",
            ];
            envoys.push(Process::foreign(protocol, root, &envoy, &arguments));
            reached.push(listen);
        }
        eventually(SOON, "the proxy is ready", || get(admin, "/readyz").filter(|r| r.0 == 200));
        for listen in &reached {
            eventually(SOON, "Envoy listens", || std::net::TcpStream::connect(listen).ok());
        }
        let sides: [[SocketAddr; 2]; 2] = [[http, tcp], [reached[0], reached[1]]];
        let parsed = parse(&set).unwrap();
        let mut explainer = Explainer::new(&parsed, &NoRemoteKeys, now);
        for (side, to) in ["the proxy", "Envoy"].into_iter().zip(sides) {
            let answers =
                callers.send(&requests, |request| to[usize::from(request.method.is_none())]).await;
            for (request, answer) in requests.iter().zip(answers) {
                let explained = explainer.answer(request);
                let ours = Verdict::ours(&explained, request.method.is_some()).unwrap();
                let words = || {
                    let request = serde_json::to_string(request).unwrap();
                    let documents = &set.documents;
                    format!(
                        "{side}, {:?}: {ours}: {}\n{request}\n{documents:#?}",
                        answer, explained.reason
                    )
                };
                match &answer {
                    // Envoy answers 403 to a token for another audience.
                    Answer::Http { status, .. } if side == "Envoy" => {
                        assert_eq!(*status == 200, ours.outcome == Outcome::Allow, "{}", words());
                    }
                    Answer::Http { status, .. } => {
                        assert_eq!(*status, ours.status(), "{}", words());
                    }
                    Answer::Tcp { passed } => {
                        assert_eq!(*passed, ours.outcome == Outcome::Allow, "{}", words());
                    }
                }
                asked += 1;
                allowed += usize::from(ours.outcome == Outcome::Allow);
            }
        }
    }
    println!("{asked} requests, {allowed} allowed");
    assert!(allowed * 10 > asked && allowed * 10 < asked * 9, "{allowed} of {asked}");
}
