//! The log over the audit records: its key, its checkpoints, and what is noticed about it.
//!
//! Records enter the log with the transaction that stores them ([`crate::store`]). Here a checkpoint is
//! signed each second that the log grew, heads of lanes are checked and kept, witnesses are told and heard,
//! and whatever cannot be unless somebody has tampered is put on the record.
//!
//! What a log proves is checked by whoever asks, not here: `picket audit verify`.

mod books;
mod heads;
mod witness;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_certs::files::{self, FileError};
use picket_certs::{Expect, PeerVerifier, TrustBundle, TrustDomain};
use picket_ledger::note::{Kind, NoteError};
use picket_ledger::{Checkpoint, SignedCheckpoint, Signer, Verifier};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::journal::{Act, Event, Journal};
use crate::metrics::Metrics;
use crate::state::StateDir;
use crate::store::log::{self, Kept};
use crate::store::{Broken, Store, StoreError, Writing};

pub(crate) use books::Wanted;
pub(crate) use witness::Sitting;

/// How often a checkpoint is made while the log grows.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// How often the books are looked over.
const BOOKS: Duration = Duration::from_secs(5);
/// How often old checkpoints are thinned out.
const THIN: Duration = Duration::from_secs(600);
/// Findings that are remembered, so that each is on the record once.
const MAX_TOLD: usize = 10_000;
/// Findings that `picket check` shows.
const MAX_SHOWN: usize = 20;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The key's file cannot be used.
    #[error("the key of the audit log cannot be used")]
    File(#[from] FileError),
    /// The key is none.
    #[error("the key of the audit log cannot be used")]
    Key(#[from] NoteError),
}

/// The log.
pub(crate) struct Ledger {
    store: Store,
    journal: Journal,
    metrics: Arc<Metrics>,
    signer: Signer,
    /// Believes certificates of workloads.
    workloads: PeerVerifier,
    latest: watch::Sender<Option<Arc<Kept>>>,
    told: Mutex<BTreeSet<String>>,
    findings: Mutex<Vec<String>>,
}

impl Ledger {
    /// Takes up the log's key, or makes one.
    pub(crate) fn open(
        state: &StateDir,
        (trust_domain, bundle): (&TrustDomain, &TrustBundle),
        (store, journal, metrics): (Store, Journal, Arc<Metrics>),
    ) -> Result<Self, LedgerError> {
        let path = state.file("log-key");
        if !path.exists() {
            let signer = Signer::generate(&format!("{trust_domain}/picket-log"), Kind::Note)?;
            files::write_atomic(&path, files::PRIVATE, signer.to_text().as_bytes())?;
        }
        let text = files::read_private(&path)?;
        let text = std::str::from_utf8(&text).map_err(|_| NoteError::Key)?;
        Ok(Self {
            store,
            journal,
            metrics,
            signer: Signer::parse(text)?,
            workloads: PeerVerifier::new(bundle.clone(), Expect::AnyWorkload),
            latest: watch::channel(None).0,
            told: Mutex::default(),
            findings: Mutex::default(),
        })
    }

    /// The log's public key, under its name.
    pub(crate) fn key(&self) -> &Verifier {
        self.signer.verifier()
    }

    /// The last checkpoint, now and whenever there is another.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Kept>>> {
        self.latest.subscribe()
    }

    /// The last checkpoint.
    pub(crate) fn latest(&self) -> Option<Arc<Kept>> {
        self.latest.borrow().clone()
    }

    /// Holds what the last process left against what it had signed, and signs anew.
    pub(crate) async fn begin(&self, now: SystemTime) -> Result<(), StoreError> {
        let (key, at) = (self.key().to_string(), clock::milliseconds(now));
        let findings = self.store.write(move |writing| look_over(writing, &key, at)).await?;
        for (code, detail) in findings {
            self.tamper(code, self.key().name(), detail, now).await;
        }
        self.checkpoint(now).await.map(|_| ())
    }

    /// Signs what the log is now, if it is more than was signed last.
    pub(crate) async fn checkpoint(
        &self,
        now: SystemTime,
    ) -> Result<Option<Arc<Kept>>, StoreError> {
        let sign = |size, root| {
            let checkpoint = Checkpoint { origin: self.key().name().to_owned(), size, root };
            let signed = SignedCheckpoint::sign(checkpoint, &self.signer);
            signed.map(|(_, note)| Kept { size, root, note })
        };
        // The key stays here: what is signed is looked up first, and kept when it is.
        let (size, root) = self.store.write(|w| Ok((w.log_size(), w.log_root()))).await?;
        if self.latest().is_some_and(|latest| latest.size == size && latest.root == root) {
            return Ok(self.latest());
        }
        let kept = sign(size, root).map_err(|_| StoreError::Unreadable("the log's key"))?;
        let (keep, at) = (kept.clone(), clock::milliseconds(now));
        self.store.write(move |writing| log::keep(writing, &keep, at)).await?;
        // Of two at once the larger one stands: a witness that saw a smaller one afterwards would cry wolf.
        self.latest.send_if_modified(|latest| {
            let is_news = latest.as_ref().is_none_or(|latest| latest.size < kept.size);
            if is_news {
                *latest = Some(Arc::new(kept));
            }
            is_news
        });
        Ok(self.latest())
    }

    /// Signs checkpoints, settles the books and forgets, until it is asked to end.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let (mut books_at, mut thin_at) = (Instant::now() + BOOKS, Instant::now() + THIN);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(CHECKPOINT) => {}
            }
            let now = SystemTime::now();
            if self.latest().is_none_or(|latest| latest.size != self.store.log_size()) {
                report(self.checkpoint(now).await.map(|_| ()));
            }
            if Instant::now() >= books_at {
                books_at = Instant::now() + BOOKS;
                report(self.settle(now).await);
            }
            if Instant::now() >= thin_at {
                thin_at = Instant::now() + THIN;
                let at = clock::milliseconds(now);
                report(self.store.write(move |writing| log::thin_out(writing, at)).await);
            }
        }
    }

    /// Puts on the record that somebody has tampered, once.
    pub(crate) async fn tamper(
        &self,
        code: &'static str,
        subject: &str,
        detail: String,
        now: SystemTime,
    ) {
        if !self.is_news(&format!("{code} {subject} {detail}")) {
            return;
        }
        self.metrics.tampered();
        self.show(format!("{code}: {subject}: {detail}"));
        tracing::error!(code, subject, detail, "the audit trail was tampered with");
        let act = Act::refused(Event::Tamper, now, code).subject(subject);
        self.journal.note(act.with(names::DETAIL, detail)).await;
    }

    /// Puts records on the record that do not fit their chains.
    pub(crate) async fn broken(&self, emitter: &str, broken: Vec<Broken>, now: SystemTime) {
        for Broken { boot, lane, position, what } in broken {
            let detail = format!("boot {boot}, lane {lane}, position {position}: {what}");
            self.tamper("chain_broken", emitter, detail, now).await;
        }
    }

    fn show(&self, finding: String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < MAX_SHOWN {
            findings.push(finding);
        }
    }

    /// The first signs of tampering since the start, in words.
    pub(crate) fn findings(&self) -> Vec<String> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_news(&self, finding: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MAX_TOLD && told.insert(finding.to_owned())
    }

    fn is_over(&self, finding: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(finding)
    }
}

