//! How something is done and undone, and how each step is kept.

use std::time::SystemTime;

use picket_api::attributes as names;
use picket_policy::Document;

use super::rails::Rail;
use super::{QUARANTINE, Responses};
use crate::clock;
use crate::journal::{Act, Event};
use crate::store::responses::{self as stored, Kept, Step};
use crate::store::{StoreError, Writing};

/// A step that is to be kept.
pub(super) struct Done<'a> {
    pub(super) event: Event,
    pub(super) actor: &'a str,
    pub(super) refused: Option<&'static str>,
    pub(super) detail: Option<&'a str>,
    /// The records that caused it.
    pub(super) records: &'a [String],
}

/// It was done.
pub(super) fn granted(event: Event, actor: &str) -> Done<'_> {
    Done { event, actor, refused: None, detail: None, records: &[] }
}

/// It was not.
pub(super) fn refused<'a>(event: Event, actor: &'a str, rail: &Rail) -> Done<'a> {
    Done { refused: Some(rail.code()), ..granted(event, actor) }
}

impl Responses {
    /// Does it, as part of what decides it; or says why it cannot be done.
    pub(super) fn act(
        &self,
        _writing: &Writing<'_>,
        kept: &mut Kept,
        by: &str,
        now: SystemTime,
    ) -> Result<Result<(), Rail>, StoreError> {
        let at = clock::milliseconds(now);
        "active".clone_into(&mut kept.state);
        kept.acted_at = Some(at);
        kept.acted_by = Some(by.to_owned());
        kept.until = Some(at.saturating_add(kept.ttl_ms));
        kept.why = None;
        Ok(Ok(()))
    }

    /// Keeps a step, in the audit trail and for whoever looks at the response.
    pub(super) fn enter(
        &self,
        writing: &Writing<'_>,
        kept: &Kept,
        done: Done<'_>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let step = Step {
            at: clock::milliseconds(now),
            event: done.event.name().to_owned(),
            refused: done.refused.map(str::to_owned),
            actor: done.actor.to_owned(),
            detail: done.detail.map(str::to_owned),
        };
        stored::note(writing, &kept.id, &step)?;
        let act = match done.refused {
            Some(code) => Act::refused(done.event, now, code),
            None => Act::granted(done.event, now),
        };
        let mut act = act
            .actor(done.actor)
            .subject(&kept.target)
            .with(names::RESPONSE, kept.id.as_str())
            .with(names::ALERT, kept.alert.as_str())
            .with_list(names::CAUSE, done.records);
        if let Some(detail) = done.detail {
            act = act.with(names::DETAIL, detail);
        }
        self.journal.enter(writing, &act)
    }

    /// A quarantine as a policy of the whole mesh.
    pub(super) fn policy(&self, kept: &Kept) -> Document {
        // Principals are written without the scheme. Targets are SPIFFE IDs of ours, which hold nothing that YAML minds.
        let principal = kept.target.strip_prefix("spiffe://").unwrap_or(&kept.target);
        let text = format!(
            "# A response to the alert {}: {}\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {QUARANTINE}{}, namespace: {}}}\n\
             spec: {{action: DENY, rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]}}\n",
            kept.alert,
            kept.title.escape_debug(),
            kept.id,
            self.root_namespace,
        );
        Document::whole(format!("response:{}.yaml", kept.id), text)
    }
}
