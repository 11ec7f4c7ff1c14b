//! What the demo shows, a step at a time: what was sent, what came back, and why.
//!
//! The "why" is read from the audit trail. Every request is entered in a ledger with the records that
//! it must have left behind, and at the end the trail is held against the ledger.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;

use super::http::{Call, Reply, knock, send};
use super::mesh::{Mesh, Record, id, new_trace};
use super::policies::{MISTAKE, ORDERS};
use super::tokens::Login;
use crate::commands::END_WITH_STDIN;
use crate::exit::Failure;
use crate::output::{self, Colour, coloured};

/// A corrected policy must be in force within this time.
const EFFECTIVE: Duration = Duration::from_secs(1);

/// Whose sidecar makes a record, and on which side.
type Hop = (&'static str, &'static str);

const WEB_IN: Hop = ("web", "inbound");
const WEB_OUT: Hop = ("web", "outbound");
const ORDERS_IN: Hop = ("orders", "inbound");
const ORDERS_OUT: Hop = ("orders", "outbound");
const PAYMENTS_IN: Hop = ("payments", "inbound");
const PAYMENTS_OF_ORDERS: [Hop; 5] = [WEB_IN, WEB_OUT, ORDERS_IN, ORDERS_OUT, PAYMENTS_IN];
const ROGUE_OUT: Hop = ("rogue", "outbound");

/// A request that was sent, and the records that it must have left.
struct Sent {
    trace: String,
    hops: Vec<Hop>,
}

/// Something that the demo showed, and whether it was as it should be.
struct Shown {
    title: String,
    expected: String,
    got: String,
    fits: bool,
}

/// A request in the story.
struct Step<'a> {
    title: &'a str,
    /// Who sends it and how, in words.
    sent: &'a str,
    to: SocketAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    token: Option<&'a str>,
    expected: u16,
    hops: &'a [Hop],
}

/// The story, told once.
pub(super) struct Story<'m> {
    mesh: &'m mut Mesh,
    ledger: Vec<Sent>,
    shown: Vec<Shown>,
    /// Whether records can be asked for.
    control_is_up: bool,
}

impl<'m> Story<'m> {
    pub(super) fn new(mesh: &'m mut Mesh) -> Self {
        Self { mesh, ledger: Vec::new(), shown: Vec::new(), control_is_up: true }
    }

    /// Tells it; says whether every step gave what it should.
    pub(super) async fn tell(mut self) -> Result<bool, Failure> {
        self.identities_and_rules().await?;
        self.tokens().await?;
        self.strangers().await?;
        self.explain_and_correct().await?;
        self.without_control_plane().await?;
        self.accounts().await?;
        self.summary()
    }

    async fn identities_and_rules(&mut self) -> Result<(), Failure> {
        let token = self.mesh.login.token(600)?;
        let edge = inbound(self.mesh, "web")?;
        let web = self.mesh.workload("web")?.outbound;
        let rogue = self.mesh.workload("rogue")?.outbound;
        self.chapter("Every call has an identity, and every identity its rules")?;
        self.step(Step {
            title: "a customer with a token buys a lamp",
            sent: "from outside, with a valid token, to web; web calls orders, orders calls payments",
            to: edge,
            method: "POST",
            host: "web",
            path: "/checkout",
            token: Some(&token),
            expected: 200,
            hops: &PAYMENTS_OF_ORDERS,
        })
        .await?;
        self.step(Step {
            title: "the rogue reads an order",
            sent: "from the rogue, which has a valid certificate, through its own sidecar",
            to: rogue,
            method: "GET",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[ROGUE_OUT, ORDERS_IN],
        })
        .await?;
        self.step(Step {
            title: "web deletes an order",
            sent: "from web, which may call orders, but with another method",
            to: web,
            method: "DELETE",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[WEB_OUT, ORDERS_IN],
        })
        .await?;
        self.step(Step {
            title: "web pays itself back",
            sent: "from web to payments, which only orders may call, and on another path",
            to: web,
            method: "POST",
            host: "payments.shop",
            path: "/refund",
            token: None,
            expected: 403,
            hops: &[WEB_OUT, PAYMENTS_IN],
        })
        .await
    }

