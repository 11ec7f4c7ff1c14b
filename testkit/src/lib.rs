//! Picket: testkit.
