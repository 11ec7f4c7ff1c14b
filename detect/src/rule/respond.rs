//! What a rule has done about what it finds: `x-picket.respond`.

use picket_documents::fields::{Field, Fields, Reader, Text};
use picket_documents::yaml::{At, Value};
use serde::{Deserialize, Serialize};

use super::{code, timespan};

/// What is done, to whom, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Respond {
    /// What.
    pub action: Action,
    /// The field of the alert's group that names whom: one of [`VERIFIED`], or [`TOKEN`].
    pub of: String,
    /// Who decides.
    pub mode: Mode,
    /// How long it stands, in seconds.
    pub ttl: i64,
    /// The webhook that is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// What it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The field of the alert's group that names where: only there it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// So many requests in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Requests.
    pub requests: u32,
    /// Seconds.
    pub per: i64,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Whatever the identity asks for is denied.
    Quarantine,
    /// A webhook is called.
    Webhook,
    /// The identity's certificates, or the subject's tokens, are revoked.
    Revoke,
    /// The identity may only ask so often.
    Limit,
}

impl Action {
    const ALL: [Self; 4] = [Self::Quarantine, Self::Webhook, Self::Revoke, Self::Limit];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Webhook => "webhook",
            Self::Revoke => "revoke",
            Self::Limit => "limit",
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

/// The field that the signature of a token vouches for, together with [`ISSUER`]; only tokens are revoked by it.
pub const TOKEN: &str = "picket.jwt.subject";

/// Whose word the subject of a token is.
pub const ISSUER: &str = "picket.jwt.issuer";

/// The field that names where something holds: whoever was called.
pub const CALLED: &str = "picket.destination";

/// The shortest and longest time that something stands, in seconds.
const TTL: (i64, i64) = (10, 24 * 3600);
/// The shortest and longest time in which requests are counted, in seconds.
const PER: (i64, i64) = (1, 24 * 3600);
const MAX_REQUESTS: u32 = 1_000_000;

fn wrong(at: At, words: impl Into<String>, help: &str, reader: &mut Reader<'_>) {
    reader.error(at, code::BAD_RESPONSE, words, help);
}

/// Reads it, if it is good.
pub(super) fn respond(field: Field<'_>, reader: &mut Reader<'_>) -> Option<(Respond, At)> {
    let mut fields = reader.map(field.node, "`respond`")?;
    let at = field.key;
    let action = action(at, &mut fields, reader);
    let of = of(action, &mut fields, reader);
    let mode = mode(&mut fields, reader);
    let ttl = match fields.has("ttl") && action == Some(Action::Webhook) {
        true => {
            let text = fields.string("ttl", reader)?;
            wrong(text.at, "a webhook has no end", "remove it", reader);
            None
        }
        false => seconds("ttl", TTL, &mut fields, reader).unwrap_or(Some(900)),
    };
    let webhook = match action {
        Some(Action::Webhook) => webhook(at, &mut fields, reader)?,
        _ => None,
    };
    let rate = match action {
        Some(Action::Limit) => Some(rate(at, &mut fields, reader)?),
        _ => None,
    };
    let place = match action {
        Some(Action::Limit | Action::Quarantine) => place(&mut fields, reader)?,
        _ => None,
    };
    fields.finish(reader);
    let respond =
        Respond { action: action?, of: of?, mode: mode?, ttl: ttl?, webhook, rate, at: place };
    if respond.is_hard_to_undo() && respond.mode == Mode::Act {
        let words = "whose certificate ends while it is revoked cannot come back by itself";
        wrong(at, words, "an operator decides: use the mode suggest", reader);
        return None;
    }
    Some((respond, at))
}

impl Respond {
    /// Whether to lift it may not bring back what was before: a rule alone does not do it.
    pub fn is_hard_to_undo(&self) -> bool {
        self.action == Action::Revoke && self.of != TOKEN
    }

