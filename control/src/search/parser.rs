//! From tokens to an expression.
//!
//! ```text
//! filter     = disjunct { "or" disjunct }
//! disjunct   = conjunct { "and" conjunct }
//! conjunct   = "not" conjunct | "(" filter ")" | "has" field | field test
//! test       = ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~" ) value | [ "not" ] "in" "(" value { "," value } ")"
//! value      = word | "quoted" | duration "ago"
//! ```

use super::expression::{Compare, Expression, Subject, Test, Value};
use super::fields::field;
use super::lexer::{Kind, Token, tokens};
use super::values::{Read, is_ordered, pattern, value};
use super::{FilterError, Scope};

/// Longest filter, in bytes.
const MAX_LENGTH: usize = 8 * 1024;
/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 32;
/// Most conditions, values of lists included.
const MAX_CONDITIONS: usize = 500;

/// Reads a filter. An empty one is every record.
pub(crate) fn parse(text: &str, scope: Scope<'_>) -> Result<Expression, FilterError> {
    if text.len() > MAX_LENGTH {
        let message = format!("the filter has more than {MAX_LENGTH} bytes");
        return Err(FilterError::new(text, (MAX_LENGTH, 1), message, ""));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, scope, depth: 0, conditions: 0 };
    if *parser.kind() == Kind::End {
        return Ok(Expression::All(Vec::new()));
    }
    let expression = parser.filter()?;
    match parser.kind() {
        Kind::End => Ok(expression),
        Kind::Close => Err(parser.error("this closes nothing", "remove it, or open it before")),
        _ => Err(parser.error("`and` or `or` is missing before this", "")),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: &'t [Token],
    scope: Scope<'t>,
    depth: usize,
    conditions: usize,
}

const END: Token = Token { kind: Kind::End, at: (0, 0) };

impl<'t> Parser<'t> {
    fn token(&self) -> &'t Token {
        self.tokens.first().unwrap_or(&END)
    }

    fn kind(&self) -> &'t Kind {
        &self.token().kind
    }

    fn advance(&mut self) -> &'t Token {
        let token = self.token();
        // The end stays where it is.
        if let [_, rest @ ..] = self.tokens
            && !rest.is_empty()
        {
            self.tokens = rest;
        }
        token
    }

    fn error(&self, message: impl Into<String>, help: impl Into<String>) -> FilterError {
        self.error_at(self.token(), message, help)
    }

    fn error_at(
        &self,
        token: &Token,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> FilterError {
        FilterError::new(self.text, token.at, message, help)
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let is_it = matches!(self.kind(), Kind::Word(word) if word.eq_ignore_ascii_case(keyword));
        if is_it {
            self.advance();
        }
        is_it
    }

    fn filter(&mut self) -> Result<Expression, FilterError> {
        let first = self.conjunction()?;
        let mut parts = vec![first];
        while self.keyword("or") {
            parts.push(self.conjunction()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn conjunction(&mut self) -> Result<Expression, FilterError> {
        let first = self.condition()?;
        let mut parts = vec![first];
        while self.keyword("and") {
            parts.push(self.condition()?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn condition(&mut self) -> Result<Expression, FilterError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("this is nested more than {MAX_DEPTH} deep"), ""));
        }
        self.depth += 1;
        let condition = if self.keyword("not") {
            Expression::Not(Box::new(self.condition()?))
        } else if *self.kind() == Kind::Open {
            let open = self.advance();
            let inner = self.filter()?;
            if *self.kind() != Kind::Close {
                return Err(match self.kind() {
                    Kind::End => self.error_at(open, "this is not closed", "end it with )"),
                    _ => self.error("`and`, `or` or ) is missing before this", ""),
                });
            }
            self.advance();
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn comparison(&mut self) -> Result<Expression, FilterError> {
        let has = self.keyword("has") || self.keyword("exists");
        let (name, subject) = self.field()?;
        self.count()?;
        if has {
            return Ok(Expression::Is(subject, Test::Exists));
        }
        let negated = self.keyword("not");
        if self.keyword("in") {
            let within = self.list(&name, &subject)?;
            return Ok(if negated { Expression::Not(Box::new(within)) } else { within });
        }
        let operator = self.token();
        let Kind::Operator(sign) = operator.kind else {
            let help = "one of = != < <= > >= ~ !~ in (…); or `has` before the field";
            return Err(self.error(format!("an operator is missing after {name}"), help));
        };
        self.advance();
        let compare = match sign {
            "=" | "!=" => {
                let equal = Expression::Is(subject.clone(), self.read(&name, &subject)?.equal());
                return Ok(if sign == "=" { equal } else { Expression::Not(Box::new(equal)) });
            }
            "~" | "!~" => {
                let like = self.like(operator, &name, subject)?;
                return Ok(if sign == "~" { like } else { Expression::Not(Box::new(like)) });
            }
            "<" => Compare::Less,
            "<=" => Compare::LessOrEqual,
            ">" => Compare::Greater,
            _ => Compare::GreaterOrEqual,
        };
        if !is_ordered(&subject) {
            let message = format!("{name} is neither less nor greater than anything");
            return Err(self.error_at(operator, message, "use =, !=, ~ or in (…)"));
        }
        let at = self.token();
        match self.read(&name, &subject)? {
            Read::One(value) => Ok(Expression::Is(subject, Test::Is(compare, value))),
            Read::Between(..) => {
                let help = "compare with a code such as 500, or write = 5xx";
                Err(self.error_at(at, "a class is neither less nor greater than anything", help))
            }
        }
    }

    fn like(
        &mut self,
        operator: &Token,
        name: &str,
        subject: Subject,
    ) -> Result<Expression, FilterError> {
        let (text, _) = self.text_of_value(name)?;
        let Some(glob) = pattern(&subject, &text, self.scope) else {
            let message = format!("{name} is compared with no pattern");
            return Err(self.error_at(operator, message, "use ="));
        };
        Ok(Expression::Is(subject, Test::Like(glob)))
    }

    fn field(&mut self) -> Result<(String, Subject), FilterError> {
        let token = self.token();
        match &token.kind {
            Kind::Word(name) => match field(name) {
                Ok(field) => {
                    self.advance();
                    Ok((name.clone(), field.subject))
                }
                Err(help) => Err(self.error(format!("there is no field {name}"), help)),
            },
            // In quotes: any attribute, whoever wrote it.
            Kind::Quoted(name) => {
                self.advance();
                let subject = field(name).map(|field| field.subject);
                Ok((name.clone(), subject.unwrap_or_else(|_| Subject::Attribute(name.clone()))))
            }
            Kind::End => Err(self.error("a condition is missing here", "such as decision = deny")),
            _ => Err(self.error("a field is expected here", "such as decision = deny")),
        }
    }

    fn list(&mut self, name: &str, subject: &Subject) -> Result<Expression, FilterError> {
        if *self.kind() != Kind::Open {
            return Err(self.error("a list is missing here", "such as in (403, 404)"));
        }
        let open = self.advance();
        let (mut values, mut ranges): (Vec<Value>, Vec<Expression>) = (Vec::new(), Vec::new());
        loop {
            self.count()?;
            match self.read(name, subject)? {
                Read::One(value) => values.push(value),
                Read::Between(low, high) => {
                    ranges.push(Expression::Is(subject.clone(), Test::Between(low, high)));
                }
            }
            match self.kind() {
                Kind::Comma => {
                    self.advance();
                }
                Kind::Close => {
                    self.advance();
                    break;
                }
                Kind::End => {
                    return Err(self.error_at(open, "this is not closed", "end it with )"));
                }
                _ => return Err(self.error("a comma or ) is missing before this", "")),
            };
        }
        if !values.is_empty() {
            ranges.push(Expression::Is(subject.clone(), Test::In(values)));
        }
        Ok(one_or(ranges, Expression::Any))
    }

    fn read(&mut self, name: &str, subject: &Subject) -> Result<Read, FilterError> {
        let token = self.token();
        let (text, is_quoted) = self.text_of_value(name)?;
        value(subject, &text, is_quoted, self.scope)
            .map_err(|help| self.error_at(token, format!("{text:?} is no {name}"), help))
    }

    fn text_of_value(&mut self, name: &str) -> Result<(String, bool), FilterError> {
        let token = self.token();
        match &token.kind {
            Kind::Quoted(text) => {
                self.advance();
                Ok((text.clone(), true))
            }
            Kind::Word(text) => {
                self.advance();
                let ago = self.keyword("ago");
                Ok((if ago { format!("{text} ago") } else { text.clone() }, false))
            }
            _ => {
                let help = "texts with spaces or one of ( ) , = < > ~ ! need quotes";
                Err(self.error(format!("a value is missing after {name}"), help))
            }
        }
    }

    fn count(&mut self) -> Result<(), FilterError> {
        self.conditions += 1;
        if self.conditions > MAX_CONDITIONS {
            return Err(self.error(format!("there are more than {MAX_CONDITIONS} conditions"), ""));
        }
        Ok(())
    }
}

fn one_or(mut parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    match (parts.len(), parts.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            parts.extend(last);
            many(parts)
        }
    }
}
