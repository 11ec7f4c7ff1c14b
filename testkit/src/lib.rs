//! Real parts for tests, none of them a stand-in for something a user would have: a certificate
//! authority whose certificates are really signed, a service that answers over real sockets, an OTLP
//! receiver, a token issuer; and what tests of whole processes need: the processes, their ports, and
//! the foreign programs that call them.
//!
//! For dev-dependencies only. Everything listens on loopback, on ports that the system chooses.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must fail at once")]

pub mod echo;
pub mod mesh;
pub mod otlp;
pub mod process;
pub mod program;
pub mod tokens;
pub mod websocket;

pub use echo::Echo;
pub use mesh::Mesh;
pub use otlp::OtlpSink;
pub use process::{Port, Process, Signal, system};
pub use tokens::Issuer;

use std::time::{Duration, Instant};

/// Waits until something is so. Conditions are awaited, never slept for.
///
/// # Panics
/// When it has not come about within `limit`.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
