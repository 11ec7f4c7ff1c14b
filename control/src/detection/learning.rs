//! Profiles across restarts, and for those who ask.
//!
//! They are saved now and then, with how far they have learnt. What came after that and was looked at before a restart is
//! learnt again from the store; what it raised was raised then.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use picket_detect::{Budget, Engine, Profiles, ProfilesSize, ShownProfile};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Detector, MAX_WARM, PAGE, observe, unless_stopped};
use crate::store::{StoreError, profiles};

/// How often they are saved. What has to be learnt again after a kill is from so long.
const SAVE: Duration = Duration::from_secs(300);
/// How long whoever asks waits: the detector looks between records.
const PATIENCE: Duration = Duration::from_secs(5);

/// Profiles at work.
pub(super) struct Learning {
    /// The entry of the log up to which they are saved; none: they never were.
    saved: Option<i64>,
    at: Instant,
}

impl Learning {
    fn new(saved: Option<i64>) -> Self {
        Self { saved, at: Instant::now() }
    }

    /// What to save, if it is time.
    pub(super) fn due(&self, engine: &Engine, cursor: i64, at_end: bool) -> Option<Vec<u8>> {
        // The first time at once, so that after a kill it is known where they began.
        let is_time = at_end || self.saved.is_none() || self.at.elapsed() >= SAVE;
        let is_due = is_time && self.saved != Some(cursor);
        is_due.then(|| engine.profiles().map(Profiles::save)).flatten()
    }

    pub(super) fn saved(&mut self, cursor: i64) {
        *self = Self::new(Some(cursor));
    }
}

/// A question to the detector.
pub(super) enum Question {
    All(oneshot::Sender<(Vec<String>, ProfilesSize)>),
    One(String, oneshot::Sender<Option<ShownProfile>>),
}

/// Questions that wait.
#[derive(Default)]
pub(super) struct Questions(Mutex<Vec<Question>>);

impl Questions {
    fn ask(&self, question: Question) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(question);
    }

    /// Answers all that wait. Whoever has gone is told nothing.
    pub(super) fn answer(&self, engine: &Engine) {
        let waiting =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for question in waiting {
            match question {
                Question::All(to) => {
                    let profiles = engine.profiles();
                    let names = profiles.into_iter().flat_map(Profiles::services);
                    let size = profiles.map(Profiles::size).unwrap_or_default();
                    let _gone = to.send((names.map(str::to_owned).collect(), size));
                }
                Question::One(service, to) => {
                    let _gone = to.send(engine.profiles().and_then(|p| p.show(&service)));
                }
            }
        }
    }
}

/// There are no profiles, or the detector is busy with other things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the detector gives no answer: it is off, has no profiles, or is still catching up")]
pub(crate) struct NoAnswer;

impl Detector {
    /// The services that have a profile.
    pub(crate) async fn profiles(&self) -> Result<(Vec<String>, ProfilesSize), NoAnswer> {
        self.asked(Question::All).await
    }

    /// What is usual for a service; none if nothing is known of it.
    pub(crate) async fn profile(&self, service: String) -> Result<Option<ShownProfile>, NoAnswer> {
        self.asked(|to| Question::One(service, to)).await
    }

    async fn asked<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, NoAnswer> {
        if !self.config.enabled || self.config.profiles.is_none() {
            return Err(NoAnswer);
        }
        let (to, answer) = oneshot::channel();
        self.questions.ask(question(to));
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(NoAnswer),
        }
    }

    /// Gives an engine its profiles: those of the engine before, or those that were saved and what came since; none if it
    /// was stopped meanwhile.
    pub(super) async fn learn(
        &self,
        engine: Engine,
        before: Option<Profiles>,
        cursor: i64,
        stop: &CancellationToken,
    ) -> Result<Option<(Engine, Learning)>, StoreError> {
        let Some(alarms) = self.config.profiles else {
            return Ok(Some((engine, Learning::new(None))));
        };
        let budget = Budget { alarms, ..Budget::default() };
        let Some(read) = unless_stopped(stop, self.store.read(profiles::read)).await else {
            return Ok(None);
        };
        let kept = read?;
        let saved = kept.as_ref().map(|(saved, _)| *saved);
        if let Some(before) = before {
            return Ok(Some((engine.with_profiles(before), Learning::new(saved))));
        }
        let restored = kept.map(|(_, state)| Profiles::restore(&state, budget));
        let restored = restored.transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "profiles are learnt anew");
            None
        });
        // What was never saved, or cannot be read, begins here.
        let saved = saved.filter(|_| restored.is_some());
        let mut engine = engine.with_profiles(restored.unwrap_or_else(|| Profiles::new(budget)));
        let mut from = saved.unwrap_or(cursor).max(cursor.saturating_sub(MAX_WARM)) + 1;
        while from <= cursor {
            let through = cursor.min(from + PAGE - 1);
            let page = unless_stopped(stop, self.page(from, through)).await;
            let Some(page) = page.filter(|_| !stop.is_cancelled()) else { return Ok(None) };
            for record in page? {
                if self.stumbling.enter(record.id) {
                    observe(&record, |event| engine.learn(event));
                    self.stumbling.leave();
                }
            }
            from = through + 1;
        }
        Ok(Some((engine, Learning::new(saved))))
    }
}
