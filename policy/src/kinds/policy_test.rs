//! PolicyTest: requests in the words of `explain`, alone or as rows of a table, and what is expected of them.
//!
//! A kind for [`crate::testing`] alone; the requests are made whole and checked here, so that a slip is a mistake in the
//! file and not a test that fails.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::values::{MAX_RULES, MAX_VALUES};
use super::{OURS, metadata};
use crate::decision::{Stage, Verdict};
use crate::diagnostic::{Diagnostics, code};
use crate::document::{DefaultAction, Document, MtlsMode, Settings};
use crate::explain::{OneOrMany, Request};
use crate::fields::{Field, Fields, Reader, Text};
use crate::testing::{Case, Expectation, ExpectedHit, PolicyTest};
use crate::yaml::{self, At, Node, Value};

pub(super) const KIND: &str = "PolicyTest";
/// Tests of one object, and rows of one table.
const MAX_CASES: usize = 4096;

/// A request as far as it is written.
type Part<'n> = BTreeMap<&'static str, &'n Node>;

/// The fields of a request; `headers` and `labels` are maps, and `claims` is whatever a token may hold.
const REQUEST: [&str; 15] = [
    "destination",
    "labels",
    "from",
    "method",
    "path",
    "host",
    "port",
    "headers",
    "source_ip",
    "destination_ip",
    "remote_ip",
    "sni",
    "claims",
    "token",
    "certificate_sha256",
];
const EXPECT: &str = "expect";

/// Reads the tests of a file.
pub(crate) fn read_all(file: &Document, diagnostics: &mut Diagnostics) -> Vec<PolicyTest> {
    let pieces = yaml::split(file, diagnostics);
    pieces.iter().filter_map(|piece| read(piece, diagnostics)).collect()
}

fn read(document: &Document, diagnostics: &mut Diagnostics) -> Option<PolicyTest> {
    let node = yaml::read(document, diagnostics)?;
    let Value::Map(entries) = &node.value else { return None };
    let is_kind = |node: &Node| matches!(&node.value, Value::Text(text) if text == KIND);
    if !entries.iter().any(|(key, node)| key.name == "kind" && is_kind(node)) {
        return None;
    }
    let mut reader = Reader { file: &document.file, diagnostics };
    let reader = &mut reader;
    let mut fields = reader.map(&node, "object")?;
    fields.ignore(&["kind"]);
    let version = fields.require("apiVersion", reader);
    if let Some(version) = version.and_then(|field| reader.string(field.node, "apiVersion"))
        && !OURS.contains(&version.text.as_str())
    {
        super::unknown_version(&version, KIND, &OURS, reader);
    }
    let metadata = metadata::read(&mut fields, reader);
    let spec = fields.require("spec", reader);
    fields.finish(reader);
    let mut spec = reader.map(spec?.node, "spec")?;
    let policies = spec.string("policies", reader).map(|text| text.text);
    let settings =
        spec.take("mesh").map_or_else(Settings::default, |field| read_mesh(field, reader));
    let shared = spec.take("request").map_or_else(Part::new, |field| read_part(field, reader));
    let tests = spec.require("tests", reader);
    spec.finish(reader);
    let mut cases = Vec::new();
    for node in tests.and_then(|field| reader.list(field, MAX_CASES)).unwrap_or_default() {
        read_case(node, &shared, &mut cases, reader);
    }
    Some(PolicyTest {
        name: metadata?.name,
        file: document.file.clone(),
        policies,
        settings,
        cases,
    })
}

