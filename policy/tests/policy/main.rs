//! The crate from outside: policies as files have them, requests as somebody describes them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is a failed test

mod allocation;
mod custom;
mod demands;
mod explain;
mod fields;
mod hostile;
mod istio_examples;
mod limits;
mod properties;
mod recorded;
mod sets;
mod signing;
mod support;
mod token_cache;
mod tokens;
