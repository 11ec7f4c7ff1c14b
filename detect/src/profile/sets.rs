//! What has been seen: items of a kind, and how likely the next one is to be new.
//!
//! An item counts once for each hour in which it was seen, so that a thousand calls of one run are one sighting. The
//! probability that a sighting is of an unseen item is estimated after Good and Turing: items that were seen in one hour
//! only, by all sightings (I. J. Good, "The population frequencies of species", Biometrika 40, 1953).

use hashlink::LinkedHashMap;
use serde::{Deserialize, Serialize};

/// Items of one set; of more nothing can be said.
pub(super) const MAX_ITEMS: usize = 512;

/// Largest probability that the next sighting is of an unseen item at which new ones are told.
const MAX_UNSEEN: f64 = 1.0 / 60.0;

/// Hours after which an item that was not seen is forgotten.
const FORGOTTEN: u32 = 60 * 24;

/// Sightings in so many hours of so many days, and an item that was new is one of the set.
const ADOPTED_DAYS: u32 = 7;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Item {
    /// Hours since 1970.
    last: u32,
    hours: u32,
    first: u32,
    /// It was new when the set was ready, and somebody was told.
    pending: bool,
}

/// A set of items.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub(super) struct Items {
    items: LinkedHashMap<String, Item>,
    sightings: u64,
    singles: u64,
    /// Hour of the first sighting.
    begun: Option<u32>,
    /// Sightings for which there was no room.
    overflow: u64,
}

/// As it is written down.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    items: Vec<(String, Item)>,
    sightings: u64,
    singles: u64,
    begun: Option<u32>,
    overflow: u64,
}

impl From<Kept> for Items {
    fn from(kept: Kept) -> Self {
        let Kept { items, sightings, singles, begun, overflow } = kept;
        Self { items: items.into_iter().collect(), sightings, singles, begun, overflow }
    }
}

impl From<Items> for Kept {
    fn from(set: Items) -> Self {
        let Items { items, sightings, singles, begun, overflow } = set;
        Self { items: items.into_iter().collect(), sightings, singles, begun, overflow }
    }
}

/// What an item is to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// One of it.
    Known,
    /// New, and the set is still learning.
    Learnt,
    /// New to a set that is ready.
    New,
    /// There is no room for it.
    Full,
}

/// How far a set has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Readiness {
    /// New items are told.
    pub ready: bool,
    /// Probability that the next sighting is of an item that was never seen.
    pub unseen: f64,
    /// That many new items are expected in a week.
    pub expected_per_week: f64,
    /// Hours since the first sighting.
    pub hours: u32,
}

impl Items {
    /// Whether it was told ready at this hour: a day has passed, and no more new items are to be expected than are allowed.
    pub(super) fn readiness(&self, hour: u32, allowed_per_week: f64) -> Readiness {
        let hours = self.begun.map_or(0, |begun| hour.saturating_sub(begun));
        // One more than there are: after few sightings that none was single says little.
        let unseen = (self.singles + 1) as f64 / (self.sightings + 1) as f64;
        let expected_per_week = self.singles as f64 * 168.0 / f64::from(hours.max(1));
        let is_known = unseen <= MAX_UNSEEN && expected_per_week <= allowed_per_week;
        let ready = hours >= 24 && self.overflow == 0 && is_known;
        Readiness { ready, unseen, expected_per_week, hours }
    }

