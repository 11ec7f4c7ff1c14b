//! The proxy as a witness of the control plane's log: it cosigns a checkpoint only if that continues the
//! last one it saw.
//!
//! A control plane that forgets records, or shows others to somebody else, would have to show its witnesses
//! a log that does not continue what they cosigned. The log's key is believed as it was first told, on the
//! connection that the control plane's certificate vouches for. Decides nothing about requests.
//!
//! Specification: C2SP tlog-cosignature (cosignature/v1); RFC 6962 section 2.1.2.

use std::sync::Arc;
use std::time::SystemTime;

use picket_api::v1;
use picket_certs::SpiffeId;
use picket_ledger::note::{Kind, NoteError};
use picket_ledger::{Hash, SignedCheckpoint, Signer, Verifier, checkpoint, proof};

use crate::state::{StateDir, StateError};

/// Why a checkpoint is not cosigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the log's key is not a signed-note key")]
    BadKey,
    #[error("the log's key is {offered}, and was {pinned} before")]
    OtherKey { offered: String, pinned: String },
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::BadCheckpoint),
    #[error("the log has {offered} entries, and had {seen} before: it was rolled back")]
    Smaller { offered: u64, seen: u64 },
    #[error("the log with {size} entries is not the one that was cosigned: it was forked")]
    Forked { size: u64 },
    #[error("nothing shows that the log with {offered} entries continues the one with {seen}")]
    Inconsistent { offered: u64, seen: u64 },
    #[error("the cosignature cannot be made or kept")]
    Own,
}

/// What the witness has seen, for whoever asks the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its key, as signed notes write it.
    pub(crate) key: String,
    /// The log's key, once it is known.
    pub(crate) log: Option<String>,
    /// Entries of the log under the last checkpoint that was cosigned.
    pub(crate) size: u64,
    /// That checkpoint with the cosignature; empty if there is none yet.
    pub(crate) note: String,
    /// Why the last one that was offered was refused.
    pub(crate) refusal: Option<String>,
}

/// The witness.
pub(crate) struct Witness {
    state: Arc<StateDir>,
    signer: Signer,
    log: Option<Verifier>,
    last: Option<SignedCheckpoint>,
    seen: Seen,
}

impl Witness {
    /// Takes up what an earlier start left, or makes a key.
    pub(crate) fn open(state: Arc<StateDir>, id: &SpiffeId) -> Result<Self, StateError> {
        let key = |_: NoteError| StateError::Witness;
        let signer = match state.witness("witness-key")? {
            Some(text) => Signer::parse(&text).map_err(key)?,
            None => {
                let signer = Signer::generate(id.principal(), Kind::Cosignature).map_err(key)?;
                state.save_witness("witness-key", &signer.to_text())?;
                signer
            }
        };
        let log = state.witness("witness-log")?;
        let log = log.map(|text| Verifier::parse(&text)).transpose().map_err(key)?;
        let note =
            state.witness("witness-checkpoint")?.map(|text| text.to_string()).unwrap_or_default();
        let last = match note.is_empty() {
            true => None,
            false => Some(SignedCheckpoint::parse(&note).map_err(|_| StateError::Witness)?),
        };
        let seen = Seen {
            key: signer.verifier().to_string(),
            log: log.as_ref().map(Verifier::to_string),
            size: last.as_ref().map_or(0, |last| last.checkpoint.size),
            note,
            refusal: None,
        };
        Ok(Self { state, signer, log, last, seen })
    }

    /// What it has seen.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What it says of itself.
    pub(crate) fn hello(&self) -> v1::Witness {
        let last = self.last.as_ref().map(|last| &last.checkpoint);
        v1::Witness {
            public_key: self.signer.verifier().public().to_vec(),
            size: last.map_or(0, |last| last.size),
            root: last.map(|last| last.root.to_vec()).unwrap_or_default(),
            note: self.seen.note.clone(),
        }
    }

    /// Cosigns a checkpoint, or says why not.
    pub(crate) fn look_at(
        &mut self,
        offered: &v1::LogCheckpoint,
        now: SystemTime,
    ) -> v1::Witnessed {
        let size = SignedCheckpoint::parse(&offered.note).map_or(0, |o| o.checkpoint.size);
        match self.cosign(offered, now) {
            Ok(cosignature) => {
                self.seen.refusal = None;
                v1::Witnessed { size, cosignature, refusal: String::new() }
            }
            Err(refusal) => {
                let refusal = crate::words(&refusal);
                tracing::error!(cause = refusal, "a checkpoint of the audit log was refused");
                self.seen.refusal = Some(refusal.clone());
                v1::Witnessed { size, cosignature: String::new(), refusal }
            }
        }
    }

    fn cosign(&mut self, offered: &v1::LogCheckpoint, now: SystemTime) -> Result<String, Refusal> {
        let key = Verifier::parse(&offered.key).map_err(|_| Refusal::BadKey)?;
        let signed = judge(self.log.as_ref(), self.last.as_ref(), &key, offered)?;
        let line =
            checkpoint::cosign(&signed.note.text, &self.signer, crate::unix(now).unsigned_abs());
        let line = line.map_err(|_| Refusal::Own)?;
        // On the disk before anybody has it: what was cosigned is never forgotten.
        if self.log.is_none() {
            self.keep("witness-log", &format!("{key}\n"))?;
            self.seen.log = Some(key.to_string());
            self.log = Some(key);
        }
        let note = format!("{}{line}\n", offered.note);
        self.keep("witness-checkpoint", &note)?;
        self.seen.size = signed.checkpoint.size;
        self.seen.note = note;
        self.last = Some(signed);
        Ok(line)
    }

    fn keep(&self, name: &str, text: &str) -> Result<(), Refusal> {
        self.state.save_witness(name, text).map_err(|error| {
            tracing::error!(cause = crate::words(&error), "what the witness has seen is not kept");
            Refusal::Own
        })
    }
}

/// Whether a checkpoint continues the last one under the key that is believed.
fn judge(
    log: Option<&Verifier>,
    last: Option<&SignedCheckpoint>,
    key: &Verifier,
    offered: &v1::LogCheckpoint,
) -> Result<SignedCheckpoint, Refusal> {
    if let Some(pinned) = log.filter(|pinned| *pinned != key) {
        let (offered, pinned) = (key.to_string(), pinned.to_string());
        return Err(Refusal::OtherKey { offered, pinned });
    }
    let signed = SignedCheckpoint::parse(&offered.note)?;
    signed.check(key)?;
    let Some(last) = last.map(|last| &last.checkpoint) else { return Ok(signed) };
    let (seen, size) = (last.size, signed.checkpoint.size);
    if size < seen {
        return Err(Refusal::Smaller { offered: size, seen });
    }
    if size == seen && signed.checkpoint.root != last.root {
        return Err(Refusal::Forked { size });
    }
    let path: Result<Vec<Hash>, _> =
        offered.consistency_proof.iter().map(|hash| Hash::try_from(hash.as_slice())).collect();
    let is_consistent = path.is_ok_and(|path| {
        proof::verify_consistency(seen, size, &last.root, &signed.checkpoint.root, &path)
    });
    if offered.old_size == seen && is_consistent {
        Ok(signed)
    } else {
        Err(Refusal::Inconsistent { offered: size, seen })
    }
}

#[cfg(test)]
mod tests;
