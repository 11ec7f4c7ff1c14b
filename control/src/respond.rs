//! What is done about alerts: suggested to operators or, within guard rails, done at once; and undone.
//!
//! A quarantine and a limit are policies that are laid over those of the directory, so that explaining, receipts and records
//! name them like any other; revocations stand in their list, calls of webhooks in the outbox. What is to be done is decided
//! in the transaction that raises the alert, and carried out afterwards; a kill between the two has it carried out at the
//! next start. Everything is on the record with its cause.
//!
//! What may be done to whom is said in [`rails`], how it is done in [`acting`], whether it did harm in [`health`].

mod acting;
pub(crate) mod health;
pub(crate) mod policy;
pub(crate) mod rails;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use picket_certs::TrustDomain;
use picket_detect::{Alert, Mode, Respond};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::journal::{Act, Event, Journal};
use crate::notify::Notices;
use crate::policies::Policies;
use crate::registry::Registry;
use crate::revocations::Revocations;
use crate::store::alerts;
use crate::store::responses::{self as stored, Kept, Step};
use crate::store::{Store, StoreError, Writing};
use acting::{Done, granted, refused};
use health::Health;
use rails::{Circumstances, Rail};

/// How often it is looked whether something is over.
const TICK: Duration = Duration::from_millis(500);
/// How long a suggestion waits.
const SUGGESTED: Duration = Duration::from_secs(24 * 3600);
/// How long after an action it is watched whether it does harm.
const WATCHED: Duration = Duration::from_secs(60);
/// Who does what nobody has asked for.
const CONTROL: &str = "control plane";

