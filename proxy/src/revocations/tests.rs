use picket_api::v1::RevocationKind as Kind;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_700_000_000;

fn entry(kind: Kind, value: &str) -> v1::Revocation {
    let (id, value) = (format!("id of {value}"), value.to_owned());
    v1::Revocation { id, kind: kind.into(), value, ..v1::Revocation::default() }
}

fn list(entries: Vec<v1::Revocation>) -> Revocations {
    Revocations::new(&v1::RevocationList { revision: 7, entries }).unwrap()
}

fn token(claims: Value) -> VerifiedToken {
    let Value::Object(claims) = claims else { panic!("no claims") };
    VerifiedToken::from_claims(claims)
}

#[test]
fn a_token_is_revoked_by_each_of_its_names_and_by_no_other() {
    let good = json!({"iss": "https://a", "sub": "ana", "jti": "t1", "iat": NOW - 10});
    let of = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let with_issuer =
        |kind, value| v1::Revocation { issuer: "https://a".into(), ..entry(kind, value) };
    let until_then =
        v1::Revocation { issued_until: NOW as i64 - 10, ..entry(Kind::TokenSubject, "ana") };
    let ended = v1::Revocation { until: NOW as i64 - 61, ..entry(Kind::TokenId, "t1") };
    let in_grace = v1::Revocation { until: NOW as i64 - 60, ..entry(Kind::TokenId, "t1") };
    let table = [
        (entry(Kind::TokenId, "t1"), good.clone(), true),
        (entry(Kind::TokenId, "t2"), good.clone(), false),
        (entry(Kind::TokenId, "ana"), good.clone(), false),
        (entry(Kind::TokenSubject, "ana"), good.clone(), true),
        (entry(Kind::TokenIssuer, "https://a"), good.clone(), true),
        (entry(Kind::TokenIssuer, "https://b"), good.clone(), false),
        (entry(Kind::Identity, "ana"), good.clone(), false),
        (with_issuer(Kind::TokenId, "t1"), good.clone(), true),
        (with_issuer(Kind::TokenId, "t1"), of("iss", json!("https://b")), false),
        (with_issuer(Kind::TokenId, "t1"), of("iss", Value::Null), false),
        (until_then.clone(), good.clone(), true),
        (until_then.clone(), of("iat", json!(NOW - 9)), false),
        (until_then, of("iat", Value::Null), true),
        (ended, good.clone(), false),
        (in_grace, good, true),
    ];
    for (entry, claims, expected) in table {
        let revocations = list(vec![entry.clone()]);
        let found = revocations.token(&token(claims.clone()), NOW);
        assert_eq!(found.is_some(), expected, "{entry:?} and {claims}");
        assert!(found.is_none_or(|id| **id == *entry.id));
    }
}

#[test]
fn the_same_value_can_be_revoked_for_several_issuers() {
    let of = |issuer: &str| v1::Revocation { issuer: issuer.into(), ..entry(Kind::TokenId, "t1") };
    let revocations = list(vec![of("https://a"), of("https://b")]);
    assert_eq!((revocations.len(), revocations.revision()), (2, 7));
    for (issuer, expected) in [("https://a", true), ("https://b", true), ("https://c", false)] {
        let token = token(json!({"iss": issuer, "jti": "t1"}));
        assert_eq!(revocations.token(&token, NOW).is_some(), expected, "{issuer}");
    }
}

#[test]
fn certificates_are_revoked_by_identity_and_serial_number_for_their_time() {
    let id = "spiffe://example.org/ns/shop/sa/web";
    let short = v1::Revocation { until: NOW as i64, ..entry(Kind::Certificate, "0b") };
    let revocations = list(vec![entry(Kind::Identity, id), short]);
    let find = |id, serial, now| revocations.certificates().find(id, serial, now).is_some();
    assert!(find(id, "0a", NOW) && find("other", "0b", NOW + 60));
    assert!(!find("other", "0a", NOW) && !find("other", "0b", NOW + 61));
}

#[test]
fn a_list_that_is_not_understood_is_refused_whole() {
    let refused = |entry: v1::Revocation| {
        let entries = vec![self::entry(Kind::TokenId, "t1"), entry];
        Revocations::new(&v1::RevocationList { revision: 1, entries }).unwrap_err()
    };
    let newer = v1::Revocation { kind: 99, ..entry(Kind::TokenId, "t2") };
    assert!(matches!(refused(newer), BadRevocation::Kind { kind: 99, .. }));
    assert!(matches!(refused(entry(Kind::TokenId, "")), BadRevocation::Empty(_)));
}
