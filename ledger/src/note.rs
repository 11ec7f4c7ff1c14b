//! Signed notes: a text, and lines that say who signed it.
//!
//! Keys are Ed25519. A log signs the text itself; a witness signs it with a time before it
//! ([`crate::checkpoint`]).
//!
//! Specification: C2SP signed-note; key encodings of Go's `golang.org/x/mod/sumdb/note`.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::hex;
use crate::tree::sha256_of;

/// What a signature is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The note's text.
    Note,
    /// A cosignature/v1.
    Cosignature,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Note => 1,
            Self::Cosignature => 4,
        }
    }
}

/// A text is no key, or no note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a key in that form.
    #[error("this is no signed-note key: NAME+HASH+BASE64 is")]
    Key,
    /// Not a note.
    #[error("this is no signed note")]
    Note,
    /// No randomness, or the key does not sign.
    #[error("the key cannot be made or used")]
    Crypto,
}

/// A public key under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Verifier {
    name: String,
    kind: Kind,
    public: [u8; 32],
}

impl Verifier {
    /// A key under a name; none if that is no name.
    pub fn new(name: &str, kind: Kind, public: [u8; 32]) -> Option<Self> {
        let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+');
        is_name.then(|| Self { name: name.to_owned(), kind, public })
    }

    /// Reads `NAME+HASH+BASE64`.
    ///
    /// # Errors
    /// When it is no such key, or the hash is not that of the key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, rest) = text.trim().split_once('+').ok_or(NoteError::Key)?;
        let (hash, key) = rest.split_once('+').ok_or(NoteError::Key)?;
        let key = STANDARD.decode(key).map_err(|_| NoteError::Key)?;
        let (kind, public) = key.split_first().ok_or(NoteError::Key)?;
        let kind = match kind {
            1 => Kind::Note,
            4 => Kind::Cosignature,
            _ => return Err(NoteError::Key),
        };
        let public = public.try_into().map_err(|_| NoteError::Key)?;
        let verifier = Self::new(name, kind, public).ok_or(NoteError::Key)?;
        if hex::decode::<4>(hash) == Some(verifier.id()) {
            Ok(verifier)
        } else {
            Err(NoteError::Key)
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The first bytes of a signature, which tell whose it is.
    pub fn id(&self) -> [u8; 4] {
        let hash =
            sha256_of(&[self.name.as_bytes(), b"\n", &[self.kind.byte()], self.public.as_slice()]);
        let [a, b, c, d, ..] = hash;
        [a, b, c, d]
    }

    pub(crate) fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(message, signature).is_ok()
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = [&[self.kind.byte()], self.public.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(&self.id()), STANDARD.encode(key))
    }
}

/// A private key under a name.
pub struct Signer {
    verifier: Verifier,
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// A new key.
    ///
    /// # Errors
    /// When there is no randomness, or that is no name.
    pub fn generate(name: &str, kind: Kind) -> Result<Self, NoteError> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| NoteError::Crypto)?;
        Self::from_seed(name, kind, seed)
    }

    fn from_seed(name: &str, kind: Kind, seed: Zeroizing<[u8; 32]>) -> Result<Self, NoteError> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| NoteError::Crypto)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::Crypto)?;
        let verifier = Verifier::new(name, kind, public).ok_or(NoteError::Key)?;
        Ok(Self { verifier, seed, pair })
    }

    /// Reads what [`Signer::to_text`] wrote.
    ///
    /// # Errors
    /// When it is no such key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let rest = text.trim().strip_prefix("PRIVATE+KEY+").ok_or(NoteError::Key)?;
        let (name, rest) = rest.split_once('+').ok_or(NoteError::Key)?;
        let (hash, key) = rest.split_once('+').ok_or(NoteError::Key)?;
        let key = Zeroizing::new(STANDARD.decode(key).map_err(|_| NoteError::Key)?);
        let (kind, seed) = key.split_first().ok_or(NoteError::Key)?;
        let kind = match kind {
            1 => Kind::Note,
            4 => Kind::Cosignature,
            _ => return Err(NoteError::Key),
        };
        let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).map_err(|_| NoteError::Key)?);
        let signer = Self::from_seed(name, kind, seed)?;
        let is_own = hex::decode::<4>(hash) == Some(signer.verifier.id());
        if is_own { Ok(signer) } else { Err(NoteError::Key) }
    }

    /// The key as a file keeps it: `PRIVATE+KEY+NAME+HASH+BASE64`.
    pub fn to_text(&self) -> Zeroizing<String> {
        let key = [&[self.verifier.kind.byte()], self.seed.as_slice()].concat();
        let key = Zeroizing::new(STANDARD.encode(Zeroizing::new(key).as_slice()));
        let (name, id) = (&self.verifier.name, hex::encode(&self.verifier.id()));
        Zeroizing::new(format!("PRIVATE+KEY+{name}+{id}+{}\n", key.as_str()))
    }

    /// The public half.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    pub(crate) fn signature(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// A line of a note: what follows the key's id is the caller's.
    pub(crate) fn line(&self, signature: &[u8]) -> String {
        let bytes = [self.verifier.id().as_slice(), signature].concat();
        format!("\u{2014} {} {}\n", self.verifier.name, STANDARD.encode(bytes))
    }

    /// Signs a text, which ends with a newline.
    pub fn sign(&self, text: &str) -> String {
        let line = self.line(&self.signature(text.as_bytes()));
        format!("{text}\n{line}")
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// A note: its text, and who claims to have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The text, with its last newline.
    pub text: String,
    /// The lines of signatures.
    pub signatures: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    /// What follows it.
    pub signature: Vec<u8>,
}

