//! The demo's policies: Istio's own kinds, one file a service.

use serde_json::Value;

use super::tokens::ISSUER;

/// The file in which the mistake is.
pub(super) const ORDERS: &str = "orders.yaml";
/// What somebody mistyped, and what was meant.
pub(super) const MISTAKE: (&str, &str) = ("/order/{*}", "/orders/{*}");

/// File names and contents.
pub(super) fn files(jwks: &Value) -> [(&'static str, String); 4] {
    let login = format!(
        "# Tokens of the shop's login service are understood in the whole namespace.
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: login, namespace: shop}}
spec:
  jwtRules:
  - issuer: {ISSUER}
    audiences: [shop]
    forwardOriginalToken: true
    jwks: '{jwks}'
"
    );
    let web = format!(
        "# Customers come from outside, without a certificate of the mesh.
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  mtls: {{mode: PERMISSIVE}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  rules:
  - to: [{{operation: {{methods: [GET], paths: [/]}}}}]
  - from: [{{source: {{requestPrincipals: [\"{ISSUER}/*\"]}}}}]
    to: [{{operation: {{methods: [POST], paths: [/checkout]}}}}]
"
    );
    let orders = format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: orders}}}}
  rules:
  - from: [{{source: {{principals: [shop.example/ns/shop/sa/web]}}}}]
    to: [{{operation: {{methods: [POST], paths: [/orders]}}}}]
    when: [{{key: request.auth.principal, values: [\"{ISSUER}/*\"]}}]
  - from: [{{source: {{principals: [shop.example/ns/shop/sa/web]}}}}]
    to: [{{operation: {{methods: [GET], paths: [\"{}\"]}}}}]
",
        MISTAKE.0
    );
    let payments = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: payments, namespace: shop}
spec:
  selector: {matchLabels: {app: payments}}
  rules:
  - from: [{source: {principals: [shop.example/ns/shop/sa/orders]}}]
    to: [{operation: {methods: [POST], paths: [/charge]}}]
";
    [
        ("login.yaml", login),
        ("web.yaml", web),
        (ORDERS, orders),
        ("payments.yaml", payments.to_owned()),
    ]
}
