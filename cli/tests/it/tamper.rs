//! Whoever edits the store, forks the log, swaps a key or forges a head is found out, and what was done is
//! named.
//!
//! Real processes: a control plane, two sidecars, traffic. The database is edited with SQLite while the
//! control plane is stopped, as somebody would who owns the machine but not the keys of the proxies.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use picket_testkit::{Echo, Signal, eventually};
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::app::{Call, call};
use crate::command::{Run, picket};
use crate::mesh::{Mesh, SOON, get, id};

/// A mesh that has served requests and was stopped in order.
struct House {
    mesh: Mesh,
    /// Where the command remembers what it verified.
    home: PathBuf,
}

async fn requests(mesh: &Mesh, count: usize) {
    let before = mesh.search(&["--kind", "request"]).len();
    for number in 0..count {
        let path = if number % 4 == 0 { "/admin" } else { "/orders/7" };
        call(mesh.sidecar("web").outbound, &Call::get(path)).await.unwrap();
    }
    eventually(SOON, "every request is on the record at both hops", || {
        (mesh.search(&["--kind", "request"]).len() >= before + 2 * count).then_some(())
    });
}

impl House {
    async fn build() -> (Self, Echo) {
        let echo = Echo::start().await;
        let mesh = Mesh::of_two("", echo.address());
        let home = mesh.path("home");
        (Self { mesh, home }, echo)
    }

    /// `picket audit …` with a home of its own.
    fn audit(&self, home: &Path, arguments: &[&str]) -> Run {
        let socket = self.mesh.path("control/control.sock");
        let mut command = picket(&[&["audit"], arguments].concat());
        command.env("PICKET_CONTROL", format!("unix:{}", socket.display()));
        Run::of(command.env("XDG_STATE_HOME", home))
    }

    fn verify(&self, home: &Path) -> Run {
        self.audit(home, &["verify", "-o", "json"])
    }

    fn stop_control(&mut self) {
        let mut control = self.mesh.control.take().unwrap();
        assert_eq!(control.terminate(SOON).code(), Some(0), "{}", control.log());
    }

    fn stop(&mut self) {
        for name in ["web", "orders"] {
            let process = self.mesh.process(name);
            assert_eq!(process.terminate(SOON).code(), Some(0), "{}", process.log());
        }
        self.stop_control();
    }

    fn control(&self) -> PathBuf {
        self.mesh.path("control")
    }

    fn keep(&self, name: &str) {
        copy(&self.control(), &self.mesh.path(name));
    }

    fn bring_back(&self, name: &str) {
        fs::remove_dir_all(self.control()).unwrap();
        copy(&self.mesh.path(name), &self.control());
    }

    fn database(&self) -> Connection {
        Connection::open(self.control().join("control.db")).unwrap()
    }

    /// Does something to a copy of what was stopped, starts it, and tells what a verification finds.
    fn after(&mut self, kept: &str, attack: impl FnOnce(&Self)) -> Vec<Value> {
        self.bring_back(kept);
        attack(self);
        self.mesh.start_control();
        let run = self.verify(&self.home);
        assert_eq!(run.status, 1, "{run:?}");
        let report = run.json();
        assert_eq!(report["result"], "bad");
        self.mesh.kill_control();
        report["findings"].as_array().unwrap().clone()
    }
}

/// Files of a directory, one level down as well; sockets are not taken along.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Of the findings of a kind, a part.
fn of<'f>(findings: &'f [Value], code: &str, part: &str) -> Vec<&'f Value> {
    let found = findings.iter().filter(|finding| finding["code"] == code);
    found.map(|finding| &finding[part]).collect()
}

fn codes(findings: &[Value]) -> BTreeSet<&str> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// A record of a sidecar in the middle of its lane: row, name, position in the chain.
struct Victim {
    row: i64,
    name: String,
    position: i64,
    lane: i64,
}

