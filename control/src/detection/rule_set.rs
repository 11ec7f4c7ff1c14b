//! The rules at work: those that Picket comes with, and those of a directory that is watched.
//!
//! A set is put to work whole or not at all; the one before stays then.

use std::sync::Arc;
use std::time::SystemTime;

use picket_api::attributes as names;
use picket_detect::{Diagnostics, Document, RuleSet};
use picket_policy_files::Changes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Detector;
use crate::journal::{Act, Event};
use crate::rules;

impl Detector {
    /// Reads the rules, and again whenever their directory changes.
    pub(super) async fn follow_rules(
        &self,
        sets: &watch::Sender<Option<Arc<RuleSet>>>,
        stop: &CancellationToken,
    ) {
        let mut seen = None;
        let directory = self.config.rules_dir.clone();
        let mut changes = Changes::of(directory.as_deref(), []);
        loop {
            let read = self.documents();
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

    fn documents(&self) -> Result<Vec<Document>, Diagnostics> {
        let shipped = rules::FILES.iter().filter(|_| self.config.shipped_rules);
        let mut all: Vec<Document> =
            shipped.map(|(name, text)| Document::whole(*name, *text)).collect();
        if let Some(directory) = &self.config.rules_dir {
            all.extend(picket_policy_files::read(directory)?);
        }
        Ok(all)
    }

    /// Puts rules to work, or says why not; those before stay then.
    async fn take(
        &self,
        read: &Result<Vec<Document>, Diagnostics>,
        sets: &watch::Sender<Option<Arc<RuleSet>>>,
    ) {
        let set = read.as_ref().map_err(Clone::clone).and_then(|all| RuleSet::parse(all));
        let directory = self.config.rules_dir.as_ref().map(|path| path.display().to_string());
        let subject = directory.unwrap_or_else(|| "the rules that Picket comes with".to_owned());
        let now = SystemTime::now();
        let act = match set {
            Ok(set) => {
                for warning in set.warnings() {
                    tracing::warn!("rule: {warning}");
                }
                let rules = set.summaries();
                let detail = format!("{} rules", rules.len());
                tracing::info!(rules = rules.len(), "detection rules are at work");
                self.rules.store(Arc::new(rules));
                sets.send_replace(Some(Arc::new(set)));
                Act::granted(Event::LoadRules, now).with(names::DETAIL, detail)
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("rule refused: {problem}");
                }
                let text: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
                Act::refused(Event::LoadRules, now, "rules_refused").with_list(names::DETAIL, &text)
            }
        };
        self.journal.note(act.subject(&subject)).await;
    }
}
