//! The data plane: the sidecar that stands beside a service.
//!
//! It terminates mTLS and proves the peer's SPIFFE identity, checks tokens, decides by policy,
//! forwards to the service, carries the service's own calls out over mTLS, and records every request
//! before its answer leaves. [`run`] does all of it; the way of one request, in order, is in
//! `inbound.rs`.
//!
//! It never talks to the control plane on a request's way, and goes on without it.
#![deny(unsafe_code)]

mod admin;
mod audit;
mod authorize;
mod authorizer;
mod body;
mod boundary;
mod caller;
pub mod config;
mod connection;
mod control;
mod directory;
mod drain;
mod error;
mod export;
mod files;
mod flag;
mod forward;
mod forwarded_for;
mod framing;
mod headers;
mod identity;
mod inbound;
mod keys;
mod limit;
mod listener;
mod metrics;
mod normalize;
mod outbound;
mod peer;
mod probe;
mod recheck;
mod respond;
mod revocations;
mod run;
mod server;
mod snapshot;
mod spool;
mod state;
mod subjects;
mod tcp;
mod trace;
mod tunnel;
mod upstream;
mod witness;
mod worker;

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

pub use control::ControlError;
pub use files::FilesError;
pub use run::{Ended, ProxyError, run};
pub use state::StateError;

/// An error and what caused it, outermost first.
pub(crate) fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

/// An error with its causes, in one line: each prints only its own level.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let words: Vec<String> = causes(error).map(ToString::to_string).collect();
    words.join(": ")
}

/// The present, in seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Seconds since 1970.
pub(crate) fn unix(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