    /// Takes a sighting. What is new to a set that is ready does not become one of it, unless it stays for a week.
    pub(super) fn see(&mut self, name: &str, hour: u32, allowed_per_week: f64) -> Seen {
        if let Some(item) = self.items.get_mut(name) {
            let is_new_hour = hour > item.last;
            if is_new_hour {
                (item.last, item.hours) = (hour, item.hours + 1);
            }
            if item.pending {
                if hour.saturating_sub(item.first) < 24 * ADOPTED_DAYS || item.hours < ADOPTED_DAYS
                {
                    return Seen::New;
                }
                // It stays: from now on it is one of the set.
                item.pending = false;
                self.sightings += u64::from(item.hours);
                return Seen::Known;
            }
            if is_new_hour {
                self.sightings += 1;
                self.singles -= u64::from(item.hours == 2 && self.singles > 0);
            }
            return Seen::Known;
        }
        self.make_room(hour);
        if self.items.len() >= MAX_ITEMS {
            self.overflow += 1;
            return Seen::Full;
        }
        let pending = self.readiness(hour, allowed_per_week).ready;
        let item = Item { last: hour, hours: 1, first: hour, pending };
        self.items.insert(name.to_owned(), item);
        if pending {
            return Seen::New;
        }
        self.begun.get_or_insert(hour);
        self.sightings += 1;
        self.singles += 1;
        Seen::Learnt
    }

    /// Takes an item as one of it, whatever it was.
    pub(super) fn learn(&mut self, name: &str, hour: u32) {
        if let Some(item) = self.items.get_mut(name)
            && item.pending
        {
            item.pending = false;
            self.sightings += u64::from(item.hours);
        } else {
            self.see(name, hour, -1.0);
        }
    }

    fn make_room(&mut self, hour: u32) {
        if self.items.len() < MAX_ITEMS {
            return;
        }
        let (singles, sightings) = (&mut self.singles, &mut self.sightings);
        self.items.retain(|_, item| {
            let stays = hour.saturating_sub(item.last) < FORGOTTEN;
            if !stays && !item.pending {
                *sightings = sightings.saturating_sub(item.hours.into());
                *singles = singles.saturating_sub((item.hours == 1).into());
            }
            stays
        });
    }

    /// The items, and in how many hours each was seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32, bool)> {
        self.items.iter().map(|(name, item)| (name.as_str(), item.hours, item.pending))
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.items.get(name).is_some_and(|item| !item.pending)
    }

    pub(super) fn len(&self) -> usize {
        self.items.values().filter(|item| !item.pending).count()
    }

    /// Sightings that found no room.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_ready_after_a_day_in_which_little_is_new() {
        let mut set = Items::default();
        for hour in 0..36 {
            for item in ["a", "b", "c"] {
                assert_ne!(set.see(item, hour, 1.0), Seen::New, "hour {hour}");
            }
            assert!(hour >= 24 || !set.readiness(hour, 1.0).ready, "not before a day has passed");
        }
        assert_eq!(set.see("d", 37, 1.0), Seen::New);
        assert_eq!(set.see("d", 37, 1.0), Seen::New, "it does not train");
        assert!(!set.knows("d") && set.knows("a"));
    }

    #[test]
    fn a_set_in_which_much_is_new_is_never_ready() {
        let mut set = Items::default();
        for hour in 0..200 {
            assert_ne!(set.see(&format!("user-{hour}"), hour, 1.0), Seen::New);
        }
        assert!(set.readiness(200, 1.0).unseen > 0.99);
    }

    #[test]
    fn a_flood_is_bounded_and_said() {
        let mut set = Items::default();
        for item in 0..10_000 {
            set.see(&format!("user-{item}"), 1, 1.0);
        }
        assert_eq!(set.len(), MAX_ITEMS);
        assert_eq!(set.overflow(), 10_000 - MAX_ITEMS as u64);
        assert!(!set.readiness(100, 1e9).ready);
    }

    #[test]
    fn what_stays_for_a_week_becomes_usual() {
        let mut set = Items::default();
        for hour in 0..72 {
            set.see("a", hour, 1.0);
        }
        let mut told = 0;
        for hour in (72..72 + 24 * 10).step_by(4) {
            told += u32::from(set.see("b", hour, 1.0) == Seen::New);
        }
        assert_eq!(told, 24 * 7 / 4);
        assert!(set.knows("b"));
    }
}
