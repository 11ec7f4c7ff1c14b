//! How records are kept and delivered.

use std::time::Duration;

use http::Method;
use picket_policy::path::PathPattern;

/// The audit spool.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Whether anything is recorded; never off in a mesh.
    pub enabled: bool,
    /// Most bytes that it may take on disk.
    pub max_size: u64,
    /// How long a record may wait to be received.
    pub max_age: Option<Duration>,
    /// What happens to requests that it has no room for.
    pub on_full: OnFull,
    /// How often it is synced while there is something new.
    pub sync_interval: Duration,
    /// How batches are sent.
    pub compression: Compression,
    /// How records are kept of what no route is about.
    pub durability: Durability,
    /// The first that fits counts.
    pub routes: Vec<AuditRoute>,
}

/// Requests whose records are kept in another way.
#[derive(Debug, Clone)]
pub struct AuditRoute {
    /// One has to fit; all paths if there is none.
    pub paths: Vec<PathPattern>,
    /// One has to be it; all methods if there is none.
    pub methods: Vec<Method>,
    /// How they are kept.
    pub durability: Durability,
}

/// How a record is kept until it is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In memory until it is complete: a kill takes those that are under way.
    Memory,
    /// In the page cache before anybody outside sees what it tells of: a kill takes nothing.
    Spooled,
    /// On disk before that: a power cut takes nothing.
    Committed,
}

impl Durability {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Spooled => "spooled",
            Self::Committed => "committed",
        }
    }
}

/// How batches are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Compressed.
    Gzip,
    /// As they are.
    None,
}

/// What happens to requests whose record cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Those that may change state (by their method) are answered 503; the others pass and are
    /// declared lost.
    DenyStateChanges,
    /// All pass and are declared lost.
    AllowAndCount,
}

impl Audit {
    /// How the record of a request is kept. `method`: none of a raw connection.
    pub(crate) fn durability(&self, method: Option<&Method>, path: &str) -> Durability {
        let fits = |route: &&AuditRoute| {
            (route.paths.is_empty() || route.paths.iter().any(|pattern| pattern.matches(path)))
                && (route.methods.is_empty() || method.is_some_and(|m| route.methods.contains(m)))
        };
        self.routes.iter().find(fits).map_or(self.durability, |route| route.durability)
    }
}
