//! What scripts rely on: exit statuses, data on standard output, words on standard error, no colours
//! where nobody sees them.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Run, picket};
use crate::mesh::{Mesh, id};
use crate::policies;

/// Commands that ask nobody, and the status that each has to end with.
#[test]
fn every_command_ends_with_its_exit_status() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let issuer = picket_testkit::Issuer::new(policies::ISSUER, "test-1");
    for name in ["good", "bad"] {
        fs::create_dir(path(name)).unwrap();
        for (file, text) in policies::files(&issuer, policies::OPEN) {
            fs::write(format!("{}/{file}", path(name)), text).unwrap();
        }
    }
    let orders = fs::read_to_string(path("good/orders.yaml")).unwrap();
    fs::write(path("bad/orders.yaml"), orders.replace("paths:", "pahts:")).unwrap();
    fs::write(path("bad.yaml"), "trustDomain: shop.example\nnonsense: 1\n").unwrap();
    let (good, bad, bad_config) = (path("good"), path("bad"), path("bad.yaml"));
    let (missing, socket) = (path("missing"), format!("unix:{}", path("no.sock")));
    let web = id("web");
    let explain = |policies, path| {
        let place = ["authz", "explain", "--policies", policies, "--destination", "shop/orders"];
        let rest = ["--label", "app=orders", "--from", web.as_str(), "--method", "GET", "--path"];
        [&place[..], &rest, &[path]].concat()
    };
    let allowed = explain(&good, "/orders/7");
    let denied = explain(&good, "/elsewhere");
    let ask = |arguments: &[&'static str]| {
        let mut all = vec!["--control".to_owned(), socket.clone()];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        all
    };
    let owned = |arguments: &[&str]| arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let export = |policies: &str| {
        let place = ["policy", "export", "--envoy", policies, "--destination", "shop/orders"];
        owned(&[&place[..], &["--label", "app=orders"]].concat())
    };
    let table: Vec<(i32, Vec<String>)> = vec![
        (0, owned(&["--help"])),
        (0, owned(&["--version"])),
        (0, owned(&["policy", "lint", &good])),
        (0, export(&good)),
        (0, owned(&allowed)),
        (0, owned(&denied)),
        (0, owned(&[&allowed[..], &["--exit-code"]].concat())),
        (4, owned(&[&denied[..], &["--exit-code"]].concat())),
        (4, owned(&[&denied[..], &["--exit-code", "-o", "json"]].concat())),
        (1, owned(&["policy", "lint", &bad])),
        (1, owned(&["policy", "lint", &bad, "-o", "json"])),
        (1, export(&bad)),
        (1, owned(&explain(&bad, "/orders/7"))),
        (1, ask(&["check"])),
        (2, owned(&[])),
        (2, owned(&["no-such-command"])),
        (2, owned(&["status", "--no-such-option"])),
        (2, export(&missing)),
        (2, owned(&["policy", "export", &good, "--destination", "shop/orders"])),
        (2, owned(&["policy", "export", "--envoy", &good, "--destination", "orders"])),
        (2, owned(&["authz", "explain", "--policies", &good])),
        (2, owned(&[&allowed[..], &["--label", "app"]].concat())),
        (2, owned(&["authz", "explain", "--policies", &good, "--requests", &missing])),
        (2, ask(&["authz", "explain", "--trace", "0a", "--custom", "deny"])),
        (2, ask(&["authz", "explain", "--decision", "0a", "--destination-ip", "10.0.0.1"])),
        (2, owned(&["proxy", "run", "--config", &missing])),
        (2, owned(&["proxy", "run", "--config", &bad_config])),
        (2, owned(&["control", "run", "--config", &bad_config])),
        (2, owned(&["--control", "carrier pigeon", "status"])),
        (2, owned(&["--control", "https://127.0.0.1:1", "status"])),
        (2, ask(&["audit", "search", "--since", "yesterday"])),
        (3, ask(&["status"])),
        (3, ask(&["audit", "search", "-o", "json"])),
        (3, ask(&["join-token", "create", "--workload", "shop/orders"])),
        (3, ask(&["join-token", "list"])),
        (2, ask(&["token", "revoke"])),
        (2, ask(&["token", "revoke", "--jti", "a", "--kid", "b"])),
        (2, ask(&["token", "revoke", "--jti", "a", "--also-later"])),
        (2, ask(&["token", "revoke", "--jti", "a", "--wait", "--timeout", "soon"])),
        (2, ask(&["token", "revoke", "--issuer", "a", "--also-later"])),
        (2, ask(&["token", "unrevoke", "a/b"])),
        (2, ask(&["certificate", "revoke"])),
        (3, ask(&["token", "revoke", "--jti", "a"])),
        (3, ask(&["token", "revocations"])),
        (3, ask(&["token", "unrevoke", "0a1b"])),
        (3, ask(&["certificate", "revoke", "--identity", "shop/web"])),
    ];
    for (status, arguments) in table {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = Run::of(&mut picket(&arguments));
        assert_eq!(run.status, status, "picket {arguments:?}: {run:?}");
        // What could not be done is no data.
        if matches!(status, 2 | 3) {
            assert_eq!(run.stdout, "", "picket {arguments:?}");
            assert_ne!(run.stderr, "", "picket {arguments:?}");
        }
    }
}

