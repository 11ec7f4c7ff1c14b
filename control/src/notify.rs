//! Who is told of alerts: the outbox, and what empties it.
//!
//! A notice is entered for each sink in the transaction that raises or ends the alert. One task for each sink delivers in
//! that order, tries again for as long as it takes, and says so when a sink keeps failing. A notice is delivered at least
//! once; its key is the same each time, so that a receiver knows it again.
//!
//! What each kind of sink is sent is said in the modules below; nothing here decides what is an alert.

mod alertmanager;
mod calls;
mod delivery;
mod digest;
mod email;
mod file;
mod http;
mod recipients;
mod slack;
mod syslog;
mod tls;
mod webhook;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use picket_certs::files::FileError;
use picket_detect::{Alert, Level, Summary};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::store::alerts::episodes;
use crate::store::alerts::{self, Kept};
use crate::store::deliveries;
use crate::store::silences;
use crate::store::{Store, StoreError, Writing};

pub(crate) use crate::store::alerts::episodes::Flapping;
pub(crate) use calls::Asked;
pub(crate) use email::Email;
pub(crate) use syslog::Transport;

/// A detector that has not been seen to live for so long is taken for dead.
const STALLED: Duration = Duration::from_secs(15);
/// Where alerts are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// Its name, in the outbox and for operators.
    pub name: String,
    /// Alerts below it are not sent.
    pub min_severity: Level,
    /// The authorities that it is believed by; none: those of the system.
    pub ca_certificate: Option<PathBuf>,
    /// How.
    pub kind: SinkKind,
    /// Whether it is told of no alerts, but called by responses only.
    pub is_for_responses: bool,
}

/// How a sink is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// Prometheus Alertmanager, API v2.
    Alertmanager {
        /// Of the servers of one cluster, without `/api/v2`. One that takes it is enough.
        urls: Vec<::http::Uri>,
    },
    /// JSON, signed.
    Webhook {
        /// Where it is posted.
        url: ::http::Uri,
        /// File with the key of the HMAC.
        secret: Option<PathBuf>,
    },
    /// An incoming webhook of Slack, or of what takes the same.
    Slack {
        /// File with the URL, which is a secret.
        url: PathBuf,
    },
    /// RFC 5424.
    Syslog {
        /// How.
        transport: Transport,
        /// The receiver's name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Mail.
    Email(Email),
    /// JSON lines.
    File {
        /// The file; it is made if it is not there.
        path: PathBuf,
    },
}

impl SinkKind {
    /// As it is configured.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Alertmanager { .. } => "alertmanager",
            Self::Webhook { .. } => "webhook",
            Self::Slack { .. } => "slack",
            Self::Syslog { .. } => "syslog",
            Self::Email(_) => "email",
            Self::File { .. } => "file",
        }
    }
}

/// How long alerts are kept that are over.
const RETENTION: Duration = Duration::from_secs(90 * 24 * 3600);

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerting {
    /// The sinks.
    pub sinks: Vec<Sink>,
    /// How often sinks are told that the detector is alive.
    pub heartbeat: Option<Duration>,
    /// What an alert's link is made of: this, a slash, and the alert's id.
    pub link_base: Option<::http::Uri>,
    /// How long alerts are kept that are over.
    pub retention: Duration,
    /// When alerts about the same are held as one.
    pub flapping: Flapping,
}

impl Default for Alerting {
    fn default() -> Self {
        Self {
            sinks: Vec::new(),
            heartbeat: None,
            link_base: None,
            retention: RETENTION,
            flapping: Flapping::default(),
        }
    }
}

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Firing,
    Resolved,
    Test,
    Heartbeat,
    /// Several alerts of a rule that is over its budget.
    Digest,
    /// A rule or an operator has it called about an alert.
    Respond,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
            Self::Test => "test",
            Self::Heartbeat => "heartbeat",
            Self::Digest => "digest",
            Self::Respond => "respond",
        }
    }
}

/// What sinks are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// Of this form.
    pub(crate) version: u32,
    /// The same however often it comes.
    pub(crate) key: String,
    pub(crate) state: State,
    /// When that was so, RFC 3339.
    pub(crate) at: String,
    pub(crate) alert: Alert,
    /// Of the alert's records.
    pub(crate) traces: Vec<String>,
    /// Of the policies in force when it was raised.
    pub(crate) generation: Option<String>,
    /// Which one it is of its fingerprint, from 1; 0: of none.
    #[serde(default)]
    pub(crate) episode: i64,
    /// Those about the same come so often that they are held as this one.
    #[serde(default)]
    pub(crate) flapping: bool,
    /// Where it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
    /// What a webhook is asked to do something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<Asked>,
}

