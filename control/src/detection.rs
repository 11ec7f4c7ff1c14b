//! The audit stream watched as it comes: rules over every record that is committed, alerts out of them.
//!
//! One thread has the engine. It is given records in the order of their ids, out of memory; what it has missed it reads
//! from the database. Alerts, what sinks are to be told of them and how far the detector has come are written in one
//! transaction, so that a kill at any moment loses none and makes none twice: an alert's id is made of its records. At the
//! start windows are filled again from the records of the time before; alerts that were open go on.
//!
//! What rules mean is the business of [`picket_detect`]; who is told, that of [`crate::notify`].

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use picket_api::attributes as names;
use picket_detect::{
    Alert, Diagnostics, Document, Engine, Event, Respond, RuleCounts, RuleSet, Summary,
};
use picket_policy_files::Changes;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::journal::{self, Act, Journal};
use crate::metrics::Metrics;
use crate::notify::{Notices, State};
use crate::policies::Policies;
use crate::record;
use crate::respond::health::Health;
use crate::respond::{self, Responses};
use crate::rules;
use crate::store::alerts::{self, Kept};
use crate::store::feed::{Arrived, Following};
use crate::store::{Store, StoreError, Writing, cursors};

/// How long the thread sleeps at most: it looks then whether it is to end.
const NAP: Duration = Duration::from_millis(200);
/// How often what has changed in running alerts is written, and what is over ends.
const TICK: Duration = Duration::from_secs(1);
/// Records may come so much later than they happened before an alert ends by the clock.
const GRACE: Duration = Duration::from_secs(60);
/// Records that are read from the database at once.
const PAGE: i64 = 2_000;
/// Records that windows are filled from at the start, at most.
const MAX_WARM: i64 = 2_000_000;

/// What is to be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// Whether the stream is watched at all.
    pub enabled: bool,
    /// A directory of rules.
    pub rules_dir: Option<PathBuf>,
    /// Whether the rules that Picket comes with are used.
    pub shipped_rules: bool,
}

/// The detector, as others see it.
pub(crate) struct Detector {
    config: Detection,
    store: Store,
    journal: Journal,
    policies: Arc<Policies>,
    notices: Arc<Notices>,
    responses: Arc<Responses>,
    metrics: Arc<Metrics>,
    rules: ArcSwap<Vec<Summary>>,
    counts: ArcSwap<BTreeMap<String, RuleCounts>>,
    /// Every record up to this one was looked at.
    cursor: AtomicI64,
}

impl Detector {
    pub(crate) fn new(
        config: Detection,
        store: Store,
        journal: Journal,
        policies: Arc<Policies>,
        (notices, responses): (Arc<Notices>, Arc<Responses>),
        metrics: Arc<Metrics>,
    ) -> Self {
        let (rules, counts, cursor) = Default::default();
        Self {
            config,
            store,
            journal,
            policies,
            notices,
            responses,
            metrics,
            rules,
            counts,
            cursor,
        }
    }

    /// The rules at work.
    pub(crate) fn rules(&self) -> Arc<Vec<Summary>> {
        self.rules.load_full()
    }

    /// What became of each rule since they were loaded, by its id.
    pub(crate) fn counts(&self) -> Arc<BTreeMap<String, RuleCounts>> {
        self.counts.load_full()
    }

    /// How many records were committed and not looked at yet; none if nothing is looked at.
    pub(crate) fn behind(&self) -> Option<u64> {
        let cursor = u64::try_from(self.cursor.load(Ordering::Relaxed)).unwrap_or(0);
        self.config.enabled.then(|| self.store.log_size().saturating_sub(cursor))
    }

