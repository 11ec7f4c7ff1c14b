//! RateLimit: its fields and checks.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::authorization::read_match;
use super::request::read_duration;
use super::values::MAX_RULES;
use super::{Context, Head, Metadata, Object, conditions};
use crate::decision::PolicyInfo;
use crate::diagnostic::code;
use crate::fields::{Fields, Reader};
use crate::limit::{Limit, Quota, RateLimit};
use crate::yaml::{Node, Value};

/// Parts that a key may have.
const MAX_KEY_PARTS: usize = 8;
/// The shortest and the longest time that tokens may take to come.
const PER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// Tokens of one `per`, and of a bucket.
const MAX_TOKENS: u32 = 1_000_000_000;

pub(super) fn read(head: Head<'_>, context: &Context, reader: &mut Reader<'_>) -> Option<Object> {
    head.metadata.refuse_token_annotations(reader);
    let mut spec = head.spec(reader)?;
    let target = head.target(&mut spec, context, reader);
    let limits = spec.require("limits", reader);
    spec.finish(reader);
    let nodes = limits.and_then(|field| reader.list_or_empty(field, MAX_RULES));
    if let (Some([]), Some(field)) = (nodes, limits) {
        reader.error(
            field.key,
            code::BAD_RATE,
            "a RateLimit without `limits` limits nothing",
            "add one, such as `- {requests: 100, per: 1s, key: [source.principal]}`",
        );
    }
    let nodes = nodes.unwrap_or_default();
    let limits = (0..)
        .zip(nodes)
        .filter_map(|(index, node)| {
            read_limit(index, node, &head.metadata, &head.info, context, reader)
        })
        .map(Arc::new)
        .collect();
    Some(Object::Limit(RateLimit { info: head.info, target, limits }))
}

fn read_limit(
    index: u32,
    node: &Node,
    metadata: &Metadata,
    info: &Arc<PolicyInfo>,
    context: &Context,
    reader: &mut Reader<'_>,
) -> Option<Limit> {
    let mut fields = reader.map(node, "limits")?;
    let rule = read_match(index, &mut fields, &metadata.namespace, context, reader);
    let key = fields.strings("key", MAX_KEY_PARTS, reader);
    let key = key.iter().filter_map(|part| conditions::key_part(part, reader)).collect();
    let requests = fields.require("requests", reader);
    let requests = requests.and_then(|field| read_tokens(field.node, "requests", reader));
    let per = read_per(&mut fields, reader);
    let burst = match fields.take("burst") {
        Some(field) => read_tokens(field.node, "burst", reader),
        None => requests,
    };
    fields.finish(reader);
    let quota = Quota { requests: requests?, per: per?, burst: burst? };
    Some(Limit { info: Arc::clone(info), rule, key, quota, dry_run: metadata.dry_run.value })
}

fn read_tokens(node: &Node, name: &str, reader: &mut Reader<'_>) -> Option<NonZeroU32> {
    let number = match &node.value {
        Value::Number(number) => number.parse::<u32>().ok(),
        _ => None,
    };
    let number = number.filter(|number| *number <= MAX_TOKENS).and_then(NonZeroU32::new);
    if number.is_none() {
        reader.error(
            node.at,
            code::BAD_RATE,
            format!("`{name}` is not a number of requests"),
            format!("write a whole number from 1 to {MAX_TOKENS}, without quotes"),
        );
    }
    number
}

fn read_per(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Duration> {
    let field = fields.require("per", reader)?;
    let text = reader.string(field.node, "per")?;
    let per = read_duration(&text, reader)?;
    if per < PER.0 || per > PER.1 {
        reader.error(
            text.at,
            code::BAD_RATE,
            format!("`per: {}` is too short or too long", text.text),
            "write from 1s to 24h, and `requests` to match",
        );
        return None;
    }
    Some(per)
}
