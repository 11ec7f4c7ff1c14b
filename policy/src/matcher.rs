//! How one value of a policy is compared with one value of a request.
//!
//! Istio's four forms: exact, prefix `abc*`, suffix `*abc`, and `*` for "not empty". A star anywhere else is an
//! ordinary character (a warning says so when the policy is read). No regular expressions, so every comparison is
//! linear in the length of the value. Source: istio/istio `pilot/pkg/security/authz/matcher/string.go`.

use std::fmt;
use std::sync::Arc;

mod cover;
mod template;

pub(crate) use template::{Template, TemplateError, is_segment_byte};

#[cfg(test)]
mod tests;

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StringMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Present,
}

impl StringMatch {
    /// Reads a pattern; a leading star wins over a trailing one, as it does with Istio.
    pub(crate) fn parse(pattern: &str) -> Self {
        if pattern == "*" {
            Self::Present
        } else if let Some(suffix) = pattern.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = pattern.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(pattern.into())
        }
    }

    /// Whether the pattern holds a star that is compared as a character.
    pub(crate) fn has_literal_star(&self) -> bool {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text.contains('*'),
            Self::Present => false,
        }
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        self.matches_bytes(value.as_bytes())
    }

    pub(crate) fn matches_bytes(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Suffix(text) => value.ends_with(text.as_bytes()),
            Self::Present => !value.is_empty(),
        }
    }

    /// As [`Self::matches_bytes`], without regard to the case of ASCII letters.
    pub(crate) fn matches_ignoring_case(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::Prefix(text) => value
                .get(..text.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes())),
            Self::Suffix(text) => value
                .len()
                .checked_sub(text.len())
                .and_then(|start| value.get(start..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(text.as_bytes())),
            Self::Present => !value.is_empty(),
        }
    }

    /// As [`Self::matches_bytes`] on several values joined by a separator, without joining them.
    pub(crate) fn matches_joined<'v, I: DoubleEndedIterator<Item = &'v [u8]>>(
        &self,
        values: impl Fn() -> I,
        separator: &'static [u8],
    ) -> bool {
        let bytes = || {
            let mut values = values();
            let first = values.next().unwrap_or_default();
            let rest = values.flat_map(|value| separator.iter().chain(value));
            first.iter().chain(rest).copied()
        };
        match self {
            Self::Exact(text) => bytes().eq(text.bytes()),
            Self::Prefix(text) => begins(bytes(), text.bytes()),
            Self::Suffix(text) => begins(bytes().rev(), text.bytes().rev()),
            Self::Present => bytes().next().is_some(),
        }
    }
}

fn begins(mut bytes: impl Iterator<Item = u8>, mut text: impl Iterator<Item = u8>) -> bool {
    text.all(|byte| bytes.next() == Some(byte))
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

/// A namespace pattern: Istio turns every star of it into "anything", also one in the middle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Box<str>);

impl Glob {
    /// Several stars in a row are as good as one.
    pub(crate) fn parse(pattern: &str) -> Self {
        let mut text = String::with_capacity(pattern.len());
        for character in pattern.chars() {
            if character != '*' || !text.ends_with('*') {
                text.push(character);
            }
        }
        Self(text.into())
    }

    /// What every value that matches begins and ends with; the end is none if there is no star, so that the value is
    /// the beginning.
    pub(crate) fn ends(&self) -> (&str, Option<&str>) {
        match self.0.split_once('*') {
            None => (&self.0, None),
            Some((head, rest)) => {
                (head, Some(rest.rsplit_once('*').map_or(rest, |(_, tail)| tail)))
            }
        }
    }

    /// What stands between the stars.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &str> {
        self.0.split('*')
    }

    /// The pieces between the stars are looked for from the left, each at its first place, the last at the end:
    /// linear but for repeated searches in what is left.
    pub(crate) fn matches(&self, value: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return *self.0 == *value };
        let Some(mut left) = value.strip_prefix(head) else { return false };
        let Some((middle, tail)) = rest.rsplit_once('*') else { return left.ends_with(rest) };
        for piece in middle.split('*') {
            match left.find(piece) {
                Some(at) => left = left.get(at + piece.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        left.ends_with(tail)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path pattern: a string pattern, or a template with `{*}` and `{**}`.
#[derive(Clone, Debug)]
pub(crate) struct PathMatch {
    text: Arc<str>,
    form: PathForm,
}

/// What a path pattern is.
#[derive(Clone, Debug)]
pub(crate) enum PathForm {
    Text(StringMatch),
    Template(Template),
}

impl PathMatch {
    pub(crate) fn plain(text: &str, pattern: StringMatch) -> Self {
        Self { text: text.into(), form: PathForm::Text(pattern) }
    }

    pub(crate) fn template(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { text: text.into(), form: PathForm::Template(Template::parse(text)?) })
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        match &self.form {
            PathForm::Text(text) => text.matches(path),
            PathForm::Template(template) => template.matches(path),
        }
    }

    /// Whether the pattern is fit to name a route: there are as many of them as the policies list, not as many as
    /// there are requests.
    pub(crate) fn names_route(&self) -> bool {
        matches!(
            self.form,
            PathForm::Text(StringMatch::Exact(_) | StringMatch::Prefix(_)) | PathForm::Template(_)
        )
    }

    pub(crate) fn form(&self) -> &PathForm {
        &self.form
    }

    /// The pattern as written.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A JWT's identity, `<iss>/<sub>`. Istio compares the two claims apart, not the joined string.
/// Source: `requestPrincipalGenerator` in istio/istio `pilot/pkg/security/authz/model/generator.go`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestPrincipalMatch {
    pub(crate) issuer: StringMatch,
    pub(crate) subject: StringMatch,
    text: Box<str>,
}

impl RequestPrincipalMatch {
    pub(crate) fn parse(pattern: &str) -> Self {
        use StringMatch::{Exact, Prefix, Present, Suffix};
        // An issuer may be a URL, a subject may not hold a slash: the last one parts them.
        let (issuer, subject) = match pattern.rsplit_once('/') {
            _ if pattern == "*" => (Present, Present),
            Some((issuer, subject)) => {
                match (issuer.strip_prefix('*'), subject.strip_suffix('*')) {
                    (Some(""), _) => (Present, Exact(subject.into())),
                    (Some(suffix), _) => (Suffix(suffix.into()), Exact(subject.into())),
                    (None, Some("")) => (Exact(issuer.into()), Present),
                    (None, Some(prefix)) => (Exact(issuer.into()), Prefix(prefix.into())),
                    (None, None) => (Exact(issuer.into()), Exact(subject.into())),
                }
            }
            None => match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                (Some(suffix), _) => (Present, Suffix(suffix.into())),
                (None, Some(prefix)) => (Prefix(prefix.into()), Present),
                (None, None) => (Exact(pattern.into()), Exact("".into())),
            },
        };
        Self { issuer, subject, text: pattern.into() }
    }

    pub(crate) fn matches(&self, issuer: &str, subject: &str) -> bool {
        self.issuer.matches(issuer) && self.subject.matches(subject)
    }
}

impl fmt::Display for RequestPrincipalMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
