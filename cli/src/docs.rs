//! Keeps `docs/` and `examples/` true: what they say is compared with what the code says.
//!
//! Names that no type can list (constants, the codes of a `match`, metrics when they are registered)
//! are read from the source text; a name that is not found there where it should be fails the test.

mod source;
mod text;

use clap::{CommandFactory as _, Parser as _};
use picket_settings::Variable;
use serde_json::Value;

use crate::args::Arguments;
pub(crate) use source::path;
use source::{all, constants, first_arguments, read, strings_of};
use text::{blocks, commands, links, slug};

const CONFIGURATION: &str = "docs/configuration.md";
const AUDIT: &str = "docs/audit-attributes.md";
const POLICY: &str = "docs/policy.md";
const OPERATIONS: &str = "docs/operations.md";
const CLI: &str = "docs/cli.md";

const SEARCH: &str = "docs/search.md";

const DOCUMENTS: [&str; 6] = [CONFIGURATION, AUDIT, POLICY, OPERATIONS, CLI, SEARCH];

/// Variables that are no keys of a configuration: clap's, the logs', and that of supervised children.
const OF_THE_COMMAND: [&str; 6] = [
    "PICKET_CONTROL",
    "PICKET_OPERATOR",
    "PICKET_OUTPUT",
    "PICKET_LOG",
    "PICKET_LOG_FORMAT",
    crate::commands::END_WITH_STDIN,
];

/// The text of the first block in `language` that holds `part`, and nothing else of the document.
pub(crate) fn block(document: &str, language: &str, part: &str) -> String {
    let found = blocks(&read(document), language).into_iter().find(|block| block.contains(part));
    found.unwrap_or_else(|| panic!("{document} has no {language} block with {part:?}"))
}

/// The blocks that show a command and what it prints: its words, and the output.
pub(crate) fn shown(document: &str, command: &str) -> Vec<(Arguments, String)> {
    let blocks = blocks(&read(document), "console").into_iter().filter_map(|block| {
        let (line, output) = block.split_once('\n')?;
        let words = text::words(line.strip_prefix("$ ")?);
        line.contains(command)
            .then(|| (Arguments::try_parse_from(words).unwrap(), output.to_owned()))
    });
    blocks.collect()
}

fn assert_each(document: &str, names: &[String], is_there: impl Fn(&str, &str) -> bool) {
    let text = read(document);
    assert!(!names.is_empty(), "nothing was found to look for in {document}");
    for name in names {
        assert!(is_there(&text, name), "{document} does not say what {name} is");
    }
}

/// In code type, as every name stands in the documents.
fn quoted(text: &str, name: &str) -> bool {
    text.contains(&format!("`{name}`"))
}

/// As the first cell of a table's row.
fn in_a_row(text: &str, name: &str) -> bool {
    text.contains(&format!("\n| `{name}` |"))
}

#[test]
fn the_command_line_is_documented_as_it_is() {
    let expected = text::command_line(Arguments::command());
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(path(CLI), &expected).unwrap();
    }
    assert_eq!(
        read(CLI),
        expected,
        "docs/cli.md is not what the command says; run: REGENERATE=1 cargo test -p picket docs::"
    );
}