/// Why something was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// Perhaps later.
    #[error("{reason}")]
    Unavailable { reason: String, retry_after: Option<Duration> },
    /// Not this notice.
    #[error("{0}")]
    Refused(String),
}

impl SendError {
    fn io(what: &str, error: &std::io::Error) -> Self {
        Self::Unavailable { reason: format!("{what}: {error}"), retry_after: None }
    }

    fn file(error: &FileError) -> Self {
        Self::Unavailable { reason: crate::chain(error).to_string(), retry_after: None }
    }
}

/// The outbox, and the sinks.
pub(crate) struct Notices {
    config: Alerting,
    store: Store,
    journal: Journal,
    metrics: Arc<Metrics>,
    /// How each sink is spoken to, by its place.
    ways: Vec<Way>,
    /// When the detector was last seen to live, in milliseconds since 1970.
    detector_lived: AtomicI64,
    /// The rules at work by their ids, once there are some.
    rules: ArcSwapOption<HashMap<String, Summary>>,
}

/// How a sink is spoken to.
struct Way {
    client: http::Client,
    tls: Arc<rustls::ClientConfig>,
}

impl Notices {
    pub(crate) fn open(
        config: Alerting,
        store: Store,
        journal: Journal,
        metrics: Arc<Metrics>,
    ) -> Result<Self, std::io::Error> {
        let way = |sink: &Sink| {
            let tls = tls::config(sink.ca_certificate.as_deref())?;
            Ok(Way { client: http::Client::new(&tls), tls })
        };
        let ways = config.sinks.iter().map(way).collect::<Result<_, std::io::Error>>()?;
        let (detector_lived, rules) = (AtomicI64::new(0), ArcSwapOption::empty());
        Ok(Self { config, store, journal, metrics, ways, detector_lived, rules })
    }

    pub(crate) fn sinks(&self) -> &[Sink] {
        &self.config.sinks
    }

    /// When alerts about the same are held as one.
    pub(crate) fn flapping(&self) -> Flapping {
        self.config.flapping
    }

    /// The detector says that it lives: without that there is no heartbeat.
    pub(crate) fn detector_lives(&self, now: SystemTime) {
        self.detector_lived.store(clock::milliseconds(now), Ordering::Relaxed);
    }

    /// When it last did; 1970 if it never has.
    pub(crate) fn detector_lived(&self) -> SystemTime {
        clock::from_milliseconds(self.detector_lived.load(Ordering::Relaxed))
    }

    fn beats(&self) -> bool {
        self.config.heartbeat.is_some()
            && SystemTime::now().duration_since(self.detector_lived()).unwrap_or_default() < STALLED
    }

    /// Enters what sinks are to be told of an alert, as part of what caused it.
    pub(crate) fn enter(
        &self,
        writing: &Writing<'_>,
        kept: &Kept,
        state: State,
        now: i64,
    ) -> Result<(), StoreError> {
        match state {
            State::Resolved if kept.flapping_since.is_some() => {
                self.metrics.held();
                return Ok(());
            }
            // Whoever was told that it fires is told that it is over, silence or not.
            State::Resolved if !kept.told => return Ok(()),
            State::Firing if kept.told => return Ok(()),
            State::Firing => {
                let notify = self.named_by(&kept.alert.rule);
                let standing = silences::standing(writing, now)?;
                if let Some(silence) = standing.iter().find(|silence| silence.fits(&kept.alert)) {
                    return alerts::silence(writing, &kept.alert.id, Some(&silence.id));
                }
                alerts::address(writing, &kept.alert.id, &notify)?;
                if kept.flapping_since.is_some() && episodes::is_told(writing, kept)? {
                    self.metrics.held();
                    return Ok(());
                }
                if self.keep_back(writing, kept, now)? {
                    return Ok(());
                }
                alerts::tell(writing, &kept.alert.id, now)?;
                return self.put(writing, kept, &notify, state, now);
            }
            State::Resolved | State::Test | State::Heartbeat | State::Respond | State::Digest => {}
        }
        self.put(writing, kept, &kept.notify, state, now)
    }

    fn put(
        &self,
        writing: &Writing<'_>,
        kept: &Kept,
        notify: &[String],
        state: State,
        now: i64,
    ) -> Result<(), StoreError> {
        let key = format!("{}.{}", kept.alert.id, state.as_str());
        let sinks = self.recipients(notify, kept.alert.severity);
        if sinks.is_empty() {
            return Ok(());
        }
        let notice = Notice {
            version: 1,
            key: key.clone(),
            state,
            at: clock::rfc3339(clock::from_milliseconds(now)),
            alert: kept.alert.clone(),
            traces: kept.traces.clone(),
            generation: kept.generation.clone(),
            episode: kept.episode,
            flapping: kept.flapping_since.is_some(),
            link: self.link(&kept.alert.id),
            response: None,
        };
        let text = serde_json::to_string(&notice);
        let text = text.map_err(|_| StoreError::Unreadable("a notice"))?;
        sinks.iter().try_for_each(|sink| deliveries::enter(writing, &sink.name, &key, &text, now))
    }

