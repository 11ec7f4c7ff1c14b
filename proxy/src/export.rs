//! Sends audit spans on, from the spool to the control plane or another OTLP receiver, and lets go of
//! them when they were received for good.
//!
//! A batch is the spans' own bytes with the framing of an export request put round them. It is sent
//! again, after a pause with jitter, until it is acknowledged. What the receiver can never take is
//! found by halving the batch, set aside in a dead-letter file and declared, so that it blocks nothing
//! and is not lost.
//!
//! Specification: OTLP 1.x, `ExportTraceServiceRequest` and "OTLP/gRPC response".

mod answer;
mod client;
mod message;
mod remainder;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use crate::audit::bulletin::Bulletin;
use crate::audit::heads::Heads;
use crate::audit::nanos;
use crate::config::Compression;
use crate::control::ControlChannel;
use crate::spool::{Account, Completed, Limit, Reader};
use answer::Answer;
use remainder::Remainder;

/// How long spans are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(100);
/// How long is waited for the disk at the end.
const SOON: Duration = Duration::from_millis(1);
/// One batch.
const BATCH: Limit = Limit { spans: 2048, bytes: 2 << 20 };
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The longest pause that a receiver can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often a receiver may forbid an earlier boot's records before it is believed.
const FORBIDDEN: u32 = 5;

/// Where spans go.
pub(crate) enum Destination {
    /// To the control plane, by the identity in force.
    Control(Arc<ControlChannel>),
    /// To any OTLP/gRPC receiver.
    Otlp(Channel),
    /// Nowhere: the spool keeps them, and the oldest make room for new ones.
    Spool { max_size: u64 },
}

/// How spans are delivered.
pub(crate) struct Delivery {
    pub(crate) destination: Destination,
    pub(crate) compression: Compression,
    /// How long a span may wait.
    pub(crate) max_age: Option<Duration>,
    /// The file that takes what a receiver refuses for good.
    pub(crate) dead_letters: PathBuf,
}

/// Empties the spool.
pub(crate) struct Exporter {
    reader: Reader,
    delivery: Delivery,
    account: Arc<Account>,
    heads: Arc<Heads>,
    bulletin: Arc<Bulletin>,
    pause: Duration,
    /// Earlier boots whose records the receiver forbids.
    forbidden: HashSet<usize>,
}

impl Exporter {
    pub(crate) fn new(
        reader: Reader,
        delivery: Delivery,
        account: Arc<Account>,
        heads: Arc<Heads>,
        bulletin: Arc<Bulletin>,
    ) -> Self {
        let (pause, forbidden) = (PAUSES.0, HashSet::new());
        Self { reader, delivery, account, heads, bulletin, pause, forbidden }
    }

    /// Runs until `ended` says that nothing more is written and everything is sent, or until it is
    /// given up.
    pub(crate) async fn run(mut self, mut ended: watch::Receiver<bool>) {
        loop {
            // Read before looking into the spool: what was written before the end is then seen.
            let last = *ended.borrow_and_update();
            if !self.is_due() {
                if last {
                    return;
                }
                wait(GATHER, &mut ended).await;
                continue;
            }
            let began = Instant::now();
            let batch = match self.reader.next(BATCH) {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!(%error, "the audit spool cannot be read");
                    wait(PAUSES.1, &mut ended).await;
                    continue;
                }
            };
            let reading = began.elapsed();
            for lane in self.reader.ended() {
                self.heads.ended(lane);
            }
            let now = SystemTime::now();
            for missing in self.reader.missing() {
                self.bulletin.missing(missing, now);
            }
            self.bulletin.retry(now);
            if batch.is_empty() {
                if last && !self.reader.is_caught_up() {
                    // What was written last is on its way to the disk.
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                if last {
                    return self.reader.close();
                }
                wait(GATHER, &mut ended).await;
                continue;
            }
            let more = batch.len() >= BATCH.spans / 2;
            self.deliver(batch).await;
            if last {
                continue;
            }
            // A backlog is worked off in the time that requests leave.
            let rest = if more { reading } else { GATHER };
            wait(rest, &mut ended).await;
        }
    }

    /// Without a destination spans are let go of only to make room.
    fn is_due(&self) -> bool {
        match self.delivery.destination {
            Destination::Spool { max_size } => self.account.size() > max_size / 4 * 3,
            Destination::Control(_) | Destination::Otlp(_) => true,
        }
    }

