//! What SQL asks of a span or a text, as functions of the readers' connections.

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_certs::leaf::hex;
use prost::Message as _;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;

use crate::search::{Compare, Glob};
use crate::store::StoreError;

/// Makes the functions known:
/// - `attribute_holds(resource, span, name, sign, value)`: whether an attribute is as it should be. The sign is
///   that of a comparison, `~` or `has`; of a list it is enough if one element is so.
/// - `is_like(text, pattern)`
pub(in crate::store) fn register(connection: &Connection) -> Result<(), StoreError> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("attribute_holds", 5, flags, attribute_holds)?;
    connection.create_scalar_function("is_like", 2, flags, |context| {
        let Ok(text) = context.get_raw(0).as_str() else { return Ok(false) };
        Ok(glob(context, 1)?.matches(text))
    })?;
    Ok(())
}

/// The pattern of an argument, read once for a whole query.
fn glob(context: &Context<'_>, argument: i32) -> rusqlite::Result<std::sync::Arc<Glob>> {
    context.get_or_create_aux(argument, |value| {
        Ok::<_, rusqlite::types::FromSqlError>(Glob::new(value.as_str()?))
    })
}

fn attribute_holds(context: &Context<'_>) -> rusqlite::Result<bool> {
    let (Ok(resource), Ok(span)) = (context.get_raw(0).as_blob(), context.get_raw(1).as_blob())
    else {
        return Ok(false);
    };
    let name = context.get_raw(2).as_str()?;
    let Some(value) = attribute(resource, span, name) else { return Ok(false) };
    let sign = context.get_raw(3).as_str()?;
    let compare = match sign {
        "has" => return Ok(true),
        "~" => {
            let glob = glob(context, 4)?;
            return Ok(any(&value, &|one| glob.matches(&text(one))));
        }
        "=" => Compare::Equal,
        "<" => Compare::Less,
        "<=" => Compare::LessOrEqual,
        ">" => Compare::Greater,
        _ => Compare::GreaterOrEqual,
    };
    let wanted = context.get_raw(4);
    Ok(any(&value, &|one| order(one, wanted).is_some_and(|order| compare.holds(order))))
}

/// One attribute as `record::json` has it: the resource's stands above the span's, a later one above an earlier.
fn attribute(resource: &[u8], span: &[u8], name: &str) -> Option<Any> {
    let of_resource = Resource::decode(resource).ok()?.attributes;
    last(of_resource, name).or_else(|| {
        let span = Span::decode(Bytes::copy_from_slice(span)).ok()?;
        last(span.attributes, name)
    })
}

fn last(attributes: Vec<KeyValue>, name: &str) -> Option<Any> {
    let found = attributes.into_iter().rfind(|attribute| attribute.key == name)?;
    found.value.and_then(|value| value.value)
}

fn any(value: &Any, is_wanted: &dyn Fn(&Any) -> bool) -> bool {
    match value {
        Any::ArrayValue(list) => {
            let values = list.values.iter().filter_map(|AnyValue { value }| value.as_ref());
            values.into_iter().any(is_wanted)
        }
        one => is_wanted(one),
    }
}

/// Numbers are compared as numbers, all else as texts.
fn order(value: &Any, wanted: ValueRef<'_>) -> Option<std::cmp::Ordering> {
    match (value, wanted) {
        (Any::IntValue(number), ValueRef::Integer(wanted)) => Some(number.cmp(&wanted)),
        (Any::DoubleValue(number), ValueRef::Integer(wanted)) => {
            number.partial_cmp(&(wanted as f64))
        }
        (value, ValueRef::Integer(wanted)) => Some(text(value).cmp(&wanted.to_string())),
        (value, wanted) => Some(text(value).as_str().cmp(wanted.as_str().ok()?)),
    }
}

fn text(value: &Any) -> String {
    match value {
        Any::StringValue(text) => text.clone(),
        Any::BoolValue(truth) => truth.to_string(),
        Any::IntValue(number) => number.to_string(),
        Any::DoubleValue(number) => number.to_string(),
        Any::BytesValue(bytes) => hex(bytes),
        _ => String::new(),
    }
}
