//! What may pass: Istio's security policies, read strictly, compiled for a workload, and decided with reasons.
//!
//! Pure: no I/O and no clock; files are handed in as [`Document`]s, the time as an argument. It knows nothing of
//! sockets, certificates or HTTP servers: [`Attributes`] is all it sees of a request. Specs: `security.istio.io/v1`
//! (AuthorizationPolicy, RequestAuthentication, PeerAuthentication) as Istio documents it and generates it for Envoy.
//!
//! ```
//! use picket_policy::{Attributes, Document, Http, PolicySet, Principal, Settings, Workload, path};
//!
//! let policies = Document::whole("policies/payments.yaml", r#"
//! apiVersion: security.istio.io/v1
//! kind: AuthorizationPolicy
//! metadata: {name: payments, namespace: shop}
//! spec:
//!   rules:
//!   - from: [{source: {principals: ["example.org/ns/shop/sa/orders"]}}]
//!     to: [{operation: {methods: [POST], paths: [/charge]}}]
//! "#);
//! let set = PolicySet::parse(&[policies], Settings::default())?;
//! let policy = set.compile(&Workload { namespace: "shop".into(), name: "payments".into(), ..Workload::default() });
//!
//! let peer = Principal::from_spiffe_id("spiffe://example.org/ns/shop/sa/orders")?;
//! let target = path::normalize("/charge?amount=3")?;
//! let headers = http::HeaderMap::new();
//! let request = Attributes {
//!     peer: Some(&peer),
//!     http: Some(Http { method: &http::Method::POST, path: &target.path, host: None, headers: &headers, token: None }),
//!     ..Attributes::default()
//! };
//! assert!(policy.decide(&request).is_allowed());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod attributes;
pub mod authorizer;
mod compared;
mod decision;
pub mod diagnostic;
pub mod diff;
mod document;
pub mod envoy;
pub mod explain;
mod explanation;
mod index;
pub mod jwt;
mod kinds;
mod limit;
pub mod lint;
mod matcher;
mod mtls;
pub mod path;
mod principal;
mod recorded;
mod rule;
mod set;
pub mod testing;
mod trust_domain;
mod workload_policy;

pub use attributes::{Attributes, Http};
pub use decision::{Decision, DryRunHit, PolicyRef, ReasonCode, Stage, Verdict};
use picket_documents::{fields, yaml};

pub use diagnostic::{Diagnostic, Diagnostics, Fix, Severity};
pub use document::{DefaultAction, Document, MtlsMode, Settings, Workload};
pub use explanation::{Explanation, FailedClause, NearestMiss};
pub use fields::closest;
pub use limit::{Limit, Quota};
pub use principal::{Principal, PrincipalError};
pub use recorded::{Holds, MAX_AUDIENCES, Recorded, RecordedHttp, RecordedToken, Redecision};
pub use set::{BadGeneration, Generation, PolicySet};
pub use workload_policy::WorkloadPolicy;
