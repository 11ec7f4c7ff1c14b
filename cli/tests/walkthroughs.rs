//! The walk-throughs of the documents, done as they are written: every `sh` block, one after the
//! other, in one shell, in an empty directory. Only the README's build is left out, because the
//! program under test has been built.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const BUILT: [&str; 2] = ["cargo build --release", "export PATH=$PWD/target/release:$PATH"];

/// The text of a document.
fn read(document: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(document)).unwrap()
}

/// The commands of a text.
fn commands(text: &str) -> String {
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    blocks.collect()
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Types the commands, and looks for what they have to print, in order. `logs` is shown if they do not.
fn walk(name: &str, programs: &[&str], commands: &str, logs: &[&str], expected: &[&str]) {
    for program in programs {
        if !is_there(program) {
            let line = format!("SKIPPED {name}: needs {program}; apt-get install {program}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_picket")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let log = directory.path().join("output");
    let output = std::fs::File::create(&log).unwrap();
    let mut shell = Command::new("bash")
        // Job control, as in a shell that somebody types into.
        .args(["-m", "-c", commands])
        .current_dir(directory.path())
        .env("PATH", path)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = shell.try_wait().unwrap() {
            break Some(status);
        }
        if started.elapsed() > Duration::from_secs(120) {
            let pid = Pid::from_raw(shell.id().try_into().unwrap()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
            shell.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let printed = std::fs::read_to_string(&log).unwrap();
    let logs: String = logs
        .iter()
        .map(|log| std::fs::read_to_string(directory.path().join(log)).unwrap_or_default())
        .collect();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{printed}\n{logs}");
    let mut rest = printed.as_str();
    for expected in expected {
        let at = rest.find(expected);
        let at =
            at.unwrap_or_else(|| panic!("{expected:?} is missing in order:\n{printed}\n{logs}"));
        rest = &rest[at + expected.len()..];
    }
}

#[test]
fn the_readme_works_line_by_line() {
    let text = read("README.md");
    let (_, walk_through) = text.split_once("## A mesh by hand").unwrap();
    let (walk_through, _) = walk_through.split_once("\n## ").unwrap();
    let commands = commands(walk_through);
    for line in BUILT {
        assert!(commands.contains(line), "{line:?} is not in the walk-through");
    }
    let typed = commands
        .lines()
        .filter(|line| !BUILT.contains(line))
        .fold(String::new(), |all, line| all + line + "\n");
    walk(
        "readme",
        &["bash", "curl", "python3"],
        &typed,
        &["walk/control.log", "walk/files.log", "walk/client.log"],
        &[
            "ok: 1 file, 0 errors, 0 warnings",
            "hello\n",
            "\"code\":\"denied\"",
            "refused\n",
            "DENY  default",
            "nearest miss: ALLOW demo/files rule[0]",
            "demo/files rule[0]",
            "\"picket.decision\":\"deny\"",
            "demo/client  synced",
            "0 failed",
            "secret\n",
            "files.yaml:7:",
            "principles",
            "secret\n",
        ],
    );
}

#[test]
fn the_session_with_policies_works_line_by_line() {
    walk(
        "policy-session",
        &["bash", "curl", "jq"],
        // A command that fails without being meant to ends it.
        &format!("set -e\n{}", commands(&read("docs/policy-session.md"))),
        &["demo.log"],
        &[
            // explain --decision, then --trace
            "then  DENY  default: no_allow_matched",
            "operation.methods must be GET, got DELETE",
            "now   DENY",
            "then  DENY",
            "operation.methods must be GET, got DELETE",
            // lint, --fix --dry-run, --fix
            "error[P0313]",
            "warning[P0392]",
            "ok: 4 files, 0 errors, 0 warnings",
            // test
            "ok   orders: who may do what to an order: shop.example/ns/shop/sa/rogue DELETE",
            "rules that no test decides by:",
            // diff, replay
            "spec.rules[1].to[0].operation.methods: [\"GET\"] → [\"GET\",\"DELETE\"]",
            "newly allowed",
            "would be newly allowed",
            "shop/web → shop/orders  DELETE /orders/{*}",
            "Result: 0 edges would break",
            // apply
            "shop/orders    applied",
            "Result: 4 of 4 proxies applied, 0 refused, 0 silent",
            "404\n",
            "then  DENY",
            "now   ALLOW  allow: ALLOW policy shop/orders rule[1]",
            // unused, learn
            "shop/web  rule[0]",
            "that was allowed would be denied (3 policies)",
            "learnt-payments",
            "ok: 3 files, 0 errors, 0 warnings",
            // token
            "200\n",
            "shop/web       yes",
            "401\n",
            "laptop lost",
            "200\n",
            // export
            "picket.request_authentication\npicket.allow\n",
        ],
    );
}

#[test]
fn the_session_with_the_audit_trail_works_line_by_line() {
    walk(
        "audit-session",
        &["bash", "curl", "jq"],
        &format!("set -e\n{}", commands(&read("docs/audit-session.md"))),
        &["demo.log"],
        &[
            // search
            "shop/rogue  shop/orders  GET /orders/7  403     no_allow_matched",
            "3 records",
            "shop/orders  shop/payments  allow",
            "groups of",
            "filter:1:21: there is no field mthod",
            "did you mean method?",
            "{\"class_uid\":4002,\"type_uid\":400203,\"code\":403}",
            // tap
            "deny    DELETE /orders/7  shop/web -> shop/orders  403",
            // accounts
            "EMITTER",
            "shop/web",
            " 0 missing",
            // verify, bundle, forged
            "cosigned",
            "complete, in order, and as it was signed",
            "complete, in order, and as it was signed",
            "altered",
            // prove
            "the record is what was entered, and the entry is in the signed log",
            // erase, verify
            "complete, in order, and as it was signed",
            "asked for by the person",
            // detect
            "alerts of",
        ],
    );
}
