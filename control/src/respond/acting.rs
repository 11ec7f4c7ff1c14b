//! How something is done and undone, and how each step is kept.
//!
//! What is done is written in the transaction that decides it: that a policy is laid over the others, a call in the outbox,
//! revocations in their list. What follows only carries it out, and can be repeated.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use picket_api::attributes as names;
use picket_certs::Identity;
use picket_detect::{Action, ISSUER, TOKEN};

use super::rails::{self, Rail};
use super::{Means, Responses, policy};
use crate::clock;
use crate::journal::{Act, Event};
use crate::notify::{Asked, Notice, State};
use crate::revocations::{self, Kind, Wanted};
use crate::store::responses::{self as stored, Kept, Place, Step};
use crate::store::{StoreError, Writing, alerts, certificates};

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

/// Whose the revocations of a response are.
fn owner(kept: &Kept) -> String {
    format!("response {}", kept.id)
}

impl Means {
    /// Whether it can be laid over the policies: one that is refused would have all of them refused.
    fn read(&self, kept: &Kept, root_namespace: &str) -> Result<(), Rail> {
        let read = policy::of(kept, root_namespace).is_some_and(|one| self.policies.reads(&one));
        read.then_some(()).ok_or_else(|| Rail::NoPlace(kept.target.clone()))
    }
}

impl Responses {
    /// Whether it may be done at all, by whomever.
    pub(super) fn check(&self, kept: &Kept) -> Result<(), Rail> {
        let target = Some(kept.target.as_str()).filter(|target| !target.is_empty());
        let (plan, protected) = (&kept.plan, &self.config.protected);
        if plan.action == Action::Revoke && plan.of == TOKEN {
            rails::subject(target, kept.issuer.as_deref(), protected)?;
        } else {
            rails::target(&plan.of, target, &self.mesh, protected)?;
        }
        match &plan.webhook {
            Some(name) if !self.means.notices.can_call(name) => Err(Rail::NoWebhook(name.clone())),
            _ => Ok(()),
        }
    }

    /// Where it would hold.
    pub(super) fn place(&self, called: &str, now: SystemTime) -> Result<Place, Rail> {
        let nowhere = || Rail::NoPlace(called.chars().take(200).collect());
        let Ok(Identity::Workload(id)) = called.parse::<Identity>() else { return Err(nowhere()) };
        if id.trust_domain() != &self.mesh {
            return Err(nowhere());
        }
        let labels = self.means.registry.labels_of(called, now).ok_or_else(nowhere)?;
        let namespace = id.namespace().to_owned();
        Ok(Place { spiffe_id: called.to_owned(), namespace, labels })
    }

    /// Does it, as part of what decides it; or says why it cannot be done.
    pub(super) fn act(
        &self,
        writing: &Writing<'_>,
        kept: &mut Kept,
        by: &str,
        now: SystemTime,
    ) -> Result<Result<(), Rail>, StoreError> {
        let at = clock::milliseconds(now);
        let mut acting = Kept {
            state: "active".to_owned(),
            acted_at: Some(at),
            acted_by: Some(by.to_owned()),
            until: Some(at.saturating_add(kept.ttl_ms)),
            why: None,
            ..kept.clone()
        };
        let done = match kept.plan.action {
            Action::Quarantine | Action::Limit => self.means.read(&acting, &self.root_namespace),
            Action::Webhook => {
                "done".clone_into(&mut acting.state);
                acting.until = None;
                self.call(writing, &acting, by, now)?
            }
            Action::Revoke => self.revoke(writing, &mut acting, by, now)?,
        };
        if done.is_ok() {
            *kept = acting;
        }
        Ok(done)
    }

    /// Enters the call of a webhook.
    fn call(
        &self,
        writing: &Writing<'_>,
        kept: &Kept,
        by: &str,
        now: SystemTime,
    ) -> Result<Result<(), Rail>, StoreError> {
        let Some(alert) = alerts::find(writing, &kept.alert)? else {
            return Ok(Err(Rail::Forgotten(kept.alert.clone())));
        };
        let notice = Notice {
            version: 1,
            key: format!("{}.{}", kept.id, State::Respond.as_str()),
            state: State::Respond,
            at: clock::rfc3339(now),
            alert: alert.alert,
            traces: alert.traces,
            generation: alert.generation,
            episode: alert.episode,
            flapping: alert.flapping_since.is_some(),
            link: self.means.notices.link(&kept.alert),
            response: Some(Asked {
                id: kept.id.clone(),
                target: kept.target.clone(),
                mode: kept.mode.clone(),
                by: by.to_owned(),
            }),
        };
        let name = kept.plan.webhook.as_deref().unwrap_or_default();
        self.means.notices.call(writing, name, &notice, clock::milliseconds(now)).map(Ok)
    }