/// The settings of the mesh; what is not said is as a proxy has it.
fn read_mesh(field: Field<'_>, reader: &mut Reader<'_>) -> Settings {
    let mut settings = Settings::default();
    let Some(mut fields) = reader.map(field.node, "mesh") else { return settings };
    let mut word = |name: &'static str, known: &[&str]| {
        let text = fields.string(name, reader)?;
        let index = known.iter().position(|word| *word == text.text);
        if index.is_none() {
            bad(text.at, format!("`{name}: {}` is not known", text.text), known, reader);
        }
        index
    };
    match word("defaultAction", &["deny", "allow"]) {
        Some(1) => settings.default_action = DefaultAction::Allow,
        _ => settings.default_action = DefaultAction::Deny,
    }
    settings.default_mtls = match word("defaultMtls", &["strict", "permissive", "disable"]) {
        Some(1) => MtlsMode::Permissive,
        Some(2) => MtlsMode::Disable,
        _ => MtlsMode::Strict,
    };
    if let Some(namespace) = fields.string("rootNamespace", reader) {
        settings.root_namespace = namespace.text;
    }
    settings.trust_domain = fields.string("trustDomain", reader).map(|text| text.text);
    let aliases = fields.strings("trustDomainAliases", MAX_VALUES, reader);
    settings.trust_domain_aliases = aliases.into_iter().map(|text| text.text).collect();
    fields.finish(reader);
    settings
}

fn bad(at: At, message: String, known: &[&str], reader: &mut Reader<'_>) {
    reader.error(at, code::BAD_TEST, message, format!("write {}", known.join(" or ")));
}

/// One test, or a table of them.
fn read_case(node: &Node, shared: &Part<'_>, cases: &mut Vec<Case>, reader: &mut Reader<'_>) {
    let Some(mut fields) = reader.map(node, "tests") else { return };
    let name = fields.require("name", reader).and_then(|field| reader.string(field.node, "name"));
    let mut request = shared.clone();
    if let Some(field) = fields.take("request") {
        request.extend(read_part(field, reader));
    }
    let (columns, rows) = (fields.take("columns"), fields.take("rows"));
    let expect = fields.take(EXPECT).map(|field| (field.node.at, read_expect(field.node, reader)));
    let at = fields.at();
    fields.finish(reader);
    let Some(name) = name.map(|name| name.text) else { return };
    match (columns, rows) {
        (None, None) => {
            let expect = expect.map(|(_, expect)| expect);
            finish_case(name, at, &request, expect, cases, reader);
        }
        (Some(columns), Some(rows)) => {
            let expect = expect.and_then(|(_, expect)| expect);
            read_table(&name, columns, rows, &request, expect.as_ref(), cases, reader);
        }
        (Some(field), None) | (None, Some(field)) => reader.error(
            field.key,
            code::BAD_TEST,
            "a table has `columns` and `rows`, and here is only one of them",
            "write `columns: [from, method, path, expect]` and a list for each of `rows`",
        ),
    }
}

fn finish_case(
    name: String,
    at: At,
    request: &Part<'_>,
    expect: Option<Option<Expectation>>,
    cases: &mut Vec<Case>,
    reader: &mut Reader<'_>,
) {
    let Some(expect) = expect else {
        reader.error(
            at,
            code::BAD_TEST,
            format!("the test {name:?} expects nothing"),
            "add `expect: allow` or `expect: deny`",
        );
        return;
    };
    let before = reader.diagnostics.len();
    let Some(request) = make_request(request, at, reader) else { return };
    let Some(expect) = expect else { return };
    if reader.diagnostics.len() > before {
        return;
    }
    if let Err(reason) = request.check() {
        reader.error(
            at,
            code::BAD_TEST,
            format!("the request of the test {name:?} is none: {reason}"),
            "write it in the words of `picket authz explain --requests`",
        );
        return;
    }
    cases.push(Case { name, line: at.line, request, expect });
}

fn read_table(
    name: &str,
    columns: Field<'_>,
    rows: Field<'_>,
    request: &Part<'_>,
    expect: Option<&Expectation>,
    cases: &mut Vec<Case>,
    reader: &mut Reader<'_>,
) {
    let mut names = Vec::new();
    for column in reader.strings(columns, REQUEST.len() + 1) {
        let known = REQUEST.iter().chain([&EXPECT]);
        match known.into_iter().find(|known| **known == column.text) {
            Some(known) if !names.contains(known) => names.push(*known),
            _ => bad(
                column.at,
                format!("`columns` cannot have `{}` here", column.text),
                &["each of a request's fields, and expect, once"],
                reader,
            ),
        }
    }
    let is_whole = matches!(&columns.node.value, Value::List(list) if list.len() == names.len());
    for row in reader.list(rows, MAX_CASES).unwrap_or_default() {
        let Value::List(cells) = &row.value else {
            bad(row.at, "a row is a list of values".to_owned(), &["one for each column"], reader);
            continue;
        };
        if !is_whole {
            continue;
        }
        if cells.len() != names.len() {
            let message = format!("the row has {} values for {} columns", cells.len(), names.len());
            bad(row.at, message, &["one for each column, ~ where there is none"], reader);
            continue;
        }
        let mut request = request.clone();
        let mut own = None;
        let mut words = Vec::new();
        for (column, cell) in names.iter().zip(cells) {
            if *column == EXPECT {
                own = Some(read_expect(cell, reader));
                continue;
            }
            request.insert(column, cell);
            words.push(shown(cell));
        }
        let expect = own.or_else(|| expect.cloned().map(Some));
        let name = format!("{name}: {}", words.join(" "));
        finish_case(name, row.at, &request, expect, cases, reader);
    }
}

