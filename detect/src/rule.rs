//! One document of a rule file as it is written: a detection rule, a correlation or a filter.
//!
//! Everything is taken by name, and what is left over is refused with its place: a rule that is misread silently never
//! matches. What rules mean together is seen in [`crate::set`].
//!
//! Specification: Sigma 2.1, "Rule structure", "Correlation", "Filter"; our own keys stand under `x-picket`.

use std::sync::Arc;

use picket_documents::fields::{Field, Fields, Reader, Text};
use picket_documents::yaml::{At, Key, Node, Value};

use crate::alert::Level;
use crate::condition::{self, Expr};
use crate::correlation::Correlation;
use crate::known::{KNOWN, is_known};
use crate::matcher::{How, Modifiers, Scalar, Test};
use crate::pattern::{Anchor, Pattern};

/// The codes of what can be wrong with a rule; those of YAML and of fields are `P00` and `P02`.
pub mod code {
    pub use picket_documents::diagnostic::code::*;

    /// Neither a detection, nor a correlation, nor a filter.
    pub const NO_RULE: &str = "R0101";
    /// An `id`, `name`, `status`, `level` or tag that is none.
    pub const BAD_HEADER: &str = "R0102";
    /// A `logsource` that no event comes from.
    pub const BAD_LOGSOURCE: &str = "R0103";
    /// Two rules with one id or name.
    pub const DUPLICATE_RULE: &str = "R0104";
    /// A field that no event has.
    pub const UNKNOWN_EVENT_FIELD: &str = "R0201";
    /// A modifier or a value that cannot be used.
    pub const BAD_VALUE: &str = "R0202";
    /// A condition that cannot be read.
    pub const BAD_CONDITION: &str = "R0203";
    /// Warning: a selection that the condition does not name.
    pub const UNUSED_SELECTION: &str = "R0290";
    /// A correlation that cannot be computed.
    pub const BAD_CORRELATION: &str = "R0301";
    /// A rule that is referred to and not there.
    pub const UNKNOWN_RULE: &str = "R0302";
    /// Correlations that refer to each other in a circle.
    pub const CIRCLE: &str = "R0303";
    /// A key of ours that has no effect yet.
    pub const NOT_READ: &str = "R0402";
    /// A setting under `x-picket` that is none.
    pub const BAD_SETTING: &str = "R0401";
}

/// Entries of one list.
pub(crate) const MAX_LIST: usize = 2_000;
/// Fields of a group.
const MAX_GROUP: usize = 8;
const SECOND: i64 = 1_000_000_000;

/// What every kind of document begins with.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) file: Arc<str>,
    pub(crate) at: At,
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) title: String,
    pub(crate) level: Level,
    pub(crate) tags: Vec<String>,
    pub(crate) false_positives: Vec<String>,
    pub(crate) settings: Settings,
}

/// What stands under `x-picket`.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What the matches of one alert have in common.
    pub(crate) group_by: Vec<String>,
    /// How much later than newer ones an event may come and still count in a window, in nanoseconds.
    pub(crate) lateness: i64,
    /// Groups that are kept.
    pub(crate) max_groups: usize,
    /// How long after a match a further one belongs to the same alert, in nanoseconds.
    pub(crate) suppression: i64,
    /// Files of events that have to match, and that must not; relative to the rule's file.
    pub(crate) matching: Vec<String>,
    pub(crate) other: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            group_by: Vec::new(),
            lateness: 30 * SECOND,
            max_groups: 10_000,
            suppression: 600 * SECOND,
            matching: Vec::new(),
            other: Vec::new(),
        }
    }
}

/// A document.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) header: Header,
    pub(crate) body: Body,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Detection(Expr<Test>),
    Correlation(Correlation),
    /// Holds for the rules that are named, or for all.
    Filter {
        rules: Option<Vec<Text>>,
        condition: Expr<Test>,
    },
}

