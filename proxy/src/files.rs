//! A proxy without a control plane: certificate, key, bundle, policies and peers from files, taken up
//! again whenever they change.
//!
//! Whatever cannot be used is refused with its reason, and the last good state stays.

mod peers;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;

use picket_certs::bundle::BundleError;
use picket_certs::files::{FileError, read_private, read_public};
use picket_certs::svid::SvidError;
use picket_certs::{Svid, TrustBundle};
use picket_policy::{Diagnostics, PolicySet};
use picket_policy_files::Changes;
use picket_settings::ConfigError;

use crate::config::FilesSource;
use crate::identity::{Identity, IdentityError};
use crate::snapshot::Assembler;
use crate::worker::Shared;

/// Why a proxy cannot start, or keeps what it has.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bundle is not one.
    #[error("{} cannot be used", path.display())]
    Bundle {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// Certificate and key make no SVID.
    #[error("{} cannot be used", path.display())]
    Svid {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SvidError,
    },
    /// The certificate is not this workload's.
    #[error("{}: {message}", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The policies are refused.
    #[error("the policies are refused: {0}")]
    Policies(Diagnostics),
    /// The peers are refused.
    #[error("the peers are refused")]
    Peers(#[from] ConfigError),
}

/// The files and what was made of them.
pub(crate) struct Files {
    source: FilesSource,
    shared: Arc<Shared>,
    assembler: Assembler,
    seen: Seen,
}

/// What was read last, so that only what has changed is taken up.
#[derive(Default)]
struct Seen {
    identity: Option<u64>,
    peers: Option<u64>,
    policies: Option<u64>,
}

impl Files {
    /// Reads everything; all of it must be good for a start.
    pub(crate) fn open(
        source: &FilesSource,
        shared: Arc<Shared>,
        assembler: Assembler,
    ) -> Result<Self, FilesError> {
        let seen = Seen::default();
        let mut files = Self { source: source.clone(), shared, assembler, seen };
        files.identity()?;
        files.peers()?;
        files.policies()?;
        Ok(files)
    }

    /// Follows the files until the proxy ends.
    pub(crate) async fn run(mut self) {
        let source = &self.source;
        let single = [&source.certificate, &source.key, &source.bundle];
        let single = single.into_iter().chain(&source.peers).map(PathBuf::as_path);
        let mut changes = Changes::of([&*source.policy_dir], single);
        // What was said of each part last: a file that stays unusable is one mistake, said once.
        let mut said = [const { None }; 3];
        loop {
            changes.next().await;
            let taken_up = [self.identity(), self.peers(), self.policies()];
            for (taken_up, said) in taken_up.into_iter().zip(&mut said) {
                let refused = taken_up.err().map(|error| crate::words(&error));
                if let Some(cause) = &refused
                    && refused != *said
                {
                    self.shared.metrics.configurations_refused.inc();
                    tracing::error!(cause, "a changed file is refused; the last good state stays");
                }
                *said = refused;
            }
        }
    }

    fn identity(&mut self) -> Result<(), FilesError> {
        let source = &self.source;
        let bundle_pem = read_public(&source.bundle)?;
        let chain = read_public(&source.certificate)?;
        let key = read_private(&source.key)?;
        if !changed(&mut self.seen.identity, &(&bundle_pem, &chain, &*key)) {
            return Ok(());
        }
        let trust_domain = self.shared.config.trust_domain.clone();
        let bundle = TrustBundle::from_pem(trust_domain, &bundle_pem)
            .map_err(|error| FilesError::Bundle { path: source.bundle.clone(), source: error })?;
        let svid = Svid::from_pem(&chain, &key).map_err(|error| FilesError::Svid {
            path: source.certificate.clone(),
            source: error,
        })?;
        let identity = Identity::new(&self.shared.config.workload.id, svid, bundle);
        let identity = identity.map_err(|error: IdentityError| FilesError::Identity {
            path: source.certificate.clone(),
            message: crate::words(&error),
        })?;
        let id = identity.id.clone();
        self.assembler.identity(Arc::new(identity)).map_err(|error| FilesError::Identity {
            path: source.certificate.clone(),
            message: crate::words(&error),
        })?;
        tracing::info!(identity = %id, "certificate, key and bundle are in force");
        Ok(())
    }

    fn peers(&mut self) -> Result<(), FilesError> {
        let Some(path) = &self.source.peers else { return Ok(()) };
        let text = read_public(path)?;
        if !changed(&mut self.seen.peers, &text) {
            return Ok(());
        }
        let name = path.to_string_lossy();
        let peers = peers::parse(&String::from_utf8_lossy(&text), &name, &self.shared.config)?;
        self.assembler.peers(peers);
        Ok(())
    }

    fn policies(&mut self) -> Result<(), FilesError> {
        let read = picket_policy_files::read(&self.source.policy_dir);
        let content = match &read {
            Ok(documents) => Ok(documents.iter().map(|d| (&*d.file, &*d.text)).collect::<Vec<_>>()),
            Err(problems) => Err(problems.to_string()),
        };
        if !changed(&mut self.seen.policies, &content) {
            return Ok(());
        }
        let documents = read.map_err(FilesError::Policies)?;
        let set = PolicySet::parse(&documents, self.source.policy.clone());
        let set = set.map_err(FilesError::Policies)?;
        for warning in set.warnings().iter() {
            tracing::warn!("{warning}");
        }
        let generation = set.generation().to_string();
        tracing::info!(generation, files = documents.len(), "policies are in force");
        let rules = set.compile(&crate::control::workload(&self.shared.config));
        self.assembler.policy(generation.into(), rules);
        Ok(())
    }
}

/// Whether something is other than it was when it was last asked for.
fn changed(seen: &mut Option<u64>, now: &impl Hash) -> bool {
    let mut hasher = DefaultHasher::new();
    now.hash(&mut hasher);
    let hash = hasher.finish();
    seen.replace(hash) != Some(hash)
}
