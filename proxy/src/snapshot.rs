//! What is in force: identity, policy, peers and revocations, as one immutable snapshot behind an atomic pointer.
//!
//! A request loads the pointer once and sees one consistent state to its end. Whoever learns of a
//! change makes a whole new snapshot; nothing is ever changed in place.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use picket_certs::tls::TlsConfigError;
use picket_policy::WorkloadPolicy;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::directory::Directory;
use crate::identity::Identity;
use crate::limit::Limits;
use crate::recheck::Seen;
use crate::revocations::Revocations;
use crate::worker::Shared;

/// The state that a request is served under.
pub(crate) struct Snapshot {
    pub(crate) identity: Arc<Identity>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) peers: Arc<Directory>,
    pub(crate) revocations: Arc<Revocations>,
    /// Numbers of the last changes.
    pub(crate) seen: Seen,
}

/// The policies of the workload, and the name of the set that they come from.
pub(crate) struct Policy {
    /// Names the mesh's whole set.
    pub(crate) generation: Arc<str>,
    pub(crate) rules: WorkloadPolicy,
    pub(crate) limits: Limits,
}

/// The snapshot in force. Empty until there is an identity and a policy: until then nothing is
/// served.
#[derive(Default)]
pub(crate) struct Current {
    snapshot: ArcSwapOption<Snapshot>,
    published: Notify,
}

impl Current {
    pub(crate) fn load(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Waits until there is one.
    pub(crate) async fn available(&self) {
        loop {
            let published = self.published.notified();
            if self.snapshot.load().is_some() {
                return;
            }
            published.await;
        }
    }

    /// Waits for the next one, counted from this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.published.notified()
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Some(Arc::new(snapshot)));
        self.published.notify_waiters();
    }
}

/// Gathers the parts as they arrive and publishes a snapshot whenever all are there.
pub(crate) struct Assembler {
    shared: Arc<Shared>,
    identity: Option<Arc<Identity>>,
    policy: Option<Arc<Policy>>,
    peers: Arc<Directory>,
    revocations: Arc<Revocations>,
    seen: Seen,
}

impl Assembler {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (peers, revocations) = (Arc::default(), Arc::default());
        let seen = Seen::default();
        Self { shared, identity: None, policy: None, peers, revocations, seen }
    }

    pub(crate) fn identity(&mut self, identity: Arc<Identity>) -> Result<(), TlsConfigError> {
        let identity = refusing(identity, &self.revocations)?;
        self.shared.metrics.certificate(crate::unix(identity.svid.leaf().not_after));
        self.identity = Some(identity);
        self.publish();
        Ok(())
    }

    /// Certificates that are revoked from now on are refused by new TLS configurations, under which no session that was
    /// begun before can be resumed.
    pub(crate) fn revocations(&mut self, revocations: Revocations) -> Result<(), TlsConfigError> {
        if let Some(identity) = &self.identity {
            self.identity = Some(refusing(Arc::clone(identity), &revocations)?);
        }
        self.shared.metrics.revocations.set(i64::try_from(revocations.len()).unwrap_or(i64::MAX));
        self.revocations = Arc::new(revocations);
        self.seen.inbound += 1;
        self.seen.outbound += 1;
        self.publish();
        Ok(())
    }

    pub(crate) fn policy(&mut self, generation: Arc<str>, rules: WorkloadPolicy) {
        // Keys are on their way before the first token comes.
        self.shared.keys.follow(rules.request_rules());
        self.shared.metrics.policy(&generation);
        let limits = Limits::new(&rules, self.policy.as_deref().map(|earlier| &earlier.limits));
        self.policy = Some(Arc::new(Policy { generation, rules, limits }));
        self.seen.inbound += 1;
        self.publish();
    }

    pub(crate) fn peers(&mut self, peers: Directory) {
        self.peers = Arc::new(peers);
        self.seen.outbound += 1;
        self.publish();
    }

    fn publish(&self) {
        if let (Some(identity), Some(policy)) = (&self.identity, &self.policy) {
            self.shared.current.publish(Snapshot {
                identity: Arc::clone(identity),
                policy: Arc::clone(policy),
                peers: Arc::clone(&self.peers),
                revocations: Arc::clone(&self.revocations),
                seen: self.seen,
            });
        }
    }
}

/// The identity in the form that refuses what is revoked: the same one if it does already.
fn refusing(
    identity: Arc<Identity>,
    revocations: &Revocations,
) -> Result<Arc<Identity>, TlsConfigError> {
    match identity.revoked == *revocations.certificates() {
        true => Ok(identity),
        false => identity.refusing(Arc::clone(revocations.certificates())).map(Arc::new),
    }
}
