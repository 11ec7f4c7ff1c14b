//! The crate from outside: policies as files have them, requests as somebody describes them.

mod support;