    async fn tokens(&mut self) -> Result<(), Failure> {
        let edge = inbound(self.mesh, "web")?;
        let expired = self.mesh.login.token(-600)?;
        // Same issuer and key id, another key.
        let forged = Login::new()?.token(600)?;
        self.chapter("A token is good or the request is refused")?;
        for (title, sent, token, expected) in [
            ("no token", "from outside, with no token", None, 403),
            (
                "an expired token",
                "from outside, with a token that ended ten minutes ago",
                Some(&expired),
                401,
            ),
            (
                "a wrongly signed token",
                "from outside, with a token that another key signed",
                Some(&forged),
                401,
            ),
        ] {
            self.step(Step {
                title,
                sent,
                to: edge,
                method: "POST",
                host: "web",
                path: "/checkout",
                token: token.map(String::as_str),
                expected,
                hops: &[WEB_IN],
            })
            .await?;
        }
        Ok(())
    }

    async fn strangers(&mut self) -> Result<(), Failure> {
        self.chapter("Without a certificate of the mesh there is not even HTTP")?;
        let address = inbound(self.mesh, "orders")?;
        let query = "kind=connection&emitter=shop/orders";
        let before = self.mesh.records(query).await?.len();
        let (bundle, server) = (self.mesh.bundle()?, id("orders")?);
        let alert = knock(address, bundle, server).await;
        self.title("a caller with no client certificate")?;
        said("sent", "a TLS handshake with orders, without a certificate")?;
        let got = alert.unwrap_or_else(|| "a connection".to_owned());
        said("got", &got)?;
        let expected = before + 1;
        self.mesh
            .until("the refused connection is recorded", async |mesh| {
                Ok(mesh.records(query).await?.len() >= expected)
            })
            .await?;
        let records = self.mesh.records(query).await?;
        let reason = records.last().map(|record| text(record, "picket.decision.reason").to_owned());
        let reason = reason.unwrap_or_default();
        said("why", &format!("orders denied the connection: {reason}"))?;
        let fits =
            got.contains("alert") && reason == "no_client_certificate" && records.len() == expected;
        self.show("a caller with no client certificate", "refused by TLS", "refused by TLS", fits)
    }

    async fn explain_and_correct(&mut self) -> Result<(), Failure> {
        let web = self.mesh.workload("web")?.outbound;
        self.chapter("A denial explains itself, and its correction is in force at once")?;
        self.step(Step {
            title: "web reads an order, and should be allowed to",
            sent: "from web, through its own sidecar",
            to: web,
            method: "GET",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[WEB_OUT, ORDERS_IN],
        })
        .await?;
        self.explain().await?;
        self.correct(web).await
    }

    /// `picket authz explain`, as a user would run it.
    async fn explain(&mut self) -> Result<(), Failure> {
        let policies = self.mesh.policies().display().to_string();
        let from = id("web")?;
        let arguments = [
            "authz",
            "explain",
            "--policies",
            &policies,
            "--destination",
            "shop/orders",
            "--label",
            "app=orders",
            "--from",
            from.as_str(),
            "--method",
            "GET",
            "--path",
            "/orders/7",
        ];
        self.title("explain it")?;
        said("run", "picket authz explain --policies policies/ --destination shop/orders \\")?;
        output::line(&format!(
            "            --label app=orders --from {from} --method GET --path /orders/7"
        ))?;
        let program = std::env::current_exe().map_err(|error| Failure::of(&error))?;
        let mut command = Command::new(program);
        // It has no standard input of its own to end with, if the demo is to end with its own.
        command.args(arguments).env_remove(END_WITH_STDIN);
        let run = command.output().map_err(|error| Failure::of(&error))?;
        let answer = String::from_utf8_lossy(&run.stdout);
        for line in answer.lines() {
            output::line(&format!("    {}", coloured(line, Colour::Dim)))?;
        }
        let fits = answer.starts_with("DENY")
            && answer.contains("nearest miss")
            && answer.contains(ORDERS)
            && answer.contains(MISTAKE.0);
        self.show(
            "explain it",
            "the nearest rule and what it lacks",
            "named with file and line",
            fits,
        )
    }