/// What may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responding {
    /// Whether anything is done or suggested.
    pub enabled: bool,
    /// Workloads that nothing is done to: `namespace/service account` or a SPIFFE ID, with stars.
    pub protected: Vec<String>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RespondError {
    #[error("there is no response {0:?}; `picket respond list` has the ids of all")]
    Unknown(String),
    #[error("the response is {0}, so that it cannot be {1}")]
    State(String, &'static str),
    #[error(transparent)]
    Rail(#[from] Rail),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What responses are carried out with.
pub(crate) struct Means {
    pub(crate) policies: Arc<Policies>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) notices: Arc<Notices>,
    /// For how long a certificate that has ended is good for a renewal.
    pub(crate) renewal_grace: Duration,
}

/// The responses of the mesh.
pub(crate) struct Responses {
    config: Responding,
    mesh: TrustDomain,
    root_namespace: String,
    store: Store,
    journal: Journal,
    means: Means,
    pub(crate) health: Arc<Health>,
    /// Something was done or undone.
    changed: Notify,
    /// The list of revocations was changed, and nobody told yet.
    has_revoked: AtomicBool,
}

impl Responses {
    pub(crate) fn new(
        config: Responding,
        (mesh, root_namespace): (TrustDomain, String),
        (store, journal): (Store, Journal),
        means: Means,
    ) -> Self {
        let (health, changed, has_revoked) = Default::default();
        Self { config, mesh, root_namespace, store, journal, means, health, changed, has_revoked }
    }

    /// What is to be done about an alert, decided as part of what raises it.
    pub(crate) fn propose(
        &self,
        writing: &Writing<'_>,
        alert: &Alert,
        respond: &Respond,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        if !self.config.enabled {
            return Ok(());
        }
        let target = alert.group.get(&respond.of);
        let at = clock::milliseconds(now);
        let mut kept = Kept {
            id: alert.id.chars().take(12).collect(),
            alert: alert.id.clone(),
            rule: alert.rule.clone(),
            title: alert.title.clone(),
            target: target.map(String::as_str).map(whole).unwrap_or_default(),
            issuer: None,
            plan: respond.clone(),
            place: None,
            state: "suggested".to_owned(),
            mode: mode(respond.mode).to_owned(),
            ttl_ms: respond.ttl.saturating_mul(1_000),
            made_at: at,
            acted_at: None,
            acted_by: None,
            until: None,
            ended_at: None,
            ended_by: None,
            why: None,
            revoked: Vec::new(),
        };
        kept.issuer = acting::issuer_of(&kept, alert);
        let by = format!("rule {}", alert.rule);
        let place = respond.at.as_ref().map(|field| {
            let called = alert.group.get(field).map(String::as_str).unwrap_or_default();
            self.place(called, now)
        });
        let checked = self.check(&kept).and_then(|()| place.transpose());
        if let Err(rail) = checked.map(|place| kept.place = place) {
            return self.refuse(writing, kept, (alert, &by), &rail, now);
        }
        let open: Vec<Kept> =
            stored::open(writing)?.into_iter().filter(|o| o.target == kept.target).collect();
        // The denials of a quarantine, and further alerts about the same, are no cause for more.
        if open.iter().any(|open| open.state == "active") {
            return Ok(());
        }
        let waiting = open.into_iter().filter(|open| open.plan.action == respond.action);
        let waiting: Vec<Kept> = waiting.collect();
        if respond.mode == Mode::Act {
            match rails::automatic(self.circumstances(writing, alert, &kept, now)?) {
                Ok(()) => {
                    if let Err(rail) = self.act(writing, &mut kept, &by, now)? {
                        return self.refuse(writing, kept, (alert, &by), &rail, now);
                    }
                    stored::save(writing, &kept)?;
                    let step = Done { records: &alert.records, ..granted(Event::Respond, &by) };
                    self.enter(writing, &kept, step, now)?;
                    // What was suggested is done.
                    let why = format!("done by response {}", kept.id);
                    return waiting
                        .into_iter()
                        .try_for_each(|kept| self.end(writing, kept, (&by, &why), now).map(drop));
                }
                Err(rail) => kept.why = Some(rail.to_string()),
            }
        }
        // One suggestion of the same is enough.
        if !waiting.is_empty() {
            return Ok(());
        }
        stored::save(writing, &kept)?;
        let step = granted(Event::SuggestResponse, &by);
        let step = Done { detail: kept.why.as_deref(), records: &alert.records, ..step };
        self.enter(writing, &kept, step, now)
    }

    /// Keeps that something must not be done.
    fn refuse(
        &self,
        writing: &Writing<'_>,
        mut kept: Kept,
        (alert, by): (&Alert, &str),
        rail: &Rail,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        // Once an hour is enough to know.
        if stored::was_refused(writing, &kept.target, kept.made_at.saturating_sub(3_600_000))? {
            return Ok(());
        }
        "refused".clone_into(&mut kept.state);
        let why = rail.to_string();
        kept.why = Some(why.clone());
        stored::save(writing, &kept)?;
        let step = refused(Event::RefuseResponse, by, rail);
        self.enter(
            writing,
            &kept,
            Done { detail: Some(&why), records: &alert.records, ..step },
            now,
        )
    }

    fn circumstances(
        &self,
        writing: &Writing<'_>,
        alert: &Alert,
        kept: &Kept,
        now: SystemTime,
    ) -> Result<Circumstances, StoreError> {
        let at = clock::milliseconds(now);
        let since_last = stored::last_of(writing, &kept.target)?.map(|last| {
            Duration::from_millis(u64::try_from(at.saturating_sub(last)).unwrap_or_default())
        });
        Ok(Circumstances {
            is_halted: stored::is_halted(writing)?,
            is_hard_to_undo: kept.plan.is_hard_to_undo(),
            replicas: self.means.registry.replicas(&kept.target, now),
            since_last,
            age: clock::parse_rfc3339(&alert.last).map_or(Duration::MAX, |last| {
                let last = clock::from_milliseconds(last / 1_000_000);
                now.duration_since(last).unwrap_or_default()
            }),
            acted_on: stored::automatic_since(writing, at.saturating_sub(3_600_000))?,
        })
    }

    /// Says that what was proposed is committed: it is pushed.
    pub(crate) fn proposed(&self) {
        self.changed.notify_one();
    }

    /// Does what was suggested.
    pub(crate) async fn approve(
        self: &Arc<Self>,
        id: &str,
        actor: &str,
        now: SystemTime,
    ) -> Result<Kept, RespondError> {
        let (own, id, actor) = (Arc::clone(self), id.to_owned(), actor.to_owned());
        let done = self.store.write(move |writing| {
            let Some(mut kept) = stored::find(writing, &id)? else {
                return Ok(Err(RespondError::Unknown(id)));
            };
            if kept.state != "suggested" {
                return Ok(Err(RespondError::State(kept.state, "approved")));
            }
            let is_off = !own.config.enabled || stored::is_halted(writing)?;
            let rail = is_off.then_some(Rail::Halted).or(own.check(&kept).err());
            let rail = match rail {
                Some(rail) => Some(rail),
                None => own.act(writing, &mut kept, &actor, now)?.err(),
            };
            if let Some(rail) = rail {
                let why = rail.to_string();
                let step = refused(Event::ApproveResponse, &actor, &rail);
                own.enter(writing, &kept, Done { detail: Some(&why), ..step }, now)?;
                return Ok(Err(rail.into()));
            }
            stored::save(writing, &kept)?;
            own.enter(writing, &kept, granted(Event::ApproveResponse, &actor), now)?;
            Ok(Ok(kept))
        });
        let kept = done.await??;
        self.push().await?;
        Ok(kept)
    }

    /// Undoes what was done, or takes back what was suggested.
    pub(crate) async fn revert(
        self: &Arc<Self>,
        id: &str,
        (actor, why): (&str, &str),
        now: SystemTime,
    ) -> Result<Kept, RespondError> {
        let (own, id) = (Arc::clone(self), id.to_owned());
        let (actor, why) = (actor.to_owned(), why.to_owned());
        let done = self.store.write(move |writing| {
            let Some(kept) = stored::find(writing, &id)? else {
                return Ok(Err(RespondError::Unknown(id)));
            };
            if !matches!(kept.state.as_str(), "active" | "suggested") {
                return Ok(Err(RespondError::State(kept.state, "reverted")));
            }
            own.end(writing, kept, (&actor, &why), now).map(Ok)
        });
        let kept = done.await??;
        self.push().await?;
        Ok(kept)
    }

    fn end(
        &self,
        writing: &Writing<'_>,
        mut kept: Kept,
        (actor, why): (&str, &str),
        now: SystemTime,
    ) -> Result<Kept, StoreError> {
        let was_active = kept.state == "active";
        if was_active { "reverted" } else { "expired" }.clone_into(&mut kept.state);
        kept.ended_at = Some(clock::milliseconds(now));
        kept.ended_by = Some(actor.to_owned());
        kept.why = Some(why.to_owned());
        stored::save(writing, &kept)?;
        self.undo(writing, &kept, actor, now)?;
        let step = granted(Event::RevertResponse, actor);
        self.enter(writing, &kept, Done { detail: Some(why), ..step }, now)?;
        Ok(kept)
    }

    /// The kill switch: nothing more is done until it is released; `undo`: nor does what was done stand.
    pub(crate) async fn halt(
        self: &Arc<Self>,
        halted: bool,
        undo: bool,
        actor: &str,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let (own, actor) = (Arc::clone(self), actor.to_owned());
        let done = self.store.write(move |writing| {
            stored::halt(writing, halted)?;
            let event = if halted { Event::HaltResponses } else { Event::ResumeResponses };
            own.journal.enter(writing, &Act::granted(event, now).actor(&actor))?;
            if halted {
                own.withdraw(writing, &actor, now)?;
            }
            let active = stored::open(writing)?.into_iter().filter(|kept| kept.state == "active");
            for kept in active.filter(|_| undo) {
                own.end(writing, kept, (&actor, "responses were halted"), now)?;
            }
            Ok(())
        });
        done.await?;
        self.push().await
    }

    /// Pushes what stands, and ends what is over, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let done = async {
                self.sweep(SystemTime::now()).await?;
                self.push().await
            };
            if let Err(error) = done.await {
                tracing::error!(error = %crate::chain(&error), "responses could not be kept up");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = sleep(TICK) => {}
            }
        }
    }

    async fn sweep(self: &Arc<Self>, now: SystemTime) -> Result<(), StoreError> {
        let at = clock::milliseconds(now);
        let waits = i64::try_from(SUGGESTED.as_millis()).unwrap_or(i64::MAX);
        let open = self.store.read(stored::open).await?;
        let mut over = Vec::new();
        for kept in open {
            let waited = kept.state == "suggested" && kept.made_at.saturating_add(waits) <= at;
            if kept.until.is_some_and(|until| until <= at) {
                over.push((kept, "its time was over".to_owned()));
            } else if waited {
                over.push((kept, "nobody has approved it within a day".to_owned()));
            } else if let Some((before, after)) = self.harm(&kept, at) {
                let why = format!(
                    "errors rose from {:.0} % to {:.0} % of all requests after it",
                    before * 100.0,
                    after * 100.0
                );
                over.push((kept, why));
            }
        }
        if over.is_empty() {
            return Ok(());
        }
        let own = Arc::clone(self);
        let end = move |writing: &Writing<'_>| {
            over.into_iter().try_for_each(|(kept, why)| {
                // Somebody may have been quicker.
                match stored::find(writing, &kept.id)?.is_some_and(|now| now.state == kept.state) {
                    true => own.end(writing, kept, (CONTROL, &why), now).map(drop),
                    false => Ok(()),
                }
            })
        };
        self.store.write(end).await
    }

    fn harm(&self, kept: &Kept, at: i64) -> Option<(f64, f64)> {
        let acted_at = kept.acted_at.filter(|_| kept.state == "active")?;
        let watched = i64::try_from(WATCHED.as_millis()).unwrap_or(i64::MAX);
        (at.saturating_sub(acted_at) <= watched)
            .then(|| self.health.has_worsened(acted_at / 1_000, &kept.target))
            .flatten()
    }

    /// Lays what stands over the policies, and tells everybody of what is revoked.
    pub(crate) async fn push(&self) -> Result<(), StoreError> {
        let open = self.store.read(stored::open).await?;
        self.means.policies.overlay(self.policies(&open));
        if self.has_revoked.swap(false, Ordering::Relaxed)
            && let Err(error) = self.means.revocations.refresh().await
        {
            self.has_revoked.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    /// The last ones, and whether responses are halted.
    pub(crate) async fn list(&self, limit: usize) -> Result<(Vec<Kept>, bool), StoreError> {
        let read = move |connection: &_| {
            Ok((stored::list(connection, limit)?, stored::is_halted(connection)?))
        };
        self.store.read(read).await
    }

    /// One of them, the alert that caused it as far as it is remembered, and each step.
    pub(crate) async fn show(
        &self,
        id: String,
    ) -> Result<(Kept, Option<alerts::Kept>, Vec<Step>), RespondError> {
        let read = move |connection: &_| {
            let Some(kept) = stored::find(connection, &id)? else { return Ok(Err(id)) };
            let alert = alerts::find(connection, &kept.alert)?;
            let steps = stored::steps(connection, &kept.id)?;
            Ok(Ok((kept, alert, steps)))
        };
        self.store.read(read).await?.map_err(RespondError::Unknown)
    }
}

/// What rules have done about what they find, by their ids.
pub(crate) fn of_rules(rules: &[picket_detect::Summary]) -> HashMap<String, Respond> {
    let with = rules.iter().filter_map(|rule| Some((rule.id.clone(), rule.respond.clone()?)));
    with.collect()
}

/// A target as it is, or as nobody is called: a part of a name may be the name of somebody else.
fn whole(target: &str) -> String {
    const LONGEST: usize = 2_048;
    match target.len() <= LONGEST {
        true => target.to_owned(),
        false => target.chars().take(200).chain(['…']).collect(),
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Suggest => "suggest",
        Mode::Act => "act",
    }
}

#[cfg(test)]
mod tests;
