//! What can be demanded of a token: a binding to the client's certificate (RFC 8705), every value of a list, and all
//! of it together with the peer's identity in one rule.

use picket_policy::jwt::{NoRemoteKeys, TokenErrorKind};
use picket_policy::{PolicySet, Workload};
use serde_json::{Value, json};

use crate::signing::*;
use crate::support::*;

const ISSUER: &str = "https://idp.example";
const CERTIFICATE: [u8; 32] = [7; 32];

/// Token rules of an issuer, with annotations.
fn authentication(name: &str, annotations: &str, issuer: &str) -> String {
    let keys = Keys::issuer();
    let rule =
        json!({"issuer": issuer, "jwks": jwks(&[with(keys.p256_jwk(), &json!({"kid": "p256"}))])});
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\nspec: {}\n---\n",
        json!({ "jwtRules": [rule] })
    )
}

fn token(claims: &Value) -> String {
    Keys::issuer().token(&json!({"alg": "ES256", "kid": "p256"}), claims)
}

fn claims(more: &Value) -> Value {
    with(json!({"iss": ISSUER, "sub": "ana", "exp": NOW + 600}), more)
}

fn bound_to(certificate: [u8; 32]) -> Value {
    json!({"cnf": {"x5t#S256": b64(certificate)}})
}

/// Verifies a token that comes with a certificate, as the proxy does.
fn verify(
    set: &PolicySet,
    claims: &Value,
    certificate: Option<&[u8; 32]>,
) -> Result<(), TokenErrorKind> {
    let policy = set.compile(&Workload {
        namespace: "shop".into(),
        name: "web".into(),
        ..Workload::default()
    });
    let rules = policy.request_rules();
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", token(claims)).parse().unwrap());
    let token = rules.extract(&headers, None).unwrap().unwrap();
    let verified = rules.verify(&token, &NoRemoteKeys, NOW).map_err(|error| error.kind)?;
    verified.check_binding(certificate)
}

#[test]
fn a_bound_token_is_good_with_its_certificate_alone() {
    use TokenErrorKind::{Binding, Malformed, NotBound};
    let optional = set(&authentication("idp", "", ISSUER));
    let demanded = authentication("idp", "picket.dev/require-certificate-bound: \"true\"", ISSUER);
    let alternatives = set(&format!("{demanded}{}", authentication("second", "", ISSUER)));
    let demanded = set(&demanded);
    let (mine, other) = (Some(&CERTIFICATE), Some(&[8; 32]));
    let thumbprint = |value: Value| json!({"cnf": {"x5t#S256": value}});
    let table = [
        (bound_to(CERTIFICATE), mine, Ok(()), Ok(())),
        (bound_to(CERTIFICATE), other, Err(Binding), Err(Binding)),
        (bound_to(CERTIFICATE), None, Err(Binding), Err(Binding)),
        (json!({}), mine, Ok(()), Err(NotBound)),
        (json!({}), None, Ok(()), Err(NotBound)),
        (json!({"cnf": {"jkt": "a key"}}), mine, Ok(()), Err(NotBound)),
        (json!({"cnf": "text"}), mine, Err(Malformed), Err(Malformed)),
        (json!({"cnf": null}), mine, Err(Malformed), Err(Malformed)),
        (thumbprint(json!(7)), mine, Err(Malformed), Err(Malformed)),
        (thumbprint(json!("")), mine, Err(Malformed), Err(Malformed)),
        (thumbprint(json!(b64([7; 31]))), mine, Err(Malformed), Err(Malformed)),
        (thumbprint(json!(b64([7; 33]))), mine, Err(Malformed), Err(Malformed)),
        (thumbprint(json!("07".repeat(32))), mine, Err(Malformed), Err(Malformed)),
    ];
    for (more, certificate, as_it_comes, when_demanded) in table {
        let claims = claims(&more);
        assert_eq!(verify(&optional, &claims, certificate), as_it_comes, "{more}");
        assert_eq!(verify(&demanded, &claims, certificate), when_demanded, "{more}");
        // Of two rules for one issuer one accepts what the other does not.
        assert_eq!(verify(&alternatives, &claims, certificate), as_it_comes, "{more}");
    }
}

/// One rule with everything in it.
fn together() -> PolicySet {
    let rule = r#"{from: [{source: {principals: ["example.org/ns/shop/sa/web"], requestPrincipals: ["https://idp.example/*"]}}],
        when: [{key: request.auth.audiences, values: [orders]},
               {key: "request.auth.claims[org][team]", values: [sales]},
               {key: "request.auth.claims[groups]", values: [buyers]},
               {key: "request.auth.claims[groups]", values: [staff]},
               {key: "request.auth.claims[cnf][x5t#S256]", values: ["*"]}]}"#;
    let other = authentication("other", "", "https://other.example");
    set(&format!("{}{other}{}", authentication("idp", "", ISSUER), policy("ALLOW", rule)))
}