    /// The same request, while the file is corrected beneath it.
    async fn correct(&mut self, web: SocketAddr) -> Result<(), Failure> {
        let title = "correct the file; nothing is restarted";
        self.title(title)?;
        let path = self.mesh.policy_file(ORDERS);
        let before = fs::read_to_string(&path).map_err(|error| Failure::of(&error))?;
        let (wrong, right) = MISTAKE;
        said("edit", &format!("{ORDERS}: {wrong} becomes {right}"))?;
        fs::write(&path, before.replace(wrong, right)).map_err(|error| Failure::of(&error))?;
        let started = Instant::now();
        let (took, reply) = loop {
            let sent = Step {
                title,
                sent: "",
                to: web,
                method: "GET",
                host: "orders.shop",
                path: "/orders/7",
                token: None,
                expected: 200,
                hops: &[WEB_OUT, ORDERS_IN],
            };
            let reply = self.send(&sent).await?;
            if reply.status == StatusCode::OK || started.elapsed() > Duration::from_secs(10) {
                break (started.elapsed(), reply);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        said("got", &format!("{} {}", reply.status.as_u16(), reply.body))?;
        said(
            "why",
            &format!("the correction was in force {} ms after it was written", took.as_millis()),
        )?;
        let fits = reply.status == StatusCode::OK && took < EFFECTIVE;
        let got = format!("{} after {} ms", reply.status.as_u16(), took.as_millis());
        self.show("correct the file", "200 within 1 s", &got, fits)
    }

    async fn without_control_plane(&mut self) -> Result<(), Failure> {
        self.chapter("The control plane is killed; the mesh goes on")?;
        // So that what waits afterwards is of the time without it.
        let started = Instant::now();
        while self.waiting_records().await? > 0 && started.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.mesh.kill_control()?;
        self.control_is_up = false;
        said("run", "kill -9 of the control plane")?;
        let token = self.mesh.login.token(600)?;
        let edge = inbound(self.mesh, "web")?;
        let rogue = self.mesh.workload("rogue")?.outbound;
        self.step(Step {
            title: "without it, a customer buys a lamp",
            sent: "from outside, with a valid token",
            to: edge,
            method: "POST",
            host: "web",
            path: "/checkout",
            token: Some(&token),
            expected: 200,
            hops: &PAYMENTS_OF_ORDERS,
        })
        .await?;
        self.step(Step {
            title: "without it, the rogue reads an order",
            sent: "from the rogue",
            to: rogue,
            method: "GET",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[ROGUE_OUT, ORDERS_IN],
        })
        .await?;
        let waiting = self.waiting_records().await?;
        said("why", &format!("{waiting} records wait in the sidecars' spools"))?;
        self.mesh.start_control().await?;
        self.control_is_up = true;
        self.title("it comes back")?;
        let last: Vec<String> = self.ledger.iter().rev().take(2).map(|s| s.trace.clone()).collect();
        let started = Instant::now();
        self.mesh
            .until("the records of the time without it have arrived", async |mesh| {
                let mut arrived = 0;
                for trace in &last {
                    arrived += mesh.records(&of_trace(trace)).await?.len();
                }
                Ok(arrived == waiting)
            })
            .await?;
        said(
            "got",
            &format!(
                "all {waiting} records, {} ms after it answered",
                started.elapsed().as_millis()
            ),
        )?;
        let fits = waiting == PAYMENTS_OF_ORDERS.len() + 2;
        self.show(
            "the records of the outage",
            "7 records arrive",
            &format!("{waiting} arrived"),
            fits,
        )
    }

    /// What the sidecars say waits in their spools.
    async fn waiting_records(&self) -> Result<usize, Failure> {
        let mut waiting = 0;
        for workload in &self.mesh.workloads {
            let trace = new_trace();
            let probe = Call {
                to: workload.admin,
                method: "GET",
                host: "admin",
                path: "/metrics",
                token: None,
                trace: &trace,
            };
            let metrics = send(&probe).await.map_err(Failure::Failed)?.body;
            let line = metrics.lines().find(|l| l.starts_with("picket_audit_records_pending "));
            let value = line.and_then(|line| line.rsplit(' ').next());
            waiting += value.and_then(|value| value.parse::<usize>().ok()).unwrap_or_default();
        }
        Ok(waiting)
    }

    /// Holds the audit trail against the ledger.
    async fn accounts(&mut self) -> Result<(), Failure> {
        self.chapter("Every request is accounted for")?;
        let mut hops = 0;
        let mut missing = Vec::new();
        for sent in &self.ledger {
            let mut expected: Vec<Hop> = sent.hops.clone();
            hops += expected.len();
            let query = of_trace(&sent.trace);
            let wanted = expected.len();
            self.mesh
                .until("every record has arrived", async |mesh| {
                    Ok(mesh.records(&query).await?.len() >= wanted)
                })
                .await?;
            for record in self.mesh.records(&query).await? {
                let at = expected.iter().position(|hop| *hop == hop_of(&record));
                match at {
                    Some(position) => {
                        expected.remove(position);
                    }
                    None => missing.push(format!("an unexpected record in trace {}", sent.trace)),
                }
            }
            missing.extend(expected.iter().map(|(who, _)| format!("{who} in {}", sent.trace)));
        }
        let requests = self.ledger.len();
        said("sent", &format!("{requests} requests, over {hops} hops"))?;
        said(
            "found",
            &format!(
                "{} records: one for each hop, each request in one trace",
                hops - missing.len()
            ),
        )?;
        for problem in &missing {
            said("but", problem)?;
        }
        let got = format!("{} of {hops} hops recorded", hops - missing.len());
        self.show("the audit trail", "one record per hop", &got, missing.is_empty())
    }

    /// Sends a request of the story, shows it, and enters it in the ledger.
    async fn step(&mut self, step: Step<'_>) -> Result<(), Failure> {
        self.title(step.title)?;
        said("sent", &format!("{} {}{}  {}", step.method, step.host, step.path, step.sent))?;
        let reply = self.send(&step).await?;
        said("got", &format!("{} {}", reply.status.as_u16(), shortened(&reply.body)))?;
        let mut fits = reply.status.as_u16() == step.expected;
        if self.control_is_up {
            fits &= self.why(step.hops).await?;
        }
        let got = reply.status.as_u16().to_string();
        self.show(step.title, &step.expected.to_string(), &got, fits)
    }

    async fn send(&mut self, step: &Step<'_>) -> Result<Reply, Failure> {
        let trace = new_trace();
        let call = Call {
            to: step.to,
            method: step.method,
            host: step.host,
            path: step.path,
            token: step.token,
            trace: &trace,
        };
        let reply = send(&call).await.map_err(Failure::Failed)?;
        self.ledger.push(Sent { trace, hops: step.hops.to_vec() });
        Ok(reply)
    }

    /// Shows what the audit trail says of the last request; says whether every hop is there.
    async fn why(&mut self, hops: &[Hop]) -> Result<bool, Failure> {
        let Some(sent) = self.ledger.last() else { return Ok(false) };
        let (query, trace) = (of_trace(&sent.trace), sent.trace.clone());
        let wanted = hops.len();
        self.mesh
            .until("the request is recorded", async |mesh| {
                Ok(mesh.records(&query).await?.len() >= wanted)
            })
            .await?;
        let records = self.mesh.records(&query).await?;
        for record in records.iter().filter(|r| text(r, "picket.direction") == "inbound") {
            said("why", &words(record))?;
        }
        said("trace", &format!("{trace}, {} records", records.len()))?;
        let mut found: Vec<Hop> = records.iter().map(hop_of).collect();
        let mut expected = hops.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        Ok(found == expected)
    }

    fn chapter(&self, title: &str) -> Result<(), Failure> {
        output::line("")?;
        output::line(&coloured(title, Colour::Bold))
    }

    fn title(&self, title: &str) -> Result<(), Failure> {
        output::line(&format!(" {:>2}. {title}", self.shown.len() + 1))
    }

    fn show(&mut self, title: &str, expected: &str, got: &str, fits: bool) -> Result<(), Failure> {
        let mark = match fits {
            true => coloured("√ as it should be", Colour::Green),
            false => coloured("× not as it should be", Colour::Red),
        };
        output::line(&format!("    {mark}"))?;
        self.shown.push(Shown {
            title: title.to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
            fits,
        });
        Ok(())
    }

    fn summary(self) -> Result<bool, Failure> {
        output::line("")?;
        let rows: Vec<Vec<String>> = self
            .shown
            .iter()
            .enumerate()
            .map(|(index, shown)| {
                let mark = if shown.fits { "√" } else { "×" };
                let number = (index + 1).to_string();
                let (title, expected) = (shown.title.clone(), shown.expected.clone());
                vec![number, title, expected, shown.got.clone(), mark.to_owned()]
            })
            .collect();
        output::table(&["", "STEP", "EXPECTED", "GOT", ""], &rows)?;
        let failed = self.shown.iter().filter(|shown| !shown.fits).count();
        output::line(&match failed {
            0 => format!("All {} steps gave what they should.", self.shown.len()),
            failed => {
                format!("{failed} of {} steps did not give what they should.", self.shown.len())
            }
        })?;
        Ok(failed == 0)
    }
}

fn inbound(mesh: &Mesh, name: &str) -> Result<SocketAddr, Failure> {
    let inbound = mesh.workload(name)?.inbound;
    inbound.ok_or_else(|| Failure::Failed(format!("{name} takes no requests")))
}

fn of_trace(trace: &str) -> String {
    format!("trace={trace}&limit=5000")
}

fn said(what: &str, words: &str) -> Result<(), Failure> {
    output::line(&format!("    {what:<5} {words}"))
}

/// A text of a record; empty if it has none of that name.
pub(super) fn text<'r>(record: &'r Record, name: &str) -> &'r str {
    record.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn hop_of(record: &Record) -> Hop {
    let known = |text: &str, of: &[&'static str]| of.iter().find(|o| **o == text).copied();
    let service = known(text(record, "service.name"), &["web", "orders", "payments", "rogue"]);
    let direction = known(text(record, "picket.direction"), &["inbound", "outbound"]);
    (service.unwrap_or("?"), direction.unwrap_or("?"))
}

/// One inbound record in words.
fn words(record: &Record) -> String {
    let who = |name: &str| {
        let id = text(record, name);
        id.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("outside").to_owned()
    };
    let (source, destination) = (who("picket.source"), who("picket.destination"));
    let decision = text(record, "picket.decision");
    let policy = text(record, "picket.policy");
    let because = match (policy, record.get("picket.policy.rule").and_then(Value::as_i64)) {
        ("", _) => text(record, "picket.decision.reason").to_owned(),
        (policy, Some(rule)) => {
            format!("{policy} rule[{rule}] ({})", text(record, "picket.policy.source"))
        }
        (policy, None) => {
            format!(
                "{}, {policy} ({})",
                text(record, "picket.decision.reason"),
                text(record, "picket.policy.source")
            )
        }
    };
    let verb = if decision == "allow" { "allowed" } else { "denied" };
    let miss = text(record, "picket.decision.nearest_miss");
    let miss = if miss.is_empty() { String::new() } else { format!("; nearest miss: {miss}") };
    format!("{destination} {verb} {source}: {because}{miss}")
}

fn shortened(body: &str) -> &str {
    body.get(..body.floor_char_boundary(110)).unwrap_or(body)
}
