//! Forwarding traces to an OTLP endpoint, such as Jaeger.
//!
//! Spans are read from the store behind a durable cursor and sent as the bytes they are, grouped by
//! resource. The endpoint may be away for as long as it likes: taking records in does not wait for it,
//! and the export continues where it was. What the endpoint will never take is found by halving the
//! batch, skipped, counted and logged, so that it holds nothing else up.
//!
//! All of it is sent, at once; or, with sampling, whole traces once they have settled
//! ([`crate::store::sampling`]).
//!
//! Specification: OTLP 1.x, "Failures" and "Retryable response codes".

mod batch;
pub(crate) mod client;
mod settling;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Export;
use crate::metrics::Metrics;
use crate::operator::ExportStatus;
use crate::store::cursors::{self, Cursor, Outgoing};
use crate::store::sampling::{self, Choice, Chosen, Threshold};
use crate::store::{Store, StoreError};
use client::{Client, ClientError, SendError};
use settling::Settling;

/// The cursor's name in the store.
pub(crate) const CURSOR: &str = "otlp";
/// Spans of one batch.
const BATCH: usize = 512;
/// Bytes of one batch, well below the 4 MiB that receivers take by default.
const BATCH_BYTES: usize = 1 << 20;
/// How often the store is looked at when there was nothing to send.
const IDLE: Duration = Duration::from_millis(500);
/// The first and the longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The export and how far it has come.
pub(crate) struct Exporter {
    endpoint: String,
    client: Client,
    store: Store,
    metrics: Arc<Metrics>,
    sampler: Option<Sampler>,
    progress: Mutex<Progress>,
}

struct Sampler {
    threshold: Threshold,
    settling: Mutex<Settling>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    cursor: Cursor,
    newest: i64,
    failure: Option<(String, SystemTime)>,
}

impl Exporter {
    /// An export to an endpoint. What was recorded before the first one is not sent.
    pub(crate) async fn open(
        config: &Export,
        store: Store,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let client = Client::new(config)?;
        let is_sampled = config.sampling.is_some();
        let cursor = store.write(move |connection| {
            let newest = cursors::newest(connection)?;
            let first = Cursor { position: newest, ..Cursor::default() };
            let mut cursor = cursors::load(connection, CURSOR)?.unwrap_or(first);
            cursor.sampled_after = match cursor.sampled_after {
                _ if !is_sampled => None,
                None => Some(newest),
                since => since,
            };
            cursors::save(connection, CURSOR, cursor)?;
            Ok(cursor)
        });
        let cursor = cursor.await?;
        let sampler = config.sampling.map(|sampling| Sampler {
            threshold: Threshold::of(sampling.share),
            settling: Mutex::new(Settling::new(sampling.wait, cursor.position)),
        });
        let progress = Progress { cursor, newest: cursor.position, failure: None };
        let (endpoint, progress) = (config.endpoint.to_string(), Mutex::new(progress));
        Ok(Self { endpoint, client, store, metrics, sampler, progress })
    }

    /// How it stands.
    pub(crate) fn status(&self) -> ExportStatus {
        let progress = self.progress().clone();
        let (error, failing_since) = progress.failure.unzip();
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        ExportStatus {
            endpoint: self.endpoint.clone(),
            sent: count(progress.cursor.sent),
            skipped: count(progress.cursor.skipped),
            dropped: count(progress.cursor.dropped),
            behind: count(progress.newest - progress.cursor.position),
            error,
            failing_since: failing_since.map(clock::rfc3339),
        }
    }