impl Line {
    /// Reads a line, without its newline.
    pub fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = STANDARD.decode(signature).ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        Some(Self { name: name.to_owned(), id: *id, signature: signature.to_vec() })
    }

    /// Whether it claims to be by this key.
    pub fn is_by(&self, verifier: &Verifier) -> bool {
        self.name == verifier.name && self.id == verifier.id()
    }
}

impl Note {
    /// Reads a note. Nothing is verified yet.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let at = note.rfind("\n\n").ok_or(NoteError::Note)?;
        let (text, lines) = note.split_at(at + 1);
        let lines = lines.strip_prefix('\n').and_then(|l| l.strip_suffix('\n'));
        let lines = lines.filter(|lines| !lines.is_empty()).ok_or(NoteError::Note)?;
        let signatures: Option<Vec<Line>> = lines.split('\n').map(Line::parse).collect();
        Ok(Self { text: text.to_owned(), signatures: signatures.ok_or(NoteError::Note)? })
    }

    /// Whether the holder of the key signed the text.
    pub fn is_signed_by(&self, verifier: &Verifier) -> bool {
        let mut own = self.signatures.iter().filter(|line| line.is_by(verifier));
        own.any(|line| verifier.is_signature(self.text.as_bytes(), &line.signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_key_is_read_and_has_its_id() {
        let key = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let verifier = Verifier::parse(key).unwrap();
        assert_eq!(verifier.to_string(), key);
        assert!(Verifier::parse(&key.replace("033d", "033e")).is_err());
        assert!(Verifier::parse(&key.replace("sum.", "sun.")).is_err());
    }

    #[test]
    fn the_example_of_the_go_package_is_verified() {
        // golang.org/x/mod/sumdb/note, ExampleOpen.
        let key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        let verifier = Verifier::parse(key).unwrap();
        assert!(Note::parse(note).unwrap().is_signed_by(&verifier));
        let changed = note.replace("answer", "anwser");
        assert!(!Note::parse(&changed).unwrap().is_signed_by(&verifier));
    }

    #[test]
    fn a_key_survives_its_file_and_signs_notes() {
        let signer = Signer::generate("shop.example/log", Kind::Note).unwrap();
        let again = Signer::parse(&signer.to_text()).unwrap();
        assert_eq!(again.verifier(), signer.verifier());
        let note = Note::parse(&again.sign("a\n\nb\n")).unwrap();
        assert_eq!(note.text, "a\n\nb\n");
        assert!(note.is_signed_by(signer.verifier()));
        assert!(
            !note.is_signed_by(
                &Verifier::parse(
                    "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
                )
                .unwrap()
            )
        );
        for broken in ["", "a\n", "a\n\n", "a\n\nb\n", "a\n\n\u{2014} x y\n"] {
            assert!(Note::parse(broken).is_err(), "{broken:?}");
        }
    }
}