#[test]
fn with_output_json_standard_output_is_json_also_when_there_is_nothing() {
    let mesh = Mesh::start("");
    let policies = mesh.path("policies").display().to_string();
    let out = mesh.path("ana").display().to_string();
    let nothing = ["audit", "search", "--trace", "0af7651916cd43dd8448eb211c80319c"];
    assert_eq!(
        mesh.picket(&[&nothing[..], &["-o", "json"]].concat()).fine().json(),
        Value::Array(vec![])
    );
    assert_eq!(mesh.picket(&[&nothing[..], &["-o", "jsonl"]].concat()).fine().stdout, "");
    let none = mesh.picket(&["join-token", "list", "-o", "json"]).fine();
    assert_eq!(none.json(), Value::Array(vec![]));
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["status"],
        vec!["check"],
        vec!["audit", "search"],
        vec!["join-token", "create", "--workload", "shop/orders"],
        vec!["join-token", "list"],
        vec!["token", "revoke", "--jti", "a", "--wait"],
        vec!["token", "revocations"],
        vec!["certificate", "revoke", "--serial", "0a"],
        vec!["certificate", "revocations"],
        vec!["operator", "create", "--name", "ana", "--role", "viewer", "--out", &out],
        vec!["policy", "lint", &policies],
    ];
    let from = id("web");
    commands.push(vec![
        "authz",
        "explain",
        "--policies",
        &policies,
        "--destination",
        "shop/orders",
        "--label",
        "app=orders",
        "--from",
        &from,
        "--method",
        "GET",
        "--path",
        "/elsewhere",
    ]);
    for command in &commands {
        let run = mesh.picket(&[command.as_slice(), &["-o", "json"]].concat()).fine();
        assert!(run.json().is_object() || run.json().is_array(), "{command:?}");
        assert_eq!(run.stderr, "", "{command:?}");
        // The long form and the variable mean the same.
        if !command.contains(&"create") {
            assert!(
                mesh.picket(&[command.as_slice(), &["--output", "json"]].concat()).fine().json()
                    != Value::Null
            );
        }
    }
}

