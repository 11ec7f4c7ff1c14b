//! Workload identity: SPIFFE IDs, X.509-SVIDs, trust bundles, certificate signing requests, the
//! certificate authority and the rustls verifiers that hold both ends of a connection to them.
//!
//! Nothing here opens a socket or reads a clock: whoever calls passes bytes and the time. The only
//! files touched are the ones whose permissions are part of keeping a key secret ([`files`]).
//!
//! Specifications: [SPIFFE-ID], [X.509-SVID], RFC 5280 (certificates), RFC 2986 (PKCS #10).
//!
//! [SPIFFE-ID]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
//! [X.509-SVID]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
#![forbid(unsafe_code)]

pub mod bundle;
pub mod ca;
pub mod csr;
pub mod files;
pub mod leaf;
pub mod spiffe;
pub mod subject;
pub mod svid;
pub mod tls;
pub mod verify;

pub use bundle::TrustBundle;
pub use ca::CertificateAuthority;
pub use csr::{NewKey, SigningRequest};
pub use leaf::Leaf;
pub use spiffe::{Identity, OperatorId, Role, SpiffeId, TrustDomain};
pub use svid::Svid;
pub use verify::{Expect, PeerVerifier, Refusal, Revoked};
