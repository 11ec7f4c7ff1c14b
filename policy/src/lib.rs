//! Picket: policy.
