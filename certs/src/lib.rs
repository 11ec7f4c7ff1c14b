//! Picket: certs.