    /// Where an alert is shown.
    pub(crate) fn link(&self, id: &str) -> Option<String> {
        let base = self.config.link_base.as_ref()?.to_string();
        Some(format!("{}/{id}", base.trim_end_matches('/')))
    }

    /// Tells that what was held as one is over when it has been quiet for long enough.
    pub(crate) async fn end_flapping(self: &Arc<Self>, now: SystemTime) -> Result<(), StoreError> {
        if !self.store.read(episodes::are_held).await? {
            return Ok(());
        }
        let before = clock::milliseconds(now - self.config.flapping.within);
        let (own, now) = (Arc::clone(self), clock::milliseconds(now));
        let tell = move |writing: &Writing<'_>| {
            let over = episodes::let_go(writing, before)?;
            let tell = |kept| own.put(writing, kept, &kept.notify, State::Resolved, now);
            over.iter().try_for_each(tell)
        };
        self.store.write(tell).await
    }

    /// Tells of what still goes on when its silence is over.
    pub(crate) async fn end_silences(self: &Arc<Self>, now: SystemTime) -> Result<(), StoreError> {
        if self.store.read(alerts::silenced).await?.is_empty() {
            return Ok(());
        }
        let (own, now) = (Arc::clone(self), clock::milliseconds(now));
        let tell = move |writing: &Writing<'_>| {
            let standing = silences::standing(writing, now)?;
            for kept in alerts::silenced(writing)? {
                let stands = standing.iter().any(|s| kept.silenced_by.as_ref() == Some(&s.id));
                if !stands {
                    alerts::silence(writing, &kept.alert.id, None)?;
                    own.enter(writing, &kept, State::Firing, now)?;
                }
            }
            Ok(())
        };
        self.store.write(tell).await
    }

    /// Sends a notice of a kind that is not kept, to one sink, once.
    pub(crate) async fn send_once(&self, sink: &Sink, state: State) -> Result<(), SendError> {
        let now = SystemTime::now();
        let (at, milliseconds) = (clock::rfc3339(now), clock::milliseconds(now));
        let notice = Notice {
            version: 1,
            key: format!("{}.{milliseconds}", state.as_str()),
            state,
            at: at.clone(),
            alert: about_ourselves(state, at),
            traces: Vec::new(),
            generation: None,
            episode: 0,
            flapping: false,
            link: None,
            response: None,
        };
        self.send(sink, &notice).await
    }
}

/// The alert of a notice that is about no record.
fn about_ourselves(state: State, at: String) -> Alert {
    let title = match state {
        State::Heartbeat => "Picket's detector is alive",
        _ => "A test of this sink: nothing has happened",
    };
    Alert {
        id: format!("picket-{}", state.as_str()),
        fingerprint: format!("picket-{}", state.as_str()),
        rule: format!("picket.{}", state.as_str()),
        title: title.to_owned(),
        severity: Level::Informational,
        tags: Vec::new(),
        controls: Vec::new(),
        group: std::collections::BTreeMap::new(),
        first: at.clone(),
        last: at,
        count: 1,
        records: Vec::new(),
        anomaly: None,
    }
}

/// What to say of an alert that stands for several.
fn held(notice: &Notice) -> &'static str {
    if notice.flapping { " (flapping: no more of it until it is quiet)" } else { "" }
}

/// What an alert is about in one line, of values that cannot break out of it.
fn summary(alert: &Alert) -> String {
    let group: Vec<String> =
        alert.group.iter().map(|(name, value)| format!("{name}={}", clean(value))).collect();
    let mut text = match group.is_empty() {
        true => clean(&alert.title),
        false => format!("{}: {}", clean(&alert.title), group.join(", ")),
    };
    // Numbers alone: what an item is called may be personal.
    if let Some(anomaly) = alert.anomaly.as_ref().filter(|anomaly| anomaly.of.is_none()) {
        let (expected, observed) = anomaly.in_words();
        text.push_str(&format!("; expected {}, observed {}", clean(&expected), clean(&observed)));
    }
    text
}

/// A text as it may stand in a line that people read: no control characters, nothing that changes the direction of
/// writing, and not too long.
fn clean(text: &str) -> String {
    const LONGEST: usize = 200;
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut out: String =
        text.chars().take(LONGEST).map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests;
