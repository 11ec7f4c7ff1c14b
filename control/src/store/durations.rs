//! A histogram of durations that can be added up: sixteen buckets for each doubling.
//!
//! A quantile is wrong by at most one thirty-second of itself. Kept as (bucket, count) pairs, the bucket as its
//! distance to the one before, both as varints: a few bytes for a few records.

use std::collections::BTreeMap;

/// Buckets for each doubling, and the values below which every microsecond has its own.
const PER_DOUBLING: u64 = 16;

/// How many durations there were of each length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    buckets: BTreeMap<u16, u64>,
}

impl Durations {
    /// One more, in microseconds; less than nothing counts as nothing.
    pub(crate) fn add(&mut self, microseconds: i64) {
        let value = u64::try_from(microseconds).unwrap_or(0);
        *self.buckets.entry(bucket(value)).or_default() += 1;
    }

    /// All of another one.
    pub(crate) fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        let mut at = 0_u64;
        while !rest.is_empty() {
            at = at.saturating_add(varint(&mut rest)?);
            let count = varint(&mut rest)?;
            let sum = self.buckets.entry(u16::try_from(at).ok()?).or_default();
            *sum = sum.saturating_add(count);
        }
        Some(())
    }

    /// As it is kept.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.buckets.len() * 3);
        let mut before = 0;
        for (bucket, count) in &self.buckets {
            put(&mut out, u64::from(bucket - before));
            put(&mut out, *count);
            before = *bucket;
        }
        out
    }

    /// The duration below which a share (0 to 1) of all lies, in microseconds; none of nothing.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let total: u64 = self.buckets.values().sum();
        let rank = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                return Some(middle(*bucket));
            }
        }
        None
    }
}

fn bucket(value: u64) -> u16 {
    if value < PER_DOUBLING {
        return value as u16;
    }
    let doublings = value.ilog2() - PER_DOUBLING.ilog2();
    // The first bits after the leading one.
    let within = (value >> doublings) - PER_DOUBLING;
    (u64::from(doublings + 1) * PER_DOUBLING + within) as u16
}

fn middle(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < PER_DOUBLING {
        return bucket;
    }
    let doublings = bucket / PER_DOUBLING - 1;
    let low = u128::from(PER_DOUBLING + bucket % PER_DOUBLING) << doublings;
    u64::try_from(low + ((1_u128 << doublings) - 1) / 2).unwrap_or(u64::MAX)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_thirty_second() {
        for scale in [1_i64, 7, 1_000, 123_457, 60_000_000] {
            let mut durations = Durations::default();
            (1..=1000).for_each(|n| durations.add(n * scale));
            for (share, exact) in [(0.5, 500 * scale), (0.95, 950 * scale), (1.0, 1000 * scale)] {
                let found = durations.quantile(share).unwrap() as f64;
                let error = (found / exact as f64 - 1.0).abs();
                assert!(error <= 1.0 / 32.0, "{share} of {scale}: {found}, not {exact}");
            }
        }
        assert_eq!(Durations::default().quantile(0.5), None);
    }

    #[test]
    fn what_is_kept_adds_up_to_the_same() {
        let values = [0, 1, 15, 16, 17, 31, 32, 1500, 1501, 90_000_000, i64::MAX, -5];
        let (mut whole, mut added) = (Durations::default(), Durations::default());
        for value in values {
            whole.add(value);
            let mut one = Durations::default();
            one.add(value);
            added.merge(&one.encode()).unwrap();
        }
        assert_eq!(added, whole);
        let mut again = Durations::default();
        again.merge(&whole.encode()).unwrap();
        assert_eq!(again, whole);
        for bucket in whole.buckets.keys() {
            assert_eq!(super::bucket(middle(*bucket)), *bucket);
        }
        assert!(Durations::default().merge(&[1]).is_none());
        assert!(Durations::default().merge(&[0xff; 12]).is_none());
    }
}
