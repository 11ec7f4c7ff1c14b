//! The README's walk-through, done as it is written: every `sh` block after "A mesh by hand", one
//! after the other, in one shell, in an empty directory. Only the build is left out, because the
//! program under test has been built.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

/// The commands of the walk-through.
fn script() -> String {
    let text = std::fs::read_to_string(README).unwrap();
    let (_, walk) = text.split_once("## A mesh by hand").unwrap();
    let (walk, _) = walk.split_once("\n## ").unwrap();
    let blocks = walk.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let commands: String = blocks.collect();
    let built = ["cargo build --release", "export PATH=$PWD/target/release:$PATH"];
    for line in built {
        assert!(commands.contains(line), "{line:?} is not in the walk-through");
    }
    commands
        .lines()
        .filter(|line| !built.contains(line))
        .fold(String::new(), |all, line| all + line + "\n")
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

#[test]
fn the_walk_through_works_line_by_line() {
    for program in ["bash", "curl", "python3"] {
        if !is_there(program) {
            let line = format!("SKIPPED readme: needs {program}; apt-get install {program}\n");
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
        .args(["-m", "-c", &script()])
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
        if started.elapsed() > Duration::from_secs(90) {
            let pid = Pid::from_raw(shell.id().try_into().unwrap()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
            shell.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let printed = std::fs::read_to_string(&log).unwrap();
    let logs: String = ["control", "files", "client"]
        .iter()
        .map(|name| directory.path().join(format!("walk/{name}.log")))
        .map(|log| std::fs::read_to_string(log).unwrap_or_default())
        .collect();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{printed}\n{logs}");
    let mut rest = printed.as_str();
    for expected in [
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
    ] {
        let at = rest.find(expected);
        let at =
            at.unwrap_or_else(|| panic!("{expected:?} is missing in order:\n{printed}\n{logs}"));
        rest = &rest[at + expected.len()..];
    }
}
