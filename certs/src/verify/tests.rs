//! Each test makes its own authority; nothing is mocked, every certificate is really signed.

use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;
use crate::ca::{CertificateAuthority, Issued};
use crate::csr::{CsrError, NewKey, SigningRequest};

const LIFE: Duration = Duration::from_secs(3600);
const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

fn unix(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap())
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::create(&"example.org".parse().unwrap(), now()).unwrap()
}

fn bundle(ca: &CertificateAuthority) -> TrustBundle {
    TrustBundle::new("example.org".parse().unwrap(), vec![ca.certificate().clone()]).unwrap()
}

fn issue(ca: &CertificateAuthority, uri: &str) -> Issued {
    let identity = uri.parse().unwrap();
    let der = NewKey::generate().unwrap().request(&identity).unwrap();
    let request = SigningRequest::from_der(&der, &identity).unwrap();
    assert!(request.surplus().is_empty(), "{:?}", request.surplus());
    ca.issue(&identity, &request, LIFE, now()).unwrap()
}

fn verify(verifier: &PeerVerifier, issued: &Issued, at: SystemTime) -> Result<Leaf, Refusal> {
    verifier.verify(&issued.certificate, &[], KeyUsage::client_auth(), unix(at))
}

#[test]
fn an_issued_certificate_is_believed_for_its_life() {
    let ca = authority();
    let issued = issue(&ca, ORDERS);
    let verifier = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload);
    let leaf = verify(&verifier, &issued, now()).unwrap();
    assert_eq!(leaf.identity.as_str(), ORDERS);
    assert_eq!(leaf.subject, "");
    assert_eq!(leaf.not_after, now() + LIFE);
    assert_eq!(verify(&verifier, &issued, now() - LIFE).unwrap_err(), Refusal::NotYetValid);
    let late = now() + LIFE + Duration::from_secs(1);
    assert_eq!(verify(&verifier, &issued, late).unwrap_err(), Refusal::Expired);
}

#[test]
fn an_expired_certificate_passes_only_within_the_grace() {
    let ca = authority();
    let issued = issue(&ca, ORDERS);
    let verifier = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload).allow_expired_for(LIFE);
    assert!(verify(&verifier, &issued, now() + LIFE + LIFE / 2).is_ok());
    let late = now() + LIFE + LIFE + Duration::from_secs(1);
    assert_eq!(verify(&verifier, &issued, late).unwrap_err(), Refusal::Expired);
    // The grace forgives age, nothing else.
    let stranger = issue(&authority(), ORDERS);
    let aged = now() + LIFE + LIFE / 2;
    assert!(verify(&verifier, &stranger, aged).is_err());
}

#[test]
fn only_the_expected_identity_passes() {
    let ca = authority();
    let orders = issue(&ca, ORDERS);
    let ana = issue(&ca, "spiffe://example.org/operator/admin/ana");
    let exactly =
        |uri: &str| PeerVerifier::new(bundle(&ca), Expect::Workload(uri.parse().unwrap()));
    assert!(verify(&exactly(ORDERS), &orders, now()).is_ok());
    let other = exactly("spiffe://example.org/ns/shop/sa/payments");
    assert!(matches!(verify(&other, &orders, now()), Err(Refusal::Unexpected { .. })));
    let any = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload);
    assert!(matches!(verify(&any, &ana, now()), Err(Refusal::Unexpected { .. })));
    let operators = PeerVerifier::new(bundle(&ca), Expect::AnyOperator);
    assert!(verify(&operators, &ana, now()).is_ok());
    assert!(matches!(verify(&operators, &orders, now()), Err(Refusal::Unexpected { .. })));
}

#[test]
fn another_authority_or_trust_domain_is_refused() {
    let ca = authority();
    let verifier = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload);
    let stranger = issue(&authority(), ORDERS);
    assert_eq!(verify(&verifier, &stranger, now()).unwrap_err(), Refusal::UnknownAuthority);
    let foreign = issue(&ca, "spiffe://other.org/ns/shop/sa/orders");
    let refusal = verify(&verifier, &foreign, now()).unwrap_err();
    assert_eq!(refusal, Refusal::TrustDomain("other.org".to_owned()));
}

#[test]
fn both_authorities_of_a_rotation_are_believed() {
    let (old, new) = (authority(), authority());
    let both = TrustBundle::new(
        "example.org".parse().unwrap(),
        vec![old.certificate().clone(), new.certificate().clone()],
    );
    let verifier = PeerVerifier::new(both.unwrap(), Expect::AnyWorkload);
    for ca in [&old, &new] {
        assert!(verify(&verifier, &issue(ca, ORDERS), now()).is_ok());
    }
}

/// Signs what the CA itself never would.
fn forged(ca: &CertificateAuthority, change: impl FnOnce(&mut CertificateParams)) -> Leaf0 {
    let key = KeyPair::generate().unwrap();
    let signer = KeyPair::from_pem(&ca.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(ca.certificate(), signer).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(ORDERS.try_into().unwrap())];
    change(&mut params);
    CertificateDer::from(params.signed_by(&key, &issuer).unwrap())
}

type Leaf0 = CertificateDer<'static>;

