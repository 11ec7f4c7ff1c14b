//! Path templates: `{*}` is one segment, `{**}` any number of them.
//!
//! Matches what Envoy's URI template matcher does with the template that Istio hands it: a segment is one or more
//! characters that RFC 3986 allows there (not `*`), `{**}` zero or more of them and of slashes, and everything else is
//! literal, slashes at the end too. Sources: istio/istio `pkg/config/security/security.go` (which templates are
//! valid), envoyproxy/envoy `source/extensions/path/uri_template_lib/uri_template_internal.cc` (what they match).

/// A checked template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// What stands before `{**}`, or everything if there is none: literals with one segment between each two.
    head: Box<[Box<str>]>,
    /// What stands after `{**}`.
    tail: Option<Box<str>>,
}

/// Why a string with braces is not a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("a path template must begin with `/`")]
    NoSlash,
    #[error("`{{**}}` must be the last operator")]
    OperatorAfterAny,
    #[error("`{{` and `}}` may only be part of `{{*}}` or `{{**}}`, each alone between slashes")]
    StrayBrace,
    #[error("a segment has characters that no path has, or is empty")]
    BadLiteral,
}

impl Template {
    /// Whether a path pattern is meant as a template.
    pub(crate) fn is_one(pattern: &str) -> bool {
        pattern.contains("{*}") || pattern.contains("{**}")
    }

    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let body = text.strip_prefix('/').ok_or(TemplateError::NoSlash)?;
        let mut head: Vec<Box<str>> = Vec::new();
        let mut tail = None;
        let mut literal = String::from("/");
        let mut segments = body.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            match segment {
                "{*}" | "{**}" if tail.is_some() => return Err(TemplateError::OperatorAfterAny),
                "{*}" => head.push(std::mem::take(&mut literal).into()),
                "{**}" => {
                    head.push(std::mem::take(&mut literal).into());
                    tail = Some(());
                }
                _ if segment.contains(['{', '}']) => return Err(TemplateError::StrayBrace),
                "" if last => {}
                _ if segment.is_empty() || !segment.bytes().all(is_segment_byte) => {
                    return Err(TemplateError::BadLiteral);
                }
                _ => literal.push_str(segment),
            }
            if !last {
                literal.push('/');
            }
        }
        let tail = match tail {
            Some(()) => Some(literal.into()),
            None => {
                head.push(literal.into());
                None
            }
        };
        Ok(Self { head: head.into(), tail })
    }

    /// The literals before `{**}` with one segment between each two, and the literal after it, if there is one.
    pub(crate) fn parts(&self) -> (&[Box<str>], Option<&str>) {
        (&self.head, self.tail.as_deref())
    }

    /// What every path that it matches begins with.
    pub(crate) fn beginning(&self) -> &str {
        self.head.first().map_or("", |literal| literal)
    }

    /// What every path that it matches ends with.
    pub(crate) fn ending(&self) -> &str {
        self.tail.as_ref().or(self.head.last()).map_or("", |literal| literal)
    }

    /// Whether every path that `other` matches is certainly matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        // `{**}` at the end takes whatever any template may match, since literals are segments, too.
        let takes_rest = self.head.len() == 1 && self.tail.as_deref() == Some("");
        self == other || (takes_rest && other.beginning().starts_with(self.beginning()))
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut literals = self.head.iter();
        let Some(first) = literals.next() else { return false };
        let Some(mut left) = path.strip_prefix(&**first) else { return false };
        for literal in literals {
            // A segment ends only at a slash or at the end, so its extent is never a choice.
            let length = left.bytes().take_while(|byte| is_segment_byte(*byte)).count();
            let rest = left.get(length..).unwrap_or_default();
            if length == 0 {
                return false;
            }
            match rest.strip_prefix(&**literal) {
                Some(after) => left = after,
                None => return false,
            }
        }
        match &self.tail {
            None => left.is_empty(),
            Some(tail) => left
                .strip_suffix(&**tail)
                .is_some_and(|any| any.bytes().all(|byte| byte == b'/' || is_segment_byte(byte))),
        }
    }
}

/// RFC 3986 `pchar` without `*`, the percent sign standing for an escape.
pub(crate) fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
}
