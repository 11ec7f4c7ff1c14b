//! One comparison of one field, and how rules write it: `field|modifier: value`.
//!
//! Specification: Sigma 2.1, "Modifiers" and "Value types".

use std::cmp::Ordering;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

use crate::event::{self, Event};
use crate::pattern::{Anchor, Pattern};

/// A comparison.
#[derive(Debug, Clone)]
pub(crate) struct Test {
    /// None: any field, as a keyword asks.
    pub(crate) field: Option<String>,
    pub(crate) how: How,
}

/// How a value is compared.
#[derive(Debug, Clone)]
pub(crate) enum How {
    /// Unless `cased`, pattern and value in lower case.
    Pattern {
        pattern: Pattern,
        cased: bool,
    },
    Number(f64),
    Order(Order, f64),
    Regex(Regex),
    Cidr(IpNet),
    Exists(bool),
    /// Nothing, as `null` asks: the field is missing.
    Missing,
    /// Against the value of another field.
    Field {
        other: String,
        anchor: Anchor,
        cased: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Largest compiled regular expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

impl Test {
    /// Two comparisons with the same key are the same.
    pub(crate) fn key(&self) -> String {
        format!("{self:?}")
    }

    /// Whether it can hold although the field is missing.
    pub(crate) fn asks_for_absence(&self) -> bool {
        matches!(self.how, How::Exists(_) | How::Missing) || self.field.is_none()
    }

    pub(crate) fn holds(&self, event: &Event<'_>) -> bool {
        let Some(field) = &self.field else {
            return event.fields().any(|(_, value)| self.how.holds_for(value, event));
        };
        match (event.get(field), &self.how) {
            // The field is there also if it is null.
            (_, How::Exists(wanted)) => event.record().contains_key(field) == *wanted,
            (found, How::Missing) => found.is_none(),
            (Some(value), how) => how.holds_for(value, event),
            (None, _) => false,
        }
    }
}

impl How {
    /// Of a list, one item is enough.
    fn holds_for(&self, value: &serde_json::Value, event: &Event<'_>) -> bool {
        event::items(value).iter().any(|item| self.holds_for_item(item, event))
    }

    fn holds_for_item(&self, value: &serde_json::Value, event: &Event<'_>) -> bool {
        match self {
            Self::Pattern { pattern, cased } => event::text(value).is_some_and(|text| {
                if *cased { pattern.matches(&text) } else { pattern.matches(&event::lower(&text)) }
            }),
            // The exact number that the rule writes.
            Self::Number(wanted) => event::number(value)
                .is_some_and(|n| n.partial_cmp(wanted).is_some_and(Ordering::is_eq)),
            Self::Order(order, limit) => event::number(value).is_some_and(|n| match order {
                Order::Less => n < *limit,
                Order::LessOrEqual => n <= *limit,
                Order::Greater => n > *limit,
                Order::GreaterOrEqual => n >= *limit,
            }),
            Self::Regex(regex) => event::text(value).is_some_and(|text| regex.is_match(&text)),
            Self::Cidr(net) => {
                let address = event::text(value).and_then(|text| text.parse().ok());
                address.is_some_and(|address: std::net::IpAddr| net.contains(&address))
            }
            Self::Field { other, anchor, cased } => {
                let Some(other) = event.get(other) else { return false };
                let Some(own) = event::text(value) else { return false };
                event::items(other).iter().filter_map(event::text).any(|other| {
                    if *cased {
                        anchored(&own, &other, *anchor)
                    } else {
                        anchored(&event::lower(&own), &event::lower(&other), *anchor)
                    }
                })
            }
            Self::Exists(_) | Self::Missing => false,
        }
    }
}

fn anchored(value: &str, part: &str, anchor: Anchor) -> bool {
    match anchor {
        Anchor::Whole => value == part,
        Anchor::Start => value.starts_with(part),
        Anchor::End => value.ends_with(part),
        Anchor::Anywhere => value.contains(part),
    }
}

/// What the modifiers of one field say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modifiers {
    anchor: Anchor,
    kind: Kind,
    cased: bool,
    pub(crate) all: bool,
    ignore_case: bool,
    multi_line: bool,
    dot_all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Regex,
    Cidr,
    Exists,
    Order(Order),
    FieldRef,
}

/// A scalar of a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scalar<'n> {
    Null,
    Bool(bool),
    Number(&'n str),
    Text(&'n str),
}

/// What is wrong, and how to mend it.
pub(crate) type Wrong = (String, String);

const REFUSED: [(&str, &str); 12] = [
    ("base64", "no field of ours is encoded so"),
    ("base64offset", "no field of ours is encoded so"),
    ("wide", "no field of ours is UTF-16"),
    ("utf16", "no field of ours is UTF-16"),
    ("utf16le", "no field of ours is UTF-16"),
    ("utf16be", "no field of ours is UTF-16"),
    ("windash", "it is about command lines of Windows"),
    ("expand", "placeholders have no values here; write the values"),
    ("minute", "times are compared in `timespan` of a correlation"),
    ("hour", "times are compared in `timespan` of a correlation"),
    ("day", "times are compared in `timespan` of a correlation"),
    ("neq", "write a selection of its own and `not` in the condition"),
];

const KNOWN: &str = "contains, startswith, endswith, all, cased, re (with i, m, s), cidr, exists, lt, lte, gt, gte, fieldref";

impl Modifiers {
    /// Reads what follows the first `|` of a key.
    pub(crate) fn read<'k>(names: impl Iterator<Item = &'k str>) -> Result<Self, Wrong> {
        let mut read = Self {
            anchor: Anchor::Whole,
            kind: Kind::Plain,
            cased: false,
            all: false,
            ignore_case: false,
            multi_line: false,
            dot_all: false,
        };
        for name in names {
            match name {
                "contains" => read.anchor(Anchor::Anywhere)?,
                "startswith" => read.anchor(Anchor::Start)?,
                "endswith" => read.anchor(Anchor::End)?,
                "all" => read.all = true,
                "cased" => read.cased = true,
                "re" => read.kind(Kind::Regex)?,
                "i" if read.kind == Kind::Regex => read.ignore_case = true,
                "m" if read.kind == Kind::Regex => read.multi_line = true,
                "s" if read.kind == Kind::Regex => read.dot_all = true,
                "cidr" => read.kind(Kind::Cidr)?,
                "exists" => read.kind(Kind::Exists)?,
                "lt" => read.kind(Kind::Order(Order::Less))?,
                "lte" => read.kind(Kind::Order(Order::LessOrEqual))?,
                "gt" => read.kind(Kind::Order(Order::Greater))?,
                "gte" => read.kind(Kind::Order(Order::GreaterOrEqual))?,
                "fieldref" => read.kind(Kind::FieldRef)?,
                other => {
                    let reason = REFUSED.iter().find(|(name, _)| *name == other);
                    return Err(match reason {
                        Some((_, reason)) => {
                            (format!("the modifier `{other}` is not read: {reason}"), help())
                        }
                        None => (format!("there is no modifier `{other}`"), help()),
                    });
                }
            }
        }
        let anchored = read.anchor != Anchor::Whole;
        if anchored && !matches!(read.kind, Kind::Plain | Kind::FieldRef) {
            return Err((
                "a part of a text and a comparison that is none of texts exclude each other"
                    .to_owned(),
                "keep one of the two modifiers".to_owned(),
            ));
        }
        if read.cased && !matches!(read.kind, Kind::Plain | Kind::FieldRef) {
            return Err((
                "`cased` is about texts".to_owned(),
                "remove it; a regular expression is cased unless it has `i`".to_owned(),
            ));
        }
        Ok(read)
    }

    fn anchor(&mut self, anchor: Anchor) -> Result<(), Wrong> {
        if self.anchor != Anchor::Whole {
            return Err(exclusive());
        }
        self.anchor = anchor;
        Ok(())
    }

    fn kind(&mut self, kind: Kind) -> Result<(), Wrong> {
        if self.kind != Kind::Plain {
            return Err(exclusive());
        }
        self.kind = kind;
        Ok(())
    }

    /// The comparison with one value.
    pub(crate) fn compare(&self, value: Scalar<'_>) -> Result<How, Wrong> {
        match (self.kind, value) {
            (Kind::Plain, Scalar::Null) if self.anchor == Anchor::Whole => Ok(How::Missing),
            (Kind::Plain, Scalar::Number(text)) if self.anchor == Anchor::Whole => {
                float(text).map(How::Number)
            }
            (Kind::Plain, Scalar::Text(text) | Scalar::Number(text)) => Ok(self.pattern(text)),
            (Kind::Plain, Scalar::Bool(value)) => {
                Ok(self.pattern(if value { "true" } else { "false" }))
            }
            (Kind::Regex, Scalar::Text(text)) => RegexBuilder::new(text)
                .case_insensitive(self.ignore_case)
                .multi_line(self.multi_line)
                .dot_matches_new_line(self.dot_all)
                .size_limit(MAX_REGEX)
                .build()
                .map(How::Regex)
                .map_err(|error| {
                    let words = error.to_string();
                    let words = words.lines().last().unwrap_or_default().trim().to_owned();
                    let help =
                        "look-around and back references are not read: they have no linear time";
                    (format!("the regular expression cannot be used: {words}"), help.to_owned())
                }),
            (Kind::Cidr, Scalar::Text(text)) => text.parse().map(How::Cidr).map_err(|_| {
                (
                    format!("{text:?} is no range of addresses"),
                    "write one such as 10.0.0.0/8".to_owned(),
                )
            }),
            (Kind::Exists, Scalar::Bool(value)) => Ok(How::Exists(value)),
            (Kind::Order(order), Scalar::Number(text) | Scalar::Text(text)) => {
                float(text).map(|number| How::Order(order, number))
            }
            (Kind::FieldRef, Scalar::Text(other)) => {
                Ok(How::Field { other: other.to_owned(), anchor: self.anchor, cased: self.cased })
            }
            (kind, _) => {
                let wanted = match kind {
                    Kind::Plain => "a text: without a value there is nothing that could be a part",
                    Kind::Regex => "a regular expression in quotes",
                    Kind::Cidr => "a range such as 10.0.0.0/8",
                    Kind::Exists => "true or false",
                    Kind::Order(_) => "a number",
                    Kind::FieldRef => "the name of a field",
                };
                Err((format!("the modifiers ask for {wanted}"), "write one there".to_owned()))
            }
        }
    }

    fn pattern(&self, text: &str) -> How {
        let pattern = Pattern::read(text, self.anchor);
        let pattern = if self.cased { pattern } else { pattern.lower() };
        How::Pattern { pattern, cased: self.cased }
    }
}

fn float(text: &str) -> Result<f64, Wrong> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| {
        (format!("{text:?} is no number"), "write one such as 400 or 0.5".to_owned())
    })
}

fn exclusive() -> Wrong {
    ("two modifiers exclude each other".to_owned(), "keep one of them".to_owned())
}

fn help() -> String {
    format!("there are {KNOWN}")
}