/// What the last process left, held against what it had signed. Rows that have not come through the log
/// are moved aside.
fn look_over(
    writing: &Writing<'_>,
    key: &str,
    now: i64,
) -> Result<Vec<(&'static str, String)>, StoreError> {
    let mut findings = Vec::new();
    let size = writing.log_size();
    let aside = log::set_aside(writing, size, now)?;
    // Whoever doubles a row has to take the index away.
    writing.execute_batch(
        "CREATE UNIQUE INDEX IF NOT EXISTS records_sequence ON records (emitter, lane, sequence)",
    )?;
    if !aside.is_empty() {
        let detail = format!("the rows {aside:?} had not come through the log and are set aside");
        findings.push(("records_not_in_log", detail.chars().take(1_000).collect()));
    }
    let newest: Option<i64> =
        writing.query_row("SELECT max(id) FROM records", [], |row| row.get(0))?;
    let newest = newest.and_then(|id| u64::try_from(id).ok()).unwrap_or(0);
    if newest.max(log::retained(writing)?) < size {
        let detail =
            format!("the log has {size} entries, the last record that is here is {newest}");
        findings.push(("tail_missing", detail));
    }
    if let Some(signed) = log::last_checkpoint(writing)? {
        if signed.size > size {
            let detail =
                format!("it has {size} entries, and had {} when it was signed", signed.size);
            findings.push(("log_rolled_back", detail));
        } else if log::root(writing, signed.size)? != signed.root {
            let detail =
                format!("its first {} entries are not those that were signed", signed.size);
            findings.push(("log_changed", detail));
        }
    }
    let first = crate::store::meta(writing, "log_key", key)?;
    if first != key {
        findings.push(("log_key_changed", format!("the key is {key}, the log began with {first}")));
    }
    Ok(findings)
}

fn report(kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        tracing::error!(error = %crate::chain(&error), "the log could not be kept");
    }
}
