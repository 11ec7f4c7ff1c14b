//! How often? Counts what is permitted against the workload's RateLimits.
//!
//! Each limit has a token bucket for each value of its key (GCRA, the virtual form of a leaky bucket). The buckets are
//! the one thing on a request's way that workers share under a lock, since a limit of a hundred is no limit of a
//! hundred each; a request that no limit counts does not come near it. What is counted outlives an edit of other
//! policies and is lost with the process.
//!
//! Specification: draft-ietf-httpapi-ratelimit-headers-10 (`RateLimit`, `RateLimit-Policy`), RFC 6585 section 4 (429),
//! RFC 9110 section 10.2.3 (`Retry-After`).

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use hashlink::LruCache;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use picket_policy::{Attributes, Decision, DryRunHit, Limit, Verdict, WorkloadPolicy};

/// Buckets of one limit. Beyond it the one that was unused longest is forgotten: its owner has a full one again, which
/// is what a flood of made-up keys can gain, and the memory that it can take.
const MAX_BUCKETS: usize = 65_536;
const SHARDS: usize = 16;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

type Bucket = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, StateInformationMiddleware>;
type Key = [u8; digest::SHA256_OUTPUT_LEN];

/// The limits of one workload, and what has been counted.
#[derive(Default)]
pub(crate) struct Limits(Vec<Counted>);

struct Counted {
    limit: Arc<Limit>,
    buckets: Arc<Buckets>,
}

struct Buckets {
    quota: Quota,
    clock: MonotonicClock,
    shards: [Mutex<LruCache<Key, Bucket>>; SHARDS],
}

/// How a caller stands to the limit that leaves it least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    limit: NonZeroU32,
    per: Duration,
    left: u32,
    /// Until there is a token if there is none, else until the bucket is full.
    reset: Duration,
}

impl Limits {
    /// Those of a policy; what was counted under an earlier one goes on where it means the same.
    pub(crate) fn new(policy: &WorkloadPolicy, earlier: Option<&Self>) -> Self {
        let counted = policy.limits().iter().map(|limit| {
            let known = earlier
                .and_then(|earlier| earlier.0.iter().find(|known| limit.continues(&known.limit)));
            let buckets = match known {
                Some(known) => Arc::clone(&known.buckets),
                None => Arc::new(Buckets::new(limit.quota())),
            };
            Counted { limit: Arc::clone(limit), buckets }
        });
        Self(counted.collect())
    }

    /// Counts a request that was allowed: the first limit that has nothing left for it turns the decision round, one in
    /// dry run is noted.
    pub(crate) fn count(
        &self,
        attributes: &Attributes<'_>,
        decision: &mut Decision,
    ) -> Option<Standing> {
        let mut least: Option<Standing> = None;
        for Counted { limit, buckets } in &self.0 {
            if !limit.counts(attributes) {
                continue;
            }
            let (has_token, standing) = buckets.take(limit, attributes);
            match (has_token, limit.is_dry_run()) {
                (true, true) => {}
                (false, true) => {
                    let hit = DryRunHit { policy: limit.by(), would: Verdict::Deny };
                    decision.dry_run.push(hit);
                }
                (false, false) => {
                    decision.limit(limit.by());
                    return Some(standing);
                }
                (true, false) => {
                    if least.is_none_or(|least| standing.left < least.left) {
                        least = Some(standing);
                    }
                }
            }
        }
        least
    }
}

