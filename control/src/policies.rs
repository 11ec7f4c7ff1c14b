//! The mesh's policies: read from a directory, taken whole or refused whole, handed to the proxies.
//!
//! A refused directory changes nothing: the last good set stays in force, is kept in the database for
//! the next start, and every problem is logged and shown in the status. A control plane that has never
//! seen a good set serves none, so that its proxies are not ready rather than open.
//!
//! What policies mean is the business of [`picket_policy`].

mod directory;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use picket_api::attributes as names;
use picket_policy::{Diagnostics, Document, PolicySet, Settings};
use picket_policy_files::Changes;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::journal::{Act, Event, Journal};
use crate::metrics::{Metrics, Outcome};
use crate::operator::{AppliedPolicies, Diagnostic, PolicyOrigin, PolicyStatus};
use crate::store::{Store, StoreError, policy_set};

/// What the directory held when it was read last, so that it is judged only when it has changed.
pub(crate) type Seen = Option<(Result<Vec<Document>, Diagnostics>, Arc<Vec<Document>>)>;

/// The set in force.
#[derive(Debug)]
pub(crate) struct InForce {
    /// The policies.
    pub(crate) set: PolicySet,
    /// What they are called.
    pub(crate) generation: String,
}

/// The policies of the mesh.
pub(crate) struct Policies {
    directory: PathBuf,
    settings: Settings,
    store: Store,
    journal: Journal,
    metrics: Arc<Metrics>,
    in_force: watch::Sender<Option<Arc<InForce>>>,
    status: ArcSwap<PolicyStatus>,
    /// Wakes whoever follows the directory.
    written: Notify,
    /// One set is handed in at a time.
    applying: Mutex<()>,
    /// What stands beside the directory: responses to alerts.
    overlay: ArcSwap<Vec<Document>>,
    /// The directory as it was when it was good last.
    good: ArcSwap<Vec<Document>>,
}

/// How long a set that was written may take to come into force.
const APPLY: Duration = Duration::from_secs(10);

/// Why a set that was handed in did not come into force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// It has mistakes.
    #[error("the policies are refused:\n{0}")]
    Refused(Diagnostics),
    /// Somebody else was quicker.
    #[error(
        "generation {in_force} is in force, not {expected}: somebody else has changed the policies; look again"
    )]
    Conflict {
        /// What is in force.
        in_force: String,
        /// What should have been replaced.
        expected: String,
    },
    /// The directory was not written.
    #[error("nothing was changed")]
    NotWritten(#[source] directory::WriteError),
    /// Something else came into force.
    #[error(
        "the directory was written, but the set did not come into force within {APPLY:?}; see `picket status`"
    )]
    NotInForce,
    /// The act cannot be recorded.
    #[error("nothing was changed, because it cannot be recorded")]
    Store(#[source] StoreError),
}

impl ApplyError {
    /// A short stable name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "policies_refused",
            Self::Conflict { .. } => "policies_conflict",
            Self::NotWritten(_) => "policies_not_written",
            Self::NotInForce => "policies_not_in_force",
            Self::Store(_) => "database",
        }
    }
}

impl Policies {
    /// Loads what the last process left in force; the directory is read by [`Policies::reload`].
    pub(crate) async fn open(
        (directory, settings): (PathBuf, Settings),
        store: Store,
        journal: Journal,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let mut status = PolicyStatus {
            directory: directory.clone(),
            generation: None,
            loaded_at: None,
            origin: PolicyOrigin::None,
            refused: false,
            files: Vec::new(),
            diagnostics: Vec::new(),
        };
        let mut in_force = None;
        let good = ArcSwap::default();
        if let Some(kept) = store.read(policy_set::load).await? {
            // Read anew: the settings, or what this version accepts, may have changed since.
            match PolicySet::parse(&kept.documents, settings.clone()) {
                Ok(set) => {
                    let generation = set.generation().to_string();
                    status.generation = Some(generation.clone());
                    status.loaded_at =
                        Some(clock::rfc3339(clock::from_milliseconds(kept.saved_at)));
                    status.origin = PolicyOrigin::Kept;
                    status.files = files(&kept.documents);
                    good.store(Arc::new(kept.documents));
                    in_force = Some(Arc::new(InForce { set, generation }));
                }
                Err(problems) => {
                    tracing::error!(%problems, "the policies of the last start cannot be used");
                }
            }
        }
        let (in_force, _) = watch::channel(in_force);
        let status = ArcSwap::from_pointee(status);
        let (written, applying) = (Notify::new(), Mutex::new(()));
        Ok(Self {
            directory,
            settings,
            store,
            journal,
            metrics,
            in_force,
            status,
            written,
            applying,
            overlay: ArcSwap::default(),
            good,
        })
    }

