//! The key sets of token issuers: fetched over HTTP(S), refreshed, and kept when fetching fails.
//!
//! Each source has its own task and state, so that one issuer's trouble is never another's. A worker
//! reads keys without a lock; an unknown key makes it ask for a refresh, which all who wait share and
//! which happens at most once in [`COOLDOWN`].
//!
//! Specifications: RFC 7517 (JWKS), OpenID Connect Discovery 1.0 section 4.

mod fetch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use picket_policy::jwt::{KeyProvider, KeySet, KeysUnavailable, RemoteKeys, RequestRules};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use fetch::Fetcher;

/// How often keys are fetched although nothing asks for them.
const REFRESH: Duration = Duration::from_secs(300);
/// After a failure, the first pause before the next attempt; it doubles up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(1);
/// A token with an unknown key asks for a fetch at most this often.
const COOLDOWN: Duration = Duration::from_secs(10);

/// All sources that the policies in force name.
pub(crate) struct KeyStore {
    sources: ArcSwap<HashMap<RemoteKeys, Arc<Source>>>,
    fetcher: Fetcher,
    runtime: Handle,
    /// How long keys are believed after the last time they could be fetched.
    max_stale: Duration,
}

struct Source {
    keys: RemoteKeys,
    timeout: Duration,
    current: ArcSwapOption<Fetched>,
    /// When fetching was last tried; holding the lock is having the flight.
    tried: Mutex<Option<Instant>>,
    /// Whether an attempt has ended, well or not.
    settled: AtomicBool,
    task: AbortHandle,
}

struct Fetched {
    keys: Arc<KeySet>,
    at: Instant,
}

impl KeyStore {
    /// `runtime` is where fetching happens: never a worker.
    pub(crate) fn new(fetcher: Fetcher, runtime: Handle, max_stale: Duration) -> Self {
        Self { sources: ArcSwap::default(), fetcher, runtime, max_stale }
    }

    /// Follows the sources that a workload's rules name, and forgets others.
    pub(crate) fn follow(&self, rules: &RequestRules) {
        let before = self.sources.load_full();
        let mut after = HashMap::new();
        for (keys, timeout) in rules.remote_keys() {
            let source = match before.get(keys) {
                Some(known) if known.timeout == timeout => Arc::clone(known),
                _ => self.start(keys.clone(), timeout),
            };
            after.insert(keys.clone(), source);
        }
        for (keys, source) in before.iter() {
            if !after.get(keys).is_some_and(|kept| Arc::ptr_eq(kept, source)) {
                source.task.abort();
            }
        }
        self.sources.store(Arc::new(after));
    }

    fn start(&self, keys: RemoteKeys, timeout: Duration) -> Arc<Source> {
        Arc::new_cyclic(|weak: &std::sync::Weak<Source>| {
            let (weak, fetcher) = (weak.clone(), self.fetcher.clone());
            let task = self.runtime.spawn(async move {
                let mut pause = RETRY;
                // Until the source is forgotten.
                while let Some(source) = weak.upgrade() {
                    let fetched = source.fetch(&fetcher, Duration::ZERO).await;
                    drop(source);
                    pause = if fetched { REFRESH } else { (pause * 2).min(REFRESH) };
                    let jitter = pause.mul_f64(fastrand::f64() * 0.2);
                    tokio::time::sleep(pause.saturating_sub(jitter)).await;
                }
            });
            let task = task.abort_handle();
            let (current, tried) = (ArcSwapOption::empty(), Mutex::new(None));
            Source { keys, timeout, current, tried, settled: AtomicBool::new(false), task }
        })
    }

    /// Fetches a source's keys now, unless that was done just before. Says whether the keys are newer
    /// than they were. The first fetch of all is waited for; if that failed, whoever has no keys is
    /// refused at once, and the next attempt goes on without him.
    pub(crate) async fn refresh(&self, keys: &RemoteKeys) -> bool {
        let Some(source) = self.sources.load().get(keys).cloned() else { return false };
        let before = source.current.load_full();
        let fetcher = self.fetcher.clone();
        let flying = Arc::clone(&source);
        // On the other runtime, so that it ends even if the waiting request goes away.
        let settled = source.settled.load(Ordering::Relaxed);
        let fetch = self.runtime.spawn(async move { flying.fetch(&fetcher, COOLDOWN).await });
        if before.is_none() && settled {
            return false;
        }
        if let Err(error) = fetch.await {
            tracing::error!(%error, "fetching keys ended unexpectedly");
        }
        match (before, source.current.load_full()) {
            (Some(before), Some(after)) => !Arc::ptr_eq(&before, &after),
            (None, after) => after.is_some(),
            (Some(_), None) => false,
        }
    }
}

impl Drop for KeyStore {
    fn drop(&mut self) {
        for source in self.sources.load().values() {
            source.task.abort();
        }
    }
}

impl KeyProvider for KeyStore {
    fn keys(&self, keys: &RemoteKeys) -> Result<Arc<KeySet>, KeysUnavailable> {
        let sources = self.sources.load();
        let current = sources.get(keys).ok_or(KeysUnavailable)?.current.load();
        match &*current {
            Some(fetched) if fetched.at.elapsed() < self.max_stale => Ok(Arc::clone(&fetched.keys)),
            _ => Err(KeysUnavailable),
        }
    }
}

impl Source {
    /// Fetches, unless that was tried within `cooldown`. Says whether keys are there.
    async fn fetch(&self, fetcher: &Fetcher, cooldown: Duration) -> bool {
        let mut tried = self.tried.lock().await;
        if tried.is_some_and(|at| at.elapsed() < cooldown) {
            return self.current.load().is_some();
        }
        *tried = Some(Instant::now());
        let fetched = fetcher.fetch(&self.keys, self.timeout).await;
        self.settled.store(true, Ordering::Relaxed);
        match fetched {
            Ok(keys) => {
                let fetched = Fetched { keys: Arc::new(keys), at: Instant::now() };
                self.current.store(Some(Arc::new(fetched)));
                true
            }
            Err(error) => {
                let url = self.keys.url();
                let cause = crate::words(&error);
                let kept = self.current.load().is_some();
                tracing::warn!(url, cause, kept, "an issuer's keys could not be fetched");
                false
            }
        }
    }
}
