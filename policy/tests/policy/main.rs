//! The crate from outside: policies as files have them, requests as somebody describes them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is a failed test

mod allocation;
mod custom;
mod demands;
mod diff;
mod explain;
mod fields;
mod hostile;
mod istio_examples;
mod limits;
mod lint;
mod properties;
mod recorded;
mod sets;
mod signing;
mod support;
mod testing;
mod token_cache;
mod tokens;
