//! Patterns with `*`, which stands for any text, the empty one included.

/// A pattern, cut at its asterisks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    parts: Vec<String>,
}

impl Glob {
    /// Reads a pattern. `\*` is an asterisk, `\\` a backslash.
    pub(crate) fn new(pattern: &str) -> Self {
        let (mut parts, mut part) = (Vec::new(), String::new());
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => part.extend(rest.next()),
                '*' => parts.push(std::mem::take(&mut part)),
                c => part.push(c),
            }
        }
        parts.push(part);
        Self { parts }
    }

    /// Everything that begins with a text.
    pub(crate) fn prefix(text: &str) -> Self {
        Self { parts: vec![text.to_owned(), String::new()] }
    }

    /// Whether a text is as the pattern says: each part is looked for once, from where the one before ended.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let [first, rest @ ..] = self.parts.as_slice() else { return false };
        let [between @ .., last] = rest else { return text == first };
        let Some(mut text) = text.strip_prefix(first.as_str()) else { return false };
        for part in between {
            let Some(at) = text.find(part.as_str()) else { return false };
            text = text.get(at + part.len()..).unwrap_or_default();
        }
        text.ends_with(last.as_str())
    }

    /// The pattern as it is read by [`Glob::new`].
    pub(crate) fn pattern(&self) -> String {
        let escaped = |part: &String| part.replace('\\', "\\\\").replace('*', "\\*");
        self.parts.iter().map(escaped).collect::<Vec<_>>().join("*")
    }

    /// The same with another beginning.
    pub(crate) fn below(mut self, beginning: &str) -> Self {
        if let Some(first) = self.parts.first_mut() {
            first.insert_str(0, beginning);
        }
        self
    }

    /// Puts a text in the place of the first slash, if there is one.
    pub(crate) fn with_slash_as(mut self, text: &str) -> Self {
        if let Some(part) = self.parts.iter_mut().find(|part| part.contains('/')) {
            *part = part.replacen('/', text, 1);
        }
        self
    }

    /// Whether there is a slash in it.
    pub(crate) fn has_slash(&self) -> bool {
        self.parts.iter().any(|part| part.contains('/'))
    }
}
