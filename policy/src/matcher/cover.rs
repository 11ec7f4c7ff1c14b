//! How patterns stand to each other: whether one matches all that another does, and whether both can match one value.
//!
//! For statements about rules, not for requests. Both answers err to the side on which nothing is claimed: "covers" only
//! where it is certain, "overlaps" wherever it is not ruled out.

use super::StringMatch::{Exact, Prefix, Present, Suffix};
use super::{Glob, PathForm, PathMatch, RequestPrincipalMatch, StringMatch};

impl StringMatch {
    /// Whether every value that `other` matches is matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Present, Exact(text) | Prefix(text) | Suffix(text)) => !text.is_empty(),
            (Present, Present) => true,
            (Exact(a), Exact(b)) => a == b,
            (Prefix(a), Exact(b) | Prefix(b)) => b.starts_with(&**a),
            (Suffix(a), Exact(b) | Suffix(b)) => b.ends_with(&**a),
            _ => false,
        }
    }

    /// Whether a value may be matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Exact(text), pattern) | (pattern, Exact(text)) => pattern.matches(text),
            (Prefix(a), Prefix(b)) => a.starts_with(&**b) || b.starts_with(&**a),
            (Suffix(a), Suffix(b)) => a.ends_with(&**b) || b.ends_with(&**a),
            _ => true,
        }
    }

    /// The pattern in lower case, for what is compared without regard to case.
    pub(crate) fn to_lower(&self) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase().into();
        match self {
            Exact(text) => Exact(lower(text)),
            Prefix(text) => Prefix(lower(text)),
            Suffix(text) => Suffix(lower(text)),
            Present => Present,
        }
    }
}

impl Glob {
    /// Whether every namespace that `other` matches is matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let head = other.0.split('*').next().unwrap_or_default();
        match self.0.split_once('*') {
            _ if self.0 == other.0 => true,
            // Without a star the other is one value.
            _ if head.len() == other.0.len() => self.matches(head),
            Some((own, "")) => head.starts_with(own),
            _ => false,
        }
    }

    /// Whether a namespace may be matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self.0.contains('*'), other.0.contains('*')) {
            (_, false) => self.matches(&other.0),
            (false, true) => other.matches(&self.0),
            (true, true) => true,
        }
    }
}

impl PathMatch {
    /// Whether every path that `other` matches is matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (&self.form, &other.form) {
            (PathForm::Text(a), PathForm::Text(b)) => a.covers(b),
            (PathForm::Template(a), PathForm::Template(b)) => a.covers(b),
            (PathForm::Template(a), PathForm::Text(Exact(path))) => a.matches(path),
            (PathForm::Template(_), PathForm::Text(_)) => false,
            (PathForm::Text(Present), PathForm::Template(_)) => true,
            (PathForm::Text(Prefix(prefix)), PathForm::Template(b)) => {
                b.beginning().starts_with(&**prefix)
            }
            (PathForm::Text(Suffix(suffix)), PathForm::Template(b)) => {
                b.ending().ends_with(&**suffix)
            }
            (PathForm::Text(Exact(_)), PathForm::Template(_)) => false,
        }
    }

    /// Whether a path may be matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let is_near = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
        match (&self.form, &other.form) {
            (PathForm::Text(a), PathForm::Text(b)) => a.overlaps(b),
            (PathForm::Template(a), PathForm::Template(b)) => is_near(a.beginning(), b.beginning()),
            (PathForm::Text(text), PathForm::Template(template))
            | (PathForm::Template(template), PathForm::Text(text)) => match text {
                Exact(path) => template.matches(path),
                Prefix(prefix) => is_near(prefix, template.beginning()),
                Suffix(_) | Present => true,
            },
        }
    }

    /// The form that the pattern is compared in, and its fixed text: whole, or where matching paths begin or end.
    pub(crate) fn anchor(&self) -> StringMatch {
        match &self.form {
            PathForm::Text(text) => text.clone(),
            PathForm::Template(template) => Prefix(template.beginning().into()),
        }
    }
}

impl RequestPrincipalMatch {
    /// Whether every principal that `other` matches is matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.issuer.covers(&other.issuer) && self.subject.covers(&other.subject)
    }

    /// Whether a principal may be matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.issuer.overlaps(&other.issuer) && self.subject.overlaps(&other.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Template;
    use super::*;

    const PATTERNS: [&str; 24] = [
        "*",
        "/*",
        "/a",
        "/a/",
        "/a*",
        "/a/*",
        "/a/b",
        "/a/b*",
        "*b",
        "*/b",
        "*a/b",
        "/a/b/c",
        "*c",
        "/",
        "/b",
        "*a*",
        "/{*}",
        "/a/{*}",
        "/{*}/b",
        "/a/{**}",
        "/{**}",
        "/{**}/b",
        "/a/{*}/{**}",
        "/a/{**}/c",
    ];

    fn path(pattern: &str) -> PathMatch {
        if Template::is_one(pattern) {
            PathMatch::template(pattern).unwrap()
        } else {
            PathMatch::plain(pattern, StringMatch::parse(pattern))
        }
    }

    /// All words of up to five letters over a few that matter here.
    fn words(alphabet: &str) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..5 {
            let next = |word: &String| {
                let word = word.clone();
                alphabet.chars().map(move |letter| format!("{word}{letter}"))
            };
            last = last.iter().flat_map(next).collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    /// What is claimed of two patterns holds for every word.
    fn hold<P>(
        pattern: impl Fn(&str) -> P,
        all: &[&str],
        alphabet: &str,
        matches: impl Fn(&P, &str) -> bool,
        covers: impl Fn(&P, &P) -> bool,
        overlaps: impl Fn(&P, &P) -> bool,
    ) {
        let words = words(alphabet);
        let mut claims = 0;
        for a in all {
            for b in all {
                let (one, other) = (pattern(a), pattern(b));
                let both = words.iter().any(|word| matches(&one, word) && matches(&other, word));
                assert!(overlaps(&one, &other) || !both, "{a} and {b} overlap");
                if covers(&one, &other) {
                    claims += 1;
                    let miss =
                        words.iter().find(|word| matches(&other, word) && !matches(&one, word));
                    assert_eq!(miss, None, "{a} does not cover {b}");
                }
            }
            assert!(covers(&pattern(a), &pattern(a)), "{a} covers itself");
        }
        assert!(claims > all.len() * 2, "{claims} pairs cover each other");
    }

    #[test]
    fn what_paths_are_said_to_cover_they_match() {
        hold(path, &PATTERNS, "/ab*c", PathMatch::matches, PathMatch::covers, PathMatch::overlaps);
    }

    #[test]
    fn what_strings_and_namespaces_are_said_to_cover_they_match() {
        let all = ["*", "a", "ab", "a*", "*a", "ab*", "*ab", "b", "*b", "a*b"];
        hold(
            StringMatch::parse,
            &all,
            "ab*",
            StringMatch::matches,
            StringMatch::covers,
            StringMatch::overlaps,
        );
        let all = ["*", "a", "ab", "a*", "*a", "ab*", "*ab", "b", "*b", "a*b", "a*b*"];
        hold(Glob::parse, &all, "ab", Glob::matches, Glob::covers, Glob::overlaps);
    }
}