    /// Revokes the certificates of an identity, or the tokens of a subject, until the response ends.
    fn revoke(
        &self,
        writing: &Writing<'_>,
        kept: &mut Kept,
        by: &str,
        now: SystemTime,
    ) -> Result<Result<(), Rail>, StoreError> {
        let (is_token, at) = (kept.plan.of == TOKEN, clock::milliseconds(now));
        let issuer = kept.issuer.clone().unwrap_or_default();
        let (kind, values) = match is_token {
            true => (Kind::Subject, vec![kept.target.clone()]),
            false => {
                let grace = i64::try_from(self.means.renewal_grace.as_millis()).unwrap_or(i64::MAX);
                (Kind::Serial, certificates::good_of(writing, &kept.target, at, grace)?)
            }
        };
        if !is_token && revocations::refuses(writing, &kept.target, None, now)? {
            return Ok(Err(Rail::NothingToRevoke));
        }
        let mut wanted = Vec::new();
        for value in values {
            // What somebody else has revoked is theirs to lift.
            if !revocations::stands(writing, kind, (&value, &issuer), now)? {
                wanted.push(value);
            }
        }
        if wanted.is_empty() {
            return Ok(Err(if is_token { Rail::Revoked } else { Rail::NothingToRevoke }));
        }
        if wanted.len() > revocations::room(writing)? {
            return Ok(Err(Rail::Full(wanted.len())));
        }
        let (owner, until) = (owner(kept), kept.until.map(clock::from_milliseconds));
        for value in wanted {
            let wanted = Wanted {
                kind,
                value,
                issuer: issuer.clone(),
                also_later: false,
                until,
                reason: format!("response {} to the alert {}", kept.id, kept.alert),
            };
            let lent = self.means.revocations.lend(writing, wanted, (&owner, by), now)?;
            // There is room: this is the one thread that changes the list.
            let row = lent.ok_or(StoreError::Unreadable("the list of revocations"))?;
            kept.revoked.push(row.id);
        }
        self.has_revoked.store(true, Ordering::Relaxed);
        Ok(Ok(()))
    }

    /// Undoes it, as far as that is not done by what is laid over the policies.
    pub(super) fn undo(
        &self,
        writing: &Writing<'_>,
        kept: &Kept,
        actor: &str,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let owner = owner(kept);
        for id in &kept.revoked {
            self.means.revocations.take_back(writing, id, (&owner, actor), now)?;
            self.has_revoked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes back the calls that were not made yet.
    pub(super) fn withdraw(
        &self,
        writing: &Writing<'_>,
        actor: &str,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        for id in self.means.notices.withdraw(writing, clock::milliseconds(now))? {
            if let Some(kept) = stored::find(writing, &id)? {
                let why = "responses were halted before the webhook was called";
                self.end(writing, kept, (actor, why), now)?;
            }
        }
        Ok(())
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
            .with(names::RESPONSE, kept.id.as_str())
            .with(names::RESPONSE_ACTION, kept.plan.action.as_str())
            .with(names::ALERT, kept.alert.as_str())
            .with_list(names::CAUSE, done.records);
        // As revocations: an act says nothing about a person.
        if kept.plan.of != TOKEN {
            act = act.subject(&kept.target);
        }
        if let Some(detail) = done.detail {
            act = act.with(names::DETAIL, detail);
        }
        self.journal.enter(writing, &act)
    }

    /// What stands as policies of the mesh.
    pub(super) fn policies(&self, open: &[Kept]) -> Vec<picket_policy::Document> {
        let active = open.iter().filter(|kept| kept.state == "active" && self.config.enabled);
        active.filter_map(|kept| policy::of(kept, &self.root_namespace)).collect()
    }
}

/// The issuer that an alert names, for what is done to tokens.
pub(super) fn issuer_of(kept: &Kept, alert: &picket_detect::Alert) -> Option<String> {
    alert.group.get(ISSUER).filter(|_| kept.plan.of == TOKEN).cloned()
}
