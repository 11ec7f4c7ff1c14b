//! How records name the subjects of tokens, and the keys of their hashes: one at a time for the whole
//! mesh, another one from time to time.
//!
//! Proxies get the key in force with their configuration. Those before it are kept, so that whoever may
//! can still find a person's records; without a key its hashes name nobody. Keys stand in
//! `subject-keys` of the state directory (0600), a line for each, the oldest first: milliseconds since
//! 1970 at which it was made, and the key in base64.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_api::attributes as names;
use picket_api::v1;
use picket_certs::files::{self, FileError};
use picket_certs::subject::{KEY_LENGTH, SubjectKey};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::clock;
use crate::config::{Privacy, SubjectMode};
use crate::journal::{Act, Event, Journal};
use crate::operator::SubjectHash;
use crate::state::StateDir;
use crate::tokens::NoRandomness;

const FILE: &str = "subject-keys";

/// Keys that are kept: the last ones.
const MAX_KEYS: usize = 1_000;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SubjectsError {
    /// The file cannot be read or written, or others can read it.
    #[error("the keys of subjects' hashes cannot be used")]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{}:{line}: not a time and a key; restore the file, or remove it to begin anew", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
}

impl From<NoRandomness> for SubjectsError {
    fn from(NoRandomness: NoRandomness) -> Self {
        Self::Randomness
    }
}

/// A key and when it came into force.
struct Dated {
    made_at: i64,
    bytes: Zeroizing<Vec<u8>>,
    key: SubjectKey,
}

impl Dated {
    fn new(made_at: i64, bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        let key = SubjectKey::new(&bytes)?;
        Some(Self { made_at, bytes, key })
    }

    fn generate(now: SystemTime) -> Result<Self, SubjectsError> {
        let mut bytes = Zeroizing::new(vec![0_u8; KEY_LENGTH]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SubjectsError::Randomness)?;
        Self::new(clock::milliseconds(now), bytes).ok_or(SubjectsError::Randomness)
    }

    fn of_line(line: &str) -> Option<Self> {
        let (made_at, key) = line.split_once(' ')?;
        Self::new(made_at.parse().ok()?, Zeroizing::new(STANDARD.decode(key).ok()?))
    }
}

/// The keys, and the rule that proxies are told.
pub(crate) struct Subjects {
    privacy: Privacy,
    path: PathBuf,
    journal: Journal,
    /// The oldest first; never empty.
    keys: Mutex<Vec<Dated>>,
    rule: watch::Sender<Arc<v1::Subjects>>,
}

impl Subjects {
    /// Reads the keys; makes the first one.
    pub(crate) fn open(
        state: &StateDir,
        privacy: Privacy,
        journal: Journal,
        now: SystemTime,
    ) -> Result<Self, SubjectsError> {
        let path = state.file(FILE);
        let mut keys = Vec::new();
        if path.exists() {
            let bytes = files::read_private(&path)?;
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for (index, line) in lines.enumerate() {
                let key = str::from_utf8(line).ok().and_then(Dated::of_line);
                let bad = || SubjectsError::Line { path: path.clone(), line: index + 1 };
                keys.push(key.ok_or_else(bad)?);
            }
        }
        let is_new = keys.is_empty();
        if is_new {
            keys.push(Dated::generate(now)?);
        }
        let rule = watch::Sender::new(Arc::new(rule(privacy.subjects, &keys)));
        let subjects = Self { privacy, path, journal, keys: Mutex::new(keys), rule };
        if is_new {
            subjects.save(&subjects.keys())?;
        }
        Ok(subjects)
    }

    /// The rule in force, and its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<v1::Subjects>> {
        self.rule.subscribe()
    }

    /// Makes another key if the one in force is old enough.
    pub(crate) async fn rotate(&self, now: SystemTime) -> Result<(), SubjectsError> {
        let Some(id) = self.replace(now)? else { return Ok(()) };
        tracing::info!(key = id, "subjects are hashed with a new key");
        let act = Act::granted(Event::RotateSubjectKey, now).with(names::JWT_SUBJECT_KEY, id);
        self.journal.note(act).await;
        Ok(())
    }

    /// The new key's name, if there is one.
    fn replace(&self, now: SystemTime) -> Result<Option<String>, SubjectsError> {
        let mut keys = self.keys();
        let age = clock::milliseconds(now) - keys.last().map_or(0, |key| key.made_at);
        let due = i64::try_from(self.privacy.rotate.as_millis()).unwrap_or(i64::MAX);
        if age < due || self.privacy.subjects != SubjectMode::Hash {
            return Ok(None);
        }
        let new = Dated::generate(now)?;
        let id = new.key.id().to_owned();
        keys.push(new);
        let surplus = keys.len().saturating_sub(MAX_KEYS);
        keys.drain(..surplus);
        // Before any proxy uses it: a hash whose key is lost is found by nobody.
        if let Err(error) = self.save(&keys) {
            keys.pop();
            return Err(error);
        }
        self.rule.send_replace(Arc::new(rule(self.privacy.subjects, &keys)));
        Ok(Some(id))
    }

    /// The hashes of a subject under every key, the latest first.
    pub(crate) fn hashes(&self, subject: &str) -> Vec<SubjectHash> {
        let keys = self.keys();
        let time = |at: i64| clock::rfc3339(clock::from_milliseconds(at));
        let ends = keys.iter().skip(1).map(|next| Some(next.made_at)).chain([None]);
        let hashes = keys.iter().zip(ends).map(|(dated, end)| SubjectHash {
            key: dated.key.id().to_owned(),
            since: time(dated.made_at),
            until: end.map(time),
            hash: dated.key.hash(subject),
        });
        let mut hashes: Vec<SubjectHash> = hashes.collect();
        hashes.reverse();
        hashes
    }

    fn save(&self, keys: &[Dated]) -> Result<(), SubjectsError> {
        let mut text = Zeroizing::new(String::new());
        for Dated { made_at, bytes, .. } in keys {
            text.push_str(&format!("{made_at} "));
            STANDARD.encode_string(bytes.as_slice(), &mut text);
            text.push('\n');
        }
        Ok(files::write_atomic(&self.path, files::PRIVATE, text.as_bytes())?)
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Vec<Dated>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rule(mode: SubjectMode, keys: &[Dated]) -> v1::Subjects {
    let key = keys.last().filter(|_| mode == SubjectMode::Hash);
    v1::Subjects {
        mode: mode.as_str().to_owned(),
        key: key.map(|key| key.bytes.to_vec()).unwrap_or_default(),
    }
}
