//! The condition of a detection: `selection and not 1 of filter_*`.
//!
//! Specification: Sigma 2.1, "Condition". From strongest to weakest: parentheses, `x of`, `not`, `and`, `or`.

use crate::pattern::{Anchor, Pattern};

/// What has to hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr<T> {
    Test(T),
    All(Vec<Expr<T>>),
    Any(Vec<Expr<T>>),
    Not(Box<Expr<T>>),
}

impl<T> Expr<T> {
    /// The same with other tests.
    pub(crate) fn map<U>(self, change: &mut impl FnMut(T) -> U) -> Expr<U> {
        let mut list = |items: Vec<Self>| items.into_iter().map(|item| item.map(change)).collect();
        match self {
            Self::Test(test) => Expr::Test(change(test)),
            Self::All(items) => Expr::All(list(items)),
            Self::Any(items) => Expr::Any(list(items)),
            Self::Not(inner) => Expr::Not(Box::new(inner.map(change))),
        }
    }

    /// Every test.
    pub(crate) fn tests<'e>(&'e self, visit: &mut impl FnMut(&'e T)) {
        match self {
            Self::Test(test) => visit(test),
            Self::All(items) | Self::Any(items) => items.iter().for_each(|item| item.tests(visit)),
            Self::Not(inner) => inner.tests(visit),
        }
    }
}

/// What is wrong with a condition: from which character on, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) words: String,
}

/// Levels of parentheses and `not`.
const MAX_DEPTH: usize = 32;

/// Reads a condition over selections with these names. Those whose names begin with `_` are not `them`.
pub(crate) fn read(text: &str, names: &[String]) -> Result<Expr<usize>, Wrong> {
    let tokens = tokens(text)?;
    let mut parser =
        Parser { tokens: &tokens, next: 0, names, end: text.chars().count(), depth: 0 };
    let expression = parser.any()?;
    match parser.peek() {
        None => Ok(expression),
        Some(token) => Err(Wrong {
            at: token.at,
            words: format!("`{}` is not expected; `and` or `or` has to stand between", token.text),
        }),
    }
}

struct Token<'t> {
    at: usize,
    text: &'t str,
}

impl Token<'_> {
    fn is(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Wrong> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '*' | '-' | '.');
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut at = 0;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            _ if c.is_whitespace() => c.len_utf8(),
            '(' | ')' => 1,
            '|' => {
                let words = "aggregations in a condition are not read: write a correlation";
                return Err(Wrong { at, words: words.to_owned() });
            }
            _ if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => return Err(Wrong { at, words: format!("`{c}` has no meaning here") }),
        };
        let (token, after) = rest.split_at(length);
        if !c.is_whitespace() {
            tokens.push(Token { at, text: token });
        }
        at += token.chars().count();
        rest = after;
    }
    Ok(tokens)
}

