//! A string of a rule: with its wildcards `*` and `?`, and the backslash that takes their meaning away.
//!
//! Specification: Sigma 2.1, "Escaping and wildcards".

use crate::event::lower;

/// One piece of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    Text(String),
    /// Any text, or none.
    Star,
    /// Any one character.
    One,
}

/// A pattern, in the simplest form that says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Pattern {
    /// The whole value.
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Glob(Glob),
}

/// Wildcards in the middle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Glob(Vec<Piece>);

/// Which end of a value a pattern is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Whole,
    Start,
    End,
    Anywhere,
}

impl Pattern {
    /// Reads a string as Sigma writes it.
    pub(crate) fn read(text: &str, anchor: Anchor) -> Self {
        let mut pieces = pieces(text);
        if matches!(anchor, Anchor::End | Anchor::Anywhere) && pieces.first() != Some(&Piece::Star)
        {
            pieces.insert(0, Piece::Star);
        }
        if matches!(anchor, Anchor::Start | Anchor::Anywhere) && pieces.last() != Some(&Piece::Star)
        {
            pieces.push(Piece::Star);
        }
        match pieces.as_slice() {
            [] => Self::Exact(String::new()),
            [Piece::Star] => Self::Contains(String::new()),
            [Piece::Text(text)] => Self::Exact(text.clone()),
            [Piece::Text(text), Piece::Star] => Self::Prefix(text.clone()),
            [Piece::Star, Piece::Text(text)] => Self::Suffix(text.clone()),
            [Piece::Star, Piece::Text(text), Piece::Star] => Self::Contains(text.clone()),
            _ => Self::Glob(Glob(pieces)),
        }
    }

    /// The same in lower case.
    pub(crate) fn lower(self) -> Self {
        match self {
            Self::Exact(text) => Self::Exact(lower(&text).into_owned()),
            Self::Prefix(text) => Self::Prefix(lower(&text).into_owned()),
            Self::Suffix(text) => Self::Suffix(lower(&text).into_owned()),
            Self::Contains(text) => Self::Contains(lower(&text).into_owned()),
            Self::Glob(Glob(pieces)) => Self::Glob(Glob(
                pieces
                    .into_iter()
                    .map(|piece| match piece {
                        Piece::Text(text) => Piece::Text(lower(&text).into_owned()),
                        other => other,
                    })
                    .collect(),
            )),
        }
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Contains(text) => value.contains(text.as_str()),
            Self::Glob(glob) => glob.matches(value),
        }
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let wildcard = match c {
            '\\' => {
                // Before anything but a wildcard or itself a backslash is one.
                let escaped = chars.next_if(|next| matches!(next, '*' | '?' | '\\'));
                plain.push(escaped.unwrap_or('\\'));
                continue;
            }
            '*' => Piece::Star,
            '?' => Piece::One,
            other => {
                plain.push(other);
                continue;
            }
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        if wildcard != Piece::Star || pieces.last() != Some(&Piece::Star) {
            pieces.push(wildcard);
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    pieces
}

impl Glob {
    /// In time proportional to value times pattern at most: a star is only ever taken back to the last one.
    fn matches(&self, value: &str) -> bool {
        let pieces = &self.0;
        let (mut at, mut piece) = (0, 0);
        // The last star, and where its text would end next.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let rest = value.get(at..).unwrap_or_default();
            let step = match pieces.get(piece) {
                None if rest.is_empty() => return true,
                None => None,
                Some(Piece::Star) => {
                    star = Some((piece + 1, at));
                    piece += 1;
                    continue;
                }
                Some(Piece::One) => rest.chars().next().map(char::len_utf8),
                Some(Piece::Text(text)) => rest.starts_with(text.as_str()).then_some(text.len()),
            };
            match (step, &mut star) {
                (Some(length), _) => {
                    at += length;
                    piece += 1;
                }
                (None, Some((after, from))) => {
                    let Some(c) = value.get(*from..).and_then(|rest| rest.chars().next()) else {
                        return false;
                    };
                    *from += c.len_utf8();
                    (at, piece) = (*from, *after);
                }
                (None, None) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Pattern {
        Pattern::read(text, Anchor::Whole)
    }

    #[test]
    fn wildcards_and_backslashes_are_read_as_sigma_says() {
        assert_eq!(whole("a*"), Pattern::Prefix("a".to_owned()));
        assert_eq!(whole("*a**"), Pattern::Contains("a".to_owned()));
        assert_eq!(whole(r"a\*"), Pattern::Exact("a*".to_owned()));
        assert_eq!(whole(r"a\\*"), Pattern::Prefix(r"a\".to_owned()));
        assert_eq!(whole(r"c:\x\y"), Pattern::Exact(r"c:\x\y".to_owned()));
        assert_eq!(Pattern::read("a", Anchor::Anywhere), Pattern::Contains("a".to_owned()));
        assert_eq!(Pattern::read("*a", Anchor::Start), Pattern::Contains("a".to_owned()));
        assert_eq!(whole(""), Pattern::Exact(String::new()));
        assert!(whole("*").matches("") && whole("*").matches("x"));
    }

    #[test]
    fn globs_match_what_they_say() {
        let glob = whole("/a/*/c?.txt");
        assert!(glob.matches("/a/b/b/cé.txt") && glob.matches("/a//c1.txt"));
        assert!(!glob.matches("/a/b/c.txt") && !glob.matches("/a/b/c1.txtx"));
        assert!(whole("*a?b*").matches("xxaxbxx") && !whole("*a?b*").matches("ab"));
        assert!(whole("?").matches("é") && !whole("?").matches(""));
        // Quadratic at worst; the naive way would not end.
        let hostile = "*a".repeat(50) + "b";
        assert!(!whole(&hostile).matches(&"a".repeat(5_000)));
    }
}
