//! Request targets in the one spelling that is matched and forwarded.
//!
//! Dot segments are resolved, duplicate slashes merged, escapes of unreserved characters decoded, other escapes kept
//! with upper-case digits. Whatever two programs could read differently is refused instead of guessed: encoded slashes,
//! backslashes and dots, `;`, double encoding, escapes that are not UTF-8. The query is handed back as it is; nothing
//! here looks into it. Spec: RFC 3986, sections 3.3, 5.2.4 and 6.2.2.

use std::borrow::Cow;

use crate::matcher::{PathMatch, StringMatch, Template};

#[cfg(test)]
mod tests;

/// A request target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The normalised path: what policies match and what is forwarded.
    pub path: Cow<'a, str>,
    /// What stands after `?`, untouched.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// The target as it is forwarded; borrowed if normalising changed nothing.
    pub fn to_forward(&self, original: &'a str) -> Cow<'a, str> {
        match (&self.path, self.query) {
            (Cow::Borrowed(_), _) => Cow::Borrowed(original),
            (Cow::Owned(path), None) => Cow::Owned(path.clone()),
            (Cow::Owned(path), Some(query)) => Cow::Owned(format!("{path}?{query}")),
        }
    }
}

/// A pattern of paths as `paths` of a policy has it: exact, `prefix*`, `*suffix`, `*`, or a template with `{*}` and
/// `{**}`.
#[derive(Clone, Debug)]
pub struct PathPattern(PathMatch);

impl PathPattern {
    /// Reads a pattern; none if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            None
        } else if Template::is_one(text) {
            PathMatch::template(text).ok().map(Self)
        } else if text.contains(['{', '}']) {
            None
        } else {
            Some(Self(PathMatch::plain(text, StringMatch::parse(text))))
        }
    }

    /// Whether a normalised path fits it.
    pub fn matches(&self, path: &str) -> bool {
        self.0.matches(path)
    }
}

/// Why a target is refused. The answer is a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// `%2F`.
    #[error("the path holds an encoded slash")]
    EncodedSlash,
    /// `%5C`.
    #[error("the path holds an encoded backslash")]
    EncodedBackslash,
    /// `%2E`.
    #[error("the path holds an encoded dot")]
    EncodedDot,
    /// `\`.
    #[error("the path holds a backslash")]
    Backslash,
    /// `;`.
    #[error("the path holds a `;`")]
    Semicolon,
    /// A control character or space, plain or encoded.
    #[error("the target holds a control character or a space")]
    Control,
    /// A character outside ASCII that is not escaped.
    #[error("the target holds a character outside ASCII that is not escaped")]
    NonAscii,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a `%` that is not followed by two hexadecimal digits")]
    BadEscape,
    /// Escapes whose bytes are not UTF-8.
    #[error("the path holds escapes that are not UTF-8")]
    NotUtf8,
    /// `%25` before two hexadecimal digits.
    #[error("the path is encoded twice")]
    DoubleEncoding,
    /// `#`.
    #[error("the target holds a `#`")]
    Fragment,
    /// `..` that would leave the root.
    #[error("the path leaves the root by `..`")]
    AboveRoot,
    /// `//..`, which some programs read as removing the empty segment and others the one before it.
    #[error("the path holds `..` after an empty segment")]
    AmbiguousDots,
}

impl PathError {
    /// The code in records and in JSON.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::EncodedSlash => "path_encoded_slash",
            Self::EncodedBackslash => "path_encoded_backslash",
            Self::EncodedDot => "path_encoded_dot",
            Self::Backslash => "path_backslash",
            Self::Semicolon => "path_semicolon",
            Self::Control => "path_control_character",
            Self::NonAscii => "path_non_ascii",
            Self::BadEscape => "path_bad_escape",
            Self::NotUtf8 => "path_not_utf8",
            Self::DoubleEncoding => "path_double_encoding",
            Self::Fragment => "path_fragment",
            Self::AboveRoot => "path_above_root",
            Self::AmbiguousDots => "path_ambiguous_dots",
        }
    }
}

/// Takes a request target (a path with or without a query) apart and normalises the path.
///
/// Nothing is allocated if the path is in its normal form already.
pub fn normalize(target: &str) -> Result<Target<'_>, PathError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if let Some(query) = query {
        check_query(query)?;
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut has_escape = false;
    for byte in path.bytes() {
        match byte {
            b'%' => has_escape = true,
            b'\\' => return Err(PathError::Backslash),
            b';' => return Err(PathError::Semicolon),
            b'#' => return Err(PathError::Fragment),
            0..=b' ' | 0x7f => return Err(PathError::Control),
            0x80.. => return Err(PathError::NonAscii),
            _ => {}
        }
    }
    let decoded = if has_escape { decode(path)? } else { Cow::Borrowed(path) };
    let path = match resolve(&decoded)? {
        Some(resolved) => Cow::Owned(resolved),
        None => decoded,
    };
    Ok(Target { path, query })
}