/// A cell as the name of its row shows it.
fn shown(cell: &Node) -> String {
    match &cell.value {
        Value::Null => "~".to_owned(),
        Value::Text(text) => text.strip_prefix("spiffe://").unwrap_or(text).to_owned(),
        _ => cell.json().to_string(),
    }
}

/// The fields of a request that are written; `~` takes away what the shared request has.
fn read_part<'n>(field: Field<'n>, reader: &mut Reader<'_>) -> Part<'n> {
    let Some(mut fields) = reader.map(field.node, "request") else { return Part::new() };
    let part = REQUEST.iter().filter_map(|name| Some((*name, fields.take(name)?.node))).collect();
    fields.finish(reader);
    part
}

/// Puts a request together; `None` after a report.
fn make_request(part: &Part<'_>, at: At, reader: &mut Reader<'_>) -> Option<Request> {
    let present = |name: &str| present(part, name);
    let destination = text(part, "destination", reader);
    let [from, method, path, host, sni, token, certificate_sha256] =
        ["from", "method", "path", "host", "sni", "token", "certificate_sha256"]
            .map(|name| Some(text(part, name, reader)?.text));
    let [source_ip, destination_ip, remote_ip] =
        ["source_ip", "destination_ip", "remote_ip"].map(|name| {
            let text = text(part, name, reader)?;
            let address = text.text.parse().ok();
            if address.is_none() {
                let message = format!("`{name}: {}` is not an IP address", text.text);
                bad(text.at, message, &["for example 10.1.2.3"], reader);
            }
            address
        });
    let port = present("port").and_then(|node| read_number(node, "port", reader));
    let labels =
        present("labels").map_or_else(BTreeMap::new, |node| read_map(node, "labels", reader));
    let headers = present("headers").map_or_else(BTreeMap::new, |node| read_headers(node, reader));
    let claims = present("claims").and_then(|node| match node.json() {
        Json::Object(claims) => Some(claims),
        _ => {
            bad(node.at, "`claims` is not a map".to_owned(), &["the claims of the token"], reader);
            None
        }
    });
    let Some(destination) = destination else {
        if present("destination").is_none() {
            reader.error(
                at,
                code::BAD_TEST,
                "the request has no `destination`",
                "add `destination: NAMESPACE/WORKLOAD` to it, or to the request that all tests share",
            );
        }
        return None;
    };
    Some(Request {
        destination: destination.text,
        labels,
        from,
        method,
        path,
        host,
        port,
        headers,
        source_ip,
        destination_ip,
        remote_ip,
        sni,
        claims,
        token,
        certificate_sha256,
    })
}

fn present<'n>(part: &Part<'n>, name: &str) -> Option<&'n Node> {
    part.get(name).copied().filter(|node| node.value != Value::Null)
}

fn text(part: &Part<'_>, name: &str, reader: &mut Reader<'_>) -> Option<Text> {
    present(part, name).and_then(|node| reader.string(node, name))
}

fn read_number<N: std::str::FromStr>(
    node: &Node,
    name: &str,
    reader: &mut Reader<'_>,
) -> Option<N> {
    let number = match &node.value {
        Value::Number(text) => text.parse().ok(),
        _ => None,
    };
    if number.is_none() {
        let message = format!("`{name}` is not a number that fits");
        bad(node.at, message, &["a whole number, without quotes"], reader);
    }
    number
}

