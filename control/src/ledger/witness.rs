//! Witnesses: proxies that cosign a checkpoint only if it continues the last one they saw.

use std::sync::Arc;
use std::time::SystemTime;

use picket_api::v1;
use picket_certs::SpiffeId;
use picket_ledger::note::Kind;
use picket_ledger::{Hash, Verifier, checkpoint};

use super::Ledger;
use crate::clock;
use crate::store::StoreError;
use crate::store::log::{self, Kept};
use crate::store::witnesses::{self, Witness};

/// Longest refusal and note that are kept.
const MAX_WORDS: usize = 4_096;

/// A witness whose stream is open.
pub(crate) struct Sitting {
    key: Verifier,
    witness: Witness,
    /// The checkpoint that it was sent and has not answered.
    asked: Option<Arc<Kept>>,
}

impl Sitting {
    /// Whether a checkpoint would be news to it, and it still takes any.
    pub(crate) fn wants(&self, latest: Option<&Kept>) -> bool {
        let is_news =
            latest.is_some_and(|l| l.size != self.witness.size || l.root != self.witness.root);
        is_news && self.asked.is_none() && self.witness.refusal.is_none()
    }
}

impl Ledger {
    /// What a witness says when it comes: held against the log, and kept.
    pub(crate) async fn sit(
        &self,
        id: &SpiffeId,
        said: v1::Witness,
        now: SystemTime,
    ) -> Result<Option<Sitting>, StoreError> {
        let public = <[u8; 32]>::try_from(said.public_key.as_slice()).ok();
        let key = public.and_then(|key| Verifier::new(id.principal(), Kind::Cosignature, key));
        let Some(key) = key else { return Ok(None) };
        let root = Hash::try_from(said.root.as_slice()).ok();
        let (size, root) = root.map_or((0, [0; 32]), |root| (said.size, root));
        let note = Some(said.note).filter(|note| note.len() <= MAX_WORDS).unwrap_or_default();
        let witness = Witness {
            key: key.to_string(),
            spiffe_id: id.as_str().to_owned(),
            size,
            root,
            note,
            refusal: None,
            heard_at: clock::milliseconds(now),
        };
        let own_size = self.store.log_size();
        if size > own_size {
            let detail = format!("it has {own_size} entries, and {id} cosigned it with {size}");
            self.tamper("log_rolled_back", self.key().name(), detail, now).await;
        } else if size > 0 && self.store.read(move |c| log::root(c, size)).await? != root {
            let detail = format!("its first {size} entries are not those that {id} cosigned");
            self.tamper("log_forked", self.key().name(), detail, now).await;
        }
        let kept = witness.clone();
        self.store.write(move |writing| witnesses::save(writing, &kept)).await?;
        Ok(Some(Sitting { key, witness, asked: None }))
    }

    /// The last checkpoint, with the proof that a witness needs.
    pub(crate) async fn offer(
        &self,
        sitting: &mut Sitting,
    ) -> Result<Option<v1::LogCheckpoint>, StoreError> {
        let Some(latest) = self.latest().filter(|latest| sitting.wants(Some(latest))) else {
            return Ok(None);
        };
        let (old, new) = (sitting.witness.size, latest.size);
        // Of a log that has become smaller there is no proof, and the witness shall see that.
        let proof = match old <= new {
            true => self.store.read(move |c| log::consistency(c, old, new)).await?,
            false => Vec::new(),
        };
        let note = latest.note.clone();
        sitting.asked = Some(latest);
        Ok(Some(v1::LogCheckpoint {
            note,
            old_size: old,
            consistency_proof: proof.into_iter().map(|hash| hash.to_vec()).collect(),
            key: self.key().to_string(),
        }))
    }

    /// What a witness answered.
    pub(crate) async fn witnessed(
        &self,
        sitting: &mut Sitting,
        answer: v1::Witnessed,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let Some(asked) = sitting.asked.take().filter(|asked| asked.size == answer.size) else {
            return Ok(());
        };
        let text = asked.note.split("\n\n").next().map(|text| format!("{text}\n"));
        let text = text.unwrap_or_default();
        let is_good = checkpoint::is_cosignature(&text, &answer.cosignature, &sitting.key);
        let witness = &mut sitting.witness;
        witness.heard_at = clock::milliseconds(now);
        if is_good {
            (witness.size, witness.root) = (asked.size, asked.root);
            witness.note = format!("{}{}\n", asked.note, answer.cosignature);
            let (kept, line) = (witness.clone(), answer.cosignature);
            let write = self.store.write(move |writing| {
                witnesses::cosigned(writing, kept.size, &kept.key, &line)?;
                witnesses::save(writing, &kept)
            });
            return write.await;
        }
        let words = match answer.refusal.as_str() {
            "" => "its cosignature does not fit",
            words => words,
        };
        let words: String = words.chars().take(MAX_WORDS / 4).collect();
        witness.refusal = Some(words.clone());
        let kept = witness.clone();
        self.store.write(move |writing| witnesses::save(writing, &kept)).await?;
        let detail =
            format!("{} refuses the checkpoint of {}: {words}", witness.spiffe_id, asked.size);
        self.tamper("witness_refuses", self.key().name(), detail, now).await;
        Ok(())
    }
}
