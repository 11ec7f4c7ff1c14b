//! The one binary of Picket.
fn main() {}