fn check_query(query: &str) -> Result<(), PathError> {
    for byte in query.bytes() {
        match byte {
            b'#' => return Err(PathError::Fragment),
            0..=b' ' | 0x7f => return Err(PathError::Control),
            0x80.. => return Err(PathError::NonAscii),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes escapes of unreserved characters and writes the others in upper case.
fn decode(path: &str) -> Result<Cow<'_, str>, PathError> {
    let mut decoded = String::new();
    let mut copied = 0;
    let mut changed = false;
    let mut at = 0;
    while let Some(found) = path.get(at..).and_then(|rest| rest.find('%')) {
        let start = at + found;
        let byte = escape(path, start)?;
        at = start + 3;
        match byte {
            b'/' => return Err(PathError::EncodedSlash),
            b'\\' => return Err(PathError::EncodedBackslash),
            b'.' => return Err(PathError::EncodedDot),
            0..b' ' | 0x7f => return Err(PathError::Control),
            _ if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) => {
                decoded.push_str(path.get(copied..start).unwrap_or_default());
                decoded.push(char::from(byte));
                copied = at;
                changed = true;
            }
            0x80.. => {
                let end = check_utf8(path, start, byte)?;
                changed |= upper_case(path, start, end, &mut copied, &mut decoded);
                at = end;
            }
            _ => changed |= upper_case(path, start, at, &mut copied, &mut decoded),
        }
    }
    let result = if changed {
        decoded.push_str(path.get(copied..).unwrap_or_default());
        Cow::Owned(decoded)
    } else {
        Cow::Borrowed(path)
    };
    // Looked for in the result, for decoding can bring the digits together: `%25%34%31` is `%2541`.
    let mut rest = &*result;
    while let Some(found) = rest.find("%25") {
        rest = rest.get(found + 3..).unwrap_or_default();
        if rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PathError::DoubleEncoding);
        }
    }
    Ok(result)
}

/// The byte that the escape at `start` stands for.
fn escape(path: &str, start: usize) -> Result<u8, PathError> {
    let digits = path.get(start + 1..start + 3).ok_or(PathError::BadEscape)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(PathError::BadEscape);
    }
    u8::from_str_radix(digits, 16).map_err(|_| PathError::BadEscape)
}

/// Checks that the escapes from `start` on are one character in UTF-8; returns where they end.
fn check_utf8(path: &str, start: usize, first: u8) -> Result<usize, PathError> {
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(PathError::NotUtf8),
    };
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().take(length).enumerate() {
        let at = start + 3 * index;
        if path.as_bytes().get(at) != Some(&b'%') {
            return Err(PathError::NotUtf8);
        }
        *byte = escape(path, at)?;
    }
    let character = bytes.get(..length).unwrap_or_default();
    std::str::from_utf8(character).map_err(|_| PathError::NotUtf8)?;
    Ok(start + 3 * length)
}

/// Copies what comes before `end` with the escapes from `start` on in upper case; false if they are so already.
fn upper_case(
    path: &str,
    start: usize,
    end: usize,
    copied: &mut usize,
    decoded: &mut String,
) -> bool {
    let escapes = path.get(start..end).unwrap_or_default();
    if !escapes.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return false;
    }
    decoded.push_str(path.get(*copied..start).unwrap_or_default());
    decoded.extend(escapes.chars().map(|character| character.to_ascii_uppercase()));
    *copied = end;
    true
}

/// Resolves dot segments and merges slashes; `None` if there are none.
fn resolve(path: &str) -> Result<Option<String>, PathError> {
    let body = path.get(1..).unwrap_or_default();
    if !body
        .split('/')
        .rev()
        .enumerate()
        .any(|(from_end, part)| matches!(part, "." | "..") || (part.is_empty() && from_end > 0))
    {
        return Ok(None);
    }
    // Empty segments stay on the stack until the end, so that a `..` after one is seen.
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = body.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => {}
            ".." => match segments.pop() {
                None => return Err(PathError::AboveRoot),
                Some("") => return Err(PathError::AmbiguousDots),
                Some(_) => {}
            },
            "" if last => {}
            _ => segments.push(part),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in segments.into_iter().filter(|segment| !segment.is_empty()) {
        resolved.push('/');
        resolved.push_str(segment);
    }
    // A path that ends in a slash or in a dot segment names a directory and goes on to do so.
    let names_directory = matches!(body.rsplit('/').next(), Some("" | "." | ".."));
    if names_directory || resolved.is_empty() {
        resolved.push('/');
    }
    Ok(Some(resolved))
}
