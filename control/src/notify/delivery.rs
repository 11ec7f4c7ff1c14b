//! The task of one sink: what is due is delivered in order, tried again for as long as it takes, and it is said when a
//! sink keeps failing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_detect::Alert;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::calls::Call;
use super::{
    Notice, Notices, SendError, Sink, SinkKind, State, Way, alertmanager, email, file, slack,
    syslog, webhook,
};
use crate::clock;
use crate::journal::{Act, Event};
use crate::store::alerts::{self, Kept};
use crate::store::deliveries::{self, Delivery};
use crate::store::{StoreError, Writing};

/// How long one delivery may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long a notice is tried.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How often one is tried that is refused for what it is.
const MAX_REFUSED: u32 = 5;
/// Failures in a row after which the sink itself is worth an alert.
const FAILING: u64 = 5;

impl Notices {
    /// Tells one sink, for ever.
    pub(crate) async fn serve(self: Arc<Self>, index: usize, stop: CancellationToken) {
        let Some(sink) = self.config.sinks.get(index) else { return };
        let mut failures = 0_u64;
        let beats = self.config.heartbeat.filter(|_| !sink.is_for_responses);
        let repeat = beats.map(|pause| (pause, Instant::now() + pause));
        let mut repeat = match &sink.kind {
            // It forgets what it is not told again.
            SinkKind::Alertmanager { .. } => {
                repeat.or(Some((alertmanager::REPEAT, Instant::now())))
            }
            _ => repeat,
        };
        while !stop.is_cancelled() {
            let mut changes = self.store.changes();
            let wake = match self.step(sink, &mut failures).await {
                Ok(None) => None,
                Ok(Some(due)) => Some(due),
                Err(error) => {
                    tracing::error!(error = %crate::chain(&error), "the outbox cannot be read");
                    Some(Instant::now() + FIRST_PAUSE)
                }
            };
            let beat = repeat.map(|(_, at)| at);
            let until = wake.into_iter().chain(beat).min();
            let far = Instant::now() + LONGEST_PAUSE;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(until.unwrap_or(far)) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
            if let Some((pause, at)) = &mut repeat
                && *at <= Instant::now()
            {
                *at = Instant::now() + *pause;
                self.repeat(sink).await;
            }
        }
    }