/// Reads one document; what is wrong with it goes to the reader.
pub(crate) fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Read> {
    let mut fields = reader.map(node, "the rule")?;
    let at = fields.at();
    let header = header(&mut fields, at, reader);
    let parts = [fields.take("detection"), fields.take("correlation"), fields.take("filter")];
    let logsource = fields.take("logsource");
    let body = match parts {
        [Some(detection), None, None] => {
            let source = logsource_of(logsource, at, reader);
            let expression = detection_of(detection, reader);
            source.zip(expression).map(|(mut all, expression)| {
                all.push(expression);
                Body::Detection(Expr::All(all))
            })
        }
        [None, Some(correlation), None] => {
            if let Some(field) = logsource {
                let words = "a correlation has no logsource: the rules that it names have theirs";
                reader.error(field.key, code::BAD_CORRELATION, words, "remove it");
            }
            Correlation::read(correlation, reader).map(Body::Correlation)
        }
        [None, None, Some(filter)] => {
            let source = logsource_of(logsource, at, reader);
            let filter = filter_of(filter, reader);
            // Its logsource says which rules it is about; they bring their own.
            source.and(filter)
        }
        _ => {
            let words = "the document is neither a detection rule nor a correlation nor a filter";
            let help = "write exactly one of `detection`, `correlation` and `filter`";
            reader.error(at, code::NO_RULE, words, help);
            None
        }
    };
    fields.finish(reader);
    Some(Read { header: header?, body: body? })
}

fn header(fields: &mut Fields<'_>, at: At, reader: &mut Reader<'_>) -> Option<Header> {
    let title = fields.require("title", reader).and_then(|f| reader.string(f.node, f.name));
    let id = fields.require("id", reader).and_then(|f| reader.string(f.node, f.name));
    let id = id.filter(|id| {
        let is_uuid = is_uuid(&id.text);
        if !is_uuid {
            let words = format!("`id` is {:?} and not a UUID", id.text);
            reader.error(id.at, code::BAD_HEADER, words, "write one, as `uuidgen` prints it");
        }
        is_uuid
    });
    let name = fields.string("name", reader).map(|name| name.text);
    if let Some(status) = fields.string("status", reader) {
        const STATUSES: [&str; 5] = ["stable", "test", "experimental", "deprecated", "unsupported"];
        if !STATUSES.contains(&status.text.as_str()) {
            let words = format!("there is no status {:?}", status.text);
            reader.error(
                status.at,
                code::BAD_HEADER,
                words,
                format!("there are {}", STATUSES.join(", ")),
            );
        }
    }
    let level = fields.string("level", reader).map_or(Some(Level::Medium), |level| {
        let found = Level::ALL.into_iter().find(|known| known.as_str() == level.text);
        if found.is_none() {
            let words = format!("there is no level {:?}", level.text);
            let help = "there are informational, low, medium, high and critical";
            reader.error(level.at, code::BAD_HEADER, words, help);
        }
        found
    });
    let tags = tags(fields, reader);
    let false_positives = strings(fields, "falsepositives", reader);
    let false_positives = false_positives.into_iter().map(|text| text.text).collect();
    fields.ignore(&[
        "related",
        "description",
        "references",
        "author",
        "date",
        "modified",
        "license",
        "fields",
        "scope",
        "taxonomy",
    ]);
    let settings = fields
        .take("x-picket")
        .map_or_else(|| Some(Settings::default()), |field| settings(field, reader));
    Some(Header {
        file: Arc::clone(reader.file),
        at,
        id: id?.text,
        name,
        title: title?.text,
        level: level?,
        tags,
        false_positives,
        settings: settings?,
    })
}

fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts.iter().zip(lengths).all(|(part, length)| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit())
        })
}

fn tags(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Vec<String> {
    let mut tags = Vec::new();
    for tag in strings(fields, "tags", reader) {
        let is_tag = tag.text.split_once('.').is_some_and(|(space, name)| {
            let allowed = |c: char| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
            };
            !space.is_empty() && !name.is_empty() && tag.text.chars().all(allowed)
        });
        if is_tag {
            tags.push(tag.text);
        } else {
            let words = format!("{:?} is no tag", tag.text);
            reader.error(
                tag.at,
                code::BAD_HEADER,
                words,
                "write one such as attack.t1071 or attack.discovery",
            );
        }
    }
    tags
}

/// A string or a list of strings.
fn strings(fields: &mut Fields<'_>, name: &'static str, reader: &mut Reader<'_>) -> Vec<Text> {
    match fields.take(name) {
        Some(field) if matches!(field.node.value, Value::Text(_)) => {
            reader.string(field.node, name).into_iter().collect()
        }
        Some(field) => reader.strings(field, MAX_LIST),
        None => Vec::new(),
    }
}

