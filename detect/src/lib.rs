//! What is suspicious: Sigma rules, read strictly, compiled together, and held against a stream of flat records.
//!
//! Pure: no I/O and no clock. Rules are handed in as [`Document`]s, events as they come; time is the events' own, so
//! that a replay of the past finds what was found then. Records are the flat ones that `picket audit search` prints.
//!
//! Specification: Sigma 2.1 (detections, correlations, filters). What of it is not read is refused with its place, never
//! passed over; `docs/detection.md` says what that is. Not done here: who is told, and what is done about it.
//!
//! ```
//! use picket_detect::{Document, Engine, Event, RuleSet};
//!
//! let rule = Document::whole("denied.yaml", r#"
//! title: Denied
//! id: 6c1e1a9e-6a53-4b0a-9d7a-0b6d3b0f9e11
//! logsource: {product: picket, category: request}
//! detection:
//!   denied: {picket.decision: deny}
//!   condition: denied
//! level: low
//! "#);
//! let rules = RuleSet::parse(&[rule])?;
//! let mut engine = Engine::new(&rules);
//! let record = serde_json::json!({"id": "b-0-1", "time": "2026-11-26T10:00:00Z", "picket.kind": "request",
//!     "picket.decision": "deny"});
//! let event = Event::read(record.as_object().ok_or("no object")?)?;
//! let fired = engine.observe(&event);
//! assert_eq!(fired.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod alert;
mod condition;
mod correlation;
mod engine;
mod event;
mod known;
mod matcher;
mod pattern;
mod profile;
mod program;
mod rule;
mod set;
mod window;

pub use alert::{Alert, Level};
pub use engine::{Engine, RuleCounts};
pub use event::{BadEvent, Event};
pub use known::{KNOWN, is_known};
pub use picket_documents::{Diagnostic, Diagnostics, Document};
pub use profile::{
    Anomaly, BadProfiles, Budget, Change, Feature, Profiles, ProfilesSize, Readiness, ShownEdge,
    ShownItem, ShownProfile, ShownVersion,
};
pub use rule::{Action, CALLED, ISSUER, Mode, NoiseBudget, Rate, Respond, TOKEN, VERIFIED, code};
pub use set::{RuleKind, RuleSet, Summary};

#[cfg(test)]
mod tests;
