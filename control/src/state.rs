//! The state directory: what is where, who may read it, and that only one control plane uses it.
//!
//! ```text
//! <stateDir>/             0700
//!   ca/key.pem            0600  the authority's key; a looser mode is refused
//!   ca/certificate.pem    0644  its certificate
//!   bundle.pem            0644  what proxies and operators are given to believe
//!   control.db            0600  SQLite: tokens, certificates, registry, audit records
//!   subject-keys          0600  the keys that subjects of tokens are hashed with
//!   log-key               0600  the key that checkpoints of the audit log are signed with
//!   control.sock          0600  the operators' unix socket
//!   control.lock          0600  held for as long as the process lives
//!   addresses.json        0644  the addresses that are listened on
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use picket_certs::files::{self, FileError};

use crate::operator::Addresses;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file in it cannot be read or written, or has the wrong mode.
    #[error("the state directory cannot be used")]
    File(#[from] FileError),
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another control plane is running on it.
    #[error(
        "{} is in use by another control plane (process {process}); stop it, or set another stateDir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other one's process id, as far as it is known.
        process: String,
    },
}

/// A state directory that this process holds the lock of.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// The lock ends with the file.
    _lock: File,
}

impl StateDir {
    /// Creates the directory if it is missing and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        files::create_private_dir(path)?;
        let lock = lock(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The operators' unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file("control.sock")
    }

    /// Tells whoever looks which addresses are listened on.
    pub(crate) fn write_addresses(&self, addresses: &Addresses) -> Result<(), FileError> {
        let text = serde_json::to_vec_pretty(addresses).unwrap_or_default();
        files::write_atomic(&self.file("addresses.json"), files::PUBLIC, &text)
    }
}

fn lock(directory: &Path) -> Result<File, StateError> {
    let path = directory.join("control.lock");
    let failed = |source| StateError::Lock { path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(files::PRIVATE);
    let mut file = options.open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut process = String::new();
            let read = file.take(16).read_to_string(&mut process);
            if read.is_err() || process.is_empty() {
                process = "unknown".to_owned();
            }
            return Err(StateError::InUse { path: directory.to_owned(), process });
        }
        Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).map_err(failed)?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(failed)?;
    Ok(file)
}