    /// Delivers what is due; when to look again, if that is known.
    async fn step(&self, sink: &Sink, failures: &mut u64) -> Result<Option<Instant>, StoreError> {
        loop {
            let (name, now) = (sink.name.clone(), clock::milliseconds(SystemTime::now()));
            let next = self.store.read(move |c| deliveries::next(c, &name, now)).await?;
            let delivery = match next {
                Ok(delivery) => delivery,
                Err(Some(due)) => {
                    let wait = u64::try_from(due.saturating_sub(now)).unwrap_or_default();
                    return Ok(Some(Instant::now() + Duration::from_millis(wait)));
                }
                Err(None) => return Ok(None),
            };
            let notice = serde_json::from_str::<Notice>(&delivery.notice);
            let result = match &notice {
                Ok(notice) => self.send(sink, notice).await,
                Err(error) => Err(SendError::Refused(error.to_string())),
            };
            let call = notice.ok().and_then(|notice| Call::of(sink, &notice));
            match result {
                Ok(()) => {
                    *failures = 0;
                    self.metrics.delivered(&sink.name, "delivered");
                    let now = clock::milliseconds(SystemTime::now());
                    let (number, journal) = (delivery.number, self.journal.clone());
                    let note = move |writing: &Writing<'_>| {
                        deliveries::delivered(writing, number, now)?;
                        call.map_or(Ok(()), |call| call.was_made(writing, &journal, now))
                    };
                    self.store.write(note).await?;
                }
                Err(error) => {
                    *failures += 1;
                    self.metrics.delivered(&sink.name, "failed");
                    self.postpone(sink, (&delivery, call), &error, *failures).await?;
                }
            }
        }
    }

    async fn postpone(
        &self,
        sink: &Sink,
        (delivery, call): (&Delivery, Option<Call>),
        error: &SendError,
        failures: u64,
    ) -> Result<(), StoreError> {
        let reason = error.to_string();
        tracing::warn!(sink = sink.name, key = delivery.key, reason, "an alert was not delivered");
        let now = SystemTime::now();
        let doubled = FIRST_PAUSE * 2_u32.saturating_pow(delivery.attempts.min(16));
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.75 + fastrand::f64() / 2.0);
        let milliseconds = clock::milliseconds(now);
        let again = match error {
            SendError::Refused(_) if delivery.attempts + 1 >= MAX_REFUSED => None,
            SendError::Refused(_) => Some(pause),
            SendError::Unavailable { retry_after, .. } => {
                Some(pause.max(retry_after.unwrap_or_default()))
            }
        };
        let oldest = clock::milliseconds(now - PATIENCE);
        let again = again.map(|pause| clock::milliseconds(now + pause));
        let (number, text) = (delivery.number, reason.clone());
        let journal = self.journal.clone();
        self.store
            .write(move |writing| {
                deliveries::failed(writing, number, &text, again, milliseconds)?;
                deliveries::give_up_before(writing, number, oldest, milliseconds)?;
                match call {
                    Some(call) if deliveries::is_given_up(writing, number)? => {
                        call.was_given_up(writing, &journal, (&text, milliseconds))
                    }
                    _ => Ok(()),
                }
            })
            .await?;
        if failures == FAILING {
            let act = Act::refused(Event::Notify, now, "sink_failing")
                .subject(&sink.name)
                .with(names::DETAIL, reason);
            self.journal.note(act).await;
        }
        Ok(())
    }

    /// What is told again and again: that we are alive, and to an Alertmanager what is still going on.
    async fn repeat(&self, sink: &Sink) {
        let told = match &sink.kind {
            SinkKind::Alertmanager { urls } => {
                let told = self.store.read(alerts::going_on).await.unwrap_or_default();
                let is_told = |kept: &Kept| {
                    let told = self.recipients(&kept.notify, kept.alert.severity);
                    told.iter().any(|other| other.name == sink.name)
                };
                let told = told.into_iter().filter(is_told);
                let wanted: Vec<(Option<String>, Alert)> =
                    told.map(|kept| (self.link(&kept.alert.id), kept.alert)).collect();
                match self.way(sink) {
                    Ok(way) => alertmanager::repeat(&way.client, urls, &wanted, self.beats()).await,
                    Err(error) => Err(error),
                }
            }
            _ if self.beats() => self.send_once(sink, State::Heartbeat).await,
            _ => Ok(()),
        };
        if let Err(error) = told {
            tracing::warn!(sink = sink.name, %error, "a sink was not told that all is well");
        }
    }

    fn way(&self, sink: &Sink) -> Result<&Way, SendError> {
        let place = self.config.sinks.iter().position(|other| other.name == sink.name);
        let way = place.and_then(|place| self.ways.get(place));
        way.ok_or_else(|| SendError::Refused("there is no such sink".to_owned()))
    }

    pub(super) async fn send(&self, sink: &Sink, notice: &Notice) -> Result<(), SendError> {
        let Way { client, tls } = self.way(sink)?;
        let sent = async {
            match &sink.kind {
                SinkKind::Alertmanager { urls } => alertmanager::send(client, urls, notice).await,
                SinkKind::Webhook { url, secret } => {
                    webhook::send(client, url, secret.as_deref(), notice).await
                }
                SinkKind::Slack { url } => slack::send(client, url, notice).await,
                SinkKind::Syslog { transport, host, port } => {
                    syslog::send((*transport, host, *port), tls, notice).await
                }
                SinkKind::Email(email) => {
                    email::send(email, sink.ca_certificate.as_deref(), TIMEOUT, notice).await
                }
                SinkKind::File { path } => file::send(path, notice).await,
            }
        };
        timeout(TIMEOUT, sent).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {TIMEOUT:?}");
            Err(SendError::Unavailable { reason, retry_after: None })
        })
    }
}
