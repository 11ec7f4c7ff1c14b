//! What a lane's writer lets other threads know: how far it is written, and its chain's head.
//!
//! One thread writes, and never waits for those who read: they see the state of one moment or read
//! again (a sequence lock).

use std::hint;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::chain::{Hash, Head, Link};

/// A place in a lane: number of the segment, and bytes in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

/// A lane at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) written: Place,
    /// Bytes that are allocated and not written.
    pub(crate) free: u64,
    pub(crate) head: Head,
}

const WORDS: usize = 11;

/// The state of a lane, for other threads.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Odd while the words are being changed.
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Published {
    /// To be called by the lane's writer alone.
    pub(super) fn store(&self, state: &State) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Whoever sees a word that follows sees the odd version too.
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(to_words(state)) {
            word.store(value, Ordering::Relaxed);
        }
        // Whoever sees the even version sees the words, and the bytes that they speak of.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    pub(crate) fn load(&self) -> State {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let words: [u64; WORDS] = std::array::from_fn(|at| {
                self.words.get(at).map_or(0, |w| w.load(Ordering::Relaxed))
            });
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return from_words(&words);
            }
            hint::spin_loop();
        }
    }
}

fn to_words(state: &State) -> [u64; WORDS] {
    let State { written, free, head } = state;
    let mut hash = head
        .link
        .hash
        .chunks_exact(8)
        .map(|word| word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)));
    let mut next = || hash.next().unwrap_or_default();
    [
        u64::from(written.segment),
        written.offset,
        *free,
        head.link.position,
        next(),
        next(),
        next(),
        next(),
        head.emitted,
        head.open,
        head.lost,
    ]
}

fn from_words(words: &[u64; WORDS]) -> State {
    let [segment, offset, free, position, a, b, c, d, emitted, open, lost] = *words;
    let mut hash = Hash::default();
    for (to, from) in hash.chunks_exact_mut(8).zip([a, b, c, d]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    let link = Link { position, hash };
    State {
        written: Place { segment: u32::try_from(segment).unwrap_or(u32::MAX), offset },
        free,
        head: Head { link, emitted, open, lost },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn state(number: u64) -> State {
        let link = Link { position: number, hash: [number as u8; 32] };
        State {
            written: Place { segment: number as u32, offset: number },
            free: number,
            head: Head { link, emitted: number, open: number, lost: number },
        }
    }

    #[test]
    fn a_reader_never_sees_half_of_a_change() {
        let published = Arc::new(Published::default());
        published.store(&state(0));
        let shared = Arc::clone(&published);
        let reader = std::thread::spawn(move || {
            let mut last = 0;
            while last < 100_000 {
                let seen = shared.load();
                assert_eq!(seen, state(seen.written.offset));
                assert!(seen.written.offset >= last);
                last = seen.written.offset;
            }
        });
        for number in 1..=100_000 {
            published.store(&state(number));
        }
        reader.join().unwrap();
    }
}
