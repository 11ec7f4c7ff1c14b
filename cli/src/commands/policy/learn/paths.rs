//! Paths that were called, and the templates that cover them.
//!
//! A tree of segments. Where a place has seen several generated names (numbers, UUIDs, hashes), or more names than
//! anybody would list, it becomes `{*}`; everything else stays as it was. Nothing is covered but paths of a shape that
//! was seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::recorded::{Entry, is_variable};
use picket_policy::RecordedToken;

/// The operator that stands for one segment.
const ANY: &str = "{*}";
/// Names of one place that are listed; more become `{*}`.
const MAX_NAMES: usize = 64;
/// Segments of a path.
const MAX_DEPTH: usize = 32;
/// Places of a tree.
const MAX_PLACES: usize = 20_000;
/// Issuers that are told apart.
const MAX_ISSUERS: usize = 8;

/// How often, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) first: String,
    pub(super) last: String,
}

impl Tally {
    pub(super) fn add(&mut self, time: &str) {
        self.merge(&Self { count: 1, first: time.to_owned(), last: time.to_owned() });
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.count == 0 || other.first < self.first {
            self.first.clone_from(&other.first);
        }
        if self.count == 0 || other.last > self.last {
            self.last.clone_from(&other.last);
        }
        self.count += other.count;
    }
}

/// What was seen at one path.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) tally: Tally,
    /// Issuers of the tokens.
    issuers: BTreeSet<String>,
    /// Some request had no token that could be demanded.
    without_token: bool,
}

impl Seen {
    fn of(entry: &Entry) -> Self {
        let mut seen = Self::default();
        seen.tally.add(&entry.time);
        match &entry.facts.token {
            RecordedToken::Verified { issuer, has_subject: true, .. } => {
                seen.issuers.insert(issuer.clone());
            }
            _ => seen.without_token = true,
        }
        seen
    }

    fn merge(&mut self, other: Self) {
        self.tally.merge(&other.tally);
        self.issuers.extend(other.issuers);
        self.without_token |= other.without_token;
    }

    /// The issuers of which every request had a token; none if some had none.
    pub(super) fn demanded(&self) -> Option<Vec<String>> {
        let is_always = !self.without_token && self.issuers.len() <= MAX_ISSUERS;
        is_always.then(|| self.issuers.iter().cloned().collect())
    }
}

/// The paths that one caller called with one method.
#[derive(Debug, Default)]
pub(super) struct Paths {
    root: Place,
    places: usize,
    /// Paths with characters that no template has, each as it is.
    odd: BTreeMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Place {
    here: Option<Seen>,
    below: BTreeMap<String, Place>,
    /// It has had more names than are listed.
    is_wide: bool,
}

impl Paths {
    /// Adds a path; says whether it can be written.
    pub(super) fn add(&mut self, path: &str, entry: &Entry) -> bool {
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
        let is_plain = path.starts_with('/')
            && segments.len() <= MAX_DEPTH
            && path.bytes().all(|byte| byte == b'/' || is_segment_byte(byte));
        if is_plain && self.places < MAX_PLACES {
            self.places += self.root.add(&segments, Seen::of(entry));
            return true;
        }
        // As an exact path, if a pattern can say it.
        let is_exact = !path.contains('*');
        if is_exact && (self.odd.len() < MAX_NAMES || self.odd.contains_key(path)) {
            self.odd.entry(path.to_owned()).or_default().merge(Seen::of(entry));
            return true;
        }
        false
    }

    /// The patterns that cover what was added, and nothing of another shape.
    pub(super) fn patterns(&self) -> Vec<(String, &Seen)> {
        let mut found = Vec::new();
        self.root.collect(&mut String::new(), &mut found);
        found.extend(self.odd.iter().map(|(path, seen)| (path.clone(), seen)));
        found
    }
}

impl Place {
    /// Adds what was seen below; returns how many places are new.
    fn add(&mut self, segments: &[&str], seen: Seen) -> usize {
        let Some((first, rest)) = segments.split_first() else {
            self.here.get_or_insert_default().merge(seen);
            return 0;
        };
        let name = self.name(first);
        let mut new = usize::from(!self.below.contains_key(&name));
        new += self.below.entry(name).or_default().add(rest, seen);
        new
    }

    /// The name under which a segment is kept. May bring names together.
    fn name(&mut self, segment: &str) -> String {
        if segment.is_empty() || self.below.contains_key(segment) {
            return segment.to_owned();
        }
        let variable = is_variable(segment);
        if (self.is_wide || variable) && self.below.contains_key(ANY) {
            return ANY.to_owned();
        }
        let alike = |name: &String| name != ANY && is_variable(name);
        if variable && self.below.keys().any(alike) {
            self.unite(is_variable);
            return ANY.to_owned();
        }
        if self.below.len() >= MAX_NAMES {
            self.is_wide = true;
            self.unite(|_| true);
            return ANY.to_owned();
        }
        segment.to_owned()
    }

