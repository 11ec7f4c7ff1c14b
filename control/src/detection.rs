//! The audit stream watched as it comes: rules over every record that is committed, alerts out of them.
//!
//! One thread has the engine. It is given records in the order of their ids, out of memory; what it has missed it reads
//! from the database. Alerts, what sinks are to be told of them and how far the detector has come are written in one
//! transaction, so that a kill at any moment loses none and makes none twice: an alert's id is made of its records. At the
//! start windows are filled again from the records of the time before; alerts that were open go on.
//!
//! It goes on after whatever fails: [`supervision`] has it begin again at what was saved last.
//!
//! What rules mean is the business of [`picket_detect`]; who is told, that of [`crate::notify`].

mod learning;
mod rule_set;
mod supervision;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use picket_detect::{Alert, Engine, Event, Profiles, Respond, RuleCounts, RuleSet, Summary};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::notify::{Notices, State};
use crate::policies::Policies;
use crate::record;
use crate::respond::health::Health;
use crate::respond::{self, Responses};
use crate::store::alerts::{self, Kept};
use crate::store::feed::{Arrived, Following};
use crate::store::{Store, StoreError, Writing, profiles};
pub(crate) use learning::NoAnswer;
use learning::{Learning, Questions};
use supervision::{Failures, NOT_KEPT, Stumbling, unless_stopped};

/// The newest rules, once there are some.
type Sets = watch::Receiver<Option<Arc<RuleSet>>>;

/// How long the thread sleeps at most: it looks then whether it is to end.
const NAP: Duration = Duration::from_millis(200);
/// How often what has changed in running alerts is written, and what is over ends.
const TICK: Duration = Duration::from_secs(1);
/// Records may come so much later than they happened before an alert ends by the clock.
const GRACE: Duration = Duration::from_secs(60);
/// Records that are read from the database at once.
const PAGE: i64 = 2_000;
/// Records among which it is looked at once for those of a time.
const STRIDE: i64 = 50_000;
/// Records that windows are filled from at the start, at most.
const MAX_WARM: i64 = 2_000_000;