    /// Sends until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let forward = async {
            loop {
                match self.step().await {
                    Ok(true) => {}
                    Ok(false) => sleep(IDLE).await,
                    Err(error) => {
                        tracing::error!(error = %crate::chain(&error), "the export cannot go on");
                        sleep(BACKOFF.1).await;
                    }
                }
            }
        };
        // A batch that is under way is sent again: receivers know spans by their ids.
        tokio::select! {
            () = stop.cancelled() => {}
            () = forward => {}
        }
    }

    /// Sends one batch; false if there was none.
    async fn step(&self) -> Result<bool, StoreError> {
        let after = self.progress().cursor.position;
        let newest = self.store.read(cursors::newest).await?;
        self.progress().newest = newest.max(after);
        let chosen = self.choose(after, newest).await?;
        let is_idle = chosen.last == after || (chosen.outgoing.is_empty() && !self.is_sampled());
        let mut parts = parts(&chosen.outgoing);
        parts.reverse();
        while let Some(part) = parts.pop() {
            let Some(last) = part.last().map(|record| record.row) else { continue };
            match self.deliver(part).await {
                Ok(refused) => {
                    self.advance(&chosen, last, part.len() as u64 - refused, refused).await?;
                }
                Err(reason) if part.len() == 1 => {
                    tracing::error!(row = last, reason, "the endpoint will not take a span");
                    self.advance(&chosen, last, 0, 1).await?;
                }
                Err(_) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        // What is not sent (the control plane's own acts, what is not sampled) need not be looked at again.
        if chosen.last > self.progress().cursor.position {
            self.advance(&chosen, chosen.last, 0, 0).await?;
        }
        Ok(!is_idle)
    }

    fn is_sampled(&self) -> bool {
        self.sampler.is_some()
    }

    /// What is to be sent next.
    async fn choose(&self, after: i64, newest: i64) -> Result<Chosen, StoreError> {
        let Some(sampler) = &self.sampler else {
            let next = move |connection: &rusqlite::Connection| {
                let outgoing = cursors::next(connection, after, BATCH, BATCH_BYTES)?;
                let last = outgoing.last().map_or(newest.max(after), |record| record.row);
                Ok(Chosen { outgoing, last, ..Chosen::default() })
            };
            return self.store.read(next).await;
        };
        let until = {
            let mut settling = sampler.settling.lock().unwrap_or_else(PoisonError::into_inner);
            settling.see(newest, Instant::now())
        };
        let choice = Choice {
            threshold: sampler.threshold,
            all_until: self.progress().cursor.sampled_after.unwrap_or_default(),
            after,
            until,
            limit: (BATCH, BATCH_BYTES),
        };
        self.store.read(move |connection| sampling::choose(connection, choice)).await
    }

    /// Sends until the endpoint has answered: how many it refused, or why it refuses all of them.
    async fn deliver(&self, part: &[Outgoing]) -> Result<u64, String> {
        let message = batch::encode(part);
        let mut wait = BACKOFF.0;
        loop {
            match self.client.send(message.clone()).await {
                Ok(answer) => {
                    self.progress().failure = None;
                    if answer.rejected > 0 {
                        let (rejected, reason) = (answer.rejected, answer.message);
                        tracing::warn!(rejected, reason, "the endpoint refused spans");
                    }
                    return Ok(answer.rejected.min(part.len() as u64));
                }
                Err(SendError::Refused(reason)) => {
                    self.progress().failure = None;
                    return Err(reason);
                }
                Err(SendError::Unavailable { reason, retry_after }) => {
                    self.failed(reason);
                    let jitter = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
                    sleep(retry_after.unwrap_or_default().min(BACKOFF.1).max(jitter)).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn failed(&self, reason: String) {
        let now = SystemTime::now();
        let mut progress = self.progress();
        let since = match &progress.failure {
            Some((_, since)) => *since,
            None => {
                tracing::warn!(endpoint = self.endpoint, reason, "the export fails");
                now
            }
        };
        progress.failure = Some((reason, since));
    }

    /// Everything up to a row of what was chosen is done with.
    async fn advance(
        &self,
        chosen: &Chosen,
        row: i64,
        sent: u64,
        skipped: u64,
    ) -> Result<(), StoreError> {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut cursor = self.progress().cursor;
        let before = cursor.position;
        // Earlier spans of a trace that became notable do not turn it back.
        cursor.position = row.max(before);
        let done = before + 1..=cursor.position;
        let dropped = chosen.dropped.iter().filter(|row| done.contains(row)).count() as u64;
        cursor.sent += signed(sent);
        cursor.skipped += signed(skipped);
        cursor.dropped += signed(dropped);
        let horizon = self.is_sampled().then_some(chosen.horizon);
        let write = self.store.write(move |connection| {
            if let Some(horizon) = horizon {
                sampling::decided(connection, (before + 1, cursor.position), horizon)?;
            }
            cursors::save(connection, CURSOR, cursor)
        });
        write.await?;
        self.progress().cursor = cursor;
        self.metrics.exported(sent, skipped, dropped);
        Ok(())
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parts that are each small enough for one message.
fn parts(outgoing: &[Outgoing]) -> Vec<&[Outgoing]> {
    let (mut parts, mut rest) = (Vec::new(), outgoing);
    while !rest.is_empty() {
        let mut size = 0;
        let fits = |record: &&Outgoing| {
            size += record.span.len();
            size <= BATCH_BYTES
        };
        let count = rest.iter().take(BATCH).take_while(fits).count().max(1);
        let (part, others) = rest.split_at(count);
        parts.push(part);
        rest = others;
    }
    parts
}

/// Why an export cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The endpoint cannot be addressed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The cursor cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}
