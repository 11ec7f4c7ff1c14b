//! Who is in the mesh: the proxies that came, what they announced, and how they are.
//!
//! An instance is one identity at its announced addresses. It is in the peer set from its Hello until
//! its lease has ended after the last contact. All of it is kept in the database, so that a restarted
//! control plane never tells anybody of a mesh that lacks the peers which have not come back yet: for
//! those, leases count from the start.

mod announcement;
mod drift;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use picket_api::v1::{self, Acknowledgement, Heartbeat};
use picket_certs::{Leaf, SpiffeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock;
use crate::store::instances::{self, Row};
use crate::store::{Store, StoreError};

pub(crate) use announcement::{Announcement, Endpoint};
pub(crate) use drift::is_off;

/// How long an instance is shown after its lease has ended.
const SHOWN: Duration = Duration::from_secs(3600);

/// Instances of one identity: more are no workload but a fault, or somebody who fills our memory.
const MAX_INSTANCES: usize = 1_000;

/// Why an announcement is not taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Two identities want one name.
    #[error(
        "the service {service} in namespace {namespace} is announced by {owner}; give this \
         workload's service another name, or wait until the other one's lease has ended"
    )]
    NameTaken { service: String, namespace: String, owner: String },
    /// More instances than any workload has.
    #[error("the workload has {MAX_INSTANCES} instances already")]
    TooMany,
}

impl Refused {
    /// A short stable name, for records.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => "service_name_taken",
            Self::TooMany => "too_many_instances",
        }
    }
}

/// What is known of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Instance {
    spiffe_id: String,
    namespace: String,
    service_account: String,
    service: String,
    labels: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    boot: String,
    version: String,
    generation: String,
    #[serde(default)]
    revocations: u64,
    /// The generation that was refused last, and why.
    refusal: Option<(String, String)>,
    applied_in_us: Option<u64>,
    /// Serial number, and end in seconds since 1970.
    certificate: Option<(String, i64)>,
    renewal_error: String,
    clock_offset_ms: Option<i64>,
    /// Its clock was found to be off, so many heartbeats in a row.
    #[serde(default)]
    clock_strikes: u8,
    audit: Option<Account>,
    last_contact: i64,
    #[serde(default)]
    has_left: bool,
    /// The stream that is open.
    #[serde(skip)]
    session: Option<u64>,
    #[serde(skip)]
    is_dirty: bool,
}

/// A proxy's own account of its audit records.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Account {
    emitted: u64,
    acknowledged: u64,
    pending: u64,
    lost: u64,
    #[serde(default)]
    spool_bytes: u64,
    #[serde(default)]
    spool_limit: u64,
}

/// An open stream of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    key: String,
    number: u64,
}

/// All instances.
pub(crate) struct Registry {
    store: Store,
    lease: Duration,
    started_at: i64,
    instances: DashMap<String, Instance>,
    /// Keys of instances that are still in the database and no longer here.
    forgotten: Mutex<Vec<String>>,
    /// Held while a name is looked for and taken.
    announcing: Mutex<()>,
    sessions: AtomicU64,
    peers: watch::Sender<Arc<v1::PeerSet>>,
}

impl Registry {
    /// Loads the instances that the last process knew.
    pub(crate) async fn open(
        store: Store,
        lease: Duration,
        now: SystemTime,
    ) -> Result<Self, StoreError> {
        let known = DashMap::new();
        for row in store.read(instances::load).await? {
            match serde_json::from_str::<Instance>(&row.state) {
                Ok(instance) => {
                    known.insert(row.key, instance);
                }
                Err(error) => tracing::warn!(key = row.key, %error, "an instance is forgotten"),
            }
        }
        let registry = Self {
            store,
            lease,
            started_at: clock::milliseconds(now),
            instances: known,
            forgotten: Mutex::default(),
            announcing: Mutex::new(()),
            sessions: AtomicU64::new(0),
            peers: watch::channel(Arc::default()).0,
        };
        registry.publish(now);
        Ok(registry)
    }