#[test]
fn one_rule_demands_peer_issuer_audience_claims_and_binding_together() {
    let set = together();
    let good = claims(&json!({
        "aud": ["orders", "payments"], "org": {"team": "sales"}, "groups": ["staff", "buyers"],
        "cnf": {"x5t#S256": b64(CERTIFICATE)},
    }));
    let ask = |from: Value, claims: Option<&Value>, certificate: Value| {
        let request =
            json!({"from": from, "token": claims.map(token), "certificate_sha256": certificate});
        let members = request.to_string();
        let answer = ask(&set, &request_json(&members[1..members.len() - 1]));
        (answer.status, answer.code)
    };
    let web = json!("spiffe://example.org/ns/shop/sa/web");
    let mine = json!("07".repeat(32));
    assert_eq!(ask(web.clone(), Some(&good), mine.clone()), (200, "allow_matched"));
    let without = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let mut unbound = good.clone();
    unbound.as_object_mut().unwrap().remove("cnf");
    let denied = (403, "no_allow_matched");
    let rogue = json!("spiffe://example.org/ns/shop/sa/rogue");
    let table = [
        ("another peer", rogue, Some(good.clone()), mine.clone(), denied),
        ("no peer", Value::Null, Some(good.clone()), mine.clone(), denied),
        ("no token", web.clone(), None, mine.clone(), denied),
        (
            "another issuer",
            web.clone(),
            Some(without("iss", json!("https://other.example"))),
            mine.clone(),
            denied,
        ),
        (
            "an unknown issuer",
            web.clone(),
            Some(without("iss", json!("https://evil.example"))),
            mine.clone(),
            (401, "jwt_issuer"),
        ),
        (
            "another audience",
            web.clone(),
            Some(without("aud", json!("payments"))),
            mine.clone(),
            denied,
        ),
        ("no audience", web.clone(), Some(without("aud", json!([]))), mine.clone(), denied),
        (
            "another nested claim",
            web.clone(),
            Some(without("org", json!({"team": "ops"}))),
            mine.clone(),
            denied,
        ),
        (
            "one of two groups",
            web.clone(),
            Some(without("groups", json!(["staff"]))),
            mine.clone(),
            denied,
        ),
        (
            "the other group",
            web.clone(),
            Some(without("groups", json!(["buyers", "guests"]))),
            mine.clone(),
            denied,
        ),
        ("no binding", web.clone(), Some(unbound), mine.clone(), denied),
        (
            "another certificate",
            web.clone(),
            Some(good.clone()),
            json!("08".repeat(32)),
            (401, "jwt_binding"),
        ),
        ("no certificate", web, Some(good), Value::Null, (401, "jwt_binding")),
    ];
    for (what, from, claims, certificate, expected) in table {
        assert_eq!(ask(from, claims.as_ref(), certificate), expected, "{what}");
    }
}

#[test]
fn explain_says_what_it_knows_of_the_certificate() {
    let set = together();
    let ask = |members: &str| ask(&set, &request_json(members));
    let bound = token(&claims(&bound_to(CERTIFICATE)));
    let with_colons = vec!["07"; 32].join(":");
    let answer = ask(&format!(r#""token": "{bound}", "certificate_sha256": "{with_colons}""#));
    assert_eq!(answer.code, "no_allow_matched");
    let answer = ask(&format!(r#""token": "{bound}""#));
    assert_eq!((answer.code, answer.stage.as_str()), ("jwt_binding", "request_authentication"));
    assert!(answer.reason.contains("certificate"), "{}", answer.reason);
    for bad in ["07", "zz", ""] {
        let answer = ask(&format!(r#""certificate_sha256": "{bad}""#));
        assert_eq!(answer.code, "malformed_request", "{bad}");
    }
    // Claims that count as verified are bound to whatever certificate there is, unless one is named.
    let claims = claims(&bound_to(CERTIFICATE)).to_string();
    assert_eq!(ask(&format!(r#""claims": {claims}"#)).code, "no_allow_matched");
    let other = "08".repeat(32);
    let answer = ask(&format!(r#""claims": {claims}, "certificate_sha256": "{other}""#));
    assert_eq!(answer.code, "jwt_binding");
}
