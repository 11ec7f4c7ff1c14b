//! What is done about alerts: suggested to operators or, within guard rails, done at once; and undone.
//!
//! The one action is a quarantine: a DENY policy for an identity, laid over the policies of the directory, so that explaining,
//! receipts and records name it like any other. What is to be done is decided in the transaction that raises the alert, and
//! pushed afterwards; a kill between the two pushes it at the next start. Everything is on the record with its cause.
//!
//! What may be done to whom is said in [`rails`], whether it did harm in [`health`].

pub(crate) mod health;
pub(crate) mod rails;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_certs::TrustDomain;
use picket_detect::{Alert, Mode, Respond};
use picket_policy::Document;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::journal::{Act, Event, Journal};
use crate::policies::Policies;
use crate::registry::Registry;
use crate::store::responses::{self as stored, Kept};
use crate::store::{Store, StoreError, Writing};
use health::Health;
use rails::{Circumstances, Rail};

/// What the names of our policies begin with.
pub(crate) const QUARANTINE: &str = "quarantine-";
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

/// The responses of the mesh.
pub(crate) struct Responses {
    config: Responding,
    mesh: TrustDomain,
    root_namespace: String,
    store: Store,
    journal: Journal,
    policies: Arc<Policies>,
    registry: Arc<Registry>,
    pub(crate) health: Arc<Health>,
    /// Something was done or undone.
    changed: Notify,
}

impl Responses {
    pub(crate) fn new(
        config: Responding,
        (mesh, root_namespace): (TrustDomain, String),
        (store, journal): (Store, Journal),
        policies: Arc<Policies>,
        registry: Arc<Registry>,
    ) -> Self {
        let (health, changed) = Default::default();
        Self { config, mesh, root_namespace, store, journal, policies, registry, health, changed }
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
        let value = alert.group.get(&respond.of).map(String::as_str);
        let target = rails::target(&respond.of, value, &self.mesh, &self.config.protected);
        let at = clock::milliseconds(now);
        let mut kept = Kept {
            id: alert.id.chars().take(12).collect(),
            alert: alert.id.clone(),
            rule: alert.rule.clone(),
            title: alert.title.clone(),
            target: value.unwrap_or_default().chars().take(300).collect(),
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
        };
        let target = match target {
            Ok(target) => target,
            // Once an hour is enough to know.
            Err(_) if stored::was_refused(writing, &kept.target, at.saturating_sub(3_600_000))? => {
                return Ok(());
            }
            Err(rail) => {
                "refused".clone_into(&mut kept.state);
                kept.why = Some(rail.to_string());
                stored::save(writing, &kept)?;
                let act = about(Act::refused(Event::Respond, now, rail.code()), &kept, alert);
                return self.journal.enter(writing, &act.actor(&format!("rule {}", kept.rule)));
            }
        };
        // The denials of a quarantine, and further alerts about the same, are no cause for more.
        if stored::open(writing)?.iter().any(|open| open.target == target) {
            return Ok(());
        }
        let by = format!("rule {}", alert.rule);
        let event = match respond.mode {
            Mode::Suggest => Event::SuggestResponse,
            Mode::Act => match rails::automatic(self.circumstances(writing, alert, target, now)?) {
                Ok(()) => {
                    self.act(&mut kept, &by, at);
                    Event::Respond
                }
                Err(rail) => {
                    kept.why = Some(rail.to_string());
                    Event::SuggestResponse
                }
            },
        };
        stored::save(writing, &kept)?;
        self.journal.enter(writing, &about(Act::granted(event, now), &kept, alert).actor(&by))
    }

    fn act(&self, kept: &mut Kept, by: &str, at: i64) {
        "active".clone_into(&mut kept.state);
        kept.acted_at = Some(at);
        kept.acted_by = Some(by.to_owned());
        kept.until = Some(at.saturating_add(kept.ttl_ms));
        kept.why = None;
    }

    fn circumstances(
        &self,
        writing: &Writing<'_>,
        alert: &Alert,
        target: &str,
        now: SystemTime,
    ) -> Result<Circumstances, StoreError> {
        let at = clock::milliseconds(now);
        let since_last = stored::last_of(writing, target)?.map(|last| {
            Duration::from_millis(u64::try_from(at.saturating_sub(last)).unwrap_or_default())
        });
        Ok(Circumstances {
            is_halted: stored::is_halted(writing)?,
            replicas: self.registry.replicas(target, now),
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
            let target = rails::target(
                "picket.source",
                Some(&kept.target),
                &own.mesh,
                &own.config.protected,
            );
            let is_off = !own.config.enabled || stored::is_halted(writing)?;
            let halted = is_off.then_some(Rail::Halted);
            if let Some(rail) = halted.or(target.err()) {
                let act = Act::refused(Event::ApproveResponse, now, rail.code());
                own.journal.enter(writing, &named(act, &kept).actor(&actor))?;
                return Ok(Err(rail.into()));
            }
            own.act(&mut kept, &actor, clock::milliseconds(now));
            stored::save(writing, &kept)?;
            let act = named(Act::granted(Event::ApproveResponse, now), &kept).actor(&actor);
            own.journal.enter(writing, &act)?;
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
        let act = named(Act::granted(Event::RevertResponse, now), &kept).actor(actor);
        self.journal.enter(writing, &act.with(names::DETAIL, why))?;
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

    /// Lays what stands over the policies.
    pub(crate) async fn push(&self) -> Result<(), StoreError> {
        let open = self.store.read(stored::open).await?;
        let active = open.iter().filter(|kept| kept.state == "active" && self.config.enabled);
        self.policies.overlay(active.map(|kept| self.policy(kept)).collect());
        Ok(())
    }

    /// A quarantine as a policy of the whole mesh.
    fn policy(&self, kept: &Kept) -> Document {
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

    /// The last ones, and whether responses are halted.
    pub(crate) async fn list(&self, limit: usize) -> Result<(Vec<Kept>, bool), StoreError> {
        let read = move |connection: &_| {
            Ok((stored::list(connection, limit)?, stored::is_halted(connection)?))
        };
        self.store.read(read).await
    }
}

/// What rules have done about what they find, by their ids.
pub(crate) fn of_rules(rules: &[picket_detect::Summary]) -> HashMap<String, Respond> {
    let with = rules.iter().filter_map(|rule| Some((rule.id.clone(), rule.respond.clone()?)));
    with.collect()
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Suggest => "suggest",
        Mode::Act => "act",
    }
}

/// An act about a response, with its cause.
fn about(act: Act, kept: &Kept, alert: &Alert) -> Act {
    let act = named(act, kept).with_list(names::CAUSE, &alert.records);
    match &kept.why {
        Some(why) => act.with(names::DETAIL, why.as_str()),
        None => act,
    }
}

fn named(act: Act, kept: &Kept) -> Act {
    act.subject(&kept.target)
        .with(names::RESPONSE, kept.id.as_str())
        .with(names::ALERT, kept.alert.as_str())
}
