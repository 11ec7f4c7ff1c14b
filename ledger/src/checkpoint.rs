//! Checkpoints: how large a log is and what its root is, signed by the log and by witnesses.
//!
//! Specification: C2SP tlog-checkpoint, tlog-cosignature (cosignature/v1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::note::{Kind, Line, Note, NoteError, Signer, Verifier};
use crate::tree::Hash;

/// What a log says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many entries it has.
    pub size: u64,
    /// The root of its tree.
    pub root: Hash,
}

impl Checkpoint {
    /// The text of the note.
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Reads the text of a note. Lines after the third are extensions, which say nothing to us.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty())?.to_owned();
        let digits = lines.next()?;
        let size: u64 = digits.parse().ok()?;
        let root = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        (size.to_string() == digits).then_some(Self { origin, size, root })
    }
}

/// A checkpoint with its signatures, and those of witnesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What is said.
    pub checkpoint: Checkpoint,
    /// The note.
    pub note: Note,
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// Not a checkpoint.
    #[error("this is no checkpoint")]
    Malformed,
    /// Another log's.
    #[error("the checkpoint is that of {0}")]
    Origin(String),
    /// The key did not sign it.
    #[error("the checkpoint is not signed with the key {0}")]
    Key(String),
}

impl SignedCheckpoint {
    /// Signs a checkpoint as the log.
    ///
    /// # Errors
    /// When the key makes no notes.
    pub fn sign(checkpoint: Checkpoint, signer: &Signer) -> Result<(Self, String), NoteError> {
        let text = signer.sign(&checkpoint.to_text());
        let note = Note::parse(&text)?;
        Ok((Self { checkpoint, note }, text))
    }

    /// Reads a checkpoint. Nothing is verified yet.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(note: &str) -> Result<Self, BadCheckpoint> {
        let note = Note::parse(note).map_err(|_| BadCheckpoint::Malformed)?;
        let checkpoint = Checkpoint::parse(&note.text).ok_or(BadCheckpoint::Malformed)?;
        Ok(Self { checkpoint, note })
    }

    /// Checks that a log said this.
    ///
    /// # Errors
    /// When it is another log's, or the key did not sign it.
    pub fn check(&self, log: &Verifier) -> Result<(), BadCheckpoint> {
        if self.checkpoint.origin != log.name() {
            return Err(BadCheckpoint::Origin(self.checkpoint.origin.clone()));
        }
        if self.note.is_signed_by(log) { Ok(()) } else { Err(BadCheckpoint::Key(log.to_string())) }
    }

    /// When a witness cosigned it, in seconds since 1970; none if it did not.
    pub fn cosigned_at(&self, witness: &Verifier) -> Option<u64> {
        let mut own = self.note.signatures.iter().filter(|line| line.is_by(witness));
        own.find_map(|line| cosigned_at(&self.note.text, line, witness))
    }
}

fn cosigned_at(text: &str, line: &Line, witness: &Verifier) -> Option<u64> {
    let (time, signature) = line.signature.split_first_chunk::<8>()?;
    let time = u64::from_be_bytes(*time);
    witness.is_signature(message(time, text).as_bytes(), signature).then_some(time)
}

fn message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// Cosigns the text of a checkpoint at a time in seconds since 1970: one line, without its newline.
///
/// # Errors
/// When the key is not that of a witness.
pub fn cosign(text: &str, witness: &Signer, time: u64) -> Result<String, NoteError> {
    if witness.verifier()
        != &Verifier::new(
            witness.verifier().name(),
            Kind::Cosignature,
            *witness.verifier().public(),
        )
        .ok_or(NoteError::Key)?
    {
        return Err(NoteError::Key);
    }
    let signature = witness.signature(message(time, text).as_bytes());
    let line = witness.line(&[time.to_be_bytes().as_slice(), &signature].concat());
    Ok(line.trim_end().to_owned())
}

/// Whether a line is the cosignature of a witness under the text of a checkpoint.
pub fn is_cosignature(text: &str, line: &str, witness: &Verifier) -> bool {
    let line = Line::parse(line);
    line.is_some_and(|l| l.is_by(witness) && cosigned_at(text, &l, witness).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "shop.example/log".to_owned(), size: 12, root: [7; 32] }
    }

    #[test]
    fn a_checkpoint_is_believed_of_its_log_alone() {
        let log = Signer::generate("shop.example/log", Kind::Note).unwrap();
        let other = Signer::generate("shop.example/log", Kind::Note).unwrap();
        let (_, note) = SignedCheckpoint::sign(checkpoint(), &log).unwrap();
        let read = SignedCheckpoint::parse(&note).unwrap();
        assert_eq!(read.checkpoint, checkpoint());
        assert_eq!(read.check(log.verifier()), Ok(()));
        assert!(matches!(read.check(other.verifier()), Err(BadCheckpoint::Key(_))));
        let larger = SignedCheckpoint::parse(&note.replace("\n12\n", "\n13\n")).unwrap();
        assert!(matches!(larger.check(log.verifier()), Err(BadCheckpoint::Key(_))));
        for broken in [note.replace("\n12\n", "\n012\n"), note.replace("\n12\n", "\n-1\n")] {
            assert_eq!(SignedCheckpoint::parse(&broken), Err(BadCheckpoint::Malformed));
        }
    }

    #[test]
    fn a_cosignature_holds_for_its_text_and_its_time() {
        let log = Signer::generate("shop.example/log", Kind::Note).unwrap();
        let witness = Signer::generate("shop/web", Kind::Cosignature).unwrap();
        let (signed, note) = SignedCheckpoint::sign(checkpoint(), &log).unwrap();
        let line = cosign(&signed.note.text, &witness, 1_700_000_000).unwrap();
        assert!(is_cosignature(&signed.note.text, &line, witness.verifier()));
        assert!(!is_cosignature("x\n", &line, witness.verifier()));
        let both = SignedCheckpoint::parse(&format!("{note}{line}\n")).unwrap();
        assert_eq!(both.check(log.verifier()), Ok(()));
        assert_eq!(both.cosigned_at(witness.verifier()), Some(1_700_000_000));
        let stranger = Signer::generate("shop/web", Kind::Cosignature).unwrap();
        assert_eq!(both.cosigned_at(stranger.verifier()), None);
        assert!(cosign(&signed.note.text, &log, 1).is_err());
    }
}
