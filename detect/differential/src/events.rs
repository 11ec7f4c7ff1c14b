//! Generated events: made for the rules that they are held against, so that most nearly match.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::comparisons::{Comparison, comparisons};
use crate::rules::choose;
use crate::words::{ADDRESSES, COUNTS, EXPRESSIONS, LISTS, NUMBERS, RANGES, TEXTS, WORDS};

/// When events begin: 2026-11-26T10:00:00Z.
const START: i64 = 1_795_687_200;

/// Makes events; the same seed makes the same.
pub struct Events {
    rng: Rng,
    made: u64,
    time: i64,
    /// Whether events may come late.
    is_late: bool,
}

impl Events {
    pub fn new(seed: u64, is_late: bool) -> Self {
        Self { rng: Rng::with_seed(seed), made: 0, time: START, is_late }
    }

    /// An event that one of the rules looks for, or nearly.
    pub fn event(&mut self, rules: &[Value]) -> Value {
        let mut record = self.ground();
        if let Some(rule) = rules.get(self.rng.usize(..rules.len().max(1))) {
            for wanted in comparisons(rule) {
                if self.rng.u8(..5) > 0 {
                    self.fulfil(&wanted, &mut record);
                }
            }
            for (name, key) in [("category", "picket.kind"), ("service", "service.name")] {
                let source = rule.pointer(&format!("/logsource/{name}"));
                if let Some(source) = source.filter(|_| self.rng.u8(..8) > 0) {
                    record.insert(key.to_owned(), source.clone());
                }
            }
        }
        Value::Object(record)
    }

    /// What every event has, and some more.
    fn ground(&mut self) -> Map<String, Value> {
        self.made += 1;
        // Often no time passes, and often just the length of a window or a second more.
        let step = choose(&mut self.rng, &[0, 0, 0, 1, 1, 2, 4, 5, 6, 29, 30, 31, 60, 61]);
        self.time += step.unwrap_or(0);
        let behind = match self.is_late && self.rng.u8(..3) == 0 {
            true => choose(&mut self.rng, &[1, 5, 10, 29, 30, 31, 60]).unwrap_or(0),
            false => 0,
        };
        let rng = &mut self.rng;
        let mut record = Map::new();
        record.insert("id".to_owned(), json!(format!("e-{}", self.made)));
        record.insert("time".to_owned(), json!(rfc3339(self.time - behind)));
        let kind = choose(rng, &["request", "request", "connection", "event"]);
        record.insert("picket.kind".to_owned(), json!(kind.unwrap_or("request")));
        record.insert("picket.gap.count".to_owned(), json!(rng.u8(..5)));
        for name in ["picket.source", "picket.destination"] {
            if rng.u8(..8) > 0 {
                let who = choose(rng, &["a", "b", "c"]).unwrap_or("a");
                record.insert(name.to_owned(), json!(who));
            }
        }
        if rng.u8(..8) > 0 {
            let port = 80 + u16::from(rng.u8(..3));
            let port = if rng.u8(..4) == 0 { json!(port.to_string()) } else { json!(port) };
            record.insert("network.peer.port".to_owned(), port);
        }
        for _ in 0..rng.usize(..4) {
            let field = choose(rng, TEXTS).unwrap_or("url.path");
            record.insert(field.to_owned(), json!(choose(rng, WORDS).unwrap_or("x")));
        }
        if rng.u8(..4) == 0 {
            let field = choose(rng, NUMBERS).unwrap_or("duration_us");
            record.insert(field.to_owned(), json!(choose(rng, COUNTS).unwrap_or(0)));
        }
        if rng.u8(..4) == 0 {
            let field = choose(rng, LISTS).unwrap_or("picket.labels");
            let items: Vec<_> = (0..rng.usize(..3)).filter_map(|_| choose(rng, WORDS)).collect();
            record.insert(field.to_owned(), json!(items));
        }
        record
    }

