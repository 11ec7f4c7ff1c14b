//! One document of a rule file as it is written: a detection rule, a correlation or a filter.
//!
//! Everything is taken by name, and what is left over is refused with its place: a rule that is misread silently never
//! matches. What rules mean together is seen in [`crate::set`].
//!
//! Specification: Sigma 2.1, "Rule structure", "Correlation", "Filter"; our own keys stand under `x-picket`.

mod detection;
mod respond;
mod telling;

use std::sync::Arc;

use picket_documents::fields::{Field, Fields, Reader, Text};
use picket_documents::yaml::{At, Node, Value};

use crate::alert::Level;
use crate::condition::Expr;
use crate::correlation::Correlation;
use crate::known::{KNOWN, is_known};
use crate::matcher::Test;
pub(crate) use detection::LogSource;
use detection::{detection_of, filter_of, logsource_of};
pub use respond::{Action, CALLED, ISSUER, Mode, Rate, Respond, TOKEN, VERIFIED};
pub use telling::NoiseBudget;
pub(crate) use telling::Telling;

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
    /// A response that cannot be given.
    pub const BAD_RESPONSE: &str = "R0403";
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
    /// What is done about it, and where that is written.
    pub(crate) respond: Option<(Respond, At)>,
    /// Who is told, how often, and what it is evidence for.
    pub(crate) telling: Telling,
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
            respond: None,
            telling: Telling::default(),
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
    Detection {
        source: LogSource,
        condition: Expr<Test>,
    },
    Correlation(Correlation),
    /// Holds for the rules that are named, or for all whose events are of its source.
    Filter {
        rules: Option<Vec<Text>>,
        source: LogSource,
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
            source.zip(expression).map(|(source, expression)| {
                let mut all = source.tests();
                all.push(expression);
                Body::Detection { source, condition: Expr::All(all) }
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
            filter_of(filter, source, reader)
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
    if let Some(field) = fields.take("respond") {
        settings.respond = respond::respond(field, reader);
        is_good &= settings.respond.is_some();
    }
    match telling::telling(&mut fields, reader) {
        Some(telling) => settings.telling = telling,
        None => is_good = false,
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
