//! A radix tree of texts: the ones that a value equals or begins with, in time that depends on the value alone.
//!
//! Beside bytes a text may hold [`SEGMENT`]: one or more bytes of a path segment. Everything lies in three arrays, the
//! points in the order of their distance from the root, so that those which a point leads to are beside each other. What is
//! read at a point lies together too: in a large tree each place that is looked at may cost a read of memory.

use std::collections::VecDeque;

use crate::matcher::is_segment_byte;

/// Stands for `{*}`. No text that is compared has this byte: it is no part of UTF-8.
pub(super) const SEGMENT: u8 = 0xff;

/// One text with what it stands for.
pub(super) struct Entry<'e, T> {
    pub(super) text: &'e [u8],
    /// Whether a value must end where the text does.
    pub(super) whole: bool,
    pub(super) found: T,
}

#[derive(Debug)]
pub(super) struct Tree<T> {
    points: Box<[Point]>,
    /// Of each point its label and its edges.
    bytes: Box<[u8]>,
    found: Box<[T]>,
}

/// Where texts part or end.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// Where its label begins; the edges follow.
    bytes: u32,
    /// Bytes that are read between the edge that leads here and this point.
    label: u16,
    /// Bytes that lead on, ascending.
    edges: u16,
    /// Where the first edge leads; the others lead to the points after that.
    first: u32,
    /// What is found by values that end here.
    whole: u32,
    /// What is found by values that end here or go on.
    start: u32,
}

const NOTHING: u32 = u32::MAX;

impl<T> Tree<T> {
    /// The entries in ascending order of their texts, none twice with the same end.
    pub(super) fn new(entries: Vec<Entry<'_, T>>) -> Self {
        let texts: Vec<(&[u8], bool)> =
            entries.iter().map(|entry| (entry.text, entry.whole)).collect();
        let mut points = Vec::new();
        let mut bytes = Vec::new();
        let mut ahead = VecDeque::new();
        if !texts.is_empty() {
            ahead.push_back((0..texts.len(), 0));
        }
        while let Some((range, read)) = ahead.pop_front() {
            let below = texts.get(range.clone()).unwrap_or_default();
            let label = common(below, read);
            let read = read + label.len();
            let mut point = Point {
                bytes: index(bytes.len()),
                label: length(label.len()),
                edges: 0,
                // Those that wait are the points before it.
                first: index(points.len() + 1 + ahead.len()),
                whole: NOTHING,
                start: NOTHING,
            };
            bytes.extend_from_slice(label);
            let mut next = range.start;
            while let Some((text, whole)) = texts.get(next).filter(|_| next < range.end) {
                match text.get(read) {
                    None => {
                        let place = if *whole { &mut point.whole } else { &mut point.start };
                        *place = index(next);
                        next += 1;
                    }
                    Some(edge) => {
                        let same = |(text, _): &(&[u8], bool)| text.get(read) == Some(edge);
                        let rest = texts.get(next..range.end).unwrap_or_default();
                        let end = next + rest.partition_point(same);
                        bytes.push(*edge);
                        point.edges += 1;
                        ahead.push_back((next..end, read + 1));
                        next = end;
                    }
                }
            }
            points.push(point);
        }
        let found = entries.into_iter().map(|entry| entry.found).collect();
        Self { points: points.into(), bytes: bytes.into(), found }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// What all texts stand for.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.found.iter()
    }

    /// Calls `found` with what every text stands for that the value equals or, as the text's end has it, begins with.
    pub(super) fn walk(&self, value: impl Iterator<Item = u8> + Clone, found: &mut dyn FnMut(&T)) {
        self.walk_from(0, value, found);
    }

    fn walk_from<I: Iterator<Item = u8> + Clone>(
        &self,
        mut at: usize,
        mut value: I,
        found: &mut dyn FnMut(&T),
    ) {
        while let Some(point) = self.points.get(at) {
            let bytes = self.bytes.get(point.bytes as usize..).unwrap_or_default();
            let (label, rest) = bytes.split_at_checked(point.label.into()).unwrap_or_default();
            if !label.iter().all(|byte| value.next() == Some(*byte)) {
                return;
            }
            if let Some(start) = self.found.get(point.start as usize) {
                found(start);
            }
            let edges = rest.get(..point.edges.into()).unwrap_or_default();
            let first = point.first as usize;
            if edges.last() == Some(&SEGMENT) {
                let mut after = value.clone();
                if skip_segment(&mut after) {
                    self.walk_from(first + edges.len() - 1, after, found);
                }
            }
            let Some(byte) = value.next() else {
                if let Some(whole) = self.found.get(point.whole as usize) {
                    found(whole);
                }
                return;
            };
            match edges.binary_search(&byte) {
                Ok(place) if byte != SEGMENT => at = first + place,
                _ => return,
            }
        }
    }
}

/// Reads a segment to its end, which is never a choice; false if there is none.
fn skip_segment(value: &mut (impl Iterator<Item = u8> + Clone)) -> bool {
    let mut length = 0;
    loop {
        let mut ahead = value.clone();
        match ahead.next() {
            Some(byte) if is_segment_byte(byte) => *value = ahead,
            _ => return length > 0,
        }
        length += 1;
    }
}

/// What all texts go on with after `read` bytes, up to a segment.
fn common<'t>(texts: &[(&'t [u8], bool)], read: usize) -> &'t [u8] {
    let rest = |text: Option<&(&'t [u8], bool)>| {
        text.and_then(|(text, _)| text.get(read..)).unwrap_or_default()
    };
    // They ascend, so that what the first and the last share all share.
    let (first, last) = (rest(texts.first()), rest(texts.last()));
    let length = first.iter().zip(last).take_while(|(a, b)| a == b && **a != SEGMENT).count();
    first.get(..length).unwrap_or_default()
}

/// Lengths of labels and numbers of edges.
fn length(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Places of arrays that a policy set, with its limits, cannot fill.
fn index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NOTHING)
}