#[test]
fn every_command_in_the_documents_is_one() {
    for document in DOCUMENTS {
        for words in commands(&read(document)) {
            let parsed = Arguments::try_parse_from(&words);
            assert!(parsed.is_ok(), "{document}: {words:?}: {}", parsed.err().unwrap());
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    for document in DOCUMENTS {
        for (file, anchor) in links(&read(document)) {
            let target = if file.is_empty() { document.to_owned() } else { format!("docs/{file}") };
            assert!(path(&target).exists(), "{document}: there is no {file}");
            let Some(anchor) = anchor else { continue };
            let has = read(&target).lines().any(|line| {
                line.starts_with('#') && slug(line.trim_start_matches('#').trim()) == anchor
            });
            assert!(has, "{document}: {target} has no heading {anchor}");
        }
    }
}

#[test]
fn every_environment_variable_is_documented_and_no_other() {
    let keys = [picket_control::config::ENVIRONMENT, picket_proxy::config::ENVIRONMENT];
    let text = read(CONFIGURATION);
    for Variable { name, key, meaning } in keys.into_iter().flatten() {
        let row = format!("\n| `{name}` | `{key}` | {meaning} |");
        assert!(text.contains(&row), "{CONFIGURATION} lacks the row{row}");
    }
    for name in OF_THE_COMMAND {
        assert!(in_a_row(&text, name), "{CONFIGURATION} lacks {name}");
    }
    let known = |name: &str| {
        OF_THE_COMMAND.contains(&name) || keys.iter().copied().flatten().any(|v| v.name == name)
    };
    for document in DOCUMENTS {
        let text = read(document);
        for at in text.match_indices("PICKET_").map(|(at, _)| at) {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(known(name), "{document}: nobody reads {name}");
        }
    }
}

// === configuration ===

fn control(text: &str) -> Result<picket_control::Config, String> {
    let config = picket_control::Config::load(text, "control.yaml", std::iter::empty());
    config.map_err(|error| error.to_string())
}

fn proxy(text: &str) -> Result<picket_proxy::config::Config, String> {
    let config = picket_proxy::config::Config::load(text, "proxy.yaml", std::iter::empty());
    config.map_err(|error| error.to_string())
}

/// Every key of a configuration file: whoever reads it names them when it meets one that is not known.
fn keys(refusal: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    fn collect(
        refusal: &dyn Fn(&str) -> Option<String>,
        within: &dyn Fn(&str) -> String,
        prefix: &str,
        found: &mut Vec<String>,
    ) {
        for name in expected(refusal(&within("{zz: 1}"))).unwrap_or_default() {
            let section = |value: &str| within(&format!("{{{name}: {value}}}"));
            let list = |value: &str| section(&format!("[{value}]"));
            if expected(refusal(&section("{zz: 1}"))).is_some() {
                collect(refusal, &section, &format!("{prefix}{name}."), found);
            } else if expected(refusal(&list("{zz: 1}"))).is_some() {
                collect(refusal, &list, &format!("{prefix}{name}[]."), found);
            } else {
                found.push(format!("{prefix}{name}"));
            }
        }
    }
    fn expected(refusal: Option<String>) -> Option<Vec<String>> {
        let refusal = refusal?;
        let (_, names) = refusal.split_once("unknown field `zz`, expected ")?;
        let names = names.strip_prefix("one of ").unwrap_or(names);
        Some(names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect())
    }
    let mut found = Vec::new();
    collect(refusal, &|text| text.to_owned(), "", &mut found);
    found
}

fn has_key(file: &Value, key: &str) -> bool {
    let Some((first, rest)) = key.split_once('.') else { return !file[key].is_null() };
    match first.strip_suffix("[]") {
        // In one of them: not every key goes with every kind.
        Some(name) => file[name].as_array().is_some_and(|l| l.iter().any(|v| has_key(v, rest))),
        None => has_key(&file[first], rest),
    }
}

#[test]
fn every_key_is_documented_and_in_an_example() {
    let control_keys = keys(&|text| control(text).err());
    let proxy_keys = keys(&|text| proxy(text).err());
    assert!(control_keys.iter().any(|key| key == "export.headers"), "{control_keys:?}");
    assert!(proxy_keys.iter().any(|key| key == "inbound[].advertise"), "{proxy_keys:?}");
    let text = read(CONFIGURATION);
    for key in control_keys.iter().chain(&proxy_keys) {
        let lists = ["inbound[].", "alerts.sinks[]."];
        let shown = lists.iter().find_map(|list| key.strip_prefix(list)).unwrap_or(key);
        assert!(in_a_row(&text, shown), "{CONFIGURATION} lacks {key}");
    }
    let file = |name: &str| -> Value {
        picket_settings::parse(&read(&format!("examples/config/{name}")), name).unwrap()
    };
    let full = file("control-full.yaml");
    for key in control_keys {
        assert!(has_key(&full, &key), "control-full.yaml lacks {key}");
    }
    let (with_control, from_files) = (file("proxy-full.yaml"), file("proxy-files.yaml"));
    for key in proxy_keys {
        let example = if key.starts_with("files.") { &from_files } else { &with_control };
        assert!(has_key(example, &key), "proxy-full.yaml and proxy-files.yaml lack {key}");
    }
}

#[test]
fn the_examples_are_configurations() {
    for name in ["control.yaml", "control-full.yaml"] {
        let config = control(&read(&format!("examples/config/{name}"))).unwrap();
        assert_eq!(config.trust_domain.as_str(), "shop.example", "{name}");
    }
    for name in ["proxy.yaml", "proxy-full.yaml", "proxy-files.yaml"] {
        let config = proxy(&read(&format!("examples/config/{name}"))).unwrap();
        let id = config.workload.id.as_str();
        assert_eq!(id, "spiffe://shop.example/ns/shop/sa/orders", "{name}");
    }
}

#[test]
fn the_example_policies_are_good_and_without_a_warning() {
    let documents = picket_policy_files::read(&path("examples/policies")).unwrap();
    let settings = picket_policy::Settings::default();
    let set = picket_policy::PolicySet::parse(&documents, settings).unwrap();
    let found = set.lint(&picket_policy::lint::Options::default());
    assert!(found.is_empty(), "{found}");
}

// === closed lists ===

#[test]
fn every_attribute_of_a_record_is_documented() {
    let names = constants(&read("api/src/attributes.rs"));
    assert!(names.iter().any(|name| name == "picket.decision"), "{names:?}");
    assert_each(AUDIT, &names, quoted);
}

/// What `as JSON` adds to the attributes.
const KEYS: [&str; 8] =
    ["id", "time", "duration_us", "name", "trace_id", "span_id", "parent_span_id", "status.error"];

#[test]
fn detection_rules_may_ask_for_every_attribute_and_for_nothing_else() {
    let text = read("api/src/attributes.rs");
    let scope = picket_api::attributes::SCOPE;
    let names = constants(&text).into_iter().filter(|name| {
        // The names of the scope and of span events are no attributes.
        name != scope && !name.starts_with("picket.authz.")
    });
    let mut known: Vec<String> = names.chain(KEYS.map(str::to_owned)).collect();
    known.sort();
    known.dedup();
    assert_eq!(picket_detect::KNOWN, known);
}

#[test]
fn every_reason_stage_ending_and_event_is_documented() {
    for (directory, item, function) in [
        ("policy/src", "impl ReasonCode {", "fn as_str"),
        ("policy/src", "impl TokenErrorKind {", "fn code"),
        ("policy/src", "impl PathError {", "fn code"),
        ("policy/src", "impl Stage {", "fn as_str"),
        ("certs/src", "impl Refusal {", "fn code"),
        ("proxy/src", "impl Malformed {", "fn code"),
        ("proxy/src", "impl RequestError {", "fn code"),
        ("proxy/src", "impl RequestError {", "fn stage"),
        ("proxy/src", "impl UpstreamError {", "fn code"),
        ("proxy/src", "impl CheckError {", "fn code"),
        ("proxy/src", "impl HandshakeError {", "fn code"),
        ("proxy/src", "impl Ending {", "fn as_str"),
        ("proxy/src", "", "fn record_failure"),
        ("proxy/src/recheck", "", "fn certificate"),
        ("proxy/src/recheck", "", "fn of_call"),
        ("proxy/src/recheck", "impl Lost {", "fn undecided"),
        ("control/src", "impl Event {", "fn name"),
        ("control/src/enrollment", "impl Refusal {", "fn code"),
        ("control/src/registry.rs", "impl Refused {", "fn code"),
    ] {
        println!("{directory}: {item} {function}");
        assert_each(AUDIT, &codes_in(directory, item, function), quoted);
    }
    for (directory, call) in [
        ("control/src", "Act::refused("),
        ("control/src/configuration.rs", "refuse("),
        ("control/src/ingest.rs", ".foreign("),
    ] {
        let names = first_arguments(&source_of(directory), call);
        let names: Vec<String> = names.into_iter().filter(|name| is_code(name)).collect();
        println!("{call} {names:?}");
        assert_each(AUDIT, &names, quoted);
    }
}

#[test]
fn every_lint_code_is_documented_and_no_other() {
    let files =
        ["documents/src/diagnostic.rs", "policy/src/diagnostic.rs", "policy-files/src/lib.rs"];
    let sources = files.map(read);
    let codes: Vec<String> = sources.iter().flat_map(|source| constants(source)).collect();
    assert_each(POLICY, &codes, in_a_row);
    let rows = read(POLICY);
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for code in rows.filter(|name| name.len() == 5 && name[1..].bytes().all(|b| b.is_ascii_digit()))
    {
        assert!(codes.iter().any(|known| known == code), "nothing has the code {code}");
    }
}

#[test]
fn every_code_of_a_rule_is_documented() {
    let codes = constants(&read("detect/src/rule.rs"));
    assert!(codes.len() > 10, "{codes:?}");
    assert_each("docs/detection.md", &codes, in_a_row);
}

#[test]
fn every_path_that_is_refused_is_documented() {
    assert_each(POLICY, &codes_in("policy/src/path.rs", "impl PathError {", "fn code"), in_a_row);
}

#[test]
fn every_test_that_the_semantics_name_exists() {
    let text = read(POLICY);
    let mut count = 0;
    for (module, test) in named_tests(&text) {
        let files = [
            format!("policy/tests/policy/{module}.rs"),
            format!("policy/src/{module}/tests.rs"),
            format!("policy/src/{module}.rs"),
            format!("proxy/tests/it/{module}.rs"),
            format!("proxy/tests/it/custom/{module}.rs"),
            format!("proxy/src/{module}.rs"),
            format!("proxy/src/{module}/tests.rs"),
        ];
        let has = files
            .iter()
            .filter(|file| path(file).exists())
            .any(|file| read(file).contains(&format!("fn {test}(")));
        assert!(has, "{POLICY} names {module}::{test}, which is no test");
        count += 1;
    }
    assert!(count > 80, "only {count} tests are named");
}

#[test]
fn every_row_of_the_conformance_matrix_names_a_test() {
    let text = read(POLICY);
    let mut is_matrix = false;
    let mut rows = 0;
    for line in text.lines() {
        let Some(cells) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            is_matrix = false;
            continue;
        };
        let last = cells.rsplit('|').next().unwrap_or_default();
        if last.trim() == "Test" {
            is_matrix = true;
        } else if is_matrix && !cells.starts_with("---") {
            let names_file = |name: &str| name.ends_with(".rs") && path(name).exists();
            let names_test = named_tests(last).next().is_some() || last.split('`').any(names_file);
            assert!(names_test, "{POLICY} names no test in the row {line}");
            rows += 1;
        }
    }
    assert!(rows > 80, "only {rows} rows were found");
}

/// `module::test`, in code type.
fn named_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name = |text: &str| {
        text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    text.split('`')
        .filter_map(|name| name.split_once("::"))
        .filter(move |(module, test)| is_name(module) && is_name(test) && *test != "x")
}

#[test]
fn every_metric_is_documented() {
    for (file, prefix) in
        [("proxy/src/metrics.rs", "picket"), ("control/src/metrics.rs", "picket_control")]
    {
        let source = read(file);
        let plain = first_arguments(&source, ".register(").into_iter();
        // Every unit of ours is the second.
        let seconds = first_arguments(&source, ".register_with_unit(").into_iter();
        let names = plain.chain(seconds.map(|name| format!("{name}_seconds")));
        let names: Vec<String> = names.map(|name| format!("{prefix}_{name}")).collect();
        assert_each(OPERATIONS, &names, in_a_row);
    }
}

#[test]
fn every_item_of_the_check_and_every_route_is_documented() {
    let checks = first_arguments(&source_of("control/src/api/check.rs"), "items.add(");
    let items = checks.into_iter().filter(|name| is_code(name)).collect::<Vec<_>>();
    assert_each(OPERATIONS, &items, quoted);
    assert_each(OPERATIONS, &["API reachable".to_owned()], quoted);
    let routes = first_arguments(&source_of("control/src/api.rs"), ".route(");
    assert_each(OPERATIONS, &routes, |text, route| text.contains(route));
    let admin = strings_of(&read("proxy/src/admin.rs"), "impl Admin {", "fn answer<B>");
    let admin = admin.into_iter().filter(|text| text.starts_with('/')).collect::<Vec<_>>();
    assert_each(OPERATIONS, &admin, |text, route| text.contains(route));
}

/// The short stable names in a function's body, wherever below a directory it stands.
fn codes_in(directory: &str, item: &str, function: &str) -> Vec<String> {
    let strings = all(directory).into_iter().flat_map(|file| strings_of(&file, item, function));
    strings.filter(|text| is_code(text)).collect()
}

fn source_of(directory: &str) -> String {
    all(directory).concat()
}

fn is_code(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.');
    !text.is_empty() && text.bytes().all(allowed)
}