/// What is to be looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Whether the stream is watched at all.
    pub enabled: bool,
    /// A directory of rules.
    pub rules_dir: Option<PathBuf>,
    /// Whether the rules that Picket comes with are used.
    pub shipped_rules: bool,
    /// How many false alarms of profiles are accepted for one service in a week; none: there are no profiles.
    pub profiles: Option<f64>,
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
    /// The record at hand, and those that are left out.
    stumbling: Arc<Stumbling>,
    /// The directory's rules are not those at work.
    rules_refused: AtomicBool,
    questions: Questions,
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
        let (rules, counts, cursor, stumbling, rules_refused, questions) = Default::default();
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
            stumbling,
            rules_refused,
            questions,
        }
    }

    /// The rules at work.
    pub(crate) fn rules(&self) -> Arc<Vec<Summary>> {
        self.rules.load_full()
    }

    /// Whether the directory of rules is refused, so that others are at work.
    pub(crate) fn rules_refused(&self) -> bool {
        self.rules_refused.load(Ordering::Relaxed)
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
        if !self.begin_trail(&stop).await {
            return;
        }
        let (sets, new_sets) = watch::channel(None);
        // A thread is not ended by letting go of it: whoever drops this future ends it too.
        let ended = stop.child_token();
        let _guard = ended.clone().drop_guard();
        let (detector, runtime) = (Arc::clone(&self), Handle::current());
        let thread = tokio::task::spawn_blocking(move || {
            detector.keep_watching(&following, &new_sets, &runtime, &ended);
        });
        self.follow_rules(&sets, &stop).await;
        drop(sets);
        let _panicked = thread.await;
    }

    /// Watches until `stop`, or until the database fails.
    fn watch(
        &self,
        following: &Following,
        mut sets: Sets,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut watch: Option<Watch> = None;
        let mut tick = Instant::now() + TICK;
        sets.mark_changed();
        while !stop.is_cancelled() {
            if sets.has_changed().unwrap_or_default()
                && let Some(set) = sets.borrow_and_update().clone()
            {
                let mut profiles = None;
                if let Some(mut before) = watch.take() {
                    self.commit(&mut before, runtime, stop)?;
                    profiles = before.engine.take_profiles();
                }
                watch = runtime.block_on(self.begin(&set, profiles, stop))?;
            }
            let Some(watch) = &mut watch else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            self.questions.answer(&watch.engine);
            let records = following.next(NAP);
            watch.engine.set_ceiling(ceiling());
            if let Some(first) = records.first() {
                if !self.catch_up(watch, first.id - 1, runtime, stop)? {
                    break;
                }
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
                    self.catch_up(watch, newest, runtime, stop)?;
                }
                let now = clock::nanoseconds(SystemTime::now() - GRACE);
                watch.engine.advance(i64::try_from(now).unwrap_or(i64::MAX));
                self.counts.store(Arc::new(watch.engine.counts()));
            }
            if is_time || !watch.fired.is_empty() {
                self.commit(watch, runtime, stop)?;
            }
            if is_time {
                self.notices.detector_lives(SystemTime::now());
            }
        }
        match watch {
            Some(mut watch) => {
                watch.is_ending = true;
                self.commit(&mut watch, runtime, stop)
            }
            None => Ok(()),
        }
    }

    /// Fills the windows of new rules, and goes on with the alerts that are open; none if it was stopped meanwhile.
    async fn begin(
        &self,
        set: &RuleSet,
        profiles: Option<Profiles>,
        stop: &CancellationToken,
    ) -> Result<Option<Watch>, StoreError> {
        let (mut engine, reach) = (Engine::new(set), set.reach());
        engine.set_ceiling(ceiling());
        let read = self.store.read(|connection| {
            let cursor = alerts::cursor(connection)?.unwrap_or_default();
            Ok((cursor, alerts::time_at(connection, cursor)?, alerts::open(connection)?))
        });
        let Some(read) = unless_stopped(stop, read).await else { return Ok(None) };
        let (cursor, at, open) = read?;
        let mut gone = Vec::new();
        for Kept { alert, .. } in open {
            if !engine.resume(&alert) {
                gone.push(alert);
            }
        }
        // Counted from where it was, which may be long ago.
        let since = at.unwrap_or(i64::MAX).min(ceiling()).saturating_sub(reach);
        let mut from = cursor.saturating_sub(MAX_WARM).max(1);
        let mut is_found = false;
        while from <= cursor {
            let through = cursor.min(from + if is_found { PAGE } else { STRIDE } - 1);
            if is_found {
                let page = unless_stopped(stop, self.page(from, through)).await;
                let Some(page) = page.filter(|_| !stop.is_cancelled()) else { return Ok(None) };
                for record in page? {
                    if self.stumbling.enter(record.id) {
                        observe(&record, |event| engine.warm(event));
                        self.stumbling.leave();
                    }
                }
                from = through + 1;
                continue;
            }
            let first = move |c: &_| alerts::first_since(c, (from, through), since);
            let Some(first) = unless_stopped(stop, self.store.read(first)).await else {
                return Ok(None);
            };
            let first = first?;
            is_found = first.is_some();
            from = first.unwrap_or(through + 1);
        }
        let Some((engine, learning)) = self.learn(engine, profiles, cursor, stop).await? else {
            return Ok(None);
        };
        self.cursor.store(cursor, Ordering::Relaxed);
        Ok(Some(Watch {
            engine,
            learning,
            is_ending: false,
            responds: Arc::new(respond::of_rules(&set.summaries())),
            health: Arc::clone(&self.responses.health),
            stumbling: Arc::clone(&self.stumbling),
            cursor,
            saved: cursor,
            fired: Vec::new(),
            changed: Vec::new(),
            // Their rules are no more.
            ended: gone,
        }))
    }

    /// Looks at what was committed and not handed over, and writes meanwhile what it finds; false if it was stopped before
    /// the end.
    fn catch_up(
        &self,
        watch: &mut Watch,
        through: i64,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<bool, StoreError> {
        let mut tick = Instant::now() + TICK;
        while watch.cursor < through {
            let (from, last) = (watch.cursor + 1, through.min(watch.cursor + PAGE));
            let page = runtime.block_on(unless_stopped(stop, self.page(from, last)));
            let Some(page) = page.filter(|_| !stop.is_cancelled()) else { return Ok(false) };
            for record in page? {
                watch.look(record.id, &record.resource, &record.span);
            }
            watch.cursor = last;
            self.cursor.store(watch.cursor, Ordering::Relaxed);
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                self.commit(watch, runtime, stop)?;
                self.notices.detector_lives(SystemTime::now());
            }
        }
        Ok(true)
    }

    async fn page(&self, from: i64, through: i64) -> Result<Vec<Arrived>, StoreError> {
        self.store.read(move |connection| alerts::records(connection, from, through)).await
    }

    /// Writes what has been found, and how far it was looked: for as long as it takes, and nothing more is looked at
    /// meanwhile. What is not written at the end is found again after the restart.
    fn commit(
        &self,
        watch: &mut Watch,
        runtime: &Handle,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let (fired, changed, ended) = watch.take();
        let cursor = watch.cursor;
        let learnt = watch.learning.due(&watch.engine, cursor, watch.is_ending).map(Arc::new);
        let is_nothing = fired.is_empty() && changed.is_empty() && ended.is_empty();
        if is_nothing && cursor == watch.saved && learnt.is_none() {
            return Ok(());
        }
        let generation = self.policies.generation();
        let found = Arc::new((fired, changed, ended));
        let mut failures = Failures::default();
        loop {
            let (notices, now) =
                (Arc::clone(&self.notices), clock::milliseconds(SystemTime::now()));
            let (written, generation) = (Arc::clone(&found), generation.clone());
            let learnt = learnt.clone();
            let (responses, responds) = (Arc::clone(&self.responses), Arc::clone(&watch.responds));
            let write = self.store.write(move |writing| {
                let new = write(writing, &notices, &written, generation.as_deref(), now)?;
                for alert in new {
                    if let Some(respond) = responds.get(&alert.rule) {
                        responses.propose(writing, &alert, respond, SystemTime::now())?;
                    }
                }
                if let Some(state) = &learnt {
                    profiles::save(writing, cursor, state, now)?;
                }
                alerts::save_cursor(writing, cursor)
            });
            let Some(result) = runtime.block_on(unless_stopped(stop, write)) else { return Ok(()) };
            match result {
                Ok(()) => break,
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) => {
                    self.metrics.detector_failed(NOT_KEPT);
                    tracing::error!(error = %crate::chain(&error), "alerts could not be kept");
                    if runtime.block_on(failures.pause(stop, &error)) {
                        return Ok(());
                    }
                }
            }
        }
        watch.saved = cursor;
        if learnt.is_some() {
            watch.learning.saved(cursor);
        }
        if let Some(act) = failures.over() {
            runtime.block_on(unless_stopped(stop, self.journal.note(act)));
        }
        if !found.0.is_empty() {
            self.responses.proposed();
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
    let resolve = |alert: &Alert| match alerts::resolve(writing, alert, now)? {
        Some(kept) => notices.enter(writing, &kept, State::Resolved, now),
        None => Ok(()),
    };
    let mut over: HashMap<&str, Vec<&Alert>> = HashMap::new();
    for alert in ended {
        over.entry(&alert.fingerprint).or_default().push(alert);
    }
    for alert in fired {
        // First what was before it: a receiver that knows alerts by what they are about would take this one for over.
        for before in over.get(alert.fingerprint.as_str()).into_iter().flatten() {
            if before.id != alert.id {
                resolve(before)?;
            }
        }
        if let Some(kept) = alerts::raise(writing, alert, generation, notices.flapping(), now)? {
            notices.enter(writing, &kept, State::Firing, now)?;
            new.push(kept.alert);
        }
    }
    for alert in changed {
        alerts::update(writing, alert, now)?;
    }
    ended.iter().try_for_each(resolve)?;
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
    learning: Learning,
    /// Nothing comes after what is written next.
    is_ending: bool,
    /// What rules have done, by their ids.
    responds: Arc<HashMap<String, Respond>>,
    health: Arc<Health>,
    stumbling: Arc<Stumbling>,
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
        if !self.stumbling.enter(id) {
            return;
        }
        let (engine, fired, health) = (&mut self.engine, &mut self.fired, &self.health);
        observe(&record, |event| {
            health.note(event.record(), now);
            fired.extend(engine.observe(event));
        });
        self.stumbling.leave();
    }

    /// What has been found since the last time: what begins, what goes on, what is over.
    fn take(&mut self) -> (Vec<Alert>, Vec<Alert>, Vec<Alert>) {
        self.ended.extend(self.engine.closed());
        // With the cursor goes all that was found up to it.
        self.changed.extend(self.engine.running());
        let take = std::mem::take;
        (take(&mut self.fired), take(&mut self.changed), take(&mut self.ended))
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

#[cfg(test)]
mod tests;