    /// The set in force, now and whenever it changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<InForce>>> {
        self.in_force.subscribe()
    }

    /// The generation in force.
    pub(crate) fn generation(&self) -> Option<String> {
        self.in_force.borrow().as_ref().map(|set| set.generation.clone())
    }

    /// How it stands.
    pub(crate) fn status(&self) -> Arc<PolicyStatus> {
        self.status.load_full()
    }

    /// Reads the directory again whenever it changes, until `stop`.
    pub(crate) async fn follow(&self, mut seen: Seen, stop: CancellationToken) {
        let mut changes = Changes::of([&*self.directory], []);
        // What has changed since the caller read it, and before anybody watched.
        self.reload(&mut seen).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changes.next() => self.reload(&mut seen).await,
                () = self.written.notified() => self.reload(&mut seen).await,
            }
        }
    }

    /// Lays documents over those of the directory, in place of what was laid over them before.
    pub(crate) fn overlay(&self, documents: Vec<Document>) {
        if **self.overlay.load() != documents {
            self.overlay.store(Arc::new(documents));
            self.written.notify_one();
        }
    }

    /// Whether a document can be laid over the others.
    pub(crate) fn reads(&self, document: &Document) -> bool {
        PolicySet::parse(std::slice::from_ref(document), self.settings.clone()).is_ok()
    }

    /// Waits until what was laid over the directory is in force, and says under which generation; none if it is not in time.
    pub(crate) async fn overlaid(&self) -> Option<String> {
        let mut in_force = self.subscribe();
        let is_it = |set: &Option<Arc<InForce>>| {
            let wanted = self.judge(&self.good.load());
            let wanted = wanted.map(|set| set.generation().to_string());
            wanted.is_ok_and(|wanted| set.as_ref().is_some_and(|set| set.generation == wanted))
        };
        let waited = tokio::time::timeout(APPLY, in_force.wait_for(is_it)).await;
        waited.ok()?.ok()?.as_ref().map(|set| set.generation.clone())
    }

    fn with_overlay(&self, mut documents: Vec<Document>) -> Vec<Document> {
        documents.extend(self.overlay.load().iter().cloned());
        documents
    }

    /// Reads the directory and puts it in force, unless it is refused or has not changed.
    pub(crate) async fn reload(&self, seen: &mut Seen) {
        let path = self.directory.clone();
        let read = tokio::task::spawn_blocking(move || picket_policy_files::read(&path)).await;
        let Ok(read) = read else { return };
        let overlay = self.overlay.load_full();
        if seen.as_ref().is_some_and(|(before, laid)| (before, laid) == (&read, &overlay)) {
            return;
        }
        *seen = Some((read.clone(), overlay));
        let now = SystemTime::now();
        let problems =
            match read.and_then(|documents| self.judge(&documents).map(|set| (set, documents))) {
                Ok((set, documents)) => {
                    self.good.store(Arc::new(documents));
                    return self.accept(set, PolicyOrigin::Directory, now).await;
                }
                Err(problems) => plain(&problems),
            };
        // What is laid over the last good set comes and goes all the same.
        let good = self.good.load_full();
        if let Ok(set) = self.judge(&good)
            && self.generation().is_some_and(|before| before != set.generation().to_string())
        {
            self.accept(set, self.status().origin, now).await;
        }
        self.refuse(problems, now).await;
    }

    /// A directory's documents as a set, with what is laid over them.
    fn judge(&self, documents: &[Document]) -> Result<PolicySet, Diagnostics> {
        PolicySet::parse(&self.with_overlay(documents.to_vec()), self.settings.clone())
    }

    /// Puts a set that an operator handed in into the directory, and waits until it is in force.
    pub(crate) async fn apply(
        &self,
        actor: &str,
        documents: Vec<Document>,
        replaces: Option<&str>,
    ) -> Result<AppliedPolicies, ApplyError> {
        let _turn = self.applying.lock().await;
        let set = self.judge(&documents);
        let generation = set.map_err(ApplyError::Refused)?.generation().to_string();
        let replaced = self.generation();
        if replaced.as_deref() == Some(&generation) && !self.status().refused {
            return Ok(AppliedPolicies { generation, replaced, changed: false });
        }
        if let Some(expected) = replaces.filter(|expected| Some(*expected) != replaced.as_deref()) {
            return Err(ApplyError::Conflict {
                in_force: replaced.unwrap_or_else(|| "none".to_owned()),
                expected: expected.to_owned(),
            });
        }
        let before = replaced.as_deref().unwrap_or("none");
        let act = Act::granted(Event::ApplyPolicies, SystemTime::now())
            .actor(actor)
            .subject(&self.directory.display().to_string())
            .with(names::GENERATION, generation.as_str())
            .with(names::DETAIL, format!("{} files in place of {before}", documents.len()));
        self.journal.record(act).await.map_err(ApplyError::Store)?;
        let directory = self.directory.clone();
        let write = move || directory::replace(&directory, &documents);
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|_| ApplyError::NotInForce)?.map_err(ApplyError::NotWritten)?;
        self.written.notify_one();
        let mut in_force = self.subscribe();
        let is_it = |set: &Option<Arc<InForce>>| {
            set.as_ref().is_some_and(|set| set.generation == generation)
        };
        let waited = tokio::time::timeout(APPLY, in_force.wait_for(is_it)).await;
        waited.ok().and_then(Result::ok).ok_or(ApplyError::NotInForce)?;
        Ok(AppliedPolicies { generation, replaced, changed: true })
    }

    async fn accept(&self, set: PolicySet, origin: PolicyOrigin, now: SystemTime) {
        let documents = Vec::clone(&self.good.load());
        let warnings = plain(set.warnings());
        for warning in &warnings {
            tracing::warn!("policy: {warning}");
        }
        let generation = set.generation().to_string();
        let before = self.generation();
        let is_new = before.as_deref() != Some(&generation);
        let since = if is_new { None } else { self.status.load().loaded_at.clone() };
        self.status.store(Arc::new(PolicyStatus {
            directory: self.directory.clone(),
            generation: Some(generation.clone()),
            loaded_at: Some(since.unwrap_or_else(|| clock::rfc3339(now))),
            origin,
            refused: false,
            files: files(&documents),
            diagnostics: warnings,
        }));
        if !is_new {
            return;
        }
        let policies = set.len();
        // To the proxies first: what follows only remembers it.
        let in_force = InForce { set, generation: generation.clone() };
        self.in_force.send_replace(Some(Arc::new(in_force)));
        self.metrics.policies_loaded(Outcome::Granted);
        tracing::info!(generation, policies, files = documents.len(), "policies are in force");
        let act = Act::granted(Event::LoadPolicies, now)
            .subject(&self.directory.display().to_string())
            .with(names::GENERATION, generation.as_str())
            .with(names::DETAIL, format!("{policies} policies in {} files", documents.len()));
        let journal = self.journal.clone();
        let kept = self.store.write(move |connection| {
            policy_set::save(connection, &generation, clock::milliseconds(now), &documents)?;
            journal.enter(connection, &act)
        });
        if let Err(error) = kept.await {
            tracing::error!(error = %crate::chain(&error), "the policies could not be kept");
        }
    }

    async fn refuse(&self, problems: Vec<Diagnostic>, now: SystemTime) {
        for problem in &problems {
            tracing::error!("policy refused: {problem}");
        }
        let generation = self.generation();
        let stays = generation.as_deref().unwrap_or("none");
        tracing::error!(directory = %self.directory.display(), in_force = stays, "the policies were refused whole");
        let mut status = PolicyStatus::clone(&self.status.load());
        status.refused = true;
        let text: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
        status.diagnostics = problems;
        self.status.store(Arc::new(status));
        self.metrics.policies_loaded(Outcome::Refused);
        let mut act = Act::refused(Event::LoadPolicies, now, "policies_refused")
            .subject(&self.directory.display().to_string())
            .with_list(names::DETAIL, &text);
        if let Some(generation) = generation {
            act = act.with(names::GENERATION, generation);
        }
        self.journal.note(act).await;
    }
}

fn files(documents: &[Document]) -> Vec<String> {
    documents.iter().map(|document| document.file.to_string()).collect()
}

fn plain(problems: &Diagnostics) -> Vec<Diagnostic> {
    let plain = |d: &picket_policy::Diagnostic| Diagnostic {
        file: d.file.to_string(),
        line: d.line,
        column: d.column,
        severity: match d.severity {
            picket_policy::Severity::Error => "error".to_owned(),
            picket_policy::Severity::Warning => "warning".to_owned(),
        },
        code: d.code.to_owned(),
        message: d.message.clone(),
        help: d.help.clone(),
    };
    problems.iter().map(plain).collect()
}