#[test]
fn a_leaf_of_the_wrong_shape_is_refused_even_when_well_signed() {
    let ca = authority();
    let verifier = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload);
    let refusal =
        |der: Leaf0| verifier.verify(&der, &[], KeyUsage::client_auth(), unix(now())).unwrap_err();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let two = forged(&ca, |p| p.subject_alt_names.push(uri("spiffe://example.org/ns/a/sa/b")));
    assert_eq!(refusal(two), Refusal::Leaf(LeafError::SeveralUris(2)));
    let two = forged(&ca, |p| p.subject_alt_names.push(uri("https://example.org/")));
    assert_eq!(refusal(two), Refusal::Leaf(LeafError::SeveralUris(2)));
    let none = forged(&ca, |p| p.subject_alt_names.clear());
    assert_eq!(refusal(none), Refusal::Leaf(LeafError::NoUri));
    let common_name = forged(&ca, |p| {
        p.subject_alt_names = vec![SanType::DnsName("orders".try_into().unwrap())];
        p.distinguished_name.push(DnType::CommonName, ORDERS);
    });
    assert_eq!(refusal(common_name), Refusal::Leaf(LeafError::NoUri));
    let odd = forged(&ca, |p| p.subject_alt_names = vec![uri("spiffe://example.org/orders")]);
    assert!(matches!(refusal(odd), Refusal::Leaf(LeafError::SpiffeId(_))));
    let is_ca = forged(&ca, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(refusal(is_ca), Refusal::Leaf(LeafError::SigningCertificate));
    let signs = forged(&ca, |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    assert_eq!(refusal(signs), Refusal::Leaf(LeafError::SigningCertificate));
}

#[test]
fn a_leaf_cannot_issue_certificates() {
    let ca = authority();
    let key = NewKey::generate().unwrap();
    let identity: Identity = ORDERS.parse().unwrap();
    let request = SigningRequest::from_der(&key.request(&identity).unwrap(), &identity).unwrap();
    let orders = ca.issue(&identity, &request, LIFE, now()).unwrap();
    let pair = KeyPair::from_pem(&key.to_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&orders.certificate, pair).unwrap();
    let mut params = CertificateParams::default();
    let wanted = "spiffe://example.org/ns/shop/sa/payments";
    params.subject_alt_names = vec![SanType::URI(wanted.try_into().unwrap())];
    let child = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    let verifier = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload);
    let chain = [orders.certificate];
    let usage = KeyUsage::client_auth();
    assert!(verifier.verify(child.der(), &chain, usage, unix(now())).is_err());
}

#[test]
fn a_request_gets_only_what_was_granted() {
    let ca = authority();
    let identity: Identity = ORDERS.parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "root of all");
    params.subject_alt_names = vec![
        SanType::URI("spiffe://example.org/ns/shop/sa/payments".try_into().unwrap()),
        SanType::DnsName("payments.shop".try_into().unwrap()),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = params.serialize_request(&key).unwrap();
    let request = SigningRequest::from_der(der.der(), &identity).unwrap();
    let surplus = request.surplus().join("; ");
    for asked in ["payments.shop", "sa/payments", "root of all", "CA rights"] {
        assert!(surplus.contains(asked), "{asked} is not in {surplus}");
    }
    let issued = ca.issue(&identity, &request, LIFE, now()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(names.critical, "with an empty subject the alternative name is critical");
    assert_eq!(issued.leaf.identity, identity);
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().to_string(), "");
}

#[test]
fn a_request_without_its_private_key_is_refused() {
    let identity: Identity = ORDERS.parse().unwrap();
    let mut der = NewKey::generate().unwrap().request(&identity).unwrap();
    *der.last_mut().unwrap() ^= 1;
    let refused = SigningRequest::from_der(&der, &identity).unwrap_err();
    assert!(matches!(refused, CsrError::Signature | CsrError::Malformed), "{refused}");
    assert!(matches!(SigningRequest::from_der(b"no", &identity), Err(CsrError::Malformed)));
    let big = vec![0; 1 << 20];
    assert!(matches!(SigningRequest::from_der(&big, &identity), Err(CsrError::TooLarge(_))));
}

#[test]
fn keys_that_are_too_weak_are_refused() {
    let identity: Identity = ORDERS.parse().unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let der = CertificateParams::default().serialize_request(&key).unwrap();
    assert!(matches!(SigningRequest::from_der(der.der(), &identity), Err(CsrError::WeakKey)));
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.serialize_request(&key).unwrap();
        SigningRequest::from_der(der.der(), &identity).unwrap();
    }
}

#[test]
fn an_authority_survives_its_files() {
    let ca = authority();
    let again =
        CertificateAuthority::from_pem(ca.certificate_pem().as_bytes(), ca.key_pem().as_bytes());
    let issued = issue(&again.unwrap(), ORDERS);
    let verifier = PeerVerifier::new(bundle(&ca), Expect::AnyWorkload);
    assert!(verify(&verifier, &issued, now()).is_ok());
    let other = authority();
    let mixed =
        CertificateAuthority::from_pem(ca.certificate_pem().as_bytes(), other.key_pem().as_bytes());
    assert!(mixed.is_err());
}

#[test]
fn a_bundle_of_leaves_is_no_bundle() {
    let ca = authority();
    let leaf = issue(&ca, ORDERS).certificate;
    let trust_domain: crate::TrustDomain = "example.org".parse().unwrap();
    assert!(TrustBundle::new(trust_domain.clone(), vec![leaf]).is_err());
    assert!(TrustBundle::new(trust_domain.clone(), vec![]).is_err());
    let pem = bundle(&ca).to_pem();
    assert_eq!(TrustBundle::from_pem(trust_domain, pem.as_bytes()).unwrap(), bundle(&ca));
}