    /// The services that can be called, now and whenever they change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<v1::PeerSet>> {
        self.peers.subscribe()
    }

    /// Takes up what a workload announces.
    pub(crate) fn announce(
        &self,
        id: &SpiffeId,
        certificate: &Leaf,
        announcement: Announcement,
        now: SystemTime,
    ) -> Result<Session, Refused> {
        let _one_at_a_time = self.announcing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_room(id, &announcement.service, now)?;
        let key = key(id, &announcement);
        self.replace_earlier(id, &key, &announcement);
        let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let before = self.instances.get(&key).map(|entry| entry.value().clone());
        // What only heartbeats tell is carried over, within one boot.
        let before = before.filter(|b| b.boot == announcement.boot);
        let instance = Instance {
            spiffe_id: id.as_str().to_owned(),
            namespace: id.namespace().to_owned(),
            service_account: id.service_account().to_owned(),
            service: announcement.service,
            labels: announcement.labels,
            endpoints: announcement.endpoints,
            boot: announcement.boot,
            version: announcement.version,
            generation: announcement.generation,
            revocations: announcement.revocations,
            refusal: before.as_ref().and_then(|b| b.refusal.clone()),
            applied_in_us: before.as_ref().and_then(|b| b.applied_in_us),
            certificate: Some((certificate.serial.clone(), seconds(certificate.not_after))),
            renewal_error: String::new(),
            clock_offset_ms: before.as_ref().and_then(|b| b.clock_offset_ms),
            clock_strikes: before.as_ref().map_or(0, |b| b.clock_strikes),
            audit: before.as_ref().and_then(|b| b.audit),
            last_contact: clock::milliseconds(now),
            has_left: false,
            session: Some(number),
            is_dirty: true,
        };
        self.instances.insert(key.clone(), instance);
        self.publish(now);
        Ok(Session { key, number })
    }

    /// Takes up how a proxy is.
    /// Tells by how much its clock is off, if that is news, or right again.
    pub(crate) fn heartbeat(
        &self,
        session: &Session,
        heartbeat: Heartbeat,
        now: SystemTime,
    ) -> Option<i64> {
        let mut news = None;
        self.update(session, now, |instance| {
            let sent = heartbeat.time_ms;
            let offset = (sent != 0).then(|| sent.saturating_sub(clock::milliseconds(now)));
            instance.clock_offset_ms = offset;
            news = offset.filter(|offset| drift::is_news(&mut instance.clock_strikes, *offset));
            if !heartbeat.certificate_serial.is_empty() {
                let serial = shortened(heartbeat.certificate_serial);
                instance.certificate = Some((serial, heartbeat.certificate_not_after));
            }
            instance.renewal_error = shortened(heartbeat.renewal_error);
            instance.audit = heartbeat.audit.map(|account| Account {
                emitted: account.emitted,
                acknowledged: account.acknowledged,
                pending: account.pending,
                lost: account.lost,
                spool_bytes: account.spool_bytes,
                spool_limit: account.spool_limit,
            });
        });
        news
    }

    /// Takes up a proxy's answer to policies; true if it is one that was not known yet.
    pub(crate) fn acknowledge(
        &self,
        session: &Session,
        answer: &Acknowledgement,
        now: SystemTime,
    ) -> bool {
        let mut is_news = false;
        self.update(session, now, |instance| {
            if answer.error.is_empty() {
                let generation = shortened(answer.generation.clone());
                is_news = instance.generation != generation;
                instance.generation = generation;
                instance.applied_in_us = Some(answer.applied_in_us);
                instance.refusal = None;
                instance.revocations = answer.revocations;
            } else {
                let refusal =
                    (shortened(answer.generation.clone()), shortened(answer.error.clone()));
                is_news = instance.refusal.as_ref() != Some(&refusal);
                instance.refusal = Some(refusal);
            }
        });
        is_news
    }

    /// The proxy has closed its stream by itself: what is not heard of it from now on is no silence.
    pub(crate) fn leave(&self, session: &Session) {
        if let Some(mut instance) = self.instances.get_mut(&session.key)
            && instance.session == Some(session.number)
        {
            instance.has_left = true;
            instance.is_dirty = true;
        }
    }

    /// Boots that have fallen silent, with their emitter and since when; and those that are heard of.
    pub(crate) fn silence(
        &self,
        now: SystemTime,
    ) -> (Vec<(String, String, SystemTime)>, BTreeSet<String>) {
        let (mut quiet, mut heard) = (Vec::new(), BTreeSet::new());
        for instance in self.instances.iter().filter(|instance| instance.last_contact != 0) {
            if self.is_leased(&instance, now) {
                heard.insert(instance.boot.clone());
            } else if !instance.has_left {
                let since = clock::from_milliseconds(instance.last_contact);
                quiet.push((instance.boot.clone(), instance.spiffe_id.clone(), since));
            }
        }
        (quiet, heard)
    }

    /// The stream has ended; the lease goes on.
    pub(crate) fn disconnect(&self, session: &Session) {
        if let Some(mut instance) = self.instances.get_mut(&session.key)
            && instance.session == Some(session.number)
        {
            instance.session = None;
            instance.is_dirty = true;
        }
    }

    /// Ends leases and forgets what is long gone. To be called often.
    pub(crate) fn sweep(&self, now: SystemTime) {
        self.publish(now);
        let horizon = clock::milliseconds(now) - milliseconds(self.lease + SHOWN);
        let mut forgotten = Vec::new();
        self.instances.retain(|key, instance| {
            let keep = instance.session.is_some() || self.since(instance) > horizon;
            if !keep {
                forgotten.push(key.clone());
            }
            keep
        });
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).extend(forgotten);
    }

    /// Live instances of an identity.
    pub(crate) fn replicas(&self, spiffe_id: &str, now: SystemTime) -> usize {
        let is_one =
            |instance: &Instance| instance.spiffe_id == spiffe_id && self.is_leased(instance, now);
        self.instances.iter().filter(|instance| is_one(instance)).count()
    }

    /// The labels that all live instances of an identity have, by which policies can select them; none if there are none.
    pub(crate) fn labels_of(
        &self,
        spiffe_id: &str,
        now: SystemTime,
    ) -> Option<BTreeMap<String, String>> {
        let is_one =
            |instance: &Instance| instance.spiffe_id == spiffe_id && self.is_leased(instance, now);
        let all = self.instances.iter().filter(|instance| is_one(instance));
        let labels = all.map(|instance| instance.labels.clone()).reduce(|mut common, labels| {
            common.retain(|name, value| labels.get(name) == Some(value));
            common
        });
        labels.filter(|labels| !labels.is_empty())
    }

    /// Writes down what has changed since the last time.
    pub(crate) async fn keep(&self) -> Result<(), StoreError> {
        let forgotten = {
            let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *forgotten)
        };
        let mut rows = Vec::new();
        for mut entry in self.instances.iter_mut().filter(|entry| entry.is_dirty) {
            entry.is_dirty = false;
            let state = serde_json::to_string(entry.value())
                .map_err(|_| StoreError::Unreadable("an instance"))?;
            rows.push(Row { key: entry.key().clone(), last_contact: entry.last_contact, state });
        }
        if rows.is_empty() && forgotten.is_empty() {
            return Ok(());
        }
        let (kept, gone): (Vec<String>, Vec<String>) =
            (rows.iter().map(|row| row.key.clone()).collect(), forgotten.clone());
        let write = self.store.write(move |connection| {
            // First what is forgotten: it may have come back.
            gone.iter().try_for_each(|key| instances::remove(connection, key))?;
            rows.iter().try_for_each(|row| instances::save(connection, row))
        });
        let written = write.await;
        if written.is_err() {
            // Once more the next time.
            for key in kept {
                self.instances.alter(&key, |_, instance| Instance { is_dirty: true, ..instance });
            }
            self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).extend(forgotten);
        }
        written
    }

    /// A name belongs to whoever has it until the lease ends.
    fn check_room(&self, id: &SpiffeId, service: &str, now: SystemTime) -> Result<(), Refused> {
        let mut own = 0;
        for other in self.instances.iter() {
            if other.spiffe_id == id.as_str() {
                own += 1;
            } else if !service.is_empty()
                && other.service == service
                && other.namespace == id.namespace()
                && self.is_leased(&other, now)
            {
                return Err(Refused::NameTaken {
                    service: service.to_owned(),
                    namespace: id.namespace().to_owned(),
                    owner: other.spiffe_id.clone(),
                });
            }
        }
        if own < MAX_INSTANCES { Ok(()) } else { Err(Refused::TooMany) }
    }

    /// A proxy that came back at one of its addresses is the same one, whatever else has changed.
    fn replace_earlier(&self, id: &SpiffeId, key: &str, announcement: &Announcement) {
        let addresses: BTreeSet<_> = announcement.endpoints.iter().map(|e| e.address).collect();
        for mut earlier in self.instances.iter_mut() {
            let is_same = earlier.spiffe_id == id.as_str()
                && earlier.key() != key
                && (earlier.boot == announcement.boot
                    || earlier.endpoints.iter().any(|e| addresses.contains(&e.address)));
            if is_same {
                // The next sweep forgets it.
                earlier.session = None;
                earlier.last_contact = 0;
                earlier.endpoints.clear();
                earlier.is_dirty = true;
            }
        }
    }

    fn update(&self, session: &Session, now: SystemTime, change: impl FnOnce(&mut Instance)) {
        if let Some(mut instance) = self.instances.get_mut(&session.key)
            && instance.session == Some(session.number)
        {
            change(&mut instance);
            instance.last_contact = clock::milliseconds(now);
            instance.is_dirty = true;
        }
    }

    /// From when the lease counts.
    fn since(&self, instance: &Instance) -> i64 {
        match instance.last_contact {
            0 => 0,
            at => at.max(self.started_at),
        }
    }

    fn is_leased(&self, instance: &Instance, now: SystemTime) -> bool {
        clock::milliseconds(now) < self.since(instance) + milliseconds(self.lease)
    }

    /// Tells everybody of the peers, if they have changed.
    fn publish(&self, now: SystemTime) {
        // Collected inside, so that of two at once the later one stands.
        self.peers.send_if_modified(|current| {
            let peers = self.peers(now);
            let is_new = **current != peers;
            if is_new {
                *current = Arc::new(peers);
            }
            is_new
        });
    }

    fn peers(&self, now: SystemTime) -> v1::PeerSet {
        let mut services = BTreeMap::<(String, String, String), BTreeSet<Endpoint>>::new();
        for instance in self.instances.iter() {
            if instance.endpoints.is_empty() || !self.is_leased(&instance, now) {
                continue;
            }
            let name =
                (instance.namespace.clone(), instance.service.clone(), instance.spiffe_id.clone());
            services.entry(name).or_default().extend(instance.endpoints.iter().cloned());
        }
        let peers = services.into_iter().map(|((namespace, service, spiffe_id), endpoints)| {
            let endpoints = endpoints.iter().map(Endpoint::message).collect();
            v1::Peer { spiffe_id, namespace, service, endpoints }
        });
        v1::PeerSet { peers: peers.collect() }
    }
}

fn key(id: &SpiffeId, announcement: &Announcement) -> String {
    if announcement.endpoints.is_empty() {
        return format!("{id} {}", announcement.boot);
    }
    let addresses: BTreeSet<String> =
        announcement.endpoints.iter().map(|e| e.address.to_string()).collect();
    format!("{id} {}", addresses.into_iter().collect::<Vec<_>>().join(","))
}

fn seconds(at: SystemTime) -> i64 {
    clock::milliseconds(at) / 1_000
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Proxies' own words are kept to a length that a status can show.
fn shortened(mut text: String) -> String {
    let end = text.char_indices().nth(1_000).map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
