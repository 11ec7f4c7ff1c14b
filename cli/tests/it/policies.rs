//! The policies of the tests' mesh: what its workloads may do.
//!
//! | caller | may | by |
//! |---|---|---|
//! | web | GET, POST, PUT and gRPC on the paths of `OPEN` | `shop/orders` rule 0 |
//! | web with a token | `POST /orders` | `shop/orders` rule 1 |
//! | anybody | nothing below `/secret/` | `shop/secret` rule 0, DENY |
//! | everybody else | nothing | default deny |

use picket_testkit::Issuer;

/// `iss` of the tokens.
pub(crate) const ISSUER: &str = "https://login.shop.example";

/// A rule that lets web in on some path.
pub(crate) const OPEN: &str =
    "/orders/*, /status/*, /bytes/*, /stream/*, /slow/*, /upload, /grpc.Shop/*";

/// The policy file of orders.
pub(crate) const FILE: &str = "orders.yaml";

/// The files and their contents.
pub(crate) fn files(issuer: &Issuer, open: &str) -> Vec<(&'static str, String)> {
    let web = "from: [{source: {principals: [shop.example/ns/shop/sa/web]}}]";
    let login = format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: login, namespace: shop}}
spec:
  jwtRules:
  - issuer: {ISSUER}
    audiences: [shop]
    jwks: '{}'
",
        issuer.jwks()
    );
    let orders = format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  rules:
  - {web}
    to: [{{operation: {{methods: [GET, POST, PUT], paths: [{open}]}}}}]
  - {web}
    to: [{{operation: {{methods: [POST], paths: [/orders]}}}}]
    when: [{{key: request.auth.principal, values: [\"{ISSUER}/*\"]}}]
"
    );
    let secret = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/secret/*]}}]
";
    vec![("login.yaml", login), (FILE, orders), ("secret.yaml", secret.to_owned())]
}

/// A token that lives so many seconds from now.
pub(crate) fn token(issuer: &Issuer, seconds: i64) -> String {
    let now = jiff::Timestamp::now().as_second();
    issuer.sign(serde_json::json!({"aud": "shop", "sub": "ana", "exp": now + seconds}))
}
