//! Cutting a filter into tokens.

use super::FilterError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    Comma,
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`, `~`, `!~`
    Operator(&'static str),
    /// Without quotes.
    Word(String),
    Quoted(String),
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it begins, in bytes, and how long it is.
    pub(super) at: (usize, usize),
}

const OPERATORS: [&str; 9] = ["!=", "<=", ">=", "!~", "==", "=", "<", ">", "~"];

/// All tokens, the last one being the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let start = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            tokens.push(Token { kind: Kind::End, at: (start, 0) });
            return Ok(tokens);
        };
        let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
        let (kind, length) = match (first, operator) {
            ('(', _) => (Kind::Open, 1),
            (')', _) => (Kind::Close, 1),
            (',', _) => (Kind::Comma, 1),
            ('"' | '\'', _) => quoted(text, start, first)?,
            (_, Some(&"==")) => (Kind::Operator("="), 2),
            (_, Some(operator)) => (Kind::Operator(operator), operator.len()),
            _ => {
                let end = rest.find(ends_word).unwrap_or(rest.len()).max(first.len_utf8());
                let word = rest.get(..end).unwrap_or_default();
                (Kind::Word(word.to_owned()), end)
            }
        };
        tokens.push(Token { kind, at: (start, length) });
        rest = rest.get(length..).unwrap_or_default();
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || "(),\"'=<>~!".contains(c)
}

/// A text in quotes: a backslash before the quote takes it as a character; before all else it is one itself, for
/// patterns to read.
fn quoted(text: &str, start: usize, quote: char) -> Result<(Kind, usize), FilterError> {
    let mut out = String::new();
    let mut rest = text.get(start + 1..).unwrap_or_default().char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some((_, c)) if c == quote => out.push(c),
                Some((_, c)) => out.extend(['\\', c]),
                None => break,
            },
            c if c == quote => return Ok((Kind::Quoted(out), at + 2)),
            c => out.push(c),
        }
    }
    let at = (start, text.len() - start);
    Err(FilterError::new(text, at, "a quote is not closed", format!("end it with {quote}")))
}
