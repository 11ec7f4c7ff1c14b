//! Picket: control.
