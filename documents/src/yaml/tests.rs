use proptest::prelude::*;

use super::*;

fn read_text(text: &str) -> (Option<Node>, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let node = read(&Document::whole("f.yaml", text), &mut diagnostics);
    (node, diagnostics)
}

fn split_text(text: &str) -> (Vec<(u32, String)>, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let pieces = split(&Document::whole("f.yaml", text), &mut diagnostics);
    (
        pieces.into_iter().map(|piece| (piece.first_line, piece.text.to_string())).collect(),
        diagnostics,
    )
}

fn codes(diagnostics: &Diagnostics) -> Vec<(&'static str, u32, u32)> {
    diagnostics.iter().map(|d| (d.code, d.line, d.column)).collect()
}

#[test]
fn every_node_knows_its_place() {
    let (node, diagnostics) = read_text("a: 1\nb:\n  - x\n  - {c: 'true', 8080: yes}\n");
    assert!(diagnostics.is_empty());
    let Some(Node { value: Value::Map(entries), .. }) = node else { panic!() };
    let (b, list) = &entries[1];
    assert_eq!((b.name.as_str(), b.at), ("b", At { line: 2, column: 1 }));
    let Value::List(items) = &list.value else { panic!() };
    assert_eq!(
        items[0],
        Node { at: At { line: 3, column: 5 }, value: Value::Text("x".to_owned()) }
    );
    let Value::Map(inner) = &items[1].value else { panic!() };
    assert_eq!(
        inner[0].1,
        Node { at: At { line: 4, column: 9 }, value: Value::Text("true".to_owned()) }
    );
    assert_eq!(inner[1].0, Key { at: At { line: 4, column: 17 }, name: "8080".to_owned() });
    assert_eq!(inner[1].1.value, Value::Bool(true), "as Kubernetes reads a plain `yes`");
}

#[test]
fn lines_are_those_of_the_operators_file() {
    let document =
        Document { file: "f.yaml".into(), first_line: 40, text: "---\na: 1\nb: [\n".into() };
    let mut diagnostics = Diagnostics::default();
    assert!(read(&document, &mut diagnostics).is_none());
    assert_eq!(codes(&diagnostics), [(code::SYNTAX, 42, 4)]);
}

#[test]
fn files_are_split_at_markers() {
    let (pieces, diagnostics) =
        split_text("# head\n\n---\na: 1\n---\n# nothing\n--- {b: 2}\n...\nc: 3\n---x: 4\n");
    assert!(diagnostics.is_empty());
    let pieces: Vec<_> = pieces.iter().map(|(line, text)| (*line, text.as_str())).collect();
    assert_eq!(pieces, [(3, "---\na: 1\n"), (7, "--- {b: 2}\n"), (9, "c: 3\n---x: 4\n")]);
}

#[test]
fn a_marker_ends_even_a_block_scalar() {
    let (pieces, _) = split_text("a: |\n  x\n---\nb: 1\n");
    assert_eq!(pieces.len(), 2);
    assert_eq!(pieces[1].0, 3);
}

#[test]
fn empty_files_hold_nothing() {
    for text in ["", "\n", "# a\n", "---\n", "---\n---\n# x\n...\n", "\u{feff}\n"] {
        let (pieces, diagnostics) = split_text(text);
        assert!(pieces.is_empty() && diagnostics.is_empty(), "{text:?}");
    }
    for text in ["null\n", "~\n", "--- # x\n"] {
        assert_eq!(read_text(text).0, None);
        assert!(read_text(text).1.is_empty());
    }
}