impl Buckets {
    fn new(quota: picket_policy::Quota) -> Self {
        // At most a day in at least a nanosecond steps, so there is always such a quota.
        let step = (quota.per / quota.requests.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(step)
            .unwrap_or(Quota::per_second(quota.requests))
            .allow_burst(quota.burst);
        let shards = [(); SHARDS].map(|()| Mutex::new(LruCache::new(MAX_BUCKETS / SHARDS)));
        Self { quota, clock: MonotonicClock, shards }
    }

    /// Takes a token, if there is one; says how the caller stands then.
    fn take(&self, limit: &Limit, attributes: &Attributes<'_>) -> (bool, Standing) {
        let key = key(limit, attributes);
        let shard = key.first().map_or(0, |byte| usize::from(*byte) % SHARDS);
        let standing = |left, reset| {
            let quota = limit.quota();
            Standing { limit: quota.requests, per: quota.per, left, reset }
        };
        let Some(shard) = self.shards.get(shard) else {
            return (false, standing(0, Duration::ZERO));
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = shard.entry(key).or_insert_with(|| {
            RateLimiter::direct_with_clock(self.quota, self.clock.clone())
                .with_middleware::<StateInformationMiddleware>()
        });
        match bucket.check() {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                let missing = self.quota.burst_size().get().saturating_sub(left);
                (true, standing(left, self.quota.replenish_interval().saturating_mul(missing)))
            }
            Err(not_yet) => (false, standing(0, not_yet.wait_time_from(self.clock.now()))),
        }
    }
}

/// As long as a digest, however long a header a client sends; strong, so that nobody finds his way into the bucket of
/// somebody else.
fn key(limit: &Limit, attributes: &Attributes<'_>) -> Key {
    let mut context = digest::Context::new(&digest::SHA256);
    limit.key(attributes, |bytes| context.update(bytes));
    context.finish().as_ref().try_into().unwrap_or_default()
}

impl Standing {
    /// Tells the caller, beside what the service may say of its own limits.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let Self { limit, per, left, .. } = self;
        let fields = [
            (RATE_LIMIT_POLICY, format!("\"default\";q={limit};w={}", per.as_secs().max(1))),
            (RATE_LIMIT, format!("\"default\";r={left};t={}", self.seconds())),
        ];
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(name, value);
            }
        }
    }

    /// Tells the caller that it was too often, and when to come again.
    pub(crate) fn write_refusal(self, headers: &mut HeaderMap) {
        self.write(headers);
        headers.insert(RETRY_AFTER, HeaderValue::from(self.seconds().max(1)));
    }

    /// Never earlier than it is true.
    fn seconds(self) -> u64 {
        self.reset.as_secs() + u64::from(self.reset.subsec_nanos() > 0)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use picket_policy::{Document, Http, PolicySet, Settings, Workload};

    use super::*;

    fn limits(spec: &str, earlier: Option<&Limits>) -> Limits {
        let yaml = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: l, namespace: shop}}\n\
             spec: {{limits: [{spec}]}}\n"
        );
        let set = PolicySet::parse(&[Document::whole("l.yaml", yaml)], Settings::default());
        let workload =
            Workload { namespace: "shop".into(), name: "web".into(), ..Workload::default() };
        Limits::new(&set.unwrap().compile(&workload), earlier)
    }

    /// Whether a request with this key would be let pass.
    fn ask(limits: &Limits, key: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("x-key", HeaderValue::from_str(key).unwrap());
        let http =
            Http { method: &Method::GET, path: "/", host: None, headers: &headers, token: None };
        let attributes = Attributes { http: Some(http), ..Attributes::default() };
        let set = PolicySet::parse(&[], Settings::default()).unwrap();
        let mut decision = set.compile(&Workload::default()).decide(&attributes);
        decision.verdict = Verdict::Allow;
        limits.count(&attributes, &mut decision);
        decision.is_allowed()
    }

    const TWO_AN_HOUR: &str = "{requests: 2, per: 1h, key: ['request.headers[x-key]']}";

    #[test]
    fn a_bucket_is_one_caller_s_and_survives_other_edits() {
        let first = limits(TWO_AN_HOUR, None);
        assert_eq!(["a", "a", "a"].map(|key| ask(&first, key)), [true, true, false]);
        assert!(ask(&first, "b"), "another caller's bucket is full");
        let same = limits(TWO_AN_HOUR, Some(&first));
        assert!(!ask(&same, "a"), "an edit elsewhere gave a full bucket");
        let more = limits(&TWO_AN_HOUR.replace('2', "3"), Some(&first));
        assert!(ask(&more, "a"), "another limit begins anew");
    }

    #[test]
    fn a_flood_of_keys_takes_bounded_memory() {
        let limits = limits(TWO_AN_HOUR, None);
        for number in 0..2 * MAX_BUCKETS {
            assert!(ask(&limits, &number.to_string()));
        }
        let kept: usize = limits.0[0].buckets.shards.iter().map(|s| s.lock().unwrap().len()).sum();
        // A full shard takes one more before it drops one.
        let most = MAX_BUCKETS + SHARDS;
        assert!((MAX_BUCKETS / 2..=most).contains(&kept), "{kept} buckets are kept");
    }

    #[test]
    fn tokens_come_back_with_time() {
        let limits = limits("{requests: 50, per: 1s, burst: 1}", None);
        assert_eq!([ask(&limits, "a"), ask(&limits, "a")], [true, false]);
        std::thread::sleep(Duration::from_millis(25));
        assert!(ask(&limits, "a"));
    }

    #[test]
    fn a_caller_is_told_in_whole_seconds_and_never_too_early() {
        let standing = Standing {
            limit: NonZeroU32::new(100).unwrap(),
            per: Duration::from_secs(60),
            left: 0,
            reset: Duration::from_millis(1001),
        };
        let mut headers = HeaderMap::new();
        standing.write_refusal(&mut headers);
        let shown = |name: &str| headers[name].to_str().unwrap();
        assert_eq!(shown("ratelimit-policy"), "\"default\";q=100;w=60");
        assert_eq!(shown("ratelimit"), "\"default\";r=0;t=2");
        assert_eq!(shown("retry-after"), "2");
    }
}
