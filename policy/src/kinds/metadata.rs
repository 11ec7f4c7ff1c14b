//! `metadata`: name, namespace and the annotations that mean something here.
//!
//! Everything else that `kubectl get -o yaml` writes is accepted and not looked at.

use super::authorization::misplaced;
use crate::diagnostic::code;
use crate::fields::{self, Field, Fields, Reader, Text};
use crate::yaml::{At, Key, Node, Value};

/// What is used of an object's metadata.
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) dry_run: Annotation,
    pub(super) require_expiration: Annotation,
    pub(super) require_bound: Annotation,
    /// Codes of warnings that the object does not want to hear.
    pub(super) ignored: Vec<&'static str>,
}

impl Metadata {
    /// Refuses what concerns tokens on an object that is not about them.
    pub(super) fn refuse_token_annotations(&self, reader: &mut Reader<'_>) {
        for (name, annotation) in
            [(REQUIRE_EXPIRATION, self.require_expiration), (REQUIRE_BOUND, self.require_bound)]
        {
            if let Some(at) = annotation.at {
                misplaced(at, name, "RequestAuthentication", reader);
            }
        }
    }
}

/// A boolean annotation, with its place if it is there.
#[derive(Clone, Copy)]
pub(super) struct Annotation {
    pub(super) at: Option<At>,
    pub(super) value: bool,
}

const DRY_RUN: &str = "istio.io/dry-run";
const REQUIRE_EXPIRATION: &str = "picket.dev/require-expiration";
const REQUIRE_BOUND: &str = "picket.dev/require-certificate-bound";
const LINT_IGNORE: &str = "picket.dev/lint-ignore";
/// The boolean ones.
const BOOLEAN: [&str; 3] = [DRY_RUN, REQUIRE_EXPIRATION, REQUIRE_BOUND];
const OURS: [&str; 4] = [DRY_RUN, REQUIRE_EXPIRATION, REQUIRE_BOUND, LINT_IGNORE];

/// Members of Kubernetes' ObjectMeta that have no meaning here.
const IGNORED: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    "selfLink",
    "managedFields",
    "ownerReferences",
];

pub(super) fn read(object: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Metadata> {
    let field = object.require("metadata", reader)?;
    let mut metadata = reader.map(field.node, "metadata")?;
    let name = metadata.require("name", reader).and_then(|field| reader.string(field.node, "name"));
    let namespace = metadata.string("namespace", reader);
    let annotations = metadata.take("annotations");
    let labels = metadata.take("labels");
    metadata.ignore(&IGNORED);
    metadata.ignore(&["finalizers", "clusterName"]);
    metadata.finish(reader);

    let (booleans, ignored) = read_annotations(annotations, reader);
    let [dry_run, require_expiration, require_bound] = booleans;
    check_labels(labels, reader);
    let name = name.filter(|name| is_valid(name, is_dns_subdomain, reader));
    let namespace = match namespace {
        Some(namespace) => is_valid(&namespace, is_dns_label, reader).then_some(namespace.text),
        None => Some("default".to_owned()),
    };
    let (name, namespace) = (name?.text, namespace?);
    Some(Metadata { name, namespace, dry_run, require_expiration, require_bound, ignored })
}

fn is_valid(name: &Text, rule: fn(&str) -> bool, reader: &mut Reader<'_>) -> bool {
    let valid = rule(&name.text);
    if !valid {
        reader.error(
            name.at,
            code::BAD_NAME,
            format!("`{}` is not a name that Kubernetes would take", name.text),
            "use lower-case letters, digits, `-` and, in names of objects, `.`",
        );
    }
    valid
}

/// The annotations that mean something: the boolean ones in the order of [`BOOLEAN`], and the codes to ignore.
fn read_annotations(
    field: Option<Field<'_>>,
    reader: &mut Reader<'_>,
) -> ([Annotation; BOOLEAN.len()], Vec<&'static str>) {
    let mut found = [Annotation { at: None, value: false }; BOOLEAN.len()];
    let mut ignored = Vec::new();
    for (key, node) in entries(field, reader) {
        let text = annotation_text(node, "annotations", reader);
        if key.name == LINT_IGNORE {
            ignored = read_ignored(text.as_deref().unwrap_or_default(), node.at, reader);
            continue;
        }
        let Some(index) = BOOLEAN.iter().position(|ours| *ours == key.name) else {
            refuse_unknown(&key.name, key.at, reader);
            continue;
        };
        let value = text.and_then(|text| parse_bool(&text));
        if value.is_none() {
            reader.error(
                node.at,
                code::BAD_ANNOTATION,
                format!("annotation `{}` must be \"true\" or \"false\", in quotes", key.name),
                "Istio would take any other value for \"false\"",
            );
        }
        if let Some(annotation) = found.get_mut(index) {
            *annotation = Annotation { at: Some(key.at), value: value.unwrap_or(false) };
        }
    }
    (found, ignored)
}

/// Codes between commas. Errors cannot be ignored, and what is misspelt would ignore nothing.
fn read_ignored(text: &str, at: At, reader: &mut Reader<'_>) -> Vec<&'static str> {
    let mut ignored = Vec::new();
    for word in text.split(',').map(str::trim) {
        match code::WARNINGS.into_iter().find(|known| *known == word) {
            Some(known) => ignored.push(known),
            None => reader.error(
                at,
                code::BAD_ANNOTATION,
                format!("annotation `{LINT_IGNORE}` names \"{word}\", which is no warning"),
                format!(
                    "write the codes of warnings with commas between them: {}",
                    code::WARNINGS.join(", ")
                ),
            ),
        }
    }
    ignored
}

fn check_labels(field: Option<Field<'_>>, reader: &mut Reader<'_>) {
    for (_, node) in entries(field, reader) {
        annotation_text(node, "labels", reader);
    }
}

/// `kubectl` writes `null` where there are none.
fn entries<'n>(field: Option<Field<'n>>, reader: &mut Reader<'_>) -> Vec<&'n (Key, Node)> {
    field
        .filter(|field| field.node.value != Value::Null)
        .and_then(|field| reader.map(field.node, field.name))
        .map_or_else(Vec::new, Fields::entries)
}

/// An annotation may be empty, unlike every other string.
fn annotation_text(node: &Node, what: &'static str, reader: &mut Reader<'_>) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => reader.string(node, what).map(|text| text.text),
    }
}

/// A slip in an annotation of ours would change nothing and look as if it did.
fn refuse_unknown(name: &str, at: At, reader: &mut Reader<'_>) {
    let near = fields::closest(name, &OURS);
    if !name.starts_with("picket.dev/") && near.is_none() {
        return;
    }
    let help = match near {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("known are {}", fields::list(&OURS)),
    };
    reader.error(at, code::BAD_ANNOTATION, format!("annotation `{name}` is not known"), help);
}

/// The spellings that Go's `strconv.ParseBool` takes, which is what Istio reads the annotation with.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}
