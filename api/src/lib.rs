//! Picket: api.
