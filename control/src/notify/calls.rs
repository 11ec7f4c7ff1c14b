//! Webhooks that responses call: as alerts are told, by the outbox, but by name and on the record.

use std::time::SystemTime;

use picket_api::attributes as names;
use serde::{Deserialize, Serialize};

use super::{Notice, Notices, Sink, SinkKind, State};
use crate::clock;
use crate::journal::{Act, Event, Journal};
use crate::store::responses::{self, Step};
use crate::store::{StoreError, Writing, deliveries};

/// Who delivers.
const CONTROL: &str = "control plane";
const ACTION: &str = "webhook";

/// A response that is a webhook's to give.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: String,
    /// A SPIFFE ID.
    pub(crate) target: String,
    /// Who decides: `suggest` or `act`.
    pub(crate) mode: String,
    /// Who has decided.
    pub(crate) by: String,
}

/// A call that is under way.
pub(super) struct Call {
    response: String,
    alert: String,
    target: String,
    sink: String,
}

impl Call {
    /// The call that a notice is, if it is one.
    pub(super) fn of(sink: &Sink, notice: &Notice) -> Option<Self> {
        let asked = notice.response.as_ref()?;
        Some(Self {
            response: asked.id.clone(),
            alert: notice.alert.id.clone(),
            target: asked.target.clone(),
            sink: sink.name.clone(),
        })
    }

    /// Keeps that the receiver has taken it.
    pub(super) fn was_made(
        self,
        writing: &Writing<'_>,
        journal: &Journal,
        now: i64,
    ) -> Result<(), StoreError> {
        let words = format!("the webhook {} has taken it", self.sink);
        self.enter(writing, journal, (None, words), now)
    }

    /// Keeps that it was tried often enough.
    pub(super) fn was_given_up(
        self,
        writing: &Writing<'_>,
        journal: &Journal,
        (error, now): (&str, i64),
    ) -> Result<(), StoreError> {
        let words = format!("the webhook {} was given up: {error}", self.sink);
        self.enter(writing, journal, (Some("given_up"), words), now)
    }

    fn enter(
        self,
        writing: &Writing<'_>,
        journal: &Journal,
        (refused, words): (Option<&'static str>, String),
        at: i64,
    ) -> Result<(), StoreError> {
        let (event, now) = (Event::CallWebhook, clock::from_milliseconds(at));
        let step = Step {
            at,
            event: event.name().to_owned(),
            refused: refused.map(str::to_owned),
            actor: CONTROL.to_owned(),
            detail: Some(words.clone()),
        };
        responses::note(writing, &self.response, &step)?;
        let act = |now: SystemTime| match refused {
            Some(code) => Act::refused(event, now, code),
            None => Act::granted(event, now),
        };
        let act = act(now)
            .actor(CONTROL)
            .subject(&self.target)
            .with(names::RESPONSE, self.response)
            .with(names::RESPONSE_ACTION, ACTION)
            .with(names::ALERT, self.alert)
            .with(names::DETAIL, words);
        journal.enter(writing, &act)
    }
}

impl Notices {
    /// Whether there is a webhook of that name whose receiver can tell that it is called by us.
    pub(crate) fn can_call(&self, name: &str) -> bool {
        self.config.sinks.iter().any(|sink| {
            sink.name == name && matches!(sink.kind, SinkKind::Webhook { secret: Some(_), .. })
        })
    }

    /// Enters a call, as part of what decides it.
    pub(crate) fn call(
        &self,
        writing: &Writing<'_>,
        name: &str,
        notice: &Notice,
        now: i64,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(notice);
        let text = text.map_err(|_| StoreError::Unreadable("a notice"))?;
        deliveries::enter(writing, name, &notice.key, &text, now)
    }

    /// Takes back the calls that were not made yet: the ids of their responses.
    pub(crate) fn withdraw(
        &self,
        writing: &Writing<'_>,
        now: i64,
    ) -> Result<Vec<String>, StoreError> {
        let end = format!(".{}", State::Respond.as_str());
        let keys = deliveries::withdraw(writing, &end, "responses are halted", now)?;
        Ok(keys.iter().filter_map(|key| key.strip_suffix(&end)).map(str::to_owned).collect())
    }
}
