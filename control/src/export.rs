//! Forwarding traces to an OTLP endpoint, such as Jaeger.
//!
//! Spans are read from the store behind a durable cursor and sent as the bytes they are, grouped by
//! resource. The endpoint may be away for as long as it likes: taking records in does not wait for it,
//! and the export continues where it was. What the endpoint will never take is found by halving the
//! batch, skipped, counted and logged, so that it holds nothing else up.
//!
//! Specification: OTLP 1.x, "Failures" and "Retryable response codes".

mod batch;
pub(crate) mod client;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Export;
use crate::metrics::Metrics;
use crate::operator::ExportStatus;
use crate::store::cursors::{self, Cursor, Outgoing};
use crate::store::{Store, StoreError};
use client::{Client, ClientError, SendError};

/// The cursor's name in the store.
const CURSOR: &str = "otlp";
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
    progress: Mutex<Progress>,
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
        let cursor = store.write(|connection| match cursors::load(connection, CURSOR)? {
            Some(cursor) => Ok(cursor),
            None => {
                let position = cursors::newest(connection)?;
                let cursor = Cursor { position, ..Cursor::default() };
                cursors::save(connection, CURSOR, cursor)?;
                Ok(cursor)
            }
        });
        let cursor = cursor.await?;
        let progress = Progress { cursor, newest: cursor.position, failure: None };
        let endpoint = config.endpoint.to_string();
        Ok(Self { endpoint, client, store, metrics, progress: Mutex::new(progress) })
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
        let read = self.store.read(move |connection| {
            let newest = cursors::newest(connection)?;
            Ok((newest, cursors::next(connection, after, BATCH, BATCH_BYTES)?))
        });
        let (newest, batch) = read.await?;
        self.progress().newest = newest.max(after);
        if batch.is_empty() {
            // Nothing but the control plane's own acts since: they need not be looked at again.
            if newest > after {
                self.advance(newest, 0, 0).await?;
            }
            return Ok(false);
        }
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let Some(last) = part.last().map(|record| record.row) else { continue };
            match self.deliver(&part).await {
                Ok(refused) => self.advance(last, part.len() as u64 - refused, refused).await?,
                Err(reason) if part.len() == 1 => {
                    tracing::error!(row = last, reason, "the endpoint will not take a span");
                    self.advance(last, 0, 1).await?;
                }
                Err(_) => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
            }
        }
        Ok(true)
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

    async fn advance(&self, position: i64, sent: u64, skipped: u64) -> Result<(), StoreError> {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut cursor = self.progress().cursor;
        cursor.position = position;
        cursor.sent += signed(sent);
        cursor.skipped += signed(skipped);
        self.store.write(move |connection| cursors::save(connection, CURSOR, cursor)).await?;
        self.progress().cursor = cursor;
        self.metrics.exported(sent, skipped);
        Ok(())
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
