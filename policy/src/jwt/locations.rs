//! Where a request may carry its token, and taking it from there.
//!
//! Every place that a rule of the workload names is looked at; a token is then good only for the rules that name its
//! place. Spec: RFC 6750 section 2, istio/api `security/v1/jwt.proto` (`from_headers`, `from_params`, `from_cookies`).

use std::borrow::Cow;
use std::fmt;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};

use super::{RequestRules, TokenError, TokenErrorKind};

/// A place for a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenLocation {
    /// A header whose value begins with `prefix`.
    Header {
        /// The header.
        name: HeaderName,
        /// What stands before the token, such as `Bearer `.
        prefix: Box<str>,
    },
    /// A query parameter.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

impl TokenLocation {
    /// `Authorization: Bearer`, where a rule that names no place looks.
    pub(crate) fn bearer() -> Self {
        Self::Header { name: AUTHORIZATION, prefix: "Bearer ".into() }
    }

    /// What stands after the prefix. The scheme of `Authorization` is compared without regard to case (RFC 9110
    /// section 11.1), any other prefix as it is.
    fn after_prefix<'v>(&self, value: &'v str) -> Option<&'v str> {
        let Self::Header { name, prefix } = self else { return None };
        let (head, rest) = value.split_at_checked(prefix.len())?;
        let matches = match name == AUTHORIZATION {
            true => head.eq_ignore_ascii_case(prefix),
            false => head == &**prefix,
        };
        matches.then_some(rest.trim_matches([' ', '\t']))
    }
}

impl fmt::Display for TokenLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

/// A token as a request carries it. Its text appears in no output.
pub struct Token<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) location: usize,
}

impl Token<'_> {
    /// The text, as the key of a cache; never to be written anywhere.
    pub fn secret(&self) -> &str {
        &self.text
    }

    /// Which of the workload's places it was found at; a token is good only where it was sent.
    pub fn location_index(&self) -> usize {
        self.location
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes, location {})", self.text.len(), self.location)
    }
}

impl RequestRules {
    /// The token of a request, if it carries one. `query` is what stands after `?` in its target.
    ///
    /// Fails if it carries several, or one that is not text.
    pub fn extract<'a>(
        &self,
        headers: &'a HeaderMap,
        query: Option<&'a str>,
    ) -> Result<Option<Token<'a>>, TokenError> {
        let mut found = Found(None);
        for (index, (location, _)) in self.locations.iter().enumerate() {
            match location {
                TokenLocation::Header { name, .. } => {
                    // All places in one header are looked at together, when the first of them comes up.
                    let is_first = |other: &TokenLocation| matches!(other, TokenLocation::Header { name: n, .. } if n == name);
                    if self.locations.iter().position(|(other, _)| is_first(other)) == Some(index) {
                        self.look_in_header(name, headers, &mut found)?;
                    }
                }
                TokenLocation::Query(name) => {
                    look_in_query(name, query.unwrap_or_default(), index, &mut found)?
                }
                TokenLocation::Cookie(name) => look_in_cookies(name, headers, index, &mut found)?,
            }
        }
        Ok(found.0)
    }

    fn look_in_header<'a>(
        &self,
        name: &HeaderName,
        headers: &'a HeaderMap,
        found: &mut Found<'a>,
    ) -> Result<(), TokenError> {
        let mut sent = 0;
        let mut has_token = false;
        for value in headers.get_all(name) {
            sent += 1;
            let value = value.to_str().map_err(|_| TokenErrorKind::Malformed)?;
            // Of `Bearer ` and an empty prefix both fit: the longer one says more.
            let longest = self
                .locations
                .iter()
                .enumerate()
                .filter(|(_, (location, _))| matches!(location, TokenLocation::Header { name: n, .. } if n == name))
                .filter_map(|(index, (location, _))| Some((index, location.after_prefix(value)?)))
                .min_by_key(|(_, rest)| rest.len());
            if let Some((location, text)) = longest {
                has_token = true;
                found.add(Cow::Borrowed(text), location)?;
            }
        }
        // The application may read another one of them than we do.
        if has_token && sent > 1 {
            return Err(TokenErrorKind::MultipleTokens.into());
        }
        Ok(())
    }
}

/// At most one token.
struct Found<'a>(Option<Token<'a>>);

impl<'a> Found<'a> {
    fn add(&mut self, text: Cow<'a, str>, location: usize) -> Result<(), TokenError> {
        match self.0.replace(Token { text, location }) {
            Some(_) => Err(TokenErrorKind::MultipleTokens.into()),
            None => Ok(()),
        }
    }
}

fn look_in_query<'a>(
    name: &str,
    query: &'a str,
    location: usize,
    found: &mut Found<'a>,
) -> Result<(), TokenError> {
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(key)? == name {
            found.add(decode(value)?, location)?;
        }
    }
    Ok(())
}

fn look_in_cookies<'a>(
    name: &str,
    headers: &'a HeaderMap,
    location: usize,
    found: &mut Found<'a>,
) -> Result<(), TokenError> {
    for value in headers.get_all(COOKIE) {
        let value = value.to_str().map_err(|_| TokenErrorKind::Malformed)?;
        for pair in value.split(';') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            if key.trim() == name {
                found.add(Cow::Borrowed(value.trim().trim_matches('"')), location)?;
            }
        }
    }
    Ok(())
}

/// `application/x-www-form-urlencoded` to text.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, TokenError> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| {
                    char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
                };
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                high.zip(low).map(|(high, low)| high << 4 | low).ok_or(TokenErrorKind::Malformed)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| TokenErrorKind::Malformed.into())
}