struct Parser<'t> {
    tokens: &'t [Token<'t>],
    next: usize,
    names: &'t [String],
    end: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<&'t Token<'t>> {
        self.tokens.get(self.next)
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is(word));
        self.next += usize::from(found);
        found
    }

    fn wrong<T>(&self, words: impl Into<String>) -> Result<T, Wrong> {
        let at = self.peek().map_or(self.end, |token| token.at);
        Err(Wrong { at, words: words.into() })
    }

    fn any(&mut self) -> Result<Expr<usize>, Wrong> {
        let mut items = vec![self.all()?];
        while self.takes("or") {
            items.push(self.all()?);
        }
        Ok(one_or(items, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr<usize>, Wrong> {
        let mut items = vec![self.single()?];
        while self.takes("and") {
            items.push(self.single()?);
        }
        Ok(one_or(items, Expr::All))
    }

    fn single(&mut self) -> Result<Expr<usize>, Wrong> {
        if self.depth == MAX_DEPTH {
            return self
                .wrong(format!("the condition is nested more than {MAX_DEPTH} levels deep"));
        }
        if self.takes("not") {
            self.depth += 1;
            let inner = self.single();
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(inner?)));
        }
        if self.takes("(") {
            self.depth += 1;
            let inner = self.any();
            self.depth -= 1;
            let inner = inner?;
            return if self.takes(")") { Ok(inner) } else { self.wrong("a `)` is missing") };
        }
        let Some(token) = self.peek() else { return self.wrong("a selection is missing") };
        let follows_of = self.tokens.get(self.next + 1).is_some_and(|token| token.is("of"));
        if follows_of {
            return self.some_of();
        }
        if ["and", "or", "of", ")"].iter().any(|word| token.is(word)) {
            return self.wrong(format!("a selection is missing before `{}`", token.text));
        }
        match self.names.iter().position(|name| name == token.text) {
            Some(index) => {
                self.next += 1;
                Ok(Expr::Test(index))
            }
            None => self.wrong(format!("there is no selection `{}`", token.text)),
        }
    }

    /// `1 of selection_*`, `all of them`
    fn some_of(&mut self) -> Result<Expr<usize>, Wrong> {
        let Some(quantity) = self.peek() else { return self.wrong("a selection is missing") };
        let all = match quantity {
            token if token.is("all") => true,
            token if token.is("1") || token.is("any") => false,
            token => {
                let words = "only `1 of`, `any of` and `all of` are read".to_owned();
                return Err(Wrong { at: token.at, words });
            }
        };
        self.next += 2;
        let Some(which) = self.peek() else { return self.wrong("`of` whom?") };
        let pattern = Pattern::read(which.text, Anchor::Whole);
        let is_meant = |name: &String| match which.is("them") {
            true => !name.starts_with('_'),
            false => pattern.matches(name),
        };
        let found = self.names.iter().enumerate().filter(|(_, name)| is_meant(name));
        let items: Vec<Expr<usize>> = found.map(|(index, _)| Expr::Test(index)).collect();
        if items.is_empty() {
            return self.wrong(format!("no selection is named like `{}`", which.text));
        }
        self.next += 1;
        Ok(one_or(items, if all { Expr::All } else { Expr::Any }))
    }
}

fn one_or<T>(mut items: Vec<Expr<T>>, make: impl FnOnce(Vec<Expr<T>>) -> Expr<T>) -> Expr<T> {
    match items.pop() {
        Some(single) if items.is_empty() => single,
        Some(last) => {
            items.push(last);
            make(items)
        }
        None => make(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, Wrong> {
        let names = ["a", "b", "sel_1", "sel_2", "_hidden"].map(str::to_owned);
        read(text, &names).map(|expression| shown(&expression))
    }

    fn shown(expression: &Expr<usize>) -> String {
        let list = |items: &[Expr<usize>]| items.iter().map(shown).collect::<Vec<_>>().join(" ");
        match expression {
            Expr::Test(index) => index.to_string(),
            Expr::All(items) => format!("(and {})", list(items)),
            Expr::Any(items) => format!("(or {})", list(items)),
            Expr::Not(inner) => format!("(not {})", shown(inner)),
        }
    }

    #[test]
    fn what_binds_stronger_binds_first() {
        assert_eq!(parse("a or b and not sel_1").unwrap(), "(or 0 (and 1 (not 2)))");
        assert_eq!(parse("(a or b) AND NOT 1 of sel_*").unwrap(), "(and (or 0 1) (not (or 2 3)))");
        assert_eq!(parse("all of them").unwrap(), "(and 0 1 2 3)");
        assert_eq!(parse("any of _*").unwrap(), "4");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let at = |text: &str| parse(text).unwrap_err();
        assert_eq!(at("a and").words, "a selection is missing");
        assert_eq!((at("a c").at, at("a and c").at), (2, 6));
        assert!(at("a and c").words.contains("no selection `c`"));
        assert!(at("a | count() > 3").words.contains("correlation"));
        assert!(at("2 of them").words.contains("only"));
        assert!(at("1 of x*").words.contains("named like"));
        assert!(at("(a").words.contains("missing"));
        assert!(at(&"not ".repeat(40)).words.contains("nested"));
        assert!(at("a & b").words.contains("no meaning"));
    }
}
