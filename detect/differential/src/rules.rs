//! Generated rules: everything that Picket reads of Sigma, in small documents.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::words::{
    ADDRESSES, BOOLEANS, COUNTS, EXPRESSIONS, GROUPS, LISTS, NUMBERS, RANGES, TEXTS, WORDS,
};

/// Documents that belong together: a rule, or a correlation or a filter with what it names.
pub type Case = Vec<Value>;

/// Makes cases; the same seed makes the same.
pub struct Rules {
    rng: Rng,
    made: u64,
}

pub fn choose<T: Copy>(rng: &mut Rng, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| from.get(rng.usize(..from.len())).copied()).flatten()
}

fn word(rng: &mut Rng, from: &[&'static str]) -> &'static str {
    choose(rng, from).unwrap_or("x")
}

impl Rules {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), made: 0 }
    }

    /// A case, and how many rules of it are decided.
    pub fn case(&mut self) -> Case {
        match self.rng.u8(..10) {
            0 | 1 => self.correlated(),
            2 => self.filtered(),
            _ => vec![self.rule()],
        }
    }

    fn head(&mut self) -> Map<String, Value> {
        self.made += 1;
        let mut head = Map::new();
        head.insert("title".to_owned(), json!(format!("Generated {}", self.made)));
        head.insert("id".to_owned(), json!(format!("00000000-0000-4000-8000-{:012x}", self.made)));
        head.insert("name".to_owned(), json!(format!("rule_{}", self.made)));
        head
    }

    fn logsource(&mut self) -> Value {
        let mut source = json!({"product": "picket"});
        if self.rng.u8(..3) == 0 {
            source["category"] = json!(word(&mut self.rng, &["request", "connection", "event"]));
        }
        if self.rng.u8(..8) == 0 {
            source["service"] = json!(word(&mut self.rng, &["cart", "Payments"]));
        }
        source
    }

    fn rule(&mut self) -> Value {
        let mut rule = self.head();
        rule.insert("logsource".to_owned(), self.logsource());
        rule.insert("detection".to_owned(), Value::Object(self.selections()));
        Value::Object(rule)
    }

    /// A rule that matches often enough for correlations.
    fn broad(&mut self) -> Value {
        let mut rule = self.head();
        rule.insert("logsource".to_owned(), json!({"product": "picket"}));
        let step = self.rng.usize(..4);
        rule.insert(
            "detection".to_owned(),
            match self.rng.u8(..4) {
                0 => json!({"step": {"picket.gap.count|lte": step}, "condition": "step"}),
                1 => json!({"step": {"picket.gap.count": [step, step + 1]}, "condition": "step"}),
                2 => json!({"step": {"picket.gap.count": step}, "condition": "not step"}),
                _ => json!({"step": {"picket.gap.count": step}, "condition": "step"}),
            },
        );
        Value::Object(rule)
    }

    fn selections(&mut self) -> Map<String, Value> {
        let mut detection = Map::new();
        let count = 1 + self.rng.usize(..3);
        let mut names = Vec::new();
        for number in 0..count {
            let base = word(&mut self.rng, &["selection", "filter_x", "keywords", "_hidden"]);
            let name = format!("{base}_{number}");
            detection.insert(name.clone(), self.selection());
            names.push(name);
        }
        let condition = match self.rng.u8(..8) {
            0 => json!([self.condition(&names, 1), self.condition(&names, 1)]),
            _ => json!(self.condition(&names, 3)),
        };
        detection.insert("condition".to_owned(), condition);
        detection
    }

    /// A condition over all of the names, nested so deep at most.
    fn condition(&mut self, names: &[String], depth: u8) -> String {
        let own = names.get(self.rng.usize(..names.len())).cloned().unwrap_or_default();
        if depth == 0 {
            return own;
        }
        let visible = names.iter().any(|name| !name.starts_with('_'));
        let first = |name: &str| name.split('_').find(|part| !part.is_empty()).map(str::to_owned);
        match self.rng.u8(..10) {
            0 if visible => "1 of them".to_owned(),
            1 if visible => "all of them".to_owned(),
            2 => format!("1 of *{}*", first(&own).unwrap_or_default()),
            3 => format!("all of {}*", own.split_at(own.len().min(4)).0),
            4 => format!("not {}", self.condition(names, depth - 1)),
            5 => {
                let (left, right) = (self.condition(names, depth - 1), self.condition(names, 0));
                format!("({left}) and not ({right})")
            }
            6 => {
                let (left, right) = (self.condition(names, 0), self.condition(names, depth - 1));
                format!("{left} or {right}")
            }
            7 => {
                let left = self.condition(names, 0);
                format!("not {left} and {} or {own}", self.condition(names, depth - 1))
            }
            _ => names.join(" and "),
        }
    }

    fn selection(&mut self) -> Value {
        match self.rng.u8(..12) {
            0 => {
                let count = 1 + self.rng.usize(..3);
                json!((0..count).map(|_| self.keyword()).collect::<Vec<_>>())
            }
            1 => json!({"|all": [self.keyword(), self.keyword()]}),
            2 => json!([self.fields(), self.fields()]),
            _ => self.fields(),
        }
    }

    fn keyword(&mut self) -> String {
        let text = self.pattern();
        if text.trim().is_empty() { "GET".to_owned() } else { text }
    }

    fn fields(&mut self) -> Value {
        let mut fields = Map::new();
        for _ in 0..1 + self.rng.usize(..2) {
            let (key, value) = self.comparison();
            fields.insert(key, value);
        }
        Value::Object(fields)
    }

    fn comparison(&mut self) -> (String, Value) {
        let rng = &mut self.rng;
        match rng.u8(..20) {
            0 => (word(rng, NUMBERS).to_owned(), self.list(Self::number)),
            1 => {
                let order = word(rng, &["lt", "lte", "gt", "gte"]);
                (format!("{}|{order}", word(rng, NUMBERS)), self.number())
            }
            2 => (word(rng, BOOLEANS).to_owned(), json!(rng.bool())),
            3 => (self.any_field().to_owned(), Value::Null),
            4 => (format!("{}|exists", self.any_field()), json!(self.rng.bool())),
            5 => {
                let field = word(rng, ADDRESSES);
                let range = |rules: &mut Self| {
                    json!(choose(&mut rules.rng, RANGES).map_or("10.0.0.0/8", |range| range.0))
                };
                (format!("{field}|cidr"), self.list(range))
            }
            6 | 7 => {
                let flags = word(rng, &["", "", "|i", "|m", "|s", "|i|m", "|i|s"]);
                let field = word(rng, TEXTS);
                let expression = choose(rng, EXPRESSIONS).map_or("a", |known| known.0);
                (format!("{field}|re{flags}"), json!(expression))
            }
            8 => {
                let part = word(rng, &["", "", "|contains", "|startswith", "|endswith", "|cased"]);
                let (one, other) = (word(rng, TEXTS), word(rng, TEXTS));
                (format!("{one}|fieldref{part}"), json!(other))
            }
            9 => (word(rng, LISTS).to_owned(), self.list(|rules| json!(rules.pattern()))),
            10 => (word(rng, TEXTS).to_owned(), json!([Value::Null, self.pattern()])),
            11 => {
                let part = word(rng, &["contains", "startswith", "endswith"]);
                (format!("{}|{part}|all", self.text_field()), json!([self.part(), self.part()]))
            }
            12 => {
                let part = word(rng, &["cased", "contains|cased", "endswith|cased"]);
                (format!("{}|{part}", self.text_field()), self.list(|rules| json!(rules.part())))
            }
            13 => (format!("{}|contains", word(rng, NUMBERS)), self.number()),
            14 => (self.any_field().to_owned(), json!(self.pattern())),
            15 | 16 => {
                let part = word(rng, &["contains", "startswith", "endswith"]);
                (format!("{}|{part}", self.text_field()), self.list(|rules| json!(rules.part())))
            }
            _ => (self.text_field().to_owned(), self.list(|rules| json!(rules.pattern()))),
        }
    }

    fn list(&mut self, mut one: impl FnMut(&mut Self) -> Value) -> Value {
        match self.rng.u8(..3) {
            0 => json!((0..2 + self.rng.usize(..3)).map(|_| one(self)).collect::<Vec<_>>()),
            _ => one(self),
        }
    }

    fn text_field(&mut self) -> &'static str {
        let from = if self.rng.u8(..6) == 0 { LISTS } else { TEXTS };
        word(&mut self.rng, from)
    }

    fn any_field(&mut self) -> &'static str {
        let from = choose(&mut self.rng, &[TEXTS, NUMBERS, BOOLEANS, ADDRESSES, LISTS]);
        word(&mut self.rng, from.unwrap_or(TEXTS))
    }

    fn number(&mut self) -> Value {
        match self.rng.u8(..5) {
            0 => json!(choose(&mut self.rng, &[0.5, 1.0, 404.0, -0.0, 4.25]).unwrap_or(0.5)),
            _ => json!(choose(&mut self.rng, COUNTS).unwrap_or(0)),
        }
    }

    /// A word with wildcards and backslashes put in.
    fn pattern(&mut self) -> String {
        let plain = word(&mut self.rng, WORDS);
        if self.rng.u8(..3) == 0 {
            // As it is: what stands for itself in the event is special in the rule.
            return plain.to_owned();
        }
        let mut text = String::new();
        for c in plain.chars() {
            match c {
                '*' | '?' | '\\' if self.rng.u8(..4) > 0 => text.extend(['\\', c]),
                _ if self.rng.u8(..12) == 0 => text.push('?'),
                _ if self.rng.u8(..16) == 0 => text.extend([c, '*']),
                _ => text.push(c),
            }
        }
        match self.rng.u8(..8) {
            0 => format!("*{text}"),
            1 => format!("{text}*"),
            2 => format!("*{text}*"),
            3 => text.to_uppercase(),
            _ => text,
        }
    }

    /// A part of a word.
    fn part(&mut self) -> String {
        let pattern = self.pattern();
        let chars: Vec<char> = pattern.chars().collect();
        if chars.len() < 4 || self.rng.bool() {
            return pattern;
        }
        let from = self.rng.usize(..chars.len() / 2);
        let part: String = chars.iter().skip(from).take(chars.len() / 2).collect();
        part
    }

    fn correlated(&mut self) -> Case {
        let kind =
            word(&mut self.rng, &["event_count", "value_count", "temporal", "temporal_ordered"]);
        let is_temporal = kind.starts_with("temporal");
        let parts = if is_temporal { 2 + self.rng.usize(..2) } else { 1 + self.rng.usize(..2) };
        let mut case: Case = (0..parts).map(|_| self.broad()).collect();
        let mut names = Vec::new();
        for rule in &case {
            let by = if self.rng.bool() { "id" } else { "name" };
            names.push(rule.get(by).cloned().unwrap_or_default());
        }
        let timespan = word(&mut self.rng, &["5s", "30s", "1m", "2m", "1h"]);
        let mut correlation = json!({"type": kind, "rules": names, "timespan": timespan});
        let mut group = Vec::new();
        for field in GROUPS {
            if self.rng.u8(..3) == 0 {
                group.push(json!(field));
            }
        }
        if self.rng.u8(..4) == 0 {
            // The alias means another field for each rule. It goes by names.
            let names: Vec<Value> =
                case.iter().filter_map(|rule| rule.get("name").cloned()).collect();
            let fields = names.iter().filter_map(Value::as_str).map(|name| {
                (
                    name.to_owned(),
                    json!(word(&mut self.rng, &["picket.source", "picket.destination"])),
                )
            });
            correlation["aliases"] = json!({"who": fields.collect::<Map<_, _>>()});
            correlation["rules"] = json!(names);
            group.push(json!("who"));
        }
        if !group.is_empty() {
            correlation["group-by"] = json!(group);
        }
        if self.rng.u8(..4) == 0 {
            correlation["generate"] = json!(self.rng.bool());
        }
        let (bound, count) = (word(&mut self.rng, &["gte", "gt"]), 1 + self.rng.u8(..4));
        match kind {
            "event_count" => correlation["condition"] = json!({bound: count}),
            "value_count" => {
                let field = word(&mut self.rng, GROUPS);
                correlation["condition"] = json!({bound: count, "field": field});
            }
            _ => {}
        }
        let mut rule = self.head();
        rule.insert("correlation".to_owned(), correlation);
        case.push(Value::Object(rule));
        // Of these the two tell the same of every event that has all fields of the group.
        let is_plain =
            case.last().is_some_and(|rule| rule.pointer("/correlation/aliases").is_none());
        if is_plain && matches!(kind, "event_count" | "temporal") && self.rng.u8(..3) == 0 {
            let mut over = self.head();
            let name = case.last().and_then(|rule| rule.get("id")).cloned().unwrap_or_default();
            let mut second = json!({"type": "event_count", "rules": [name], "timespan": "2m",
                "condition": {"gte": 1 + self.rng.u8(..3)}});
            if !group.is_empty() {
                second["group-by"] = json!(group);
            }
            over.insert("correlation".to_owned(), second);
            case.push(Value::Object(over));
        }
        case
    }

    fn named(&mut self, rules: &[Value]) -> Vec<Value> {
        rules.iter().filter_map(|rule| rule.get("id").cloned()).collect()
    }

    fn filtered(&mut self) -> Case {
        let rules: Case = (0..1 + self.rng.usize(..2)).map(|_| self.rule()).collect();
        let mut filter = self.head();
        let mut body = self.selections();
        let first_source =
            rules.first().and_then(|rule| rule.get("logsource")).cloned().unwrap_or_default();
        // The filter has to have all events of the rules that it names.
        let (wanted, source) = match self.rng.u8(..3) {
            0 => (json!("any"), self.logsource()),
            1 if rules.len() == 1 => (json!(self.named(&rules)), first_source),
            _ => (json!(self.named(&rules)), json!({"product": "picket"})),
        };
        body.insert("rules".to_owned(), wanted);
        filter.insert("logsource".to_owned(), source);
        filter.insert("filter".to_owned(), Value::Object(body));
        rules.into_iter().chain([Value::Object(filter)]).collect()
    }
}

/// Whether a case is about rules that it does not name, and cannot share a set with others.
pub fn is_alone(case: &Case) -> bool {
    case.iter().any(|doc| doc.pointer("/filter/rules") == Some(&json!("any")))
}
