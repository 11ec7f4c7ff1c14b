//! A running control plane on real sockets, with real TLS and real files.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod audit;
mod enrollment;
mod export;
mod export_tls;
mod mesh;
mod operators;
mod revocations;
mod sampling;
mod search;
mod start;
mod stream;
mod subjects;
