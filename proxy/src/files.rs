//! A proxy without a control plane: certificate, key, bundle, policies and peers from files, taken up
//! again whenever they change.
//!
//! Whatever cannot be used is refused with its reason, and the last good state stays. Changes are
//! seen by the kernel's notification, and every few seconds by content, because a notification can be
//! missed (Kubernetes swaps symbolic links, network file systems say nothing).

mod directory;
mod peers;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use picket_certs::bundle::BundleError;
use picket_certs::files::{FileError, read_private, read_public};
use picket_certs::svid::SvidError;
use picket_certs::{Svid, TrustBundle};
use picket_policy::{Diagnostics, PolicySet};
use picket_settings::ConfigError;
use tokio::sync::mpsc;

use crate::config::{Config, FilesSource};
use crate::identity::{Identity, IdentityError};
use crate::snapshot::{Assembler, Policy};

/// How often files are looked at although nothing was notified.
const POLL: Duration = Duration::from_secs(2);
/// Files that change together are taken up together.
const SETTLE: Duration = Duration::from_millis(50);

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
    config: Arc<Config>,
    assembler: Assembler,
    seen: [u64; 3],
}

impl Files {
    /// Reads everything; all of it must be good for a start.
    pub(crate) fn open(
        source: &FilesSource,
        config: Arc<Config>,
        assembler: Assembler,
    ) -> Result<Self, FilesError> {
        let mut files = Self { source: source.clone(), config, assembler, seen: [0; 3] };
        files.identity()?;
        files.peers()?;
        files.policies()?;
        Ok(files)
    }

    /// Follows the files until the proxy ends.
    pub(crate) async fn run(mut self) {
        let (changed, mut changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_| {
            // A full queue means that somebody will look anyway.
            let _full = changed.try_send(());
        });
        let mut watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "files are only looked at every 2 s"))
            .ok();
        for directory in self.directories() {
            let Some(watcher) = &mut watcher else { break };
            if let Err(error) = watcher.watch(&directory, RecursiveMode::Recursive) {
                tracing::warn!(%error, "changes are only seen every 2 s");
            }
        }
        loop {
            tokio::select! {
                Some(()) = changes.recv() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(POLL) => {}
            }
            while changes.try_recv().is_ok() {}
            for taken_up in [self.identity(), self.peers(), self.policies()] {
                if let Err(error) = taken_up {
                    let cause = crate::words(&error);
                    tracing::error!(cause, "a changed file is refused; the last good state stays");
                }
            }
        }
    }

    /// Kubernetes replaces links in the directory, so that is what has to be watched.
    fn directories(&self) -> Vec<PathBuf> {
        let source = &self.source;
        let files = [Some(&source.certificate), Some(&source.key), Some(&source.bundle)];
        let parent = |path: &PathBuf| path.parent().unwrap_or(Path::new("")).to_owned();
        let mut found: Vec<PathBuf> =
            files.into_iter().chain([source.peers.as_ref()]).flatten().map(parent).collect();
        found.push(source.policy_dir.clone());
        for directory in &mut found {
            if directory.as_os_str().is_empty() {
                *directory = PathBuf::from(".");
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn identity(&mut self) -> Result<(), FilesError> {
        let source = &self.source;
        let bundle_pem = read_public(&source.bundle)?;
        let chain = read_public(&source.certificate)?;
        let key = read_private(&source.key)?;
        if !changed(&mut self.seen[0], &(&bundle_pem, &chain, &*key)) {
            return Ok(());
        }
        let trust_domain = self.config.trust_domain.clone();
        let bundle = TrustBundle::from_pem(trust_domain, &bundle_pem).map_err(|error| {
            FilesError::Bundle { path: source.bundle.clone(), source: error }
        })?;
        let svid = Svid::from_pem(&chain, &key).map_err(|error| FilesError::Svid {
            path: source.certificate.clone(),
            source: error,
        })?;
        let identity = Identity::new(&self.config.workload.id, svid, bundle);
        let identity = identity.map_err(|error: IdentityError| FilesError::Identity {
            path: source.certificate.clone(),
            message: crate::words(&error),
        })?;
        tracing::info!(identity = %identity.id, "certificate, key and bundle are in force");
        self.assembler.identity(Arc::new(identity));
        Ok(())
    }

    fn peers(&mut self) -> Result<(), FilesError> {
        let Some(path) = &self.source.peers else { return Ok(()) };
        let text = read_public(path)?;
        if !changed(&mut self.seen[1], &text) {
            return Ok(());
        }
        let name = path.to_string_lossy();
        let peers = peers::parse(&String::from_utf8_lossy(&text), &name, &self.config)?;
        self.assembler.peers(peers);
        Ok(())
    }

    fn policies(&mut self) -> Result<(), FilesError> {
        let documents = directory::read(&self.source.policy_dir)?;
        let content: Vec<(&str, &str)> =
            documents.iter().map(|document| (&*document.file, &*document.text)).collect();
        if !changed(&mut self.seen[2], &content) {
            return Ok(());
        }
        let set = PolicySet::parse(&documents, self.source.policy.clone());
        let set = set.map_err(FilesError::Policies)?;
        for warning in set.warnings().iter() {
            tracing::warn!("{warning}");
        }
        let generation = set.generation().to_string();
        tracing::info!(generation, files = documents.len(), "policies are in force");
        let rules = set.compile(&crate::control::workload(&self.config));
        self.assembler.policy(Policy { generation: generation.into(), rules });
        Ok(())
    }
}

/// Whether something is other than it was when it was last asked for.
fn changed(seen: &mut u64, now: &impl std::hash::Hash) -> bool {
    let mut hasher = DefaultHasher::new();
    now.hash(&mut hasher);
    // Zero is for "never seen".
    let hash = hasher.finish() | 1;
    std::mem::replace(seen, hash) != hash
}
