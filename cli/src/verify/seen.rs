//! What others have seen of the log: it has to continue each of their checkpoints.

use picket_ledger::SignedCheckpoint;
use picket_ledger::note::Verifier as Key;

use super::findings::{Code, Finding};
use super::{Known, Verification, Waiting};
use crate::exit::Failure;

impl Verification {
    /// A checkpoint that somebody else has seen: the log has to continue it.
    pub(super) fn known(&mut self, known: &Known) -> Result<(), Failure> {
        let pinned = self.trust.key.clone();
        let start = self.started()?;
        let Ok(signed) = SignedCheckpoint::parse(&known.note) else {
            let detail = format!("what {} has seen is no checkpoint", known.by);
            self.report.add(Finding::new(Code::ForgedCheckpoint, detail));
            return Ok(());
        };
        let is_signed = |key: &Key| signed.check(key).is_ok();
        if !is_signed(&start.key) {
            let (code, detail) = match pinned.as_ref().is_some_and(is_signed) {
                // Said already.
                true => return Ok(()),
                false => {
                    let size = signed.checkpoint.size;
                    let signers: Vec<String> =
                        signed.note.signatures.iter().map(|line| line.name.clone()).collect();
                    let is_ours = signers.iter().any(|name| name == start.key.name());
                    let code = if is_ours { Code::SwappedKey } else { Code::ForgedCheckpoint };
                    let key = &start.key;
                    (
                        code,
                        format!(
                            "the checkpoint of {size} that {} has seen is not signed with {key}",
                            known.by
                        ),
                    )
                }
            };
            self.report.add(Finding::new(code, detail));
            return Ok(());
        }
        let (size, by) = (signed.checkpoint.size, known.by.clone());
        let has = start.bundle.size;
        if size > has {
            let detail = format!("the log has {has} entries, and had {size} when {by} saw it");
            self.report.add(Finding::new(Code::RolledBackDatabase, detail));
            return Ok(());
        }
        self.compare(size, Waiting { by, root: signed.checkpoint.root, is_own: false });
        Ok(())
    }

    /// Compares a checkpoint when the tree has its size.
    pub(super) fn compare(&mut self, size: u64, waiting: Waiting) {
        if size < self.tree.size() {
            self.report.uncompared.push((size, waiting.root, waiting.by));
        } else {
            self.waiting.entry(size).or_default().push(waiting);
        }
    }
}