#[test]
fn nothing_is_coloured_where_nobody_sees_it() {
    let mesh = Mesh::start("");
    let policies = mesh.path("policies").display().to_string();
    let socket = format!("unix:{}", mesh.path("control/control.sock").display());
    let commands: [&[&str]; 6] = [
        &["status"],
        &["check"],
        &["check", "-o", "short"],
        &["audit", "search"],
        &["join-token", "list"],
        &["policy", "lint", &policies],
    ];
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = picket(arguments);
        command.env("PICKET_CONTROL", &socket).env("TERM", "xterm-256color");
        Run::of(command.env_remove("NO_COLOR").envs(variables.iter().copied())).fine()
    };
    let has_escape = |run: &Run| run.stdout.contains('\x1b') || run.stderr.contains('\x1b');
    for arguments in commands {
        assert!(!has_escape(&run(arguments, &[])), "{arguments:?}");
        let both = [("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")];
        assert!(!has_escape(&run(arguments, &both)), "{arguments:?}");
    }
    // There are colours to be left out.
    assert!(has_escape(&run(&["check"], &[("CLICOLOR_FORCE", "1")])));
    // The logs of a long-running command go to a file here.
    assert!(!mesh.control.as_ref().unwrap().log().contains('\x1b'));
}

#[test]
fn explain_answers_every_line_in_order_malformed_ones_too() {
    let directory = TempDir::new().unwrap();
    let issuer = picket_testkit::Issuer::new(policies::ISSUER, "test-1");
    let root = directory.path();
    fs::create_dir(root.join("policies")).unwrap();
    for (file, text) in policies::files(&issuer, policies::OPEN) {
        fs::write(root.join("policies").join(file), text).unwrap();
    }
    let web = id("web");
    let to = r#""destination":"shop/orders","labels":{"app":"orders"}"#;
    let lines: [(String, &str); 9] = [
        (format!(r#"{{{to},"from":"{web}","method":"GET","path":"/orders/7"}}"#), "allow"),
        (format!(r#"{{{to},"from":"{web}","method":"GET","path":"/elsewhere"}}"#), "deny"),
        ("no json at all".to_owned(), "deny"),
        ("{".to_owned(), "deny"),
        ("[]".to_owned(), "deny"),
        (format!(r#"{{{to},"from":"{web}","method":"GET","path":"/orders/7","pth":1}}"#), "deny"),
        (format!(r#"{{{to},"from":"not an id","method":"GET","path":"/orders/7"}}"#), "deny"),
        (format!(r#"{{{to},"from":"{web}","method":"GET","path":"/secret/%2e%2e%2fx"}}"#), "deny"),
        (format!(r#"{{{to},"from":"{web}","method":"GET","path":"/secret/7"}}"#), "deny"),
    ];
    let mut text: Vec<u8> =
        lines.iter().flat_map(|(line, _)| format!("{line}\n").into_bytes()).collect();
    // One that is not UTF-8, and the last one without a line end.
    text.extend(b"\xff\xfe\n");
    text.extend(lines[0].0.as_bytes());
    fs::write(root.join("requests.jsonl"), text).unwrap();
    let (policies, requests) = (root.join("policies"), root.join("requests.jsonl"));
    let mut command = picket(&["authz", "explain", "--exit-code", "--policies"]);
    let run = Run::of(command.arg(policies).arg("--requests").arg(requests));
    assert_eq!((run.status, run.stderr.as_str()), (4, ""), "{run:?}");
    let answers: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decisions: Vec<&str> = answers.iter().map(|a| a["decision"].as_str().unwrap()).collect();
    let expected: Vec<&str> =
        lines.iter().map(|(_, decision)| *decision).chain(["deny", "allow"]).collect();
    assert_eq!(decisions, expected);
    for answer in &answers {
        for key in [
            "decision",
            "stage",
            "policy",
            "rule",
            "file",
            "line",
            "reason",
            "nearest_miss",
            "dry_run",
        ] {
            assert!(answer.get(key).is_some(), "{key} is not in {answer}");
        }
        assert!(answer["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{answer}");
    }
    let [allowed, denied, secret] = [&answers[0], &answers[1], &answers[8]];
    assert_eq!((&allowed["policy"], &allowed["rule"]), (&"shop/orders".into(), &0.into()));
    assert_eq!((&allowed["file"], &allowed["line"]), (&"orders.yaml".into(), &7.into()));
    assert!(denied["nearest_miss"].is_object() || denied["nearest_miss"].is_string(), "{denied}");
    assert_eq!(secret["policy"], "shop/secret");
}
