//! Values as they are written for each field.

use std::time::Duration;

use picket_certs::SpiffeId;
use picket_ledger::hex;
use picket_settings::duration;

use super::expression::{RecordId, Shared, Subject, Test, Value};
use super::{Compare, Glob, Scope};
use crate::clock;

/// What a field can be compared with by `=`: one value, or a range of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    One(Value),
    Between(i64, i64),
}

impl Read {
    /// The field is this.
    pub(crate) fn equal(self) -> Test {
        match self {
            Self::One(value) => Test::Is(Compare::Equal, value),
            Self::Between(low, high) => Test::Between(low, high),
        }
    }
}

/// Reads a value; else says what values of the field are like.
pub(crate) fn value(
    subject: &Subject,
    text: &str,
    is_quoted: bool,
    scope: Scope<'_>,
) -> Result<Read, String> {
    let bytes = |digits: usize| {
        let bytes = hex::decode_all(text).filter(|bytes| bytes.len() * 2 == digits);
        bytes.map(Value::Bytes).ok_or_else(|| format!("it is {digits} hexadecimal digits"))
    };
    Ok(Read::One(match subject {
        Subject::Shared(shared) => return of_shared(*shared, text, scope),
        Subject::Time => Value::Number(time(text, scope)?),
        Subject::Duration => {
            let read = text.strip_suffix("us").and_then(|n| n.trim().parse::<i64>().ok());
            let longer = duration::parse(text).map(|d| d.as_micros());
            let longer = longer.and_then(|micros| i64::try_from(micros).ok());
            Value::Number(read.or(longer).ok_or("it is a duration such as 250ms, 1s or 80us")?)
        }
        Subject::Trace => bytes(32)?,
        Subject::Span => bytes(16)?,
        Subject::Id => Value::Record(
            record_id(text).ok_or("it is what `id` of a record says, BOOT-LANE-SEQUENCE")?,
        ),
        Subject::Attribute(_) => match text.parse() {
            Ok(number) if !is_quoted => Value::Number(number),
            _ => Value::Text(text.to_owned()),
        },
        Subject::Path | Subject::DecisionId => Value::Text(text.to_owned()),
    }))
}

fn of_shared(shared: Shared, text: &str, scope: Scope<'_>) -> Result<Read, String> {
    let one_of = |values: &[&str]| match values.contains(&text) {
        true => Ok(Value::Text(text.to_owned())),
        false => Err(match picket_policy::closest(text, values) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("it is one of {}", values.join(", ")),
        }),
    };
    Ok(Read::One(match shared {
        Shared::Source | Shared::Destination | Shared::Emitter => {
            Value::Text(workload(text, scope)?)
        }
        Shared::Status => match (class(text), text.parse::<i64>()) {
            (Some(class), _) => return Ok(Read::Between(class * 100, class * 100 + 99)),
            (None, Ok(code @ 100..=599)) => Value::Number(code),
            _ => return Err("it is a code such as 403 or a class such as 4xx".to_owned()),
        },
        Shared::Decision => one_of(&["allow", "deny"])?,
        Shared::Kind => one_of(&["request", "connection", "event"])?,
        Shared::Direction => one_of(&["inbound", "outbound"])?,
        Shared::DryRun => match text {
            "true" => Value::Number(1),
            "false" => Value::Number(0),
            _ => return Err("it is true or false".to_owned()),
        },
        Shared::Event | Shared::Route | Shared::Method | Shared::Policy | Shared::Reason => {
            Value::Text(text.to_owned())
        }
    }))
}

/// A pattern, which workloads may have by their short names.
pub(crate) fn pattern(subject: &Subject, text: &str, scope: Scope<'_>) -> Option<Glob> {
    let glob = Glob::new(text);
    match subject {
        Subject::Shared(shared) if shared.is_workload() => {
            let is_short = glob.has_slash() && !text.starts_with("spiffe:");
            let beginning = format!("spiffe://{}/ns/", scope.trust_domain);
            Some(if is_short { glob.with_slash_as("/sa/").below(&beginning) } else { glob })
        }
        Subject::Shared(Shared::Status | Shared::DryRun) => None,
        Subject::Shared(_) | Subject::Path | Subject::Attribute(_) => Some(glob),
        _ => None,
    }
}

/// Whether values of a field come one after another.
pub(crate) fn is_ordered(subject: &Subject) -> bool {
    matches!(
        subject,
        Subject::Shared(Shared::Status) | Subject::Time | Subject::Duration | Subject::Attribute(_)
    )
}

/// A SPIFFE ID: whatever was recorded can be asked for, other trust domains included.
fn workload(text: &str, scope: Scope<'_>) -> Result<String, String> {
    if text.starts_with("spiffe://") {
        return Ok(text.to_owned());
    }
    let parts = text.split_once('/');
    let id = parts.and_then(|(namespace, account)| {
        SpiffeId::new(scope.trust_domain, namespace, account).ok()
    });
    id.map(|id| id.to_string())
        .ok_or_else(|| "a workload is namespace/service-account, or a SPIFFE ID".to_owned())
}

fn time(text: &str, scope: Scope<'_>) -> Result<i64, String> {
    let ago = text.strip_suffix("ago").and_then(|ago| duration::parse(ago.trim()));
    if let Some(ago) = ago {
        let now = i64::try_from(clock::nanoseconds(scope.now)).unwrap_or(i64::MAX);
        return Ok(now.saturating_sub(nanoseconds(ago)));
    }
    clock::parse_rfc3339(text).ok_or_else(|| match duration::parse(text) {
        Some(_) => format!("write \"{text} ago\""),
        None => "it is a time such as 2026-11-21T10:00:00Z, or 1h ago".to_owned(),
    })
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn class(text: &str) -> Option<i64> {
    let class = text.strip_suffix("xx")?.parse().ok()?;
    (1..=5).contains(&class).then_some(class)
}

/// `<boot>-<lane>-<sequence>`; a boot has hyphens of its own.
fn record_id(text: &str) -> Option<RecordId> {
    let mut parts = text.rsplitn(3, '-');
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (sequence, lane) = (number()?, number()?);
    Some(RecordId { boot: parts.next()?.to_owned(), lane, sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_classes_and_digits_are_read_strictly() {
        let id = record_id("0f5e-4b-12-3-41").unwrap();
        assert_eq!((id.boot.as_str(), id.lane, id.sequence), ("0f5e-4b-12", 3, 41));
        assert!(record_id("3-41").is_none() && record_id("a-b-c").is_none());
        assert_eq!(class("4xx"), Some(4));
        assert!(class("9xx").is_none() && class("40").is_none());
        assert_eq!(hex::decode_all("00ff"), Some(vec![0, 255]));
        assert!(
            hex::decode_all("0").is_none()
                && hex::decode_all("zz").is_none()
                && hex::decode_all("é").is_none()
        );
        assert!(hex::decode_all("+1").is_none());
    }
}