fn victims(database: &Connection, emitter: &str) -> Vec<Victim> {
    let mut statement = database
        .prepare(
            "SELECT records.id, boot || '-' || lane || '-' || sequence, position, lane FROM records
             JOIN emitters ON emitters.id = records.emitter
             WHERE spiffe_id = ?1 AND position > 2 AND position < (SELECT max(position) FROM records AS r
                 WHERE r.emitter = records.emitter AND r.lane = records.lane) - 2
             ORDER BY records.id",
        )
        .unwrap();
    let rows = statement.query_map([id(emitter)], |row| {
        Ok(Victim { row: row.get(0)?, name: row.get(1)?, position: row.get(2)?, lane: row.get(3)? })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn victim(database: &Connection) -> Victim {
    let mut found = victims(database, "orders");
    found.swap_remove(found.len() / 2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_to_the_store_is_named() {
    let (mut house, _echo) = House::build().await;
    requests(&house.mesh, 20).await;
    house.stop_control();
    house.keep("early");
    house.mesh.start_control();
    house.mesh.until_synced();
    requests(&house.mesh, 40).await;
    let live = house.verify(&house.home);
    assert_eq!(live.status, 0, "{live:?}");
    house.stop();
    house.keep("late");

    // Nothing was done, and it is good; also for somebody who has seen nothing before.
    house.mesh.start_control();
    for home in [house.home.clone(), house.mesh.path("stranger")] {
        let good = house.verify(&home).fine().json();
        assert_eq!((&good["result"], &good["first"]), (&Value::from("good"), &Value::from(0)));
        assert!(good["records"].as_u64().unwrap() > 120, "{good}");
        assert!(good["heads"].as_u64().unwrap() >= 2, "{good}");
        let cosigned = |w: &Value| w["cosigned"] == true && w["size"].as_u64() > Some(100);
        assert!(good["witnesses"].as_array().unwrap().iter().all(cosigned), "{good}");
    }
    let since = house.audit(&house.home, &["verify", "--since", "1h", "-o", "json"]).fine();
    assert_eq!(since.json()["result"], "good");
    house.mesh.kill_control();
    // What it remembers now is longer than what is brought back below.
    let remembers_late = house.home.clone();
    house.home = house.mesh.path("home-before");
    house.bring_back("late");
    copy(&house.mesh.path("stranger"), &house.mesh.path("unused"));

    flip(&mut house);
    drop_one(&mut house);
    reorder(&mut house);
    duplicate(&mut house);
    truncate(&mut house);
    forge_head(&mut house);
    hide_behind_retention(&mut house);

    house.home = remembers_late;
    swap_key(&mut house);
    roll_back(&mut house);
    fork(&mut house);
}

fn flip(house: &mut House) {
    let mut name = String::new();
    let findings = house.after("late", |house| {
        let database = house.database();
        let victim = victim(&database);
        let mut bytes: Vec<u8> = database
            .query_row("SELECT bytes FROM records WHERE id = ?1", [victim.row], |row| row.get(0))
            .unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        database
            .execute("UPDATE records SET bytes = ?2 WHERE id = ?1", params![victim.row, bytes])
            .unwrap();
        name = victim.name;
    });
    assert_eq!(of(&findings, "altered_record", "record"), [name.as_str()], "{findings:#?}");
    assert_eq!(codes(&findings), BTreeSet::from(["altered_record"]), "{findings:#?}");
}

fn drop_one(house: &mut House) {
    let mut dropped = None;
    let findings = house.after("late", |house| {
        let database = house.database();
        let victim = victim(&database);
        database.execute("DELETE FROM records WHERE id = ?1", [victim.row]).unwrap();
        dropped = Some(victim);
    });
    let victim = dropped.unwrap();
    assert_eq!(codes(&findings), BTreeSet::from(["missing_record"]), "{findings:#?}");
    let index = findings.iter().any(|f| f["index"] == victim.row - 1);
    let place = findings.iter().any(|f| {
        f["position"] == victim.position
            && f["lane"] == victim.lane
            && f["emitter"] == id("orders")
            && victim.name.starts_with(f["boot"].as_str().unwrap())
    });
    assert!(index && place && findings.len() == 2, "{findings:#?}");
}

fn reorder(house: &mut House) {
    let mut names = BTreeSet::new();
    let findings = house.after("late", |house| {
        let database = house.database();
        let found = victims(&database, "orders");
        let (one, other) = (&found[1], &found[found.len() - 2]);
        for (from, to) in [(one.row, -1), (other.row, one.row), (-1, other.row)] {
            database.execute("UPDATE records SET id = ?2 WHERE id = ?1", [from, to]).unwrap();
        }
        names = [one.name.clone(), other.name.clone()].into();
    });
    let named = of(&findings, "reordered_record", "record");
    let named: BTreeSet<String> = named.iter().map(|n| n.as_str().unwrap().to_owned()).collect();
    assert_eq!(named, names, "{findings:#?}");
    assert_eq!(codes(&findings), BTreeSet::from(["reordered_record"]), "{findings:#?}");
}

fn duplicate(house: &mut House) {
    let mut name = String::new();
    let findings = house.after("late", |house| {
        let database = house.database();
        let victim = victim(&database);
        database
            .execute_batch(&format!(
                "DROP INDEX records_sequence;
                 INSERT INTO records (emitter, lane, sequence, resource, bytes, position, salt)
                 SELECT emitter, lane, sequence, resource, bytes, position, salt FROM records
                 WHERE id = {}",
                victim.row
            ))
            .unwrap();
        name = victim.name;
    });
    assert_eq!(of(&findings, "duplicated_record", "record"), [name.as_str()], "{findings:#?}");
    assert_eq!(codes(&findings), BTreeSet::from(["duplicated_record"]), "{findings:#?}");
}

fn truncate(house: &mut House) {
    let mut cut = Vec::new();
    let mut first = 0;
    let findings = house.after("late", |house| {
        let database = house.database();
        let last = victims(&database, "orders").pop().unwrap();
        first = last.row;
        let mut statement = database
            .prepare(
                "SELECT spiffe_id, position FROM records JOIN emitters ON emitters.id = records.emitter
                 WHERE records.id >= ?1 AND position > 0",
            )
            .unwrap();
        let rows = statement.query_map([first], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        cut = rows.map(Result::unwrap).collect::<Vec<(String, i64)>>();
        database.execute("DELETE FROM records WHERE id >= ?1", [first]).unwrap();
    });
    assert_eq!(of(&findings, "truncated_tail", "index"), [first - 1], "{findings:#?}");
    // And each record that was cut off by its place: the heads are signed.
    let mut named: Vec<(String, i64)> = findings
        .iter()
        .filter(|f| f["code"] == "missing_record" && !f["position"].is_null())
        .map(|f| (f["emitter"].as_str().unwrap().to_owned(), f["position"].as_i64().unwrap()))
        .collect();
    named.sort();
    cut.sort();
    assert!(!cut.is_empty());
    assert_eq!(named, cut, "{findings:#?}");
}

fn forge_head(house: &mut House) {
    let findings = house.after("late", |house| {
        // Somebody who has cut a tail off would like the heads to say so.
        let changed = house
            .database()
            .execute(
                "UPDATE heads SET position = position - 1, emitted = emitted - 1 WHERE position =
                     (SELECT max(position) FROM heads AS h WHERE h.emitter = heads.emitter
                      AND h.lane = heads.lane) AND position > 1",
                [],
            )
            .unwrap();
        assert!(changed > 0);
    });
    let emitters: BTreeSet<&str> =
        of(&findings, "forged_head", "emitter").iter().map(|e| e.as_str().unwrap()).collect();
    assert!(emitters.contains(id("orders").as_str()), "{findings:#?}");
    assert_eq!(codes(&findings), BTreeSet::from(["forged_head"]), "{findings:#?}");
}

/// What is gone is no retention only because the database says so.
fn hide_behind_retention(house: &mut House) {
    let findings = house.after("late", |house| {
        house
            .database()
            .execute_batch(
                "DELETE FROM records WHERE id <= 20; DELETE FROM facts WHERE id <= 20;
                 UPDATE pruned SET through = 20, records = 20;",
            )
            .unwrap();
    });
    let indices: Vec<u64> =
        of(&findings, "missing_record", "index").iter().filter_map(|i| i.as_u64()).collect();
    assert_eq!(indices, (0..20).collect::<Vec<_>>(), "{findings:#?}");
}

fn swap_key(house: &mut House) {
    let findings = house.after("late", |house| {
        fs::remove_file(house.control().join("log-key")).unwrap();
    });
    assert!(codes(&findings).contains("swapped_key"), "{findings:#?}");
}

fn roll_back(house: &mut House) {
    let findings = house.after("early", |_| {});
    assert!(codes(&findings).contains("rolled_back_database"), "{findings:#?}");
    // The control plane itself cannot know: its database is as it was then.
}

fn fork(house: &mut House) {
    // One goes on from the copy and is looked at.
    house.bring_back("late");
    house.mesh.start_control();
    for _ in 0..20 {
        house.mesh.token("shop/one");
    }
    house.home = house.mesh.path("home-of-the-fork");
    house.verify(&house.home).fine();
    house.mesh.kill_control();
    // The other one has the same keys, the same past, and another present.
    house.bring_back("late");
    house.mesh.start_control();
    for _ in 0..40 {
        house.mesh.token("shop/other");
    }
    let run = house.verify(&house.home);
    assert_eq!(run.status, 1, "{run:?}");
    let findings = run.json()["findings"].as_array().unwrap().clone();
    assert_eq!(codes(&findings), BTreeSet::from(["forked_log"]), "{findings:#?}");
    house.mesh.kill_control();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_refuse_a_log_that_was_rolled_back() {
    let (mut house, _echo) = House::build().await;
    requests(&house.mesh, 5).await;
    house.stop_control();
    house.keep("early");
    house.mesh.start_control();
    house.mesh.until_synced();
    requests(&house.mesh, 30).await;
    let seen = |house: &House| {
        let (status, note) = get(house.mesh.sidecar("web").admin, "/witness").unwrap();
        assert_eq!(status, 200);
        note.lines().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let size = eventually(SOON, "web's sidecar has cosigned the log", || {
        Some(seen(&house)).filter(|size| *size > 60)
    });
    house.stop_control();
    house.bring_back("early");
    house.mesh.start_control();
    let acts = eventually(SOON, "the control plane has it on the record", || {
        let acts = house.mesh.search(&["--kind", "event", "--event", "picket.audit.tamper"]);
        let has = |code: &str| acts.iter().any(|a| a["picket.decision.reason"] == code);
        (has("log_rolled_back") && has("witness_refuses")).then_some(acts)
    });
    assert!(acts.iter().all(|act| act["picket.outcome"] == "refused"), "{acts:#?}");
    for name in ["web", "orders"] {
        // Each is told by itself: the first to refuse is on the record before the other one is asked.
        let admin = house.mesh.sidecar(name).admin;
        eventually(SOON, &format!("the sidecar of {name} refuses the log"), || {
            let (_, metrics) = get(admin, "/metrics").unwrap();
            metrics.lines().any(|line| line == "picket_log_refused 1").then_some(())
        });
        assert!(house.mesh.process(name).log().contains("was rolled back"));
    }
    // It goes on not being believed, and the note that the witness keeps shows it to anybody.
    assert!(seen(&house) >= size);
    let (_, note) = get(house.mesh.sidecar("web").admin, "/witness").unwrap();
    fs::write(house.mesh.path("seen"), note).unwrap();
    let known = house.mesh.path("seen").display().to_string();
    let run = house.audit(&house.home, &["verify", "--known", &known, "-o", "json"]);
    assert_eq!(run.status, 1);
    let findings = run.json()["findings"].as_array().unwrap().clone();
    let codes = codes(&findings);
    assert!(codes.contains("rolled_back_database"), "{findings:#?}");
    assert!(codes.contains("witness_refuses"), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_checks_a_proof_also_of_an_erased_record_and_refuses_a_changed_one() {
    let (house, _echo) = House::build().await;
    requests(&house.mesh, 10).await;
    let record = house.mesh.search(&["--direction", "inbound"]).remove(3);
    let name = record["id"].as_str().unwrap();
    eventually(SOON, "both sidecars have cosigned the record", || {
        let proof = house.audit(&house.home, &["prove", name, "-o", "json"]).fine().json();
        (proof["checkpoint"].as_str().unwrap().matches('\u{2014}').count() == 3).then_some(())
    });
    let python = |proof: &Value| {
        let file = house.mesh.path("proof.json");
        fs::write(&file, proof.to_string()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/audit/check_proof.py");
        Run::of(Command::new("python3").arg(script).arg(file))
    };
    let proof = house.audit(&house.home, &["prove", name, "-o", "json"]).fine().json();
    let accepted = python(&proof).fine();
    assert!(accepted.stdout.contains("ns/shop/sa/web") && accepted.stdout.contains("as it was"));
    for part in ["entry", "salt", "resource", "span", "checkpoint", "index", "size", "key"] {
        let mut changed = proof.clone();
        changed[part] = match &proof[part] {
            Value::String(text) => {
                let at = text.len() / 2;
                let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
                format!("{}{other}{}", &text[..at], &text[at + 1..]).into()
            }
            number => (number.as_u64().unwrap() + 1).into(),
        };
        let refused = python(&changed);
        assert_ne!(refused.status, 0, "{part}: {refused:?}");
    }

    let before = house.verify(&house.home).fine().json();
    let done =
        house.audit(&house.home, &["erase", name, "--reason", "case 7", "-o", "json"]).fine();
    assert_eq!(done.json()["erased"], serde_json::json!([name]));
    assert_eq!(house.audit(&house.home, &["erase", name, "--reason", "again"]).status, 1);
    assert!(house.mesh.search(&["--id", name]).is_empty());
    let after = house.verify(&house.home).fine().json();
    assert_eq!((&before["erased"], &after["erased"]), (&Value::from(0), &Value::from(1)));
    let proof = house.audit(&house.home, &["prove", name, "-o", "json"]).fine().json();
    assert!(proof.get("span").is_none() && proof.get("salt").is_none());
    assert!(python(&proof).fine().stdout.contains("erased"));
    let acts = house.mesh.search(&["--kind", "event", "--event", "audit.erase"]);
    assert_eq!(acts.len(), 1);
    assert_eq!(acts[0]["picket.subject"], *name);

    // The same from a file, without asking anybody; a line that is taken out or changed is named.
    let bundle = house.mesh.path("trail.jsonl");
    let path = bundle.display().to_string();
    house.audit(&house.home, &["bundle", "--out", &path]).fine();
    let offline = |home: &Path| house.audit(home, &["verify", "--offline", &path, "-o", "json"]);
    assert_eq!(offline(&house.home).fine().json()["erased"], 1);
    let text = fs::read_to_string(&bundle).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let record = lines.iter().rposition(|line| line.contains("\"type\":\"record\"")).unwrap();
    for (changed, code) in [
        (lines.iter().take(record).copied().collect::<Vec<_>>(), "truncated_bundle"),
        (
            lines.iter().map(|l| if *l == lines[record] { lines[record - 1] } else { l }).collect(),
            "duplicated_record",
        ),
    ] {
        fs::write(&bundle, changed.join("\n")).unwrap();
        let run = offline(&house.home);
        assert_eq!(run.status, 1, "{run:?}");
        let findings = run.json()["findings"].as_array().unwrap().clone();
        assert!(codes(&findings).contains(code), "{code}: {findings:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emitter_that_falls_silent_shows_and_one_that_ends_in_order_does_not() {
    let echo = Echo::start().await;
    let mut mesh = Mesh::of_two("registry: {lease: 10s}", echo.address());
    let silence = |mesh: &Mesh, outcome: &str| {
        let mut acts = mesh.search(&["--kind", "event", "--event", "picket.audit.silent"]);
        acts.retain(|act| act["picket.outcome"] == outcome);
        acts
    };
    // Web ends in order; orders is there and says nothing any more.
    assert_eq!(mesh.process("web").terminate(SOON).code(), Some(0));
    mesh.process("orders").signal(Signal::STOP);
    let told = eventually(2 * SOON, "the silence of orders is on the record", || {
        Some(silence(&mesh, "refused")).filter(|told| !told.is_empty())
    });
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["picket.subject"], *id("orders"));
    mesh.process("orders").signal(Signal::CONT);
    eventually(SOON, "that it is heard of again is on the record", || {
        (silence(&mesh, "granted").len() == 1).then_some(())
    });
    assert_eq!(silence(&mesh, "refused").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_accounted_for_and_what_is_missing_shows() {
    let (mut house, _echo) = House::build().await;
    requests(&house.mesh, 25).await;
    let accounts = |house: &House| house.audit(&house.home, &["accounts", "-o", "json"]);
    let of = |accounts: &Value, emitter: &str| {
        let mut all = accounts["emitters"].as_array().unwrap().iter();
        all.find(|e| e["emitter"] == id(emitter)).unwrap()["total"].clone()
    };
    let whole = eventually(SOON, "everything has come", || {
        let accounts = accounts(&house).fine().json();
        (of(&accounts, "orders")["open"] == 0 && of(&accounts, "web")["open"] == 0)
            .then_some(accounts)
    });
    for emitter in ["orders", "web"] {
        let total = of(&whole, emitter);
        assert_eq!(total["emitted"], total["stored"], "{total}");
        assert!(total["emitted"].as_u64().unwrap() >= 25, "{total}");
        eventually(SOON, "it is what the sidecar itself counts", || {
            let emitted = house.mesh.status_of(emitter)["audit"]["emitted"].as_u64();
            (emitted == total["emitted"].as_u64()).then_some(())
        });
    }
    // Somebody cuts three records off, and tells the books.
    house.stop();
    let database = house.database();
    let last = victims(&database, "orders").pop().unwrap();
    let cut = database
        .execute(
            "UPDATE lanes SET position = ?2, stored = stored - 3, updated_at = 0, hash = NULL
             WHERE lane = ?1 AND emitter = (SELECT emitter FROM records WHERE id = ?3)",
            [last.lane, last.position - 1, last.row],
        )
        .unwrap();
    assert_eq!(cut, 1);
    database.execute("UPDATE heads SET received_at = 0", []).unwrap();
    drop(database);
    house.mesh.start_control();
    let missing = accounts(&house);
    assert_eq!(missing.status, 1, "{missing:?}");
    let places = missing.json()["missing"].as_array().unwrap().clone();
    assert_eq!(places.len(), 1, "{places:?}");
    assert_eq!(places[0]["first"], last.position, "{places:?}");
    eventually(SOON, "the gap is on the record, once", || {
        let acts = house.mesh.search(&["--kind", "event", "--event", "picket.audit.gap"]);
        (acts.len() == 1 && acts[0]["picket.subject"] == id("orders")).then_some(())
    });
    let check = house.mesh.picket(&["check", "-o", "json"]);
    assert_eq!(check.status, 1);
    assert!(check.stdout.contains("are missing"), "{}", check.stdout);
}
