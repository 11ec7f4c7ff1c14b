//! The data plane: the sidecar that stands beside a service.
pub mod spool;
pub mod trace;
/// Audit.
pub mod audit {
    pub mod span;
}
pub mod config;
mod framing;