    /// Makes one place of all with such names.
    fn unite(&mut self, which: impl Fn(&str) -> bool) {
        let names: Vec<String> =
            self.below.keys().filter(|name| !name.is_empty() && which(name)).cloned().collect();
        let mut one = self.below.remove(ANY).unwrap_or_default();
        for name in names {
            if let Some(place) = self.below.remove(&name) {
                one.merge(place);
            }
        }
        self.below.insert(ANY.to_owned(), one);
    }

    fn merge(&mut self, other: Self) {
        if let Some(seen) = other.here {
            self.here.get_or_insert_default().merge(seen);
        }
        if other.is_wide && !self.is_wide {
            self.is_wide = true;
            self.unite(|_| true);
        }
        for (segment, place) in other.below {
            let name = if segment == ANY { segment } else { self.name(&segment) };
            if name == ANY && !self.below.contains_key(ANY) {
                self.unite(is_variable);
            }
            self.below.entry(name).or_default().merge(place);
        }
    }

    fn collect<'p>(&'p self, path: &mut String, found: &mut Vec<(String, &'p Seen)>) {
        for (segment, place) in &self.below {
            let length = path.len();
            path.push('/');
            path.push_str(segment);
            if let Some(seen) = &place.here {
                found.push((path.clone(), seen));
            }
            place.collect(path, found);
            path.truncate(length);
        }
    }
}

/// The characters of a template's literals: RFC 3986 `pchar` without `*`.
fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(paths: &[&str]) -> Vec<String> {
        let record = serde_json::json!({
            "time": "2026-01-31T12:00:00Z", "picket.kind": "request", "picket.decision": "allow",
            "picket.decision.stage": "allow", "http.request.method": "GET", "url.path": "/",
            "picket.destination": "spiffe://a/ns/b/sa/c", "picket.destination.port": 80,
        });
        let entry = Entry::read(record.as_object().unwrap()).unwrap();
        let mut all = Paths::default();
        for path in paths {
            assert!(all.add(path, &entry), "{path}");
        }
        let total: u64 = all.patterns().iter().map(|(_, seen)| seen.tally.count).sum();
        assert_eq!(total, paths.len() as u64, "each is counted once");
        all.patterns().into_iter().map(|(pattern, _)| pattern).collect()
    }

    #[test]
    fn several_generated_names_become_a_template_and_one_stays() {
        assert_eq!(patterns(&["/orders/7"]), ["/orders/7"]);
        assert_eq!(patterns(&["/orders/7", "/orders/8", "/orders/7"]), ["/orders/{*}"]);
        assert_eq!(
            patterns(&["/orders/7/items/1", "/orders/8/items/2", "/orders/new", "/"]),
            ["/", "/orders/new", "/orders/{*}/items/{*}"]
        );
        assert_eq!(
            patterns(&["/orders/1/a", "/orders/2/b", "/orders/3"]),
            ["/orders/{*}", "/orders/{*}/a", "/orders/{*}/b"]
        );
        assert_eq!(patterns(&["/a/", "/a", "/b/x", "/b/y"]), ["/a", "/a/", "/b/x", "/b/y"]);
    }

    #[test]
    fn more_names_than_anybody_lists_become_a_template_and_memory_is_bounded() {
        let many: Vec<String> = (0..1_000).map(|n| format!("/users/{}/x", word(n))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(patterns(&many), ["/users/{*}/x"]);
    }

    /// Names without digits.
    fn word(mut number: usize) -> String {
        let mut text = String::from("u");
        while number > 0 {
            text.push(char::from(b'a' + (number % 26) as u8));
            number /= 26;
        }
        text
    }

    #[test]
    fn what_no_template_has_stays_exact_or_is_refused() {
        assert_eq!(patterns(&["/a|b/7", "/a|b/8"]), ["/a|b/7", "/a|b/8"]);
        let mut all = Paths::default();
        let record = serde_json::json!({
            "time": "", "picket.decision": "allow", "picket.decision.stage": "allow",
            "picket.destination": "spiffe://a/ns/b/sa/c",
        });
        let entry = Entry::read(record.as_object().unwrap()).unwrap();
        // A star at the end would be a wildcard.
        assert!(!all.add("/files/*", &entry));
        assert!(!all.add("/a/{*}", &entry));
    }
}