fn settings(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Settings> {
    let mut settings = Settings::default();
    let mut fields = reader.map(field.node, "`x-picket`")?;
    let mut is_good = true;
    if let Some(group) = fields.take("group-by") {
        settings.group_by = group_by(group, reader)?;
    }
    for (name, slot) in
        [("lateness", &mut settings.lateness), ("suppression", &mut settings.suppression)]
    {
        if let Some(text) = fields.string(name, reader) {
            match timespan(&text.text) {
                Some(time) => *slot = time,
                None => {
                    not_a_time(&text, reader);
                    is_good = false;
                }
            }
        }
    }
    if let Some(field) = fields.take("max-groups") {
        let number = match &field.node.value {
            Value::Number(text) => {
                text.parse().ok().filter(|number| (1..=1_000_000).contains(number))
            }
            _ => None,
        };
        match number {
            Some(number) => settings.max_groups = number,
            None => {
                let words = "`max-groups` is no number from 1 to 1000000";
                reader.error(field.node.at, code::BAD_SETTING, words, "write one such as 10000");
                is_good = false;
            }
        }
    }
    if let Some(tests) = fields.take("tests") {
        let mut tests = reader.map(tests.node, "`tests`")?;
        for (name, slot) in [("match", &mut settings.matching), ("no-match", &mut settings.other)] {
            *slot = strings(&mut tests, name, reader).into_iter().map(|text| text.text).collect();
        }
        tests.finish(reader);
    }
    for name in ["budget", "notify", "respond", "controls"] {
        if let Some(field) = fields.take(name) {
            let words = format!("`{name}` is not read yet");
            reader.error(field.key, code::NOT_READ, words, "remove it");
            is_good = false;
        }
    }
    fields.finish(reader);
    is_good.then_some(settings)
}

pub(crate) fn not_a_time(text: &Text, reader: &mut Reader<'_>) {
    let words = format!("{:?} is no time", text.text);
    reader.error(text.at, code::BAD_SETTING, words, "write a number with s, m, h or d, such as 5m");
}

/// `30s`, `5m`, `2h`, `1d` in nanoseconds; at most 31 days.
pub(crate) fn timespan(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    let total = number.checked_mul(seconds)?;
    (1..=31 * 86_400).contains(&total).then_some(total * SECOND)
}

/// The names of fields that make a group.
pub(crate) fn group_by(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let names = match &field.node.value {
        Value::Text(_) => reader.string(field.node, field.name).into_iter().collect(),
        _ => reader.strings(field, MAX_GROUP),
    };
    if names.is_empty() {
        return None;
    }
    Some(names.into_iter().map(|name| name.text).collect())
}

/// An error if no event has a field of that name.
pub(crate) fn check_field(name: &str, at: At, reader: &mut Reader<'_>) -> bool {
    if is_known(name) {
        return true;
    }
    let help = picket_documents::fields::closest(name, KNOWN).map_or_else(
        || "docs/audit-attributes.md lists the fields".to_owned(),
        |close| format!("did you mean `{close}`?"),
    );
    reader.error(at, code::UNKNOWN_EVENT_FIELD, format!("no event has a field `{name}`"), help);
    false
}

/// The events that a rule is about.
fn logsource_of(
    field: Option<Field<'_>>,
    at: At,
    reader: &mut Reader<'_>,
) -> Option<Vec<Expr<Test>>> {
    let Some(field) = field else {
        let help = "add `logsource: {product: picket, category: request}`";
        reader.error(at, code::MISSING_FIELD, "the rule has no `logsource`", help);
        return None;
    };
    let mut fields = reader.map(field.node, "`logsource`")?;
    let product = fields.string("product", reader);
    let category = fields.string("category", reader);
    let service = fields.string("service", reader);
    fields.ignore(&["definition"]);
    fields.finish(reader);
    let mut all = Vec::new();
    match product {
        Some(product) if product.text == "picket" => {}
        Some(product) => {
            let words = format!("no event comes from the product {:?}", product.text);
            reader.error(product.at, code::BAD_LOGSOURCE, words, "write `product: picket`");
            return None;
        }
        None => {
            let words = "`logsource` has no `product`";
            reader.error(field.key, code::BAD_LOGSOURCE, words, "add `product: picket`");
            return None;
        }
    }
    if let Some(category) = category {
        if !["request", "connection", "event"].contains(&category.text.as_str()) {
            let words = format!("there is no category {:?}", category.text);
            let help = "there are request, connection and event (acts of the control plane)";
            reader.error(category.at, code::BAD_LOGSOURCE, words, help);
            return None;
        }
        all.push(equals("picket.kind", category.text));
    }
    all.extend(service.map(|service| equals("service.name", service.text)));
    Some(all)
}

fn equals(field: &str, text: String) -> Expr<Test> {
    let how = How::Pattern { pattern: Pattern::Exact(text.to_lowercase()), cased: false };
    Expr::Test(Test { field: Some(field.to_owned()), how })
}

fn filter_of(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Body> {
    let Value::Map(entries) = &field.node.value else {
        reader.map(field.node, "`filter`");
        return None;
    };
    let mut rest = Vec::new();
    let mut rules = None;
    let mut is_said = false;
    for entry in entries {
        if entry.0.name != "rules" {
            rest.push(entry);
            continue;
        }
        is_said = true;
        let named = Field { name: "rules", key: entry.0.at, node: &entry.1 };
        match &entry.1.value {
            Value::Text(text) if text == "any" => {}
            Value::Text(_) => rules = reader.string(named.node, "rules").map(|text| vec![text]),
            _ => rules = Some(reader.strings(named, MAX_LIST)),
        }
    }
    if !is_said {
        let help = "add `rules: [NAME or ID …]`, or `rules: any`";
        reader.error(field.key, code::MISSING_FIELD, "`filter` has no `rules`", help);
        return None;
    }
    let condition = selections(field.key, &rest, reader)?;
    Some(Body::Filter { rules, condition })
}

fn detection_of(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let fields = reader.map(field.node, "`detection`")?;
    selections(field.key, &fields.entries(), reader)
}

/// Selections and the condition over them.
fn selections(at: At, entries: &[&(Key, Node)], reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let mut names = Vec::new();
    let mut bodies = Vec::new();
    let mut conditions = Vec::new();
    let mut is_good = true;
    for (key, node) in entries {
        match key.name.as_str() {
            "condition" => match &node.value {
                Value::List(_) => {
                    let field = Field { name: "condition", key: key.at, node };
                    conditions = reader.strings(field, 16);
                }
                _ => conditions.extend(reader.string(node, "condition")),
            },
            "timeframe" => {
                let words = "`timeframe` belongs to aggregations, which are not read";
                reader.error(
                    key.at,
                    code::BAD_CONDITION,
                    words,
                    "write a correlation with `timespan`",
                );
                is_good = false;
            }
            _ => match selection(node, reader) {
                Some(expression) => {
                    names.push((key.name.clone(), key.at));
                    bodies.push(expression);
                }
                None => is_good = false,
            },
        }
    }
    if !is_good {
        return None;
    }
    if conditions.is_empty() {
        reader.error(
            at,
            code::MISSING_FIELD,
            "there is no `condition`",
            "add one, such as `condition: selection`",
        );
        return None;
    }
    let plain: Vec<String> = names.iter().map(|(name, _)| name.clone()).collect();
    let mut any = Vec::new();
    let mut used = vec![false; names.len()];
    for text in conditions {
        match condition::read(&text.text, &plain) {
            Ok(expression) => {
                expression.tests(&mut |index: &usize| {
                    if let Some(used) = used.get_mut(*index) {
                        *used = true;
                    }
                });
                any.push(expression);
            }
            Err(wrong) => {
                // Within the string; quotes and folded lines may put it further on.
                let column = u32::try_from(wrong.at).unwrap_or(0);
                let at = At { line: text.at.line, column: text.at.column.saturating_add(column) };
                let help = format!("the selections are {}", plain.join(", "));
                reader.error(at, code::BAD_CONDITION, wrong.words, help);
                return None;
            }
        }
    }
    for ((name, at), _) in names.iter().zip(&used).filter(|(_, used)| !**used) {
        let words = format!("the condition does not name `{name}`");
        reader.warning(*at, code::UNUSED_SELECTION, words, "remove the selection, or name it");
    }
    let mut substitute = |index: usize| bodies.get(index).cloned().unwrap_or(Expr::Any(Vec::new()));
    let any: Vec<Expr<Test>> = any.into_iter().map(|e| flatten(e.map(&mut substitute))).collect();
    Some(Expr::Any(any))
}

fn flatten(expression: Expr<Expr<Test>>) -> Expr<Test> {
    let list = |items: Vec<Expr<Expr<Test>>>| items.into_iter().map(flatten).collect();
    match expression {
        Expr::Test(inner) => inner,
        Expr::All(items) => Expr::All(list(items)),
        Expr::Any(items) => Expr::Any(list(items)),
        Expr::Not(inner) => Expr::Not(Box::new(flatten(*inner))),
    }
}

/// A map of fields that all have to hold, a list of such maps of which one has to, or keywords.
fn selection(node: &Node, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    match &node.value {
        Value::Map(entries) => {
            let parts: Vec<Option<Expr<Test>>> =
                entries.iter().map(|(key, value)| comparison(key, value, reader)).collect();
            let all: Vec<Expr<Test>> = parts.into_iter().collect::<Option<_>>()?;
            if all.is_empty() {
                reader.error(
                    node.at,
                    code::EMPTY_LIST,
                    "the selection is empty and would match everything",
                    "name a field",
                );
                return None;
            }
            Some(Expr::All(all))
        }
        Value::List(items) if !items.is_empty() => {
            let any: Vec<Option<Expr<Test>>> = items
                .iter()
                .map(|item| match &item.value {
                    Value::Map(_) => selection(item, reader),
                    _ => keyword(item, reader),
                })
                .collect();
            any.into_iter().collect::<Option<_>>().map(Expr::Any)
        }
        Value::Text(_) => keyword(node, reader),
        other => {
            let words = format!(
                "a selection is a map of fields, a list of such maps or of words, not {}",
                other.kind()
            );
            reader.error(node.at, code::WRONG_TYPE, words, "write `field: value`");
            None
        }
    }
}

/// A word in any field.
fn keyword(node: &Node, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let text = reader.string(node, "keyword")?;
    let pattern = Pattern::read(&text.text, Anchor::Anywhere).lower();
    Some(Expr::Test(Test { field: None, how: How::Pattern { pattern, cased: false } }))
}

/// `field|modifiers: value or values`
fn comparison(key: &Key, node: &Node, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let mut parts = key.name.split('|');
    let name = parts.next().unwrap_or_default();
    let modifiers = match Modifiers::read(parts) {
        Ok(modifiers) => modifiers,
        Err((words, help)) => {
            reader.error(key.at, code::BAD_VALUE, words, help);
            return None;
        }
    };
    let field = match name {
        // Keywords that all have to be there: `'|all': [one, two]`.
        "" => None,
        name => {
            if !check_field(name, key.at, reader) {
                return None;
            }
            Some(name.to_owned())
        }
    };
    let values = match &node.value {
        Value::List(items) if items.len() > MAX_LIST => {
            let words = format!("the list has {} values; at most {MAX_LIST} are read", items.len());
            reader.error(node.at, code::TOO_MANY, words, "split the rule");
            return None;
        }
        Value::List(items) if items.is_empty() => {
            reader.error(
                node.at,
                code::EMPTY_LIST,
                "the list is empty: nothing would match",
                "write a value",
            );
            return None;
        }
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut tests = Vec::new();
    for value in values {
        let scalar = match &value.value {
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(*value),
            Value::Number(text) => Scalar::Number(text),
            Value::Text(text) => Scalar::Text(text),
            other => {
                let words = format!("a value cannot be {}", other.kind());
                reader.error(
                    value.at,
                    code::WRONG_TYPE,
                    words,
                    "write a text, a number, true, false or null",
                );
                return None;
            }
        };
        let how = match (modifiers.compare(scalar), &field) {
            // A word may stand anywhere in the field.
            (Ok(How::Pattern { .. }), None) => match scalar {
                Scalar::Text(text) | Scalar::Number(text) => How::Pattern {
                    pattern: Pattern::read(text, Anchor::Anywhere).lower(),
                    cased: false,
                },
                _ => How::Missing,
            },
            (Ok(how @ How::Regex(_)), None) => how,
            (Ok(_), None) => {
                reader.error(
                    key.at,
                    code::BAD_VALUE,
                    "without a field only words and `re` can be compared",
                    "name the field",
                );
                return None;
            }
            (Ok(How::Field { other, anchor, cased }), _) => {
                if !check_field(&other, value.at, reader) {
                    return None;
                }
                How::Field { other, anchor, cased }
            }
            (Ok(how), _) => how,
            (Err((words, help)), _) => {
                reader.error(value.at, code::BAD_VALUE, words, help);
                return None;
            }
        };
        tests.push(Expr::Test(Test { field: field.clone(), how }));
    }
    Some(if modifiers.all { Expr::All(tests) } else { Expr::Any(tests) })
}
