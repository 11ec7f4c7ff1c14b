//! What is in force: identity, policy, peers and revocations, as one immutable snapshot behind an atomic pointer.
//!
//! A request loads the pointer once and sees one consistent state to its end. Whoever learns of a
//! change makes a whole new snapshot; nothing is ever changed in place.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use picket_certs::tls::TlsConfigError;
use picket_policy::WorkloadPolicy;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::directory::Directory;
use crate::identity::Identity;
use crate::limit::Limits;
use crate::recheck::Seen;
use crate::revocations::Revocations;
use crate::subjects::Subjects;
use crate::worker::Shared;

/// The state that a request is served under.
pub(crate) struct Snapshot {
    pub(crate) identity: Arc<Identity>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) peers: Arc<Directory>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) subjects: Arc<Subjects>,
    /// Numbers of the last changes.
    pub(crate) seen: Seen,
}

/// The policies of the workload, and the name of the set that they come from.
pub(crate) struct Policy {
    /// Names the mesh's whole set.
    pub(crate) generation: Arc<str>,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
}

/// The rules of a policy.
///
/// They are freed by the [`Assembler`], not by the worker whose request or connection holds them last: with ten thousand
/// rules that takes milliseconds, in which nothing else on that worker would move.
pub(crate) struct Rules {
    /// Taken only by `drop`.
    rules: Option<WorkloadPolicy>,
    over: UnboundedSender<WorkloadPolicy>,
}

impl Deref for Rules {
    type Target = WorkloadPolicy;

    fn deref(&self) -> &WorkloadPolicy {
        self.rules.as_ref().expect("rules are there until they are dropped")
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        if let Some(rules) = self.rules.take() {
            // At the end of the process nobody takes them any more, and nobody waits.
            drop(self.over.send(rules));
        }
    }
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
    subjects: Arc<Subjects>,
    seen: Seen,
    over: UnboundedSender<WorkloadPolicy>,
}

impl Assembler {
    /// To be called on the runtime that is to free what has been replaced.
    pub(crate) fn new(shared: Arc<Shared>, subjects: Subjects) -> Self {
        let (peers, revocations, subjects) = (Arc::default(), Arc::default(), Arc::new(subjects));
        let (identity, policy, seen, over) = (None, None, Seen::default(), freeing());
        Self { shared, identity, policy, peers, revocations, subjects, seen, over }
    }

    /// From now on subjects are recorded so.
    pub(crate) fn subjects(&mut self, subjects: Subjects) {
        self.subjects = Arc::new(subjects);
        self.publish();
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
        let rules = Rules { rules: Some(rules), over: self.over.clone() };
        self.policy = Some(Arc::new(Policy { generation, rules, limits }));
        self.seen.policy += 1;
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
                subjects: Arc::clone(&self.subjects),
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

/// Frees on this runtime what is sent.
fn freeing() -> UnboundedSender<WorkloadPolicy> {
    let (over, mut sent) = mpsc::unbounded_channel();
    tokio::spawn(async move { while sent.recv().await.is_some() {} });
    over
}

#[cfg(test)]
mod tests {
    use std::thread;

    use picket_policy::{Document, PolicySet, Settings, Workload};

    use super::*;

    #[tokio::test]
    async fn the_last_to_hold_a_policy_does_not_have_to_free_it() {
        let yaml = "apiVersion: picket.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: l}\n\
                    spec: {limits: [{requests: 1, per: 1s}]}\n";
        let set = PolicySet::parse(&[Document::whole("l.yaml", yaml)], Settings::default());
        let rules = set
            .unwrap()
            .compile(&Workload { namespace: "default".to_owned(), ..Workload::default() });
        let part = Arc::downgrade(&rules.limits()[0]);
        let rules = Rules { rules: Some(rules), over: freeing() };
        let policy = Policy { generation: "g".into(), rules, limits: Limits::default() };

        // This runtime cannot run as long as the thread is waited for.
        thread::spawn(move || drop(policy)).join().unwrap();
        assert!(part.upgrade().is_some(), "freed by the thread that held it last");
        while part.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
