//! The rules at work: those that Picket comes with, and those of a directory that is watched.
//!
//! A set is put to work whole or not at all; the one before stays then. The directory's last good documents are kept in the
//! database, so that a restart with a broken directory goes on with them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use picket_api::attributes as names;
use picket_detect::{Diagnostics, Document, Feature, RuleSet};
use picket_policy_files::Changes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Detector;
use crate::journal::{Act, Event};
use crate::rules;
use crate::store::alerts;

/// Takes rules that are put to work.
type Sets = watch::Sender<Option<Arc<RuleSet>>>;

/// What of a directory's rules is at work while they are refused.
const BEFORE: &str = "the rules before stay at work";
const KEPT: &str = "the last good ones, kept from before the restart, are at work";
const SHIPPED: &str = "no good ones are kept: only the rules that Picket comes with are at work";
const NOTHING: &str = "no good ones are kept: nothing is looked for until they are mended";

impl Detector {
    /// Reads the rules, and again whenever their directory changes.
    pub(super) async fn follow_rules(&self, sets: &Sets, stop: &CancellationToken) {
        let mut seen = None;
        let directory = self.config.rules_dir.clone();
        let mut changes = Changes::of(directory.as_deref(), []);
        loop {
            let read =
                directory.as_deref().map(picket_policy_files::read).unwrap_or(Ok(Vec::new()));
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

    /// A set of documents of the directory, beside the rules that Picket comes with.
    fn parse(&self, documents: &[Document]) -> Result<RuleSet, Diagnostics> {
        let shipped = rules::FILES.iter().filter(|_| self.config.shipped_rules);
        let shipped = shipped.map(|(name, text)| Document::whole(*name, *text));
        let set = RuleSet::parse(&shipped.chain(documents.iter().cloned()).collect::<Vec<_>>())?;
        set.check_webhooks(|name| self.notices.can_call(name))?;
        Ok(set)
    }

    /// Puts rules to work, or says why not.
    async fn take(&self, read: &Result<Vec<Document>, Diagnostics>, sets: &Sets) {
        let now = SystemTime::now();
        let directory = self.config.rules_dir.as_deref();
        let set = read.as_ref().map_err(Clone::clone);
        let set = set.and_then(|documents| Ok((self.parse(documents)?, documents)));
        self.rules_refused.store(set.is_err(), Ordering::Relaxed);
        let act = match set {
            Ok((set, documents)) => {
                for warning in set.warnings() {
                    tracing::warn!("rule: {warning}");
                }
                let detail = format!("{} rules", set.summaries().len());
                self.put_to_work(set, sets);
                if let Some(directory) = directory {
                    self.keep(directory, documents.clone()).await;
                }
                Act::granted(Event::LoadRules, now).with(names::DETAIL, detail)
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("rule refused: {problem}");
                }
                let instead = self.instead(sets).await;
                tracing::error!("the rules' directory is refused; {instead}");
                let mut text: Vec<String> =
                    problems.iter().take(20).map(ToString::to_string).collect();
                text.push(instead.to_owned());
                Act::refused(Event::LoadRules, now, "rules_refused").with_list(names::DETAIL, &text)
            }
        };
        let directory = directory.map(|path| path.display().to_string());
        let subject = directory.unwrap_or_else(|| "the rules that Picket comes with".to_owned());
        self.journal.note(act.subject(&subject)).await;
    }

    fn put_to_work(&self, set: RuleSet, sets: &Sets) {
        let mut rules = set.summaries();
        tracing::info!(rules = rules.len(), "detection rules are at work");
        if self.config.profiles.is_some() {
            rules.extend(Feature::ALL.map(Feature::summary));
        }
        self.notices.set_rules(&rules);
        self.rules.store(Arc::new(rules));
        sets.send_replace(Some(Arc::new(set)));
    }

    /// Puts something to work in place of rules that are refused, if nothing is yet; what is, in words.
    async fn instead(&self, sets: &Sets) -> &'static str {
        if sets.borrow().is_some() {
            return BEFORE;
        }
        let kept = match &self.config.rules_dir {
            Some(directory) => self.kept(directory).await,
            None => None,
        };
        if let Some(set) = kept.and_then(|documents| self.parse(&documents).ok()) {
            self.put_to_work(set, sets);
            return KEPT;
        }
        match self.parse(&[]).ok().filter(|_| self.config.shipped_rules) {
            Some(set) => {
                self.put_to_work(set, sets);
                SHIPPED
            }
            None => NOTHING,
        }
    }

    async fn keep(&self, directory: &Path, documents: Vec<Document>) {
        let directory = directory.display().to_string();
        let keep = self.store.write(move |w| alerts::save_rules(w, &directory, &documents));
        if let Err(error) = keep.await {
            tracing::error!(error = %crate::chain(&error), "the rules could not be kept");
        }
    }

    async fn kept(&self, directory: &Path) -> Option<Vec<Document>> {
        let directory = directory.display().to_string();
        let kept = self.store.read(move |c| alerts::rules(c, &directory)).await;
        kept.unwrap_or_else(|error| {
            tracing::error!(error = %crate::chain(&error), "the rules that were kept cannot be read");
            None
        })
    }
}
