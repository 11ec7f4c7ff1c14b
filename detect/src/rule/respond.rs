//! What a rule has done about what it finds: `x-picket.respond`.

use picket_documents::fields::{Field, Reader};
use picket_documents::yaml::At;
use serde::{Deserialize, Serialize};

use super::{code, timespan};

/// What is done, to whom, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Respond {
    /// What.
    pub action: Action,
    /// The field of the alert's group that names whom: one of [`VERIFIED`].
    pub of: String,
    /// Who decides.
    pub mode: Mode,
    /// How long it stands, in seconds.
    pub ttl: i64,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Whatever the identity asks for is denied.
    Quarantine,
}

impl Action {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
        }
    }
}

/// Who decides whether it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An operator.
    Suggest,
    /// The control plane, within its guard rails.
    Act,
}

/// The field that a certificate of the mesh vouches for. Nothing else may decide whom something is done to: an address, a
/// header or a path is whatever a caller writes, and an emitter is whoever was called.
pub const VERIFIED: [&str; 1] = ["picket.source"];

/// The shortest and longest time that something stands, in seconds.
const TTL: (i64, i64) = (10, 24 * 3600);

/// Reads it, if it is good.
pub(super) fn respond(field: Field<'_>, reader: &mut Reader<'_>) -> Option<(Respond, At)> {
    let mut fields = reader.map(field.node, "`respond`")?;
    let at = field.key;
    let wrong = |at: At, words: String, help: &str, reader: &mut Reader<'_>| {
        reader.error(at, code::BAD_RESPONSE, words, help);
    };
    let action = match fields.string("action", reader) {
        Some(text) if text.text == "quarantine" => Some(Action::Quarantine),
        Some(text) => {
            let words = format!("{:?} is nothing that can be done", text.text);
            wrong(text.at, words, "the one action is quarantine", reader);
            None
        }
        None => {
            wrong(at, "`action` is missing".to_owned(), "the one action is quarantine", reader);
            None
        }
    };
    let of = match fields.string("of", reader) {
        Some(text) if VERIFIED.contains(&text.text.as_str()) => Some(text.text),
        Some(text) => {
            let words = format!("no certificate vouches for `{}`", text.text);
            wrong(text.at, words, "use picket.source", reader);
            None
        }
        None => Some("picket.source".to_owned()),
    };
    let mode = match fields.string("mode", reader) {
        None => Some(Mode::Suggest),
        Some(text) if text.text == "suggest" => Some(Mode::Suggest),
        Some(text) if text.text == "act" => Some(Mode::Act),
        Some(text) => {
            let words = format!("{:?} is no mode", text.text);
            wrong(text.at, words, "use suggest or act", reader);
            None
        }
    };
    let ttl = match fields.string("ttl", reader) {
        None => Some(900),
        Some(text) => {
            let seconds = timespan(&text.text).map(|time| time / super::SECOND);
            let good = seconds.filter(|seconds| (TTL.0..=TTL.1).contains(seconds));
            if good.is_none() {
                let words = format!("{:?} is no time from 10s to 24h", text.text);
                wrong(text.at, words, "write one such as 15m", reader);
            }
            good
        }
    };
    fields.finish(reader);
    Some((Respond { action: action?, of: of?, mode: mode?, ttl: ttl? }, at))
}
