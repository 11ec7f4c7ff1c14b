//! Tokens that have been verified: the next request with the same one costs a hash in place of a signature.
//!
//! For one thread; no clock, no lock. An entry is found by the SHA-256 of the whole token and the place where it was
//! found, and only while the very rules that accepted it are in force; its times, and whether its issuer's keys are
//! still those that verified it, are looked at on each hit. What depends on the connection or on an operator's word
//! (binding, revocation) is not cached. Nor are refusals: whoever sends bad tokens pays for them with every one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::verify::check_times;
use super::{KeyProvider, RequestRules, Token, TokenError, VerifiedToken};

/// Most tokens of one cache.
const MAX_TOKENS: usize = 1_024;
/// Most bytes of one cache, roughly.
const MAX_BYTES: usize = 4 << 20;

/// Verified tokens of one thread.
#[derive(Default)]
pub struct TokenCache {
    /// The rules that accepted them.
    rules: u64,
    tokens: HashMap<Key, Entry>,
    /// In the order in which they are looked at when room is needed.
    order: VecDeque<Key>,
    bytes: usize,
    hits: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    token: [u8; 32],
    location: usize,
}

struct Entry {
    token: Arc<VerifiedToken>,
    bytes: usize,
    /// Since it was last looked at.
    used: bool,
}

impl TokenCache {
    /// As [`RequestRules::verify`], from memory where that comes to the same.
    ///
    /// # Errors
    /// Those of [`RequestRules::verify`].
    pub fn verify(
        &mut self,
        rules: &RequestRules,
        token: &Token<'_>,
        keys: &dyn KeyProvider,
        now: u64,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        if self.rules != rules.serial {
            self.clear();
            self.rules = rules.serial;
        }
        let key = Key { token: sha256(token.secret()), location: token.location_index() };
        if let Some(entry) = self.tokens.get_mut(&key)
            && entry.token.holds(keys, now)
        {
            entry.used = true;
            self.hits += 1;
            return Ok(Arc::clone(&entry.token));
        }
        let verified = Arc::new(rules.verify(token, keys, now)?);
        // As JSON values the claims take some three times the bytes of the token.
        let bytes = size_of::<VerifiedToken>() + 4 * token.secret().len();
        self.insert(key, Entry { token: Arc::clone(&verified), bytes, used: false });
        Ok(verified)
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How often a token was found.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.order.clear();
        self.bytes = 0;
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.bytes += entry.bytes;
        match self.tokens.insert(key, entry) {
            Some(before) => self.bytes = self.bytes.saturating_sub(before.bytes),
            None => self.order.push_back(key),
        }
        // Second chance: what was used since it was last looked at goes to the end, what was not goes.
        while self.tokens.len() > MAX_TOKENS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            match self.tokens.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    let removed = self.tokens.remove(&oldest);
                    self.bytes = self.bytes.saturating_sub(removed.map_or(0, |entry| entry.bytes));
                }
            }
        }
    }
}

impl VerifiedToken {
    /// Whether verifying the token anew, by the same rules, would come to the same.
    fn holds(&self, keys: &dyn KeyProvider, now: u64) -> bool {
        let in_time = check_times(self.expires_at, self.not_before, now).is_ok();
        in_time
            && self.verified_by.as_ref().is_none_or(|by| {
                keys.keys(&by.source).is_ok_and(|current| Arc::ptr_eq(&current, &by.keys))
            })
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("tokens", &self.tokens.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