    /// Makes a comparison hold, or nearly.
    fn fulfil(&mut self, wanted: &Comparison, record: &mut Map<String, Value>) {
        let Some(field) = wanted.field.clone() else {
            if let Some(word) = wanted.value.as_str() {
                let text = format!("{}{}", self.filler(), self.filled(word));
                let field = choose(&mut self.rng, TEXTS).unwrap_or("url.path");
                record.insert(field.to_owned(), json!(text));
            }
            return;
        };
        let value = if wanted.has("exists") {
            match self.rng.u8(..3) {
                0 => None,
                1 => Some(Value::Null),
                _ => Some(json!("x")),
            }
        } else if wanted.has("re") {
            let known = EXPRESSIONS.iter().find(|known| wanted.value == known.0);
            known.and_then(|known| choose(&mut self.rng, known.1)).map(|text| json!(text))
        } else if wanted.has("cidr") {
            let known = RANGES.iter().find(|known| wanted.value == known.0);
            known.and_then(|known| choose(&mut self.rng, known.1)).map(|text| json!(text))
        } else if wanted.has("fieldref") {
            let other = wanted.value.as_str().and_then(|name| record.get(name)).cloned();
            other.map(|other| self.around(wanted, other))
        } else {
            match &wanted.value {
                Value::Null if self.rng.bool() => None,
                Value::Number(number) => Some(self.near(number)),
                Value::String(text) => {
                    let text = self.filled(text);
                    Some(self.around(wanted, json!(text)))
                }
                other => Some(other.clone()),
            }
        };
        let value = value.map(|value| self.spoil(&field, value));
        match value {
            Some(value) => record.insert(field, value),
            None => record.remove(&field),
        };
    }

    /// A text that a pattern matches.
    fn filled(&mut self, pattern: &str) -> String {
        let mut text = String::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' => text.push_str(self.filler()),
                '?' => text.push(choose(&mut self.rng, &['x', 'é', '?', '\n']).unwrap_or('x')),
                '\\' => {
                    text.push(chars.next_if(|c| matches!(c, '*' | '?' | '\\')).unwrap_or('\\'));
                }
                other => text.push(other),
            }
        }
        text
    }

    fn filler(&mut self) -> &'static str {
        choose(&mut self.rng, &["", "", "x", "yz", "/", "É", "\n"]).unwrap_or("")
    }

    /// With something before or after it where the modifiers allow that.
    fn around(&mut self, wanted: &Comparison, value: Value) -> Value {
        let Some(text) = value.as_str() else { return value };
        let (before, after) = (self.filler(), self.filler());
        if wanted.has("contains") {
            json!(format!("{before}{text}{after}"))
        } else if wanted.has("startswith") {
            json!(format!("{text}{after}"))
        } else if wanted.has("endswith") {
            json!(format!("{before}{text}"))
        } else {
            value
        }
    }

    /// The number or one beside it, as a number or as a text.
    fn near(&mut self, number: &serde_json::Number) -> Value {
        let rng = &mut self.rng;
        if let Some(whole) = number.as_i64() {
            let near = whole + i64::from(rng.i8(-1..=1));
            return match rng.u8(..6) {
                0 => json!(near.to_string()),
                1 => json!(near as f64),
                2 => json!(format!("{near}.0")),
                3 => json!(format!(" {near}")),
                _ => json!(near),
            };
        }
        let value = number.as_f64().unwrap_or(0.0);
        match rng.u8(..4) {
            0 => json!(value.to_string()),
            1 => json!(value + 0.25),
            _ => json!(value),
        }
    }

    /// The value in another shape: other case, a list around it, something else in its place.
    fn spoil(&mut self, field: &str, value: Value) -> Value {
        let rng = &mut self.rng;
        let is_list = LISTS.contains(&field);
        let value = match (&value, rng.u8(..16)) {
            (Value::String(text), 0 | 1) => json!(text.to_uppercase()),
            (Value::String(text), 2 | 3) => json!(text.to_lowercase()),
            (Value::String(text), 4) => {
                let mut chars: Vec<char> = text.chars().collect();
                if !chars.is_empty() {
                    chars.remove(rng.usize(..chars.len()));
                }
                json!(chars.into_iter().collect::<String>())
            }
            (Value::Bool(value), 0..4) => json!(value.to_string()),
            (Value::Bool(value), 4) => json!(u8::from(*value)),
            (Value::Bool(value), 5) => json!(u8::from(*value).to_string()),
            (Value::Bool(value), 6..=9) => json!(!value),
            (_, 10) => Value::Null,
            (_, 11) if !ADDRESSES.contains(&field) => json!(choose(rng, WORDS).unwrap_or("x")),
            _ => value,
        };
        match is_list || rng.u8(..24) == 0 {
            true if rng.bool() => json!([choose(rng, WORDS).unwrap_or("x"), value]),
            true => json!([value]),
            false => value,
        }
    }
}

fn rfc3339(seconds: i64) -> String {
    let day = seconds.div_euclid(86_400) - START.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    // Streams last hours, and November has 30 days.
    format!("2026-11-{:02}T{hour:02}:{minute:02}:{:02}Z", 26 + day, second % 60)
}