fn read_map(node: &Node, what: &'static str, reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let entries = reader.map(node, what).map_or_else(Vec::new, Fields::entries);
    let text = |node: &Node, reader: &mut Reader<'_>| match &node.value {
        // A label may be empty.
        Value::Text(text) => Some(text.clone()),
        _ => reader.string(node, what).map(|text| text.text),
    };
    entries
        .into_iter()
        .filter_map(|(key, node)| Some((key.name.clone(), text(node, reader)?)))
        .collect()
}

fn read_headers(node: &Node, reader: &mut Reader<'_>) -> BTreeMap<String, OneOrMany> {
    let entries = reader.map(node, "headers").map_or_else(Vec::new, Fields::entries);
    let mut headers = BTreeMap::new();
    for (key, node) in entries {
        let values = match &node.value {
            Value::Text(text) => OneOrMany::One(text.clone()),
            Value::List(items) => {
                let items = items.iter().filter_map(|item| reader.string(item, "headers"));
                OneOrMany::Many(items.map(|text| text.text).collect())
            }
            _ => match reader.string(node, "headers") {
                Some(text) => OneOrMany::One(text.text),
                None => continue,
            },
        };
        headers.insert(key.name.clone(), values);
    }
    headers
}

/// `allow`, `deny`, or a map with the decision and more.
fn read_expect(node: &Node, reader: &mut Reader<'_>) -> Option<Expectation> {
    if matches!(node.value, Value::Text(_)) {
        return read_verdict(node, EXPECT, reader).map(Expectation::of);
    }
    let mut fields = reader.map(node, EXPECT)?;
    let decision = fields.require("decision", reader);
    let decision = decision.and_then(|field| read_verdict(field.node, "decision", reader));
    let stage = fields.string("stage", reader).and_then(|text| {
        let stage = Stage::ALL.into_iter().find(|stage| stage.as_str() == text.text);
        if stage.is_none() {
            let message = format!("`stage: {}` is not known", text.text);
            bad(text.at, message, &Stage::ALL.map(Stage::as_str), reader);
        }
        stage
    });
    let mut text = |name| fields.string(name, reader).map(|text| text.text);
    let (policy, code) = (text("policy"), text("code"));
    let rule = fields.take("rule").and_then(|field| read_number(field.node, "rule", reader));
    let status = fields.take("status").and_then(|field| read_number(field.node, "status", reader));
    let dry_run = fields.take("dry_run").map(|field| read_hits(field, true, reader));
    let audit = fields.take("audit").map(|field| read_hits(field, false, reader));
    fields.finish(reader);
    let decision = decision?;
    Some(Expectation { decision, stage, policy, rule, code, status, dry_run, audit })
}

fn read_verdict(node: &Node, what: &str, reader: &mut Reader<'_>) -> Option<Verdict> {
    let text = reader.string(node, what)?;
    match text.text.as_str() {
        "allow" => Some(Verdict::Allow),
        "deny" => Some(Verdict::Deny),
        other => {
            bad(text.at, format!("`{what}: {other}` is not known"), &["allow", "deny"], reader);
            None
        }
    }
}

/// Policies by their names, or maps that say more of them; an empty list is that there are none.
fn read_hits(field: Field<'_>, has_verdict: bool, reader: &mut Reader<'_>) -> Vec<ExpectedHit> {
    let mut hits = Vec::new();
    for node in reader.list_or_empty(field, MAX_RULES).unwrap_or_default() {
        if let Value::Text(policy) = &node.value {
            hits.push(ExpectedHit { policy: policy.clone(), rule: None, would: None });
            continue;
        }
        let Some(mut fields) = reader.map(node, field.name) else { continue };
        let policy = fields.require("policy", reader);
        let policy = policy.and_then(|field| reader.string(field.node, "policy"));
        let rule = fields.take("rule").and_then(|field| read_number(field.node, "rule", reader));
        let would = if has_verdict { fields.take("would") } else { None };
        let would = would.and_then(|field| read_verdict(field.node, "would", reader));
        fields.finish(reader);
        hits.extend(policy.map(|policy| ExpectedHit { policy: policy.text, rule, would }));
    }
    hits
}