    /// Returns when every span of the batch was received, or is known to be refused for good.
    async fn deliver(&mut self, batch: Vec<Completed>) {
        if let Destination::Spool { .. } = self.delivery.destination {
            return self.reader.acknowledge(&batch);
        }
        let mut refused = Remainder::default();
        let mut forbidden = 0;
        let mut waiting = VecDeque::from([batch]);
        while let Some(part) = waiting.pop_front() {
            let part = self.without_aged(part);
            let Some(boot) = part.first().map(Completed::boot) else { continue };
            if self.forbidden.contains(&boot) && part.iter().all(|span| span.boot() == boot) {
                refused.take(part);
                continue;
            }
            match self.send(&part).await {
                Answer::Received => {
                    self.pause = PAUSES.0;
                    self.reader.acknowledge(&part);
                }
                Answer::Refused(cause) => {
                    tracing::error!(cause, spans = part.len(), "the receiver refuses audit spans");
                    self.set_aside(&part);
                    refused.take(part);
                }
                Answer::SomeRefused(cause) => {
                    tracing::warn!(cause, spans = part.len(), "the receiver refuses audit spans");
                    let (first, second) = halves(part);
                    waiting.push_front(second);
                    waiting.push_front(first);
                }
                Answer::Forbidden(cause) => match by_boot(part) {
                    Ok(parts) => parts.into_iter().rev().for_each(|part| waiting.push_front(part)),
                    Err(part) => {
                        forbidden += 1;
                        if forbidden >= FORBIDDEN && !self.reader.is_of_this_boot(boot) {
                            self.forbid(boot, &cause);
                            self.set_aside(&part);
                            refused.take(part);
                        } else {
                            self.rest(&cause, None).await;
                            waiting.push_front(part);
                        }
                    }
                },
                Answer::Uncompressed(cause) => {
                    tracing::warn!(cause, "the receiver takes no gzip; it gets none from now on");
                    self.delivery.compression = Compression::None;
                    waiting.push_front(part);
                }
                Answer::Later(cause, pause) => {
                    self.rest(&cause, pause).await;
                    waiting.push_front(part);
                }
            }
        }
        let now = SystemTime::now();
        for (missing, spans) in refused.into_missing(&self.reader, "refused") {
            self.reader.lose(&spans);
            if missing.lane != self.bulletin.lane() || !self.reader.is_named(&missing.boot) {
                self.bulletin.missing(missing, now);
            }
        }
    }

    /// The spans that have not waited too long. The others are declared.
    fn without_aged(&mut self, part: Vec<Completed>) -> Vec<Completed> {
        let now = SystemTime::now();
        let oldest = self.delivery.max_age.and_then(|age| now.checked_sub(age)).map(nanos);
        let Some(oldest) = oldest else { return part };
        let (fresh, aged): (Vec<_>, Vec<_>) = part.into_iter().partition(|s| s.time() >= oldest);
        let mut remainder = Remainder::default();
        remainder.take(aged);
        for (missing, spans) in remainder.into_missing(&self.reader, "aged") {
            self.reader.lose(&spans);
            self.bulletin.missing(missing, now);
        }
        fresh
    }

    async fn send(&self, part: &[Completed]) -> Answer {
        let channel = match &self.delivery.destination {
            Destination::Otlp(channel) => Some(channel.clone()),
            Destination::Control(channel) => channel.load(),
            Destination::Spool { .. } => None,
        };
        let Some(channel) = channel else {
            return Answer::Later("there is no certificate yet".to_owned(), None);
        };
        let message = message::encode(&self.reader, part);
        let is_of_them = |boot: &str, lane| {
            part.iter().any(|span| span.lane() == lane && self.reader.name(span.boot()) == boot)
        };
        let heads = self.heads.for_export(is_of_them, SystemTime::now());
        let heads = heads.map(|heads| heads.encode_to_vec());
        let compressed = self.delivery.compression == Compression::Gzip;
        let sent = client::send(channel, message, compressed, heads.as_deref()).await;
        Answer::of(sent, part.len(), compressed)
    }

    async fn rest(&mut self, cause: &str, asked: Option<Duration>) {
        let pause = match asked {
            Some(asked) => asked.min(MAX_PAUSE),
            None => self.pause,
        };
        tracing::warn!(cause, "audit spans wait");
        // Never sooner than the receiver wants, and not all proxies at once.
        let jitter = if asked.is_some() { 1.0..1.5 } else { 0.5..1.5 };
        let factor = jitter.start + (jitter.end - jitter.start) * fastrand::f64();
        tokio::time::sleep(pause.mul_f64(factor)).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    /// An earlier boot's records must not keep those of others for ever.
    fn forbid(&mut self, boot: usize, cause: &str) {
        let name = self.reader.name(boot);
        let words = format!("set aside: the receiver forbids the records of boot {name} ({cause})");
        self.bulletin.spool(words, SystemTime::now());
        self.forbidden.insert(boot);
    }

    /// Keeps what a receiver refused: length-delimited export requests, one after the other.
    fn set_aside(&self, part: &[Completed]) {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let message = message::encode(&self.reader, part);
        let written = options.open(&self.delivery.dead_letters).and_then(|mut file| {
            let mut framed = Vec::with_capacity(message.len() + 8);
            prost::encoding::encode_varint(message.len() as u64, &mut framed);
            framed.extend_from_slice(&message);
            file.write_all(&framed)?;
            file.sync_data()
        });
        if let Err(error) = written {
            tracing::error!(%error, "refused audit spans could not be set aside");
        }
    }
}

fn halves(mut part: Vec<Completed>) -> (Vec<Completed>, Vec<Completed>) {
    let second = part.split_off(part.len() / 2);
    (part, second)
}

/// The spans of each boot by themselves; as they were, if there is one boot alone.
fn by_boot(part: Vec<Completed>) -> Result<Vec<Vec<Completed>>, Vec<Completed>> {
    let first = part.first().map(Completed::boot);
    if part.iter().all(|span| Some(span.boot()) == first) {
        return Err(part);
    }
    let mut parts: Vec<Vec<Completed>> = Vec::new();
    for span in part {
        match parts.last_mut() {
            Some(last) if last.first().map(Completed::boot) == Some(span.boot()) => last.push(span),
            _ => parts.push(vec![span]),
        }
    }
    Ok(parts)
}

async fn wait(pause: Duration, ended: &mut watch::Receiver<bool>) {
    let _elapsed = tokio::time::timeout(pause, ended.changed()).await;
}

type Sent = Result<Option<client::PartialSuccess>, Status>;

#[cfg(test)]
mod tests;
