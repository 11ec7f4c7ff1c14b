//! Picket: control plane.
#![forbid(unsafe_code)]

pub mod config;
