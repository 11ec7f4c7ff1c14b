//! A running proxy, over real sockets and real TLS handshakes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod audit;
mod chain;
mod custom;
mod http;
mod jwks;
mod jwt;
mod lifecycle;
mod limits;
mod outbound;
mod streams;
mod support;
mod tls;