    /// Watches until `stop`. The future ends when the thread has.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        if !self.config.enabled {
            return;
        }
        let Some(following) = self.store.follow() else { return };
        // A trail that nobody has watched yet is not judged afterwards: `picket detect replay` does that.
        let begun = self.store.write(|writing| match alerts::cursor(writing)? {
            Some(_) => Ok(()),
            None => alerts::save_cursor(writing, cursors::newest(writing)?),
        });
        if let Err(error) = begun.await {
            tracing::error!(error = %crate::chain(&error), "the detector cannot begin");
            return;
        }
        let (sets, new_sets) = channel();
        // A thread is not ended by letting go of it: whoever drops this future ends it too.
        let ended = stop.child_token();
        let _guard = ended.clone().drop_guard();
        let (detector, runtime) = (Arc::clone(&self), Handle::current());
        let thread = tokio::task::spawn_blocking(move || {
            let ended = detector.watch(&following, &new_sets, &runtime, &ended);
            if let Err(error) = ended {
                tracing::error!(error = %crate::chain(&error), "the detector has stopped");
            }
        });
        self.follow_rules(&sets, &stop).await;
        drop(sets);
        let _panicked = thread.await;
    }

    /// Reads the rules, and again whenever their directory changes.
    async fn follow_rules(&self, sets: &Sender<RuleSet>, stop: &CancellationToken) {
        let mut seen = None;
        let directory = self.config.rules_dir.clone();
        let mut changes = Changes::of(directory.as_deref(), []);
        loop {
            let read = self.documents();
            if seen.as_ref() != Some(&read) {
                self.take(&read, sets).await;
                seen = Some(read);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changes.next(), if directory.is_some() => {}
            }
        }
    }

    fn documents(&self) -> Result<Vec<Document>, Diagnostics> {
        let shipped = rules::FILES.iter().filter(|_| self.config.shipped_rules);
        let mut all: Vec<Document> =
            shipped.map(|(name, text)| Document::whole(*name, *text)).collect();
        if let Some(directory) = &self.config.rules_dir {
            all.extend(picket_policy_files::read(directory)?);
        }
        Ok(all)
    }

    /// Puts rules to work, or says why not; those before stay then.
    async fn take(&self, read: &Result<Vec<Document>, Diagnostics>, sets: &Sender<RuleSet>) {
        let set = read.as_ref().map_err(Clone::clone).and_then(|all| RuleSet::parse(all));
        let directory = self.config.rules_dir.as_ref().map(|path| path.display().to_string());
        let subject = directory.unwrap_or_else(|| "the rules that Picket comes with".to_owned());
        let now = SystemTime::now();
        let act = match set {
            Ok(set) => {
                for warning in set.warnings() {
                    tracing::warn!("rule: {warning}");
                }
                let rules = set.summaries();
                let detail = format!("{} rules", rules.len());
                tracing::info!(rules = rules.len(), "detection rules are at work");
                self.rules.store(Arc::new(rules));
                // The thread is gone only when everything ends.
                let _ending = sets.send(set);
                Act::granted(journal::Event::LoadRules, now).with(names::DETAIL, detail)
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("rule refused: {problem}");
                }
                let text: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
                Act::refused(journal::Event::LoadRules, now, "rules_refused")
                    .with_list(names::DETAIL, &text)
            }
        };
        self.journal.note(act.subject(&subject)).await;
    }

    fn watch(
        &self,
        following: &Following,
        new_sets: &Receiver<RuleSet>,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut watch: Option<Watch> = None;
        let mut tick = Instant::now() + TICK;
        while !stop.is_cancelled() {
            if let Some(set) = new_sets.try_iter().last() {
                if let Some(mut before) = watch.take() {
                    before.changed.extend(before.engine.running());
                    self.commit(&mut before, runtime)?;
                }
                watch = Some(runtime.block_on(self.begin(&set))?);
            }
            let Some(watch) = &mut watch else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            let records = following.next(NAP);
            watch.engine.set_ceiling(ceiling());
            if let Some(first) = records.first() {
                runtime.block_on(self.catch_up(watch, first.id - 1))?;
                for record in &records {
                    watch.look(record.id, &record.resource, &record.span);
                }
                self.cursor.store(watch.cursor, Ordering::Relaxed);
            }
            let is_time = Instant::now() >= tick;
            if is_time {
                tick = Instant::now() + TICK;
                if records.is_empty() {
                    // What was too much to be handed over, and nothing has come after it.
                    let newest = i64::try_from(self.store.log_size()).unwrap_or(i64::MAX);
                    runtime.block_on(self.catch_up(watch, newest))?;
                    self.cursor.store(watch.cursor, Ordering::Relaxed);
                }
                self.notices.detector_lives(SystemTime::now());
                let now = clock::nanoseconds(SystemTime::now() - GRACE);
                watch.engine.advance(i64::try_from(now).unwrap_or(i64::MAX));
                self.counts.store(Arc::new(watch.engine.counts()));
            }
            watch.ended.extend(watch.engine.closed());
            if is_time || !watch.fired.is_empty() {
                // With the cursor goes all that was found up to it.
                watch.changed.extend(watch.engine.running());
                self.commit(watch, runtime)?;
            }
        }
        if let Some(mut watch) = watch {
            watch.changed.extend(watch.engine.running());
            self.commit(&mut watch, runtime)?;
        }
        Ok(())
    }

    /// Fills the windows of new rules, and goes on with the alerts that are open.
    async fn begin(&self, set: &RuleSet) -> Result<Watch, StoreError> {
        let (mut engine, reach) = (Engine::new(set), set.reach());
        engine.set_ceiling(ceiling());
        let (cursor, at, open) = self
            .store
            .read(|connection| {
                let cursor = alerts::cursor(connection)?.unwrap_or_default();
                Ok((cursor, alerts::time_at(connection, cursor)?, alerts::open(connection)?))
            })
            .await?;
        let mut gone = Vec::new();
        for Kept { alert, .. } in open {
            if !engine.resume(&alert) {
                gone.push(alert);
            }
        }
        // Counted from where it was, which may be long ago.
        let since = at.unwrap_or(i64::MAX).min(ceiling()).saturating_sub(reach);
        let mut from = self
            .store
            .read(move |connection| alerts::first_since(connection, cursor, since, MAX_WARM))
            .await?;
        while from <= cursor {
            let through = cursor.min(from + PAGE - 1);
            for record in self.page(from, through).await? {
                observe(&record, |event| engine.warm(event));
            }
            from = through + 1;
        }
        self.cursor.store(cursor, Ordering::Relaxed);
        let mut watch = Watch {
            engine,
            responds: Arc::new(respond::of_rules(&set.summaries())),
            health: Arc::clone(&self.responses.health),
            cursor,
            saved: cursor,
            fired: Vec::new(),
            changed: Vec::new(),
            // Their rules are no more.
            ended: gone,
        };
        self.catch_up(&mut watch, i64::try_from(self.store.log_size()).unwrap_or(i64::MAX)).await?;
        Ok(watch)
    }

    /// Looks at what was committed and not handed over.
    async fn catch_up(&self, watch: &mut Watch, through: i64) -> Result<(), StoreError> {
        while watch.cursor < through {
            let from = watch.cursor + 1;
            let last = through.min(watch.cursor + PAGE);
            for record in self.page(from, last).await? {
                watch.look(record.id, &record.resource, &record.span);
            }
            watch.cursor = last;
        }
        Ok(())
    }

    async fn page(&self, from: i64, through: i64) -> Result<Vec<Arrived>, StoreError> {
        self.store.read(move |connection| alerts::records(connection, from, through)).await
    }

    /// Writes what has been found, and how far it was looked.
    fn commit(&self, watch: &mut Watch, runtime: &Handle) -> Result<(), StoreError> {
        let (fired, changed, ended) = watch.take();
        let cursor = watch.cursor;
        if fired.is_empty() && changed.is_empty() && ended.is_empty() && cursor == watch.saved {
            return Ok(());
        }
        let generation = self.policies.generation();
        let (notices, now) = (Arc::clone(&self.notices), clock::milliseconds(SystemTime::now()));
        let found = Arc::new((fired, changed, ended));
        let written = Arc::clone(&found);
        let (responses, responds) = (Arc::clone(&self.responses), Arc::clone(&watch.responds));
        let result = runtime.block_on(self.store.write(move |writing| {
            let new = write(writing, &notices, &written, generation.as_deref(), now)?;
            for alert in new {
                if let Some(respond) = responds.get(&alert.rule) {
                    responses.propose(writing, &alert, respond, SystemTime::now())?;
                }
            }
            alerts::save_cursor(writing, cursor)
        }));
        match result {
            Ok(()) => {
                watch.saved = cursor;
                if !found.0.is_empty() {
                    self.responses.proposed();
                }
            }
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(error) => {
                // Nothing of it stands: it is written with what is found next.
                tracing::error!(error = %crate::chain(&error), "alerts could not be kept");
                watch.give_back(&found);
                return Ok(());
            }
        }
        for alert in &found.0 {
            let (rule, severity) = (&alert.title, alert.severity.as_str());
            self.metrics.alerted(severity);
            tracing::warn!(alert = %alert.id, %rule, severity, "an alert was raised");
        }
        Ok(())
    }
}

