//! The control plane of a mesh: certificate authority, policies, registry, audit store, operator API.
//!
//! It is not on the request path: while it is away, proxies go on serving, enforcing and recording
//! with what they have. One process, one state directory, one embedded database.
//!
//! | question | module |
//! |---|---|
//! | What is configured? | [`config`] |
//! | Where does a connection come in, and who is it? | `listener`, `peer` |
//! | Who gets which certificate? | `enrollment`, `authority`, `tokens` |
//! | What is a proxy told? | `configuration`, `policies`, `registry` |
//! | What is remembered? | `ingest`, `record`, `journal`, `store` |
//! | Is it whole, and can that be shown? | `ledger` |
//! | What can be searched for? | `search` |
//! | What is suspicious, who is told, and what is done? | `detection`, `notify`, `respond` |
//! | What is kept how long? | `retention` |
//! | What can operators see and do? | `api`, [`operator`] |
//! | Where do traces go? | `export`, [`telemetry`] |
//! | What starts and ends when? | `run` |
#![forbid(unsafe_code)]

mod api;
pub mod audit;
mod authority;
mod clock;
pub mod config;
mod configuration;
mod control;
mod detection;
mod enrollment;
mod export;
mod ingest;
mod journal;
mod ledger;
mod listener;
mod metrics;
mod notify;
pub mod operator;
mod peer;
mod policies;
mod record;
mod registry;
mod respond;
mod retention;
mod revocations;
pub mod rules;
mod run;
mod search;
mod state;
mod store;
mod subjects;
pub mod telemetry;
mod tokens;

use std::error::Error;
use std::fmt;

pub use authority::AuthorityError;
pub use config::{Config, ConfigError};
pub use export::client::ClientError;
pub use ledger::LedgerError;
pub use listener::SocketError;
pub use run::{ControlError, run, run_with};
pub use state::StateError;
pub use store::StoreError;

/// What the control plane is called in its own records and traces.
pub(crate) const SERVICE_NAME: &str = "picket-control";

/// An error with its causes, for logs: each level prints only itself.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'a)) -> impl fmt::Display + 'a {
    struct Chain<'a>(&'a (dyn Error + 'a));
    impl fmt::Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.0)?;
            let mut cause = self.0.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
            Ok(())
        }
    }
    Chain(error)
}
