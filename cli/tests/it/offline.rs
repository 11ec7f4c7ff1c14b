//! What operators try out before they apply it: tests of policies, lint with its fixes, and differences.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::command::{Run, picket};

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  rules:
  - to: [{operation: {methods: [GET], paths: [/]}}]
  - to: [{operation: {methods: [PUT], paths: [/a]}}]
";

const TESTS: &str = "apiVersion: picket.dev/v1alpha1
kind: PolicyTest
metadata: {name: web}
spec:
  policies: policies
  mesh: {defaultMtls: permissive}
  request: {destination: shop/web, labels: {app: web}, method: GET}
  tests:
  - {name: the front page, request: {path: /}, expect: allow}
  - {name: \"a <&> ]]> \\u0007 b\", request: {path: /b}, expect: allow}
";

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn run(directory: &Path, arguments: &[&str]) -> Run {
    Run::of(picket(arguments).current_dir(directory))
}

#[test]
fn tests_of_policies_pass_fail_and_say_which_rules_they_leave_out() {
    let directory = directory(&[("policies/web.yaml", POLICY), ("web.test.yaml", TESTS)]);
    let root = directory.path();
    let failed = run(root, &["policy", "test", "web.test.yaml", "--junit", "out.xml"]);
    assert_eq!(failed.status, 1, "{failed:?}");
    for words in [
        "ok   web: the front page",
        "FAIL web: a <&> ]]>",
        "at web.test.yaml:10",
        "decision: expected allow, got deny",
        "nearest miss: ALLOW shop/web rule[0]   policies/web.yaml:7",
        "policies/web.yaml:8  shop/web rule[1]",
    ] {
        assert!(failed.stdout.contains(words), "{words}: {failed:?}");
    }
    assert!(failed.stderr.contains("1 passed, 1 failed; 1 of 2 rules decide a test (50 %)"));
    let xml = fs::read_to_string(root.join("out.xml")).unwrap();
    assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
    well_formed(&root.join("out.xml"));
    let json = run(root, &["policy", "test", "web.test.yaml", "-o", "json"]).json();
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &1.into()));
    assert_eq!(json["tests"][1]["mismatches"][0]["field"], "decision");
    assert_eq!(json["coverage"]["uncovered"][0]["line"], 8);

    let passing = TESTS.replace("path: /b}, expect: allow", "path: /b}, expect: deny");
    fs::write(root.join("web.test.yaml"), passing).unwrap();
    let status =
        |more: &[&str]| run(root, &[&["policy", "test", "web.test.yaml"], more].concat()).status;
    assert_eq!(status(&[]), 0);
    assert_eq!(status(&["--min-coverage", "50"]), 0);
    assert_eq!(status(&["--min-coverage", "51"]), 1);
    assert_eq!(status(&["--min-coverage", "101"]), 2);
    assert_eq!(status(&["--policies", "nowhere"]), 2);
    // Beside the policies the tests are no policies, and need not say where these are.
    fs::write(root.join("policies/web.test.yaml"), TESTS.replace("  policies: policies\n", ""))
        .unwrap();
    assert_eq!(run(root, &["policy", "test", "policies"]).status, 1);
    assert_eq!(run(root, &["policy", "lint", "policies"]).status, 0);
    // A slip in a test is a mistake that has a place, and no set is refused for it.
    fs::write(root.join("policies/web.test.yaml"), TESTS.replace("expect: allow", "expct: allow"))
        .unwrap();
    for command in ["test", "lint"] {
        let slip = run(root, &["policy", command, "policies"]);
        assert_eq!(slip.status, 1, "{slip:?}");
        let words = slip.stdout.clone() + &slip.stderr;
        assert!(words.contains("policies/web.test.yaml:9:48: error[P0201]"), "{words}");
    }
    fs::remove_file(root.join("policies/web.test.yaml")).unwrap();
    assert_eq!(run(root, &["policy", "test", "policies"]).status, 2, "there is no test");
}

/// What a foreign reader of XML says of a file.
fn well_formed(path: &Path) {
    let program = "import sys, xml.etree.ElementTree as e; print(len(e.parse(sys.argv[1]).findall('.//failure')))";
    match Command::new("python3").args(["-c", program]).arg(path).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "{output:?}"),
        Err(error) => eprintln!("SKIPPED python3: {error}"),
    }
}

#[test]
fn lint_mends_what_is_certain_and_shows_it_first() {
    let before = POLICY.replace("methods: [GET]", "methods: [get, GET ]");
    let directory = directory(&[("policies/web.yaml", &before)]);
    let (root, file) = (directory.path(), directory.path().join("policies/web.yaml"));
    let lint = |more: &[&str]| run(root, &[&["policy", "lint", "policies"], more].concat());
    assert_eq!(lint(&["--dry-run"]).status, 2, "without --fix there is nothing to try");
    assert_eq!(lint(&["--strict"]).status, 1);
    let tried = lint(&["--fix", "--dry-run"]).fine();
    assert!(
        tried.stdout.starts_with("--- a/policies/web.yaml\n+++ b/policies/web.yaml\n"),
        "{tried:?}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    let mended = lint(&["--fix"]).fine();
    assert!(
        mended.stderr.contains("2 changes made in 1 file\nok: 1 file, 0 errors, 0 warnings"),
        "{mended:?}"
    );
    let after = fs::read_to_string(&file).unwrap();
    assert_eq!(after, before.replace("[get, GET ]", "[GET ]"));
    assert_eq!(lint(&["--strict"]).status, 0);
}

#[test]
fn differences_are_told_by_object_and_by_decision() {
    let wider = POLICY.replace("[PUT]", "[PUT, DELETE]");
    let directory =
        directory(&[("a/web.yaml", POLICY), ("b/web.yaml", &wider), ("c/x.yaml", POLICY)]);
    let root = directory.path();
    let same = run(root, &["policy", "diff", "a", "c"]).fine();
    assert_eq!(same.stdout, "", "{same:?}");
    let other = run(root, &["policy", "diff", "a", "b"]);
    assert_eq!(other.status, 1, "{other:?}");
    for words in [
        "~ AuthorizationPolicy shop/web   web.yaml:1",
        "spec.rules[1].to[0].operation.methods: [\"PUT\"] → [\"PUT\",\"DELETE\"]",
        "newly allowed: ",
        "→ shop/web  DELETE /a",
    ] {
        assert!(other.stdout.contains(words), "{words}: {other:?}");
    }
    let json = run(root, &["policy", "diff", "b", "a", "-o", "json"]).json();
    assert_eq!(json["decisions"][0]["now"], "deny");
    assert_eq!(run(root, &["policy", "diff", "a", "nowhere"]).status, 2);
}