/// Keeps what was found, and enters who is to be told; the alerts that are new.
fn write(
    writing: &Writing<'_>,
    notices: &Notices,
    (fired, changed, ended): &(Vec<Alert>, Vec<Alert>, Vec<Alert>),
    generation: Option<&str>,
    now: i64,
) -> Result<Vec<Alert>, StoreError> {
    let mut new = Vec::new();
    for alert in fired {
        if let Some(kept) = alerts::raise(writing, alert, generation, now)? {
            notices.enter(writing, &kept, State::Firing, now)?;
            new.push(kept.alert);
        }
    }
    for alert in changed {
        alerts::update(writing, alert, now)?;
    }
    for alert in ended {
        if let Some(kept) = alerts::resolve(writing, alert, now)? {
            notices.enter(writing, &kept, State::Resolved, now)?;
        }
    }
    Ok(new)
}

/// How late it can be, in nanoseconds since 1970. Without a tolerance: with one, a clock that is ahead by that much would
/// make the records of all others later than rules allow.
fn ceiling() -> i64 {
    i64::try_from(clock::nanoseconds(SystemTime::now())).unwrap_or(i64::MAX)
}

/// The engine, and what is to be written.
struct Watch {
    engine: Engine,
    /// What rules have done, by their ids.
    responds: Arc<HashMap<String, Respond>>,
    health: Arc<Health>,
    cursor: i64,
    saved: i64,
    fired: Vec<Alert>,
    changed: Vec<Alert>,
    ended: Vec<Alert>,
}

