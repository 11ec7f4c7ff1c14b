//! Objects and fields that are not the same in two sets, as they are written: comments and layout do not count.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::diagnostic::Diagnostics;
use crate::set::PolicySet;
use crate::yaml;

/// An object that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectChange {
    /// The kind.
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
    /// What became of it.
    pub change: Change,
    /// Its file before.
    pub before: Option<String>,
    /// Its file after.
    pub after: Option<String>,
    /// The fields that differ, if it is in both.
    pub fields: Vec<FieldChange>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another.
    Changed,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Its way from the object: `spec.rules[0].to[0].operation.methods`.
    pub field: String,
    /// Its value before; absent: it was not there.
    pub before: Option<Value>,
    /// Its value after; absent: it is gone.
    pub after: Option<Value>,
}

pub(super) fn compare(before: &PolicySet, after: &PolicySet) -> Vec<ObjectChange> {
    let (mut old, mut new) = (objects(before), objects(after));
    let mut changes = Vec::new();
    let names: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
    for key in std::collections::BTreeSet::from_iter(names) {
        let (was, is) = (old.remove(&key), new.remove(&key));
        let mut fields = Vec::new();
        let change = match (&was, &is) {
            (Some((_, was)), Some((_, is))) => {
                values("", Some(was), Some(is), &mut fields);
                Change::Changed
            }
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
        };
        if change == Change::Changed && fields.is_empty() {
            continue;
        }
        let file = |object: Option<(String, Value)>| object.map(|(file, _)| file);
        let ((kind, name), before, after) = (key, file(was), file(is));
        changes.push(ObjectChange { kind, name, change, before, after, fields });
    }
    changes
}

/// File and content of each object, by kind and name.
fn objects(set: &PolicySet) -> BTreeMap<(String, String), (String, Value)> {
    let mut objects = BTreeMap::new();
    for document in set.documents() {
        // It was read before, so there is nothing to report.
        let Some(node) = yaml::read(document, &mut Diagnostics::default()) else { continue };
        let place = format!("{}:{}", document.file, node.at.line);
        let mut object = node.json();
        let text = |pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let namespace = match text("/metadata/namespace") {
            absent if absent.is_empty() => "default".to_owned(),
            namespace => namespace,
        };
        let (kind, name) = (text("/kind"), format!("{namespace}/{}", text("/metadata/name")));
        if let Some(object) = object.as_object_mut() {
            // Neither says what holds: what the cluster writes, and which of two equal versions it is.
            object.remove("status");
            object.remove("apiVersion");
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|name, _| name == "annotations");
            }
        }
        objects.insert((kind, name), (place, object));
    }
    objects
}

fn values(field: &str, was: Option<&Value>, is: Option<&Value>, found: &mut Vec<FieldChange>) {
    match (was, is) {
        (Some(was), Some(is)) if was == is => {}
        (Some(Value::Object(was)), Some(Value::Object(is))) => {
            let names = was.keys().chain(is.keys().filter(|name| !was.contains_key(*name)));
            for name in names {
                let dot = if field.is_empty() { "" } else { "." };
                values(&format!("{field}{dot}{name}"), was.get(name), is.get(name), found);
            }
        }
        (Some(Value::Array(was)), Some(Value::Array(is))) if is_of_maps(was) && is_of_maps(is) => {
            lists(field, was, is, found);
        }
        (was, is) => found.push(FieldChange {
            field: field.to_owned(),
            before: was.cloned(),
            after: is.cloned(),
        }),
    }
}

fn is_of_maps(list: &[Value]) -> bool {
    list.iter().all(Value::is_object)
}

/// Rules, sources and the like: their order means nothing, so those that are in both are no change; of the others as many
/// as can be are taken for changed ones.
fn lists(field: &str, was: &[Value], is: &[Value], found: &mut Vec<FieldChange>) {
    let mut left: Vec<(usize, &Value)> = is.iter().enumerate().collect();
    let mut gone = Vec::new();
    for (at, value) in was.iter().enumerate() {
        match left.iter().position(|(_, other)| *other == value) {
            Some(same) => drop(left.remove(same)),
            None => gone.push((at, value)),
        }
    }
    let (mut gone, mut new) = (gone.into_iter(), left.into_iter());
    loop {
        match (gone.next(), new.next()) {
            (None, None) => break,
            (Some((_, was)), Some((at, is))) => {
                values(&format!("{field}[{at}]"), Some(was), Some(is), found);
            }
            (was, is) => {
                let at = was.or(is).map_or(0, |(at, _)| at);
                let (was, is) = (was.map(|(_, value)| value), is.map(|(_, value)| value));
                values(&format!("{field}[{at}]"), was, is, found);
            }
        }
    }
}
