//! What a proxy keeps between starts: its key and certificate, the bundle, the last good
//! configuration, and the key that subjects are hashed with.
//!
//! ```text
//! <stateDir>/lock           held while the proxy runs
//!            identity.pem   0600, the certificate chain and its private key
//!            bundle.pem     the authorities that are believed
//!            last-good.pb   the configuration in force (picket.v1.ConfigUpdate)
//!            subject-key    0600, 32 bytes
//!            witness-*      0600, of the witness of the audit log: its key, the log's, the last checkpoint
//!            addresses.json the addresses that were bound
//!            audit/         the spool
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use picket_api::v1;
use picket_certs::bundle::BundleError;
use picket_certs::files::{self, FileError, PRIVATE, PUBLIC};
use picket_certs::subject::{KEY_LENGTH, SubjectKey};
use picket_certs::svid::SvidError;
use picket_certs::{NewKey, Svid, TrustBundle, TrustDomain};
use prost::Message as _;
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("the state directory cannot be used")]
    File(#[from] FileError),
    /// The directory could not be locked.
    #[error("the state directory {} cannot be locked", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another proxy runs on the same directory.
    #[error("another proxy uses the state directory {}; give each its own", .0.display())]
    InUse(PathBuf),
    /// A stored certificate or key is broken.
    #[error("the stored certificate cannot be used; remove {} to join anew", path.display())]
    Svid {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SvidError,
    },
    /// The stored bundle is broken.
    #[error("the stored trust bundle cannot be used; remove {} to start anew", path.display())]
    Bundle {
        /// The bundle's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
    /// The key that subjects are hashed with is none.
    #[error("{} does not hold {KEY_LENGTH} bytes; remove it for a new one", .0.display())]
    SubjectKey(PathBuf),
    /// What the witness of the audit log kept is broken.
    #[error("the files witness-* of the state directory cannot be used; remove them to begin anew")]
    Witness,
    /// No randomness, or no key can be made.
    #[error("the system gives no randomness")]
    Random,
}

/// The state directory, locked.
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        files::create_private_dir(path)?;
        let lock_path = path.join("lock");
        let lock_error = |source| StateError::Lock { path: lock_path.clone(), source };
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(lock_error)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::InUse(path.to_owned())),
            Err(error) => Err(lock_error(error.into())),
        }
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.path.join("audit")
    }

    /// The certificate of an earlier start, if there was one.
    pub(crate) fn svid(&self) -> Result<Option<Svid>, StateError> {
        let path = self.identity();
        if !path.exists() {
            return Ok(None);
        }
        let pem = files::read_private(&path)?;
        let svid = Svid::from_pem(&pem, &pem);
        svid.map(Some).map_err(|source| StateError::Svid { path, source })
    }

    /// Both in one file, so that a crash never leaves a certificate without its key.
    pub(crate) fn save_svid(&self, key: &NewKey, svid: &Svid) -> Result<(), StateError> {
        let mut pem = Zeroizing::new(svid.chain_pem());
        pem.push_str(&key.to_pem());
        Ok(files::write_atomic(&self.identity(), PRIVATE, pem.as_bytes())?)
    }

    fn identity(&self) -> PathBuf {
        self.path.join("identity.pem")
    }

    pub(crate) fn bundle(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<TrustBundle>, StateError> {
        let path = self.path.join("bundle.pem");
        if !path.exists() {
            return Ok(None);
        }
        let pem = files::read_public(&path)?;
        let bundle = TrustBundle::from_pem(trust_domain.clone(), &pem);
        bundle.map(Some).map_err(|source| StateError::Bundle { path, source })
    }

    pub(crate) fn save_bundle(&self, bundle: &TrustBundle) -> Result<(), StateError> {
        let pem = bundle.to_pem();
        Ok(files::write_atomic(&self.path.join("bundle.pem"), PUBLIC, pem.as_bytes())?)
    }

    /// The configuration that was last in force; a broken one is as good as none.
    pub(crate) fn last_good(&self) -> Option<v1::ConfigUpdate> {
        let path = self.path.join("last-good.pb");
        let bytes = fs::read(&path).ok()?;
        v1::ConfigUpdate::decode(bytes.as_slice())
            .inspect_err(|error| tracing::error!(%error, "the last good configuration is broken"))
            .ok()
    }

    pub(crate) fn save_last_good(&self, update: &v1::ConfigUpdate) -> Result<(), StateError> {
        let bytes = update.encode_to_vec();
        Ok(files::write_atomic(&self.path.join("last-good.pb"), PRIVATE, &bytes)?)
    }

    /// The key that subjects are hashed with: made once, so that hashes can be compared over time.
    pub(crate) fn subject_key(&self) -> Result<SubjectKey, StateError> {
        let path = self.path.join("subject-key");
        if !path.exists() {
            let mut bytes = Zeroizing::new([0_u8; KEY_LENGTH]);
            aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| StateError::Random)?;
            files::write_atomic(&path, PRIVATE, bytes.as_slice())?;
        }
        let bytes = files::read_private(&path)?;
        SubjectKey::new(&bytes).ok_or(StateError::SubjectKey(path))
    }

    /// What the witness of the audit log keeps under a name; none yet.
    pub(crate) fn witness(&self, name: &str) -> Result<Option<Zeroizing<String>>, StateError> {
        let path = self.path.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = files::read_private(&path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| StateError::Witness)?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    pub(crate) fn save_witness(&self, name: &str, text: &str) -> Result<(), StateError> {
        Ok(files::write_atomic(&self.path.join(name), PRIVATE, text.as_bytes())?)
    }

    pub(crate) fn save_addresses(&self, json: &str) -> Result<(), StateError> {
        Ok(files::write_atomic(&self.path.join("addresses.json"), PUBLIC, json.as_bytes())?)
    }
}
