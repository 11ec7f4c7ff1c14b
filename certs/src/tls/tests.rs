//! Real handshakes in memory.

use std::time::{Duration, SystemTime};

use rustls::{ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

use super::*;
use crate::bundle::TrustBundle;
use crate::ca::CertificateAuthority;
use crate::csr::{NewKey, SigningRequest};
use crate::spiffe::Identity;
use crate::verify::{Expect, Refusal};

struct Mesh {
    ca: CertificateAuthority,
    bundle: TrustBundle,
}

impl Mesh {
    fn new() -> Self {
        let trust_domain: crate::TrustDomain = "example.org".parse().unwrap();
        let ca = CertificateAuthority::create(&trust_domain, SystemTime::now()).unwrap();
        let bundle = TrustBundle::new(trust_domain, vec![ca.certificate().clone()]).unwrap();
        Self { ca, bundle }
    }

    fn svid(&self, account: &str) -> Svid {
        let uri = format!("spiffe://example.org/ns/shop/sa/{account}");
        let identity: Identity = uri.parse().unwrap();
        let key = NewKey::generate().unwrap();
        let request = SigningRequest::from_der(&key.request(&identity).unwrap(), &identity);
        let life = Duration::from_secs(60);
        let issued = self.ca.issue(&identity, &request.unwrap(), life, SystemTime::now()).unwrap();
        Svid::new(vec![issued.certificate], key.to_der()).unwrap()
    }

    fn server(&self) -> Arc<ServerConfig> {
        let verifier = PeerVerifier::new(self.bundle.clone(), Expect::AnyWorkload);
        let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
        let svid = self.svid("orders");
        Arc::new(server_config(&svid, verifier, Versions::Tls13, alpn).unwrap())
    }

    fn client(&self, svid: Option<&Svid>, expect: &str) -> Arc<ClientConfig> {
        let expect = Expect::Workload(expect.parse().unwrap());
        let verifier = PeerVerifier::new(self.bundle.clone(), expect);
        Arc::new(client_config(svid, verifier, &[b"http/1.1"]).unwrap())
    }
}

const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = "orders.shop".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..10 {
        transfer(|out| client.write_tls(out), |input| server.read_tls(input));
        server.process_new_packets()?;
        transfer(|out| server.write_tls(out), |input| client.read_tls(input));
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn transfer(
    mut from: impl FnMut(&mut Vec<u8>) -> std::io::Result<usize>,
    mut to: impl FnMut(&mut &[u8]) -> std::io::Result<usize>,
) {
    let mut bytes = Vec::new();
    while from(&mut bytes).unwrap() > 0 {}
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to(&mut rest).unwrap();
    }
}

#[test]
fn both_ends_prove_who_they_are_with_modern_cryptography() {
    let mesh = Mesh::new();
    let web = mesh.svid("web");
    let (client, server) = handshake(&mesh.client(Some(&web), ORDERS), &mesh.server()).unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = server.negotiated_key_exchange_group().map(|g| g.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    let suite = server.negotiated_cipher_suite().map(|s| s.suite());
    assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
    assert_eq!(client.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert_eq!(server.peer_certificates().unwrap(), web.chain());
}

#[test]
fn a_server_of_another_identity_is_refused_by_the_client() {
    let mesh = Mesh::new();
    let client = mesh.client(Some(&mesh.svid("web")), "spiffe://example.org/ns/shop/sa/payments");
    let error = handshake(&client, &mesh.server()).unwrap_err();
    assert!(matches!(Refusal::find(&error), Some(Refusal::Unexpected { .. })), "{error}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new();
    let error = handshake(&mesh.client(None, ORDERS), &mesh.server()).unwrap_err();
    assert!(matches!(error, rustls::Error::NoCertificatesPresented), "{error}");
}

#[test]
fn a_session_is_resumed_but_not_under_a_new_configuration() {
    let mesh = Mesh::new();
    let client = mesh.client(Some(&mesh.svid("web")), ORDERS);
    let server = mesh.server();
    let kind = |server: &Arc<ServerConfig>| {
        let (_, server) = handshake(&client, server).unwrap();
        assert!(server.peer_certificates().is_some(), "the stored leaf can be looked at again");
        server.handshake_kind().unwrap()
    };
    assert_eq!(kind(&server), HandshakeKind::Full);
    assert_eq!(kind(&server), HandshakeKind::Resumed);
    assert_eq!(kind(&mesh.server()), HandshakeKind::Full);
}

#[test]
fn a_key_of_another_certificate_makes_no_svid() {
    let mesh = Mesh::new();
    let web = mesh.svid("web");
    let key = NewKey::generate().unwrap();
    let error = Svid::new(web.chain().to_vec(), key.to_der()).unwrap_err();
    assert!(matches!(error, crate::svid::SvidError::Mismatch(_)), "{error}");
    assert!(!format!("{web:?}").contains("key"), "keys are never formatted");
}