    /// Fields that the alert's group has to have.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        let issuer = (self.of == TOKEN).then_some(ISSUER);
        [self.of.as_str()].into_iter().chain(issuer).chain(self.at.as_deref())
    }
}

fn action(at: At, fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Action> {
    let help = format!("there are {}", Action::ALL.map(Action::as_str).join(", "));
    let Some(text) = fields.string("action", reader) else {
        wrong(at, "`action` is missing", &help, reader);
        return None;
    };
    let found = Action::ALL.into_iter().find(|action| action.as_str() == text.text);
    if found.is_none() {
        wrong(text.at, format!("{:?} is nothing that can be done", text.text), &help, reader);
    }
    found
}

fn of(action: Option<Action>, fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let Some(Text { text, at, .. }) = fields.string("of", reader) else {
        return Some("picket.source".to_owned());
    };
    let is_token = text == TOKEN;
    if VERIFIED.contains(&text.as_str()) || is_token && action == Some(Action::Revoke) {
        return Some(text);
    }
    match is_token {
        true => {
            let words = "only tokens can be revoked by whom they were issued to";
            wrong(at, words, "use picket.source, or the action revoke", reader);
        }
        false => {
            wrong(at, format!("no certificate vouches for `{text}`"), "use picket.source", reader)
        }
    }
    None
}

fn mode(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Mode> {
    match fields.string("mode", reader) {
        None => Some(Mode::Suggest),
        Some(text) if text.text == "suggest" => Some(Mode::Suggest),
        Some(text) if text.text == "act" => Some(Mode::Act),
        Some(text) => {
            wrong(text.at, format!("{:?} is no mode", text.text), "use suggest or act", reader);
            None
        }
    }
}

/// A time in seconds; none if it is not there, nothing within if it is bad.
fn seconds(
    name: &'static str,
    (least, most): (i64, i64),
    fields: &mut Fields<'_>,
    reader: &mut Reader<'_>,
) -> Option<Option<i64>> {
    let text = fields.string(name, reader)?;
    let seconds = timespan(&text.text).map(|time| time / super::SECOND);
    let good = seconds.filter(|seconds| (least..=most).contains(seconds));
    if good.is_none() {
        let words = format!("{:?} is no time from {least}s to {}h", text.text, most / 3600);
        wrong(text.at, words, "write one such as 15m", reader);
    }
    Some(good)
}

/// The name of a webhook; none if it is bad.
fn webhook(at: At, fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Option<String>> {
    let help = "name one of the control plane's `respond.webhooks`";
    let Some(text) = fields.string("webhook", reader) else {
        wrong(at, "`webhook` is missing", help, reader);
        return None;
    };
    if text.text.is_empty() {
        wrong(text.at, "`webhook` is empty", help, reader);
        return None;
    }
    Some(Some(text.text))
}

fn rate(at: At, fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Rate> {
    let help = "write for example `requests: 10, per: 1m`";
    let Some(field) = fields.take("requests") else {
        wrong(at, "`requests` is missing", help, reader);
        return None;
    };
    let requests = match &field.node.value {
        Value::Number(text) => text.parse().ok().filter(|n| (1..=MAX_REQUESTS).contains(n)),
        _ => None,
    };
    if requests.is_none() {
        let words = format!("`requests` is no number from 1 to {MAX_REQUESTS}");
        wrong(field.node.at, words, help, reader);
    }
    let Some(per) = seconds("per", PER, fields, reader) else {
        wrong(at, "`per` is missing", help, reader);
        return None;
    };
    Some(Rate { requests: requests?, per: per? })
}

/// Where it holds; nothing within if it is everywhere.
fn place(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Option<String>> {
    match fields.string("at", reader) {
        None => Some(None),
        Some(text) if text.text == CALLED => Some(Some(text.text)),
        Some(text) => {
            let words = format!("`{}` does not say who was called", text.text);
            wrong(text.at, words, "use picket.destination, or remove it", reader);
            None
        }
    }
}