/// What is left out of a file must be nothing to the parser either, or a policy would vanish.
#[test]
fn nothing_but_comments_is_left_out() {
    for text in ["\u{feff}{a: 1}", "\u{feff}a: 1\n", "\u{a0}# a\n", "--- 1\n", "a\n", "\u{2028}\n"]
    {
        assert_eq!(split_text(text).0.len(), 1, "{text:?}");
    }
    for text in ["# a\rb: 1\n", "\r# a\rb: 1", "---\rb: 1\n", "\r\n\r"] {
        let (pieces, diagnostics) = split_text(text);
        assert!(pieces.is_empty() && diagnostics.has_errors(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn splitting_loses_nothing(text in "(---|\\.\\.\\.|#| |\\t|a: 1|- b|\\n|\\r\\n|\u{feff}|'|%|\u{a0}){0,12}") {
        let (pieces, mut diagnostics) = split_text(&text);
        if pieces.is_empty() && diagnostics.is_empty() {
            let whole = read(&Document::whole("f.yaml", text.as_str()), &mut diagnostics);
            prop_assert_eq!(whole, None, "{:?}", text);
        }
    }
}

#[test]
fn windows_line_ends_are_read() {
    let (pieces, _) = split_text("a: 1\r\n---\r\nb: 2\r\n");
    assert_eq!(pieces.len(), 2);
    let (node, diagnostics) = read_text("a: x\r\n");
    assert!(diagnostics.is_empty());
    assert!(
        matches!(node.unwrap().value, Value::Map(entries) if entries[0].1.value == Value::Text("x".to_owned()))
    );
}

#[test]
fn what_is_not_read_is_said_at_its_place() {
    for (text, expected) in [
        ("a: 1\nb: 2\na: 3\n", (code::DUPLICATE_KEY, 3, 1)),
        ("a: {b: 1, b: 2}\n", (code::DUPLICATE_KEY, 1, 11)),
        ("a: [1\n", (code::SYNTAX, 1, 4)),
        ("a:\n\tb: 1\n", (code::SYNTAX, 2, 2)),
        ("a: b: c\n", (code::SYNTAX, 1, 5)),
        ("a: *nope\n", (code::SYNTAX, 1, 4)),
        ("<<: {a: 1}\n", (code::SYNTAX, 1, 1)),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", (code::SYNTAX, 3, 3)),
        ("a: !foo 1\n", (code::SYNTAX, 1, 9)),
        ("a: .inf\n", (code::SYNTAX, 1, 4)),
    ] {
        let (node, diagnostics) = read_text(text);
        assert_eq!(node, None, "{text:?}");
        assert_eq!(codes(&diagnostics), [expected], "{text:?}: {diagnostics}");
        assert!(!diagnostics.to_string().contains(" at line "), "one place only: {diagnostics}");
    }
    assert_eq!(codes(&split_text("%YAML 1.2\n---\na: 1\n").1), [(code::SYNTAX, 1, 1)]);
}

#[test]
fn aliases_are_read_within_limits() {
    let (node, diagnostics) = read_text("a: &x [1, 2]\nb: *x\n");
    assert!(diagnostics.is_empty());
    let Some(Node { value: Value::Map(entries), .. }) = node else { panic!() };
    assert_eq!(entries[1].1.at, At { line: 2, column: 4 }, "where it is used");
    assert!(matches!(&entries[1].1.value, Value::List(items) if items.len() == 2));
}

#[test]
fn hostile_documents_are_refused_at_once() {
    let laughs = {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let uses = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
        }
        text
    };
    let many_aliases = format!("a: &a x\nb: [{}]\n", vec!["*a"; 1000].join(", "));
    let wide = format!("a: [{}]\n", vec!["x"; 300_000].join(","));
    for (name, text) in [
        ("billion laughs", laughs),
        ("many aliases", many_aliases),
        ("deep flow", "[".repeat(10_000)),
        ("deep block", (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()),
        ("deep list", "- ".repeat(5_000)),
        ("wide", wide),
        ("long", format!("a: {}\n", "x".repeat(MAX_DOCUMENT_BYTES))),
        ("cyclic", "a: &a [*a]\n".to_owned()),
    ] {
        let (node, diagnostics) = read_text(&text);
        assert_eq!(node, None, "{name}");
        assert_eq!(diagnostics.len(), 1, "{name}");
    }
    let (pieces, diagnostics) = split_text(&"a: 1\n".repeat(MAX_FILE_BYTES / 4));
    assert!(pieces.is_empty());
    assert_eq!(codes(&diagnostics), [(code::TOO_LARGE, 1, 1)]);
}