impl Watch {
    fn look(&mut self, id: i64, resource: &Bytes, span: &Bytes) {
        if id <= self.cursor {
            return;
        }
        self.cursor = id;
        let record = Arrived { id, resource: resource.clone(), span: span.clone() };
        let now = clock::milliseconds(SystemTime::now()) / 1_000;
        let (engine, fired, health) = (&mut self.engine, &mut self.fired, &self.health);
        observe(&record, |event| {
            health.note(event.record(), now);
            fired.extend(engine.observe(event));
        });
    }

    fn take(&mut self) -> (Vec<Alert>, Vec<Alert>, Vec<Alert>) {
        let take = std::mem::take;
        (take(&mut self.fired), take(&mut self.changed), take(&mut self.ended))
    }

    fn give_back(&mut self, (fired, changed, ended): &(Vec<Alert>, Vec<Alert>, Vec<Alert>)) {
        self.fired.splice(0..0, fired.iter().cloned());
        self.changed.splice(0..0, changed.iter().cloned());
        self.ended.splice(0..0, ended.iter().cloned());
    }
}

/// A record as rules see it: the flat form in which it is printed.
fn observe(record: &Arrived, look: impl FnOnce(&Event<'_>)) {
    let flat = record::json(&record.resource, &record.span);
    match flat.as_ref().map(Event::read) {
        Some(Ok(event)) => look(&event),
        // Whatever is stored was read when it came.
        _ => tracing::error!(record = record.id, "a record cannot be looked at"),
    }
}
