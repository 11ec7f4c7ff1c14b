//! What the proxy and the control plane say to each other, and the names that audit spans use.
//!
//! [`v1`] and [`ext_authz`] are generated from `api/proto` by `api/codegen` and committed, so that building needs no
//! protobuf compiler. Nothing here decides anything.
#![forbid(unsafe_code)]

pub mod attributes;
pub mod exposition;
pub mod otlp;

/// What external authorizers are asked and answer: messages of Envoy's package `envoy.service.auth.v3`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod ext_authz {
    include!("generated/envoy.service.auth.v3.rs");
}

/// Enrollment and configuration: messages, clients and servers of package `picket.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    reason = "generated code"
)]
pub mod v1 {
    include!("generated/picket.v1.rs");

    impl std::fmt::Debug for JoinRequest {
        // The token is a secret for as long as it lives.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("JoinRequest")
                .field("signing_request", &self.signing_request.len())
                .finish_non_exhaustive()
        }
    }

    impl std::fmt::Debug for Subjects {
        // The key tells who is who in the records.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Subjects").field("mode", &self.mode).finish_non_exhaustive()
        }
    }
}
