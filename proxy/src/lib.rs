//! Picket: proxy.
